"""The decision log in a Redis: gateways write one stream, each searches and erases it; without Redis they answer on."""

import http.client
import json
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.audit.stage import admin, apply, ask, policy, repository
from tests.store.places import RedisServer
from tests.tree import Tree, serve

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed"),
]
KEY = "tidegate:{decisions}:lines"


@contextmanager
def gateways(folder: Path, redis: RedisServer, count: int, workers: int = 1, **settings: Any) -> Iterator[list[Tree]]:
    """With a policy that stays where it is."""
    models = repository(folder / "models")
    settings = {"store__url": redis.url, "decisions__log": True, "decisions__to": "stream", **settings}
    with ExitStack() as stack:
        trees = [stack.enter_context(serve(models, "--workers", str(workers), **settings)) for _ in range(count)]
        found = apply(trees[0], policy(2, approval=True))
        for tree in trees:
            tree.until("the policy", lambda t=tree: _revision(t) >= found["revision"])
        yield trees


def _revision(tree: Tree) -> int:
    status, body = tree.get("/admin/v1/policies/lookup", admin=True)
    return int(json.loads(body)["revision"]) if status == 200 else -1


def asked(tree: Tree, user: str, times: int) -> list[tuple[int, str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", tree.port, timeout=20)
    try:
        return [ask(connection, user, 1) for _ in range(times)]
    finally:
        connection.close()


def lines(tree: Tree, user: str) -> list[dict[str, Any]]:
    return admin(tree, "POST", "audit/find", {"unit": user, "model": "lookup"})["decisions"]


def told(*trees: Tree) -> tuple[int, int]:
    """Lines written and dropped."""
    names = ("tidegate_decisions_written_total", "tidegate_decisions_dropped_total")
    written, dropped = (sum(int(tree.counter(name)) for tree in trees) for name in names)
    return written, dropped


def kept(redis: RedisServer) -> list[dict[str, Any]]:
    with redis.client() as client:
        return [json.loads(fields[b"b"]) for _, fields in client.xrange(KEY)]


def test_both_find_what_either_answered_and_a_user_is_forgotten_everywhere(tmp_path: Path, redis: RedisServer) -> None:
    with gateways(tmp_path, redis, 2, workers=2, decisions__outputs=["y"]) as (one, two):
        first, second = asked(one, "alice", 3), asked(two, "alice", 2)
        asked(two, "bob", 1)
        one.until("all lines", lambda: told(one, two) == (6, 0))
        assert lines(one, "alice") == lines(two, "alice")
        assert [line["variant"] for line in lines(one, "alice")] == [variant for _, variant, _ in first + second]
        assert lines(one, "bob")[0]["outputs"] == {"y": 10.0}
        found = admin(one, "POST", "audit/find", {"prediction_id": second[0][2]})["decisions"]
        # The last answer of one and the first of the other may be of the same millisecond, in either order.
        assert len(found) == 1
        assert found[0] in lines(two, "alice")[2:4]
        fields = {
            "time_ms",
            "request",
            "model",
            "digest",
            "revision",
            "variant",
            "rule",
            "unit",
            "outcome",
            "prediction",
        }
        assert all(set(line) == fields | {"outputs"} for line in kept(redis))
        text = json.dumps(kept(redis))
        assert "alice" not in text
        assert second[0][2] not in text
        assert not (one.data_dir / "decisions").exists()

        erased = admin(two, "POST", "data/forget", {"unit": "alice", "model": "lookup"})["erased"]
        assert erased["decision_lines"] == 5
        assert (lines(one, "alice"), len(lines(one, "bob")), len(kept(redis))) == ([], 1, 1)
        assert admin(one, "POST", "audit/find", {"prediction_id": second[0][2]})["decisions"] == []


@pytest.mark.parametrize("gone", [False, True], ids=["stopped", "gone"])
def test_without_redis_answers_go_on_and_every_line_is_written_once_or_counted(
    tmp_path: Path, redis: RedisServer, gone: bool
) -> None:
    with gateways(tmp_path, redis, 1, decisions__buffer=100) as (tree,):
        before = asked(tree, "alice", 5)
        tree.until("written", lambda: told(tree) == (5, 0))
        if gone:
            redis.stop()
        else:
            redis.send(signal.SIGSTOP)
        meanwhile = asked(tree, "alice", 300)
        assert {answer[:2] for answer in meanwhile} == {answer[:2] for answer in before}
        tree.until("drops", lambda: told(tree) == (5, 200))
        tree.until("it is said", lambda: tree.logged("decisions_not_written") != [])
        status, body = tree.call("POST", "/admin/v1/audit/find", {"unit": "alice", "model": "lookup"}, admin=True)
        assert (status, json.loads(body)["code"]) == (503, "store_away")
        if gone:
            redis.start()
        else:
            redis.send(signal.SIGCONT)
        tree.until("those that waited", lambda: told(tree) == (105, 200))
        asked(tree, "alice", 7)
        tree.until("it goes on", lambda: told(tree) == (112, 200))
        requests = [line["request"] for line in kept(redis)]
        assert len(requests) == len(set(requests)) == 112
        assert len(lines(tree, "alice")) == 112


def test_a_control_that_dies_loses_no_line_and_doubles_none(tmp_path: Path, redis: RedisServer) -> None:
    with gateways(tmp_path, redis, 1) as (tree,):
        for round_ in range(3):
            asked(tree, "alice", 200)
            before = tree.control_pid()
            os.kill(before, signal.SIGKILL)
            asked(tree, "alice", 100)
            tree.until("written", lambda n=round_: _told_now(tree) == (300 * (n + 1), 0))
        requests = [line["request"] for line in kept(redis)]
        assert len(requests) == len(set(requests)) == 900


def _told_now(tree: Tree) -> tuple[int, int]:
    return told(tree) if tree.get("/metrics", admin=True)[0] == 200 else (-1, -1)


@pytest.mark.parametrize("workers", [0, 1])
def test_what_waits_at_the_stop_is_written(tmp_path: Path, redis: RedisServer, workers: int) -> None:
    with gateways(tmp_path, redis, 1, workers=workers) as (tree,):
        asked(tree, "alice", 50)
        assert tree.stop() == 0
        assert len(kept(redis)) == 50


def test_a_stop_without_redis_does_not_hang(tmp_path: Path, redis: RedisServer) -> None:
    with gateways(tmp_path, redis, 1) as (tree,):
        redis.send(signal.SIGSTOP)
        asked(tree, "alice", 50)
        assert tree.stop() == 0
