"""References, rows and documents that are wrong: answers go on, the monitor says what is wrong, and nothing grows."""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from examples.carloan import build
from examples.carloan.loans import REFERENCE
from gateway.monitor.fit import Rows, fit
from gateway.monitor.reference import FILE_NAME, dumped
from runtimes.execution.session import OnnxSession, RunControl
from tests import models
from tests.process import monitored
from tests.process.callers import Caller
from tests.process.monitored import (
    BEFORE,
    NAME,
    Sender,
    as_json,
    binary,
    document,
    put,
    seen,
    series,
    until_counted,
    until_watched,
)
from tests.tree import Tree, serve

pytestmark = pytest.mark.process


def replace(path: Path, content: bytes) -> None:
    """As deployments do it: in one step."""
    path.with_suffix(".new").write_bytes(content)
    path.with_suffix(".new").replace(path)


def missing(tree: Tree, version: str = "1") -> float:
    return tree.counter("tidegate_monitor_reference_missing", model=NAME, version=version)


def until_refused(tree: Tree, what: str, word: str = "reference") -> int:
    """A new problem is told in all three places, and answers go on; rows that were sent."""
    lines = len(tree.logged("monitor_reference_refused"))
    tree.until(f"{what} is told", lambda: len(tree.logged("monitor_reference_refused")) > lines)
    reason = tree.logged("monitor_reference_refused")[-1]["reason"]
    assert word in reason, (what, reason)
    assert seen(tree)["problems"] == {"1": reason}, what
    assert missing(tree) == 1, what
    sender = Sender(tree)
    sender.send(BEFORE[:100])
    sender.close()
    return 100


def other_model() -> bytes:
    """A reference of another model with the same inputs."""
    model = OnnxSession(build.MODEL)
    rows = monitored.ALL[REFERENCE].inputs[:5000]
    return dumped(fit(model.signature, "ab" * 32, Rows([rows], [model.run([rows], RunControl())[0]])).reference)


def wrong_signature(digest: str, width: int = 3) -> bytes:
    """A reference that says it is of this model, and is of one with other inputs."""
    rng = np.random.default_rng(0)
    folder = Path(os.environ.get("TMPDIR", "/tmp")) / f"tidegate-test-{os.getpid()}.onnx"
    folder.write_bytes(models.affine(width=width))
    try:
        session = OnnxSession(folder)
        rows = rng.normal(size=(5000, width)).astype(np.float32)
        return dumped(fit(session.signature, digest, Rows([rows], [session.run([rows], RunControl())[0]])).reference)
    finally:
        folder.unlink()


def test_a_reference_that_cannot_be_used_is_told_and_a_good_one_taken(tmp_path: Path) -> None:
    folder = monitored.repository(tmp_path)
    path = tmp_path / FILE_NAME
    good = (folder / NAME / "1" / FILE_NAME).read_bytes()
    path.write_bytes(good)
    with serve(folder, "--workers", "1", models__quiet_period_ms=0) as tree:
        put(tree, window={"rows": 1000}, reference={"file": str(path)})
        until_watched(tree)
        sent = 0

        def wrong(what: str, content: bytes, word: str = "reference") -> None:
            nonlocal sent
            replace(path, content)
            sent += until_refused(tree, what, word)

        # What is refused in the same words as the one before is not told again.
        wrong("no archive", b"\0" * 100)
        wrong("of another model", other_model(), "abababababab")
        wrong("cut", good[:5000])
        with path.with_suffix(".new").open("wb") as file:
            file.truncate(5 << 30)
        path.with_suffix(".new").replace(path)
        sent += until_refused(tree, "huge", "at most")
        wrong("empty", b"")
        path.unlink()
        sent += until_refused(tree, "not there", "is not there")
        path.mkdir()
        sent += until_refused(tree, "a folder")
        path.rmdir()
        os.mkfifo(path)
        sent += until_refused(tree, "a pipe", "no file")
        path.unlink()
        wrong("cut", good[:6000])
        path.unlink()
        path.symlink_to("/dev/zero")
        sent += until_refused(tree, "endless", "no file")
        replace(path, good)
        until_watched(tree)
        assert seen(tree)["problems"] == {}
        assert missing(tree) == 0
        before = seen(tree)["rows"]
        sender = Sender(tree)
        sender.send(BEFORE[:1500])
        until_counted(tree, before + 1500)
        sender.close()
        # Only a forger gets here: bound to these bytes, and made of more columns than they have.
        replace(path, wrong_signature(hashlib.sha256(build.MODEL.read_bytes()).hexdigest(), 10))
        tree.until("it is taken", lambda: series(seen(tree))["windows"] == [])
        until_watched(tree)
        sender = Sender(tree)
        for _ in range(2):
            at = seen(tree)["rows"]
            sender.send(BEFORE[:1_000])
            found = until_counted(tree, at + 1_000)
        sender.close()
        (quality,) = [one for one in found["incident"]["alarms"] if one["signal"] == "data_quality"]
        assert (quality["severity"], found["states"]["data_quality"]) == ("critical", "firing")
        assert len(tree.pids()) == 3, "nobody was started anew"
        assert tree.logged("control_failed") == []


