"""What a plan knows of stable's failures while no rollout is in force."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import models
from tests.process.callers import Caller, apply, cli, policy, rollout, tensor
from tests.tree import Tree, serve

pytestmark = pytest.mark.process
WANTED = policy("table", split={"stable": 10_000}, rollout=rollout([{"setWeight": 1000}, {"setWeight": 10_000}]))
GOOD, BROKEN, INVALID = tensor([1]), tensor([900]), b'{"inputs": 3}'


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    for version in (1, 2):
        models.write(tmp_path / "models", "table", models.lookup(3 + version), version, "version_policy: {all: true}\n")
    with serve(tmp_path / "models", "--workers", "1", models__quiet_period_ms=0) as running:
        yield running


def ask(tree: Tree, path: str = "") -> None:
    """Of each ten that are executed one fails; nothing is executed of what is no request."""
    caller = Caller(tree.port, "table")
    for at in range(200):
        assert caller.ask(BROKEN if at % 10 == 0 else GOOD, path=path).status == (400 if at % 10 == 0 else 200)
        assert caller.ask(INVALID, path=path).status == 400
    caller.close()


def live(tree: Tree, source: str, requests: int) -> dict[str, Any]:
    """What the plan of a rollout counts with, once it is so many requests from there."""

    def plan() -> dict[str, Any]:
        status, body = tree.call("POST", "/admin/v1/policies/table/plan", WANTED, admin=True)
        assert status == 200, body
        found: dict[str, Any] = json.loads(body)["live"]
        return found

    def there() -> bool:
        return (plan()["bad_rate_from"], plan()["stable_requests"]) == (source, requests)

    tree.until(f"a rate of {requests} requests from {source}", there)
    return plan()


def test_a_plan_knows_how_often_stable_fails_before_its_rollout(tree: Tree) -> None:
    assert live(tree, "assumed", 0)["bad_rate"] == 0.01
    ask(tree, "/v2/models/table/versions/1/infer")
    found = live(tree, "requests", 200)
    assert (found["stable_bad"], found["stable_requests"], found["bad_rate_assumed"]) == (20, 200, False)
    assert (found["bad_rate"], found["bad_rate_seconds"]) == (21 / 202, None)
    apply(tree, policy("table", split={"stable": 10_000}, unit={}))
    ask(tree)
    found = live(tree, "policy", 200)
    assert (found["stable_bad"], found["stable_requests"], found["bad_rate"]) == (20, 200, 21 / 202)
    told = cli(tree, "policy", "plan", "-", text=json.dumps(WANTED)).stdout
    assert "counted: 20 of 200 requests of the policy in force, since this node's start; and one to be safe" in told
