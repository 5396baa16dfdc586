"""Do the canary's scores fall where stable's do? One guardrail on output shift of one rollout. Pure.

Each unit counts once in the whole rollout, at its first answer with a score, with the weight that was in force there.
Not once per step: a unit whose place is known from an earlier step is not randomised again by a later one.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from gateway.control.units import Bitmap
from gateway.tally import NOTE_SCORES
from router.evidence.eprocess import SHIFT_MULTIPLES, ScoreBins
from router.evidence.planning import Guardrail as Plan
from router.evidence.planning import smallest_detectable
from router.hashing import evidence_index
from router.rollout.observed import Verdict
from router.rollout_document import Analysis, Guardrail

METRIC: Final = "output_shift"
_DIRECTIONS: Final = 2
TYPICAL_SHARE: Final = 0.125
"""Of the units in a bin, before any was seen: half of the bins are mostly empty."""


class Shift:
    """One guardrail on `output_shift`.

    Attributes:
        bins: the e-process.
        events: weight as text -> units per bin: the canary's, and all.
        seen: units that were counted.
    """

    def __init__(self, rail: Guardrail, state: Mapping[str, Any] | None = None) -> None:
        self.rail = rail
        self.bins = ScoreBins.from_state(state["bins"]) if state else ScoreBins(NOTE_SCORES, rail.ratio)
        self.events: dict[str, list[list[int]]] = dict(state["events"]) if state else {}
        self.seen = Bitmap(state["seen"] if state else "")
        self._fresh: dict[float, list[list[int]]] = {}  # of this tick, by weight

    def see(self, unit: int, canary: bool, score: int, weight: float) -> None:
        """An answer to a unit.

        Args:
            score: its bin, below NOTE_SCORES.
            weight: the canary's share in force where it was routed; at 0 and 1 nothing was randomised.
        """
        if 0.0 < weight < 1.0 and self.seen.add(evidence_index(unit)):
            of_canary, of_all = self._fresh.setdefault(weight, _no_units())
            of_canary[score] += canary
            of_all[score] += 1

    def close(self) -> None:
        """The tick is over: take in what it has brought."""
        for weight, cells in sorted(self._fresh.items()):
            self.bins.add(weight, *cells)
            for sums, counts in zip(self.events.setdefault(repr(weight), _no_units()), cells, strict=True):
                sums[:] = [a + b for a, b in zip(sums, counts, strict=True)]
        self._fresh = {}

    def verdict(self, analysis: Analysis, weight: float, *, tripped: bool) -> Verdict:
        """As it stands now.

        Passes where a shift of `minDetect` times would have been found and was not: for outputs there is no "surely no
        worse", since no direction is the better one.

        Args:
            weight: the canary's share in force.
            tripped: it had tripped before.
        """
        kept = len(analysis.guardrails)
        canary, every = totals(self.events)
        tripped = tripped or self.bins.crossed(analysis.alpha, kept)
        ratio = detectable(self.events, weight, self.rail.ratio, analysis.alpha, kept)
        return Verdict(
            tripped=tripped,
            passes=not tripped and ratio is not None and ratio <= analysis.min_detect,
            detectable_ratio=ratio,
            insufficient=not 0 < canary < every,
            saturated=self.seen.saturated,
            log_e=self.bins.peak_log_e,
            text=self._in_words(canary, every, math.log(kept / analysis.alpha)),
        )

    def _in_words(self, canary: int, every: int, threshold: float) -> str:
        if not every:
            return "no scores yet: one-row answers of versions that the monitor watches have them"
        return (
            f"scores of {every:,} units, {canary:,} of them the canary's, in {NOTE_SCORES} bins: log e "
            f"{self.bins.log_e:.2f}, rollback at {threshold:.2f}; a bin's share may differ by {self.rail.ratio:g} times"
        )

    def state(self) -> dict[str, Any]:
        """Everything, as JSON holds it exactly."""
        return {**self.evidence(), "seen": self.seen.state()}

    def evidence(self) -> dict[str, Any]:
        """What a verdict rests on, without the units."""
        seen = {"seen_units": self.seen.ones, "seen_places": self.seen.places}
        return {"margin": self.rail.ratio, "bins": self.bins.state(), "events": self.events, **seen}


def _no_units() -> list[list[int]]:
    return [[0] * NOTE_SCORES, [0] * NOTE_SCORES]


def totals(events: Mapping[str, Sequence[Sequence[int]]]) -> tuple[int, int]:
    """Units of the canary, and all."""
    return sum(sum(cells[0]) for cells in events.values()), sum(sum(cells[1]) for cells in events.values())


def detectable(
    events: Mapping[str, Sequence[Sequence[int]]], weight: float, margin: float, alpha: float, guardrails: int
) -> float | None:
    """The smallest change of a bin's share that would have been found by the plan; None = none would.

    A unit routed with weight v tells v (1 - v) / (w (1 - w)) times as much as one with today's w. The bin is the one
    in which the middle unit lies.
    """
    sizes = [sum(cells[1][at] for cells in events.values()) for at in range(NOTE_SCORES)]
    total = sum(sizes)
    if not total or not 0.0 < weight < 1.0:
        return None
    worth = sum(float(text) * (1.0 - float(text)) * sum(cells[1]) for text, cells in events.items())
    middle = next(size for at, size in enumerate(sizes) if 2 * sum(sizes[: at + 1]) >= total)
    found = worth / (weight * (1.0 - weight))
    return smallest_detectable(found, weight, middle / total, plan(margin, alpha, guardrails))


def plan(margin: float, alpha: float, guardrails: int) -> Plan:
    """Of one bin in one direction: the mean over all of them costs as if each were a guardrail of its own."""
    return Plan(margin, alpha, guardrails * _DIRECTIONS * NOTE_SCORES, multiples=SHIFT_MULTIPLES)
