"""Who is asked for the owner of our keys, and what is made of the answers: nodes that are made up."""

import asyncio
from typing import Any

import pytest
from redis import exceptions

from gateway.store.base import StoreAway, StoreUnusable
from gateway.store.rediscluster import Address, SlotOwner, nodes_of, owner_of, tagged

A, B, C, D = (("10.0.0.1", 1), ("10.0.0.2", 2), ("10.0.0.3", 3), ("10.0.0.4", 4))


def slots(owner: Address, *others: Address) -> list[Any]:
    """An answer to CLUSTER SLOTS: the owner has 0 to 9, the others share the rest."""
    found = [[0, 9, [owner[0].encode(), owner[1], b"id", []]]]
    return found + [
        [10 * at, 10 * at + 9, [host.encode(), port, b"id", []]] for at, (host, port) in enumerate(others, 1)
    ]


class World:
    """Nodes that answer what a test says; one without an answer never does.

    Attributes:
        asked: in order.
    """

    def __init__(self, **answers: Any) -> None:
        self.answers = {A: answers.get("a"), B: answers.get("b"), C: answers.get("c"), D: answers.get("d")}
        self.asked: list[Address] = []
        self.open = 0

    def make(self, host: str, port: int) -> Any:
        return Node(self, (host, port))

    def owner(self, *seeds: Address, timeout_s: float = 60) -> SlotOwner:
        return SlotOwner(5, seeds, self.make, timeout_s)


class Node:
    """A connection to one of them."""

    def __init__(self, world: World, address: Address) -> None:
        self.world = world
        self.address = address

    async def connect(self) -> None:
        self.world.asked.append(self.address)
        self.world.open += 1

    async def send_command(self, *words: str) -> None:
        assert words == ("CLUSTER", "SLOTS")

    async def read_response(self) -> Any:
        answer = self.world.answers[self.address]
        if answer is None:
            await asyncio.Event().wait()
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def disconnect(self, nowait: bool) -> None:
        self.world.open -= 1


def finds(owner: SlotOwner) -> Address:
    return asyncio.run(owner.find())


def test_one_that_answered_is_asked_again_and_silent_ones_last() -> None:
    world = World(a=exceptions.ConnectionError(), b=slots(C, A, B, D))
    owner = world.owner(A, B)
    assert finds(owner) == owner.address == C
    assert finds(owner) == C
    assert world.asked == [A, B, B]
    assert world.open == 0


def test_a_silent_one_takes_a_part_of_the_time_and_only_once() -> None:
    world = World(b=slots(B, A))
    owner = world.owner(A, B, timeout_s=0.1)
    assert [finds(owner), finds(owner)] == [B, B]
    assert world.asked == [A, B, B]


def test_a_caller_that_does_not_wait_has_tried_one_all_the_same() -> None:
    world = World(b=slots(B, A))
    owner = world.owner(A, B)

    async def impatient() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await owner.find()

    asyncio.run(impatient())
    assert finds(owner) == B
    assert (world.asked, world.open) == ([A, B], 0)


def test_callers_at_the_same_time_do_not_send_each_other_to_dead_nodes() -> None:
    world = World(a=exceptions.ConnectionError(), b=slots(B, A))
    owner = world.owner(A, B)
    finds(owner)

    async def many() -> list[Address]:
        return await asyncio.gather(*(owner.find() for _ in range(5)))

    assert asyncio.run(many()) == [B] * 5
    assert world.asked == [A, *[B] * 6]


def test_nodes_that_were_named_are_asked_when_the_seeds_are_gone() -> None:
    world = World(a=slots(B, A, C))
    owner = world.owner(A)
    finds(owner)
    world.answers |= {A: exceptions.ConnectionError(), B: exceptions.ConnectionError(), C: slots(D, C)}
    assert finds(owner) == D
    # Nodes that have left the Cluster are forgotten, seeds never.
    world.answers |= {C: exceptions.ConnectionError(), D: exceptions.ConnectionError()}
    world.asked.clear()
    with pytest.raises(StoreAway, match="cannot be reached"):
        finds(owner)
    assert set(world.asked) == {A, C, D}


def test_who_named_an_owner_that_was_none_comes_last() -> None:
    world = World(a=slots(C, A, B), b=slots(D, A, B))
    owner = world.owner(A, B)
    assert finds(owner) == C
    owner.doubted()
    assert owner.address == C, "connections that work are kept"
    assert finds(owner) == D
    owner.left(exceptions.ClusterDownError("The cluster is down"))
    assert owner.address is None
    world.asked.clear()
    finds(owner)
    assert world.asked != [B]


def test_moved_says_whom_to_ask() -> None:
    world = World(a=slots(C, A, B), d=slots(D, A, B))
    owner = world.owner(A, B)
    finds(owner)
    owner.left(exceptions.MovedError(f"5 {D[0]}:{D[1]}"))
    assert finds(owner) == D
    assert world.asked == [A, D]
    owner.left(exceptions.MovedError("5 :7000"))
    assert owner.address is None


def test_a_slot_that_nobody_has_is_away() -> None:
    world = World(a=slots(A, B)[1:], b=[])
    with pytest.raises(StoreAway, match="no node of the Redis Cluster says who has our keys"):
        finds(world.owner(A, B))
    assert world.asked == [A, B]


@pytest.mark.parametrize(
    "nonsense", [b"HTTP", 7, [[]], [[0, 9]], [[0, 9, []]], [[0, 9, [b"\xff", 1]]], [["a", "b", []]]]
)
def test_nonsense_is_unusable(nonsense: Any) -> None:
    with pytest.raises(StoreUnusable, match="CLUSTER SLOTS was answered with something else"):
        finds(World(a=nonsense).owner(A))


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (exceptions.AuthenticationError("WRONGPASS"), exceptions.AuthenticationError),
        (exceptions.NoPermissionError("no permissions"), exceptions.NoPermissionError),
        (exceptions.ResponseError("This instance has cluster support disabled"), StoreUnusable),
    ],
)
def test_a_refusal_is_nobody_elses_to_answer(error: Exception, raised: type[Exception]) -> None:
    world = World(a=error, b=slots(B))
    with pytest.raises(raised):
        finds(world.owner(A, B))
    assert (world.asked, world.open) == ([A], 0)


def test_a_host_that_a_node_does_not_know_is_the_one_it_was_asked_by() -> None:
    for unknown in (b"", None):
        found = [[0, 16383, [unknown, 7000, b"id", []], [b"h", 7001, b"id"], [b"?", 7002, b"id"]]]
        assert owner_of(found, 5, ("asked", 1)) == ("asked", 7000)
        assert nodes_of(found, ("asked", 1)) == [("asked", 7000), ("h", 7001)]
    assert owner_of([[0, 16383, [b"?", 7002, b"id"]]], 5, ("asked", 1)) is None


def test_only_a_prefix_that_all_keys_are_hashed_by_is_taken() -> None:
    assert tagged("tidegate") == "{tidegate}"
    for prefix in ("", "}a"):
        with pytest.raises(AssertionError):
            tagged(prefix)
