"""docs/metrics.md names every metric of the page, with its type and labels, and no other."""

import re
import shutil
import subprocess

import numpy as np
import pytest

from gateway.control.counts import Totals
from gateway.control.messages import ModelState
from gateway.control.policyfacts import PolicyFacts, TrafficFacts
from gateway.counters import MODEL_VALUES, WORKER_FIELDS
from gateway.metrics import MetricsPage, Node
from gateway.monitor.facts import FAMILIES, MonitorFacts
from gateway.shadowfields import FIELDS as SHADOW_FIELDS
from gateway.tally import FIELDS
from tests.docs.tables import DOCS, code, rows

TEXT = (DOCS / "metrics.md").read_text()
LIBRARIES = ("onnxruntime", "numpy", "uvicorn", "starlette")


def page() -> str:
    """A page on which every family has a sample."""
    models = {("m", "1", "-"): np.ones(MODEL_VALUES, np.int64)}
    totals = Totals(models, np.zeros(len(WORKER_FIELDS), np.int64), np.zeros(MODEL_VALUES, np.int64))
    state = ModelState("m", 1, "sha256:" + "0" * 64, 0, "READY", "", 1)
    worker = {"slot": 0, "listening": True, "rss_bytes": 1, "loop_lag_ms": 0.1, "restarts": 0}
    build = {"version": "0", "hot_path": "compiled", **dict.fromkeys(LIBRARIES, "1")}
    counts, copies = {"a": np.ones(len(FIELDS), np.int64)}, {"a": np.ones(len(SHADOW_FIELDS), np.int64)}
    rails = (("errors", "harm", 1.0, 4.6),)
    policy = PolicyFacts("m", 2, 1, {"a": 1.0}, {"a": 1.0}, "BAKING", 1, 2, rails, counts, counts, copies, 0)
    monitor = MonitorFacts(**{one.name: (("m", "1", "-", *("1" for _ in one.labels), 1.0),) for one in FAMILIES})
    node = Node(totals, [state], [worker], build, False, TrafficFacts((policy,), False, 0), monitor)
    return MetricsPage().render(node).decode()


def families(text: str) -> dict[str, tuple[str, set[str]]]:
    """Family -> type and labels; the labels that make a histogram are left out."""
    found: dict[str, tuple[str, set[str]]] = {}
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            found[name] = kind, set()
        elif not line.startswith("#"):
            sample = re.split(r"[{ ]", line, maxsplit=1)[0]
            name = sample if sample in found else re.sub(r"_(bucket|count|sum)$", "", sample)
            labels = re.findall(r'(\w+)="', line.partition("{")[2])
            found[name][1].update(set(labels) - ({"le"} if found[name][0] == "histogram" else set()))
    return found


def documented() -> dict[str, tuple[str, set[str]]]:
    return {
        code(name): (kind, set() if labels == "-" else set(labels.split(", ")))
        for name, kind, labels, _, _ in rows(TEXT, "metric")
    }


def test_every_metric_is_documented_and_every_documented_one_exists():
    assert families(page()) == documented()


def test_every_metric_has_a_unit_and_a_meaning():
    for name, _, _, unit, meaning in rows(TEXT, "metric"):
        assert unit, name
        assert meaning.endswith("."), name
        if "_seconds" in name:
            assert unit == "seconds", name
        if name.endswith("_bytes`"):
            assert unit == "bytes", name


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_prometheus_own_tool_finds_the_page_valid():
    checked = subprocess.run(["promtool", "check", "metrics"], input=page(), capture_output=True, text=True, timeout=60)
    problems = [line for line in checked.stderr.splitlines() if not line.startswith("nv_inference_")]
    assert checked.returncode in (0, 3), checked.stderr  # 3: only remarks on style
    assert problems == []
