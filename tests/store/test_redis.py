"""What only Redis has: it is killed, stopped, slow, full, foreign, guarded; it has a Sentinel."""

import asyncio
import signal
import subprocess
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from gateway.config import ConfigError
from gateway.store.base import Change, Limits, Store, StoreAway, StoreUnusable
from gateway.store.opening import open_store
from gateway.store.redisstore import VERSION, RedisStore, open_redis
from tests.store.places import RedisServer, free_port

WHO = {"actor": "ann"}
# Beside the time-out of 250 ms: a busy machine.
SOON_S = 5.0


def run(work: Coroutine[Any, Any, None]) -> None:
    """With a bound."""

    async def go() -> None:
        async with asyncio.timeout(60):
            await work

    asyncio.run(go())


@asynccontextmanager
async def opened(url: str, **settings: Any) -> Any:
    store = await open_redis(url, **settings)
    try:
        yield store
    finally:
        await store.close()


async def again(call: Callable[[], Coroutine[Any, Any, Any]], bound_s: float = 20) -> Any:
    """Until the store is there; the wait between is the one that it asks for."""
    async with asyncio.timeout(bound_s):
        while True:
            try:
                return await call()
            except StoreAway as error:
                with suppress(TimeoutError):
                    await asyncio.wait_for(asyncio.Event().wait(), error.retry_after_s)


async def away_s(call: Coroutine[Any, Any, Any]) -> float:
    """How long it took until the store was said to be away."""
    began = time.monotonic()
    with pytest.raises(StoreAway):
        await call
    return time.monotonic() - began


@contextmanager
def running(folder: Path, *arguments: str) -> Iterator[RedisServer]:
    server = RedisServer(folder, "--save", "", *arguments)
    try:
        server.start()
        yield server
    finally:
        server.stop()


# ---- killed, stopped, slow ----


def test_stopped_it_is_away_within_the_time_out_and_then_at_once(own_redis: RedisServer) -> None:
    async def work() -> None:
        async with opened(own_redis.url) as store:
            kept = await again(lambda: store.put("policy", "a", b"1", expected=0, audit=WHO))
            own_redis.send(signal.SIGSTOP)
            for call in (
                store.get("policy", "a"),
                store.put("policy", "a", b"2", expected=kept.revision, audit=WHO),
                store.lease_acquire("l", "me", 1),
                store.audit_read(),
                store.stream_append("s", "r", 1, 1, b""),
                store.feedback_count("m"),
                store.check(),
            ):
                assert await away_s(call) < SOON_S
            # Nobody waits any more: the breaker is open.
            calls = [away_s(store.get("policy", "a")) for _ in range(200)]
            began = time.monotonic()
            await asyncio.gather(*calls)
            assert time.monotonic() - began < SOON_S
            assert "does not answer within 250 ms" in str(store.status().away)
            own_redis.send(signal.SIGCONT)
            found = await again(lambda: store.get("policy", "a"))
            # Writes that ended in a time-out may or may not have come through; the chain is whole either way.
            assert found.body in (b"1", b"2")
            assert (await again(store.audit_verify)).broken is None
            assert store.status().away is None

    run(work())


def test_killed_nothing_acknowledged_is_lost_and_the_watch_goes_on(own_redis: RedisServer) -> None:
    async def work() -> None:
        async with opened(own_redis.url) as store:
            first = await again(lambda: store.put("policy", "a", b"1", expected=0, audit=WHO))
            changes = store.watch()
            assert await anext(changes) == Change("policy", "a", first.revision)
            own_redis.stop(signal.SIGKILL)
            assert await away_s(store.put("policy", "a", b"2", expected=first.revision)) < SOON_S
            own_redis.start()
            with own_redis.client() as client:
                # What happened while we were not there, as another node would have done it.
                assert client.hget("tidegate:{a}:docs", "policy") == b"1\n1"
            async with opened(own_redis.url) as other:
                second = await again(lambda: other.put("policy", "a", b"2", expected=first.revision, audit=WHO))
                await other.put("policy", "b", b"", expected=0)
                seen = {await anext(changes), await anext(changes)}
                assert Change("policy", "a", second.revision) in seen
                third = await other.put("policy", "a", b"3", expected=second.revision, audit=WHO)
                while await anext(changes) != Change("policy", "a", third.revision):
                    pass
            assert (await again(store.audit_verify)).records == 3

    run(work())


