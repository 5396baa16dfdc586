"""A Redis Cluster whose nodes fail over, die, hand over our keys; what only a Cluster has."""

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.config import ConfigError
from gateway.store import rediscopy
from gateway.store.base import Change, Store, StoreAway, StoreUnusable
from gateway.store.opening import check_url, open_store
from tests.store.clusters import ClusterNode, ClusterPlace, RedisCluster, cluster_of, until
from tests.store.conftest import NUMBERS, needs_redis
from tests.store.places import RedisPlace, RedisServer, free_port, row
from tests.store.redisworld import SOON_S, WHO, again, away_s, opened, run


class Writers:
    """Write to names of their own all the time, and remember what was acknowledged."""

    def __init__(self, store: Store, names: int = 4) -> None:
        self.acknowledged: dict[str, int] = {}
        self._store = store
        self._wanted = names
        self._done = asyncio.Event()
        self._tasks = [asyncio.ensure_future(self._write(f"w{number}")) for number in range(names)]

    async def more(self, rounds: int = 20) -> None:
        """Until each has had so many more acknowledged."""
        wanted = {f"w{n}": self.acknowledged.get(f"w{n}", 0) + rounds for n in range(self._wanted)}
        async with asyncio.timeout(50):
            while any(self.acknowledged.get(name, 0) < number for name, number in wanted.items()):
                await asyncio.wait(self._tasks, timeout=0.01)

    async def check(self) -> None:
        """End, and nothing that was acknowledged is lost."""
        self._done.set()
        await asyncio.gather(*self._tasks)
        for name, number in self.acknowledged.items():
            document = await again(lambda name=name: self._store.get("policy", name))
            assert int(document.body) >= number
            newest = (await again(lambda name=name: self._store.audit_read(name, newest=True, limit=1))).records[0]
            assert (newest.record["n"], newest.after) == (int(document.body), document.revision)
        assert (await again(self._store.audit_verify)).broken is None

    async def _write(self, name: str) -> None:
        number = 0
        while not self._done.is_set():
            number += 1
            try:
                await self._store.put("policy", name, b"%d" % number, expected=None, audit={"n": number})
            except StoreAway as error:
                await asyncio.wait([asyncio.ensure_future(self._done.wait())], timeout=error.retry_after_s / 10)
                continue
            self.acknowledged[name] = number


async def seen(changes: Any, wanted: Change) -> None:
    """The watch brings it."""
    async with asyncio.timeout(20):
        while await anext(changes) != wanted:
            pass


async def in_thread(wait: Callable[[], object], what: str) -> None:
    """Wait while the loop goes on."""
    await asyncio.to_thread(until, what, wait)


# ---- another node has the keys ----


def test_a_graceful_failover_loses_nothing_and_the_watch_goes_on(own_cluster: RedisCluster) -> None:
    before, replica = own_cluster.owner(), own_cluster.nodes[-1]

    async def work() -> None:
        async with opened(own_cluster.url(own_cluster.others()[0])) as store:
            first = await again(lambda: store.put("policy", "a", b"1", expected=0, audit=WHO))
            changes = store.watch()
            await seen(changes, Change("policy", "a", first.revision))
            writers = Writers(store)
            await writers.more()
            assert replica.ask("CLUSTER", "FAILOVER") == b"OK"
            await in_thread(lambda: own_cluster.owner() is replica, "it took over")
            await writers.more()
            second = await again(lambda: store.put("policy", "a", b"2", expected=first.revision, audit=WHO))
            await seen(changes, Change("policy", "a", second.revision))
            await writers.check()
            # What it writes is at the new owner, and the old one holds a copy.
            assert replica.ask("HGET", "{tidegate}:{a}:docs", "policy") == b"%d\n2" % second.revision
            with pytest.raises(Exception, match=str(replica.port)):
                before.ask("HGET", "{tidegate}:{a}:docs", "policy")

    run(work())


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_an_owner_that_is_gone_is_replaced(own_cluster: RedisCluster, how: signal.Signals) -> None:
    before, replica = own_cluster.owner(), own_cluster.nodes[-1]

    async def work() -> None:
        async with opened(own_cluster.url()) as store:
            first = await again(lambda: store.put("policy", "a", b"1", expected=0, audit=WHO))
            changes = store.watch()
            await seen(changes, Change("policy", "a", first.revision))
            # As many connections as there are; all of them must find the new owner.
            await asyncio.gather(*(store.get("policy", "a") for _ in range(50)), return_exceptions=True)
            assert before.ask("WAIT", 1, 10_000) == 1
            if how == signal.SIGKILL:
                before.stop(how)
            else:
                before.send(how)
            assert await away_s(store.put("policy", "a", b"2", expected=first.revision)) < SOON_S
            second = await again(lambda: store.put("policy", "a", b"2", expected=first.revision, audit=WHO), 50)
            await seen(changes, Change("policy", "a", second.revision))
            found = await asyncio.gather(*(again(lambda: store.get("policy", "a")) for _ in range(50)))
            assert {document.body for document in found} == {b"2"}
            assert replica.ask("HGET", "{tidegate}:{a}:docs", "policy") == b"%d\n2" % second.revision
            assert (await again(store.audit_verify)).broken is None

    run(work())


