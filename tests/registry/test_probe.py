"""The first load in a child: models that are none, that are too large, and children that crash, hang or lie."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import StringStringEntryProto, TensorProto, helper

from runtimes.execution.probe_child import what_it_is
from runtimes.registry.probe import Outcome, ProbeResult, judged, probe
from tests import models

MIB = 1024 * 1024
ENOUGH_S = 60.0
"""Reached only by a test that fails."""


def probed(folder: Path, model: bytes, *, memory_bytes: int = 1024 * MIB) -> ProbeResult:
    (folder / "model.onnx").write_bytes(model)
    return probe(folder, "model.onnx", timeout_s=ENOUGH_S, memory_bytes=memory_bytes)


def child(code: str, *, timeout_s: float = ENOUGH_S, memory_bytes: int = 1024 * MIB) -> ProbeResult:
    """The verdict on a child that does as the code says."""
    lines = 'import json, os, resource, signal, sys\nready = \'{"base_rss_bytes": 1000000, "offline": true}\'\n'
    command = (sys.executable, "-I", "-S", "-c", lines + code)
    return probe("/", "x", timeout_s=timeout_s, memory_bytes=memory_bytes, command=command)


# ---- models ----


def test_a_good_model(tmp_path: Path) -> None:
    result = probed(tmp_path, models.affine())
    assert result.ok
    assert (result.reason, result.stage, result.lasting) == ("", "", True)
    assert result.inputs == ("x FP32 [-1,2]",)
    assert result.outputs == ("y FP32 [-1,2]",)
    assert 0 < result.seconds < ENOUGH_S
    assert 0 < result.rss_bytes < 100 * MIB
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "an ONNX model is expected, got an empty file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "got a Git LFS pointer"),
        (b"PK\x03\x04" + b"x" * 100, "got a zip archive"),
        (b"<!DOCTYPE html><html></html>", "got HTML"),
        (b"\n<html>", "got HTML"),
        (b'{"error": "not found"}', "got JSON"),
        (b"\x80\x04\x95" + b"x" * 40, "got a Python pickle"),
        (b"\x1f\x8b" + b"x" * 40, "got a gzip archive"),
        (b"\xff" * 1000, ""),
        (models.mlp()[:-100], ""),
        (models.mlp() + b"\xff\xff", ""),
    ],
)
def test_what_is_no_model(tmp_path: Path, content: bytes, says: str) -> None:
    result = probed(tmp_path, content)
    assert not result.ok
    assert result.stage in ("parse", "session")
    assert result.lasting
    assert says in result.reason
    assert result.reason
    assert str(tmp_path) not in result.reason


def test_no_file_at_all(tmp_path: Path) -> None:
    result = probe(tmp_path, "model.onnx", timeout_s=ENOUGH_S, memory_bytes=1024 * MIB)
    assert (result.ok, result.stage) == (False, "parse")
    assert str(tmp_path) not in result.reason


def unusual(**changes: object) -> bytes:
    node = helper.make_node(str(changes.get("op", "Identity")), ["x"], ["y"], domain=str(changes.get("domain", "")))
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("x", "y")]
    graph = helper.make_graph([node], "g", value[:1], value[1:])
    opsets = [helper.make_opsetid("", int(str(changes.get("opset", 17))))]
    if "domain" in changes:
        opsets.append(helper.make_opsetid(str(changes["domain"]), 1))
    model = helper.make_model(graph, opset_imports=opsets, ir_version=int(str(changes.get("ir", 8))))
    if "metadata" in changes:
        model.metadata_props.append(StringStringEntryProto(key="ort_config", value=str(changes["metadata"])))
    return model.SerializeToString()


@pytest.mark.parametrize(
    "changes", [{"op": "NoSuchOperator"}, {"domain": "com.evil", "op": "X"}, {"opset": 999}, {"ir": 999}]
)
def test_graphs_that_cannot_be_prepared(tmp_path: Path, changes: dict[str, object]) -> None:
    result = probed(tmp_path, unusual(**changes))
    assert not result.ok
    assert result.stage == "session"
    assert result.reason


def test_profiling_by_the_model_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORT_LOAD_CONFIG_FROM_MODEL", "1")
    result = probed(tmp_path, unusual(metadata='{"session_options": {"enable_profiling": 1}}'))
    assert result.ok
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_types_that_are_not_served(tmp_path: Path) -> None:
    node = helper.make_node("SequenceConstruct", ["x"], ["y"])
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])
    y = helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, [2])
    graph = helper.make_graph([node], "g", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    result = probed(tmp_path, model.SerializeToString())
    assert (result.ok, result.stage) == (False, "check")
    assert "'y' is of type seq(tensor(float))" in result.reason


def external(location: str, length: int = 8, **more: str) -> bytes:
    """y = x + w, with w in another file."""
    weights = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, "offset": "0", "length": str(length), **more}.items():
        weights.external_data.append(StringStringEntryProto(key=key, value=value))
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", value[:1], value[1:], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model.SerializeToString()


def test_external_data_beside_the_model(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(np.float32([1, 2]).tobytes())
    assert probed(tmp_path, external("w.bin")).ok


@pytest.mark.parametrize(
    ("location", "more"),
    [
        ("../w.bin", {}),
        ("junk/../../w.bin", {}),
        ("/dev/zero", {}),
        ("/etc/passwd", {}),
        ("missing.bin", {}),
        ("w.bin", {"offset": "100"}),
        ("w.bin", {"offset": "-4"}),
        ("w.bin", {"length": str(2**50)}),
        ("w.bin", {"length": "4"}),
    ],
)
def test_external_data_out_of_bounds(tmp_path: Path, location: str, more: dict[str, str]) -> None:
    for folder in (tmp_path, tmp_path / "inner"):
        folder.mkdir(exist_ok=True)
        (folder / "w.bin").write_bytes(b"\0" * 8)
    result = probed(tmp_path / "inner", external(location, **more))
    assert not result.ok
    assert result.reason
    assert str(tmp_path) not in result.reason


# ---- memory ----


def bomb(floats: int) -> bytes:
    """A few bytes that become a large constant while the session is built."""
    node = helper.make_node("ConstantOfShape", ["s"], ["y"])
    return models.build([node], [], [("y", "FP32", (None,))], {"s": np.array([floats], dtype=np.int64)})


def test_a_small_file_that_needs_much_memory(tmp_path: Path) -> None:
    result = probed(tmp_path, bomb(100 * MIB), memory_bytes=64 * MIB)
    assert (result.ok, result.stage, result.lasting) == (False, "session", False)
    assert result.reason == "loading needs more memory than the 64 MiB it may have"
    assert result.rss_bytes > 64 * MIB
    assert probed(tmp_path, bomb(10 * MIB), memory_bytes=256 * MIB).rss_bytes > 40 * MIB


def test_memory_counts_from_when_the_child_is_ready() -> None:
    code = "print(ready, flush=True); kept = bytearray(200_000_000); signal.pause()"
    result = child(code, memory_bytes=64 * MIB)
    assert result.reason == "loading needs more memory than the 64 MiB it may have"
    assert result.offline


# ---- children ----


@pytest.mark.parametrize(
    "code", ["signal.pause()", "print(ready, flush=True); signal.pause()", "os.close(1); signal.pause()"]
)
def test_a_child_that_hangs(code: str) -> None:
    result = child(code, timeout_s=0.5)
    assert (result.ok, result.stage, result.lasting) == (False, "session", False)
    assert result.reason == "loading took longer than 0.5 s"
    assert result.seconds >= 0.5


@pytest.mark.parametrize(
    ("code", "reason", "lasting"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "the model crashed the probe (SIGSEGV)", True),
        ("print(ready, flush=True); os.abort()", "the model crashed the probe (SIGABRT)", True),
        ("os.kill(os.getpid(), signal.SIGKILL)", "the model crashed the probe (SIGKILL)", False),
        ("os.kill(os.getpid(), signal.SIGXCPU)", "loading took longer than 60 s", False),
        ("os._exit(3)", "the probe ended with status 3 and no answer", False),
        ("print(ready)", "the probe ended with status 0 and no answer", False),
        ("print(ready); print('nonsense')", "the probe ended with status 0 and no answer", False),
        ("sys.stdout.write('x' * 1_000_000)", "the probe wrote more than 262144 bytes", True),
        ("print(ready)\nwhile True: print('x')", "the probe wrote more than 262144 bytes", True),
    ],
)
def test_a_child_that_does_not_answer(code: str, reason: str, *, lasting: bool) -> None:
    resource_free = f"resource.setrlimit(resource.RLIMIT_CORE, (0, 0))\n{code}"
    result = child(resource_free)
    assert (result.ok, result.reason, result.lasting) == (False, reason, lasting)


def test_a_child_that_cannot_be_started() -> None:
    result = probe("/", "x", timeout_s=1, memory_bytes=1, command=("/nonexistent/python",))
    assert (result.ok, result.lasting) == (False, False)
    assert result.reason == "the probe could not be started: No such file or directory"


def test_the_child_is_told_little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE_SECRET", "s3cret")
    answer = "{'ok': False, 'stage': 'x', 'reason': ' '.join(sorted(os.environ)) + ' ' + str(sys.stdin.read())}"
    result = child(f"print(ready); print(json.dumps({answer}))")
    assert "OPENBLAS_NUM_THREADS" in result.reason
    assert "SECRET" not in result.reason


def test_no_child_stays_behind(tmp_path: Path) -> None:
    child(f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); signal.pause()", timeout_s=0.5)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


# ---- the limits that the real child puts on itself ----


def test_limits_of_the_child() -> None:
    code = """
