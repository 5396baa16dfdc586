"""A paced client: requests leave by schedule, whatever the server does, and latency counts from the intended start.

So a pause of the server shows in full (no coordinated omission). One thread, raw sockets, one request at a time on each
connection; a request that finds none free waits, and its wait counts. Bounded: rate x seconds requests, then a grace.

It spins instead of sleeping and makes few objects, so that one core paces 25,000 requests per second: what it costs is
read in `PacedResult.lag_p99_us`, how late it was itself.
"""

import gc
import select
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

from loadtests.models import USERS, Payload, http_request
from loadtests.verdicts import percentile

GRACE_S = 3.0  # for answers still out when the schedule ends
MAX_RECONNECTS = 1000
READ_BYTES = 65536
SPIN_S = 100e-6
_LENGTH, _MODEL, _CLOSING = b"\r\ncontent-length:", b"\r\nx-tidegate-model:", b"\r\nconnection:"


class Answer(NamedTuple):
    """One answer; `model` is what x-tidegate-model said, empty without it."""

    intended_s: float
    latency_us: float
    status: int
    model: str


@dataclass
class PacedResult:
    """What came back; `failures` says for each reason how many requests got no good answer."""

    offered: int
    rate: float
    seconds: float
    answers: list[Answer] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    lag_p99_us: float = 0.0  # how late the client itself sent, at a free connection

    def latency_us(self, share: float) -> float:
        """A percentile over all answers."""
        return percentile([answer.latency_us for answer in self.answers], share)

    def models(self) -> dict[str, int]:
        """Answers of each model version, in the order in which they first came."""
        return dict(Counter(answer.model for answer in self.answers))

    def changed_at_s(self) -> float | None:
        """When the first answer of another model than the first came, from the start."""
        return next((a.intended_s for a in self.answers if a.model != self.answers[0].model), None)


@dataclass(slots=True)
class Connection:
    """One keep-alive connection; `intended_s` is that of the request that is out, None when free."""

    sock: socket.socket
    intended_s: float | None = None
    received: bytes = b""


@dataclass(frozen=True)
class Event:
    """Something done once during the run, in its thread: keep it short."""

    at_s: float
    act: Callable[[], object]


def parse_answer(received: bytes) -> tuple[int, str, bool] | None:
    """Status, model and whether the server closes, once the answer is whole; None before that."""
    end = received.find(b"\r\n\r\n")
    if end < 0:
        return None
    size = _header(received, _LENGTH, end)
    if not size and received.find(_LENGTH, 0, end) < 0:
        # Some servers write names with capitals.
        head = received[:end].lower()
        received = head + received[end:]
        size = _header(received, _LENGTH, end)
    if len(received) < end + 4 + int(size or b"0"):
        return None
    return int(received[9:12]), _header(received, _MODEL, end).decode(), _header(received, _CLOSING, end) == b"close"


def _header(received: bytes, name: bytes, end: int) -> bytes:
    """Value of a header in the head that ends there; `name` with the line end before it and the colon."""
    start = received.find(name, 0, end)
    if start < 0:
        return b""
    start += len(name)
    return received[start : received.find(b"\r\n", start, end + 2)].strip()


