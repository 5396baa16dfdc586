"""Intervals that may be read at any time: confidence sequences for rates, means and their differences. Pure.

An ordinary 95 % interval holds for one look; read every minute, it misses the truth sooner or later. These are wider
and hold for all looks together: P(the truth is ever outside) <= alpha. Exactly for rates (`bernoulli_interval`), in the
limit of many units for means (`asymptotic_interval`). Means are of *units*, never of requests of one unit, and never
pooled over steps of a ramp: estimate within each, then `stratified`.

Sources: Howard, Ramdas, McAuliffe, Sekhon, "Time-uniform, nonparametric, nonasymptotic confidence sequences" (2021);
Waudby-Smith et al., "Time-uniform central limit theory and asymptotic confidence sequences" (arXiv 2103.06476), in the
form that GrowthBook uses.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from router.evidence.checks import check_open
from router.evidence.special import log_beta_below, log_normal_below

MIN_UNITS: Final = 100
"""Units per variant below which the limit of many units is not taken for reached."""
_TUNED_ALPHA: Final = 0.05  # mixtures are narrowest at v_opt for this alpha, as in the reference implementation
_HALVINGS: Final = 80

Side = Literal["both", "lower", "upper"]


@dataclass(frozen=True, slots=True)
class Interval:
    """What the truth is inside of. Unbounded sides are infinite."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Moments:
    """Of one value per unit.

    Attributes:
        n: units.
        variance: unbiased (divisor n - 1); 0 for fewer than 2 units.
    """

    n: int
    mean: float
    variance: float

    @classmethod
    def of_sums(cls, n: int, total: float, squares: float) -> "Moments":
        """From the number of units, the sum of their values and the sum of squares.

        Raises:
            ValueError: n is negative, or squares are less than the sum allows.
        """
        if n < 0 or squares < 0.0:
            raise ValueError(f"expected n and squares of at least 0, got {n} and {squares}")
        if n == 0:
            return cls(0, 0.0, 0.0)
        spread = squares - total * total / n
        if spread < -1e-9 * squares:
            raise ValueError(f"squares: expected at least total^2 / n = {total * total / n}, got {squares}")
        return cls(n, total / n, max(0.0, spread) / (n - 1) if n > 1 else 0.0)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A difference with its standard error.

    Attributes:
        n: units of both variants.
    """

    value: float
    se: float
    n: int


def best_rho(v_opt: float, alpha: float) -> float:
    """Scale of a mixture that is narrowest at the variance `v_opt`; one-sided: pass 2 alpha."""
    log = -2.0 * math.log(alpha)
    return v_opt / (log + math.log1p(log))


def normal_bound(v: float, alpha: float, v_opt: float) -> float:
    """Two-sided normal mixture: a sub-Gaussian sum of variance `v` stays within this, at all times, with 1 - alpha."""
    check_open(alpha, "alpha", 1.0)
    rho = best_rho(v_opt, alpha)
    return math.sqrt((v + rho) * (math.log1p(v / rho) - 2.0 * math.log(alpha)))


@dataclass(frozen=True, slots=True)
class BetaBinomial:
    """Mixture supermartingale of sums of terms of mean 0 within [-g, h].

    Attributes:
        v_opt: variance of the sum at which it is most sensitive.
        one_sided: only large sums count.
    """

    v_opt: float
    g: float
    h: float
    one_sided: bool = False

    def __post_init__(self) -> None:
        for name in ("v_opt", "g", "h"):
            check_open(getattr(self, name), name)
        if self._rho() <= 0.0:
            least = self.g * self.h / best_rho(1.0, self._tuned())
            raise ValueError(f"v_opt: expected more than {least:.3g} (about 8 terms), got {self.v_opt}")

    def _tuned(self) -> float:
        return 2.0 * _TUNED_ALPHA if self.one_sided else _TUNED_ALPHA

    def _rho(self) -> float:
        return best_rho(self.v_opt, self._tuned()) - self.g * self.h

    def log_e(self, s: float, v: float) -> float:
        """ln of the mixture at the sum `s` of variance `v` = g h terms."""
        g, h, rho = self.g, self.h, self._rho()
        top = h / (g + h) if self.one_sided else 1.0
        low, high = (v - g * s) / (g * (g + h)), (v + h * s) / (h * (g + h))
        a, b = rho / (g * (g + h)), rho / (h * (g + h))
        mixed = log_beta_below(a + max(0.0, low), b + max(0.0, high), top) - log_beta_below(a, b, top)
        return mixed + v / (g * h) * math.log(g + h) - high * math.log(g) - low * math.log(h)

    def bound(self, v: float, alpha: float) -> float:
        """The sum that is never exceeded, at variance `v`, with 1 - alpha; infinite while no sum is too large."""
        check_open(alpha, "alpha", 1.0)
        most, wanted = v / self.g, -math.log(alpha)
        if v <= 0.0 or self.log_e(most, v) < wanted:
            return math.inf
        return _crossing(lambda s: self.log_e(s, v) < wanted, 0.0, most)


def of_one_side(alpha: float) -> float:
    """Alpha of an interval of which only one side, with half of it, is looked at. Below 1: a side may have 0.5."""
    return min(2.0 * alpha, 0.999999)


def bernoulli_interval(bad: int, total: int, alpha: float, t_opt: float = 1000.0) -> Interval:
    """Confidence sequence of a rate: all rates that the beta-binomial mixture does not refuse.

    Args:
        t_opt: number of trials at which it is narrowest; at least 8.

    Raises:
        ValueError: counts without 0 <= bad <= total, an alpha outside 0..1, or too small a `t_opt`.
    """
    if not 0 <= bad <= total:
        raise ValueError(f"expected 0 <= bad <= total, got {bad} of {total}")
    check_open(alpha, "alpha", 1.0)
    wanted = -math.log(alpha)

    def allowed(rate: float) -> bool:
        variance = rate * (1.0 - rate)
        mixture = BetaBinomial(t_opt * variance, rate, 1.0 - rate)
        return mixture.log_e(bad - rate * total, variance * total) < wanted

    seen = bad / total if total else 0.5
    edge = 1e-12
    low = 0.0 if bad == 0 or allowed(edge) else _crossing(lambda rate: not allowed(rate), edge, max(seen, 2 * edge))
    least = min(seen, 1.0 - 2 * edge)
    high = (
        1.0
        if bad == total or allowed(1.0 - edge)
        else _crossing(lambda rate: rate <= seen or allowed(rate), least, 1.0 - edge)
    )
    return Interval(low, high)


def rate_log_e(bad: int, total: int, limit: float, t_opt: float = 1000.0) -> float:
    """ln of an e-value against "the rate is at most `limit`": the one-sided beta-binomial mixture; 0 without trials.

    Args:
        t_opt: as `bernoulli_interval`.

    Raises:
        ValueError: counts without 0 <= bad <= total, a limit outside 0..1, or too small a `t_opt`.
    """
    if not 0 <= bad <= total:
        raise ValueError(f"expected 0 <= bad <= total, got {bad} of {total}")
    check_open(limit, "limit", 1.0)
    variance = limit * (1.0 - limit)
    mixture = BetaBinomial(t_opt * variance, limit, 1.0 - limit, one_sided=True)
    return mixture.log_e(bad - limit * total, variance * total) if total else 0.0


def difference(control: Moments, treatment: Moments) -> Estimate:
    """Treatment's mean minus control's. Infinite standard error without units."""
    return Estimate(treatment.mean - control.mean, _se(control, treatment, 1.0, 1.0), control.n + treatment.n)


def relative_difference(control: Moments, treatment: Moments) -> Estimate:
    """Treatment's mean over control's, minus 1 (delta method). Infinite standard error when control's mean is 0."""
    n = control.n + treatment.n
    if control.mean == 0.0:
        return Estimate(0.0, math.inf, n)
    ratio = treatment.mean / control.mean
    return Estimate(ratio - 1.0, _se(control, treatment, ratio / control.mean, 1.0 / control.mean), n)


