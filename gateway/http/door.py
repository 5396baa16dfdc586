"""What all connections of one port share: limits, the coarse clock and its sweep, ids, and how much is logged.

There is no timer per request or connection: one sweep a second looks at every connection.
"""

import itertools
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from typing import Final, Protocol

from gateway.counters import WORKER_INDEX
from gateway.http.limits import EdgeLimits
from gateway.logs import RequestLog

SWEEP_S: Final = 1.0
HALF_CLOSED_S: Final = 0.05
_TAILS: Final = [b"%02x" % at for at in range(255, -1, -1)]
"""Ends of request ids, the first last."""
_TCP_CLOSE: Final = 7
"""State of a socket that was reset (Linux, include/net/tcp_states.h)."""

REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,64}")


class Connection(Protocol):
    """What the sweep asks of a connection."""

    def sweep(self, tick: int) -> None:
        """Close what has waited too long; `tick` counts seconds."""

    def peer_is_gone(self) -> None:
        """A half-closed peer turned out to be closed."""

    def finish_then_close(self) -> None:
        """Answer what was begun, then close."""

    def abort_with_503(self) -> None:
        """Answer 503 to what is still due, and close."""


class Door:
    """State of one port's listening side in one process.

    Args:
        counts: values of a "worker" block, see `gateway.counters`.

    Attributes:
        tick: seconds since start, coarse; every timeout of a connection is measured in it.
        date: value of the header, refreshed each second.
        shed: so many more answers carry `connection: close`, because this process has too many connections.
    """

    def __init__(
        self,
        limits: EdgeLimits,
        counts: memoryview,
        log: RequestLog,
        *,
        call_later: Callable[..., object],
        random_bytes: Callable[[int], bytes] = os.urandom,
        wall_s: Callable[[], float] = time.time,
    ) -> None:
        self.limits = limits
        self.counts = counts
        self.log = log
        self.connections: set[Connection] = set()
        self.tick = 0
        self.shed = 0
        self.date = b""
        self._call_later = call_later
        self._wall_s = wall_s
        self._stopped = False
        self._id_prefix = random_bytes(8).hex().encode()
        self._ids = itertools.count()
        self._fresh_ids: list[bytes] = []
        self._half_closed: dict[Connection, socket.socket] = {}
        self.refresh()

    def start(self) -> None:
        """Begin the sweep, once a second."""
        self._call_later(SWEEP_S, self._sweep)

    def stop(self) -> None:
        """End the sweep."""
        self._stopped = True

    def new_request_id(self) -> bytes:
        """32 hexadecimal digits: 64 random bits of this process and a number."""
        if not self._fresh_ids:
            # Many at once, which differ in two digits: each costs a tenth of what a number that is written does.
            head = b"%s%014x" % (self._id_prefix, next(self._ids))
            self._fresh_ids = [head + tail for tail in _TAILS]
        return self._fresh_ids.pop()

    @property
    def draining(self) -> bool:
        """Answers carry `connection: close`."""
        return False

    def opened(self, connection: Connection) -> bool:
        """Count a connection; False when it is one too many."""
        self.counts[WORKER_INDEX["connections_total"]] += 1
        self.connections.add(connection)
        return len(self.connections) <= self.limits.connections

    def closed(self, connection: Connection) -> None:
        """A connection has ended."""
        if connection in self.connections:
            self.connections.discard(connection)
            self.counts[WORKER_INDEX["connections_closed_total"]] += 1
        self._half_closed.pop(connection, None)

    def watch_half_closed(self, connection: Connection, raw: socket.socket) -> None:
        """The peer ended its side while its answer is due: find out soon whether it still listens.

        TCP cannot tell a half-closed peer from one that is gone until something is sent; the caller has sent
        an interim response, so a peer that is gone resets the connection, which its state then shows.
        """
        self._half_closed[connection] = raw
        if len(self._half_closed) == 1:
            self._call_later(HALF_CLOSED_S, self._check_half_closed)

    def _check_half_closed(self) -> None:
        for connection, raw in list(self._half_closed.items()):
            if raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _TCP_CLOSE:
                self._half_closed.pop(connection, None)
                connection.peer_is_gone()
        if self._half_closed and not self._stopped:
            self._call_later(HALF_CLOSED_S, self._check_half_closed)

    def _sweep(self) -> None:
        self.tick += 1
        self.refresh()
        for connection in list(self.connections):
            connection.sweep(self.tick)
        if not self._stopped:
            self._call_later(SWEEP_S, self._sweep)

    def refresh(self) -> None:
        """Prepare what changes with the time of day."""
        self.date = formatdate(self._wall_s(), usegmt=True).encode()

    def __iter__(self) -> Iterator[Connection]:
        """Every open connection."""
        return iter(list(self.connections))
