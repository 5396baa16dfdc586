"""Two gateways on one Redis watch one model together; when who judges is gone, the other goes on."""

import asyncio
import json
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest

from gateway.control.monitorinputs import Totals
from gateway.store.redisstore import open_redis
from tests.process import monitored
from tests.process.monitored import AFTER, BEFORE, NAME, Sender, put, seen, series, until_watched
from tests.store.places import RedisServer
from tests.tree import Tree, serve

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed"),
]
WINDOW = 1_000


@pytest.fixture
def pair(tmp_path: Path, redis: RedisServer) -> Iterator[tuple[Tree, Tree]]:
    """The one that judges comes first."""
    folder = monitored.repository(tmp_path)
    with ExitStack() as stack:
        settings = {"store__url": redis.url, "models__quiet_period_ms": 0}
        one, two = (stack.enter_context(serve(folder, "--workers", "1", **settings)) for _ in range(2))
        both = (one, two)
        one.until("one judges", lambda: sum(bool(seen(tree).get("leads")) for tree in both) == 1)
        first = one if seen(one)["leads"] else two
        second = two if first is one else one
        put(first, window={"rows": WINDOW})
        until_watched(first)
        second.until("its worker counts", lambda: monitored.counts(second, NAME, [1]))
        second.until("the settings there", lambda: seen(second).get("generation") == 1)
        yield first, second


def windows(tree: Tree) -> list[tuple[int, int]]:
    return [(one["index"], one["rows"]) for one in series(seen(tree))["windows"]]


def test_rows_of_both_are_in_one_set_of_windows_that_outlives_who_judged(pair: tuple[Tree, Tree]) -> None:
    first, second = pair
    senders = [Sender(first), Sender(second)]
    sent = 0
    for at in range(0, 3 * WINDOW, WINDOW):
        for number, sender in enumerate(senders):
            sender.send(AFTER[at + number * 500 : at + number * 500 + 500])
        sent += WINDOW
        first.until("rows of both", lambda n=sent: seen(first)["rows"] == n)
    told = windows(first)
    assert sum(rows for _, rows in told) + series(seen(first))["open_rows"] == sent
    incident = seen(first)["incident"]
    assert incident is not None
    second.until("the same there", lambda: (seen(second)["incident"] or {}).get("id") == incident["id"])
    assert (seen(second)["leads"], windows(second)) == (False, told)
    listed = json.loads(second.get("/admin/v1/monitors", admin=True)[1])
    assert [one["incident"]["id"] for one in listed if one["name"] == NAME] == [incident["id"]]
    # A control alone: rows that it had not saved come again from the workers' pages.
    senders[0].send(AFTER[:300])
    sent += 300
    os.kill(first.control_pid(), signal.SIGKILL)
    leads: list[Tree] = []

    def one_judges() -> bool:
        leads[:] = [tree for tree in pair if seen(tree).get("leads")]
        return len(leads) == 1 and seen(leads[0])["rows"] == sent

    second.until("one judges, with every row", one_judges)
    judge = leads[0]
    other = second if judge is first else first
    assert seen(judge)["incident"]["id"] == incident["id"]
    judge.until("it is saved", lambda: judge.counter("tidegate_monitor_lag_seconds", model=NAME) > 6)
    before = windows(judge)
    assert sum(rows for _, rows in before) + series(seen(judge))["open_rows"] == sent
    for pid in judge.pids():
        os.kill(pid, signal.SIGKILL)
    other.until("the other judges", lambda: bool(seen(other).get("leads")), 40)
    found = seen(other)
    assert windows(other) == before
    assert found["incident"]["id"] == incident["id"]
    rest = senders[1] if other is second else senders[0]
    base = found["rows"]
    rest.again()
    rest.send(BEFORE[:WINDOW])
    other.until("its rows", lambda: seen(other)["rows"] == base + WINDOW)
    assert len(windows(other)) == len(before) + 1
    for sender in senders:
        sender.close()


def test_while_a_control_stands_still_rows_of_the_other_gateway_make_nothing_ok(pair: tuple[Tree, Tree]) -> None:
    first, second = pair
    senders = [Sender(tree) for tree in pair]
    control = second.control_pid()

    def is_silent() -> bool:
        # Rows of this one come all the time: it is the other that is late.
        at = senders[0].rows
        senders[0].send(BEFORE[at : at + 1])
        return (seen(first)["lag_ms"] or 0) >= 3_000

    first.until("rows come", lambda: not is_silent())
    os.kill(control, signal.SIGSTOP)
    try:
        first.until("the silence is told", is_silent)
        senders[1].send(AFTER[:WINDOW])
        senders[0].send(BEFORE[:WINDOW])
        first.until("a window closes", lambda: len(windows(first)) == 1)
        # Not at once: where this machine stood still, too, nobody is silent until the next look.
        first.until("it says that it does not know", lambda: set(seen(first)["states"].values()) == {"unknown"})
    finally:
        os.kill(control, signal.SIGCONT)

    def is_heard() -> bool:
        senders[0].send(BEFORE[:WINDOW])
        return "ok" in seen(first)["states"].values()

    first.until("something is ok", is_heard)
    first.until("every row counts", lambda: seen(first)["rows"] == sum(sender.rows for sender in senders))
    for sender in senders:
        sender.close()


def test_a_poisoned_stream_hinders_nobody(pair: tuple[Tree, Tree], redis: RedisServer) -> None:
    first, second = pair
    sender = Sender(second)
    sender.send(BEFORE[:100])
    first.until("rows", lambda: seen(first)["rows"] == 100)
    huge = msgspec.msgpack.encode(Totals("x", "y", "1", "-", "z", 1 << 50, 0, 1, [0], [1]))
    outside = msgspec.msgpack.encode(Totals("x", "y", "1", "-", "z", 5, 0, 1, [7], [1 << 62]))
    bodies = [b"", b"\xc1", b"\x07", b"\x90", b"\x9a" + b"\x01" * 10, b"\x95" + b"\x01" * 5, huge, outside]

    async def poison() -> None:
        store = await open_redis(redis.url)
        for number, body in enumerate(bodies, 1):
            for stream in ("drift", "labels"):
                await store.stream_append(f"{stream}/{NAME}", f"other-{stream}", 1, number, body)
        await store.close()

    asyncio.run(poison())
    sender.send(BEFORE[100:300])
    first.until("the rest", lambda: seen(first)["rows"] == 300)

    def dead() -> int:
        return sum(one["count"] for one in seen(first)["dead_letters"]["counts"])

    first.until("all are passed over", lambda: dead() == 2 * len(bodies))
    assert seen(first)["missed"] == 0
    assert first.logged("control_failed") == []
    sender.close()
