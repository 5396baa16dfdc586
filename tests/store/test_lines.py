"""Lines of the decision log in a real Redis: added once, bounded, found, removed, left out of backups."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from gateway.store.base import Limits, StoreAway, StoreUnusable
from gateway.store.lines import LINE_BYTES, PART_LINES, Lines
from gateway.store.sqlite import open_sqlite
from tests.store.conftest import shared_place
from tests.store.places import RedisPlace, RedisServer
from tests.store.redisworld import again, away_s, opened, run

ALL = b"line"


def anything(_: bytes) -> bool:
    return True


@pytest.fixture(params=["redis", "cluster"])
def place(request: pytest.FixtureRequest) -> RedisPlace:
    return shared_place(request)


def on(place: RedisPlace, body: Callable[[Lines], Coroutine[Any, Any, None]], limits: Limits | None = None) -> None:
    async def go() -> None:
        store = await place.open(limits)
        try:
            await body(store.lines)
        finally:
            await store.close()

    run(go())


def some(first: int, last: int) -> list[bytes]:
    return [b"line %d" % number for number in range(first, last)]


def test_lines_come_back_oldest_first(place: RedisPlace) -> None:
    async def body(lines: Lines) -> None:
        assert await lines.find(ALL, anything, 10) == []
        assert await lines.append("a", 1, some(0, 3), 1_000)
        assert await lines.append("b", 1, some(3, 5), 1_000)
        assert await lines.find(ALL, anything, 10) == some(0, 5)
        assert await lines.find(ALL, anything, 2) == some(3, 5)
        assert await lines.find(b"line 3", anything, 10) == [b"line 3"]
        assert await lines.find(b"l.ne", anything, 10) == []
        assert await lines.find(ALL, lambda line: line.endswith(b"4"), 10) == [b"line 4"]

    on(place, body)


def test_a_part_that_is_sent_again_is_there_once(place: RedisPlace) -> None:
    async def body(lines: Lines) -> None:
        assert await lines.append("a", 1, some(0, 2), 1_000)
        assert not await lines.append("a", 1, some(0, 2), 1_000)
        assert await lines.append("a", 2, some(2, 3), 1_000)
        assert not await lines.append("a", 1, some(0, 2), 1_000)
        assert await lines.find(ALL, anything, 10) == some(0, 3)

    on(place, body)


def test_the_oldest_go_beyond_the_bound(place: RedisPlace) -> None:
    async def body(lines: Lines) -> None:
        for part in range(20):
            await lines.append("a", part, some(part * 500, part * 500 + 500), 1_000)
        kept = await lines.find(ALL, anything, 100_000)
        # Redis drops whole blocks, of a hundred lines at most.
        assert 1_000 <= len(kept) <= 1_100
        assert kept == some(10_000 - len(kept), 10_000)

    on(place, body)


def test_removing_takes_what_is_wanted_out_of_many_looks(place: RedisPlace) -> None:
    async def body(lines: Lines) -> None:
        for part in range(6):
            await lines.append("a", part, some(part * 500, part * 500 + 500), 100_000)

        def odd(line: bytes) -> bool:
            return int(line.split()[1]) % 2 == 1

        assert await lines.remove(ALL, odd) == 1_500
        assert await lines.remove(ALL, odd) == 0
        assert await lines.find(ALL, anything, 100_000) == some(0, 3_000)[::2]

    on(place, body)


def test_large_lines_come_look_by_look(place: RedisPlace) -> None:
    large = [b"line %d" % number + b"x" * 60_000 for number in range(40)]

    async def body(lines: Lines) -> None:
        for number, line in enumerate(large):
            await lines.append("a", number, [line], 1_000)
        assert await lines.find(ALL, anything, 100) == large

    on(place, body)


def test_lines_that_no_caller_should_send_are_refused(place: RedisPlace) -> None:
    async def body(lines: Lines) -> None:
        for sender, wrong in (
            ("a", []),
            ("a", [b"x"] * (PART_LINES + 1)),
            ("a", [b"x" * (LINE_BYTES + 1)]),
            ("", [b"x"]),
        ):
            with pytest.raises(ValueError, match="expected"):
                await lines.append(sender, 1, wrong, 1_000)
        assert await lines.find(b"", anything, 10) == []

    on(place, body)


def test_a_key_that_is_not_ours_keeps_nothing_by_halves(place: RedisPlace) -> None:
    async def body(lines: Lines) -> None:
        keys = [f"{place.keys}:{{decisions}}:{part}" for part in ("senders", "heard", "lines")]
        for key in keys:
            with place.server.client() as client:
                client.set(key, "somebody's")
            with pytest.raises(StoreUnusable):
                await lines.append("a", 1, some(0, 2), 1_000)
            with place.server.client() as client:
                client.delete(key)
        assert await lines.append("a", 1, some(0, 2), 1_000)
        assert await lines.find(ALL, anything, 10) == some(0, 2)

    on(place, body)


def test_only_so_many_senders_are_remembered(place: RedisPlace) -> None:
    async def body(lines: Lines) -> None:
        for number in range(10):
            await lines.append(f"s{number}", 1, some(number, number + 1), 1_000)
        with place.server.client() as client:
            assert client.hlen(f"{place.keys}:{{decisions}}:senders") == 3
            assert client.zcard(f"{place.keys}:{{decisions}}:heard") == 3
        assert not await lines.append("s9", 1, some(9, 10), 1_000)

    on(place, body, Limits(stream_marks=3))


def test_while_redis_is_gone_calls_end_soon_and_then_it_goes_on(own_redis: RedisServer) -> None:
    async def body() -> None:
        async with opened(own_redis.url) as store:
            lines = store.lines
            assert await lines.append("a", 1, some(0, 2), 1_000)
            own_redis.stop()
            assert await away_s(lines.append("a", 2, some(2, 3), 1_000)) < 5
            with pytest.raises(StoreAway):
                await lines.find(ALL, anything, 10)
            own_redis.start()
            assert await again(lambda: lines.append("a", 2, some(2, 3), 1_000))
            assert not await lines.append("a", 1, some(0, 2), 1_000)
            assert await lines.find(ALL, anything, 10) == some(0, 3)

    run(body())


def test_a_redis_too_full_for_lines_is_not_away_for_the_rest(own_redis: RedisServer) -> None:
    async def body() -> None:
        async with opened(own_redis.url) as store:
            await store.put("policy", "p", b"{}", expected=0)
            with own_redis.client() as client:
                client.config_set("maxmemory", "1mb")
                for _ in range(20):
                    with pytest.raises(StoreAway):
                        await store.lines.append("a", 1, some(0, 2), 1_000)
                    assert await store.get("policy", "p") is not None
                    assert await store.lines.find(ALL, anything, 10) == []
                client.config_set("maxmemory", "0")
            assert await again(lambda: store.lines.append("a", 1, some(0, 2), 1_000))
            assert await store.lines.find(ALL, anything, 10) == some(0, 2)

    run(body())


def test_searches_wait_for_each_other_and_leave_the_rest_of_the_link_alone(place: RedisPlace) -> None:
    async def body(lines: Lines) -> None:
        await lines.append("a", 1, some(0, 500), 1_000)
        found = await asyncio.gather(*(lines.find(ALL, anything, 1_000) for _ in range(30)))
        assert all(len(one) == 500 for one in found)

    on(place, body)


def test_a_backup_leaves_them_out(place: RedisPlace, tmp_path: Path) -> None:
    async def go() -> None:
        store, other = await place.open(), await place.elsewhere().open()
        try:
            await store.put("policy", "decisions", b"{}", expected=0)
            await store.lines.append("a", 1, some(0, 2), 1_000)
            await store.backup(tmp_path / "backup")
            await other.restore(tmp_path / "backup")
            assert await other.get("policy", "decisions") is not None
            assert await other.lines.find(ALL, anything, 10) == []
        finally:
            await store.close()
            await other.close()

    run(go())


def test_a_file_of_one_node_has_none(tmp_path: Path) -> None:
    async def go() -> None:
        store = await open_sqlite(tmp_path / "store.db")
        assert store.lines is None
        await store.close()

    run(go())
