"""One guardrail or signal on bad events of one rollout: evidence of harm, and of being no worse. Pure."""

from collections.abc import Mapping
from typing import Any, Final

from gateway.control.trail import Trail
from gateway.control.units import Bitmap
from gateway.tally import NOTE_BAD, NOTE_SLOW, NOTE_WAITED
from router.evidence.eprocess import EventShare
from router.evidence.planning import Guardrail as Plan
from router.evidence.planning import careful_rate, smallest_detectable
from router.evidence.promotion import Margin, NonInferiority
from router.evidence.sequences import Moments
from router.rollout_document import Metrics

NOTES: Final = {"error_rate": NOTE_BAD, "latency": NOTE_SLOW, "queue_wait": NOTE_WAITED}
"""Metric -> the flag of a note that is its bad event."""


class Rail:
    """One guardrail on events: is the canary worse, and is it surely no worse?

    Attributes:
        begun: `EventShare.log_e_values` as the step began: a fault that began with it grows from there.
    """

    def __init__(self, rail: Metrics, *, sticky: bool, state: Mapping[str, Any] | None = None) -> None:
        self.rail = rail
        self.flag = NOTES[rail.metric]
        self.margin = Margin(rail.ratio, rail.absolute if rail.metric == "error_rate" else None)
        self._sticky = sticky
        if state and state["harm"]["null_ratio"] != rail.ratio:
            state = None  # a signal's margin was edited, and another margin asks another question
        self.harm = EventShare.from_state(state["harm"]) if state else EventShare(rail.ratio)
        self.safety = NonInferiority.from_state(state["safety"]) if state else self._fresh()
        self.bitmap = Bitmap(state["bitmap"] if state else "")
        self.begun: list[float] = list(state.get("begun", ())) if state else []
        self.begun = self.begun or self.harm.log_e_values
        self.events: dict[str, list[int]] = dict(state["events"]) if state else {}
        self.trail = Trail(state["trail"] if state else None)

    def _fresh(self) -> NonInferiority:
        return NonInferiority(self.margin, sticky=self._sticky)

    def new_step(self) -> None:
        """Promotion rests on the data of the last analysed step alone; harm on all of it."""
        self.safety = self._fresh()
        self.begun = self.harm.log_e_values
        self.trail.new_step()

    def harmed(self, weight: float, canary: int, every: int) -> None:
        """Bad events of units that had not erred before."""
        peak = self.harm.peak_log_e
        self.harm.add(weight, canary, every)
        self.trail.events(weight, canary, every, self.harm, peak)

    def saved(self, weight: float, canary: int, every: int, total: int) -> None:
        """Evidence that the canary is no worse: as `NonInferiority.add`."""
        peak = self.safety.peak_log_e
        self.safety.add(weight, canary, every, total)
        self.trail.looked(self.safety, peak)

    def units(self, canary: Moments, stable: Moments) -> None:
        """The same from rates per unit: as `NonInferiority.units`."""
        peak = self.safety.peak_log_e
        self.trail.moments(canary, stable)
        self.safety.units(canary, stable)
        self.trail.looked(self.safety, peak)

    def detectable(self, canary: int, stable: int, weight: float, alpha: float, guardrails: int) -> float | None:
        """The smallest harm that would have been found since the step began; None = none would.

        Args:
            canary, stable: requests of this step that ended.
            weight: the canary's share in force.
        """
        bad = sum(every - of_canary for of_canary, every in self.trail.step.values())
        plan = Plan(self.margin.ratio, alpha, guardrails, begun=self.begun)
        return smallest_detectable(canary + stable, weight, careful_rate(bad, stable), plan)

    def state(self) -> dict[str, Any]:
        """Everything, as JSON holds it exactly."""
        return {
            "harm": self.harm.state(),
            "safety": self.safety.state(),
            "bitmap": self.bitmap.state(),
            "begun": self.begun,
            "events": self.events,
            "trail": self.trail.state(),
        }

    def evidence(self) -> dict[str, Any]:
        """What a verdict rests on, without the units: for the audit, where it is computed anew."""
        return {
            "metric": self.rail.metric,
            "harm": self.harm.state(),
            "safety": self.safety.state(),
            "events": self.events,
            "begun": self.begun,
            "trail": self.trail.state(),
            "erred_units": self.bitmap.ones,
            "erred_places": self.bitmap.places,
            "erred_digest": self.bitmap.digest,
        }
