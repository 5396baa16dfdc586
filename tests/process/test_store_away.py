"""A rollback that is asked for while the store is away: carried out when it is back, and not forgotten."""

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import models
from tests.process.callers import Crowd, apply, command, policy, shown, tensor, until
from tests.store.places import RedisServer
from tests.tree import Tree, serve

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed"),
]
GOOD = tensor([1])
HALF = [{"setWeight": 5000, "hold": {"minDuration": "10m"}}, {"setWeight": 10000}]


@pytest.fixture
def tree(tmp_path: Path, redis: RedisServer) -> Iterator[Tree]:
    for version, size in ((1, 1000), (2, 4)):
        models.write(tmp_path / "models", "table", models.lookup(size), version, "version_policy: {all: true}\n")
    with serve(tmp_path / "models", "--workers", "2", models__quiet_period_ms=0, store__url=redis.url) as running:
        yield running


def share(tree: Tree) -> int:
    """Canary answers among 100 users, on whichever worker."""
    with Crowd(tree.port, "table", lambda _: GOOD, users=10_000, callers=4) as crowd:
        tree.until("answers", lambda: crowd.seen.count() >= 100)
    seen = crowd.stop()
    assert seen.statuses() == {200}
    return seen.count(variant="canary")


def test_an_abort_given_while_the_store_is_away_is_carried_out_when_it_is_back(tree: Tree, redis: RedisServer) -> None:
    apply(tree, policy("table", steps=HALF))
    until(tree, "table", "BAKING")
    redis.stop()
    tree.until("the store is missed", lambda: bool(shown(tree, "table")["store_away"]))
    status, answer = command(tree, "table", "pause")
    assert (status, answer["code"]) == (503, "store_away")
    status, answer = command(tree, "table", "abort")
    assert (status, answer["in_force_everywhere"]) == (200, False), "it is said that nobody has written it"
    assert "written when the store is back" in answer["text"]
    assert share(tree) == 0, "this node gives the canary nothing from then on"
    redis.start()
    until(tree, "table", "ROLLED_BACK")
    assert shown(tree, "table")["latches"], "a canary that was aborted does not come back by itself"
    status, body = tree.call("DELETE", "/admin/v1/policies/table", admin=True)
    assert (status, b"version 2 answers everybody, and that was rolled back" in body) == (409, True)


def test_an_abort_reaches_either_node_without_the_store(tmp_path: Path, redis: RedisServer) -> None:
    for version, size in ((1, 1000), (2, 4)):
        models.write(tmp_path / "models", "table", models.lookup(size), version, "version_policy: {all: true}\n")
    more = {"models__quiet_period_ms": 0, "store__url": redis.url}
    with (
        serve(tmp_path / "models", "--workers", "1", **more) as a,
        serve(tmp_path / "models", "--workers", "1", **more) as b,
    ):
        apply(a, policy("table", steps=HALF))
        until(a, "table", "BAKING")
        b.until("there too", lambda: shown(b, "table").get("slots") == 5000)
        a.until("one leads", lambda: sum(shown(one, "table")["leads"] for one in (a, b)) == 1)
        other = b if shown(a, "table")["leads"] else a
        assert share(other) > 0
        redis.send(signal.SIGSTOP)
        status, answer = command(other, "table", "abort", reason="storm")
        assert (status, answer["in_force_everywhere"], len(answer["nodes_behind"])) == (200, False, 1)
        assert share(other) == 0
        waits = shown(other, "table")["waits"]
        assert waits[0] == "the store is away: nothing is decided until it is back", waits
        redis.send(signal.SIGCONT)
        for one in (a, b):
            until(one, "table", "ROLLED_BACK")
        assert "storm" in str(shown(a, "table")["latches"])
