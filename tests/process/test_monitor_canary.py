"""A canary whose answers shift is stopped as its owners allow; a world that shifts for both is nobody's fault.

What a version is expected to answer is its reference. Here the canary's reference says that it answers as the first
version does, on the same held-out rows: so its owners have tried it, and so it was to be. The file that is served has
another bias: what came into production is not what was tried. With a reference of its own, the same canary is a new
version that answers differently on purpose, and no drift.
"""

import hashlib
import json
import random
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from examples.carloan import build, loans, profile
from examples.carloan.loans import FEATURE_NAMES
from gateway.monitor.fit import Choices, Rows, fit
from gateway.monitor.reference import dumped
from runtimes.execution.session import OnnxSession
from tests.process import monitored
from tests.process.callers import apply, command, policy, shown, until
from tests.process.monitored import AFTER, ALL, BEFORE, NAME, Sender, binary, put, seen, series, until_watched
from tests.tree import Tree, serve

pytestmark = pytest.mark.process
HELD_OUT = ALL[loans.REFERENCE]
STEPS = [{"setWeight": 5000, "hold": {"minDuration": "10m"}}, {"setWeight": 10000}]
SETTINGS: Mapping[str, Any] = {"window": {"rows": 600}, "min_rows": 200}
ROWS = 20


def shifted(path: Path, by: float) -> bytes:
    """The model with another bias before its sigmoid."""
    model = onnx.load(path)
    last = next(node for node in reversed(model.graph.node) if node.op_type != "Sigmoid")
    for weight in model.graph.initializer:
        values = numpy_helper.to_array(weight)
        if weight.name in last.input and values.size == 1:
            weight.CopyFrom(numpy_helper.from_array((values + by).astype(values.dtype), weight.name))
            return model.SerializeToString()
    raise AssertionError("no bias")


def repository(folder: Path, *, own: bool = False, by: float = -2.0) -> Path:
    """Two versions; `own`: the canary's reference has its own scores."""
    root = monitored.repository(folder, more="version_policy: {all: true}\n")
    there = root / NAME / "2"
    there.mkdir()
    (there / "model.onnx").write_bytes(shifted(build.MODEL, by))
    digest = hashlib.sha256((there / "model.onnx").read_bytes()).hexdigest()
    scores = profile.scores(there / "model.onnx" if own else build.MODEL, HELD_OUT)
    rows = Rows([HELD_OUT.inputs], [scores], labels=HELD_OUT.repaid)
    signature = OnnxSession(build.MODEL).signature
    found = fit(signature, digest, rows, Choices(names={build.INPUT: FEATURE_NAMES}))
    (there / "reference.npz").write_bytes(dumped(found.reference))
    return root


@contextmanager
def gateway(tmp_path: Path, *, own: bool = False, by: float = -2.0) -> Iterator[Tree]:
    folder = repository(tmp_path, own=own, by=by)
    with serve(folder, "--workers", "1", models__quiet_period_ms=0) as tree:
        yield tree


