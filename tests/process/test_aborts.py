"""Rollback as users see it: nothing of the canary after an abort; stable answers what the canary cannot."""

import json
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from gateway.control.exposure import members
from tests import models
from tests.process.callers import (
    Answer,
    Caller,
    Crowd,
    apply,
    command,
    counted,
    policy,
    shown,
    slots_watched,
    tensor,
    until,
)
from tests.tree import Tree, serve

pytestmark = pytest.mark.process
GOOD, BROKEN = tensor([1]), tensor([900])
WAIT = {"hold": {"minDuration": "10m"}}
HALF = [{"setWeight": 5000, **WAIT}, {"setWeight": 10000}]
NEARLY_ALL = [{"setWeight": 9900, **WAIT}, {"setWeight": 10000}]
WARN = {"on_failure": {"do": "warn"}}


def patient() -> bytes:
    """What `models.endless` takes and gives, at once: y = trips."""
    nodes = [helper.make_node("Cast", ["trips"], ["c"], to=1), helper.make_node("Reshape", ["c", "one"], ["y"])]
    return models.build(nodes, [("trips", "INT64", ())], [("y", "FP32", (1,))], {"one": np.int64([1])})


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    config = "version_policy: {all: true}\n"
    for version, size in ((1, 1000), (2, 4)):
        models.write(tmp_path / "models", "table", models.lookup(size), version, config)
    models.write(tmp_path / "models", "loop", patient(), 1, config)
    models.write(tmp_path / "models", "loop", models.endless(), 2)
    with serve(tmp_path / "models", "--workers", "2", models__quiet_period_ms=0) as running:
        yield running


class Pipeliner(threading.Thread):
    """Keeps many requests in flight on one connection; remembers every answer in order."""

    def __init__(self, tree: Tree, seed: int) -> None:
        super().__init__(daemon=True)
        self.caller = Caller(tree.port, "table")
        self.rng = random.Random(seed)
        self.answers: list[Answer] = []
        self.units: list[str] = []
        self.stopping = threading.Event()
        self.error = ""

    def burst(self, count: int = 40) -> list[Answer]:
        for _ in range(count):
            self.units.append(f"u{self.rng.randrange(10**6)}")
            self.caller.send(GOOD, f"x-user-id: {self.units[-1]}\r\n")
        return [self.caller.read() for _ in range(count)]

    def run(self) -> None:
        try:
            while not self.stopping.is_set():
                self.answers += self.burst()
        except OSError as error:
            self.error = repr(error)


def test_no_answer_of_the_canary_after_an_acknowledged_abort_on_open_connections(tree: Tree) -> None:
    apply(tree, policy("table", steps=HALF))
    until(tree, "table", "BAKING")
    pipes = [Pipeliner(tree, seed) for seed in range(4)]
    with slots_watched(tree, "table") as sums:
        for pipe in pipes:
            pipe.start()
        tree.until("canary answers", lambda: all(any(a.variant == "canary" for a in p.answers) for p in pipes))
        status, answer = command(tree, "table", "abort", reason="now")
        assert (status, answer["in_force_everywhere"]) == (200, True)
        revision = answer["rollout"]["revision"]
        at = [len(pipe.answers) for pipe in pipes]
        tree.until("answers after it", lambda: all(len(p.answers) > n + 200 for p, n in zip(pipes, at, strict=True)))
        for pipe in pipes:
            pipe.stopping.set()
            pipe.join(20)
    assert [pipe.error for pipe in pipes] == [""] * 4
    assert set(sums) == {10_000}
    for pipe in pipes:
        assert {answer.status for answer in pipe.answers} == {200}
        revisions = [answer.revision for answer in pipe.answers]
        assert revisions == sorted(revisions), "an answer of an older revision came after one of a newer"
        assert revisions[-1] >= revision
        late = [answer.variant for answer in pipe.answers if answer.revision >= revision]
        assert set(late) == {"stable"}
        assert {answer.variant for answer in pipe.burst()} == {"stable"}
        pipe.caller.close()
    found = shown(tree, "table")["exposed"]
    assert [one["share"] for one in found] == [0.5]
    before = [
        (unit, answer.variant)
        for pipe in pipes
        for unit, answer in zip(pipe.units, pipe.answers, strict=False)
        if answer.revision < revision
    ]
    exposed = set(members(found, [unit for unit, _ in before]))
    assert {unit for unit, variant in before if variant == "canary"} == exposed
    _, body = tree.get("/admin/v1/audit/rollouts/table", admin=True)
    records = json.loads(body)["records"]
    assert [one["record"]["exposed"] for one in records if "exposed" in one["record"]] == [found]


def test_without_a_unit_the_ids_of_requests_say_who_had_the_canary(tree: Tree) -> None:
    apply(tree, policy("table", users=False, steps=HALF))
    until(tree, "table", "BAKING")
    caller = Caller(tree.port, "table")
    ids = [f"request-{number}" for number in range(300)]
    variants = [caller.ask(GOOD, f"x-request-id: {id}\r\n").variant for id in ids]
    caller.close()
    command(tree, "table", "abort", reason="now")
    found = shown(tree, "table")["exposed"]
    assert [one["unit"] for one in found] == ["x-request-id"]
    had = [id for id, variant in zip(ids, variants, strict=True) if variant == "canary"]
    assert 90 < len(had) < 210
    assert members(found, ids) == had