def _se(control: Moments, treatment: Moments, of_control: float, of_treatment: float) -> float:
    if not control.n or not treatment.n:
        return math.inf
    return math.sqrt(of_control**2 * control.variance / control.n + of_treatment**2 * treatment.variance / treatment.n)


def stratified(estimates: Sequence[Estimate]) -> Estimate:
    """One estimate from those of several steps, weighted by inverse variance; those without an error are left out."""
    usable = [one for one in estimates if 0.0 < one.se < math.inf]
    if not usable:
        return Estimate(0.0, math.inf, sum(one.n for one in estimates))
    weights = [one.se**-2 for one in usable]
    total = math.fsum(weights)
    value = math.fsum(weight * one.value for weight, one in zip(weights, usable, strict=True)) / total
    return Estimate(value, total**-0.5, sum(one.n for one in usable))


def clocked(estimate: Estimate, pairs: Sequence[tuple[Moments, Moments]]) -> Estimate:
    """The estimate of control and treatment of several steps, with n as a clock that runs alike at all shares.

    n is of equal arms that would know as much: the sum of 4 / (1/n_control + 1/n_treatment). A mixture has one scale of
    information, and units of 1 % against 99 % bring a twenty-fifth of it: counted as units, a step at 50 % after one at
    1 % makes more false alarms than alpha.
    """
    arms = [(control.n, treatment.n) for control, treatment in pairs if control.n and treatment.n]
    n = round(math.fsum(4.0 * one * other / (one + other) for one, other in arms))
    return Estimate(estimate.value, estimate.se, n)


