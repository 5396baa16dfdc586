"""The distances of Evidently and NannyML, with their binning, computed from rows. Pure.

For whoever moves from one of them and wants to see the figures he knows: from rows and off the path. Nothing here
decides; see `distances` and `significance` for what does. Kept are quirks, too, each said where it is. Versions that
these agree with are in tests/parity/golden.json.

Columns are one-dimensional arrays without missing values, numbers as float64, categories of any sortable dtype.
"""

import math
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from router.evidence.special import chi_square_above, log_normal_below

EVIDENTLY_FEW_VALUES: Final = 20
EVIDENTLY_EXACT_TO: Final = 10_000
"""Rows of either sample up to which `ks` is exact."""
NANNYML_ESTIMATES_FROM: Final = 10_000
NANNYML_BINS: Final = 10_000

Column = NDArray[Any]
Shares = NDArray[np.float64]


def _by_value(reference: Column, current: Column) -> tuple[Shares, Shares]:
    """Counts of each value that one of them has."""
    values, at = np.unique(np.concatenate([reference, current]), return_inverse=True)
    before = np.bincount(at[: len(reference)], minlength=len(values)).astype(np.float64)
    return before, np.bincount(at[len(reference) :], minlength=len(values)).astype(np.float64)


def _by_bin(column: Column, edges: Shares) -> Shares:
    return np.histogram(column, edges)[0].astype(np.float64)


def _entropy(p: Shares, q: Shares) -> float:
    some = p > 0.0
    return float(np.sum(p[some] * np.log(p[some] / q[some])))


def _js(p: Shares, q: Shares, base: float) -> float:
    """Jensen-Shannon distance; shares are made to sum to 1."""
    p, q = p / p.sum(), q / q.sum()
    middle = (p + q) / 2.0
    return math.sqrt(max(0.0, (_entropy(p, middle) + _entropy(q, middle)) / 2.0 / math.log(base)))


def wasserstein_exact(reference: Column, current: Column) -> float:
    """Earth mover's distance of two samples: the area between their distribution functions."""
    everything = np.sort(np.concatenate([reference, current]))
    before = np.searchsorted(np.sort(reference), everything[:-1], side="right") / len(reference)
    now = np.searchsorted(np.sort(current), everything[:-1], side="right") / len(current)
    return float(np.sum(np.abs(before - now) * np.diff(everything)))


def ks_exact(reference: Column, current: Column) -> float:
    """Largest distance of two samples' distribution functions."""
    everything = np.concatenate([reference, current])
    before = np.searchsorted(np.sort(reference), everything, side="right") / len(reference)
    now = np.searchsorted(np.sort(current), everything, side="right") / len(current)
    return float(np.max(np.abs(before - now)))


def ks_above(m: int, n: int, distance: float) -> float:
    """Probability that samples of m and n rows of one continuous law are at least so far apart (Hodges 1958).

    The rows in order are a path of m steps one way and n the other, all paths alike. By the number of steps: the
    probability that a path that comes to a place was too far out before, or there.
    """
    least = round(distance * math.lcm(m, n)) * math.gcd(m, n)
    i = np.arange(m + 1)
    outside = np.full(m + 1, float(least == 0))
    for steps in range(1, m + n + 1):
        j = steps - i
        outside = (np.concatenate([[0.0], outside[:-1]]) * i + outside * j) / steps
        outside[np.abs(i * n - j * m) >= least] = 1.0
        outside[(j < 0) | (j > n)] = 0.0
    return float(outside[m])


# ---- Evidently ----


def evidently_shares(reference: Column, current: Column, numeric: bool, fill: bool = True) -> tuple[Shares, Shares]:
    """Its bins: of Sturges over both samples together, so they move with each window; else one for each value.

    Args:
        numeric: has bins if the reference has more than 20 values.
        fill: an empty bin gets 0.0001, or a millionth of the smallest share if one is that small; sums pass 1 then.
    """
    if numeric and len(np.unique(reference)) > EVIDENTLY_FEW_VALUES:
        edges = np.histogram_bin_edges(np.concatenate([reference, current]), bins="sturges")
        p, q = _by_bin(reference, edges), _by_bin(current, edges)
    else:
        p, q = _by_value(reference, current)
    p, q = p / len(reference), q / len(current)
    return (_filled(p), _filled(q)) if fill else (p, q)


