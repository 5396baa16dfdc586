"""A model whose executions kill workers is held back; the others go on. Real processes, a real crash.

ONNX Runtime divides integers without a check: the smallest one by -1 is SIGFPE, so any caller of such a model could
kill a worker, again and again.
"""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from onnx import helper

from gateway.control.quarantine import CRASHES, REASON
from tests import models
from tests.tree import Tree, serve

pytestmark = pytest.mark.process
SMALLEST = -(2**31)
INFER = "/v2/models/quotient/infer"


def quotient() -> bytes:
    """y = a / b of INT32."""
    node = helper.make_node("Div", ["a", "b"], ["y"])
    return models.build([node], [("a", "INT32", ("N",)), ("b", "INT32", ("N",))], [("y", "INT32", ("N",))])


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    models.write(folder, "quotient", quotient())
    models.write(folder, "affine", models.affine())
    return folder


@pytest.fixture
def tree(repository: Path) -> Iterator[Tree]:
    settings = {"models__quiet_period_ms": 0, "models__load": ["*"]}
    with serve(repository, "--workers", "2", "--model-control-mode", "explicit", **settings) as running:
        yield running


def divide(tree: Tree, a: int, b: int, path: str = INFER) -> tuple[int, bytes]:
    inputs = [{"name": n, "shape": [1], "datatype": "INT32", "data": [v]} for n, v in (("a", a), ("b", b))]
    return tree.call("POST", path, {"inputs": inputs})


def crash(tree: Tree, times: int = CRASHES) -> None:
    """Kill so many workers by a request each."""
    for _ in range(times):
        # On a busy machine a respawn may take longer than its slot stays open: a refused connection is no crash.
        tree.until("a worker listens", lambda: any(worker["listening"] for worker in tree.workers()))
        done = tree.counter("tidegate_worker_crashes_total", model="quotient")
        assert divide(tree, SMALLEST, -1)[0] == 0, "it did not crash"
        tree.until("the crash is told", lambda n=done: counted(tree) == n + 1)


def counted(tree: Tree) -> float:
    return tree.counter("tidegate_worker_crashes_total", model="quotient")


def all_listen(tree: Tree) -> bool:
    return [worker["listening"] for worker in tree.workers()] == [True, True]


def test_three_crashes_put_a_version_into_quarantine_until_it_is_loaded_again(tree: Tree) -> None:
    assert json.loads(divide(tree, 7, 2)[1])["outputs"][0]["data"] == [3]
    crash(tree)
    tree.until("two workers without it", lambda: all_listen(tree) and divide(tree, 7, 2)[0] == 503)
    body = json.loads(divide(tree, 7, 2)[1])
    assert body["code"] == "model_not_ready"
    assert REASON in body["error"]
    assert REASON in json.loads(divide(tree, 7, 2, "/v2/models/quotient/versions/1/infer")[1])["error"]
    assert tree.infer("affine", [1, 2.5])["outputs"][0]["data"] == [2.0, 5.0]
    index = json.loads(tree.call("POST", "/v2/repository/index", {})[1])
    assert [(e["name"], e["state"], e.get("reason")) for e in index] == [
        ("affine", "READY", None),
        ("quotient", "UNAVAILABLE", REASON),
    ]
    assert tree.counter("tidegate_model_state", model="quotient", state="UNAVAILABLE") == 1
    told = tree.logged("worker_crashed")
    assert [line["model"] for line in told] == ["quotient"] * CRASHES
    assert all("SIGFPE" in line["reason"] and "Current thread 0x" in line["trace"] for line in told), told
    assert tree.get("/v2/health/ready")[0] == 200
    status, told_load = tree.call("POST", "/v2/repository/models/quotient/load")
    assert status == 200, told_load
    assert json.loads(divide(tree, 7, 2)[1])["outputs"][0]["data"] == [3]


def test_a_killed_control_remembers_it(repository: Path) -> None:
    with serve(repository, "--workers", "1", models__quiet_period_ms=0) as tree:
        crash(tree)
        tree.until("the quarantine", lambda: divide(tree, 7, 2)[0] == 503)
        before = tree.control_pid()
        os.kill(before, signal.SIGKILL)
        tree.until("a new control", lambda: before not in tree.pids() and len(tree.workers()) == 1)
        tree.until("its index", lambda: tree.call("POST", "/v2/repository/index", {})[0] == 200)
        assert REASON in tree.call("POST", "/v2/repository/index", {})[1].decode()
        assert REASON in json.loads(divide(tree, 7, 2)[1])["error"]
        assert counted(tree) == CRASHES
        assert tree.infer("affine", [1, 2.5])["outputs"][0]["data"] == [2.0, 5.0]


def test_a_worker_that_others_kill_is_held_against_no_version(repository: Path) -> None:
    with serve(repository, "--workers", "1", models__quiet_period_ms=0) as tree:
        for _ in range(CRASHES):
            victim = tree.workers()[0]["pid"]
            os.kill(victim, signal.SIGKILL)
            tree.until("a new worker", lambda v=victim: [w["pid"] for w in tree.workers() if w["listening"]] != [v])
            tree.until("it listens", lambda: [w["listening"] for w in tree.workers()] == [True])
        assert divide(tree, 7, 2)[0] == 200
        assert not tree.logged("worker_crashed")