def _rho_squared(n_star: float, alpha: float) -> float:
    return 1.0 / best_rho(n_star, alpha)


def asymptotic_interval(estimate: Estimate, alpha: float, n_star: float = 5000.0, side: Side = "both") -> Interval:
    """Asymptotic confidence sequence around an estimate.

    Half width = se sqrt(n) sqrt(2 (n r^2 + 1) / (n^2 r^2) ln(sqrt(n r^2 + 1) / alpha)); one-sided the logarithm is of
    1 + sqrt(n r^2 + 1) / (2 alpha).

    Args:
        n_star: number of units at which it is narrowest.
        side: "lower" and "upper" give one limit each, at the whole alpha.

    Raises:
        ValueError: an alpha outside 0..1 (one-sided: 0..0.5), or `n_star` not positive.
    """
    check_open(alpha, "alpha", 1.0 if side == "both" else 0.5)
    check_open(n_star, "n_star")
    if estimate.n < 1 or not math.isfinite(estimate.se):
        return Interval(-math.inf, math.inf)
    n, both = estimate.n, side == "both"
    grown = n * _rho_squared(n_star, alpha if both else 2.0 * alpha)
    log = math.log(math.sqrt(grown + 1.0) / alpha) if both else math.log1p(math.sqrt(grown + 1.0) / (2.0 * alpha))
    half = estimate.se * math.sqrt(2.0 * (grown + 1.0) / grown * log)
    low = estimate.value - half if side != "upper" else -math.inf
    return Interval(low, estimate.value + half if side != "lower" else math.inf)


def asymptotic_log_e(estimate: Estimate, alpha: float, n_star: float = 5000.0) -> float:
    """ln of an asymptotic e-value against "the difference is 0": 0.5 z^2 g / (g + 1) - 0.5 ln(g + 1).

    z is the estimate over its standard error, g = n r^2. It is Robbins' two-sided normal mixture, which reaches
    1 / alpha where the two-sided `asymptotic_interval` leaves 0 (arXiv 2103.06476): for normal terms of known variance
    a martingale of mean 1, for others so in the limit of many units, as the interval (asymptotic e-processes: arXiv
    2604.19353). The largest value so far is no e-value. 0 without units or without any spread.

    Args:
        alpha, n_star: what it is tuned for, as the interval; any alpha may be compared with.

    Raises:
        ValueError: as `asymptotic_interval`.
    """
    check_open(alpha, "alpha", 1.0)
    check_open(n_star, "n_star")
    if estimate.n < 1 or not 0.0 < estimate.se < math.inf:
        return 0.0
    grown = estimate.n * _rho_squared(n_star, alpha)
    return 0.5 * (estimate.value / estimate.se) ** 2 * grown / (grown + 1.0) - 0.5 * math.log1p(grown)


def asymptotic_p(estimate: Estimate, alpha: float, n_star: float = 5000.0) -> float:
    """The level at which the two-sided `asymptotic_interval` that is tuned for `alpha` would just touch 0: 1 / e.

    Valid at any time, and so is the smallest one so far. 1 without units or without any spread.

    Raises:
        ValueError: as `asymptotic_interval`.
    """
    return math.exp(min(0.0, -asymptotic_log_e(estimate, alpha, n_star)))


def unit_ratio_log_e(canary: Moments, stable: Moments, ratio: float, n_star: float = 1000.0) -> float:
    """ln of an asymptotic e-value against "the canary's mean is at least `ratio` times stable's".

    The one-sided normal mixture of z = (ratio x stable - canary) / se, the process whose crossing is the one-sided
    `asymptotic_interval`. 0 (no evidence) below 100 units in either variant or without any spread.

    Raises:
        ValueError: a ratio that is not positive.
    """
    check_open(ratio, "ratio")
    se = _se(stable, canary, ratio, 1.0)
    if min(canary.n, stable.n) < MIN_UNITS or se == 0.0:
        return 0.0
    z = (ratio * stable.mean - canary.mean) / se
    grown = (canary.n + stable.n) * _rho_squared(n_star, 2.0 * _TUNED_ALPHA)
    shrunk = math.sqrt(grown / (grown + 1.0)) * z
    return math.log(2.0) - 0.5 * math.log1p(grown) + 0.5 * shrunk**2 + log_normal_below(shrunk)


def _crossing(below: Callable[[float], bool], low: float, high: float) -> float:
    """Where `below` turns from true to false between low and high."""
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if below(middle) else (low, middle)
    return high
