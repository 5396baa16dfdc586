"""A unit that is erased from an experiment is gone from every node and from the store, whoever leads then and later."""

import asyncio
from pathlib import Path

import msgspec
import pytest

from gateway.control.experimentbook import KIND, REWARDS, Shard
from gateway.control.record import NodeReport, Notes
from gateway.store.base import StoreAway
from gateway.store.sqlite import SqliteStore
from gateway.tally import NOTE_SEEN
from tests.control.test_feedback_desk import Node, begun, fact, on_a_store

UNIT, OTHER = 4 << 40 | 4, 20 << 40 | 20
"""Of one shard."""


async def led(store: SqliteStore) -> tuple[Node, Node]:
    """Two nodes that know of four units, all of them saved; the first leads."""
    one, two = Node(store, await store.lease_acquire("rollouts", "one", 5), "one"), Node(store, None, "two")
    for node in (one, two):
        node.apply()
        await node.experiments.tick()
    await one.take(*(fact(number) for number in (0, 2, 4, 20)))
    await one.saves()
    await two.experiments.tick()
    return one, two


async def units_saved(store: SqliteStore) -> set[int]:
    documents = await store.list(REWARDS)
    rows = [place for one in documents for place in msgspec.msgpack.decode(one.body, type=Shard).rows]
    return {unit[0] & 0xFF for place in rows for unit in place[4]}


async def takes_over(store: SqliteStore, one: Node, two: Node) -> None:
    assert one.lease is not None
    await store.lease_release(one.lease)
    two.lease, one.lease = await store.lease_acquire("rollouts", "two", 5), None
    for node in (two, one):
        await node.experiments.tick()


@pytest.mark.parametrize("unit", [4 << 40 | 4, 1 << 63 | 4])
def test_a_unit_is_erased_from_an_experiment(tmp_path: Path, unit: int):
    async def work(store: SqliteStore) -> None:
        node = await begun(store)
        await node.take(*(fact(row) for row in range(10) if row != 4), fact(4, unit=unit))
        assert await node.forget(unit)
        assert not await node.forget(unit)
        assert (await node.paid())["old"] == (4, 1.0)
        again = Node(store)
        again.apply()
        await again.experiments.tick()
        assert (await again.paid())["old"] == (4, 1.0)

    on_a_store(tmp_path, work)


def test_an_erasure_that_a_follower_was_asked_for_holds_whoever_leads(tmp_path: Path):
    async def work(store: SqliteStore) -> None:
        one, two = await led(store)
        asked = asyncio.create_task(two.forget(UNIT))
        while not asked.done():
            for node in (one, two):
                await node.experiments.tick()
        assert asked.result()
        assert await units_saved(store) == {0, 2, 20}
        for leader, follower in ((one, two), (two, one)):
            await leader.take(fact(20, 2.0 if leader is one else 3.0))  # the shard is written anew
            await leader.saves()
            assert await units_saved(store) == {0, 2, 20}
            assert (await leader.paid())["old"][0] == (await follower.paid())["old"][0] == 3
            if leader is one:
                await takes_over(store, one, two)

    on_a_store(tmp_path, work)


def test_an_erasure_at_the_leader_holds_when_another_leads(tmp_path: Path):
    async def work(store: SqliteStore) -> None:
        one, two = await led(store)
        assert await one.forget(UNIT)
        await takes_over(store, one, two)
        await two.take(fact(20, 2.0))  # the shard is written anew
        await two.saves()
        assert await units_saved(store) == {0, 2, 20}
        assert (await two.paid())["old"][0] == (await one.paid())["old"][0] == 3

    on_a_store(tmp_path, work)


def test_an_erasure_that_nobody_saves_is_not_acknowledged_and_holds_once_somebody_leads(tmp_path: Path):
    async def work(store: SqliteStore) -> None:
        one, two = await led(store)
        assert one.lease is not None
        await store.lease_release(one.lease)
        with pytest.raises(StoreAway, match="ask again"):
            await two.forget(UNIT, patience_s=0.01)
        three = Node(store, await store.lease_acquire("rollouts", "three", 5), "three")
        await three.experiments.tick()
        assert await units_saved(store) == {0, 2, 20}

    on_a_store(tmp_path, work)


def test_what_the_leader_has_counted_of_an_erased_unit_goes_too(tmp_path: Path):
    async def work(store: SqliteStore) -> None:
        one, two = await led(store)
        notes = Notes("w", 0, tuple((NOTE_SEEN, 1, 0, 0, unit) for unit in (UNIT, OTHER)))
        one.experiments.heard("fraud", NodeReport(node="one", run="r", notes=(notes,)))
        await one.saves()
        asked = asyncio.create_task(two.forget(UNIT))
        while not asked.done():
            for node in (one, two):
                await node.experiments.tick()
        assert (await one.experiments.report("fraud"))["health"]["arms"][0]["units"] == 1
        assert (await two.experiments.report("fraud"))["health"]["arms"][0]["units"] == 1

    on_a_store(tmp_path, work)


def test_an_experiment_that_cannot_be_read_is_not_said_to_be_free_of_a_unit(tmp_path: Path):
    async def work(store: SqliteStore) -> None:
        node = Node(store)
        assert not await node.forget(UNIT)
        await store.put(KIND, "fraud", b"of another version", expected=0)
        with pytest.raises(StoreAway, match="cannot read"):
            await node.forget(UNIT)

    on_a_store(tmp_path, work)