def test_keys_that_move_to_another_node_are_followed(shared_cluster: RedisCluster, tmp_path: Path) -> None:
    place = ClusterPlace(shared_cluster, f"t{next(NUMBERS)}")
    source, target = place.server, shared_cluster.others(place.prefix)[0]
    assert isinstance(source, ClusterNode)

    async def work() -> None:
        async with opened(place.url, prefix=place.prefix) as store:
            for name in "abc":
                await again(lambda name=name: store.put("policy", name, b"1", expected=0, audit=WHO))
            changes = store.watch()
            await seen(changes, Change("policy", "c", 1))
            shared_cluster.begin_move(place.prefix, source, target)
            # What is there is still served, and nothing half: a part of the keys is no backup and no empty store.
            assert (await again(lambda: store.get("policy", "a"))).body == b"1"
            shared_cluster.move_keys(place.prefix, source, target, 3)
            for whole in (lambda: store.backup(tmp_path / "half"), store.check, store.audit_verify):
                await moving(whole)
            assert not os.listdir(tmp_path)
            shared_cluster.end_move(place.prefix, source, target)
            second = await again(lambda: store.put("policy", "c", b"2", expected=1, audit=WHO))
            await seen(changes, Change("policy", "c", second.revision))
            assert [one.body for one in await store.list("policy")] == [b"1", b"1", b"2"]
            assert (await store.check()).problems == ()
            assert target.ask("EXISTS", f"{place.keys}:names") == 1
            await store.backup(tmp_path / "whole")

    async def moving(call: Callable[[], Awaitable[object]]) -> None:
        with pytest.raises(StoreAway, match="move to another node"):
            await again_until_moving(call)

    async def again_until_moving(call: Callable[[], Awaitable[object]]) -> None:
        """The breaker may be open for what the watch asked meanwhile."""
        async with asyncio.timeout(20):
            while True:
                try:
                    await call()
                except StoreAway as error:
                    if "move to another node" in error.message:
                        raise
                else:
                    raise AssertionError("it took a part for the whole")

    run(work())


def test_keys_that_move_while_all_are_listed_are_no_smaller_store(shared_cluster: RedisCluster) -> None:
    place = ClusterPlace(shared_cluster, f"t{next(NUMBERS)}")
    source, target = place.server, shared_cluster.others(place.prefix)[0]
    assert isinstance(source, ClusterNode)

    async def work() -> None:
        async with opened(place.url, prefix=place.prefix, timeout_s=10) as store:
            await store.feedback_put("m", [row(place.now_ms(), "p")])
            shared_cluster.begin_move(place.prefix, source, target)
            shared_cluster.move_keys(place.prefix, source, target, 100)
            shared_cluster.end_move(place.prefix, source, target)
            # The node that had the keys has none any more, and does not say so to a SCAN.
            with pytest.raises(StoreAway):
                await store._all_keys()
            assert ("m", "fb") in await again(store._all_keys)

    run(work())


def test_a_list_of_keys_that_two_servers_gave_is_none() -> None:
    class Link:
        """A Redis that is another one for the second part of the list, or has just been started anew."""

        prefix = "tidegate"
        runs = iter(("one", "two"))

        async def commands(self, every: Any, *, atomic: bool) -> list[Any]:
            assert atomic
            return [(7, [b"tidegate:{a}:docs"]), 0, {"run_id": next(self.runs)}]

    with pytest.raises(StoreAway, match="another Redis has the keys now"):
        asyncio.run(rediscopy.keys(Link()))


# ---- which nodes are asked ----


