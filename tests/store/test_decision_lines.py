"""The decision log's way into a real Redis: a worker's sink, control's lines, and files beside them."""

import asyncio
import json
from collections.abc import Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.control.decisionlog import DecisionLines
from gateway.control.link import ControlAway
from gateway.decisionfiles import FOLDER, MOST_FOUND, append
from gateway.decisions import NotNow
from gateway.decisionstream import StreamSink
from gateway.store.base import StoreUnusable
from gateway.store.sqlite import open_sqlite
from tests.store.conftest import NUMBERS
from tests.store.places import RedisPlace, RedisServer
from tests.store.redisworld import run


@pytest.fixture
def place(shared_redis: RedisServer) -> RedisPlace:
    return RedisPlace(shared_redis, f"t{next(NUMBERS)}")


def line(unit: str, time_ms: int, **more: Any) -> bytes:
    return json.dumps({"time_ms": time_ms, "model": "m", "unit": unit, **more}).encode() + b"\n"


def of(unit: str) -> Callable[[dict[str, Any]], bool]:
    return lambda fields: fields.get("unit") == unit


@asynccontextmanager
async def desk(place: RedisPlace, folder: Path) -> Any:
    store = await place.open()
    try:
        yield DecisionLines(store, folder)
    finally:
        await store.close()


def calling(lines: DecisionLines, fail: Callable[[int], str]) -> Any:
    """A worker's link to control that loses calls: `before` control has heard of them, or `after`."""
    calls = 0

    async def call(name: str, args: dict[str, Any], timeout_s: float) -> None:
        nonlocal calls
        calls += 1
        how = fail(calls)
        assert (name, timeout_s > 0) == ("decision_lines", True)
        if how == "before":
            raise ControlAway
        await lines.take(**args)
        if how == "after":
            raise ControlAway

    return call


def test_each_part_is_kept_once_whatever_gets_lost(place: RedisPlace, tmp_path: Path) -> None:
    async def go() -> None:
        async with desk(place, tmp_path) as lines:
            how = {1: "before", 2: "after", 4: "after", 5: "after"}
            call = calling(lines, lambda n: how.get(n, ""))
            sink = StreamSink(call, asyncio.get_running_loop(), "w1", 1_000)
            refused = 0
            for part in range(4):
                while True:
                    try:
                        await asyncio.to_thread(sink.write, [line("a", part), line("b", part)])
                        break
                    except NotNow:
                        refused += 1
            assert refused == 4
            assert [found["time_ms"] for found in await lines.find(of("a"), b'"a"')] == [0, 1, 2, 3]

    run(go())


def test_a_loop_that_does_not_answer_is_not_waited_for() -> None:
    async def call(name: str, args: dict[str, Any], timeout_s: float) -> None:
        raise TimeoutError

    async def go() -> None:
        sink = StreamSink(call, asyncio.get_running_loop(), "w1", 1_000)
        with pytest.raises(NotNow, match="does not answer"):
            await asyncio.to_thread(sink.write, [b"x"])

    run(go())


def test_files_and_stream_are_searched_and_erased_together(place: RedisPlace, tmp_path: Path) -> None:
    (tmp_path / FOLDER).mkdir()
    append(tmp_path / FOLDER, "0", line("a", 2) + line("b", 4), 1 << 20, 2)

    async def go() -> None:
        async with desk(place, tmp_path) as lines:
            # A text that a client may choose stands in the second: the needle is no proof.
            await lines.take(
                "w", 1, [line("a", 1), line("b", 3, outputs={"y": '"a"'}), line("a", 5), b'no json "a"'], 1_000
            )
            assert [found["time_ms"] for found in await lines.find(of("a"), b'"a"')] == [1, 2, 5]
            assert await lines.forget(of("a"), b'"a"') == 3
            assert await lines.find(of("a"), b'"a"') == []
            assert [found["time_ms"] for found in await lines.find(of("b"), b'"b"')] == [3, 4]

    run(go())


def test_only_the_last_lines_are_found(place: RedisPlace, tmp_path: Path) -> None:
    async def go() -> None:
        async with desk(place, tmp_path) as lines:
            for part in range(3):
                await lines.take("w", part, [line("a", part * 500 + n) for n in range(500)], 10_000)
            found = await lines.find(of("a"), b'"a"')
            assert [one["time_ms"] for one in found] == list(range(500, 500 + MOST_FOUND))
            assert await lines.forget(of("a"), b'"a"') == 1_500

    run(go())


def test_a_store_of_one_node_takes_no_lines(tmp_path: Path) -> None:
    async def go() -> None:
        store = await open_sqlite(tmp_path / "store.db")
        try:
            with pytest.raises(StoreUnusable):
                await DecisionLines(store, tmp_path).take("w", 1, [b"x"], 1_000)
        finally:
            await store.close()

    run(go())
