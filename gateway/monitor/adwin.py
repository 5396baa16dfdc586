"""ADWIN: a window over a stream of numbers that grows while their mean holds and drops its old part when not. Pure.

Watches errors of single predictions once labels are in: no window length to choose. Memory grows with the logarithm of
the window. Source: Bifet and Gavalda, "Learning from time-changing data with adaptive windowing" (2007), ADWIN2;
defaults and details (normal form of the bound, checks at every 32nd value) as River has them, index by index.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any, Final

GRACE: Final = 10
Bucket = tuple[float, float]
"""Sum of its values, and sum of their squared deviations from its own mean."""


def _merged(a: Bucket, b: Bucket, a_size: int, b_size: int) -> Bucket:
    """Two neighbouring buckets as one."""
    apart = a[0] / a_size - b[0] / b_size
    return a[0] + b[0], a[1] + b[1] + a_size * b_size * apart**2 / (a_size + b_size)


class Adwin:
    """One stream.

    Args:
        delta: bound on the chance of a false alarm at one check, 0..1.
        clock: values between checks.
        buckets: of one size before the oldest two become one of twice the size.
        least: values that each side of a cut needs.
        restart: begin anew with the value after a change, as River does; else go on with the part of the window that
            is left, as the paper does: several changes in a row then mostly are one.
    """

    def __init__(
        self, delta: float = 0.002, clock: int = 32, buckets: int = 5, least: int = 5, restart: bool = True
    ) -> None:
        assert 0.0 < delta < 1.0, "delta is a probability"
        self.delta, self.clock, self.buckets, self.least, self.restart = delta, clock, buckets, least, restart
        self.changed = False
        self._clear()

    def _clear(self) -> None:
        self.seen = self.width = 0
        self.total = self.squares = 0.0
        self._rows: list[list[Bucket]] = [[]]  # row i: buckets of 2**i values, oldest first; the last row is the oldest

    def __repr__(self) -> str:
        return f"Adwin(width={self.width}, mean={self.mean:.6g}, seen={self.seen})"

    @property
    def mean(self) -> float:
        """Of the window; 0 if it is empty."""
        return self.total / self.width if self.width else 0.0

    @property
    def variance(self) -> float:
        """Of the window, divided by its width; 0 if it is empty."""
        return self.squares / self.width if self.width else 0.0

    def update(self, value: float) -> bool:
        """Take the next value, finite; whether a change was found, and the old part of the window dropped."""
        if self.changed and self.restart:
            self._clear()
        self.changed = False
        self._insert(value)
        self.seen += 1
        if self.seen % self.clock == 0:
            while self._has_cut():
                self._drop_oldest()
                self.changed = True
        return self.changed

    def _insert(self, value: float) -> None:
        if self.width:
            self.squares += self.width * (value - self.mean) ** 2 / (self.width + 1)
        self.width += 1
        self.total += value
        self._rows[0].append((value, 0.0))
        for level in range(len(self._rows)):
            row = self._rows[level]
            if len(row) <= self.buckets:
                break
            if level + 1 == len(self._rows):
                self._rows.append([])
            self._rows[level + 1].append(_merged(row[0], row[1], 2**level, 2**level))
            del row[:2]

    def _oldest_first(self) -> Iterator[tuple[int, Bucket]]:
        for level in range(len(self._rows) - 1, -1, -1):
            for bucket in self._rows[level]:
                yield 2**level, bucket

    def _has_cut(self) -> bool:
        """Whether the means on both sides of some boundary between buckets are too far apart for one mean."""
        if self.width <= GRACE and not self.changed:
            return False
        old, old_total = 0, 0.0
        log_term = math.log(2.0 * math.log(self.width) / self.delta)
        for size, (total, _) in self._oldest_first():
            old += size
            old_total += total
            new = self.width - old
            if new < self.least:
                return False
            if old >= self.least:
                apart = abs(old_total / old - (self.total - old_total) / new)
                if apart > self._bound(old, new, log_term):
                    return True
        return False

    def _bound(self, old: int, new: int, log_term: float) -> float:
        inverse = 1.0 / (old - self.least + 1) + 1.0 / (new - self.least + 1)
        return math.sqrt(2.0 * inverse * self.variance * log_term) + 2.0 / 3.0 * log_term * inverse

    def _drop_oldest(self) -> None:
        size = 2 ** (len(self._rows) - 1)
        total, squares = self._rows[-1].pop(0)
        self.width -= size
        self.total -= total
        apart = total / size - self.mean
        self.squares = max(0.0, self.squares - squares - size * self.width * apart**2 / (size + self.width))
        while len(self._rows) > 1 and not self._rows[-1]:
            self._rows.pop()

    def plain(self) -> dict[str, Any]:
        """What it has seen, in plain values."""
        rows = [[list(bucket) for bucket in row] for row in self._rows]
        numbers = {"seen": self.seen, "width": self.width, "total": self.total, "squares": self.squares}
        return {**numbers, "changed": self.changed, "rows": rows}

    def restore(self, plain: Mapping[str, Any]) -> None:
        """Become what `plain` was; settings are the constructor's."""
        self.seen, self.width = plain["seen"], plain["width"]
        self.total, self.squares, self.changed = plain["total"], plain["squares"], plain["changed"]
        self._rows = [[(total, squares) for total, squares in row] for row in plain["rows"]]
