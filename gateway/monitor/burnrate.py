"""Latency: how fast the error budget burns. Pure.

An objective of 99.5 % leaves 0.5 % of requests for failure; a burn rate of 1 uses that up exactly in the period it is
for. An alarm needs a long window, so that it matters, and a short one, so that it is still so. Windows and factors:
Google, "The Site Reliability Workbook" (2018), chapter 5, table 5-8. Few requests make wild rates, hence a minimum of
bad events in the long window.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

MINUTE, HOUR, DAY = 60, 3_600, 86_400
LEAST_BAD: Final = 10


@dataclass(frozen=True, slots=True)
class BurnRule:
    """An alarm if both windows burn at least so fast.

    Attributes:
        factor: burn rate.
        long_s: the window in which it matters, seconds.
        short_s: the window that shows that it goes on, a twelfth of the long one.
        severity: critical pages, warning can wait for the morning.
        budget: of a 30-day budget, what is gone when it alarms.
    """

    factor: float
    long_s: int
    short_s: int
    severity: Literal["critical", "warning"]
    budget: float


RULES: Final = (
    BurnRule(14.4, HOUR, 5 * MINUTE, "critical", 0.02),
    BurnRule(6.0, 6 * HOUR, 30 * MINUTE, "critical", 0.05),
    BurnRule(3.0, DAY, 2 * HOUR, "warning", 0.10),
    BurnRule(1.0, 3 * DAY, 6 * HOUR, "warning", 0.10),
)
WINDOWS_S: Final = tuple(sorted({window for rule in RULES for window in (rule.long_s, rule.short_s)}))

Counts = npt.NDArray[np.int64]
Events = tuple[int, int]
"""Bad ones, and all."""


def burn_rate(bad: int, total: int, objective: float) -> float:
    """Share of bad events over the share allowed; 0 without events.

    Args:
        objective: share of good events promised, below 1: 0.995.

    Raises:
        ValueError: an objective outside 0..1, or counts that contradict each other.
    """
    if not 0.0 <= objective < 1.0:
        raise ValueError(f"objective: expected 0 <= objective < 1, got {objective}")
    if not 0 <= bad <= total:
        raise ValueError(f"expected 0 <= bad <= total, got {bad} of {total}")
    return bad / total / (1.0 - objective) if total else 0.0


def out_of_reach(objective: float, rules: Sequence[BurnRule] = RULES) -> list[BurnRule]:
    """Rules that cannot alarm: bad events alone do not burn the budget so fast. Args: objective: as of `burn_rate`."""
    return [rule for rule in rules if burn_rate(1, 1, objective) < rule.factor]


@dataclass(frozen=True, slots=True)
class Burn:
    """A rule that alarms, with both rates."""

    rule: BurnRule
    long_rate: float
    short_rate: float


def burning(
    events: Mapping[int, Events], objective: float, rules: Sequence[BurnRule] = RULES, least_bad: int = LEAST_BAD
) -> list[Burn]:
    """The rules that alarm, the fastest first.

    Args:
        events: per window in seconds (`WINDOWS_S`), what fell into it, until now.
        least_bad: bad events that the long window must have.
    """
    found = []
    for rule in rules:
        long, short = (burn_rate(*events[window], objective) for window in (rule.long_s, rule.short_s))
        if events[rule.long_s][0] >= least_bad and min(long, short) >= rule.factor:
            found.append(Burn(rule, long, short))
    return found


class SlotRing:
    """Counts per slot of time, for as long as the longest window. Constant memory.

    Args:
        slot_s: resolution, seconds.
        span_s: the longest window, seconds; a multiple of `slot_s`.
        width: counts of a slot.
    """

    def __init__(self, slot_s: int, span_s: int, width: int) -> None:
        assert span_s % slot_s == 0, "windows are made of whole slots"
        self.slot_s, self.slots = slot_s, span_s // slot_s
        self._counts = np.zeros((self.slots, width), np.int64)
        self._newest = -1

    def put(self, now_s: float, counts: Sequence[int]) -> None:
        """Counts of this moment (seconds of a clock that does not go back by more than the span)."""
        slot = int(now_s // self.slot_s)
        self._forget_until(slot)
        if slot > self._newest - self.slots:
            self._counts[slot % self.slots] += counts

    def _forget_until(self, slot: int) -> None:
        if slot <= self._newest:
            return
        stale = np.arange(max(self._newest + 1, slot - self.slots + 1), slot + 1) % self.slots
        self._counts[stale] = 0
        self._newest = slot

    def summed(self, now_s: float, window_s: int) -> Counts:
        """Counts of the last `window_s` seconds, the slot of now included."""
        self._forget_until(int(now_s // self.slot_s))
        count = min(self.slots, window_s // self.slot_s)
        at = np.arange(self._newest - count + 1, self._newest + 1) % self.slots
        found: Counts = self._counts[at].sum(axis=0)
        return found

    def plain(self) -> dict[str, Any]:
        """Slots that hold something, in plain values."""
        full = np.flatnonzero(self._counts.any(axis=1))
        return {"newest": self._newest, "slots": [[int(at), *map(int, self._counts[at])] for at in full]}

    def restore(self, plain: Mapping[str, Any]) -> None:
        """Become what `plain` was; of the same resolution, span and width."""
        self._newest = plain["newest"]
        self._counts[:] = 0
        for at, *counts in plain["slots"]:
            self._counts[at] = counts


class EventRing(SlotRing):
    """Bad and all events. Args as of `SlotRing`."""

    def __init__(self, slot_s: int = MINUTE, span_s: int = max(WINDOWS_S)) -> None:
        super().__init__(slot_s, span_s, 2)

    def add(self, now_s: float, bad: int, total: int) -> None:
        """Events of this moment."""
        self.put(now_s, (bad, total))

    def within(self, now_s: float, window_s: int) -> Events:
        """Bad and all events of the last `window_s` seconds, the slot of now included."""
        bad, total = self.summed(now_s, window_s).tolist()
        return bad, total

    def windows(self, now_s: float, windows_s: Sequence[int] = WINDOWS_S) -> dict[int, Events]:
        """What `burning` asks for."""
        return {window: self.within(now_s, window) for window in windows_s}