def test_a_dead_node_in_the_url_does_not_eat_the_time_of_the_others(shared_cluster: RedisCluster) -> None:
    place = ClusterPlace(shared_cluster, f"t{next(NUMBERS)}")

    async def work() -> None:
        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()
            writer.close()

        listening = await asyncio.start_server(silent, "127.0.0.1", 0)
        dead = [listening.sockets[0].getsockname()[1], free_port()]
        hosts = ",".join(f"127.0.0.1:{port}" for port in dead)
        url = f"redis+cluster://{hosts},{place.url.partition('//')[2]}"
        async with opened(url, prefix=place.prefix, timeout_s=4) as store:
            began = time.monotonic()
            await store.put("policy", "a", b"1", expected=0)
            assert time.monotonic() - began < 4
            # Once somebody has answered, nobody waits for the dead one again.
            began = time.monotonic()
            await asyncio.gather(*(store.get("policy", "a") for _ in range(20)))
            assert time.monotonic() - began < 1
        listening.close()

    run(work())


def test_no_node_at_all_is_away_and_no_failure_to_open(tmp_path: Path) -> None:
    async def work() -> None:
        store = await open_store(f"redis+cluster://127.0.0.1:{free_port()},127.0.0.1:{free_port()}", tmp_path)
        try:
            assert await away_s(store.get("policy", "a")) < SOON_S
            assert store.status().away == "Redis cannot be reached"
        finally:
            await store.close()

    run(work())


def test_a_node_that_nobody_has_told_of_a_cluster_is_away(tmp_path: Path) -> None:
    needs_redis()
    node = ClusterNode(tmp_path / "alone")

    async def work() -> None:
        async with opened(f"redis+cluster://127.0.0.1:{node.port}", timeout_s=10) as store:
            with pytest.raises(StoreAway, match="no node of the Redis Cluster says who has our keys"):
                await store.get("policy", "a")

    try:
        node.start()
        run(work())
    finally:
        node.stop()


# ---- what is refused ----


@pytest.mark.parametrize(
    ("rest", "said"),
    [
        ("://", "expected redis.*cluster://HOST:PORT"),
        ("://h", "expected redis.*cluster://HOST:PORT"),
        ("://h:1,", "expected redis.*cluster://HOST:PORT"),
        ("://:1", "expected redis.*cluster://HOST:PORT"),
        ("://h:0", "expected redis.*cluster://HOST:PORT"),
        ("://h:port", "port"),
        ("://h:99999", "[Pp]ort"),
        ("://h:1/1", "a Cluster has one database, 0"),
        ("://h:1/service", "a Cluster has one database, 0"),
        ("://h:1?db=1", "db: expected ssl_"),
        ("://h:1?socket_timeout=9", "socket_timeout: expected ssl_"),
    ],
)
@pytest.mark.parametrize("scheme", ["redis+cluster", "rediss+cluster"])
def test_malformed_addresses_are_refused_at_once(tmp_path: Path, scheme: str, rest: str, said: str) -> None:
    for refuse in (check_url, lambda url: asyncio.run(open_store(url, tmp_path))):
        with pytest.raises(ConfigError, match=f"store: .*{said}"):
            refuse(scheme + rest)


@pytest.mark.parametrize("query", ["ssl_nothing=1", "ssl_cert_reqs=maybe"])
def test_settings_of_tls_that_there_are_not_are_refused_at_once(tmp_path: Path, query: str) -> None:
    with pytest.raises(ConfigError, match="store: "):
        asyncio.run(open_store(f"rediss+cluster://h:1?{query}", tmp_path))
    with pytest.raises(ConfigError, match=r"expected ssl_\.\.\. after rediss"):
        asyncio.run(open_store("redis+cluster://h:1?ssl_ca_certs=x", tmp_path))


def test_a_node_of_a_cluster_is_no_single_redis(shared_cluster: RedisCluster) -> None:
    async def work() -> None:
        async with opened(shared_cluster.nodes[0].url, timeout_s=10) as store:
            with pytest.raises(StoreUnusable, match=r"expected redis\+cluster://HOST:PORT"):
                await store.get("policy", "a")

    run(work())


def test_a_single_redis_is_no_cluster(shared_redis: RedisServer) -> None:
    async def work() -> None:
        async with opened(f"redis+cluster://127.0.0.1:{shared_redis.port}", timeout_s=10) as store:
            with pytest.raises(StoreUnusable, match="expected a Redis Cluster, got a Redis that is none"):
                await store.get("policy", "a")
            assert "expected a Redis Cluster" in str(store.status().away)

    run(work())


# ---- the whole ----


