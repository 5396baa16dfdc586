"""The adapter to ONNX Runtime: datatypes both ways, errors by name, terminate."""

import threading
from pathlib import Path

import numpy as np
import pytest

from runtimes.errors import DeadlineExceeded, InvalidInput, LoadFailed, ModelRejectedInput, OutOfMemory
from runtimes.execution.session import OnnxSession, RunControl
from runtimes.tensors import DATATYPES
from tests import models


def session(tmp_path: Path, model: bytes) -> OnnxSession:
    path = tmp_path / "model.onnx"
    path.write_bytes(model)
    return OnnxSession(path)


@pytest.mark.parametrize("datatype", sorted(DATATYPES))
def test_every_datatype_goes_through_unchanged(tmp_path: Path, datatype: str) -> None:
    loaded = session(tmp_path, models.identity(datatype))
    spec = loaded.signature.inputs[0]
    assert spec.datatype.name == datatype
    assert spec.shape == (-1, 2)
    assert loaded.signature.batched
    if datatype == "BYTES":
        values = np.array([[b"a", "é".encode()], [b"", b"x" * 1000]], dtype=object)
    else:
        values = np.array([[0, 1], [1, 0]]).astype(spec.datatype.dtype)
    (output,) = loaded.run([values], RunControl())
    assert output.dtype == spec.datatype.dtype
    assert output.tolist() == values.tolist()


def test_bytes_that_are_not_utf8_are_the_callers_fault(tmp_path: Path) -> None:
    loaded = session(tmp_path, models.identity("BYTES", ("N",)))
    with pytest.raises(InvalidInput, match="UTF-8"):
        loaded.run([np.array([b"\xff"], dtype=object)], RunControl())


@pytest.mark.parametrize(
    ("model", "inputs", "error"),
    [
        (models.lookup(), [np.array([9])], ModelRejectedInput),
        (models.divide(), [np.array([1]), np.array([0])], ModelRejectedInput),
        (models.allocate(), [np.array([-1, 2])], ModelRejectedInput),
        (models.allocate(), [np.array([2**32, 2**32])], ModelRejectedInput),
        (models.allocate(), [np.array([2**20, 2**20])], OutOfMemory),
    ],
)
def test_a_refused_run_is_named_and_tells_no_source_paths(
    tmp_path: Path, model: bytes, inputs: list[np.ndarray], error: type[Exception]
) -> None:
    loaded = session(tmp_path, model)
    with pytest.raises(error) as caught:
        loaded.run(inputs, RunControl())
    assert ".cc" not in str(caught.value)
    assert "onnxruntime" not in str(caught.value).lower()


def test_an_endless_run_ends_when_terminated_and_the_control_stays_spent(tmp_path: Path) -> None:
    loaded = session(tmp_path, models.endless())
    control = RunControl()
    timer = threading.Timer(0.05, control.terminate)
    timer.start()
    with pytest.raises(DeadlineExceeded):
        loaded.run([np.array(2**62)], control)
    timer.join()
    assert control.terminated
    with pytest.raises(DeadlineExceeded):
        loaded.run([np.array(1)], control)
    assert loaded.run([np.array(3)], RunControl())[0].tolist() == [3.0]


@pytest.mark.parametrize("content", [b"", b"junk", b"<html></html>", models.identity()[:-20]])
def test_what_is_no_model_fails_to_load_with_a_stage(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(LoadFailed) as caught:
        session(tmp_path, content)
    assert caught.value.stage in ("parse", "session")
    assert str(tmp_path) not in caught.value.message


def test_shapes_and_batching_are_read_from_the_graph(tmp_path: Path) -> None:
    assert not session(tmp_path, models.fixed_batch()).signature.batched
    assert not session(tmp_path, models.scalar()).signature.batched
    assert session(tmp_path, models.scalar()).signature.inputs[0].shape == ()
    assert session(tmp_path, models.add_and_sub()).signature.batched
