"""Closed spans of counts that do not overlap: when one ends, and what it holds. Pure; time is an argument.

A window closes at the first delta that takes it to its rows, or when its time is over, or with both at whichever is
first, but then not before `min_rows`. Rows of a delta are never divided. Windows follow each other without a hole:
how often the monitor may be wrong is a matter of time, and time without rows is time, too.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from gateway.monitor.counting import Counts
from gateway.monitor.plan import ROWS

DAY_MS: Final = 86_400_000
BLIND_AFTER: Final = 2
"""Longest windows without a verdict, after which the monitor is blind."""


@dataclass(frozen=True, slots=True)
class Rule:
    """When windows close.

    Attributes:
        rows: at so many; None = by time alone.
        time_ms: after so long; None = by rows alone.
        min_rows: fewer are not judged.
        most_rows: a window of any kind closes at so many, because the reference serves no larger one; 0 = no bound.
    """

    rows: int | None
    time_ms: int | None
    min_rows: int
    most_rows: int = 0

    @property
    def limit(self) -> int:
        """Rows at which a window closes whatever its time; 0 = none."""
        bounds = [bound for bound in (self.rows, self.most_rows) if bound]
        return min(bounds, default=0)

    @property
    def longest_ms(self) -> int:
        """How long a window is expected to take at most: its time, or a day where it has none."""
        return self.time_ms or DAY_MS


@dataclass(frozen=True, slots=True, eq=False)
class Span:
    """A closed window.

    Attributes:
        counts: everything that was taken in it.
    """

    opened_ms: int
    closed_ms: int
    counts: Counts

    @property
    def rows(self) -> int:
        """Rows counted."""
        return int(self.counts[ROWS])

    @property
    def duration_ms(self) -> int:
        """At least 1."""
        return max(1, self.closed_ms - self.opened_ms)


class Windows:
    """The windows of one series. Give it every delta once.

    Args:
        size: of vectors.
        opened_ms: when the first window begins.
    """

    def __init__(self, rule: Rule, size: int, opened_ms: int) -> None:
        self.rule = rule
        self.opened_ms = opened_ms
        self.judged_ms = opened_ms
        self.counts: Counts = np.zeros(size, np.int64)

    def __repr__(self) -> str:
        return f"Windows({self.rule}, opened_ms={self.opened_ms}, rows={int(self.counts[ROWS])})"

    def take(self, delta: Counts, now_ms: int) -> list[Span]:
        """Add counts; the windows that closed before and with them."""
        closed = self.tick(now_ms)
        self.counts += delta
        rows, limit = int(self.counts[ROWS]), self.rule.limit
        late = self.rule.rows is not None and self._is_over(now_ms) and rows >= self.rule.min_rows
        if (limit and rows >= limit) or late:
            closed.append(self._close(now_ms))
        return closed

    def tick(self, now_ms: int) -> list[Span]:
        """Time has come to `now_ms`: the window that closed by it, if any."""
        if not self._is_over(now_ms):
            return []
        if self.rule.rows is not None:
            enough = int(self.counts[ROWS]) >= self.rule.min_rows
            return [self._close(now_ms)] if enough else []
        assert self.rule.time_ms is not None, "what is over has a time"
        # Hours without any call are one window: it would say the same twenty times.
        whole = (now_ms - self.opened_ms) // self.rule.time_ms
        return [self._close(self.opened_ms + whole * self.rule.time_ms)]

    def blind(self, now_ms: int) -> bool:
        """No verdict for two of the longest windows."""
        return now_ms - self.judged_ms > BLIND_AFTER * self.rule.longest_ms

    def judged(self, span: Span) -> None:
        """Note that a window had a verdict."""
        self.judged_ms = span.closed_ms

    def _is_over(self, now_ms: int) -> bool:
        return self.rule.time_ms is not None and now_ms - self.opened_ms >= self.rule.time_ms

    def _close(self, closed_ms: int) -> Span:
        span = Span(self.opened_ms, max(closed_ms, self.opened_ms), self.counts)
        self.counts = np.zeros_like(self.counts)
        self.opened_ms = span.closed_ms
        return span

    def plain(self) -> dict[str, Any]:
        """What is not in the rule, in plain values."""
        return {"opened_ms": self.opened_ms, "judged_ms": self.judged_ms, "counts": sparse(self.counts)}

    def restore(self, plain: Mapping[str, Any]) -> None:
        """Become what `plain` was."""
        self.opened_ms, self.judged_ms = plain["opened_ms"], plain["judged_ms"]
        self.counts = dense(plain["counts"], len(self.counts))


def sparse(counts: Counts) -> list[list[int]]:
    """Places and values of what is not 0: a vector is mostly empty."""
    places = np.flatnonzero(counts)
    return [places.tolist(), counts[places].tolist()]


def dense(pairs: Iterable[Iterable[int]], size: int) -> Counts:
    """What `sparse` was given. Raises ValueError or IndexError: it is of another vector."""
    places, values = pairs
    counts = np.zeros(size, np.int64)
    counts[np.fromiter(places, np.int64)] = np.fromiter(values, np.int64)
    return counts
