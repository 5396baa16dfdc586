"""How far the counts of a window are from those of the reference. Pure.

Both vectors count one feature over the same data bins (with the `other` bin, where the feature has it). Bins too thin
to compare are joined first (`regroup`), and what is left is smoothed by half a count spread like both vectors together
(`smoothed`): half a count in every bin alone would reject nearly every window of a skewed feature.

Without drift PSI is about 8 JS^2, about 8 Hellinger^2, and about (1/n + 1/m) chi-square with groups - 1 degrees.
"""

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

LEAST_EXPECTED: Final = 5.0
"""In either vector, of a bin that is compared by itself: Cochran's rule for the chi-square law to hold."""
SMOOTHING: Final = 0.5

Counts = NDArray[np.int64]
Shares = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Distances:
    """All distances of one feature in one window; all finite, 0 = the same.

    Attributes:
        groups: bins left after regrouping; 1 = nothing to compare.
        psi: population stability index, natural logarithm.
        js: Jensen-Shannon distance (the root), natural logarithm, at most sqrt(ln 2) = 0.8326.
        hellinger: 0..1.
        tvd: total variation, half the sum of differences of shares, 0..1.
        linf: largest difference of shares, 0..1.
        chi_square: Pearson's statistic of homogeneity of the counts as they are, groups - 1 degrees.
        ks: largest difference of the cumulated shares at bin edges, 0..1; None for categories.
        wasserstein: earth mover's distance in the feature's units, rows spread evenly in their bin; None without edges.
    """

    groups: int
    psi: float
    js: float
    hellinger: float
    tvd: float
    linf: float
    chi_square: float
    ks: float | None
    wasserstein: float | None


def distances(reference: Counts, current: Counts, ordered: bool, edges: Shares | None = None) -> Distances:
    """All distances of one feature.

    Args:
        reference: int64 (bins,), not negative.
        current: int64 (bins,), not negative.
        ordered: neighbouring bins are near each other (numbers), or not (categories).
        edges: float64 (bins + 1,), ascending, finite; for Wasserstein.

    Raises:
        ValueError: vectors of different lengths, or a negative count.
    """
    groups = regroup(reference, current, ordered)
    before, now = grouped(reference, groups), grouped(current, groups)
    p, q = smoothed(before, now)
    wide = smoothed(_floats(reference), _floats(current)) if ordered else None
    return Distances(
        len(before),
        psi(p, q),
        js(p, q),
        hellinger(p, q),
        tvd(p, q),
        linf(p, q),
        chi_square(before, now),
        None if wide is None else ks(*wide),
        None if wide is None or edges is None else wasserstein(*wide, edges),
    )


# ---- bins ----


def regroup(reference: Counts, current: Counts, ordered: bool, least: float = LEAST_EXPECTED) -> NDArray[np.intp]:
    """Which group each bin joins, so that each group expects at least `least` rows in both vectors.

    Expected under "no drift", from both vectors together, which says nothing about how they differ. The thinnest group
    joins its thinner neighbour (ordered) or the next thinnest one (not ordered), until none is thin. Where the
    vectors cannot be compared at all, everything is one group.

    Returns:
        intp (bins,): 0..groups-1; ascending where ordered, else by the first bin of each group.

    Raises:
        ValueError: vectors of different lengths, or a negative count.
    """
    before, now = _floats(reference), _floats(current)
    if before.shape != now.shape or before.ndim != 1:
        raise ValueError(f"expected two vectors of one length, got {before.shape} and {now.shape}")
    if before.min(initial=0.0) < 0.0 or now.min(initial=0.0) < 0.0:
        raise ValueError("counts: expected none below 0")
    smaller = min(before.sum(), now.sum())
    if not smaller:
        return np.zeros(len(before), np.intp)
    expected = (before + now) / (before.sum() + now.sum()) * smaller
    if expected.min() >= least:
        return np.arange(len(before))
    joined = _joined([(float(size), [at]) for at, size in enumerate(expected)], ordered, least)
    found = np.zeros(len(before), np.intp)
    for group, members in enumerate(sorted(joined, key=min)):
        found[members] = group
    return found


def _joined(sets: list[tuple[float, list[int]]], ordered: bool, least: float) -> list[list[int]]:
    """Sets of (size, bins), the thin ones joined to others."""
    while len(sets) > 1:
        thin = min(range(len(sets)), key=lambda at: sets[at][0])
        if sets[thin][0] >= least:
            break
        others = [at for at in (thin - 1, thin + 1) if 0 <= at < len(sets)] if ordered else range(len(sets))
        other = min((at for at in others if at != thin), key=lambda at: sets[at][0])
        first, second = sorted((thin, other))
        sets[first] = (sets[first][0] + sets[second][0], sets[first][1] + sets[second][1])
        del sets[second]
    return [members for _, members in sets]


def grouped(counts: Counts, groups: NDArray[np.intp]) -> Shares:
    """Counts per group, as float64 (groups,): sums of huge counts do not wrap."""
    return np.bincount(groups, _floats(counts)).astype(np.float64)


