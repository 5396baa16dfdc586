"""Redis killed, stopped, slow: what only Redis has."""

import asyncio
import signal
import time
from pathlib import Path

import pytest

from gateway.store.base import Change, Store, StoreAway, StoreUnusable
from gateway.store.opening import open_store
from tests.store.places import RedisServer
from tests.store.redisworld import SOON_S, WHO, again, away_s, opened, run

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
