"""Ends executions that run too long: one thread per worker looks at what runs every 20 ms.

ONNX Runtime acts on it between graph nodes only (a Loop ends within milliseconds; one huge MatMul does not).
"""

import threading
from collections.abc import Callable
from typing import Final

from runtimes.execution.session import RunControl

PERIOD_S: Final = 0.020
FLOOR_NS: Final = 100_000_000
"""No run is ended before this: 20 x p90 of a 10 us model would be less than one lost time slice."""
CEILING_NS: Final = 1_000_000_000


class Guard:
    """One place where executions happen, one at a time: the loop, or the pool thread of a model.

    Attributes:
        control: goes with the current execution; replaced after it was terminated, for its flag sticks.
    """

    __slots__ = ("control", "fired", "limit_ns", "started_ns")

    def __init__(self) -> None:
        self.control = RunControl()
        self.started_ns = 0
        self.limit_ns = 0
        self.fired = False

    def end(self) -> bool:
        """The execution is over; give back whether the watchdog ended it."""
        self.started_ns = 0
        fired = self.fired
        if fired:
            self.control = RunControl()
            self.fired = False
        return fired


class Watchdog:
    """The thread that looks; it sleeps while no guard exists."""

    def __init__(self, now_ns: Callable[[], int]) -> None:
        self._now_ns = now_ns
        self._guards: set[Guard] = set()
        self._changed = threading.Condition()
        self._stopped = False
        self._thread: threading.Thread | None = None

    def add(self, guard: Guard) -> None:
        """Watch a guard from now on."""
        with self._changed:
            self._guards = self._guards | {guard}
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
                self._thread.start()
            self._changed.notify()

    def remove(self, guard: Guard) -> None:
        """Watch it no longer."""
        with self._changed:
            self._guards = self._guards - {guard}

    def stop(self) -> None:
        """End the thread."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _watch(self) -> None:
        while True:
            with self._changed:
                while not self._guards and not self._stopped:
                    self._changed.wait()
                if not self._stopped:
                    self._changed.wait(PERIOD_S)
                if self._stopped:
                    return
            self.look()

    def look(self) -> None:
        """End what has run past its limit."""
        now = self._now_ns()
        for guard in self._guards:
            started = guard.started_ns
            if started and now - started > guard.limit_ns and not guard.fired:
                guard.fired = True
                guard.control.terminate()


def limit_ns(predicted_ns: int, configured_ns: int | None) -> int:
    """Longest time an execution may take, whatever its callers' deadlines: 20 x p90 within [100 ms, 1 s].

    Args:
        predicted_ns: about the 90th percentile of such a run.
        configured_ns: what the model's owner says instead.
    """
    return configured_ns or min(CEILING_NS, max(FLOOR_NS, 20 * predicted_ns))
