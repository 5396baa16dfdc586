"""CPU time of executions without a system call for each of them.

A thread's CPU clock is a system call, read twice per run: 0.6 us alone, 7 us of a request in a worker that slept
before it. So of short runs every 16th is measured, and the others are taken to have used the same share of their time.
"""

import time
from collections.abc import Callable
from typing import Final

PERIOD: Final = 16


class CpuTime:
    """Of the executions of one runtime, which come one at a time.

    Args:
        short_ns: what is predicted to take longer is always measured.
        read_ns: CPU time of the calling thread.
    """

    __slots__ = ("_begun_ns", "_measures", "_read_ns", "_share", "_short_ns", "_unmeasured")

    def __init__(self, short_ns: int, read_ns: Callable[[], int] = time.thread_time_ns) -> None:
        self._short_ns = short_ns
        self._read_ns = read_ns
        self._unmeasured = PERIOD
        self._share = 1.0
        self._measures = False
        self._begun_ns = 0

    def begin(self, predicted_ns: int) -> None:
        """A run begins in this thread."""
        self._measures = self._unmeasured >= PERIOD - 1 or predicted_ns > self._short_ns
        if self._measures:
            self._begun_ns = self._read_ns()

    def end(self, took_ns: int) -> tuple[int, bool]:
        """The run is over: ns of CPU time, and whether they were measured."""
        if not self._measures:
            # One that was not so short after all: the next is measured.
            self._unmeasured = PERIOD if took_ns > self._short_ns else self._unmeasured + 1
            return int(self._share * took_ns), False
        self._unmeasured = 0
        used_ns = self._read_ns() - self._begun_ns
        self._share = min(1.0, used_ns / max(1, took_ns))
        return used_ns, True
