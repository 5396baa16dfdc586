"""Does stable answer too often for the canary? One guardrail on `fallback_ratio` of one rollout. Pure.

One request of each unit counts, its first on the canary. So a unit whose requests fail, and that comes again, errs once
in the whole rollout, and the ratio is one of units that stand for themselves.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from gateway.control.units import Bitmap
from gateway.tally import BAD, NEUTRAL, OK, ROUTED
from router.evidence.eprocess import log_threshold
from router.evidence.planning import POWER_80
from router.evidence.sequences import rate_log_e
from router.hashing import evidence_index
from router.rollout.observed import Verdict
from router.rollout_document import Analysis, Guardrail

METRIC: Final = "fallback_ratio"
_LEAST: Final = 1e-9
"""A limit: 1 less it is still below 1."""


class Fallbacks:
    """One guardrail on `fallback_ratio`.

    Attributes:
        limit: the largest ratio that is allowed.
        units: of the whole rollout: those whose first request failed on the canary, and all.
        step: the same of this step, by the first request in it.
        unfinished: requests that were routed to the canary and have not ended.
        peak: failed and all units when harm was clearest.
        seen: units that were counted.
    """

    def __init__(self, rail: Guardrail, state: Mapping[str, Any] | None = None) -> None:
        self.rail = rail
        self.limit = max(rail.max or 0.0, _LEAST)
        self.units: list[int] = list(state["units"]) if state else [0, 0]
        self.step: list[int] = list(state["step"]) if state else [0, 0]
        self.unfinished = int(state["unfinished"]) if state else 0
        self.peak: list[int] = list(state["peak"]) if state else [0, 0]
        self.peak_log_e = rate_log_e(self.peak[0], self.peak[1], self.limit)
        self.seen = Bitmap(state["seen"] if state else "")

    def new_step(self) -> None:
        """Being within the limit is shown on the data of the last analysed step alone; harm on all of it."""
        self.step = [0, 0]

    def routed(self, counts: Sequence[int]) -> None:
        """Requests of the canary that chance sent there: counts as `gateway.tally.FIELDS`, since the last ones."""
        self.unfinished += counts[ROUTED] - counts[OK] - counts[BAD] - counts[NEUTRAL]

    def see(self, unit: int, failed: bool) -> None:
        """A request of a unit has ended on the canary, where chance had sent it."""
        if self.seen.add(evidence_index(unit)):
            _count(self.units, failed)

    def see_in_step(self, failed: bool) -> None:
        """The same, of a unit that had not been seen in this step."""
        _count(self.step, failed)

    def close(self) -> None:
        """The tick is over: look at what it has brought."""
        failed, units = self.units
        # Failures may come back sooner than answers do: what has not ended yet is taken for answered.
        asked = units + max(0, self.unfinished)
        log_e = rate_log_e(failed, asked, self.limit)
        if log_e > self.peak_log_e:
            self.peak, self.peak_log_e = [failed, asked], log_e

    def verdict(self, analysis: Analysis) -> Verdict:
        """As it stands now."""
        kept = len(analysis.guardrails)
        tripped = self.peak_log_e >= log_threshold(analysis.alpha, kept)
        passes = within(self.step, self.limit) >= log_threshold(analysis.beta)
        return Verdict(
            tripped=tripped,
            passes=passes,
            # Who is shown to be within the limit would not have been missed beyond it.
            detectable_ratio=1.0 if passes or tripped else detectable(self.units[1], self.limit, analysis.alpha, kept),
            insufficient=not self.step[1],
            saturated=self.seen.saturated,
            log_e=self.peak_log_e,
            text=self._in_words(analysis, kept),
        )

    def _in_words(self, analysis: Analysis, kept: int) -> str:
        failed, units = self.units
        if not units:
            return "no request has ended on the canary yet"
        return (
            f"the first request of {failed:,} of {units:,} units was left to stable ({failed / units:.2%}, at most "
            f"{self.limit:.2%} may): log e {self.peak_log_e:.2f}, rollback at "
            f"{log_threshold(analysis.alpha, kept):.2f}; within the limit in this step: "
            f"{within(self.step, self.limit):.2f} of {log_threshold(analysis.beta):.2f}"
        )

    def state(self) -> dict[str, Any]:
        """Everything, as JSON holds it exactly."""
        kept = {"units": self.units, "step": self.step, "unfinished": self.unfinished, "peak": self.peak}
        return {**kept, "seen": self.seen.state()}

    def evidence(self) -> dict[str, Any]:
        """What a verdict rests on, without the units."""
        return {
            "max": self.limit,
            "units": self.units,
            "step": self.step,
            "peak": self.peak,
            "peak_log_e": self.peak_log_e,
            "seen_units": self.seen.ones,
            "seen_places": self.seen.places,
        }


def _count(sums: list[int], failed: bool) -> None:
    sums[0] += failed
    sums[1] += 1


def within(counts: Sequence[int], limit: float) -> float:
    """ln of the e-value against "the ratio is at least the limit", of failed and all units."""
    failed, every = counts
    return rate_log_e(every - failed, every, 1.0 - limit)


def detectable(units: int, limit: float, alpha: float, guardrails: int) -> float | None:
    """The smallest ratio, in limits, that these units would have shown with 80 %; None = none would."""
    wanted, low, high = log_threshold(alpha, guardrails), 0, units + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if rate_log_e(middle, units, limit) >= wanted else (middle, high)
    if high > units:
        return None
    # The rate whose mean less 0.84 standard deviations is so many failures.
    spread = POWER_80 * math.sqrt(high * (1.0 - high / units) + POWER_80**2 / 4.0)
    return (high + POWER_80**2 / 2.0 + spread) / (units + POWER_80**2) / limit
