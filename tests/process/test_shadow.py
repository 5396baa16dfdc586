"""Shadows on a running server: a gate before the first user, and never in anybody's way."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import models
from tests.process.callers import Caller, Crowd, apply, policy, shown, tensor, until
from tests.tree import Tree, serve

pytestmark = pytest.mark.process
BODY = tensor([1.0, 3.0], "FP32", shape=[1, 2])
GATE = [{"shadow": {"percent": "100%", "minSamples": 300}}, {"setWeight": 5000, "hold": {"minDuration": "10m"}}]
ANALYSIS = {"guardrails": [{"metric": "shadow_disagreement", "max": 0.05}, {"metric": "error_rate"}]}


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    """Version 2 orders its answers the other way round, version 3 agrees; `wave` 2 is slow."""
    config = "version_policy: {all: true}\n"
    for version, scale, shift in ((1, 2.0, 0.0), (2, -2.0, 0.0), (3, 2.0, 1e-4)):
        models.write(tmp_path / "models", "affine", models.affine(scale, shift), version, config)
    models.write(tmp_path / "models", "wave", models.affine(width=1), 1, config)
    models.write(tmp_path / "models", "wave", models.slow(width=65536, layers=60), 2)
    with serve(tmp_path / "models", "--workers", "2", models__quiet_period_ms=0) as running:
        yield running


def test_a_canary_that_answers_otherwise_is_rolled_back_before_any_user_sees_it(tree: Tree) -> None:
    apply(tree, policy("affine", steps=GATE, analysis=ANALYSIS))
    with Crowd(tree.port, "affine", lambda _: BODY, users=1000) as crowd:
        found = until(tree, "affine", "ROLLED_BACK")
    assert "shadow_disagreement" in found["reason"]
    assert {key[:2] for key in crowd.seen.tally} == {(200, "stable")}
    counts = found["shadow"]["canary"]
    assert counts["compared"] == counts["disagreed"] > 0
    assert counts["failed"] == 0


def test_a_canary_that_agrees_gets_users_only_after_the_gate(tree: Tree) -> None:
    apply(tree, policy("affine", variants=("1", "3"), steps=GATE, analysis=ANALYSIS))
    with Crowd(tree.port, "affine", lambda _: BODY, users=1000) as crowd:
        until(tree, "affine", "SHADOWING")
        shadowing = shown(tree, "affine")["revision"]
        until(tree, "affine", "BAKING")
        found = shown(tree, "affine")
        tree.until("users", lambda: crowd.seen.count(variant="canary") > 0)
    seen = crowd.stop()
    assert seen.broken == []
    assert all(key[1] == "stable" for key in seen.tally if key[2] <= shadowing)
    assert found["shadow"]["canary"]["compared"] >= 300
    assert found["shadow"]["canary"]["disagreed"] == 0


def test_a_shadow_copies_no_copies_and_counts_each_request_once(tree: Tree) -> None:
    """Half answer on the shadowed variant themselves: only the others are copied, each once."""
    document = policy("affine", variants=("1", "3"), split={"stable": 5000, "canary": 5000})
    document["spec"]["shadow"] = {"variant": "canary", "percent": "100%"}
    apply(tree, document)
    caller = Caller(tree.port, "affine")
    variants = [caller.ask(BODY, f"x-user-id: u{n}\r\n").variant for n in range(200)]
    caller.close()
    executed = {v: tree.counter("tidegate_requests_total", model="affine", variant=v) for v in ("stable", "canary")}
    assert executed == {"stable": variants.count("stable"), "canary": variants.count("canary")}


def test_a_slow_shadow_is_shed_and_delays_nobody(tree: Tree) -> None:
    body = tensor([1.0], "FP32", shape=[1, 1])
    document = policy("wave")
    document["spec"]["shadow"] = {"variant": "canary", "percent": "100%", "maxInflight": 2}
    caller = Caller(tree.port, "wave")
    caller.ask(body)
    started = time.monotonic()
    for _ in range(300):
        assert caller.ask(body).status == 200
    alone_s = time.monotonic() - started
    apply(tree, document)
    with Crowd(tree.port, "wave", lambda _: body, users=1000, callers=2) as crowd:
        tree.until("traffic", lambda: crowd.seen.count() > 1000)
    assert crowd.seen.statuses() == {200}
    assert crowd.seen.broken == []
    started = time.monotonic()
    for n in range(300):
        assert caller.ask(body, f"x-user-id: u{n}\r\n").variant == "stable"
    caller.close()
    # A run of the shadow takes tens of milliseconds: were each request to wait for one, this took 20 times as long.
    assert time.monotonic() - started < 10 * max(alone_s, 0.2)
