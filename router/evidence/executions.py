"""Slow executions of canary and stable, compared within batches of about one size and the same moment. Pure.

An execution lasts longer the more rows it has, and a variant with few requests gets small batches. So a slow one says
nothing by itself: it is held against the other variant's executions in the same bucket of batch sizes and the same
tick. If the canary is no slower, each slow one among them is the canary's with the chance that is its share of those
executions, however many each variant had and whatever slowed both down. That share takes the place of the weight in
the event-share e-process (`router.evidence.eprocess`).

The process stays valid where slow executions are frequent: of n executions with chances p_i the mean of the factor is
prod(1 + p_i (f_i - 1)) <= exp(sum p_i (f_i - 1)), and that is 1 at the margin, less below it.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from router.evidence.eprocess import EventShare

ODDS_STEP: Final = 1.02
"""Shares are rounded up to such steps of their odds, so that a record holds few of them: the canary may be slow 2 %
more often, never less."""
_DIGITS: Final = 1_000_000

Executions = Mapping[int, tuple[int, int]]
"""Bucket of batch sizes -> executions of a tick that were in time, and that were slow."""


class ExecutionShare:
    """Does the canary compute longer than stable, at equal batch sizes?

    Attributes:
        harm: the e-process on slow executions.
        events: share as text -> slow executions (of the canary, of both).
        step: executions that were compared since the step began: (all, slow) of the canary, then of stable.
    """

    def __init__(self, null_ratio: float, state: Mapping[str, Any] | None = None) -> None:
        # Another margin asks another question.
        known = state if state and state["harm"]["null_ratio"] == null_ratio else None
        self.harm = EventShare.from_state(known["harm"]) if known else EventShare(null_ratio)
        self.events: dict[str, list[int]] = dict(known["events"]) if known else {}
        self.step: list[list[int]] = [list(arm) for arm in known["step"]] if known else [[0, 0], [0, 0]]

    def new_step(self) -> None:
        """What was compared is counted anew; the evidence goes on."""
        self.step = [[0, 0], [0, 0]]

    def tick(self, canary: Executions, stable: Executions) -> None:
        """Executions of one moment, of one place, judged by one threshold per bucket."""
        for bucket in sorted(canary.keys() & stable.keys()):
            self._compare(*canary[bucket], *stable[bucket])

    def _compare(self, canary_in_time: int, canary_slow: int, stable_in_time: int, stable_slow: int) -> None:
        canary, stable, slow = canary_in_time + canary_slow, stable_in_time + stable_slow, canary_slow + stable_slow
        if not canary or not stable:
            return
        for arm, (every, late) in zip(self.step, ((canary, canary_slow), (stable, stable_slow)), strict=True):
            arm[0] += every
            arm[1] += late
        share = share_of(canary, stable)
        if not slow or not 0.0 < share < 1.0:
            return
        self.harm.add(share, canary_slow, slow)
        before = self.events.get(repr(share), [0, 0])
        self.events[repr(share)] = [before[0] + canary_slow, before[1] + slow]

    @property
    def compared(self) -> bool:
        """Both variants had executions of one bucket in one tick of this step."""
        return all(every for every, _ in self.step)

    def state(self) -> dict[str, Any]:
        """Everything, as JSON holds it exactly."""
        return {"harm": self.harm.state(), "events": self.events, "step": self.step}


def share_of(canary: int, stable: int) -> float:
    """The canary's share of executions, rounded up to a step of `ODDS_STEP`; both have some."""
    steps = math.ceil(math.log(canary / stable) / math.log(ODDS_STEP) - 1e-9)
    odds = ODDS_STEP**steps
    return math.ceil(odds / (1.0 + odds) * _DIGITS) / _DIGITS


def expected_of_canary(events: Mapping[str, Sequence[int]], ratio: float) -> float:
    """How many of these events would be the canary's on average, if its rate were `ratio` times stable's."""
    total = 0.0
    for text, (_, every) in events.items():
        weight = float(text)
        total += every * ratio * weight / (ratio * weight + 1.0 - weight)
    return total
