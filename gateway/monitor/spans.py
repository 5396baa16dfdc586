"""When cohorts begin and end, through changes of how long they last. Pure; whole seconds, Unix time.

A change holds from its moment on: the cohort that it comes into ends there, and those before stay as they were, or a
label that comes later would find no predictions of its time.
"""

from bisect import bisect_right
from collections.abc import Iterable

import msgspec


class Spans(msgspec.Struct, frozen=True):
    """How long cohorts last.

    Attributes:
        eras: (since when, how long), oldest first; the first one holds for all time before the second.
    """

    eras: tuple[tuple[int, int], ...]

    @property
    def span_s(self) -> int:
        """Of cohorts that begin now."""
        return self.eras[-1][1]

    def start(self, time_s: float) -> int:
        """Of the cohort of a time."""
        at = self._era(time_s)
        since_s, span_s = self.eras[at]
        start = int(time_s // span_s) * span_s
        return max(since_s, start) if at else start

    def end(self, start_s: int) -> int:
        """Of the cohort that begins then."""
        at = self._era(start_s)
        span_s = self.eras[at][1]
        end = (start_s // span_s + 1) * span_s
        return end if at + 1 == len(self.eras) else min(end, self.eras[at + 1][0])

    def changed(self, span_s: int, since_s: int, starts: Iterable[int]) -> "Spans":
        """Cohorts last otherwise from a moment on. Args: starts: of cohorts that there are; eras without one go."""
        needed = {0, *map(self._era, starts)}
        eras = [era for at, era in enumerate(self.eras) if at in needed and (at == 0 or era[0] < since_s)]
        return Spans((*eras, (since_s, span_s)))

    def _era(self, time_s: float) -> int:
        if len(self.eras) == 1:
            return 0  # each label comes by here
        return max(0, bisect_right(self.eras, time_s, key=lambda era: era[0]) - 1)