def _filled(shares: Shares) -> Shares:
    least = shares[shares > 0.0].min()
    return np.where(shares == 0.0, least / 1e6 if least <= 1e-4 else 1e-4, shares)


def evidently_psi(reference: Column, current: Column, numeric: bool) -> float:
    """`psi`: drift from 0.1."""
    p, q = evidently_shares(reference, current, numeric)
    return float(np.sum((p - q) * np.log(p / q)))


def evidently_kl(reference: Column, current: Column, numeric: bool) -> float:
    """`kl_div`: divergence of the window from the reference, both made to sum to 1; drift from 0.1."""
    p, q = evidently_shares(reference, current, numeric)
    return _entropy(p / p.sum(), q / q.sum())


def evidently_js(reference: Column, current: Column, numeric: bool) -> float:
    """`jensenshannon`: natural logarithm, at most 0.8326; drift from 0.1."""
    return _js(*evidently_shares(reference, current, numeric, fill=False), math.e)


def evidently_hellinger(reference: Column, current: Column, numeric: bool) -> float:
    """`hellinger`: drift from 0.1. Bins of numbers are those of Sturges over the set of values, not over the rows."""
    if not numeric:
        p, q = _by_value(reference, current)
        overlap = np.sum(np.sqrt(p / len(reference) * (q / len(current))))
        return math.sqrt(1.0 - min(1.0, float(overlap)))
    edges = np.histogram_bin_edges(np.unique(np.concatenate([reference, current])), bins="sturges")
    p, q = (np.histogram(column, edges, density=True)[0] for column in (reference, current))
    width = (edges[-1] - edges[0]) / (len(edges) - 1)
    return math.sqrt(1.0 - min(1.0, float(np.sum(np.sqrt(p * q)) * width)))


def evidently_wasserstein(reference: Column, current: Column) -> float:
    """`wasserstein`: in standard deviations of the reference, of at least 0.001; drift from 0.1."""
    return wasserstein_exact(reference, current) / max(float(np.std(reference)), 0.001)


def evidently_ks(reference: Column, current: Column) -> float:
    """`ks`: p-value, exact as there up to EVIDENTLY_EXACT_TO rows; drift up to 0.05."""
    return ks_above(len(reference), len(current), ks_exact(reference, current))


def evidently_chi_square(reference: Column, current: Column) -> float:
    """`chisquare`: p-value that takes the reference as exact, so a value new to it makes 0; drift below 0.05."""
    before, now = _by_value(reference, current)
    expected = before * (len(current) / len(reference))
    if np.any(expected == 0.0):
        return 0.0
    return chi_square_above(float(np.sum((now - expected) ** 2 / expected)), len(before) - 1)


def evidently_z(reference: Column, current: Column) -> float:
    """`z`: p-value of the share of rows other than the least value; drift below 0.05."""
    before, now = _by_value(reference, current)
    if len(before) == 1:
        return 1.0
    m, n = len(reference), len(current)
    p, q = (m - before[0]) / m, (n - now[0]) / n
    pooled = (p * m + q * n) / (m + n)
    z = abs(p - q) / math.sqrt(pooled * (1.0 - pooled) * (1.0 / m + 1.0 / n))
    return 2.0 * math.exp(log_normal_below(-z))


def evidently_default(
    rows: int, values: int, numeric: bool
) -> Literal["ks", "z", "chisquare", "wasserstein", "jensenshannon"]:
    """Which of them it takes: by rows of the reference alone, and different values in both samples."""
    few = not numeric or values <= 5
    if rows > 1_000:
        return "jensenshannon" if few else "wasserstein"
    if not few:
        return "ks"
    return "chisquare" if values > 2 else "z"


# ---- NannyML ----


