"""What the numbers of a guardrail were made of, in a form from which they can be made anew. Pure.

`EventShare` and `NonInferiority` keep sums in O(1); from sums alone nobody can tell whether they are right. So beside
them stand the events per weight of each span between two starts, and what was known when an e-value was at its peak.
`gateway.control.replay` computes everything from here by the formulas of docs/evidence.md.
"""

from collections.abc import Mapping
from typing import Any, Final

from router.evidence.eprocess import EventShare
from router.evidence.promotion import NonInferiority
from router.evidence.sequences import Moments

MOST_SPANS: Final = 256
"""Spans kept per guardrail, of 50 events and more each, since an audit record has a bound."""

Counts = dict[str, list[int]]
"""Weight as text -> (the canary's events, all events)."""


class Trail:
    """Of one guardrail.

    Attributes:
        spans: events of each finished span between two starts of the mixture.
        open: events since the last start.
        cut: finished spans that were not kept.
        peak: spans and open events when the e-value of harm was largest.
        step: events of the step.
        seen: what the e-value of safety was made of just now, beside `step`.
        safest: the same when it was largest.
    """

    def __init__(self, state: Mapping[str, Any] | None = None) -> None:
        self.spans: list[Counts] = list(state["spans"]) if state else []
        self.open: Counts = dict(state["open"]) if state else {}
        self.cut = int(state["cut"]) if state else 0
        self.peak: list[Any] = list(state["peak"]) if state else [0, {}]
        self.step: Counts = dict(state["step"]) if state else {}
        self.seen: dict[str, Any] = dict(state["seen"]) if state else {}
        self.safest: dict[str, Any] = dict(state["safest"]) if state else {}

    def new_step(self) -> None:
        """Evidence of safety begins anew."""
        self.step, self.seen, self.safest = {}, {}, {}

    def forget(self) -> None:
        """Let the finished spans go, and with them where the largest value was."""
        self.cut, self.spans = self.cut + len(self.spans), []

    def events(self, weight: float, canary: int, every: int, harm: EventShare, peak_before: float) -> None:
        """Events that `harm` has just taken in.

        Args:
            peak_before: its largest value before them.
        """
        if not every or not 0.0 < weight < 1.0:
            return
        for counts in (self.open, self.step):
            before = counts.get(repr(weight), [0, 0])
            counts[repr(weight)] = [before[0] + canary, before[1] + every]
        if harm.starts - 1 > len(self.spans) + self.cut:
            if self.cut or len(self.spans) >= MOST_SPANS:
                self.cut += 1
            else:
                self.spans.append(self.open)
            self.open = {}
        if harm.peak_log_e > peak_before:
            self.peak = [len(self.spans) + self.cut, dict(self.open)]

    def moments(self, canary: Moments, stable: Moments) -> None:
        """Rates per unit that evidence of safety is about to take in."""
        self.seen["canary"] = [canary.n, canary.mean, canary.variance]
        self.seen["stable"] = [stable.n, stable.mean, stable.variance]

    def looked(self, safety: NonInferiority, peak_before: float) -> None:
        """Evidence of safety was computed."""
        self.seen["bad"], self.seen["total"] = safety.canary_bad, safety.canary_total
        if safety.peak_log_e > peak_before:
            self.safest = {**self.seen, "step": dict(self.step)}

    def state(self) -> dict[str, Any]:
        """Everything, as JSON holds it exactly."""
        names = ("spans", "open", "cut", "peak", "step", "seen", "safest")
        return {name: getattr(self, name) for name in names}
