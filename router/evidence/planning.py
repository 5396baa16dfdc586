"""How long until evidence speaks: requests to detect a fault, requests to promote, the smallest fault in sight. Pure.

Evidence of a bad event grows on average by the divergence between the canary's share of the events under the fault,
q = R w / (R w + 1 - w), and under the margin, q0; the number of events is then what has to be reached over what each
gives. All is computed with the guardrail's own margin, alpha and number of guardrails, and for the process as it is:
its grid of ratios and the weight of the start in question have to be paid for. None means never, and is shown so.

Source: Wald's identity for the expected stopping time of a likelihood ratio (1945).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from router.evidence.checks import check_open
from router.evidence.eprocess import HARM_MULTIPLES, log_threshold
from router.evidence.promotion import BELOW_MULTIPLES, SAFE_MULTIPLES, Margin

POWER_80: Final = 0.8416212335729143
"""Standard normal quantile of 0.8: what `minDetect` asks for."""
_MOST: Final = 1e15


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
    """

    null_ratio: float = 1.25
    alpha: float = 0.01
    guardrails: int = 1
    starts: int = 1
    multiples: Sequence[float] = HARM_MULTIPLES

    def log_needed(self) -> float:
        """What one ratio's likelihood from one start has to reach."""
        start = math.log(self.starts * (self.starts + 1.0))
        return log_threshold(self.alpha, self.guardrails) + math.log(len(self.multiples)) + start


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
    rate = base_rate * (1.0 - weight + weight * ratio)
    if ratio <= guardrail.null_ratio or not 0.0 < weight < 1.0 or rate == 0.0:
        return None
    events = _events(ratio, guardrail, weight, z)
    return None if events is None else _requests(events / min(rate, 1.0), weight)


def _events(ratio: float, guardrail: Guardrail, weight: float, z: float) -> float | None:
    """Events until some ratio of the grid gets there: the fault itself is seldom one of them."""
    q, null = share(ratio, weight), share(guardrail.null_ratio, weight)
    found = []
    for multiple in guardrail.multiples:
        at = share(guardrail.null_ratio * multiple, weight)
        hit, miss = math.log(at / null), math.log((1.0 - at) / (1.0 - null))
        found.append(
            _first_passage(guardrail.log_needed(), q * hit + (1.0 - q) * miss, q * (1.0 - q) * (hit - miss) ** 2, z)
        )
    return min((events for events in found if events is not None), default=None)


def _first_passage(needed: float, drift: float, variance: float, z: float) -> float | None:
    """n with n drift - z sqrt(n variance) = needed; None when it does not drift there."""
    if drift <= 1e-12:
        return None
    deviation = z * math.sqrt(variance)
    root = (deviation + math.sqrt(deviation**2 + 4.0 * drift * needed)) / (2.0 * drift)
    return root**2


def _requests(total: float, weight: float) -> Requests | None:
    return Requests(total, total * weight) if total < _MOST else None


def would_detect(
    total_requests: float, ratio: float, weight: float, base_rate: float, guardrail: Guardrail | None = None
) -> bool:
    """`minDetect`: had the bad rate been `ratio` times stable's all along, would it have been seen with 80 %?

    Raises:
        ValueError: as `to_detect`.
    """
    needed = to_detect(ratio, weight, base_rate, guardrail, POWER_80)
    return needed is not None and total_requests >= needed.total


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

    The sooner of the two ways: within the ratio to stable, or below the absolute margin.

    Raises:
        ValueError: as `to_detect`, or a beta outside 0..1.
    """
    margin = margin or Margin()
    _check(ratio, weight, base_rate, safe=True)
    check_open(beta, "beta", 1.0)
    if not 0.0 < weight < 1.0:
        return None
    halves = 1 if margin.absolute is None else 2
    ways = [_by_ratio(ratio, weight, base_rate, margin, math.log(halves / beta))]
    if margin.absolute is not None:
        ways.append(_by_absolute(ratio * base_rate, weight, margin.absolute, math.log(halves / beta)))
    possible = [way for way in ways if way is not None and way < _MOST]
    return _requests(min(possible), weight) if possible else None


def _by_ratio(ratio: float, weight: float, base_rate: float, margin: Margin, needed: float) -> float | None:
    rate = base_rate * (1.0 - weight + weight * ratio)
    if rate == 0.0:
        return None
    safe = Guardrail(margin.ratio, multiples=SAFE_MULTIPLES)
    q, null = share(ratio, weight), share(margin.ratio, weight)
    drifts = []
    for multiple in safe.multiples:
        at = share(margin.ratio * multiple, weight)
        drifts.append(q * math.log(at / null) + (1.0 - q) * math.log((1.0 - at) / (1.0 - null)))
    events = _first_passage(needed + math.log(len(drifts)), max(drifts), 0.0, 0.0)
    return None if events is None else events / min(rate, 1.0)


def _by_absolute(rate: float, weight: float, limit: float, needed: float) -> float | None:
    bad = min(rate, 1.0)
    drifts = [bad * math.log(m) + (1.0 - bad) * (math.log1p(-m * limit) - math.log1p(-limit)) for m in BELOW_MULTIPLES]
    canary = _first_passage(needed + math.log(len(drifts)), max(drifts), 0.0, 0.0)
    return None if canary is None else canary / weight


def _check(ratio: float, weight: float, base_rate: float, *, safe: bool = False) -> None:
    if not (0.0 <= ratio < math.inf) or (ratio == 0.0 and not safe):
        raise ValueError(f"ratio: expected a positive number, got {ratio}")
    for name, value in (("weight", weight), ("base_rate", base_rate)):
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"{name}: expected 0 to 1, got {value}")