def test_killed_while_it_writes_nothing_acknowledged_is_lost(own_redis: RedisServer) -> None:
    async def work() -> None:
        async with opened(own_redis.url) as store, opened(own_redis.url) as other:
            acknowledged: dict[str, int] = {}
            enough = asyncio.Event()

            async def write(writer: Store, name: str) -> None:
                number = 0
                while True:
                    number += 1
                    try:
                        await writer.put("policy", name, b"%d" % number, expected=None, audit={"n": number})
                    except StoreAway:
                        if enough.is_set():
                            return
                        continue
                    acknowledged[name] = number
                    if number > 20:
                        enough.set()

            await again(lambda: store.get("policy", "a"))
            writing = [asyncio.ensure_future(write((store, other)[i % 2], f"n{i % 3}{i}")) for i in range(6)]
            await enough.wait()
            await asyncio.to_thread(own_redis.stop, signal.SIGKILL)
            await asyncio.gather(*writing)
            own_redis.start()
            for name, number in acknowledged.items():
                document = await again(lambda name=name: store.get("policy", name))
                assert int(document.body) >= number
                newest = (await again(lambda name=name: store.audit_read(name, newest=True, limit=1))).records[0]
                assert (newest.record["n"], newest.after) == (int(document.body), document.revision)
            assert (await again(store.audit_verify)).broken is None

    run(work())


def test_what_others_put_there_is_no_crash(own_redis: RedisServer) -> None:
    async def work() -> None:
        async with opened(own_redis.url, timeout_s=10) as store:
            await store.put("policy", "good", b"1", expected=0)
            await store.stream_append("s", "r", 1, 1, b"")
            with own_redis.client() as client:
                client.hset("tidegate:{a}:docs", "policy", b"no revision\nbody")
                client.set("tidegate:{b}:docs", "no hash")
                client.hset("tidegate:{c}:head", mapping={"seq": "x", "rev": "1"})
                client.xadd("tidegate:{c}:audit", {"b": "x", "h": "y"})
                client.xadd("tidegate:{s}:stream", {"other": "x"})
                client.set("tidegate:{fb}:fb", "no hash")
                client.sadd("tidegate:names", "a", "c")
            for call in (
                store.get("policy", "a"),
                store.get("policy", "b"),
                store.list("policy"),
                store.put("policy", "c", b"", expected=0, audit=WHO),
                store.audit_append("c", WHO),
                store.audit_read("c"),
                store.audit_verify(),
                store.stream_read("s"),
                store.feedback_count("fb"),
            ):
                with pytest.raises(StoreUnusable):
                    await call
            assert await anext(store.watch()) == Change("policy", "good", 1)
            with own_redis.client() as client:
                client.sadd("tidegate:names", b"\xff{}")
            while store.status().away is None:
                await asyncio.wait_for(asyncio.to_thread(own_redis.ping), 10)
            assert "index of names" in str(store.status().away)
            with own_redis.client() as client:
                client.srem("tidegate:names", b"\xff{}")
            changes = store.watch({("policy", "good"): 1})
            second = await store.put("policy", "good", b"2", expected=1)
            assert await anext(changes) == Change("policy", "good", second.revision)

    run(work())


def test_a_change_is_seen_even_if_no_message_comes(own_redis: RedisServer) -> None:
    async def work() -> None:
        async with opened(own_redis.url) as store:
            first = await again(lambda: store.put("policy", "a", b"1", expected=0))
            changes = store.watch()
            assert (await anext(changes)).revision == first.revision
            with own_redis.client() as client:
                client.hset("tidegate:{a}:docs", "policy", b"9\nby hand")
                client.hset("tidegate:{a}:head", "rev", 9)
            assert await anext(changes) == Change("policy", "a", 9)

    run(work())