def nannyml_shares(reference: Column, current: Column, numeric: bool) -> tuple[Shares, Shares]:
    """Its bins: of Doane over the reference, or its values; what falls outside is one more bin, if there is any."""
    if numeric:
        edges = np.histogram_bin_edges(reference.astype(np.float64), bins="doane")
        p, q = _by_bin(reference, edges), _by_bin(current, edges)
    else:
        p, q = _by_value(reference, current)
        p, q = p[p > 0.0], q[p > 0.0]
    p, q = p / len(reference), q / len(current)
    rest = 1.0 - float(np.sum(q))
    # As it is there: rounding alone may make the bin. It changes nothing that can be seen.
    return (np.append(p, 0.0), np.append(q, rest)) if rest > 0.0 else (p, q)


def nannyml_js(reference: Column, current: Column, numeric: bool) -> float:
    """`jensen_shannon`: logarithm to base 2, 0..1."""
    return _js(*nannyml_shares(reference, current, numeric), 2.0)


def nannyml_hellinger(reference: Column, current: Column, numeric: bool) -> float:
    """`hellinger`, 0..1."""
    p, q = nannyml_shares(reference, current, numeric)
    return math.sqrt(float(np.sum((np.sqrt(p) - np.sqrt(q)) ** 2))) / math.sqrt(2.0)


def nannyml_l_infinity(reference: Column, current: Column) -> float:
    """`l_infinity` of categories, 0..1."""
    p, q = _by_value(reference, current)
    return float(np.max(np.abs(p / len(reference) - q / len(current))))


def nannyml_chi_square(reference: Column, current: Column) -> tuple[float, float]:
    """`chi2` of categories: statistic and p-value; with Yates' correction where there are two. Alert below 0.05."""
    counts = np.stack(_by_value(reference, current))
    degrees = counts.shape[1] - 1
    if not degrees:
        return 0.0, 1.0
    expected = counts.sum(axis=1, keepdims=True) * counts.sum(axis=0) / counts.sum()
    apart = np.abs(counts - expected)
    if degrees == 1:
        apart = apart - np.minimum(0.5, apart)
    statistic = float(np.sum(apart**2 / expected))
    return statistic, chi_square_above(statistic, degrees)


def nannyml_ks(reference: Column, current: Column) -> float:
    """`kolmogorov_smirnov`: exact below 10,000 rows of reference, then over 10,000 bins of equal width."""
    if len(reference) < NANNYML_ESTIMATES_FROM:
        return ks_exact(reference, current)
    edges = np.linspace(reference.min(), reference.max(), NANNYML_BINS + 1)
    before = np.cumsum(_by_bin(reference, edges) / len(reference))
    now = np.sum(current < edges[0]) / len(current) + np.cumsum(_by_bin(current, edges) / len(current))
    return float(np.max(np.abs(before - now)))


def nannyml_wasserstein(reference: Column, current: Column) -> float:
    """`wasserstein`: exact below 10,000 rows of reference, then over 10,000 bins of equal width.

    Quirk kept: a tail outside the reference weighs as if it had one row more.
    """
    if len(reference) < NANNYML_ESTIMATES_FROM:
        return wasserstein_exact(reference, current)
    counts, edges = np.histogram(reference, bins=NANNYML_BINS)
    low, high = current[current < edges[0]], current[current > edges[-1]]
    below = (len(low) + 1) / len(current) if len(low) else 0.0
    above = (len(high) + 1) / len(current) if len(high) else 0.0
    before = np.cumsum(counts / len(reference))
    now = np.cumsum(_by_bin(current, edges) / len(current)) + below
    inside = float(np.sum(np.abs(before - now) * (edges[1] - edges[0])))
    return inside + below * _tail(edges[0] - low) + above * _tail(high - edges[-1])


def _tail(distances: Shares) -> float:
    """Mean way of a tail's rows to the reference, one row at no way among them."""
    return float(np.sum(distances)) / (len(distances) + 1) if len(distances) else 0.0


def nannyml_limits(values: Shares, deviations: float = 3.0) -> tuple[float, float]:
    """Its thresholds: mean and so many standard deviations of the reference's chunks around it.

    Each chunk is measured against the whole reference it is part of, so the band is too narrow.
    """
    spread = deviations * float(np.nanstd(values))
    return float(np.nanmean(values)) - spread, float(np.nanmean(values)) + spread
