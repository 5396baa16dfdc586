"""Whose rows are counted next, a step in a turn of the event loop, so that requests come between two steps."""

from collections.abc import Sequence

from gateway.monitor.tap import SLICE_ROWS, Tap


class CountingTurns:
    """Gives every tap that has rows a slice in its turn: one that is always full keeps no other waiting."""

    def __init__(self) -> None:
        self._due: list[Tap] = []

    def step(self, taps: Sequence[Tap]) -> bool:
        """One step; whether the next should come at once, and not when there may be rows again."""
        if not self._due:
            self._due = [tap for tap in taps if tap.rows]
        if not self._due:
            return False
        tap = self._due[-1]
        tap.work()
        if not tap.begun:
            self._due.pop()
        return bool(self._due) or any(one.rows >= SLICE_ROWS for one in taps)
