"""Nodes that share a Redis know of each other, and of who is silent, has left, or has not been heard yet."""

import asyncio
from pathlib import Path

import pytest

from gateway.control.commandqueue import CommandQueue
from gateway.control.nodes import GONE_MS, SILENT_MS, SPEAK_MS, Nodes
from gateway.store.redisstore import open_redis
from gateway.store.sqlite import open_sqlite
from router.rollout.observed import Command
from tests.store.places import RedisServer


class Clock:
    def __init__(self) -> None:
        self.ms = 1_700_000_000_000

    def __call__(self) -> int:
        return self.ms


async def passes(clock: Clock, ms: int, node: Nodes) -> None:
    """Time in which a node looks each second, as it does."""
    for _ in range(ms // 1_000):
        clock.ms += 1_000
        await node.look()


def test_each_knows_what_the_others_act_on_and_who_is_silent_or_has_left(own_redis: RedisServer) -> None:
    async def story() -> None:
        store, clock = await open_redis(own_redis.url), Clock()
        a, b = Nodes(store, "a", clock), Nodes(store, "b", clock)
        await a.look()
        await b.speak({"m": 3}, 1)
        await a.speak({"m": 4}, 1)
        await a.look()
        assert a.others() == {"b": {"m": 3}}, "and not of itself"
        assert (a.behind("m", 4), a.behind("m", 3), a.behind("new", 1)) == (("b",), (), ("b",))
        assert a.silent_ms() == 0
        await passes(clock, SILENT_MS, a)
        assert a.silent_ms() == SILENT_MS
        assert (a.behind("m", 4, SILENT_MS), a.behind("m", 4)) == ((), ("b",)), "silent, and not forgotten"
        later = Nodes(store, "c", clock)
        await later.look()
        assert later.behind("m", 4) == ("b",), "who comes later learns of it, too"
        assert later.others(SILENT_MS) == {}
        await b.leave()
        await b.speak({"m": 4}, 1)
        await a.look()
        assert (a.others(), a.left, a.silent_ms()) == ({}, {"b"}, 0)
        clock.ms += 1
        again = Nodes(store, "b", clock)
        await again.speak({"m": 5}, 1)
        await a.look()
        assert (a.others(), a.left) == ({"b": {"m": 5}}, set())
        await passes(clock, GONE_MS - 1_000, a)
        assert a.silent_ms() == GONE_MS - 1_000
        await passes(clock, 1_000, a)
        assert (a.others(), a.silent_ms()) == ({}, 0)
        await store.close()

    asyncio.run(story())


@pytest.mark.parametrize("jump_ms", [GONE_MS + 1_000, 10 * GONE_MS, -GONE_MS])
def test_while_nobody_could_be_heard_nobody_grows_silent(own_redis: RedisServer, jump_ms: int) -> None:
    async def story() -> None:
        store, clock = await open_redis(own_redis.url), Clock()
        a, b = Nodes(store, "a", clock), Nodes(store, "b", clock)
        await b.speak({"m": 3}, 1)
        await a.look()
        clock.ms += jump_ms  # the store was away, or the clock was set
        await a.look()
        assert a.behind("m", 4, SILENT_MS) == ("b",)
        await passes(clock, SILENT_MS, a)
        assert (a.others(SILENT_MS), a.behind("m", 4)) == ({}, ("b",))
        await store.close()

    asyncio.run(story())


def test_a_second_node_of_the_same_name_is_seen_by_both_and_said_each_minute(
    own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        store, clock = await open_redis(own_redis.url), Clock()
        before = Nodes(store, "a", clock)
        await before.look()
        await before.speak({"m": 3}, 1)
        clock.ms += 1_000
        one = Nodes(store, "a", clock)
        await passes(clock, 3_000, one)
        assert not one.has_twin, "its own start before, which is over"
        copy = Nodes(store, "a", clock)
        await copy.look()
        for seconds in range(GONE_MS // 1_000 + 2):
            clock.ms += 1_000
            for node in (one, copy):
                await node.speak({"m": seconds}, 1)
                await node.look()
        assert (one.has_twin, copy.has_twin) == (True, True)
        assert [record.message for record in caplog.records] == ["node_name_twice"] * 4, "each twice"
        await copy.leave()
        await passes(clock, GONE_MS + 1_000, one)
        assert not one.has_twin
        await store.close()

    asyncio.run(story())


def test_nobody_waits_for_a_node_without_workers(own_redis: RedisServer) -> None:
    async def story() -> None:
        store, clock = await open_redis(own_redis.url), Clock()
        a, b = Nodes(store, "a", clock), Nodes(store, "b", clock)
        await b.speak({"m": 0}, 0)
        await a.look()
        assert (a.others(), a.behind("m", 1)) == ({}, ())
        await b.speak({"m": 0}, 1)
        await a.look()
        assert a.behind("m", 1) == ("b",)
        await store.close()

    asyncio.run(story())


def test_a_node_speaks_when_something_is_new_and_when_it_is_time(own_redis: RedisServer) -> None:
    async def story() -> None:
        store, clock = await open_redis(own_redis.url), Clock()
        node = Nodes(store, "a", clock)
        for revision, after_ms in ((1, 0), (1, SPEAK_MS - 1), (2, 0), (2, SPEAK_MS), (2, -5_000)):
            clock.ms += after_ms
            await node.speak({"m": revision}, 1)
        assert len((await store.stream_read("nodes")).entries) == 4, "not again before its time"
        await store.close()

    asyncio.run(story())


def test_a_store_of_one_node_is_told_nothing(tmp_path: Path) -> None:
    async def story() -> None:
        store = await open_sqlite(tmp_path / "store.db")
        node = Nodes(store, "a", Clock())
        await node.look()
        await node.speak({"m": 1}, 1)
        await node.leave()
        assert (await store.stream_read("nodes")).entries == ()
        await store.close()

    asyncio.run(story())


def command(id: str) -> Command:
    return Command(id=id, kind="abort", actor="ann")


@pytest.mark.parametrize("leads", [True, False])
def test_a_command_that_was_not_carried_out_is_not_lost(tmp_path: Path, leads: bool) -> None:
    async def story() -> None:
        store, clock = await open_sqlite(tmp_path / "store.db"), Clock()
        mine, other = CommandQueue(store, "a", clock), CommandQueue(store, "b", clock)
        mine.add("m", command("1"))
        taken = mine.take("m")
        assert ([one.id for one in taken], mine.take("m")) == (["1"], [])
        mine.add("m", command("2"))
        mine.again("m", taken)
        if not leads:
            clock.ms += 1_000
            await mine.hand_over("m")
            assert mine.take("m") == []
        again = mine.take("m") if leads else await other.read("m")
        assert [(one.id, one.at_ms) for one in again] == [("1", 1_700_000_000_000), ("2", 1_700_000_000_000)]
        await store.close()

    asyncio.run(story())


def test_a_command_whose_caller_left_long_ago_is_not_done(tmp_path: Path) -> None:
    async def story() -> None:
        store, clock = await open_sqlite(tmp_path / "store.db"), Clock()
        mine = CommandQueue(store, "a", clock)
        mine.add("m", command("1"))
        mine.again("m", mine.take("m"))
        clock.ms += 600_000
        assert mine.take("m") == []
        await store.close()

    asyncio.run(story())


def test_a_command_that_is_given_after_the_store_lost_others_is_heard_and_no_old_one_again(
    own_redis: RedisServer,
) -> None:
    async def story() -> None:
        store, clock = await open_redis(own_redis.url), Clock()
        leader, other = CommandQueue(store, "a", clock), CommandQueue(store, "b", clock)
        for number in range(4):
            await other.give("m", command(f"old{number}"))
        assert len(await leader.read("m")) == 4
        with own_redis.client() as client:
            client.flushall()
        await CommandQueue(store, "c", clock).give("m", command("kept"))
        clock.ms += 60_000
        await CommandQueue(store, "d", clock).give("m", command("new"))
        assert [one.id for one in await leader.read("m")] == ["new"]
        assert await leader.read("m") == []
        await store.close()

    asyncio.run(story())
