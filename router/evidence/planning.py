"""How long until evidence speaks: requests to detect a fault, requests to promote, the smallest fault in sight. Pure.

Evidence of a bad event grows on average by the divergence between the canary's share of the events under the fault,
q = R w / (R w + 1 - w), and under the margin, q0. The plan is where the process itself, its grid of ratios mixed and
its start paid for, gets to when each ratio follows its mean path, with the guardrail's own margin, alpha and number
of guardrails. None means never, and is to be shown so.

Source: Wald's identity for the expected stopping time of a likelihood ratio (1945), taken for a mixture of them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from router.evidence.checks import check_open
from router.evidence.eprocess import HARM_MULTIPLES, log_threshold
from router.evidence.promotion import BELOW_MULTIPLES, SAFE_MULTIPLES, Margin
from router.evidence.special import log_sum

POWER_80: Final = 0.8416212335729143
"""Standard normal quantile of 0.8: what `minDetect` asks for."""
_MOST: Final = 1e15
_STRIDE: Final = 1.25
"""Of a look for the first n; the stretch in which harm is found is wider, where there is one."""
_ALL_ERRED: Final = 50.0
"""Bad events per unit at which all have erred: e^-50 are left."""

Drift = tuple[float, float]
"""Mean and variance, per request, of what is added to a log likelihood ratio."""
Way = tuple[float, float, float]
"""ln of a ratio's share in a mixture, and its drift."""


@dataclass(frozen=True, slots=True)
class Requests:
    """How much traffic something takes.

    Attributes:
        total: requests that could go to either variant.
        canary: the canary's among them.
    """

    total: float
    canary: float

    def seconds(self, requests_per_second: float) -> float | None:
        """Time at a rate of such requests; None = never.

        Raises:
            ValueError: a negative rate.
        """
        if requests_per_second < 0.0:
            raise ValueError(f"requests_per_second: expected at least 0, got {requests_per_second}")
        return self.total / requests_per_second if requests_per_second else None


@dataclass(frozen=True, slots=True)
class Guardrail:
    """One guardrail as its policy declares it.

    Attributes:
        null_ratio: its margin R0.
        alpha: of the whole rollout, shared by `guardrails`.
        starts: of its process so far; a fault that begins now is found by the latest, which weighs less than the first.
        multiples: its grid of ratios, in multiples of the margin.
        begun: where the process itself is known: ln of what each ratio is worth as the fault begins
            (`EventShare.log_e_values`), in place of `starts`; () = it is not known.
    """

    null_ratio: float = 1.25
    alpha: float = 0.01
    guardrails: int = 1
    starts: int = 1
    multiples: Sequence[float] = HARM_MULTIPLES
    begun: Sequence[float] = ()

    def log_needed(self) -> float:
        """What the mean over ratios has to reach."""
        return log_threshold(self.alpha, self.guardrails)

    def log_begun(self) -> Sequence[float]:
        """What each ratio is worth as the fault begins; by `starts`, that of the latest start alone."""
        return self.begun or [-math.log(self.starts * (self.starts + 1.0))] * len(self.multiples)


def share(ratio: float, weight: float) -> float:
    """The canary's share of the events when its rate is `ratio` times stable's."""
    return ratio * weight / (ratio * weight + 1.0 - weight)


def to_detect(
    ratio: float, weight: float, base_rate: float, guardrail: Guardrail | None = None, z: float = 0.0
) -> Requests | None:
    """Expected requests until a canary whose bad rate is `ratio` times stable's trips the guardrail. None = never.

    Args:
        weight: the canary's share, 0..1.
        base_rate: stable's bad events per request, 0..1.
        z: 0 = on average (about half of all cases); `POWER_80` = in four of five.

    Raises:
        ValueError: a ratio that is not positive, or a weight or rate outside 0..1.
    """
    guardrail = guardrail or Guardrail()
    _check(ratio, weight, base_rate)
    if ratio <= guardrail.null_ratio or not 0.0 < weight < 1.0:
        return None
    ways = _by_share(ratio, weight, base_rate, guardrail.null_ratio, guardrail.multiples)
    each = math.log(len(ways))
    parts = [(begun - each, *way) for begun, way in zip(guardrail.log_begun(), ways, strict=True)]
    return _requests(_first(parts, guardrail.log_needed(), z), weight)


def to_detect_among(
    units: int, ratio: float, weight: float, base_rate: float, guardrail: Guardrail | None = None
) -> Requests | None:
    """As `to_detect`, where these units come again and again: each errs once, then says nothing more. None = never.

    Of N units with n requests 1 - e^(-rate n / N) have erred. In the end all have, of either variant, and the canary's
    share is its weight again: what is not found by then is never found.

    Args:
        units: of both variants.

    Raises:
        ValueError: as `to_detect`.
    """
    guardrail = guardrail or Guardrail()
    _check(ratio, weight, base_rate)
    if ratio <= guardrail.null_ratio or not 0.0 < weight < 1.0 or not base_rate or units <= 0:
        return None
    null = share(guardrail.null_ratio, weight)
    others = [share(guardrail.null_ratio * multiple, weight) for multiple in guardrail.multiples]
    ways = [(math.log(at / null), math.log((1.0 - at) / (1.0 - null))) for at in others]
    needed, begun = guardrail.log_needed() + math.log(len(ways)), guardrail.log_begun()

    def reached(n: float) -> bool:
        canary = -units * weight * math.expm1(-ratio * base_rate * n / units)
        stable = -units * (1.0 - weight) * math.expm1(-base_rate * n / units)
        return (
            log_sum([at + canary * hit + stable * miss for at, (hit, miss) in zip(begun, ways, strict=True)]) >= needed
        )

    high = 1.0
    while not reached(high):
        if base_rate * high > _ALL_ERRED * units:
            return None
        high *= _STRIDE
    low = high / _STRIDE
    for _ in range(50):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if reached(middle) else (middle, high)
    return _requests(high, weight)


