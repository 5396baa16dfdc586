"""Each delta once: what of a stream of numbered deltas was seen, whatever is sent again, late or never. Pure.

A replica numbers the deltas of one life (epoch) from 1. Of each epoch the highest number and a bitmap of the 64 below
are kept: what is known there is a duplicate, what is older than the bitmap is refused as late. A number that leaves
the bitmap unseen is a gap: those rows are in no window, and the count says so. With every delta admitted at most once
and sums of int64, the counts are the same bit for bit in any order.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

BITMAP: Final = 64
MAX_REPLICAS: Final = 4096
"""Lives of workers that are remembered, over all replicas; the one longest unheard is forgotten first."""
EPOCHS: Final = 4
"""Lives of one replica that are remembered: a late delta of the life before is still counted."""
_MASK: Final = (1 << BITMAP) - 1


class Mark(msgspec.Struct, array_like=True):
    """What was seen of one epoch.

    Attributes:
        high: the highest number.
        bits: bit i = number `high - i` was seen.
    """

    epoch: int
    high: int = 0
    bits: int = 0

    def admit(self, sequence: int) -> tuple[bool, int]:
        """Note a number: whether it is new, and how many left the bitmap unseen."""
        step = sequence - self.high
        if step <= 0:
            if -step >= BITMAP or self.bits >> -step & 1:
                return False, 0
            self.bits |= 1 << -step
            return True, 0
        # The numbers that leave: those at the old end of the bitmap, and those that were never in it.
        before = min(self.high, BITMAP)
        leaving = max(before + step - BITMAP, 0)
        old = min(leaving, before)
        seen = (self.bits >> (before - old)).bit_count() if old else 0
        self.bits = (self.bits << min(step, BITMAP) | 1) & _MASK
        self.high = sequence
        return True, leaving - seen

    def open_gaps(self) -> int:
        """Numbers inside the bitmap that are still missing."""
        return min(self.high, BITMAP) - self.bits.bit_count()


class Cursor:
    """Which deltas of all replicas were counted.

    Attributes:
        duplicated: deltas refused because they were counted, or came too late to know.
        gaps: numbers given up; their rows are in no window.
    """

    def __init__(self) -> None:
        self.duplicated = 0
        self.gaps = 0
        self._marks: dict[str, list[Mark]] = {}

    def admit(self, replica: str, epoch: int, sequence: int) -> bool:
        """Whether to count a delta; it is then noted as counted.

        Args:
            epoch: grows with each life of the replica, e.g. its start in ns.
            sequence: from 1.
        """
        assert sequence >= 1, "deltas are numbered from 1"
        mark = self._mark(replica, epoch)
        new, gaps = (False, 0) if mark is None else mark.admit(sequence)
        self.gaps += gaps
        self.duplicated += not new
        return new

    def _mark(self, replica: str, epoch: int) -> Mark | None:
        marks = self._marks.pop(replica, [])
        self._marks[replica] = marks
        if len(self._marks) > MAX_REPLICAS:
            self._forget(self._marks.pop(next(iter(self._marks))))
        for mark in marks:
            if mark.epoch == epoch:
                return mark
        if len(marks) == EPOCHS and epoch < marks[0].epoch:
            return None
        mark = Mark(epoch)
        marks.append(mark)
        marks.sort(key=lambda one: one.epoch)
        self._forget(marks[:-EPOCHS])
        del marks[:-EPOCHS]
        return mark

    def _forget(self, marks: list[Mark]) -> None:
        self.gaps += sum(mark.open_gaps() for mark in marks)

    def state(self) -> dict[str, Any]:
        """Plain values that `restored` takes."""
        marks = {replica: msgspec.to_builtins(marks) for replica, marks in self._marks.items()}
        return {"duplicated": self.duplicated, "gaps": self.gaps, "marks": marks}

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> "Cursor":
        """A cursor as it was. Raises msgspec.ValidationError: not what `state` gave."""
        cursor = cls()
        cursor.duplicated, cursor.gaps = state["duplicated"], state["gaps"]
        cursor._marks = {replica: msgspec.convert(marks, list[Mark]) for replica, marks in state["marks"].items()}
        return cursor