@pytest.mark.sim
def test_rows_that_are_wrong(tmp_path: Path) -> None:
    with serve(monitored.repository(tmp_path), "--workers", "1", models__quiet_period_ms=0) as tree:
        put(tree, window={"rows": 2_500})
        until_watched(tree)
        sender = Sender(tree)
        rows = BEFORE[:5_000].copy()
        rows[1234, 2] = np.nan
        for at in range(0, 5_000, 2_500):
            sender.send(rows[at : at + 2_500])
            found = until_counted(tree, at + 2_500)
        assert found["states"]["data_quality"] == "ok"
        assert found["incident"] is None
        for fill in (np.nan, np.inf, -np.inf, 3e38, 1e-45, 7.0):
            before = seen(tree)["rows"]
            rows = BEFORE[:2_500].copy()
            rows[:, 0] = fill
            sender.send(rows)
            found = until_counted(tree, before + 2_500)
        # 10^5 values that were never there, in a feature that has a handful.
        rows = np.repeat(BEFORE[:1_000], 100, axis=0)
        rows[:, 1] = np.arange(len(rows)) + 1e6
        before = found["rows"]
        resident = tree.workers()[0]["rss_bytes"]
        control = _resident(tree.control_pid())
        for at in range(0, len(rows), 20_000):
            sender.send(rows[at : at + 20_000], each=1_000)
            until_counted(tree, before + at + 20_000)
        found = seen(tree)
        assert found["incident"] is not None
        assert "salary_range" in series(found)["signals"]["data_quality"]["keys"]
        json.dumps(found, allow_nan=False)
        assert tree.workers()[0]["rss_bytes"] < resident + (48 << 20)
        assert _resident(tree.control_pid()) < control + (48 << 20)
        sender.close()
        status, body = tree.get(f"/admin/v1/monitors/{NAME}/explain", admin=True)
        assert status == 200, body
        json.loads(body, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
        body = tree.get("/metrics", admin=True)[1].decode()
        assert not [line for line in body.splitlines() if "drift" in line and line.endswith((" NaN", " +Inf"))]


def _resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


WRONG: dict[str, Any] = {
    "spec.reference.file": {"reference": {"file": ""}},
    "spec.reference.first": {"reference": {"first": 49_999}},
    "spec.reference.previous": {"reference": {"previous": "soon"}},
    "spec.reference": {"reference": "modell"},
    "spec.window.rows": {"window": {"rows": 0}},
    "spec.window.time": {"window": {"time": "1 fortnight"}},
    "spec.window": {"window": {}},
    "spec.min_rows": {"min_rows": -1},
    "spec.false_alarms.at_most_one_per": {"false_alarms": {"at_most_one_per": 30}},
    "spec.floors.psi": {"floors": {"psi": "much"}},
    "spec.floors.quality": {"floors": {"quality": 1.5}},
    "spec.groups.header": {"groups": {"header": "x y", "values": ["a"]}},
    "spec.groups.values": {"groups": {"header": "x-group", "values": []}},
    "spec.groups.values[1]": {"groups": {"header": "x-group", "values": ["a", "a"]}},
    "spec.labels.positive": {"labels": {"positive": 1}},
    "spec.labels.min_coverage": {"labels": {"min_coverage": 2}},
    "spec.latency.objective": {"latency": {"objective": 1}},
    "spec.actions.on_drift_of_canary": {"actions": {"on_drift_of_canary": "delete"}},
    "spec.alerts.webhook": {"alerts": {"webhook": "ftp://x"}},
    "spec.alerts.alertmanager": {"alerts": {"alertmanager": "localhost"}},
    "spec.retrain.preset": {"retrain": {"url": "http://x", "preset": "jenkins"}},
    "spec.retrain.url": {"retrain": {"preset": "webhook"}},
    "spec.retrain.per_day": {"retrain": {"url": "http://x", "per_day": 1000}},
    "spec.wndow": {"wndow": {"rows": 5000}},
}


def test_documents_that_are_wrong(tmp_path: Path) -> None:
    where = f"/admin/v1/monitors/{NAME}"
    with serve(monitored.repository(tmp_path), "--workers", "1", models__quiet_period_ms=0) as tree:
        until_watched(tree)
        for path, spec in WRONG.items():
            status, body = tree.call("PUT", where, document(**spec), admin=True)
            assert status == 400, (path, status, body)
            assert path + ":" in json.loads(body)["error"], (path, body)
        for wrong in ([], "x", 7, {}, {"kind": "Monitor"}, document("other"), document() | {"kind": "Policy"}):
            status, body = tree.call("PUT", where, wrong, admin=True)
            assert status == 400, (wrong, status, body)
        assert seen(tree)["generation"] == 0
        put(tree, window={"rows": 500})
        assert tree.call("PUT", where, document(), admin=True, headers={"if-match": '"0"'})[0] == 412
        assert tree.call("PUT", where, document(), admin=True, headers={"if-match": '"nine"'})[0] == 412
        assert tree.call("PUT", where, document(), admin=True, headers={"if-none-match": "*"})[0] == 412
        assert tree.call("PUT", where, document(), admin=True, headers={"if-match": 'W/"1"'})[0] == 412
        assert tree.call("PUT", where, document(), admin=True, headers={"if-match": '"1"'})[0] == 200
        for seen_of, status in (('"1"', 412), ('W/"2"', 412), ('"2"', 200)):
            assert tree.call("DELETE", where, admin=True, headers={"if-match": seen_of})[0] == status
        assert tree.call("DELETE", where, admin=True)[0] == 404
        for method, end in (("POST", "approve"), ("POST", "reject")):
            status, body = tree.call(method, f"{where}/retraining/{end}", {"request": "x"}, admin=True)
            assert status == 409, body
            assert tree.call(method, f"{where}/retraining/{end}", {"request": 7}, admin=True)[0] == 400
        for name in ("nobody", "%00", "a" * 300, "..%2f.."):
            assert tree.get(f"/admin/v1/monitors/{name}", admin=True)[0] in (400, 404), name
        assert seen(tree, NAME)["leads"]


def watched(folder: Path, name: str, content: bytes, rows: Rows, more: str = "") -> None:
    """A model and a reference of it."""
    models.write(folder, name, content, 1, more)
    path = folder / name / "1"
    session = OnnxSession(path / "model.onnx")
    outputs = session.run(list(rows.inputs), RunControl())
    found = fit(session.signature, hashlib.sha256(content).hexdigest(), Rows(rows.inputs, outputs))
    (path / FILE_NAME).write_bytes(dumped(found.reference))


@pytest.fixture
def zoo(tmp_path: Path) -> Iterator[Tree]:
    """Models of other shapes and types, each with a reference."""
    rng = np.random.default_rng(3)
    n = 3_000
    folder = tmp_path / "models"
    ints = [rng.integers(0, 1000, (n, 4)).astype(np.int32) for _ in range(2)]
    watched(folder, "sums", models.add_and_sub(), Rows(ints, []))
    words = np.array([[b"w%d" % k] for k in rng.integers(0, 6, n)], object)
    watched(folder, "words", models.identity("BYTES", ("N", 1)), Rows([words], []))
    for datatype, kind in (("FP16", np.float16), ("INT64", np.int64), ("BOOL", np.bool_), ("UINT8", np.uint8)):
        array = rng.integers(0, 2 if kind is np.bool_ else 200, (n, 2)).astype(kind)
        watched(folder, datatype.lower(), models.identity(datatype, ("N", 2)), Rows([array], []))
    with serve(folder, "--workers", "1", models__quiet_period_ms=0) as tree:
        yield tree


def ask(tree: Tree, model: str, inputs: list[dict[str, Any]]) -> None:
    caller = Caller(tree.port, model)
    answer = caller.ask(json.dumps({"inputs": inputs}).encode())
    assert answer.status == 200, answer
    caller.close()


def test_models_of_every_kind_are_counted(zoo: Tree) -> None:
    names = ("sums", "words", "fp16", "int64", "bool", "uint8")
    for name in names:
        until_watched(zoo, name)
    body = [{"name": n, "shape": [3, 4], "datatype": "INT32", "data": list(range(12))} for n in ("a", "b")]
    ask(zoo, "sums", body)
    ask(zoo, "sums", body[::-1])
    words = ["w1", "w2", "never seen", "x" * 5000, "", "é\0"]
    ask(zoo, "words", [{"name": "x", "shape": [6, 1], "datatype": "BYTES", "data": words}])
    for name, values in (("fp16", [1.0, 65504.0]), ("int64", [1, 2**62]), ("bool", [True, False]), ("uint8", [0, 255])):
        one = {"name": "x", "shape": [1, 2], "datatype": name.upper(), "data": values}
        if name == "fp16":
            caller = Caller(zoo.port, name)
            body_, headers = binary(np.array([values], np.float16), "x", "FP16")
            assert caller.ask(body_, headers).status == 200
            caller.close()
        else:
            ask(zoo, name, [one])
    for name, rows in {"sums": 6, "words": 6, "fp16": 1, "int64": 1, "bool": 1, "uint8": 1}.items():
        found = until_counted(zoo, rows, name)
        assert series(found)["skipped"] == 0, name
    assert zoo.logged("control_failed") == []


@pytest.mark.sim
def test_a_version_that_is_loaded_anew_and_a_reference_that_is_replaced_while_rows_come(tmp_path: Path) -> None:
    folder = monitored.repository(tmp_path)
    path = folder / NAME / "1" / FILE_NAME
    first, model = path.read_bytes(), OnnxSession(build.MODEL)
    rows = monitored.ALL[REFERENCE].inputs[:12_000]
    digest = hashlib.sha256(build.MODEL.read_bytes()).hexdigest()
    other = dumped(fit(model.signature, digest, Rows([rows], [model.run([rows], RunControl())[0]])).reference)
    polls = {"models__quiet_period_ms": 0, "models__poll_interval_ms": 200}
    with serve(folder, "--workers", "2", "--model-control-mode", "poll", **polls) as tree:
        until_watched(tree)
        before = seen(tree)["versions"]["1"]["reference"]["id"]
        # A version is what it was loaded as, and its reference is a part of it. A file of its own may change.
        replace(path, other)
        tree.until("the conflict is told", lambda: "conflict" in tree.log)
        assert seen(tree)["versions"]["1"]["reference"]["id"] == before
        replace(path, first)
        own = tmp_path / FILE_NAME
        own.write_bytes(first)
        put(tree, window={"rows": 1_000}, reference={"file": str(own)})
        until_watched(tree)
        sender, sent = Sender(tree), 0
        for content in (other, first):
            known = seen(tree)["versions"]["1"]["reference"]["id"]
            replace(own, content)

            def taken(known: str = known) -> bool:
                nonlocal sent
                assert sender.ask(as_json(BEFORE[sent % 1000 : sent % 1000 + 1])).status == 200
                sent += 1
                return bool(seen(tree)["versions"]["1"]["reference"]["id"] != known)

            tree.until("another reference", taken)
            tree.until("all workers have it", lambda: len({w["revision"] for w in tree.workers()}) == 1)
        assert seen(tree)["versions"]["1"]["reference"]["id"] == before
        until_watched(tree)
        sender.send(BEFORE[:1_000])
        sent += 1_000
        observed = tree.counter
        tree.until("every row", lambda: observed("tidegate_monitor_rows_observed_total", model=NAME) == sent)
        put(tree, window={"rows": 1_000})
        (folder / NAME / "2").mkdir()
        (folder / NAME / "2" / "reference.npz").write_bytes(first)
        (folder / NAME / "2" / "model.onnx").write_bytes(build.MODEL.read_bytes())
        tree.until("version 2 answers", lambda: _version(sender) == "2")
        until_watched(tree, versions=(2,))
        tree.until("it is counted", lambda: series(seen(tree), "2")["rows"] >= 0)
        base = series(seen(tree), "2")["rows"]
        sender.send(BEFORE[:1_000])
        tree.until("its rows", lambda: series(seen(tree), "2")["rows"] >= base + 1_000)
        assert tree.logged("control_failed") == []
        sender.close()


def _version(sender: Sender) -> str:
    return str(json.loads(sender.ask(as_json(BEFORE[:1])).body)["model_version"])
