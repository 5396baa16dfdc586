"""The line to Redis: every call ends within its time-out, and stops being tried for a while when none is answered.

With rediscluster.py the only importer of redis. Nothing is sent twice by itself: a write that ended in a time-out may
have happened.
"""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from random import random
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit, urlunsplit

from redis import exceptions
from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff

from gateway.config import ConfigError
from gateway.store import addresses, rediscluster
from gateway.store.base import StoreAway, StoreUnusable
from gateway.store.breaker import Breaker

T = TypeVar("T")
Command = Sequence[str | bytes | int]

# redis-py's own default lets one call to a stopped server wait for most of a minute.
TIMEOUT_S: Final = 0.25
# DUMP and RESTORE of a large key, for backups.
PATIENT_TIMEOUT_S: Final = 30.0
CONNECTIONS: Final = 10
LOWEST_VERSION: Final = (7, 0)
_AWAY: Final = (
    exceptions.ConnectionError,
    exceptions.TimeoutError,
    exceptions.BusyLoadingError,
    exceptions.ReadOnlyError,
    exceptions.OutOfMemoryError,
    OSError,
    TimeoutError,
)
# First words of errors that pass by themselves or by an operator's hand.
_PASSING: Final = (
    "MISCONF",
    "MASTERDOWN",
    "NOREPLICAS",
    "LOADING",
    "READONLY",
    "OOM",
    "BUSY",
    "TRYAGAIN",
    "UNKILLABLE",
    "RESTORING",
)


@dataclass(frozen=True, slots=True)
class Server:
    """What the server says about itself.

    Attributes:
        mode: `standalone`, `sentinel` or `cluster`.
        persistent: it keeps an append-only file.
        eviction: what it does when its memory is full.
    """

    version: tuple[int, ...]
    mode: str
    persistent: bool
    eviction: str


class RedisLink:
    """On one event loop.

    Args:
        prefix: of all keys. A Cluster is asked for the node that has them.
        timeout_s: of each command, connecting included.
        clock: monotonic seconds, for the breaker.
        dice: in [0, 1), spreads the attempts of many replicas.

    Attributes:
        prefix: with which keys begin here; in a Cluster in braces.
    """

    def __init__(
        self,
        url: str,
        prefix: str,
        *,
        timeout_s: float = TIMEOUT_S,
        clock: Callable[[], float] = time.monotonic,
        dice: Callable[[], float] = random,
    ) -> None:
        self.url = url
        self.cluster = urlsplit(url).scheme in addresses.CLUSTER
        self.prefix = rediscluster.tagged(prefix) if self.cluster else prefix
        self.timeout_s = timeout_s
        self.away: str | None = None
        self.failures = 0
        self._given_prefix = prefix
        self._clock = clock
        self._dice = dice
        self._breaker = Breaker()
        # Calls wait here instead of failing for want of a connection; each in front ends within its time-out.
        self._slots = asyncio.Semaphore(CONNECTIONS)
        self._sentinel, self._client = _client(url, self.prefix, timeout_s)
        self._closed = False

    @property
    def address(self) -> str:
        """Where it is, without user and password."""
        parts = urlsplit(self.url)
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))

    def another(self, timeout_s: float | None = None) -> "RedisLink":
        """A link of its own to the same place, with the same time-out if none is given."""
        return RedisLink(self.url, self._given_prefix, timeout_s=timeout_s or self.timeout_s)

    async def command(self, *words: str | bytes | int) -> Any:
        """One command.

        Raises:
            StoreAway: no answer in time, the breaker is open, or the server cannot do it now.
            StoreUnusable: the server refuses it.
        """
        return await self._call(lambda: self._execute(*words))

    async def commands(self, every: Sequence[Command], *, atomic: bool = False) -> list[Any]:
        """Several at once, as one transaction if `atomic`. Errors as `command`."""
        if not every:
            return []

        async def work() -> list[Any]:
            async with self._client.pipeline(transaction=atomic) as pipeline:
                for words in every:
                    pipeline.execute_command(*words)
                return list(await pipeline.execute())

        return await self._call(work)

    async def script(self, text: str, keys: Sequence[str], arguments: Sequence[str | bytes | int] = ()) -> Any:
        """One Lua script, atomically. Errors as `command`."""
        digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()

        async def work() -> Any:
            try:
                return await self._execute("EVALSHA", digest, len(keys), *keys, *arguments)
            except exceptions.NoScriptError:
                return await self._execute("EVAL", text, len(keys), *keys, *arguments)

        return await self._call(work)

    async def server(self) -> Server:
        """Ask what it is. Errors as `command`; StoreUnusable also if the store cannot run on it."""
        found: dict[str, Any] = {}
        for section in await self.commands([("INFO", "server"), ("INFO", "persistence"), ("INFO", "memory")]):
            found.update(section)
        try:
            version = tuple(int(part) for part in str(found["redis_version"]).split("."))
        except (KeyError, ValueError) as error:
            raise StoreUnusable("the server does not say a version of Redis") from error
        if version < LOWEST_VERSION:
            raise StoreUnusable(f"expected Redis 7.0 or later, got {'.'.join(map(str, version))}")
        # Valkey's word, from some version on.
        mode = str(found.get("redis_mode", found.get("server_mode", "standalone")))
        if mode == "cluster" and not self.cluster:
            raise StoreUnusable("this is a node of a Redis Cluster: expected redis+cluster://HOST:PORT[,HOST:PORT...]")
        eviction = str(found.get("maxmemory_policy", "noeviction"))
        return Server(version, mode, bool(found.get("aof_enabled")), eviction)

    @asynccontextmanager
    async def subscribed(self, channel: str) -> AsyncIterator["Subscription"]:
        """Messages of a channel on a connection of their own. Errors as `command`, also while listening."""
        pubsub = self._client.pubsub()
        try:
            await self._call(lambda: pubsub.subscribe(channel))
            yield Subscription(pubsub)
        finally:
            with suppress(*_AWAY):
                async with asyncio.timeout(self.timeout_s):
                    await pubsub.aclose()  # type: ignore[no-untyped-call]

    async def close(self) -> None:
        """Close all connections. Twice is fine."""
        if self._closed:
            return
        self._closed = True
        clients = [self._client, *(self._sentinel.sentinels if self._sentinel else ())]
        for client in clients:
            with suppress(*_AWAY):
                async with asyncio.timeout(self.timeout_s):
                    await client.aclose(close_connection_pool=True)

    async def _execute(self, *words: str | bytes | int) -> Any:
        return await self._client.execute_command(*words)  # type: ignore[no-untyped-call]

    async def _call(self, work: Callable[[], Awaitable[T]]) -> T:
        if self._closed:
            raise StoreAway("the store is closed")
        async with self._slots:
            refused_s = self._breaker.refused_s(self._clock())
            if refused_s is not None:
                raise StoreAway(self.away or "Redis is away", retry_after_s=refused_s)
            try:
                async with asyncio.timeout(self.timeout_s):
                    result = await work()
            except BaseException as error:
                translated = self._failed(error)
                if translated is error:
                    raise
                raise translated from error
            self._breaker.succeeded()
            self.away = None
            return result

    def _failed(self, error: BaseException) -> BaseException:
        """The error to raise, after what the breaker makes of it."""
        translated = translate(error, self.timeout_s)
        if isinstance(translated, StoreAway):
            self._breaker.failed(self._clock(), self._dice())
            self.away = translated.message
            self.failures += 1
        elif isinstance(translated, StoreUnusable):
            self._breaker.succeeded()
        else:
            self._breaker.abandoned()
        return translated


