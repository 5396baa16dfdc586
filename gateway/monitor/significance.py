"""Whether a window differs from the reference by more than chance: p-values, and what is too small to be seen. Pure.

The law of all tests of bins: without drift, the statistic of homogeneity of n rows against m reference rows follows
chi-square, and PSI follows (1/n + 1/m) times it. The same m reference rows take part in every window, so windows are
not quite independent of each other; with m >= 10 n that no longer matters for two alarms in three windows.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from gateway.monitor.distances import Counts, Shares, chi_square, g_statistic, grouped, power_divergence, regroup
from router.evidence.special import chi_square_above

REFERENCE_PER_WINDOW: Final = 10
LEAST_ROWS: Final = 200
POWER: Final = 1.0 / 3.0
"""Of the statistic between G (0) and Pearson's (1). Where bins expect few rows and alpha is small, as it is for one of
30 features, Pearson's rejects up to 5 times as often as it says, and G up to 2.4 times; this one 0.8 to 1.25 times."""
_MOST_ROWS: Final = 10**9
_CLEARLY_SMALLER: Final = 0.25
"""A tail of this and less is the smaller one: the other holds at least the rest."""
_FIRST_BLOCK, _LAST_BLOCK = 32, 65_536
_NEGLIGIBLE: Final = 1e-17


@dataclass(frozen=True, slots=True)
class Tested:
    """One feature of one window tested against the reference.

    Attributes:
        p_value: of a difference at least as large without drift.
        statistic: follows chi-square, already divided by the overdispersion; nan where an exact test stood in.
        degrees: groups of bins compared, less one; 0 = nothing to compare, or the exact test.
    """

    p_value: float
    statistic: float
    degrees: int


def homogeneity(
    reference: Counts, current: Counts, ordered: bool, phi: float = 1.0, law: Literal["power", "pearson", "g"] = "power"
) -> Tested:
    """Test of one feature: do reference and window come from one distribution over the data bins?

    Bins are regrouped first (`distances.regroup`). If only one group is left although rows stand in several bins (a
    short window, and nearly all of the reference in one category), rows outside the reference's fullest bin are tested
    exactly instead, so that a window wholly in a rare category does not go unseen.

    Args:
        reference: int64 (bins,).
        current: int64 (bins,).
        ordered: numbers, not categories.
        phi: overdispersion, see `overdispersion`; below 1 counts as 1.
        law: which statistic, see `POWER`.

    Raises:
        ValueError: as `distances.regroup`.
    """
    groups = regroup(reference, current, ordered)
    before, now = grouped(reference, groups), grouped(current, groups)
    if len(before) > 1:
        statistic = _STATISTICS[law](before, now) / max(1.0, phi)
        return Tested(chi_square_above(statistic, len(before) - 1), statistic, len(before) - 1)
    m, n = int(np.sum(reference)), int(np.sum(current))
    if not m or not n or len(reference) < 2:
        return Tested(1.0, 0.0, 0)
    top = int(np.argmax(reference))
    return Tested(binomial_two_sample(n - int(current[top]), n, m - int(reference[top]), m), math.nan, 0)


def _divergence(reference: Shares, current: Shares) -> float:
    return power_divergence(reference, current, POWER)


_STATISTICS: Final[dict[str, Callable[[Shares, Shares], float]]] = {
    "power": _divergence,
    "pearson": chi_square,
    "g": g_statistic,
}


# ---- quality bins ----


def binomial_two_sample(k: int, n: int, k_ref: int, m: int) -> float:
    """Two-sided p-value of k among n rows, where the reference had k_ref among m.

    The rate is known as a reference of k_ref in m makes it known: beta(k_ref + 1, m - k_ref + 1), of mean
    (k_ref + 1) / (m + 2). So k is beta-binomial; its tails are those of Fisher's exact test with one row more. Twice
    the smaller tail, at most 1. Beyond 10^9 rows all counts are scaled down to that, which only makes it larger.

    Raises:
        ValueError: a count below 0 or above its total.
    """
    k, n, a, b = _beta_binomial(k, n, k_ref, m)
    above, below = (k, n, a, b), (n - k, n, b, a)
    near, far = (above, below) if k * (a + b) > n * a else (below, above)
    tail = _beta_binomial_above(*near)
    if tail > _CLEARLY_SMALLER:
        tail = min(tail, _beta_binomial_above(*far))
    return min(1.0, 2.0 * tail)


def binomial_rise(k: int, n: int, k_ref: int, m: int) -> float:
    """One-sided p-value of k among n rows, where the reference had k_ref among m: of so many or more.

    For what only harms when there is more of it. It is the upper tail itself, not twice: fewer never alarm, and all of
    the level is for more. Law and errors as of `binomial_two_sample`.
    """
    return _beta_binomial_above(*_beta_binomial(k, n, k_ref, m))


