"""Two gateways on one Redis agree: one leads, both route alike, counts add up; without Redis they answer as before."""

import asyncio
import json
import os
import shutil
import signal
import time
from typing import Any

import pytest

from gateway.store.redisstore import open_redis
from tests.process.callers import Caller, Crowd, apply, command, counted, policy, shown, tensor
from tests.store.places import RedisServer
from tests.tree import Tree

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed"),
]
GOOD, BROKEN = tensor([1]), tensor([900])
STEPS = [{"setWeight": w, "hold": {"minDuration": "1s"}} for w in (1000, 5000)]
STEPS.append({"setWeight": 7000, "hold": {"minDuration": "10m"}})
LAX = {"analysis": {"minDetect": 1000}, "on_failure": {"do": "warn"}}
Pair = tuple[Tree, Tree]


def leader(pair: Pair) -> Tree:
    """The one that leads, once exactly one does."""
    found: list[Tree] = []

    def one_leads() -> bool:
        nonlocal found
        found = [tree for tree in pair if shown(tree, "table").get("leads")]
        return len(found) == 1

    pair[0].until("one leader", one_leads)
    return found[0]


def routed(tree: Tree) -> int:
    found = shown(tree, "table")
    return sum(c["routed"] for c in counted(found).values()) if "counts" in found else -1


def agree(pair: Pair, crowds: list[Crowd]) -> None:
    """The leader's counts are those of all clients together, per revision and variant."""
    told: dict[tuple[int, str], int] = {}
    for crowd in crowds:
        seen = crowd.stop()
        assert seen.broken == []
        assert seen.statuses() == {200}
        for (_, variant, revision, served_by), answers in seen.tally.items():
            place = (revision, "canary" if served_by else variant)
            told[place] = told.get(place, 0) + answers
    pair[0].until("all are counted", lambda: routed(leader(pair)) == sum(told.values()), 10)
    sums = {place: counts["routed"] for place, counts in counted(shown(leader(pair), "table")).items()}
    assert sums == told


def test_they_agree_and_one_takes_over_from_a_leader_that_stands_still(pair: Pair) -> None:
    one, two = pair
    started = time.monotonic()
    found = apply(one, policy("table", steps=STEPS, **LAX))
    two.until("it is in force there", lambda: shown(two, "table", "policies").get("revision", 0) >= found["revision"])
    caller = Caller(two.port, "table")
    two.until("and routes there", lambda: caller.ask(GOOD, "x-user-id: a\r\n").revision >= 1)
    caller.close()
    assert time.monotonic() - started < 2
    crowds = [Crowd(tree.port, "table", lambda rng: BROKEN if rng.random() < 0.02 else GOOD, users=50_000, callers=2)
              for tree in pair]  # fmt: skip
    with crowds[0], crowds[1]:
        first = leader(pair)
        second = two if first is one else one
        first.until("the second step", lambda: shown(second, "table").get("step") == 1)
        os.kill(first.control_pid(), signal.SIGSTOP)
        stopped = first.control_pid()
        try:
            second.until("the other leads", lambda: bool(shown(second, "table").get("leads")), 15)
            second.until("the last step", lambda: shown(second, "table").get("step") == 2)
        finally:
            os.kill(stopped, signal.SIGKILL)
        first.until("a new control", lambda: shown(first, "table").get("step") == 2)
        first.until("the same slots", lambda: _digest(first) == _digest(second))
        at = [crowd.seen.count() for crowd in crowds]
        first.until("traffic", lambda: all(c.seen.count() > n + 200 for c, n in zip(crowds, at, strict=True)))
    for crowd in crowds:
        assert (crowd.seen.broken, crowd.seen.statuses()) == ([], {200})
    leader(pair)
    routers = [Caller(tree.port, "table") for tree in pair]
    asked = [[caller.ask(GOOD, f"x-user-id: same{n}\r\n").variant for n in range(100)] for caller in routers]
    for caller in routers:
        caller.close()
    assert asked[0] == asked[1]


def _digest(tree: Tree) -> str:
    return str(shown(tree, "table", "policies").get("slots_digest"))


def test_counts_of_both_are_exact_over_a_ramp(pair: Pair) -> None:
    apply(pair[1], policy("table", steps=STEPS, **LAX))
    crowds = [Crowd(tree.port, "table", lambda rng: BROKEN if rng.random() < 0.02 else GOOD, users=50_000, callers=2)
              for tree in pair]  # fmt: skip
    pair[0].until("it is there", lambda: shown(pair[0], "table")["state"] != "")
    with crowds[0], crowds[1]:
        pair[0].until("the last step", lambda: shown(pair[0], "table").get("step") == 2)
        first = leader(pair)
        before = first.control_pid()
        os.kill(before, signal.SIGKILL)
        first.until("a new control", lambda: shown(first, "table")["state"] != "" and first.control_pid() != before)
    agree(pair, crowds)


