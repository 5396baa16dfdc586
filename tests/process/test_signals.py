"""Signals on the real process tree: a canary whose users wait is held, and what was counted outlives a worker."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import models
from tests.process.callers import ABSENT, Crowd, apply, counted, policy, shown, tensor
from tests.tree import Tree, serve

pytestmark = pytest.mark.process
STEPS = [{"setWeight": 1000, "hold": {"minDuration": "10m"}}, {"setWeight": 10000}]
ROW = tensor([1.0], "FP32", shape=[1, 1])


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    """Version 2 of `wave` computes for some 20 ms and one request at a time, so whoever comes meanwhile waits."""
    models.write(tmp_path / "models", "wave", models.affine(width=1), 1, "version_policy: {all: true}\n")
    models.write(tmp_path / "models", "wave", models.slow(width=16384, layers=60), 2, "batching: {enabled: false}\n")
    with serve(tmp_path / "models", "--workers", "2", models__quiet_period_ms=0) as running:
        yield running


def analysis_of(metric: str, quantile: float) -> dict[str, Any]:
    signal = {"metric": metric, "quantile": quantile, "margin": {"ratio": 1.25}}
    return {"guardrails": [{"metric": "error_rate"}], "signals": [signal]}


def test_a_canary_whose_users_wait_for_their_execution_is_held(tree: Tree) -> None:
    with Crowd(tree.port, "wave", lambda _: ROW, users=100_000, callers=8) as crowd:
        tree.until("stable is known", lambda: crowd.seen.count() > 1000)
        apply(tree, policy("wave", steps=STEPS, analysis=analysis_of("queue_wait", 0.99)))
        name = "signal:queue_wait-p99"
        tree.until("the signal holds", lambda: name in shown(tree, "wave").get("holding", {}), 60)
        found = shown(tree, "wave")
    assert crowd.seen.broken == []
    assert crowd.seen.statuses() == {200}
    assert "units that waited long" in found["holding"][name]
    assert found["slow_wait_ms"] > 0
    (sign,) = found["signals"]
    assert sign["state"] == "speaks"
    assert (found["state"], found["step"]) == ("HOLDING", 0)
    body = tree.get("/admin/v1/audit/rollouts/wave", admin=True)[1]
    (record,) = [one for one in json.loads(body)["records"] if "signal queue_wait" in one["record"]["reason"]]
    assert record["replay"]["text"] == "same verdict"


def test_executions_that_a_killed_worker_counted_are_kept(tree: Tree) -> None:
    def executions() -> dict[str, Any]:
        signals = shown(tree, "wave").get("signals") or [{}]
        found: dict[str, Any] = signals[0].get("executions", {})
        return found

    with Crowd(tree.port, "wave", lambda _: ROW, users=100_000, callers=8) as crowd:
        apply(tree, policy("wave", steps=STEPS, analysis=analysis_of("compute_time", 0.9)))
        tree.until("both are compared", lambda: executions().get("canary", {}).get("executions", 0) > 50, 60)
    assert crowd.stop().broken == []
    answers = crowd.seen.count() - crowd.seen.count(variant=ABSENT)
    tree.until("control has heard of all", lambda: answers
               == sum(counts["ok"] for counts in counted(shown(tree, "wave")).values()))  # fmt: skip
    known = executions()
    for victim in [worker["pid"] for worker in tree.workers()]:
        os.kill(victim, signal.SIGKILL)
        tree.until("its successor", lambda gone=victim: gone not in [one["pid"] for one in tree.workers()]
                   and len(tree.workers()) == 2 and all(one["listening"] for one in tree.workers()))  # fmt: skip
    assert executions() == known
    with Crowd(tree.port, "wave", lambda _: ROW, users=100_000, callers=8):
        tree.until("they go on from there", lambda: executions()["canary"]["executions"]
                   > known["canary"]["executions"])  # fmt: skip
    assert executions()["stable"]["executions"] >= known["stable"]["executions"]
