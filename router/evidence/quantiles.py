"""Quantiles from counts, for display: an interval for one, and a two-sample sequential test. Pure.

For every x, each variant's share of values up to x is tested against q with a beta-binomial mixture; were some x the q
quantile of both, neither would be refused there. So p = exp(-min over x of the sum of both log mixtures), valid at any
time, for both variants drawn from one distribution each.

It decides nothing: values pooled over a ramp are not drawn from one distribution (identical variants are told apart in
97-100 % of ramps with a shared slowdown), so use it per revision. Latency is judged by the event-share e-process on
"slower than T".

Source: Howard and Ramdas, "Sequential estimation of quantiles with applications to A/B testing" (2022).
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence

from router.evidence.checks import check_open
from router.evidence.sequences import BetaBinomial, Interval

Share = tuple[float, float]


def quantile_p_of_values(a: Sequence[float], b: Sequence[float], q: float, t_opt: float = 100.0) -> float:
    """p-value of "both variants have the same q quantile", from their values. 1 when either is empty.

    Args:
        t_opt: number of values at which it is most sensitive.

    Raises:
        ValueError: q outside 0..1, or values that are not numbers.
    """
    if any(math.isnan(value) for value in (*a, *b)):
        raise ValueError("values: expected numbers, got NaN")
    first, second = sorted(a), sorted(b)
    candidates = sorted({*first, *second})
    shares = ((_share(first, x), _share(second, x)) for x in candidates)
    return _p(shares, len(first), len(second), q, t_opt)


def quantile_p_of_histograms(a: Sequence[int], b: Sequence[int], q: float, t_opt: float = 100.0) -> float:
    """p-value of "both variants have the same q quantile", from counts in the same buckets.

    Within a bucket each variant is given whatever share suits the null best, so it errs towards 1.

    Raises:
        ValueError: unequal lengths, negative counts, or q outside 0..1.
    """
    if len(a) != len(b) or min((*a, *b), default=0) < 0:
        raise ValueError(f"expected counts of at least 0 in equal buckets, got {len(a)} and {len(b)} buckets")
    return _p(zip(_shares(a), _shares(b), strict=True), sum(a), sum(b), q, t_opt)


def quantile_of_histogram(counts: Sequence[int], edges: Sequence[float], q: float) -> float:
    """Upper edge of the bucket that holds the q quantile; NaN without counts.

    Args:
        edges: upper edge of each bucket, rising.

    Raises:
        ValueError: not one edge per count, or q outside 0..1.
    """
    check_open(q, "q", 1.0)
    if len(counts) != len(edges):
        raise ValueError(f"expected one edge per bucket, got {len(edges)} for {len(counts)}")
    wanted, seen = q * sum(counts), 0
    for count, edge in zip(counts, edges, strict=True):
        seen += count
        if count and seen >= wanted:
            return edge
    return math.nan


def quantile_interval(
    counts: Sequence[int], edges: Sequence[float], q: float, alpha: float, t_opt: float = 1000.0
) -> Interval:
    """Confidence sequence of the q quantile from counts: it is above `low` and up to `high`, at all times together.

    At each edge the share of values up to it is tested against q with the two-sided beta-binomial mixture; where it is
    refused as too small the quantile lies above, where as too large not above. Alpha is not divided among edges. Let B
    be how many of n values lie up to their quantile if values have no ties, a sum of n tosses with chance q: counts up
    to edges from the quantile on are at least B, counts up to edges below it at most B. So a wrong limit needs a B that
    the mixture refuses, at any time: alpha in all (Howard and Ramdas 2022). For values that stand for
    themselves and are drawn from one distribution.

    Args:
        edges: upper edge of each bucket, rising; the last may be infinite.
        t_opt: number of values at which it is narrowest.

    Raises:
        ValueError: not one edge per count, negative counts, q or alpha outside 0..1, or too small a `t_opt`.
    """
    check_open(q, "q", 1.0)
    check_open(alpha, "alpha", 1.0)
    if len(counts) != len(edges) or min(counts, default=0) < 0:
        raise ValueError(f"expected one count of at least 0 per edge, got {len(counts)} for {len(edges)} edges")
    mixture, n = BetaBinomial(t_opt * q * (1.0 - q), q, 1.0 - q), sum(counts)
    low, seen = -math.inf, 0
    for count, edge in zip(counts, edges, strict=True):
        seen += count
        over = seen - q * n
        if mixture.log_e(over, q * (1.0 - q) * n) < -math.log(alpha):
            continue
        if over > 0.0:
            return Interval(low, edge)
        low = edge
    return Interval(low, math.inf)


def log_edges(lowest: float, highest: float, step: float = 1.01) -> tuple[float, ...]:
    """Upper edges of log-spaced buckets from `lowest` up to at least `highest`, each `step` times the one before.

    Raises:
        ValueError: not 0 < lowest < highest < infinity, or a step of at most 1.
    """
    if not (0.0 < lowest < highest < math.inf) or not step > 1.0:
        raise ValueError(f"expected 0 < lowest < highest and a step above 1, got {lowest}, {highest}, {step}")
    buckets = math.ceil(math.log(highest / lowest) / math.log(step) - 1e-9)
    return tuple(lowest * step**i for i in range(buckets + 1))


def _share(values: Sequence[float], x: float) -> Share:
    """Shares of values below x and up to x."""
    n = max(1, len(values))
    return bisect_left(values, x) / n, bisect_right(values, x) / n


def _shares(counts: Sequence[int]) -> list[Share]:
    n, seen, shares = max(1, sum(counts)), 0, []
    for count in counts:
        shares.append((seen / n, (seen + count) / n))
        seen += count
    return shares


def _p(shares: Iterable[tuple[Share, Share]], n_a: int, n_b: int, q: float, t_opt: float) -> float:
    check_open(q, "q", 1.0)
    mixture = BetaBinomial(t_opt * q * (1.0 - q), q, 1.0 - q)
    if not n_a or not n_b:
        return 1.0

    def log_e(share: Share, n: int) -> float:
        nearest = min(max(q, share[0]), share[1])
        return mixture.log_e((nearest - q) * n, q * (1.0 - q) * n)

    least = min(log_e(a, n_a) + log_e(b, n_b) for a, b in _between(shares, q))
    return min(1.0, math.exp(-least))


def _between(shares: Iterable[tuple[Share, Share]], q: float) -> list[tuple[Share, Share]]:
    """Those x that lie between the two variants' own quantiles: outside, both sums only grow."""
    every = list(shares)
    inner = [pair for pair in every if max(pair[0][1], pair[1][1]) >= q and min(pair[0][0], pair[1][0]) <= q]
    return inner or every
