"""Rollouts on a running server: evidence promotes a good canary and rolls a bad one back, and says why."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import models
from tests.process.callers import Crowd, apply, command, counted, policy, shown, slots_watched, tensor, until
from tests.tree import Tree, serve

pytestmark = pytest.mark.process
STEPS = [
    {"setWeight": 1000, "hold": {"minDuration": "1s"}},
    {"setWeight": 5000, "hold": {"minDuration": "1s", "minUnits": 100}},
    {"setWeight": 10000},
]
HEALTHY = [tensor([n]) for n in range(4)]
BROKEN = tensor([900])
"""The canary has no such entry, stable has."""
SIGNAL = "signal:compute_time-p90"


def healthy(rng: random.Random) -> bytes:
    return rng.choice(HEALTHY)


def sometimes_broken(rng: random.Random) -> bytes:
    return BROKEN if rng.random() < 0.06 else rng.choice(HEALTHY)


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    """Version 1 is sound, version 2 fails for numbers from 4 on; version 3 is sound; `wave` 2 is slow."""
    for version, size in ((1, 1000), (2, 4), (3, 1000)):
        model = models.lookup(size) if version != 3 else models.lookup(1001)
        models.write(tmp_path / "models", "table", model, version, "version_policy: {all: true}\n")
    models.write(tmp_path / "models", "wave", models.affine(width=1), 1, "version_policy: {all: true}\n")
    models.write(tmp_path / "models", "wave", models.slow(width=4096, layers=60), 2)
    with serve(tmp_path / "models", "--workers", "2", models__quiet_period_ms=0) as running:
        yield running


def records_of(tree: Tree, model: str) -> list[dict[str, Any]]:
    """Of the audit trail of its last rollout."""
    status, body = tree.get(f"/admin/v1/audit/rollouts/{model}", admin=True)
    assert status == 200, body
    found: list[dict[str, Any]] = json.loads(body)["records"]
    return found


def history(found: dict[str, object]) -> str:
    return json.dumps(found["history"])


def test_a_good_canary_is_promoted_without_a_single_error(tree: Tree) -> None:
    apply(tree, policy("table", variants=("1", "3"), steps=STEPS))
    with slots_watched(tree, "table") as sums, Crowd(tree.port, "table", healthy, users=100_000) as crowd:
        found = until(tree, "table", "PROMOTED")
        told = crowd.seen.count()
        tree.until("answers of the new stable", lambda: crowd.seen.count() > told + 500)
    seen = crowd.stop()
    assert seen.broken == []
    assert seen.statuses() == {200}
    assert set(sums) == {10_000}
    # Users go from stable to canary once, and never back.
    assert {tuple(moves) for moves in seen.moves.values()} <= {("stable",), ("canary",), ("stable", "canary")}
    newest = max(key[2] for key in seen.tally)
    assert {key[1] for key in seen.tally if key[2] == newest} == {"canary"}
    assert [move["phase"] for move in found["history"]][-1] == "PROMOTED"
    assert "no worse than" in found["marks"]["error_rate"]["text"] or found["marks"]["error_rate"]["state"] == "passes"


def test_a_policy_whose_versions_have_yet_to_be_loaded_costs_nobody_an_answer(tmp_path: Path) -> None:
    for version in range(1, 6):
        models.write(tmp_path / "models", "table", models.lookup(1000 + version), version)
    with serve(tmp_path / "models", "--workers", "2", models__quiet_period_ms=0) as tree:
        with Crowd(tree.port, "table", healthy, users=10_000, callers=8) as crowd:
            tree.until("version 5 answers", lambda: crowd.seen.count() > 200)
            for generation, stable in enumerate("123"):
                document = policy("table", variants=(stable, "4"), split={"stable": 9000, "canary": 1000})
                apply(tree, document, generation or None)
                told = crowd.seen.count(variant="stable")
                tree.until("stable answers", lambda n=told: crowd.seen.count(variant="stable") > n + 200)
        seen = crowd.stop()
        assert seen.broken == []
        assert seen.statuses() == {200}


def test_a_canary_that_errs_late_is_rolled_back_and_no_user_notices(tree: Tree) -> None:
    steps = [{"setWeight": 5000, "hold": {"minDuration": "10m"}}, {"setWeight": 10000}]
    apply(tree, policy("table", steps=steps))
    with slots_watched(tree, "table") as sums, Crowd(tree.port, "table", healthy, users=100_000) as crowd:
        until(tree, "table", "BAKING")
        tree.until("healthy answers", lambda: crowd.seen.count(variant="canary") > 1000)
        assert shown(tree, "table")["state"] == "BAKING"
        crowd.body = sometimes_broken
        found = until(tree, "table", "ROLLED_BACK")
        told = crowd.seen.count()
        tree.until("answers after it", lambda: crowd.seen.count() > told + 500)
    seen = crowd.stop()
    assert seen.broken == []
    # What failed on the canary was answered by stable, and names it.
    assert seen.statuses() == {200}
    assert seen.count(variant="stable", served_by="stable; fallback") > 0
    assert set(sums) == {10_000}
    # Who never saw the canary stayed; who did came back.
    assert {tuple(moves) for moves in seen.moves.values()} <= {
        ("stable",), ("canary",), ("stable", "canary"), ("canary", "stable"), ("stable", "canary", "stable"),
    }  # fmt: skip
    newest = max(key[2] for key in seen.tally)
    assert {key[1] for key in seen.tally if key[2] == newest} == {"stable"}
    assert "error_rate" in found["reason"]
    assert found["latches"][-1]["actor"] == "auto:guardrail:error_rate"
    (record,) = [one for one in records_of(tree, "table") if "exposed" in one["record"]]
    failing = json.loads(record["record"]["evidence"])["failing_requests"]
    assert 1 <= len(failing) <= 20
    assert all(set(one) == {"request", "trace"} and one["request"] for one in failing)
    assert record["replay"]["text"] == "same verdict"
    assert "error_rate" in history(found)
    # The same document again starts nothing: it is latched.
    apply(tree, policy("table", steps=steps, kill={"canary": False}), generation=1)
    assert until(tree, "table", "ROLLED_BACK")["latches"] == found["latches"]


def test_a_canary_that_leaves_too_much_to_stable_is_rolled_back_and_no_user_notices(tree: Tree) -> None:
    lax = {"metric": "error_rate", "margin": {"ratio": 100}}
    analysis = {"guardrails": [lax, {"metric": "fallback_ratio", "max": 0.01}]}
    steps = [{"setWeight": 3000, "hold": {"minDuration": "10m"}}, {"setWeight": 10000}]
    apply(tree, policy("table", steps=steps, analysis=analysis))
    with Crowd(tree.port, "table", healthy, users=100_000) as crowd:
        until(tree, "table", "BAKING")
        # Of a fifth a worker would take the canary out by itself.
        crowd.body = sometimes_broken
        found = until(tree, "table", "ROLLED_BACK")
    seen = crowd.stop()
    assert seen.broken == []
    assert seen.statuses() == {200}
    assert seen.count(variant="stable", served_by="stable; fallback") > 0
    assert "fallback_ratio" in found["reason"]
    assert found["latches"][-1]["actor"] == "auto:guardrail:fallback_ratio"
    (record,) = [one for one in records_of(tree, "table") if "exposed" in one["record"]]
    failed, units = json.loads(record["record"]["evidence"])["fallbacks"]["fallback_ratio"]["units"]
    assert 0.01 < failed / units < 0.15
    assert record["replay"]["text"] == "same verdict"


def test_a_slow_canary_is_rolled_back(tree: Tree) -> None:
    analysis = {
        "guardrails": [{"metric": "error_rate"}, {"metric": "latency", "quantile": 0.9, "margin": {"ratio": 2}}]
    }
    # A tenth: at more, what the canary takes of the processors slows stable too, and the ratio says little.
    steps = [{"setWeight": 1000, "hold": {"minDuration": "10m"}}, {"setWeight": 10000}]
    body = tensor([1.0], "FP32", shape=[1, 1])
    with Crowd(tree.port, "wave", lambda _: body, users=100_000) as crowd:
        tree.until("stable is known", lambda: crowd.seen.count() > 500)
        apply(tree, policy("wave", steps=steps, analysis=analysis))
        found = until(tree, "wave", "ROLLED_BACK")
    assert crowd.seen.broken == []
    assert crowd.seen.statuses() == {200}
    assert "latency-p90" in found["reason"]
    assert found["latches"][-1]["actor"] == "auto:guardrail:latency-p90"
    slow = counted(found)
    assert sum(counts["slow"] for (_, variant), counts in slow.items() if variant == "canary") > 0


def test_a_canary_that_computes_longer_is_held_by_its_executions_alone(tree: Tree) -> None:
    analysis = {
        "guardrails": [{"metric": "error_rate"}],
        "signals": [{"metric": "compute_time", "quantile": 0.9, "margin": {"ratio": 2}}],
    }
    steps = [{"setWeight": 1000, "hold": {"minDuration": "10m"}}, {"setWeight": 10000}]
    body = tensor([1.0], "FP32", shape=[1, 1])
    with Crowd(tree.port, "wave", lambda _: body, users=100_000) as crowd:
        apply(tree, policy("wave", steps=steps, analysis=analysis))
        tree.until("the signal holds", lambda: SIGNAL in shown(tree, "wave").get("holding", {}))
        found = shown(tree, "wave")
    assert crowd.seen.broken == []
    assert crowd.seen.statuses() == {200}
    assert "slow executions" in found["holding"][SIGNAL]
    assert "were the canary's" in found["holding"][SIGNAL]
    assert found["slow_ms"] == 0
    assert sum(counts["slow"] for counts in counted(found).values()) == 0
    (signal,) = found["signals"]
    assert signal["state"] == "speaks"
    assert signal["executions"]["canary"]["slow"] > 0
    assert found["slow_execution_ms"]["1"] > 0
    (record,) = [one for one in records_of(tree, "wave") if "signal compute_time" in one["record"]["reason"]]
    assert record["replay"]["text"] == "same verdict"
    assert json.loads(record["record"]["evidence"])["signals"]["compute_time-p90"]["speaks"]


def test_a_person_aborts_and_tries_again(tree: Tree) -> None:
    apply(tree, policy("table", variants=("1", "3"), steps=STEPS))
    with Crowd(tree.port, "table", healthy, users=100_000) as crowd:
        until(tree, "table", "BAKING")
        status, answer = command(tree, "table", "abort", reason="the press called")
        assert (status, answer["in_force_everywhere"]) == (200, True)
        found = until(tree, "table", "ROLLED_BACK")
        assert "the press called" in history(found)
        assert command(tree, "table", "retry")[0] == 409
        assert command(tree, "table", "retry", reason="they calmed down")[0] == 200
        until(tree, "table", "PROMOTED")
    assert crowd.seen.broken == []
    assert crowd.seen.statuses() == {200}
