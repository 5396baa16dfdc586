"""A Redis that comes back without its last writes, as after a failover: what was acknowledged is put back."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from tests.process.callers import Crowd, apply, policy, shown, tensor
from tests.store.places import RedisServer
from tests.tree import Tree

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed"),
]
STEPS = [{"setWeight": w, "hold": {"minDuration": "2s"}} for w in (1000, 5000)]
STEPS.append({"setWeight": 7000, "hold": {"minDuration": "10m"}})
Pair = tuple[Tree, Tree]


class Forgetful(RedisServer):
    """Keeps what it had at the last `keep`."""

    def keep(self) -> None:
        with Redis(port=self.port) as client:
            client.save()

    def forget(self) -> None:
        """Die, and come back without what was written since."""
        self.stop()
        self.start()


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Forgetful]:
    server = Forgetful(tmp_path, "--appendonly", "no", "--save", "")
    server.start()
    yield server
    server.stop()


def killed(tree: Tree, out: bool) -> dict[str, Any]:
    """The answer to a kill, or to its end."""
    body = {"variant": "canary", "killed": out, "reason": "tried"}
    status, answer = tree.call("POST", "/admin/v1/policies/table/kill", body, admin=True)
    assert status == 200, answer
    found: dict[str, Any] = json.loads(answer)
    return found


def test_a_kill_that_was_acknowledged_holds_and_can_be_taken_back(pair: Pair, redis: Forgetful) -> None:
    one, two = pair
    apply(one, policy("table"))
    redis.keep()
    before = killed(two, True)
    assert before["in_force_everywhere"], before
    redis.forget()
    for tree in pair:
        tree.until("it is restored", lambda t=tree: shown(t, "table", "policies")["revision"] > before["revision"])
        assert shown(tree, "table", "policies")["killed"] == ["canary"]
    after = killed(one, False)
    assert (after["killed"], after["in_force_everywhere"]) == ([], True), after
    status, body = one.get("/admin/v1/audit?name=table", admin=True)
    assert status == 200, body
    assert {"apply", "restore", "unkill"} <= {r["what"] for r in json.loads(body)["records"]}


def test_a_rollout_goes_on_from_where_it_was(pair: Pair, redis: Forgetful) -> None:
    one, two = pair
    apply(one, policy("table", steps=STEPS, analysis={"minDetect": 1000}))
    crowds = [Crowd(tree.port, "table", lambda _: tensor([1]), users=50_000, callers=1) for tree in pair]
    with crowds[0], crowds[1]:
        one.until("the first step", lambda: shown(one, "table")["slots"] == 1000)
        redis.keep()
        one.until("the second step", lambda: shown(one, "table")["slots"] == 5000)
        redis.forget()
        for tree in pair:
            tree.until("the third step", lambda t=tree: shown(t, "table")["slots"] == 7000)
    assert [crowd.seen.statuses() for crowd in crowds] == [{200}, {200}]
    history = shown(two, "table")["history"]
    assert [move["step"] for move in history if move["phase"] == "APPLYING"] == [0, 1, 2]
