"""Models come and go under load: no request fails, the answer names the version that computed it, memory comes back."""

import http.client
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import models
from tests.tree import Tree, serve

pytestmark = pytest.mark.process
BODY = json.dumps({"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1.0, 3.0]}]}).encode()


def put(folder: Path, version: int, name: str = "affine") -> None:
    """Version n computes n x; the file looks old, so that its quiet period is over."""
    staging = folder / f".tidegate-{name}-{version}"
    staging.mkdir(parents=True)
    (staging / "model.onnx").write_bytes(models.affine(scale=float(version)))
    os.utime(staging / "model.onnx", (1, 1))
    (folder / name).mkdir(exist_ok=True)
    staging.rename(folder / name / str(version))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "models"
    put(path, 1)
    return path


class Checker(threading.Thread):
    """Asks without a pause; the version named in body and header has to be the one whose factor is in the answer."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        self.versions: dict[int, int] = {}
        self.wrong: list[str] = []
        self.stopping = threading.Event()

    def run(self) -> None:
        while not self.stopping.is_set():
            self.connection.request("POST", "/v2/models/affine/infer", BODY)
            answer = self.connection.getresponse()
            text = answer.read()
            if answer.status != 200:
                self.wrong.append(text.decode())
                continue
            document = json.loads(text)
            version = int(document["model_version"])
            self.versions[version] = self.versions.get(version, 0) + 1
            data, header = document["outputs"][0]["data"], answer.getheader("x-tidegate-model")
            if data != [version, 3.0 * version] or header != f"affine:{version}":
                self.wrong.append(f"{header} {document}")
        self.connection.close()


@pytest.fixture
def tree(folder: Path) -> Iterator[Tree]:
    settings = {"models__poll_interval_ms": 50, "models__quiet_period_ms": 100}
    with serve(folder, "--workers", "2", "--model-control-mode", "poll", **settings) as running:
        yield running


def test_swaps_under_load_fail_no_request(tree: Tree, folder: Path) -> None:
    checkers = [Checker(tree.port) for _ in range(4)]
    for checker in checkers:
        checker.start()
    for version in (2, 3, 4):
        put(folder, version)
        tree.until(f"version {version}", lambda v=version: all(v in checker.versions for checker in checkers))
    for checker in checkers:
        checker.stopping.set()
        checker.join(20)
    assert [checker.wrong for checker in checkers] == [[]] * 4
    assert all(set(checker.versions) == {1, 2, 3, 4} for checker in checkers)
    # Latest 1 is the policy: the old ones are gone, and so are their labels.
    tree.until("the old ones are gone", lambda: [w["models"] for w in tree.workers()] == [["affine:4 READY"]] * 2)
    page = tree.get("/metrics")[1]
    assert b'version="4"' in page
    assert b'version="3"' not in page


def test_aliases_move_and_a_deleted_model_goes(tree: Tree, folder: Path) -> None:
    (folder / "affine/model.yaml").write_text("version_policy: {all: true}\naliases:\n  stable: 1  # for now\n")
    put(folder, 2)
    tree.until("the alias", lambda: tree.get("/v2/models/affine/versions/stable")[0] == 200)
    tree.until("version 2", lambda: tree.infer("affine", [1, 3])["model_version"] == "2")
    assert tree.infer("affine/versions/stable", [1, 3])["model_version"] == "1"
    status, _ = tree.call("PUT", "/admin/v1/models/affine/aliases/stable", {"version": 2}, admin=True)
    assert status == 200
    assert tree.infer("affine/versions/stable", [1, 3])["model_version"] == "2"
    assert "# for now" in (folder / "affine/model.yaml").read_text()
    (folder / "affine").rename(folder / ".gone")
    tree.until("404", lambda: tree.get("/v2/models/affine")[0] == 404)


def reasons(tree: Tree) -> dict[str, str]:
    """Version -> state and reason, as the index says."""
    index = json.loads(tree.call("POST", "/v2/repository/index", {})[1])
    return {entry["version"]: f"{entry['state']} {entry.get('reason', '')}" for entry in index}


def test_a_broken_version_takes_nothing_away(tree: Tree, folder: Path) -> None:
    (folder / "affine/2").mkdir()
    (folder / "affine/2/model.onnx").write_bytes(b"not a model")
    os.utime(folder / "affine/2/model.onnx", (1, 1))
    tree.until("the reason", lambda: reasons(tree).get("2", "").startswith("UNAVAILABLE"))
    assert reasons(tree)["1"].startswith("READY")
    assert tree.infer("affine", [1, 3])["model_version"] == "1"
    assert b'tidegate_model_state{model="affine",state="UNAVAILABLE",version="2"} 1.0' in tree.get("/metrics")[1]


def test_a_version_that_answers_its_golden_requests_otherwise_gets_no_traffic(tree: Tree, folder: Path) -> None:
    def golden(version: int, answer: float) -> None:
        ends = [{"name": name, "shape": [1, 2], "datatype": "FP32", "data": [1, value]} for name, value in
                (("x", 3), ("y", answer))]  # fmt: skip
        line = {"request": {"inputs": ends[:1]}, "response": {"outputs": [ends[1] | {"data": [version, answer]}]}}
        staging = folder / f".tidegate-golden-{version}"
        staging.mkdir()
        (staging / "model.onnx").write_bytes(models.affine(scale=float(version)))
        (staging / "golden.jsonl").write_text(json.dumps(line))
        for path in staging.iterdir():
            os.utime(path, (1, 1))
        staging.rename(folder / "affine" / str(version))

    golden(2, 7.0)
    tree.until("the reason", lambda: reasons(tree).get("2", "").startswith("UNAVAILABLE"))
    assert "golden.jsonl, line 1: output 'y': 1 of 2 values differ; value 1 is 6.0, expected 7.0" in reasons(tree)["2"]
    assert tree.infer("affine", [1, 3])["model_version"] == "1"
    names = [{"name": name, "model": f"affine:{version}"} for version, name in enumerate(("stable", "canary"), 1)]
    spec = {"variants": names, "split": {"stable": 5000, "canary": 5000}}
    document = {"apiVersion": "tidegate/v1", "kind": "TrafficPolicy", "metadata": {"name": "affine"}, "spec": spec}
    status, body = tree.call("PUT", "/admin/v1/policies/affine", document, admin=True)
    assert (status, b"golden.jsonl, line 1" in body) == (409, True), body
    golden(3, 9.0)
    tree.until("version 3", lambda: tree.infer("affine", [1, 3])["model_version"] == "3")


def test_other_bytes_under_the_same_version_are_refused(tree: Tree, folder: Path) -> None:
    (folder / "affine/1/model.onnx").write_bytes(models.affine(scale=50.0))
    tree.until("the conflict", lambda: "changed" in reasons(tree)["1"])
    assert reasons(tree)["1"].startswith("READY")
    assert tree.infer("affine", [1, 3])["outputs"][0]["data"] == [1.0, 3.0]


def test_a_half_written_upload_is_not_loaded(tree: Tree, folder: Path) -> None:
    """A copy that goes on longer than the quiet period, byte by byte: it is taken when it is whole."""
    content = models.affine(scale=2.0)
    (folder / "affine/2").mkdir()
    with (folder / "affine/2/model.onnx").open("wb", buffering=0) as file:
        for at in range(len(content)):
            file.write(content[at : at + 1])
            if at % 40 == 0:
                index = json.loads(tree.call("POST", "/v2/repository/index", {})[1])
                assert all(entry.get("reason", "") == "" for entry in index)
    tree.until("version 2", lambda: tree.infer("affine", [1, 3])["model_version"] == "2")
    assert [line for line in tree.logged("model_state") if line["reason"]] == []


def test_a_repository_that_is_away_is_no_reason_to_unload(tree: Tree, folder: Path) -> None:
    away = folder.with_name("away")
    folder.rename(away)
    tree.until("the metric", lambda: tree.counter("tidegate_repository_up") == 0)
    assert tree.infer("affine", [1, 3])["model_version"] == "1"
    away.rename(folder)
    put(folder, 2)
    tree.until("version 2", lambda: tree.infer("affine", [1, 3])["model_version"] == "2")
    assert tree.counter("tidegate_repository_up") == 1


def test_a_restarted_control_goes_on_where_the_old_one_was(folder: Path) -> None:
    put(folder, 1, "other")
    with serve(folder, "--workers", "1", "--model-control-mode", "explicit", "--load", "affine") as tree:
        assert tree.get("/v2/models/other")[0] == 404
        assert tree.call("POST", "/v2/repository/models/other/load", {})[0] == 200
        assert tree.infer("other", [1, 3])["model_version"] == "1"
        before = tree.control_pid()
        os.kill(before, 9)
        tree.until("a new control", lambda: tree.workers() != [] and tree.control_pid() != before)
        assert tree.infer("other", [1, 3])["model_version"] == "1"
        assert tree.call("POST", "/v2/repository/models/affine/unload", {})[0] == 200
        assert tree.get("/v2/models/affine")[0] == 404
        assert tree.infer("other", [1, 3])["model_version"] == "1"


@pytest.mark.parametrize("cycles", [60, pytest.param(500, marks=pytest.mark.sim)])
def test_load_and_unload_give_the_memory_back(tmp_path: Path, cycles: int) -> None:
    """After a first tenth, in which allocators settle, the rest adds less than 8 MiB."""
    folder = tmp_path / "models"
    models.write(folder, "big", models.mlp((256, 512, 16)))
    os.utime(folder / "big/1/model.onnx", (1, 1))
    with serve(folder, "--workers", "1", "--model-control-mode", "explicit") as tree:

        def cycle(count: int) -> int:
            for _ in range(count):
                assert tree.call("POST", "/v2/repository/models/big/load", {})[0] == 200
                assert tree.call("POST", "/v2/repository/models/big/unload", {})[0] == 200
            started = time.monotonic()
            tree.until("a beat", lambda: time.monotonic() - started > 0.6)
            return int(tree.workers()[0]["rss_bytes"])

        settled = cycle(cycles // 10)
        assert cycle(cycles - cycles // 10) - settled < 8 * 1024 * 1024
