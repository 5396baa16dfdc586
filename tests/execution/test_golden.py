"""Golden requests: a version that answers them otherwise is not served, and the reason says where."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtimes.errors import LoadFailed
from runtimes.execution.golden import FILE_NAME, MOST_REQUESTS, check
from runtimes.execution.session import OnnxSession, RunControl
from runtimes.registry.probe import ProbeResult, probe
from tests import models


def tensor(name: str, data: list[Any], shape: list[int], datatype: str = "FP32") -> dict[str, Any]:
    return {"name": name, "shape": shape, "datatype": datatype, "data": data}


def line(inputs: list[dict[str, Any]], outputs: list[dict[str, Any]], **more: float) -> dict[str, Any]:
    return {"request": {"inputs": inputs, "id": "7"}, "response": {"model_name": "m", "outputs": outputs}, **more}


X = tensor("x", [[1.0, 2.0], [3.0, 4.0]], [2, 2])
Y = tensor("y", [2.0, 4.0, 6.0, 8.0], [2, 2])
"""The model doubles."""


def write(folder: Path, model: bytes, *lines: dict[str, Any] | str) -> Path:
    (folder / "model.onnx").write_bytes(model)
    (folder / FILE_NAME).write_text("\n".join(one if isinstance(one, str) else json.dumps(one) for one in lines))
    return folder


def asked(folder: Path) -> int:
    session, control = OnnxSession(folder / "model.onnx", intra_op_threads=1), RunControl()
    return check(folder, session.signature, lambda inputs: session.run(inputs, control))


def test_answers_as_expected_and_how_many_there_were(tmp_path: Path) -> None:
    assert (
        asked(write(tmp_path, models.affine(), line([X], [Y]), "", line([X], [Y | {"data": [2.0005, 4, 6, 8]}]))) == 2
    )


def test_a_version_without_golden_requests_has_none(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(models.affine())
    assert asked(tmp_path) == 0


BAD: list[tuple[dict[str, Any] | str, str]] = [
    (line([X], [Y | {"data": [2.0, 4.0, 6.5, 9.0]}]), "output 'y': 2 of 4 values differ; value 2 is 6.0, expected 6.5"),
    (line([X], [Y | {"data": [2.001, 4, 6, 8]}], rtol=0.0, atol=1e-6), "1 of 4 values differ"),
    (line([X], [Y | {"data": [None, 4, 6, 8]}]), "value 0 is 2.0, expected nan"),
    (line([X], [Y | {"shape": [4, 1]}]), "output 'y' has shape [2, 2], expected [4, 1]"),
    (line([X], [Y | {"name": "z"}]), "the model has no output 'z'"),
    (line([X], [Y | {"datatype": "FP64"}]), "'y': expected FP32, got FP64"),
    (line([X], []), "expected an output to compare"),
    (line([], [Y]), "expected an input 'x'"),
    (line([X, X | {"name": "w"}], [Y]), "the model has no input 'w'"),
    (line([X | {"shape": [3, 2]}], [Y]), "'x': expected 6 values, got 4"),
    (line([X | {"data": ["a", 2, 3, 4]}], [Y]), "'x': expected values of FP32"),
    (line([X | {"shape": [1, 4]}], [Y]), "the model refused the input"),
    (line([X], [Y], tolerance=1.0), "unknown field `tolerance`"),
    ("{", "Input data was truncated"),
    (json.dumps(line([X | {"data": "DEEP"}], [Y])).replace('"DEEP"', "[" * 9_000 + "1" + "]" * 9_000), "recursion"),
    (line([X | {"shape": [-2, -2]}], [Y]), "Expected `int` >= 0"),
    (line([X | {"shape": [10**18]}], [Y]), "'x': expected 1000000000000000000 values, got 4"),
    ("\x00", "malformed"),
    (line([X, X | {"data": [9, 9, 9, 9]}], [Y]), "input 'x' stands twice"),
    (line([X], [Y | {"data": [9, 9, 9, 9]}, Y]), "output 'y' stands twice"),
    (json.dumps(line([X], [Y])).replace('"data": [2.0', '"data": [9.0], "data": [2.0'), "key 'data' stands twice"),
    (json.dumps(line([X], [Y])).replace('"id": "7"', '"id": "7", "parameters": {"a": 1, "a": 2}'), "key 'a' stands"),
    (json.dumps(line([X], [Y], rtol=0.5))[:-1] + ', "rtol": 0.001}', "key 'rtol' stands twice"),
    (line([X | {"data": [1, 2, 1e39, 4]}], [Y]), "'x': 1e+39 is out of range for FP32"),
    (line([X], [Y | {"data": [2, 4, 6, -(10**39)]}]), "'y': -1e+39 is out of range for FP32"),
    (json.dumps(line([X], [Y])).replace("[2.0, 4.0", "[2.0, 1e999"), "Number out of range"),
    (json.dumps(line([X], [Y])).replace("[2.0, 4.0", "[2.0, NaN"), "malformed"),
    (json.dumps(line([X], [Y])).replace("[2.0, 4.0", "[2.0, Infinity"), "malformed"),
]


@pytest.mark.parametrize(("bad", "says"), BAD)
def test_what_is_said_of_another_answer(tmp_path: Path, bad: dict[str, Any] | str, says: str) -> None:
    with pytest.raises(LoadFailed) as caught:
        asked(write(tmp_path, models.affine(), line([X], [Y]), bad))
    assert caught.value.stage == "golden"
    assert str(caught.value).startswith("golden: golden.jsonl, line 2: ")
    assert says in str(caught.value)


def test_texts_flags_and_whole_numbers_have_to_be_equal(tmp_path: Path) -> None:
    name = tensor("name", ["red", "grün"], [2, 1], "BYTES")
    code, echo = tensor("code", [0, 1], [2, 1], "INT64"), tensor("echo", ["red", "grün"], [2, 1], "BYTES")
    assert asked(write(tmp_path, models.colours(), line([name], [code, echo]))) == 1
    for bad in (code | {"data": [0, 2]}, echo | {"data": ["red", "green"]}):
        with pytest.raises(LoadFailed, match="1 of 2 values differ"):
            asked(write(tmp_path, models.colours(), line([name], [bad])))
    for wrong in (code | {"data": [0, 1.5]}, code | {"data": [0, True]}, echo | {"data": ["red", 1]}):
        with pytest.raises(LoadFailed, match="expected values of"):
            asked(write(tmp_path, models.colours(), line([name], [wrong])))


@pytest.mark.parametrize("datatype", ["BF16", "FP16"])
def test_half_precision_is_read_as_numbers(tmp_path: Path, datatype: str) -> None:
    x, y = (tensor(name, [0.5, -1.25], [2], datatype) for name in "xy")
    write(tmp_path, models.identity(datatype, ("N",)), line([x], [y]))
    assert asked(tmp_path) == 1
    with pytest.raises(LoadFailed, match="1 of 2 values differ"):
        asked(write(tmp_path, models.identity(datatype, ("N",)), line([x], [y | {"data": [0.5, -1.5]}])))
    beyond = {"FP16": 65520, "BF16": 3.4e38}[datatype]
    with pytest.raises(LoadFailed, match=f"'x': {beyond:.6g} is out of range for {datatype}".replace("+", r"\+")):
        asked(write(tmp_path, models.identity(datatype, ("N",)), line([x | {"data": [0.5, beyond]}], [y])))


def test_what_is_not_there_is_left_to_the_graph(tmp_path: Path) -> None:
    x, y = tensor("x", [1.0, 2.0], [1, 2]), tensor("y", [3.0, 6.0], [1, 2])
    assert asked(write(tmp_path, models.scaled_by_default(), line([x], [y]))) == 1


def test_too_many_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LoadFailed, match="at most 1,000 requests"):
        asked(write(tmp_path, models.affine(), *[line([X], [Y])] * (MOST_REQUESTS + 1)))


def test_the_first_load_of_a_version_asks_them(tmp_path: Path) -> None:
    def probed(*lines: dict[str, Any]) -> ProbeResult:
        write(tmp_path, models.affine(), *lines)
        return probe(tmp_path, "model.onnx", timeout_s=60.0, memory_bytes=2**30)

    assert probed(line([X], [Y])).ok
    found = probed(line([X], [Y | {"data": [9.0, 4.0, 6.0, 8.0]}]))
    assert (found.ok, found.stage, found.lasting) == (False, "golden", True)
    assert found.reason == "golden.jsonl, line 1: output 'y': 1 of 4 values differ; value 0 is 2.0, expected 9.0"
    assert np.isfinite(found.seconds)


def test_what_is_wrong_is_said_in_few_words(tmp_path: Path) -> None:
    """The reason goes to every worker with each snapshot, and a name may be as long as the file."""
    long = {"name": "z" * 1_000_000}
    for inputs, outputs in (([X], [Y | long]), ([X | long], [Y]), ([X | long, X | long], [Y])):
        with pytest.raises(LoadFailed, match=r"^golden: golden\.jsonl, line 1: (the model|input) .*zzz") as caught:
            asked(write(tmp_path, models.affine(), line(inputs, outputs)))
        assert len(str(caught.value)) < 400