def _beta_binomial(k: int, n: int, k_ref: int, m: int) -> tuple[int, int, int, int]:
    """Count, draws and both parameters of the law of k."""
    if not 0 <= k <= n or not 0 <= k_ref <= m:
        raise ValueError(f"expected counts within their totals, got {k} of {n} and {k_ref} of {m}")
    if n + m > _MOST_ROWS:
        k, n, k_ref, m = (count * _MOST_ROWS // (n + m) for count in (k, n, k_ref, m))
    return k, n, k_ref + 1, m - k_ref + 1


def _beta_binomial_above(k: int, n: int, a: int, b: int) -> float:
    """P(X >= k) for the beta-binomial of n draws; exact where k is above the mean, good to 1e-9 of 1 below it."""
    if k <= 0:
        return 1.0
    if k * (a + b) > n * a:
        return min(1.0, math.exp(_log_mass(k, n, a, b)) * _tail_over_first(k, n, a, b))
    # From the other side: fewer terms.
    return max(0.0, 1.0 - math.exp(_log_mass(n - k + 1, n, b, a)) * _tail_over_first(n - k + 1, n, b, a))


def _log_mass(k: int, n: int, a: int, b: int) -> float:
    choose = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return choose + _log_beta(k + a, n - k + b) - _log_beta(a, b)


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _tail_over_first(k: int, n: int, a: int, b: int) -> float:
    """Sum of the masses at k, k + 1, ... n over the first; each is the one before times a ratio of integers."""
    total, term = 1.0, 1.0
    start, block = k, _FIRST_BLOCK
    while start < n:
        j = np.arange(start, min(n, start + block), dtype=np.float64)
        terms = term * np.cumprod((n - j) * (j + a) / ((j + 1.0) * (n - j - 1.0 + b)))
        total += float(terms.sum())
        term = float(terms[-1])
        if term < total * _NEGLIGIBLE:
            break
        start, block = start + block, min(2 * block, _LAST_BLOCK)
    return total


def rate_rise(k: int, n: int, k_ref: int, m: int) -> float:
    """By how much a rate has risen: what the quality floor (default 0.005) is compared with. 0 if it fell."""
    return max(0.0, k / n - k_ref / m) if n and m else 0.0


# ---- what can be seen ----


def smallest_psi(n: int, m: int, bins: int, alpha: float, power: float = 0.8) -> float:
    """The PSI that a test of level alpha finds with the given power.

    Args:
        n: rows of a window, > 0.
        m: rows of the reference, > 0.
        bins: groups of bins compared, at least 2.
        alpha: of one feature's test: the window's alpha over the features (the worst case of Simes).
        power: 0..1, above alpha.

    Raises:
        ValueError: outside these ranges.
    """
    if n <= 0 or m <= 0 or bins < 2 or not 0.0 < alpha < power < 1.0:
        raise ValueError(f"expected n, m > 0, bins >= 2, 0 < alpha < power < 1: got {n}, {m}, {bins}, {alpha}, {power}")
    return _noncentrality(bins - 1, alpha, power) * (1.0 / n + 1.0 / m)


@functools.lru_cache(maxsize=1024)
def _noncentrality(degrees: int, alpha: float, power: float) -> float:
    critical = chi_square_quantile(alpha, degrees)
    low, high = 0.0, 1.0
    while noncentral_above(critical, degrees, high) < power:
        low, high = high, 2.0 * high
    return _bisected(lambda value: noncentral_above(critical, degrees, value) < power, low, high)


@functools.lru_cache(maxsize=1024)
def chi_square_quantile(alpha: float, degrees: int) -> float:
    """The value that chi-square exceeds with probability alpha, 0 < alpha < 1."""
    high = float(degrees)
    while chi_square_above(high, degrees) > alpha:
        high *= 2.0
    return _bisected(lambda value: chi_square_above(value, degrees) > alpha, 0.0, high)


def _bisected(is_low: Callable[[float], bool], low: float, high: float) -> float:
    for _ in range(100):
        middle = (low + high) / 2.0
        low, high = (middle, high) if is_low(middle) else (low, middle)
        if high - low <= 1e-12 * high:
            break
    return (low + high) / 2.0


def noncentral_above(x: float, degrees: int, noncentrality: float) -> float:
    """P(noncentral chi-square > x): a Poisson mixture of central ones, two degrees apart each."""
    rate, half = noncentrality / 2.0, x / 2.0
    above = chi_square_above(x, degrees)
    a = degrees / 2.0
    total, last = 0.0, int(rate + 12.0 * math.sqrt(rate + 1.0) + 20.0)
    for j in range(last + 1):
        total += math.exp(j * math.log(rate) - rate - math.lgamma(j + 1)) * above if rate else (above if j == 0 else 0)
        above += math.exp(a * math.log(half) - half - math.lgamma(a + 1.0)) if half else 0.0
        a += 1.0
    return min(1.0, total)


def largest_window(m: int) -> int:
    """Rows of the largest window that a reference of m rows serves; longer ones must shrink to it."""
    return m // REFERENCE_PER_WINDOW


# ---- overdispersion ----


def overdispersion(statistics: Sequence[float], degrees: Sequence[int]) -> float:
    """How much more windows without drift vary than independent rows would: sum of chi-square over degrees, at least 1.

    Traffic comes in sessions and hours, so neighbouring rows are alike. Statistics are to be divided by this.
    """
    total = sum(degrees)
    return max(1.0, math.fsum(statistics) / total) if total else 1.0


def overdispersion_of(parts: Sequence[Counts], ordered: bool) -> float:
    """Overdispersion from healthy consecutive windows of one feature (int64 (bins,) each): each against the others.

    Against the others, not against all: a part of the whole is too much like it (by sqrt((m - n) / (m + n))).
    """
    whole = np.sum(parts, axis=0)
    tests = [homogeneity(whole - part, part, ordered) for part in parts]
    some = [one for one in tests if one.degrees]
    return overdispersion([one.statistic for one in some], [one.degrees for one in some])
