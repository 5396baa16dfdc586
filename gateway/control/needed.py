"""How many requests and how many distinct units something takes, where units come again and each counts once. Pure."""

import math
from dataclasses import dataclass
from typing import Any

from router.evidence.planning import Guardrail, Requests, to_detect, to_detect_among


@dataclass(frozen=True, slots=True)
class Needed:
    """What something takes.

    Attributes:
        requests: that could go to either variant; None = never, or too few units come.
        canary_requests: the canary's, if every request were a new unit; None = never.
        units: distinct ones, and whether so many come, None = not known; None = never.
    """

    requests: float | None = None
    canary_requests: int | None = None
    units: dict[str, Any] | None = None

    def seconds(self, rate: float) -> float | None:
        """Time at so many requests per second; None = never, too few units come, or nobody does."""
        return round(self.requests / rate, 1) if self.requests is not None and rate else None


def once_each(needed: Requests | None, come: int | None) -> Needed:
    """Where a unit counts at its first request.

    Args:
        come: distinct units that there are; None = not known: every request is taken for a new one.
    """
    if needed is None:
        return Needed()
    enough = None if come is None else needed.total < come
    requests = None if enough is False else needed.total
    if come is not None and requests is not None:
        # The more of them have come, the rarer is a new one: of N that come alike, n requests bring N (1 - e^(-n / N)).
        requests = -come * math.log1p(-requests / come)
    canary = round(needed.canary)
    return Needed(requests, canary, {"canary": canary, "stable": round(needed.total) - canary, "enough": enough})


def by_errors(ratio: float, weight: float, base_rate: float, guardrail: Guardrail, come: int | None) -> Needed:
    """Where a unit counts at its first error: few units may do, if they come often.

    Args:
        come: as `once_each`.
    """
    needed = to_detect(ratio, weight, base_rate, guardrail)
    if needed is None:
        return Needed()
    among = needed if come is None else to_detect_among(come, ratio, weight, base_rate, guardrail)
    erring = math.ceil(needed.total * min(1.0, base_rate * (1.0 - weight + weight * ratio)))
    enough = None if come is None else among is not None
    requests = None if among is None else among.total
    return Needed(requests, round(needed.canary), {"erring": erring, "enough": enough})
