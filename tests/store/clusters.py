"""Redis Clusters of a test's own: masters that share the slots, replicas, and what an operator does to them."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from redis.crc import key_slot

from tests.store.places import RedisPlace, RedisServer, free_port

SLOTS: Final = 16_384
SOON_S: Final = 30.0


class ClusterNode(RedisServer):
    """A redis-server in cluster mode, which knows nobody yet.

    Attributes:
        tls_port: where it speaks TLS, given a certificate.
    """

    def __init__(self, folder: Path, *arguments: str) -> None:
        folder.mkdir()
        self.bus_port, self.tls_port = free_port(), free_port()
        self.meets_tls = "--tls-cluster" in arguments
        if "--tls-cert-file" in arguments:
            arguments = ("--tls-port", str(self.tls_port), *arguments)
        mode = ("--cluster-enabled", "yes", "--cluster-port", str(self.bus_port))
        # Replicas follow within a second.
        soon = ("--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1")
        super().__init__(folder, "--save", "", *mode, *soon, *arguments)

    def ask(self, *words: str | int | bytes) -> Any:
        """One command."""
        with self.client() as client:
            return client.execute_command(*words)

    def id(self) -> str:
        """Its name in the Cluster."""
        return str(self.ask("CLUSTER", "MYID").decode())

    def slots(self) -> list[Any]:
        """Who has which, as it sees that."""
        return list(self.ask("CLUSTER", "SLOTS"))

    def healthy(self) -> bool:
        """It answers for the Cluster."""
        return b"cluster_state:ok" in self.ask("CLUSTER", "INFO")


class RedisCluster:
    """Running nodes that know each other.

    Attributes:
        nodes: masters first.
    """

    def __init__(self, nodes: list[ClusterNode], masters: int) -> None:
        self.nodes = nodes
        self.masters = masters

    def form(self) -> None:
        """Share the slots, introduce everybody, wait until all agree. Replicas are those of the owner of `tidegate`."""
        for number, node in enumerate(self.nodes):
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            if number < self.masters:
                start, end = (SLOTS * one // self.masters for one in (number, number + 1))
                node.ask("CLUSTER", "ADDSLOTSRANGE", start, end - 1)
            # Each by hand: left to gossip it takes seconds.
            for other in self.nodes[:number]:
                node.ask(
                    "CLUSTER", "MEET", "127.0.0.1", other.tls_port if other.meets_tls else other.port, other.bus_port
                )
        until("all know all", lambda: all(self._known(node) == len(self.nodes) for node in self.nodes))
        for replica in self.nodes[self.masters :]:
            until("it knows its master", lambda r=replica: r.ask("CLUSTER", "REPLICATE", self.owner().id()) == b"OK")
        until("all agree", self._agreed)

    def owner(self, prefix: str = "tidegate") -> ClusterNode:
        """Who has the keys of a prefix, as most of those that run see it."""
        slot = slot_of(prefix)
        ports = [entry[2][1] for node in self.running() for entry in node.slots() if entry[0] <= slot <= entry[1]]
        port = max(set(ports), key=ports.count)
        return next(node for node in self.nodes if node.port == port)

    def others(self, prefix: str = "tidegate") -> list[ClusterNode]:
        """The masters that have not the keys of a prefix."""
        owner = self.owner(prefix)
        return [node for node in self.nodes[: self.masters] if node is not owner]

    def begin_move(self, prefix: str, source: ClusterNode, target: ClusterNode) -> None:
        """What an operator, or `redis-cli --cluster reshard`, does to hand over the keys of a prefix."""
        target.ask("CLUSTER", "SETSLOT", slot_of(prefix), "IMPORTING", source.id())
        source.ask("CLUSTER", "SETSLOT", slot_of(prefix), "MIGRATING", target.id())

    def move_keys(self, prefix: str, source: ClusterNode, target: ClusterNode, most: int) -> None:
        """So many of them."""
        keys = source.ask("CLUSTER", "GETKEYSINSLOT", slot_of(prefix), most)
        source.ask("MIGRATE", "127.0.0.1", target.port, "", 0, 10_000, "KEYS", *keys)

    def end_move(self, prefix: str, source: ClusterNode, target: ClusterNode) -> None:
        """The rest, and everybody is told."""
        while source.ask("CLUSTER", "COUNTKEYSINSLOT", slot_of(prefix)):
            self.move_keys(prefix, source, target, 100)
        for node in (target, source, *self.nodes):
            node.ask("CLUSTER", "SETSLOT", slot_of(prefix), "NODE", target.id())

    def running(self) -> list[ClusterNode]:
        return [node for node in self.nodes if node.process is not None]

    def url(self, *seeds: ClusterNode) -> str:
        """With these nodes, or all of them."""
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in seeds or self.nodes)

    def _known(self, node: ClusterNode) -> int:
        return len(node.ask("CLUSTER", "NODES").splitlines())

    def _agreed(self) -> bool:
        views = [sorted(str([e[0], e[1], e[2][1], len(e)]) for e in node.slots()) for node in self.nodes]
        whole = sum(entry[1] - entry[0] + 1 for entry in self.nodes[0].slots()) == SLOTS
        seen = max(len(entry) for entry in self.nodes[0].slots()) == 3 + len(self.nodes) - self.masters
        return whole and seen and all(view == views[0] for view in views) and all(n.healthy() for n in self.nodes)


class ClusterPlace(RedisPlace):
    """A prefix in a Redis Cluster; the node in the URL is not the one that has its keys."""

    def __init__(self, cluster: RedisCluster, prefix: str) -> None:
        super().__init__(cluster.owner(prefix), prefix)
        self.cluster = cluster
        self.url = cluster.url(cluster.others(prefix)[0])
        self.keys = f"{{{prefix}}}"

    def elsewhere(self) -> "ClusterPlace":
        return ClusterPlace(self.cluster, f"{self.prefix}-elsewhere")


def slot_of(prefix: str) -> int:
    """Of all keys of a store with this prefix."""
    return key_slot(prefix.encode())


def until(what: str, true: Callable[[], object], bound_s: float = SOON_S) -> None:
    """Ask until it is so."""
    bound = time.monotonic() + bound_s
    while not true():
        assert time.monotonic() < bound, f"not within {bound_s} s: {what}"
        time.sleep(0.01)


@contextmanager
def cluster_of(folder: Path, masters: int, replicas: int = 0, *arguments: str) -> Iterator[RedisCluster]:
    """Running, and ended with the block."""
    nodes = [ClusterNode(folder / f"node{number}", *arguments) for number in range(masters + replicas)]
    try:
        for node in nodes:
            node.start()
        cluster = RedisCluster(nodes, masters)
        cluster.form()
        yield cluster
    finally:
        for node in nodes:
            node.stop()
