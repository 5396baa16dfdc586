"""Shadows on a running server: a gate before the first user, and never in anybody's way."""

import json
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests import models
from tests.process.callers import Caller, Crowd, apply, cli, policy, shown, tensor, until
from tests.tree import Tree, serve

pytestmark = pytest.mark.process
BODY = tensor([1.0, 3.0], "FP32", shape=[1, 2])
GATE = [{"shadow": {"percent": "100%", "minSamples": 300}}, {"setWeight": 5000, "hold": {"minDuration": "10m"}}]
ANALYSIS = {"guardrails": [{"metric": "shadow_disagreement", "max": 0.05}, {"metric": "error_rate"}]}


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    """Version 2 orders its answers the other way round, version 3 agrees; `wave` 2 is slow, `lookup` 2 fails from 4."""
    config = "version_policy: {all: true}\n"
    for version, scale, shift in ((1, 2.0, 0.0), (2, -2.0, 0.0), (3, 2.0, 1e-4)):
        models.write(tmp_path / "models", "affine", models.affine(scale, shift), version, config)
    for version, size in ((1, 8), (2, 4)):
        models.write(tmp_path / "models", "lookup", models.lookup(size), version, config)
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


def samples(tree: Tree, model: str) -> dict[str, Any]:
    status, body = tree.get(f"/admin/v1/policies/{model}/shadow/samples", admin=True)
    assert status == 200, body
    found: dict[str, Any] = json.loads(body)
    return found


def test_requests_that_it_answers_otherwise_are_kept_where_the_policy_asks_for_them(tree: Tree) -> None:
    document = policy("affine")
    document["spec"]["shadow"] = {"variant": "canary", "percent": "100%"}
    apply(tree, document)
    with closing(Caller(tree.port, "affine")) as caller:
        caller.ask(BODY, "x-user-id: before\r\n")
        document["spec"]["shadow"]["samples"] = {"ttl": "1h", "max": 3}
        revision = apply(tree, document, 1)["revision"]
        for user in ("u0", "u1", "u2", "u3"):
            caller.ask(BODY, f"x-user-id: {user}\r\nx-request-id: of-{user}\r\n")
        tree.until("the last", lambda: "of-u3" in [one["request"] for one in samples(tree, "affine")["samples"]])
        found = samples(tree, "affine")
        assert (found["asked"], found["skipped"]) == ({"max": 3, "ttl_ms": 3_600_000}, 0)
        assert [one["request"] for one in found["samples"]] == ["of-u3", "of-u2", "of-u1"]
        one = found["samples"][0]
        assert (one["revision"], one["variant"], one["why"]) == (revision, "canary", ["tolerance"])
        assert one["inputs"] == json.loads(BODY)["inputs"]
        assert (one["answered"][0]["data"], one["shadow"][0]["data"]) == ([2.0, 6.0], [-2.0, -6.0])

        told = cli(tree, "shadow", "samples", "affine").stdout
        assert "the newest 3 of this node are kept, each for 1h" in told
        assert "input x [1, 2]: 1.0, 3.0\n  answered y [1, 2]: 2.0, 6.0\n  canary y [1, 2]: -2.0, -6.0" in told
        _, body = tree.call("POST", "/admin/v1/data/forget", {"unit": "u2", "model": "affine"}, admin=True)
        assert json.loads(body)["erased"]["shadow_samples"] == 1
        assert [one["request"] for one in samples(tree, "affine")["samples"]] == ["of-u3", "of-u1"]

        del document["spec"]["shadow"]["samples"]
        apply(tree, document, 2)
        assert samples(tree, "affine")["asked"] is None
        assert "asks for no samples" in cli(tree, "shadow", "samples", "affine").stdout
        assert tree.logged("shadow_samples_read")[0]["by"] == "local"


def test_a_copy_that_fails_is_kept_with_its_reason(tree: Tree) -> None:
    document = policy("lookup")
    document["spec"]["shadow"] = {"variant": "canary", "percent": "100%", "samples": {"ttl": "1h"}}
    apply(tree, document)
    with closing(Caller(tree.port, "lookup")) as caller:
        assert caller.ask(tensor([6])).status == 200
    tree.until("a sample", lambda: samples(tree, "lookup")["samples"])
    (one,) = samples(tree, "lookup")["samples"]
    assert (one["why"], one["inputs"][0]["data"], one["answered"][0]["data"]) == (["failed"], [6], [60.0])
    assert one["shadow"] is None
    assert one["error"]
    assert f"canary failed: {one['error']}" in cli(tree, "shadow", "samples", "lookup").stdout
