"""Where in a Redis Cluster our keys are. All of a store lie in one hash slot, so that a write stays one atomic step.

Imports redis, beside redis.py. A connection to the owner of the slot asks a node who that is each time it connects:

    asked, it names an owner  ->  connected  --MOVED, READONLY, CLUSTERDOWN-->  owner unknown: all connections ask anew
    asked, silent or no owner ->  the next node is asked; this one comes last from now on

A node may be wrong for a while after a failover. So whoever named an owner that was none comes last, too.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

from redis import exceptions
from redis.asyncio.connection import Connection, ConnectionPool, SSLConnection, parse_url
from redis.crc import key_slot

from gateway.store.addresses import Address, cluster
from gateway.store.base import StoreAway, StoreUnusable

# Of the time-out, for each node that is asked: two dead ones leave time for a third.
ASKING: Final = 1 / 4
_LEFT: Final = (exceptions.MovedError, exceptions.ReadOnlyError, exceptions.ClusterDownError)
_SILENT: Final = (exceptions.ConnectionError, exceptions.TimeoutError, OSError, TimeoutError)


def tagged(prefix: str) -> str:
    """The prefix whose keys all lie in one slot: Redis hashes what stands in the first braces of a key."""
    assert prefix[:1] not in ("", "}"), "with nothing in the first braces the whole key is hashed"
    return f"{{{prefix}}}"


def owner_of(slots: Any, slot: int, asked: Address) -> Address | None:
    """Who has the slot by an answer to CLUSTER SLOTS, None = nobody.

    Args:
        asked: who answered; a node that does not know its own host means the one it was asked by.
    """
    for first, last, master, *_ in slots:
        if first <= slot <= last:
            return _address_of(master, asked)
    return None


def nodes_of(slots: Any, asked: Address) -> list[Address]:
    """All nodes of an answer to CLUSTER SLOTS, replicas too, each once."""
    found = (_address_of(node, asked) for _, _, *nodes in slots for node in nodes)
    return list(dict.fromkeys(address for address in found if address))


def _address_of(node: Any, asked: Address) -> Address | None:
    host = (node[0] or b"").decode()
    # "?" is a node that should have a name and has none.
    return None if host == "?" else (host or asked[0], int(node[1]))


class SlotOwner:
    """Who has our slot. On one event loop.

    Args:
        make: a connection to a host and port, not yet connected.
        timeout_s: of a whole call, which `find` is the first part of.

    Attributes:
        address: where the owner was found last, None = ask.
    """

    def __init__(
        self, slot: int, seeds: Sequence[Address], make: Callable[[str, int], Connection], timeout_s: float
    ) -> None:
        self.address: Address | None = None
        self._slot = slot
        self._seeds = tuple(seeds)
        self._nodes = list(dict.fromkeys(seeds))
        self._make = make
        self._asking_s = timeout_s * ASKING

    def __repr__(self) -> str:
        return f"<slot {self._slot} at {self.address}, of {self._nodes}>"

    async def find(self) -> Address:
        """Ask one node after the other, first the one that answered last time.

        Raises:
            StoreAway: no node names an owner.
            StoreUnusable: one answers that is in no Cluster.
            RedisError: it refuses us.
        """
        away = "Redis cannot be reached"
        for node in tuple(self._nodes):
            try:
                async with asyncio.timeout(self._asking_s):
                    slots = await self._ask(node)
            except BaseException as error:
                # Also if our caller does not wait any longer: the next one shall not begin with it again.
                self._put_last(node)
                if not isinstance(error, _SILENT) or isinstance(error, exceptions.AuthenticationError):
                    raise
                continue
            if owner := self._learn(slots, node):
                self.address = owner
                return owner
            self._put_last(node)
            away = "no node of the Redis Cluster says who has our keys"
        raise StoreAway(away, retry_after_s=1)

    def left(self, error: Exception) -> None:
        """The owner is it no longer: connections to it are given up when they are used next."""
        self.address = None
        self.doubted()
        if isinstance(error, exceptions.MovedError) and error.host:
            self._put_first((error.host, error.port))

    def doubted(self) -> None:
        """Who named the owner may be wrong: somebody else is asked next."""
        self._put_last(self._nodes[0])

    async def _ask(self, node: Address) -> Any:
        connection = self._make(*node)
        try:
            await connection.connect()  # type: ignore[no-untyped-call]
            await connection.send_command("CLUSTER", "SLOTS")
            return await connection.read_response()
        except exceptions.ResponseError as error:
            if "cluster support disabled" in str(error):
                raise StoreUnusable(
                    "expected a Redis Cluster, got a Redis that is none: its URL begins with redis:// or rediss://"
                ) from error
            raise
        finally:
            await connection.disconnect(nowait=True)

    def _learn(self, slots: Any, node: Address) -> Address | None:
        """The owner by this answer. Nodes are the seeds and those of the last good answer, no others."""
        try:
            owner, told = owner_of(slots, self._slot, node), nodes_of(slots, node)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise StoreUnusable("CLUSTER SLOTS was answered with something else") from error
        if owner:
            new = [one for one in told if one not in self._nodes]
            kept = [one for one in self._nodes if one in told or one in self._seeds]
            self._nodes = list(dict.fromkeys([node, *new, *kept]))
        return owner

    def _put_first(self, node: Address) -> None:
        self._nodes = [node, *(one for one in self._nodes if one != node)]

    def _put_last(self, node: Address) -> None:
        self._nodes = [*(one for one in self._nodes if one != node), node]


class OwnerConnection(Connection):
    """A connection to whoever has our slot. Made by the pool of `owner_pool`."""

    def __init__(self, *, owner: SlotOwner, **settings: Any) -> None:
        super().__init__(**settings)
        self._owner = owner

    async def connect(self) -> None:
        """Connect, unless it is connected and the owner is still the one. Errors as `SlotOwner.find`."""
        if self.is_connected:
            if self._at_owner():
                return
            await self.disconnect(nowait=True)
        self.host, self.port = await self._owner.find()
        try:
            await super().connect()  # type: ignore[no-untyped-call]
        except BaseException:
            self._owner.doubted()
            raise

    async def read_response(self, *arguments: Any, **settings: Any) -> Any:
        """As redis-py's. Stays connected after an error: a pipeline has more answers to read."""
        try:
            return await super().read_response(*arguments, **settings)
        except _LEFT as error:
            # A late answer of one that was given up says nothing about who was found since.
            if self._at_owner():
                self._owner.left(error)
            raise

    def _at_owner(self) -> bool:
        return (self.host, self.port) == self._owner.address


class OwnerSSLConnection(OwnerConnection, SSLConnection):
    """The same with TLS."""


def owner_pool(url: str, prefix: str, timeout_s: float, settings: dict[str, Any]) -> ConnectionPool:
    """Connections to the node that has the keys of a prefix. Nothing is connected yet.

    Args:
        prefix: as `tagged` makes it.
        settings: of each connection, in redis-py's words.

    Raises:
        ValueError, TypeError, RedisError: a malformed URL.
    """
    parts = urlsplit(url)
    # Where the first node is does not matter here: what is left is what all have in common.
    login, at, _ = parts.netloc.rpartition("@")
    common = parse_url(urlunsplit((parts.scheme.partition("+")[0], f"{login}{at}", "", parts.query, "")))
    settings = {**common, **settings}
    plain: type[Connection] = settings.pop("connection_class", Connection)
    own = OwnerSSLConnection if plain is SSLConnection else OwnerConnection

    def make(host: str, port: int) -> Connection:
        return plain(host=host, port=port, **settings)

    owner = SlotOwner(key_slot(prefix.encode()), cluster(url), make, timeout_s)
    return ConnectionPool(connection_class=own, owner=owner, **settings)