import json, os, resource, sys
from runtimes.execution.probe_child import _limit, _limit_memory
offline = _limit(os.getppid(), 10.0)
_limit_memory()
networks = [line.split(":")[0].strip() for line in open("/proc/self/net/dev") if ":" in line]
limit = lambda name: resource.getrlimit(getattr(resource, "RLIMIT_" + name))[0]
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps({
    **{name: limit(name) for name in ("CPU", "CORE", "FSIZE", "NOFILE", "DATA")},
    "offline": offline, "networks": networks,
    "no_new_privs": int(status["NoNewPrivs"]), "victim": int(open("/proc/self/oom_score_adj").read()),
}))
"""
    ran = subprocess.run([sys.executable, "-I", "-c", code], check=True, capture_output=True)
    limits = json.loads(ran.stdout)
    assert limits.pop("DATA") > 0
    # Not every kernel allows it; what counts is that the result says the truth.
    networks = set(limits.pop("networks")) - {"lo"}
    assert not (limits.pop("offline") and networks)
    assert limits == {"CPU": 12, "CORE": 0, "FSIZE": 0, "NOFILE": 64, "no_new_privs": 1, "victim": 1000}


def test_a_child_without_its_parent_ends() -> None:
    command = [sys.executable, "-I", "-m", "runtimes.execution.probe_child", "1", "10", "/", "x"]
    ran = subprocess.run(command, check=False, capture_output=True)
    assert ran.returncode == 1
    assert ran.stdout == b""


# ---- judging ----


@given(
    st.sampled_from(["itself", "time", "memory", "output"]),
    st.integers(-64, 255),
    st.binary(max_size=60) | st.sampled_from([b'{"base_rss_bytes":1}\n', b'{"base_rss_bytes":1}\n{"ok":true}\n']),
    st.integers(0, 2000),
)
def test_only_a_child_that_says_so_is_ok(ended, status: int, output: bytes, rss_bytes: int) -> None:
    result = judged(Outcome(ended, status, output, 1.0, rss_bytes), timeout_s=1, memory_bytes=1000)
    good = ended == "itself" and status >= 0 and output.endswith(b'{"ok":true}\n') and rss_bytes <= 1001
    assert result.ok == good
    assert bool(result.reason) != good
    assert bool(result.stage) != good


def test_the_memory_that_the_child_reports_counts_too() -> None:
    output = b'{"base_rss_bytes":5}\n{"ok":true,"rss_bytes":1001}\n'
    result = judged(Outcome("itself", 0, output, 1.0, 0), timeout_s=1, memory_bytes=1000)
    assert not result.ok
    assert "more memory" in result.reason


def test_signals_without_a_name() -> None:
    result = judged(Outcome("itself", -63, b"", 1.0, 0), timeout_s=1, memory_bytes=1)
    assert result.reason == "the model crashed the probe (signal 63)"
    assert signal.SIGRTMIN < 63


@given(st.binary(max_size=64))
def test_a_real_model_is_taken_for_nothing_else(rest: bytes) -> None:
    # field 1, ir_version: how every exporter begins
    assert what_it_is(b"\x08" + rest) == ""
