"""What all connections of one worker's data port share: a door with a dataplane behind it."""

import os
import time
from collections.abc import Callable
from concurrent.futures import Executor

from gateway.dataplane import Dataplane
from gateway.http.door import Door
from gateway.http.limits import EdgeLimits
from gateway.http.meanings import Meanings


class Edge(Door):
    """State of one worker's listening side.

    Attributes:
        head_ok: status line and headers that every plain answer begins with, refreshed each second.
        executor: compresses large answers.
        meanings: of the names of headers, for the policies in force.
        slow_lane_only: every request takes the slow lane (the differential tests use it).
    """

    def __init__(
        self,
        dataplane: Dataplane,
        limits: EdgeLimits,
        *,
        call_later: Callable[..., object],
        executor: Executor,
        random_bytes: Callable[[int], bytes] = os.urandom,
        wall_s: Callable[[], float] = time.time,
    ) -> None:
        self.dataplane = dataplane
        self.executor = executor
        self.slow_lane_only = False
        self.meanings = Meanings(dataplane.header_names)
        self.head_ok = b""
        super().__init__(
            limits, dataplane.counts, dataplane.log, call_later=call_later, random_bytes=random_bytes, wall_s=wall_s
        )

    @property
    def draining(self) -> bool:
        """Answers carry `connection: close`."""
        return self.dataplane.draining

    def refresh(self) -> None:
        """Prepare what changes with the time of day."""
        super().refresh()
        self.head_ok = b"HTTP/1.1 200 OK\r\ndate: %s\r\ncontent-type: application/json\r\n" % self.date