def test_an_abort_on_either_is_in_force_on_both(pair: Pair) -> None:
    apply(pair[0], policy("table", steps=STEPS, **LAX))
    first = leader(pair)
    second = pair[1] if first is pair[0] else pair[0]
    first.until("users", lambda: shown(first, "table")["slots"] > 0)
    status, answer = command(second, "table", "abort", reason="on the one that does not lead")
    assert status == 200, answer
    second.until("rolled back", lambda: shown(second, "table")["state"] == "ROLLED_BACK")
    for tree in pair:
        caller = Caller(tree.port, "table")
        assert {caller.ask(GOOD, f"x-user-id: u{n}\r\n").variant for n in range(100)} == {"stable"}
        caller.close()


def kill(tree: Tree, out: bool) -> dict[str, Any]:
    """Take the canary out, or let it back in; the answer."""
    body = {"variant": "canary", "killed": out}
    status, answer = tree.call("POST", "/admin/v1/policies/table/kill", body, admin=True)
    assert status == 200, answer
    found: dict[str, Any] = json.loads(answer)
    return found


def test_in_force_everywhere_is_said_of_all_nodes(pair: Pair) -> None:
    one, two = pair
    apply(one, policy("table"))
    held = two.control_pid()
    os.kill(held, signal.SIGSTOP)
    try:
        found = kill(one, True)
    finally:
        os.kill(held, signal.SIGCONT)
    assert not found["in_force_everywhere"], "the other's workers go on with what they had"
    assert len(found["nodes_behind"]) == 1
    two.until("it is known there", lambda: shown(two, "table", "policies")["killed"] == ["canary"])
    one.until("it speaks again", lambda: kill(one, False)["nodes_behind"] == [])
    assert kill(one, True)["in_force_everywhere"]


def test_entries_that_cannot_be_read_hinder_nobody(pair: Pair, redis: RedisServer) -> None:
    apply(pair[0], policy("table", steps=STEPS, **LAX))

    async def poison() -> None:
        store = await open_redis(redis.url)
        for number, body in enumerate((b"", b"\xc1", b"[]", b"{}", b"\x90", b"null", b"\xff" * 100), 1):
            for stream in ("nodes", "evidence/table", "commands/table", "rewards/table"):
                await store.stream_append(stream, "other", 1, number, body)
        await store.close()

    asyncio.run(poison())
    crowds = [Crowd(tree.port, "table", lambda _: GOOD, users=50_000, callers=1) for tree in pair]
    with crowds[0], crowds[1]:
        for tree in pair:
            tree.until("the last step", lambda t=tree: shown(t, "table").get("step") == 2)
    status, answer = command(leader(pair), "table", "abort", reason="tried")
    assert (status, answer["in_force_everywhere"]) == (200, True), answer
    assert [tree.logged("control_failed") for tree in pair] == [[], []]


def test_nobody_waits_for_a_node_that_has_left(pair: Pair) -> None:
    one, two = pair
    apply(one, policy("table", steps=STEPS, **LAX))
    one.until("users", lambda: shown(one, "table")["slots"] > 0)
    leaver = leader(pair)
    stays = two if leaver is one else one
    assert leaver.stop() == 0
    stays.until("it leads", lambda: bool(shown(stays, "table")["leads"]), 3)
    status, answer = command(stays, "table", "abort", reason="tried")
    assert (status, answer["in_force_everywhere"], answer["nodes_behind"]) == (200, True, []), answer
    assert shown(stays, "table")["unacknowledged"] == []


@pytest.mark.parametrize("gone", [False, True], ids=["stopped", "gone"])
def test_without_redis_answers_go_on_and_decisions_wait(pair: Pair, redis: RedisServer, gone: bool) -> None:
    steps = [{"setWeight": 5000, "hold": {"minDuration": "2s"}}, {"setWeight": 7000, "hold": {"minDuration": "10m"}}]
    apply(pair[0], policy("table", steps=steps, **LAX))
    pair[0].until("users", lambda: shown(pair[0], "table").get("slots") == 5000)
    pair[1].until("there too", lambda: _digest(pair[1]) == _digest(pair[0]))
    crowds = [Crowd(tree.port, "table", lambda _: GOOD, users=50_000, callers=1) for tree in pair]
    with crowds[0], crowds[1]:
        digest = _digest(pair[0])
        if gone:
            redis.stop()
        else:
            redis.send(signal.SIGSTOP)
        for tree in pair:
            tree.until("it is known", lambda t=tree: shown(t, "table")["store_away"] != "")
        since = time.monotonic()
        at = [crowd.seen.count() for crowd in crowds]
        pair[0].until("longer than the step", lambda: time.monotonic() - since > 3)
        assert [_digest(tree) for tree in pair] == [digest] * 2
        assert shown(pair[0], "table")["slots"] == 5000
        assert all(crowd.seen.count() > n + 100 for crowd, n in zip(crowds, at, strict=True))
        if gone:
            redis.start()
        else:
            redis.send(signal.SIGCONT)
        for tree in pair:
            tree.until("it goes on", lambda t=tree: shown(t, "table").get("slots") == 7000)
    for crowd in crowds:
        assert crowd.seen.broken == []
        assert crowd.seen.statuses() == {200}