class Subscription:
    """Messages that come by themselves."""

    def __init__(self, pubsub: PubSub) -> None:
        self._pubsub = pubsub

    async def next(self, timeout_s: float) -> bytes | None:
        """The next message, or None after `timeout_s`.

        Raises:
            StoreAway: the connection is lost.
        """
        try:
            # Connected already, unless a Cluster's owner is another by now: then there, and subscribed anew.
            await self._pubsub.connect()  # type: ignore[no-untyped-call]
            found = await self._pubsub.get_message(ignore_subscribe_messages=True, timeout=timeout_s)
        except (*_AWAY, exceptions.RedisError) as error:
            raise translate(error, timeout_s) from error
        return found["data"] if found else None


@contextmanager
def ours(what: str) -> Iterator[None]:
    """What Redis holds may have been written by anybody: reading it either works or is StoreUnusable."""
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise StoreUnusable(f"{what}: Redis holds what this program did not write") from error


def translate(error: BaseException, timeout_s: float) -> BaseException:
    """Errors of the client as ours, without addresses; what is none of its own stays what it is."""
    if isinstance(error, exceptions.AuthenticationError):
        return StoreUnusable("Redis refuses the user or the password")
    if isinstance(error, exceptions.TimeoutError | TimeoutError):
        return StoreAway(f"Redis does not answer within {timeout_s * 1000:.0f} ms", retry_after_s=1)
    if isinstance(error, exceptions.BusyLoadingError | exceptions.ReadOnlyError | exceptions.OutOfMemoryError):
        return StoreAway(f"Redis cannot do it now: {_first_line(error)}", retry_after_s=1)
    if isinstance(error, exceptions.AskError | exceptions.TryAgainError):
        # MOVED, ASK: no retry here. Connections look for the new owner when they are used next.
        return StoreAway("Redis cannot do it now: our keys move to another node of the Cluster", retry_after_s=1)
    if isinstance(error, exceptions.ClusterDownError):
        return StoreAway(f"Redis cannot do it now: {_first_line(error)}", retry_after_s=1)
    if isinstance(error, _AWAY):
        return StoreAway("Redis cannot be reached", retry_after_s=1)
    if isinstance(error, exceptions.RedisError):
        line = _first_line(error)
        if line.startswith(_PASSING):
            return StoreAway(f"Redis cannot do it now: {line}", retry_after_s=1)
        return StoreUnusable(f"Redis refuses: {line}")
    return error


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0][:200]


def _client(url: str, prefix: str, timeout_s: float) -> "tuple[Sentinel | None, Redis]":
    settings: dict[str, Any] = {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
    }
    try:
        addresses.check(url)
        if urlsplit(url).scheme == addresses.SENTINEL:
            return _behind_sentinels(addresses.sentinels(url), settings)
        if urlsplit(url).scheme in addresses.CLUSTER:
            client = Redis.from_pool(rediscluster.owner_pool(url, prefix, timeout_s, settings))
        else:
            client = Redis.from_url(url, **settings)
        # Settings that there are not show when a connection is made, which is not yet opened.
        client.connection_pool.make_connection()  # type: ignore[no-untyped-call]
    except (ValueError, TypeError, exceptions.RedisError) as error:
        raise ConfigError(f"store: {error}") from error
    return None, client


def _behind_sentinels(asked: addresses.Sentinels, settings: dict[str, Any]) -> "tuple[Sentinel, Redis]":
    theirs = {"socket_timeout": TIMEOUT_S, "socket_connect_timeout": TIMEOUT_S, "retry": Retry(NoBackoff(), 0)}
    sentinel = Sentinel(  # type: ignore[no-untyped-call]
        asked.addresses,
        sentinel_kwargs={**theirs, **asked.login},
        db=asked.db,
        username=asked.username,
        password=asked.password,
        **settings,
    )
    return sentinel, sentinel.master_for(asked.service)
