"""How a worker stops without losing a request: pure decisions by time and counts; `gateway.worker` acts on them.

    SERVING      until the signal
    ANNOUNCED    readiness is 503, answers carry `connection: close`; new connections are still welcome, because a
                 balancer in front needs `delay` to notice
    CLOSED       the listening socket is gone; open connections have a moment for a request that is on its way
    FINISHING    idle connections close, busy ones close after their answer
    REFUSING     the grace is over: whatever is still due gets 503, and a moment to leave
    STOPPED      nothing is open any more, or the last moment has passed

A phase is entered once and in this order; one whose time has passed already (no delay, no grace) lasts no time but is
entered all the same, so the shell that acts on entering never misses an action. All times are ns on one clock.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final


class Phase(IntEnum):
    """How far a worker is on its way out."""

    SERVING = 0
    ANNOUNCED = 1
    CLOSED = 2
    FINISHING = 3
    REFUSING = 4
    STOPPED = 5


IN_FLIGHT_NS: Final = 200_000_000
"""A client that had its answer just before the end may have sent its next request already: so long a connection
that looks idle is kept after the listening socket has closed."""
LAST_WORDS_NS: Final = 500_000_000
"""Time for the last 503s to leave; a peer that does not read them is cut off."""


@dataclass(frozen=True, slots=True)
class DrainPlan:
    """When each phase ends at the latest.

    Attributes:
        started_ns: when the signal came.
        delay_ns: length of ANNOUNCED; never beyond the grace.
        grace_ns: from the signal to REFUSING.
    """

    started_ns: int
    delay_ns: int
    grace_ns: int

    @property
    def stops_ns(self) -> int:
        """STOPPED by then, whatever the peers do."""
        return self.started_ns + self.grace_ns + LAST_WORDS_NS

    def ends_ns(self, phase: Phase) -> int:
        """The latest end of a phase between SERVING and STOPPED."""
        grace_ends = self.started_ns + self.grace_ns
        delay_ends = min(self.started_ns + self.delay_ns, grace_ends)
        return {
            Phase.ANNOUNCED: delay_ends,
            Phase.CLOSED: min(delay_ends + IN_FLIGHT_NS, grace_ends),
            Phase.FINISHING: grace_ends,
            Phase.REFUSING: self.stops_ns,
        }[phase]


class Drain:
    """The way out of one worker.

    Attributes:
        phase: where it is now.
    """

    def __init__(self) -> None:
        self.phase = Phase.SERVING
        self._plan: DrainPlan | None = None

    def __repr__(self) -> str:
        return f"<Drain {self.phase.name} {self._plan}>"

    def begin(self, plan: DrainPlan) -> None:
        """The signal has come; a second call changes nothing."""
        if self._plan is None:
            self._plan = plan

    def advance(self, now_ns: int, connections: int) -> Phase | None:
        """Enter the next phase if its time has come: act on it, count anew and ask again until None.

        Args:
            connections: open now. None left and none to come means nothing to wait for.
        """
        if self._plan is None or self.phase == Phase.STOPPED or not self._is_over(self._plan, now_ns, connections):
            return None
        self.phase = Phase(self.phase + 1)
        return self.phase

    def _is_over(self, plan: DrainPlan, now_ns: int, connections: int) -> bool:
        if self.phase == Phase.SERVING:
            return True
        if self.phase >= Phase.CLOSED and connections == 0:
            return True
        return now_ns >= plan.ends_ns(self.phase)

    def wait_ns(self, now_ns: int) -> int | None:
        """Time until `advance` has to be called again, should no connection end before; None = no need."""
        if self._plan is None or self.phase == Phase.STOPPED:
            return None
        if self.phase == Phase.SERVING:
            return 0
        return max(0, self._plan.ends_ns(self.phase) - now_ns)