@pytest.mark.parametrize("there", [True, False], ids=["into a cluster", "out of a cluster"])
def test_a_backup_goes_from_one_to_the_other(
    shared_redis: RedisServer, shared_cluster: RedisCluster, tmp_path: Path, there: bool
) -> None:
    single = RedisPlace(shared_redis, f"t{next(NUMBERS)}")
    places = [single, ClusterPlace(shared_cluster, f"t{next(NUMBERS)}")]

    async def work() -> None:
        source, target = places if there else places[::-1]
        now = source.now_ms()
        store, other = await source.open(), await target.open()
        try:
            for number in range(30):
                await store.put("policy", f"n{number}", b"%d" % number, expected=0, audit=WHO)
            await store.feedback_put("m", [row(now, "p")])
            await store.stream_append("s", "r", 1, 1, b"delta")
            await store.backup(tmp_path / "backup")
            await other.restore(tmp_path / "backup")
            assert await other.list("policy") == await store.list("policy")
            assert await other.feedback_get("m", "p", "label") == row(now, "p")
            check = await other.check()
            assert (check.problems, check.records) == ((), 30)
            with pytest.raises(StoreUnusable, match="not empty"):
                await other.restore(tmp_path / "backup")
        finally:
            await store.close()
            await other.close()

    run(work())


# ---- guarded ----


def certified(folder: Path) -> list[str]:
    """What a node is told of a certificate of its own in this folder."""
    needs_redis()
    make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    files = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(folder / "key"), "-out", str(folder / "cert")]
    try:
        subprocess.run([*make.split(), *files], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    tls = ["--tls-cert-file", f"{folder}/cert", "--tls-key-file", f"{folder}/key", "--tls-auth-clients", "no"]
    return [*tls, "--tls-ca-cert-file", f"{folder}/cert", "--tls-cluster", "yes", "--tls-replication", "yes"]


def test_passwords_and_tls(tmp_path: Path) -> None:
    tls = certified(tmp_path)

    async def work(cluster: RedisCluster) -> None:
        node = cluster.nodes[0]
        plain = f"redis+cluster://:se%40cret@127.0.0.1:{node.port}/0"
        async with opened(plain, timeout_s=10) as store:
            await store.put("policy", "a", b"1", expected=0)
            assert store.status().address == f"redis+cluster://127.0.0.1:{node.port}/0"
        for wrong in (plain.replace("se%40", "wrong"), cluster.url()):
            async with opened(wrong, timeout_s=10) as store:
                with pytest.raises(StoreUnusable, match="user or the password"):
                    await store.get("policy", "a")
        secure = f"rediss+cluster://:se%40cret@127.0.0.1:{node.tls_port}"
        async with opened(f"{secure}?ssl_ca_certs={tmp_path}/cert", timeout_s=10) as store:
            assert (await store.get("policy", "a")).body == b"1"
        async with opened(secure, timeout_s=10) as store:
            with pytest.raises(StoreAway):
                await store.get("policy", "a")

    with cluster_of(tmp_path, 1, 0, *tls) as cluster:
        cluster.nodes[0].ask("CONFIG", "SET", "requirepass", "se@cret")
        run(work(cluster))


def test_a_failover_under_tls_is_followed_and_every_connection_stays_tls(tmp_path: Path) -> None:
    async def work(cluster: RedisCluster) -> None:
        replica = cluster.nodes[-1]
        seed = cluster.others()[0]
        url = f"rediss+cluster://127.0.0.1:{seed.tls_port}?ssl_ca_certs={tmp_path}/cert"
        async with opened(url, timeout_s=10) as store:
            first = await again(lambda: store.put("policy", "a", b"1", expected=0, audit=WHO))
            changes = store.watch()
            await seen(changes, Change("policy", "a", first.revision))
            assert replica.ask("CLUSTER", "FAILOVER") == b"OK"
            await in_thread(lambda: cluster.owner() is replica, "it took over")
            second = await again(lambda: store.put("policy", "a", b"2", expected=first.revision, audit=WHO))
            await seen(changes, Change("policy", "a", second.revision))
            assert replica.ask("HGET", "{tidegate}:{a}:docs", "policy") == b"%d\n2" % second.revision
            clients = replica.ask("CLIENT", "LIST").decode().splitlines()
            ours = [line for line in clients if "cmd=eval" in line or "cmd=subscribe" in line]
            assert len(ours) >= 2
            assert all(f" laddr=127.0.0.1:{replica.tls_port} " in line for line in ours)

    with cluster_of(tmp_path, 3, 1, "--cluster-node-timeout", "1000", *certified(tmp_path)) as cluster:
        run(work(cluster))