def test_emptied_by_hand_watchers_learn_that_all_is_gone(own_redis: RedisServer) -> None:
    async def work() -> None:
        async with opened(own_redis.url) as store:
            document = await again(lambda: store.put("policy", "a", b"1", expected=0))
            changes = store.watch()
            assert (await anext(changes)).revision == document.revision
            with own_redis.client() as client:
                client.flushall()
            assert await anext(changes) == Change("policy", "a", 0)
            lease = await store.lease_acquire("l", "me", 60)
            assert lease.token > 1_000_000_000_000

    run(work())


def test_absent_at_the_start_it_opens_all_the_same(tmp_path: Path) -> None:
    server = RedisServer(tmp_path, "--save", "")

    async def work() -> None:
        store = await open_store(server.url, tmp_path)
        try:
            assert await away_s(store.get("policy", "a")) < SOON_S
            assert store.status().away == "Redis cannot be reached"
            server.start()
            document = await again(lambda: store.put("policy", "a", b"1", expected=0))
            assert (await anext(store.watch())).revision == document.revision
        finally:
            await store.close()

    try:
        run(work())
    finally:
        server.stop()


def test_slow_it_is_away_and_comes_back(own_redis: RedisServer) -> None:
    async def work() -> None:
        async with opened(own_redis.url) as store:
            await again(lambda: store.put("policy", "a", b"1", expected=0))
            with own_redis.client() as client:
                client.execute_command("CLIENT", "PAUSE", 1500, "ALL")
            assert await away_s(store.get("policy", "a")) < SOON_S
            assert (await again(lambda: store.get("policy", "a"))).body == b"1"

    run(work())


def test_a_server_that_drips_or_talks_nonsense_is_no_hang(tmp_path: Path) -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"$1000\r\n" if await reader.read(1) else b"")
        await reader.read()
        writer.close()

    async def nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await reader.read()
        writer.close()

    async def work() -> None:
        for talk in (drip, nonsense):
            listening = await asyncio.start_server(talk, "127.0.0.1", 0)
            port = listening.sockets[0].getsockname()[1]
            async with opened(f"redis://127.0.0.1:{port}") as store:
                began = time.monotonic()
                with pytest.raises((StoreAway, StoreUnusable)):
                    await store.get("policy", "a")
                assert time.monotonic() - began < SOON_S
            listening.close()

    run(work())


def test_callers_that_leave_mix_up_no_answers(own_redis: RedisServer) -> None:
    async def work() -> None:
        async with opened(own_redis.url) as store:
            await again(lambda: store.put("policy", "n0", b"n0", expected=0))
            for number in range(1, 20):
                await store.put("policy", f"n{number}", b"n%d" % number, expected=0)

            async def wrong(number: int) -> bool:
                document = await store.get("policy", f"n{number}")
                return document is None or document.body != b"n%d" % number

            for round_number in range(20):
                calls = [asyncio.ensure_future(wrong(number)) for number in range(20)]
                await asyncio.wait(calls, timeout=0.0005 * round_number)
                for call in calls[::2]:
                    call.cancel()
                results = await asyncio.gather(*calls, return_exceptions=True)
                assert not any(result is True for result in results)
                assert all(result is False for result in results[1::2])

    run(work())


# ---- full, foreign, guarded ----