def test_changes_of_weight_fail_no_request(tree: Tree) -> None:
    """Shares move all the time, under load: each answer is 200, and of the variant that its revision says."""
    split = {"stable": 5000, "canary": 5000}
    apply(tree, policy("table", split=split))
    with slots_watched(tree, "table") as sums, Crowd(tree.port, "table", lambda _: GOOD, users=1000) as crowd:
        for generation, slots in enumerate([100, 9000, 3000, 0, 10000, 5000, 1, 7500], start=1):
            split = {"stable": 10000 - slots, "canary": slots}
            found = apply(tree, policy("table", split=split), generation)
            revision = found["revision"]
            tree.until("its answers", lambda r=revision: crowd.seen.count(revision=r) > 50)
    seen = crowd.stop()
    assert (seen.broken, seen.statuses(), set(sums)) == ([], {200}, {10_000})


def test_stable_answers_what_fails_on_the_canary_and_the_failure_is_the_canarys(tree: Tree) -> None:
    apply(tree, policy("table", steps=HALF, **WARN))
    caller = Caller(tree.port, "table")
    until(tree, "table", "BAKING")
    answers = [caller.ask(BROKEN if n % 20 == 0 else GOOD, f"x-user-id: u{n}\r\n") for n in range(400)]
    caller.close()
    fallbacks = sum(1 for a in answers if a.served_by == "stable; fallback")
    assert fallbacks > 0
    assert {a.status for a in answers} == {200}
    assert {a.variant for a in answers if a.served_by} == {"stable"}
    assert {a.headers["x-tidegate-model"] for a in answers if a.served_by} == {"table:1"}
    canary, stable = (sum(1 for a in answers if a.variant == name and not a.served_by) for name in ("canary", "stable"))
    tree.until("all are counted", lambda: sum(c["routed"] for c in counted(shown(tree, "table")).values()) == 400)
    sums = counted(shown(tree, "table"))
    bad = {v: sum(c["bad"] for (_, name), c in sums.items() if name == v) for v in ("stable", "canary")}
    ok = {v: sum(c["ok"] for (_, name), c in sums.items() if name == v) for v in ("stable", "canary")}
    assert bad == {"stable": 0, "canary": fallbacks}
    assert ok == {"stable": stable, "canary": canary}, "what stable answered in its place is no success of stable's"


def test_a_canary_that_only_fails_is_given_nothing_by_the_worker_itself(tree: Tree) -> None:
    apply(tree, policy("table", steps=NEARLY_ALL, **WARN))
    until(tree, "table", "BAKING")
    with Crowd(tree.port, "table", lambda _: BROKEN, users=10**6) as crowd:
        tree.until("it is zeroed everywhere", lambda: "canary" not in _lately(crowd, tree))
        tree.until("it is held", lambda: bool(shown(tree, "table")["holding"]))
        at = crowd.seen.count()
        tree.until("many answers", lambda: crowd.seen.count() > at + 10_000)
    seen = crowd.stop()
    tree.until("all are counted", lambda: sum(_routed(tree).values()) == seen.count())
    assert seen.broken == []
    assert {status for status in seen.statuses() if status >= 500} == set()
    # 20 failures in a row on each worker, and what was in flight; all but a handful were answered by stable.
    failed = sum(n for key, n in seen.tally.items() if key[0] != 200)
    fallbacks = seen.count(served_by="stable; fallback")
    assert 20 <= fallbacks + failed <= 100
    assert failed <= 8, seen.tally
    held = shown(tree, "table")["holding"]
    assert all("gives the canary no traffic" in why for why in held.values()), "no evidence comes of unlike arms"
    told = [line["reason"] for line in tree.logged("rollout_holding")]
    assert len(told) == len(set(told)) <= 2, "each is told once"


def _routed(tree: Tree) -> dict[Any, int]:
    return {place: counts["routed"] for place, counts in counted(shown(tree, "table")).items()}


def _lately(crowd: Crowd, tree: Tree) -> set[str]:
    """Who failed or was tried in the next 200 answers."""
    before = crowd.seen.tally.copy()
    at = crowd.seen.count()
    tree.until("more answers", lambda: crowd.seen.count() > at + 200)
    new = crowd.seen.tally - before
    return {"canary" for key in new if key[3] or key[0] != 200}


def test_a_canary_that_hangs_is_cut_while_there_is_time_for_stable(tree: Tree) -> None:
    apply(tree, policy("loop", steps=NEARLY_ALL, **WARN))
    until(tree, "loop", "BAKING")
    caller = Caller(tree.port, "loop")
    body = tensor([10**12], name="trips", shape=[])
    found = []
    for n in range(6):
        started = time.monotonic()
        answer = caller.ask(body, f"x-user-id: u{n}\r\nx-request-timeout-ms: 1500\r\n")
        found.append((answer.status, answer.served_by, time.monotonic() - started))
    caller.close()
    assert {status for status, _, _ in found} == {200}, found
    tried = [seconds for _, served_by, seconds in found if served_by]
    assert tried, found
    # 60 % of the deadline for the attempt; the rest is stable's.
    assert all(seconds < 1.45 for seconds in tried), found
