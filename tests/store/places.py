"""Places to put a store for a test: a file with a clock that tests turn, a real Redis with its own."""

import asyncio
import contextlib
import os
import signal
import socket
import sqlite3
import subprocess
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, Any, Protocol

import redis

from gateway.store.base import Feedback, Limits, Store
from gateway.store.redisstore import RedisStore, open_redis
from gateway.store.sqlite import SqliteStore, open_sqlite

START_MS = 1_700_000_000_000


def free_port() -> int:
    """Free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RedisServer:
    """A redis-server of the test's own, on a free port."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.folder = folder
        self.arguments = arguments
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Returns when it accepts connections."""
        port = [] if "--port" in self.arguments else ["--port", str(self.port)]
        self._start(*port, "--bind", "127.0.0.1", "--dir", str(self.folder), *self.arguments)

    def start_sentinel(self, config: Path) -> None:
        """As a Sentinel, which writes into its configuration."""
        self._start(str(config), "--sentinel")

    def _start(self, *arguments: str) -> None:
        words = ["redis-server", *arguments]
        self.process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        seen = []
        for line in self._output():
            seen.append(line)
            if b"Ready to accept connections" in line or b"+monitor master" in line:
                return
        raise AssertionError(b"".join(seen).decode())

    def _output(self) -> IO[bytes]:
        assert self.process is not None
        assert self.process.stdout is not None
        return self.process.stdout

    def send(self, number: int) -> None:
        """To the server. After SIGSTOP it has really stopped."""
        assert self.process is not None
        self.process.send_signal(number)
        if number == signal.SIGSTOP:
            os.waitpid(self.process.pid, os.WUNTRACED)

    def stop(self, number: int = signal.SIGKILL) -> None:
        """Twice is fine."""
        if self.process is None:
            return
        self.process.send_signal(signal.SIGCONT)
        self.process.send_signal(number)
        self.process.wait(10)
        self._output().close()
        self.process = None

    def ping(self) -> None:
        """One round."""
        with self.client() as client:
            client.ping()

    @contextlib.contextmanager
    def client(self) -> Any:
        """An ordinary client, to look behind the store."""
        with redis.Redis(port=self.port) as found:
            yield found


class Place(Protocol):
    """Where stores of a test live; all opened here share their data."""

    kind: str

    async def open(self, limits: Limits | None = None) -> Store: ...
    def now_ms(self) -> int: ...
    def pass_ms(self, amount: int) -> None: ...
    def change_audit(self, name: str, seq: int) -> None: ...
    def elsewhere(self) -> "Place": ...


class SqlitePlace:
    """A file."""

    kind = "sqlite"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.time_ms = START_MS

    async def open(self, limits: Limits | None = None) -> SqliteStore:
        return await open_sqlite(self.path, clock_ms=self.now_ms, limits=limits)

    def now_ms(self) -> int:
        return self.time_ms

    def pass_ms(self, amount: int) -> None:
        self.time_ms += amount

    def change_audit(self, name: str, seq: int) -> None:
        with contextlib.closing(sqlite3.connect(self.path)) as db, db:
            db.execute("UPDATE audit SET body = CAST(replace(body, 'ann', 'bob') AS BLOB) WHERE seq = ?", (seq,))

    def elsewhere(self) -> "SqlitePlace":
        return SqlitePlace(self.path.with_name("elsewhere.db"))


class RedisPlace:
    """A prefix in a Redis.

    Attributes:
        server: that has the keys.
        keys: what they begin with.
    """

    kind = "redis"

    def __init__(self, server: RedisServer, prefix: str) -> None:
        self.server = server
        self.prefix = prefix
        self.url = server.url
        self.keys = prefix

    async def open(self, limits: Limits | None = None) -> RedisStore:
        # Longer than in production: what is tested here is not how quickly a busy machine answers.
        return await open_redis(self.url, limits=limits, prefix=self.prefix, timeout_s=10)

    def now_ms(self) -> int:
        with self.server.client() as client:
            seconds, micros = client.time()
        return int(seconds) * 1000 + int(micros) // 1000

    def pass_ms(self, amount: int) -> None:
        until = self.now_ms() + amount
        while self.now_ms() < until:
            pass

    def change_audit(self, name: str, seq: int) -> None:
        key = f"{self.keys}:{{{name}}}:audit"
        with self.server.client() as client:
            entries = client.xrange(key)
            client.delete(key)
            for number, (entry_id, fields) in enumerate(entries, 1):
                if number == seq:
                    fields[b"b"] = fields[b"b"].replace(b"ann", b"bob")
                client.xadd(key, fields, id=entry_id)

    def elsewhere(self) -> "RedisPlace":
        return RedisPlace(self.server, f"{self.prefix}-elsewhere")


@asynccontextmanager
async def opened(place: Place, limits: Limits | None = None) -> AsyncIterator[Store]:
    """A store, closed at the end."""
    store = await place.open(limits)
    try:
        yield store
    finally:
        await store.close()


def on_a_store(limits: Limits | None = None) -> Callable[..., Callable[[Place], None]]:
    """Make a test of `async def test(store, place)`: on each place, with a store that is closed afterwards."""

    def decorate(body: Callable[[Store, Place], Coroutine[Any, Any, None]]) -> Callable[[Place], None]:
        def test(place: Place) -> None:
            async def go() -> None:
                async with opened(place, limits) as store, asyncio.timeout(60):
                    await body(store, place)

            asyncio.run(go())

        test.__name__ = body.__name__
        test.__doc__ = body.__doc__
        return test

    return decorate


def row(
    store_now_ms: int, prediction: str, body: bytes = b"1", slot: str = "label", unit: str = "u", left_ms: int = 60_000
) -> Feedback:
    """A row of feedback, by the store's clock."""
    return Feedback(prediction, slot, unit, body, store_now_ms + left_ms)