def test_full_it_is_away_and_says_so(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        names: list[str] = []
        with pytest.raises(StoreAway, match="Redis cannot do it now"):
            await fill(store, names)
        assert names
        assert len(await store.list("policy")) == len(names)

    async def fill(store: Store, names: list[str]) -> None:
        for number in range(100):
            await store.put("policy", f"n{number}", bytes(100_000), expected=0, audit=WHO)
            names.append(f"n{number}")

    async def go(url: str) -> None:
        async with opened(url, timeout_s=10) as store:
            await work(store)

    with running(tmp_path, "--maxmemory", "4mb") as server:
        run(go(server.url))


def test_notes_say_what_an_operator_should_know(tmp_path: Path) -> None:
    async def go(url: str) -> None:
        async with opened(url, timeout_s=10) as store:
            check = await store.check()
            assert check.problems == ()
            assert len(check.notes) == 2
            assert "append-only" in check.notes[0]
            assert "allkeys-lru" in check.notes[1]

    with running(tmp_path, "--maxmemory-policy", "allkeys-lru") as server:
        run(go(server.url))


def test_a_chain_without_its_name_and_a_cut_one_are_found(own_redis: RedisServer) -> None:
    async def go() -> None:
        async with opened(own_redis.url, timeout_s=10) as store:
            for name in ("a", "b"):
                for _ in range(3):
                    await store.audit_append(name, WHO)
            with own_redis.client() as client:
                last = client.xrevrange("tidegate:{b}:audit", count=1)[0][0]
                client.xdel("tidegate:{b}:audit", last)
                assert (
                    "chain 'b', record 3: the chain should end at 3, it ends at 2"
                    in (await store.audit_verify()).broken
                )
                client.delete("tidegate:{b}:audit", "tidegate:{b}:head")
                client.srem("tidegate:names", "a")
            assert "chain 'a', record 1: its name is not in the index" in (await store.audit_verify()).broken

    run(go())


def test_a_newer_schema_is_refused_by_name(own_redis: RedisServer) -> None:
    async def go() -> None:
        with own_redis.client() as client:
            client.set("tidegate:schema", VERSION + 1)
        async with opened(own_redis.url, timeout_s=10) as store:
            with pytest.raises(StoreUnusable, match=f"schema version {VERSION + 1}, this program knows {VERSION}"):
                await store.put("policy", "a", b"", expected=0)
            assert "schema version" in str(store.status().away)
            with own_redis.client() as client:
                client.set("tidegate:schema", VERSION)
            await store.put("policy", "a", b"", expected=0)

    run(go())


def test_a_restore_that_broke_off_is_not_taken_for_a_store(own_redis: RedisServer) -> None:
    async def go() -> None:
        with own_redis.client() as client:
            client.set("tidegate:restoring", 1)
        async with opened(own_redis.url, timeout_s=10) as store:
            with pytest.raises(StoreUnusable, match="restore"):
                await store.list("policy")

    run(go())


def test_a_cluster_is_refused_in_words(tmp_path: Path) -> None:
    async def go(url: str) -> None:
        async with opened(url, timeout_s=10) as store:
            with pytest.raises(StoreUnusable, match="a Redis Cluster is not supported"):
                await store.get("policy", "a")

    with running(tmp_path, "--cluster-enabled", "yes", "--cluster-port", str(free_port())) as server:
        run(go(server.url))


def test_passwords_are_used_and_not_shown(tmp_path: Path) -> None:
    async def go(server: RedisServer) -> None:
        url = f"redis://:secret@127.0.0.1:{server.port}/0"
        async with opened(url, timeout_s=10) as store:
            await store.put("policy", "a", b"", expected=0)
            assert store.status().address == f"redis://127.0.0.1:{server.port}/0"
        for wrong in (url.replace("secret", "wrong"), server.url):
            async with opened(wrong, timeout_s=10) as store:
                with pytest.raises(StoreUnusable, match="user or the password"):
                    await store.get("policy", "a")

    with running(tmp_path, "--requirepass", "secret") as server:
        run(go(server))


def test_unix_sockets_and_tls(tmp_path: Path) -> None:
    folder = tmp_path / "t"
    folder.mkdir()
    make = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
    ]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    try:
        files = ["-keyout", str(folder / "key"), "-out", str(folder / "cert")]
        subprocess.run([*make, *names, *files], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl is not installed")

    async def go(server: RedisServer) -> None:
        async with opened(f"unix://{folder}/socket?db=1", timeout_s=10) as store:
            await store.put("policy", "a", b"1", expected=0)
        url = f"rediss://localhost:{server.port}/1?ssl_ca_certs={folder}/cert"
        async with opened(url, timeout_s=10) as store:
            assert (await store.get("policy", "a")).body == b"1"
            assert str(folder) not in store.status().address
        async with opened(f"rediss://localhost:{server.port}/1", timeout_s=10) as store:
            with pytest.raises(StoreAway):
                await store.get("policy", "a")

    tls = ["--tls-cert-file", f"{folder}/cert", "--tls-key-file", f"{folder}/key", "--tls-auth-clients", "no"]
    server = RedisServer(folder, "--save", "", "--port", "0", "--unixsocket", f"{folder}/socket", *tls)
    server.arguments += ("--tls-port", str(server.port))
    try:
        server.start()
        run(go(server))
    finally:
        server.stop()


def test_sentinel_names_the_one_that_writes(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("main", "copy", "sentinel")]
    for folder in folders:
        folder.mkdir()

    async def go(sentinel: RedisServer, first: RedisServer) -> None:
        url = f"redis+sentinel://127.0.0.1:{sentinel.port}/tide/0"
        async with opened(url) as store:
            kept = await again(lambda: store.put("policy", "a", b"1", expected=0))
            changes = store.watch()
            assert (await anext(changes)).revision == kept.revision
            # Acknowledged by the copy as well before its leader dies.
            with first.client() as client:
                assert client.execute_command("WAIT", 1, 10_000) == 1
            first.stop(signal.SIGKILL)
            second = await again(lambda: store.put("policy", "a", b"2", expected=kept.revision), 50)
            while (await anext(changes)).revision != second.revision:
                pass

    with running(folders[0]) as first, running(folders[1], "--replicaof", "127.0.0.1", str(first.port)):
        config = folders[2] / "sentinel.conf"
        config.write_text(
            f"sentinel monitor tide 127.0.0.1 {first.port} 1\n"
            "sentinel down-after-milliseconds tide 500\n"
            "sentinel failover-timeout tide 2000\n"
        )
        sentinel = RedisServer(folders[2])
        config.write_text(f"port {sentinel.port}\nbind 127.0.0.1\n{config.read_text()}")
        try:
            sentinel.start_sentinel(config)
            with first.client() as client:
                assert client.execute_command("WAIT", 0, 0) >= 0
            run(go(sentinel, first))
        finally:
            sentinel.stop()


@pytest.mark.parametrize(
    "url",
    [
        "redis://h:port",
        "redis+sentinel://h:1",
        "redis+sentinel://h/s",
        "redis+sentinel://h:1/s?x=1",
        "redis://h:99999999",
    ],
)
def test_malformed_addresses_are_refused_at_once(tmp_path: Path, url: str) -> None:
    with pytest.raises(ConfigError, match="store: "):
        asyncio.run(open_store(url, tmp_path))


def test_two_prefixes_do_not_see_each_other(shared_redis: RedisServer) -> None:
    async def go() -> None:
        url = shared_redis.url
        async with opened(url, prefix="one*", timeout_s=10) as one, opened(url, prefix="one", timeout_s=10) as two:
            await one.put("policy", "a", b"1", expected=0, audit=WHO)
            assert await two.list("policy") == ()
            assert (await two.audit_verify()).records == 0
            await two.put("policy", "a", b"2", expected=0)
            assert (await one.get("policy", "a")).body == b"1"

    run(go())


def test_a_limit_of_ours_is_the_limit_there(shared_redis: RedisServer) -> None:
    async def go() -> None:
        async with opened(shared_redis.url, prefix="bound", limits=Limits(stream_rows=2), timeout_s=10) as store:
            assert isinstance(store, RedisStore)
            for number in range(5):
                await store.stream_append("s", "r", 1, number, b"")
            with shared_redis.client() as client:
                assert client.xlen("bound:{s}:stream") == 2

    run(go())