@contextmanager
def traffic(tree: Tree, rows: "np.ndarray[Any, Any]", rows_each: int = ROWS) -> Iterator[None]:
    """Users ask, some rows at a time, until this is left."""
    stopping = threading.Event()

    def run(seed: int) -> None:
        rng, sender = random.Random(seed), Sender(tree)
        while not stopping.wait(0.004):
            at = rng.randrange(len(rows) - rows_each)
            body, headers = binary(rows[at : at + rows_each])
            answer = sender.ask(body, headers + f"x-user-id: u{rng.randrange(10**6)}\r\n")
            assert answer.status == 200, answer
        sender.close()

    thread = threading.Thread(target=run, args=(7,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join(30)


def start(tree: Tree, *, on_drift: str = "observe", signals: list[dict[str, Any]] | None = None) -> None:
    put(tree, **SETTINGS, actions={"on_drift_of_canary": on_drift})
    analysis = {"minDetect": 1000, **({"signals": signals} if signals else {})}
    apply(tree, policy(NAME, steps=STEPS, analysis=analysis))
    until_watched(tree, versions=(1, 2))


def audit(tree: Tree) -> list[dict[str, Any]]:
    status, body = tree.get("/admin/v1/audit", admin=True)
    assert status == 200, body
    found: list[dict[str, Any]] = json.loads(body)["records"]
    return [line.get("record", line) for line in found]


def judged(tree: Tree, windows: int) -> None:
    """Wait until both arms have so many windows."""
    arms = (("1", "stable"), ("2", "canary"))
    tree.until("windows", lambda: all(len(series(seen(tree), *arm)["windows"]) >= windows for arm in arms))


def test_the_monitor_rolls_back_where_its_owner_allowed_that(tmp_path: Path) -> None:
    with gateway(tmp_path) as tree:
        start(tree, on_drift="rollback")
        with traffic(tree, BEFORE):
            found = until(tree, NAME, "ROLLED_BACK")
        assert "monitor" in found["reason"], found
        assert "outside the budget" in found["reason"]
        (stopped,) = [line for line in audit(tree) if line["what"] == "abort"]
        assert stopped["actor"] == "auto:monitor"
        assert "outside the budget" in stopped["reason"]
        assert tree.counter("tidegate_rollout_actions_total", model=NAME, action="rollback", reason="model") == 1
        (leased,) = [line for line in audit(tree) if line["what"] == "lease rollback"]
        assert leased["actor"] == "auto:monitor"
        status, whole = tree.get(f"/admin/v1/audit/{leased['id']}", admin=True)
        assert status == 200, whole
        tree.until("it is written", lambda: [line for line in audit(tree) if line["what"] == "incident opened"])
        for line in (leased, *(line for line in audit(tree) if line["what"] == "incident opened")):
            status, body = tree.call("POST", f"/admin/v1/audit/replay/{line['id']}", {}, admin=True)
            replayed = json.loads(body)
            assert (status, replayed["text"]) == (200, "same verdict"), replayed
            exact = {one["what"]: one["recomputed"] for one in replayed["checks"]}
            assert exact["prediction_drift of canary: state"] == "firing"
        tree.until("it is over", lambda: seen(tree)["incidents"])
        (incident,) = seen(tree)["incidents"]
        assert incident["id"] in whole.decode(), "what it is based on"
        assert incident["id"] in stopped["reason"]
        assert incident["attribution"]["verdict"] == "model"


def test_stable_answers_for_the_canary_until_a_person_lets_it_back(tmp_path: Path) -> None:
    def answering(users: int = 60) -> dict[str, str]:
        """Who answers each user now."""
        sender, found = Sender(tree), {}
        body, headers = binary(BEFORE[:1])
        for at in range(users):
            found[f"w{at}"] = sender.ask(body, f"{headers}x-user-id: w{at}\r\n").variant
        sender.close()
        return found

    with gateway(tmp_path) as tree:
        start(tree, on_drift="fallback")
        until(tree, NAME, "BAKING")
        before = answering()
        assert set(before.values()) == {"stable", "canary"}
        with traffic(tree, BEFORE):
            tree.until("a fallback", lambda: shown(tree, NAME).get("fallback"))
            tree.until("stable alone", lambda: set(answering().values()) == {"stable"})
            flag = {"model": NAME, "version": "2", "variant": "canary"}
            assert tree.counter("tidegate_degrade_flags", **flag) == 1
            assert tree.counter("tidegate_degrade_flags", **flag, level="fallback") == 1
            found = shown(tree, NAME)
        assert (found["state"], found["phase"], found["step"], found["slots"]) == ("HOLDING", "BAKING", 0, 5000)
        assert (found["weights"]["intended"]["canary"], found["weights"]["in_force"]["canary"]) == (0.5, 0.0)
        assert "Stable answers for the canary" in found["holding"]["monitor"]
        (record,) = [line for line in audit(tree) if line["what"] == "fallback"]
        assert record["actor"] == "auto:monitor"
        assert [line["what"] for line in audit(tree) if line["what"].startswith("lease")] == ["lease fallback"]
        status, body = tree.call("POST", f"/admin/v1/audit/replay/{record['id']}", {}, admin=True)
        assert (status, json.loads(body)["text"]) == (200, "same verdict")
        assert command(tree, NAME, "resume", reason="it was seen")[0] == 200
        tree.until("everybody where they were", lambda: answering() == before)
        assert shown(tree, NAME)["fallback"] is None


def test_a_policys_signal_rolls_back_or_holds(tmp_path: Path) -> None:
    with gateway(tmp_path) as tree:
        start(tree, signals=[{"metric": "output_drift"}])
        with traffic(tree, BEFORE):
            tree.until("it holds", lambda: shown(tree, NAME).get("holding", {}))
            judged(tree, 6)
            found = shown(tree, NAME)
        assert found["holding"] == {"signal:output_drift": "signal output_drift"}
        assert (found["phase"], found["step"], found["slots"]) == ("BAKING", 0, 5000)


@pytest.mark.sim
def test_a_policys_signal_outside_alpha_rolls_back(tmp_path: Path) -> None:
    with gateway(tmp_path) as tree:
        start(tree, signals=[{"metric": "output_drift", "outsideAlpha": True}])
        with traffic(tree, BEFORE):
            found = until(tree, NAME, "ROLLED_BACK")
        assert "output_drift" in found["reason"], found


def test_a_world_that_shifts_is_told_and_stops_no_rollout(tmp_path: Path) -> None:
    with gateway(tmp_path, own=True, by=0.0001) as tree:
        signals = [{"metric": name, "outsideAlpha": True} for name in ("output_drift", "input_drift")]
        start(tree, on_drift="rollback", signals=signals)
        with traffic(tree, AFTER):
            judged(tree, 5)
            tree.until("an incident", lambda: seen(tree)["incident"] is not None)
            judged(tree, 8)
            found = shown(tree, NAME)
        told = seen(tree)
        assert told["incident"]["attribution"]["verdict"] == "world"
        assert (found["phase"], found["step"], found["slots"]) == ("BAKING", 0, 5000)
        assert (found["holding"], told["leases"]) == ({}, []), "nobody is to blame"


@pytest.mark.sim
def test_a_canary_that_differs_on_purpose_is_no_drift(tmp_path: Path) -> None:
    with gateway(tmp_path, own=True) as tree:
        start(tree, on_drift="rollback", signals=[{"metric": "output_drift", "outsideAlpha": True}])
        with traffic(tree, BEFORE):
            judged(tree, 6)
        assert seen(tree)["incident"] is None
        assert shown(tree, NAME)["phase"] == "BAKING"


def test_the_guardrail_on_outputs_rolls_back_by_units(tmp_path: Path) -> None:
    """No word of the monitor: scores of users, one each, are compared by the rollout itself."""
    with gateway(tmp_path, own=True) as tree:
        put(tree, **SETTINGS)
        until_watched(tree, versions=(1, 2))
        analysis = {"guardrails": [{"metric": "error_rate"}, {"metric": "output_shift"}], "minDetect": 1000}
        apply(tree, policy(NAME, steps=STEPS, analysis=analysis))
        with traffic(tree, BEFORE, rows_each=1):
            found = until(tree, NAME, "ROLLED_BACK")
        assert "output_shift" in found["reason"], found
        (stopped,) = [line for line in audit(tree) if line["what"] == "abort"]
        assert stopped["actor"] == "auto:guardrail:output_shift"
        status, replayed = tree.call("POST", f"/admin/v1/audit/replay/{stopped['id']}", admin=True)
        assert status == 200, replayed
        assert json.loads(replayed)["same"], replayed