class PacedClient:
    """Sends `rate` requests per second for `seconds` over a fixed number of connections."""

    def __init__(self, payload: Payload, port: int, rate: float, seconds: float, connections: int = 32) -> None:
        self._port = port
        self._requests = [http_request(payload, port, user) for user in range(1, USERS + 1)]
        self._result = PacedResult(offered=int(rate * seconds), rate=rate, seconds=seconds)
        self._epoll = select.epoll()
        self._connections: dict[int, Connection] = {}
        self._free: deque[Connection] = deque()
        self._lags_us: list[float] = []
        self._reconnects = 0
        for _ in range(connections):
            self._connect()

    def run(self, events: Sequence[Event] = ()) -> PacedResult:
        """The whole schedule and the grace; no garbage collection meanwhile, its pauses are not the server's."""
        gc.collect()
        gc.disable()
        try:
            self._loop(deque(events))
        finally:
            gc.enable()
            self._close()
        self._result.lag_p99_us = percentile(self._lags_us, 0.99)
        return self._result

    def _loop(self, events: deque[Event]) -> None:
        started = time.perf_counter()
        sent, offered, rate = 0, self._result.offered, self._result.rate
        until = self._result.seconds + GRACE_S
        while (now := time.perf_counter() - started) < until:
            if events and now >= events[0].at_s:
                events.popleft().act()
            while sent < offered and self._free and sent / rate <= now:
                self._send(sent, sent / rate, now)
                sent += 1
            if sent == offered and len(self._free) == len(self._connections):
                return
            self._receive(started, wait_s=max(0.0, sent / rate - now) if sent < offered and self._free else 0.05)
        self._result.failures["not sent: no connection was free"] += offered - sent
        self._result.failures["no answer"] += sum(one.intended_s is not None for one in self._connections.values())
        self._result.failures = +self._result.failures

    def _send(self, index: int, intended_s: float, now: float) -> None:
        connection = self._free.popleft()
        connection.intended_s = intended_s
        connection.received = b""
        self._lags_us.append((now - intended_s) * 1e6)
        request = self._requests[index % USERS]
        try:
            assert connection.sock.send(request) == len(request), "a small request fits the buffer of a free connection"
        except OSError as error:
            self._lost(connection, f"send: {type(error).__name__}")

    def _receive(self, started: float, wait_s: float) -> None:
        # select() waits to the microsecond, epoll_wait() only to the millisecond: wait with one, ask the other. A wait
        # shorter than a sleeper takes to wake is spent asking.
        if wait_s > SPIN_S:
            select.select([self._epoll], [], [], wait_s - SPIN_S)
        for descriptor, _ in self._epoll.poll(0):
            self._read(self._connections[descriptor], started)

    def _read(self, connection: Connection, started: float) -> None:
        try:
            data = connection.sock.recv(READ_BYTES)
        except OSError as error:
            self._lost(connection, f"receive: {type(error).__name__}")
            return
        if not data:
            self._lost(connection, "closed before the answer")
            return
        connection.received = connection.received + data if connection.received else data
        answer = parse_answer(connection.received)
        if answer is not None:
            self._answered(connection, answer, time.perf_counter() - started)

    def _answered(self, connection: Connection, answer: tuple[int, str, bool], now: float) -> None:
        status, model, closes = answer
        intended_s = connection.intended_s
        if intended_s is None:
            self._lost(connection, "an answer nobody asked for")
            self._result.failures["an answer nobody asked for"] += 1
            return
        self._result.answers.append(Answer(intended_s, (now - intended_s) * 1e6, status, model))
        if status != 200:
            self._result.failures[f"status {status}"] += 1
        connection.intended_s = None
        if closes:
            self._lost(connection, "")
        else:
            self._free.append(connection)

    def _lost(self, connection: Connection, reason: str) -> None:
        """Forget a connection and open another; it is a failure only when a request was out on it."""
        if connection.intended_s is not None:
            self._result.failures[reason] += 1
        self._epoll.unregister(connection.sock)
        del self._connections[connection.sock.fileno()]
        with suppress(ValueError):
            self._free.remove(connection)
        connection.sock.close()
        self._reconnects += 1
        if self._reconnects > MAX_RECONNECTS:
            raise RuntimeError(f"the server closed more than {MAX_RECONNECTS} connections")
        try:
            self._connect()
        except OSError as error:
            self._result.failures[f"reconnect: {type(error).__name__}"] += 1

    def _connect(self) -> None:
        sock = socket.create_connection(("127.0.0.1", self._port), timeout=2.0)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
        connection = Connection(sock)
        self._connections[sock.fileno()] = connection
        self._epoll.register(sock, select.EPOLLIN)
        self._free.append(connection)

    def _close(self) -> None:
        for connection in self._connections.values():
            connection.sock.close()
        self._epoll.close()
