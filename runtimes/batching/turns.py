"""One callback per loop turn for all batchers of a worker, under one time budget.

Requests parsed in one turn of the event loop are executed at its end: callbacks scheduled by read events run
before the loop polls again. What does not fit the budget waits for the next turn, after I/O. There is no timer
per request: a sweep every 10 ms, and only while something waits.
"""

from collections.abc import Callable
from typing import Any, Final, Protocol

from runtimes.batching.linger import Linger

SWEEP_S: Final = 0.010
RECENT_NS: Final = 10_000_000
"""A turn longer ago says nothing of the next one: an idle worker must not refuse for the load it once had."""


class Loop(Protocol):
    """The two calls of an event loop that batching needs; a virtual one drives the simulation."""

    def call_soon(self, callback: Callable[[], object], /) -> Any:
        """Run after the callbacks that are ready now."""

    def call_later(self, delay: float, callback: Callable[[], object], /) -> Any:
        """Run after `delay` seconds."""


class Turner(Protocol):
    """What takes turns: a batcher."""

    def turn(self, budget_ns: int, must: bool) -> int:
        """Run what is ripe within the budget; give back the ns spent on the loop.

        `must`: first in line, so at least one batch has to run, whatever the budget says.
        """

    def sweep(self, now_ns: int) -> bool:
        """Drop what has expired, start what has become ripe; give back whether anything still waits."""


class TurnScheduler:
    """Calls each batcher that asked, once, at the end of the current turn.

    Args:
        budget_ns: time that executions on the loop may take in one turn, over all models.
        linger_ns: how long to look for the next request before the loop sleeps, where that pays; 0 = never.
        before: called before the executions of each turn.

    Attributes:
        running: executions in threads; their batchers count them here.
    """

    def __init__(
        self,
        loop: Loop,
        now_ns: Callable[[], int],
        *,
        budget_ns: int,
        linger_ns: int = 0,
        before: Callable[[], object] | None = None,
    ) -> None:
        self._loop = loop
        self._now_ns = now_ns
        self._budget_ns = budget_ns
        self._before = before
        self._asked: dict[Turner, None] = {}
        self._waiting: dict[Turner, None] = {}
        self.running = 0
        self._scheduled = False
        self._sweeping = False
        self._lag_ns = 0
        self._turned_ns = 0
        self._linger = Linger()
        self._linger_ns = linger_ns
        self._quiet_since_ns = 0
        self._carried = 0
        self._backwards = False

    def lag_ns(self, now_ns: int) -> int:
        """Smoothed length of recent turns, as the part of every wait that no queue shows; 0 when all is quiet."""
        return self._lag_ns if now_ns - self._turned_ns < RECENT_NS else 0

    def request(self, turner: Turner) -> None:
        """Ask for a turn at the end of this loop turn (or of the next, when asked from within a turn)."""
        self._asked[turner] = None
        if not self._scheduled:
            self._scheduled = True
            if self._quiet_since_ns:
                self._linger.came(self._now_ns() - self._quiet_since_ns)
                self._quiet_since_ns = 0
            self._loop.call_soon(self._turn)

    def watch(self, turner: Turner) -> None:
        """Ask to be swept every 10 ms until nothing waits there."""
        self._waiting[turner] = None
        if not self._sweeping:
            self._sweeping = True
            self._loop.call_later(SWEEP_S, self._sweep)

    def after(self, delay_ns: int, callback: Callable[[], object]) -> None:
        """Call back after a delay, rounded up to a millisecond (the resolution of uvloop's timers)."""
        self._loop.call_later(-(-delay_ns // 1_000_000) / 1000, callback)

    def _turn(self) -> None:
        asked, self._asked = list(self._asked), {}
        if len(asked) > 1:
            asked = self._in_order(asked)
        self._scheduled = False
        if self._before is not None:
            self._before()
        budget = self._budget_ns
        must = True
        failed: Exception | None = None
        for turner in asked:
            # A model that finds the budget spent asks again and so stands first in the next turn's line,
            # before those that will ask during the I/O between: no model can starve another.
            try:
                spent = turner.turn(max(0, budget), must)
            except Exception as error:
                # Our own mistake in one model's turn must not cost the others theirs; the loop's handler hears of it.
                failed = error
                continue
            must = must and spent == 0
            budget -= spent
        self._carried = len(self._asked)
        self._lag_ns += (self._budget_ns - budget - self._lag_ns) >> 3
        self._turned_ns = self._now_ns()
        if self._linger_ns and not (self._scheduled or self._waiting or self.running):
            self._quiet_since_ns = self._turned_ns
            if self._linger.pays:
                self._loop.call_soon(self._look)
        if failed is not None:
            raise failed

    def _look(self) -> None:
        """The loop polls its sockets between two callbacks, so one that asks for another keeps it from sleeping."""
        if self._scheduled:
            return
        if self._now_ns() - self._turned_ns < self._linger_ns:
            self._loop.call_soon(self._look)
        else:
            # Whoever comes later was not found by looking.
            self._quiet_since_ns = 0
            self._linger.missed()

    def _in_order(self, asked: list[Turner]) -> list[Turner]:
        """Those that found the budget spent, then the others, from the front and from the back in turn.

        In the order of their first request the model with most of them would always go first, and one with few, a
        canary, would always wait for it: slower by its share alone.
        """
        carried, new = asked[: self._carried], asked[self._carried :]
        self._backwards = not self._backwards
        return carried + (new[::-1] if self._backwards else new)

    def _sweep(self) -> None:
        now = self._now_ns()
        try:
            for turner in list(self._waiting):
                if not turner.sweep(now):
                    del self._waiting[turner]
        finally:
            self._sweeping = bool(self._waiting)
            if self._sweeping:
                self._loop.call_later(SWEEP_S, self._sweep)