def smoothed(reference: Shares, current: Shares) -> tuple[Shares, Shares]:
    """Shares of two vectors of counts, each of which is given half a count, spread as both together are.

    A bin that both vectors lack stays empty in both; an empty vector is taken to be like the other one.

    Returns:
        float64 (groups,) twice, each of sum 1; all zeros if both vectors are empty.
    """
    both = reference.sum() + current.sum()
    if not both:
        return np.zeros_like(reference), np.zeros_like(current)
    extra = SMOOTHING * (reference + current) / both
    return (reference + extra) / (reference.sum() + SMOOTHING), (current + extra) / (current.sum() + SMOOTHING)


def _floats(counts: NDArray[Any]) -> Shares:
    return np.asarray(counts, np.float64)


# ---- distances of shares ----
# p and q: float64 (groups,), of sum 1; a group is empty in both or in neither, as `smoothed` leaves them.


def psi(p: Shares, q: Shares) -> float:
    """Population stability index: sum of (p - q) ln(p / q); finite where both are smoothed."""
    some = (p > 0.0) & (q > 0.0)
    return float(np.sum((p[some] - q[some]) * np.log(p[some] / q[some])))


def js(p: Shares, q: Shares) -> float:
    """Jensen-Shannon distance: root of the mean divergence from the mean of both, natural logarithm."""
    return math.sqrt(max(0.0, (_divergence(p, (p + q) / 2.0) + _divergence(q, (p + q) / 2.0)) / 2.0))


def _divergence(p: Shares, q: Shares) -> float:
    some = p > 0.0
    return float(np.sum(p[some] * np.log(p[some] / q[some])))


def hellinger(p: Shares, q: Shares) -> float:
    """Hellinger distance, 0..1."""
    return min(1.0, math.sqrt(float(np.sum((np.sqrt(p) - np.sqrt(q)) ** 2)) / 2.0))


def tvd(p: Shares, q: Shares) -> float:
    """Total variation distance, 0..1."""
    return min(1.0, float(np.sum(np.abs(p - q))) / 2.0)


def linf(p: Shares, q: Shares) -> float:
    """Largest difference of one share, 0..1."""
    return float(np.max(np.abs(p - q), initial=0.0))


def ks(p: Shares, q: Shares) -> float:
    """Largest difference of cumulated shares at the edges of bins: at most the exact Kolmogorov-Smirnov distance."""
    return min(1.0, float(np.max(np.abs(np.cumsum(p - q)), initial=0.0)))


def wasserstein(p: Shares, q: Shares, edges: Shares) -> float:
    """Earth mover's distance in the units of `edges` (bins + 1,), mass spread evenly within a bin.

    The difference of the two distribution functions is straight within a bin, so the area is a sum of trapezoids, or
    of two triangles where it crosses zero. Cut off at the largest float.
    """
    right = np.cumsum(p - q)
    left = np.concatenate(([0.0], right[:-1]))
    a, b = np.abs(left), np.abs(right)
    crosses = left * right < 0.0
    height = np.where(crosses, (a**2 + b**2) / np.where(crosses, a + b, 1.0), a + b) / 2.0
    with np.errstate(over="ignore"):
        # Halves first: the width of a bin from -max to max is no float.
        area = 2.0 * np.sum(height * (edges[1:] / 2.0 - edges[:-1] / 2.0))
    return float(np.minimum(area, np.finfo(np.float64).max))


def chi_square(reference: Shares, current: Shares) -> float:
    """Pearson's statistic of homogeneity of two vectors of counts; 0 if one of them is empty."""
    m, n = reference.sum(), current.sum()
    if not m or not n:
        return 0.0
    some = reference + current > 0.0
    x, y = reference[some], current[some]
    # The difference of shares, squared, over its variance: the same sum as over both rows of expected counts.
    return float(np.sum((x / m - y / n) ** 2 / (x + y)) * m * n)


def g_statistic(reference: Shares, current: Shares) -> float:
    """Twice the log likelihood ratio of homogeneity of two vectors of counts; 0 if one of them is empty."""
    m, n = reference.sum(), current.sum()
    if not m or not n:
        return 0.0
    pooled = (reference + current) / (m + n)
    return max(0.0, float(2.0 * (m * _divergence(reference / m, pooled) + n * _divergence(current / n, pooled))))


def power_divergence(reference: Shares, current: Shares, power: float) -> float:
    """Cressie and Read's statistic (1984) of homogeneity of two vectors of counts; 0 if one of them is empty.

    Power 1 is Pearson's (`chi_square`), towards 0 it becomes `g_statistic`.
    """
    m, n = reference.sum(), current.sum()
    if not m or not n:
        return 0.0
    some = reference + current > 0.0
    share = (reference + current)[some] / (m + n)
    counts = np.stack([reference[some], current[some]])
    expected = np.stack([m * share, n * share])
    terms = counts * ((counts / expected) ** power - 1.0)
    return max(0.0, 2.0 / (power * (power + 1.0)) * float(terms.sum()))