def _by_share(
    ratio: float, weight: float, base_rate: float, null_ratio: float, multiples: Sequence[float]
) -> list[Drift]:
    """Per ratio of a grid its drift."""
    rate = min(1.0, base_rate * (1.0 - weight + weight * ratio))
    q, null = share(ratio, weight), share(null_ratio, weight)
    ways = []
    for multiple in multiples:
        at = share(null_ratio * multiple, weight)
        hit, miss = math.log(at / null), math.log((1.0 - at) / (1.0 - null))
        mean = q * hit + (1.0 - q) * miss
        ways.append((rate * mean, rate * (q * hit**2 + (1.0 - q) * miss**2) - (rate * mean) ** 2))
    return ways


def _by_absolute(bad_rate: float, weight: float, limit: float) -> list[Drift]:
    """The same for the absolute margin; without variance, which nobody asks for."""
    bad = min(bad_rate, 1.0)
    null = math.log1p(-limit)
    return [
        (weight * (bad * math.log(m) + (1.0 - bad) * (math.log1p(-m * limit) - null)), 0.0) for m in BELOW_MULTIPLES
    ]


def _first(ways: Sequence[Way], needed: float, z: float = 0.0) -> float | None:
    """Requests at which a mixture of ratios reaches `needed`, each z deviations below its mean path; None = never."""
    if not any(mean > 0.0 for _, mean, _ in ways):
        return None

    def reached(n: float) -> bool:
        each = [begun + n * mean - z * math.sqrt(n * max(0.0, variance)) for begun, mean, variance in ways]
        return log_sum(each) >= needed

    high = 1.0
    while not reached(high):
        high *= 2.0
        if high > _MOST:
            return None
    low = high / 2.0
    for _ in range(50):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if reached(middle) else (middle, high)
    return high


def _requests(total: float | None, weight: float) -> Requests | None:
    return None if total is None else Requests(total, total * weight)


def would_detect(
    total_requests: float, ratio: float, weight: float, base_rate: float, guardrail: Guardrail | None = None
) -> bool:
    """`minDetect`: had the bad rate been `ratio` times stable's all along, would it have been seen with 80 %?

    Raises:
        ValueError: as `to_detect`.
    """
    needed = to_detect(ratio, weight, base_rate, guardrail, POWER_80)
    return needed is not None and total_requests >= needed.total


def careful_rate(bad: int, requests: int) -> float:
    """Stable's bad rate for `minDetect`: the lower end of where it is in four of five cases, of a normal count; 0 to 1.

    Who looks again and again stops where the estimate happens to be large: with the mean, too early.
    """
    return min(1.0, max(0.0, bad - POWER_80 * math.sqrt(bad)) / requests) if requests else 0.0


def smallest_detectable(
    total_requests: float, weight: float, base_rate: float, guardrail: Guardrail | None = None, most: float = 1000.0
) -> float | None:
    """The smallest ratio that `would_detect` finds in so many requests, to 0.1 %; None = not even `most`.

    Raises:
        ValueError: as `to_detect`.
    """
    if not would_detect(total_requests, most, weight, base_rate, guardrail):
        return None
    low, high = (guardrail or Guardrail()).null_ratio, most
    while high / low > 1.001:
        middle = math.sqrt(low * high)
        if would_detect(total_requests, middle, weight, base_rate, guardrail):
            high = middle
        else:
            low = middle
    return high


def to_promote(
    ratio: float, weight: float, base_rate: float, margin: Margin | None = None, beta: float = 0.05
) -> Requests | None:
    """Expected requests until a canary whose bad rate is `ratio` times stable's is shown good enough. None = never.

    Either way counts: within the ratio to stable, or below the absolute margin.

    Raises:
        ValueError: as `to_detect`, or a beta outside 0..1.
    """
    margin = margin or Margin()
    _check(ratio, weight, base_rate, safe=True)
    check_open(beta, "beta", 1.0)
    if not 0.0 < weight < 1.0:
        return None
    by_ratio = _by_share(ratio, weight, base_rate, margin.ratio, SAFE_MULTIPLES) if ratio else []
    if margin.absolute is None:
        parts = _equally(1.0, by_ratio)
    else:
        # Without any bad event the ratio's half stands still at 1.
        parts = _equally(0.5, by_ratio or [(0.0, 0.0)])
        parts += _equally(0.5, _by_absolute(ratio * base_rate, weight, margin.absolute))
    return _requests(_first(parts, log_threshold(beta)), weight)


def _equally(part: float, drifts: Sequence[Drift]) -> list[Way]:
    """A grid that has this share of a mixture."""
    return [(math.log(part / len(drifts)), *drift) for drift in drifts]


def _check(ratio: float, weight: float, base_rate: float, *, safe: bool = False) -> None:
    if not (0.0 <= ratio < math.inf) or (ratio == 0.0 and not safe):
        raise ValueError(f"ratio: expected a positive number, got {ratio}")
    for name, value in (("weight", weight), ("base_rate", base_rate)):
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"{name}: expected 0 to 1, got {value}")
