"""Every datatype through identity models, binary and JSON both ways: what comes back is exactly what was sent."""

import json
import math
import struct
from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tritonclient.http as triton

from runtimes.tensors import DATATYPES
from tests import models
from tests.conformance.triton.calls import Answer, call, infer_body
from tests.tree import Tree, serve

WAYS = list(product([True, False], repeat=2))
FLOATS = {
    # Smallest and largest, normal and subnormal, signed zeros, and numbers without a short decimal.
    "FP16": np.array([[0, -0.0], [65504, -65504], [6e-8, 6.104e-5], [1 / 3, -2.5]], np.float16),
    "FP32": np.array([[0, -0.0], [3.4028235e38, -3.4028235e38], [1e-45, 1.1754944e-38], [1 / 3, 16777217]], np.float32),
    "FP64": np.array([[0, -0.0], [1.7976931348623157e308, 5e-324], [0.1, 1 / 3], [2**53 + 2, -1e-300]], np.float64),
}
TEXTS = np.array([["", "plain"], ['a "quoted" \\ text', "zwei\nZeilen\t"], ["grün 青 🌊", "\u0000nul"]], dtype=object)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    repository = tmp_path_factory.mktemp("repository")
    for datatype in DATATYPES:
        models.write(repository, f"identity_{datatype}", models.identity(datatype))
    models.write(repository, "logarithm", models.logarithm())
    with serve(repository, "--workers", "1") as running:
        yield running


@pytest.fixture
def client(tree: Tree) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(f"127.0.0.1:{tree.port}") as connected:
        yield connected


def through(
    client: triton.InferenceServerClient, datatype: str, values: npt.NDArray[Any], binary_in: bool, binary_out: bool
) -> npt.NDArray[Any]:
    """Send values through the identity model of a datatype with Triton's client."""
    tensor = triton.InferInput("x", list(values.shape), datatype)
    tensor.set_data_from_numpy(values, binary_data=binary_in)
    outputs = [triton.InferRequestedOutput("y", binary_data=binary_out)]
    answer = client.infer(f"identity_{datatype}", [tensor], outputs=outputs)
    assert answer.get_output("y")["datatype"] == datatype
    found = answer.as_numpy("y")
    assert found.shape == values.shape
    return found


def post(tree: Tree, datatype: str, body: bytes, json_length: int | None = None) -> Answer:
    headers = {} if json_length is None else {"inference-header-content-length": str(json_length)}
    return call("POST", f"{tree.url}/v2/models/identity_{datatype}/infer", body, headers)


def test_these_are_all(tree: Tree) -> None:
    """A new datatype has to come here too."""
    whole = {f"{sign}INT{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)}
    assert set(DATATYPES) == whole | set(FLOATS) | {"BOOL", "BF16", "BYTES"}
    assert json.loads(tree.get("/v2/models")[1])["models"] == sorted(
        [*[f"identity_{d}" for d in DATATYPES], "logarithm"]
    )


@pytest.mark.parametrize(("binary_in", "binary_out"), WAYS)
@pytest.mark.parametrize("datatype", [d.name for d in DATATYPES.values() if d.kind in ("int", "uint")])
def test_whole_numbers_to_their_extremes(
    client: triton.InferenceServerClient, datatype: str, binary_in: bool, binary_out: bool
) -> None:
    kind = DATATYPES[datatype].dtype
    limits = np.iinfo(kind)  # type: ignore[type-var]
    values = np.array([[limits.min, limits.max], [limits.min + 1, limits.max - 1], [0, 1]], dtype=kind)
    found = through(client, datatype, values, binary_in, binary_out)
    assert found.dtype == kind
    assert found.tolist() == values.tolist()


@pytest.mark.parametrize(("binary_in", "binary_out"), WAYS)
@pytest.mark.parametrize("datatype", list(FLOATS))
def test_floats_bit_by_bit(
    client: triton.InferenceServerClient, datatype: str, binary_in: bool, binary_out: bool
) -> None:
    values = FLOATS[datatype]
    assert through(client, datatype, values, binary_in, binary_out).tobytes() == values.tobytes()


@pytest.mark.parametrize(("binary_in", "binary_out"), WAYS)
@pytest.mark.parametrize("datatype", list(FLOATS))
def test_nan_and_infinity(
    client: triton.InferenceServerClient, datatype: str, binary_in: bool, binary_out: bool
) -> None:
    values = np.array([[np.nan, np.inf], [-np.inf, 1.5]]).astype(DATATYPES[datatype].dtype)
    found = through(client, datatype, values, binary_in, binary_out)
    assert np.array_equal(found, values, equal_nan=True)


@pytest.mark.parametrize("binary_out", [True, False])
def test_nan_and_infinity_that_the_model_makes(client: triton.InferenceServerClient, binary_out: bool) -> None:
    tensor = triton.InferInput("x", [4, 1], "FP32")
    tensor.set_data_from_numpy(np.float32([[0], [-1], [np.inf], [1]]), binary_data=False)
    outputs = [triton.InferRequestedOutput("y", binary_data=binary_out)]
    first, second, third, fourth = client.infer("logarithm", [tensor], outputs=outputs).as_numpy("y").ravel().tolist()
    assert (first, third, fourth) == (-math.inf, math.inf, 0.0)
    assert math.isnan(second)


@pytest.mark.parametrize(("binary_in", "binary_out"), WAYS)
def test_bools(client: triton.InferenceServerClient, binary_in: bool, binary_out: bool) -> None:
    values = np.array([[True, False], [False, False], [True, True]])
    found = through(client, "BOOL", values, binary_in, binary_out)
    assert found.dtype == bool
    assert found.tolist() == values.tolist()


@pytest.mark.parametrize(("binary_in", "binary_out"), WAYS)
def test_texts(client: triton.InferenceServerClient, binary_in: bool, binary_out: bool) -> None:
    found = through(client, "BYTES", TEXTS, binary_in, binary_out)
    # The client gives bytes for binary and str for JSON.
    assert [v.decode() if isinstance(v, bytes) else v for v in found.ravel().tolist()] == TEXTS.ravel().tolist()


# ---- BF16 has no numpy type, so its bytes are made here ----


BF16_BITS = [0x0000, 0x8000, 0x3F80, 0xC040, 0x7F7F, 0x0001, 0x3EAB, 0xFF7F]


def numbers_of(bits: list[int]) -> list[float]:
    return [struct.unpack("<f", struct.pack("<I", word << 16))[0] for word in bits]


def bf16_request(binary_in: bool, binary_out: bool, bits: list[int]) -> tuple[bytes, int | None]:
    shape, data = [len(bits) // 2, 2], struct.pack(f"<{len(bits)}H", *bits)
    outputs = [{"name": "y", "parameters": {"binary_data": binary_out}}]
    if not binary_in:
        return infer_body("x", "BF16", shape, numbers_of(bits), outputs=outputs), None
    item = {"name": "x", "datatype": "BF16", "shape": shape, "parameters": {"binary_data_size": len(data)}}
    head = json.dumps({"inputs": [item], "outputs": outputs}).encode()
    return head + data, len(head)


@pytest.mark.parametrize(("binary_in", "binary_out"), WAYS)
def test_bf16_bit_by_bit(tree: Tree, binary_in: bool, binary_out: bool) -> None:
    body, json_length = bf16_request(binary_in, binary_out, BF16_BITS)
    answer = post(tree, "BF16", body, json_length)
    assert answer.status == 200, answer.body
    if binary_out:
        length = int(answer.headers["inference-header-content-length"])
        output = json.loads(answer.body[:length])["outputs"][0]
        assert output["parameters"] == {"binary_data_size": 2 * len(BF16_BITS)}
        assert answer.body[length:] == struct.pack(f"<{len(BF16_BITS)}H", *BF16_BITS)
    else:
        assert struct.pack("<8f", *answer.output("y")["data"]) == struct.pack("<8f", *numbers_of(BF16_BITS))
        assert answer.output("y")["datatype"] == "BF16"


def test_bf16_numbers_between_two_are_rounded_to_even(tree: Tree) -> None:
    # 1 + 2^-8 lies half way between 1 and 1 + 2^-7, 1 + 3 * 2^-8 half way between 1 + 2^-7 and 1 + 2^-6.
    data = [1 + 2**-8, 1 + 3 * 2**-8]
    assert post(tree, "BF16", infer_body("x", "BF16", [1, 2], data)).output("y")["data"] == [1.0, 1 + 2**-6]


def test_bf16_nan_and_infinity(tree: Tree) -> None:
    body = infer_body("x", "BF16", [2, 2], [math.nan, math.inf, -math.inf, 1])
    first, *rest = post(tree, "BF16", body).output("y")["data"]
    assert math.isnan(first)
    assert rest == [math.inf, -math.inf, 1]


def test_a_raw_body_is_the_tensor(tree: Tree) -> None:
    """Inference-Header-Content-Length 0: no JSON at all, one row, bytes back."""
    for datatype, data in (
        ("BF16", struct.pack("<2H", 0x3F80, 0xC040)),
        ("INT64", struct.pack("<2q", -(2**63), 2**63 - 1)),
        ("BOOL", b"\x01\x00"),
    ):
        answer = post(tree, datatype, data, 0)
        assert answer.status == 200, answer.body
        length = int(answer.headers["inference-header-content-length"])
        assert json.loads(answer.body[:length])["outputs"][0]["shape"] == [1, 2]
        assert answer.body[length:] == data


# ---- nothing is coerced ----


def test_int64_extremes_in_json_text(tree: Tree) -> None:
    """The digits themselves: a double would have rounded them."""
    answer = post(tree, "INT64", infer_body("x", "INT64", [1, 2], [-(2**63), 2**63 - 1]))
    assert b'"data":[-9223372036854775808,9223372036854775807]' in answer.body
    answer = post(tree, "UINT64", infer_body("x", "UINT64", [1, 2], [2**53 + 1, 2**64 - 1]))
    assert b'"data":[9007199254740993,18446744073709551615]' in answer.body


@pytest.mark.parametrize(
    ("datatype", "value"),
    [
        ("INT8", 128), ("INT8", -129), ("UINT8", -1), ("UINT8", 256), ("INT16", 2**15), ("UINT16", -1),
        ("INT32", 2**31), ("UINT32", 2**32), ("INT64", 2**63), ("INT64", -(2**63) - 1), ("UINT64", -1),
        ("UINT64", 2**64), ("FP16", 70000), ("FP32", 1e39), ("BF16", 3.4e38), ("INT32", 1.0), ("INT32", "1"),
        ("INT32", True), ("INT32", None), ("FP32", "1"), ("FP32", False), ("FP32", None), ("BOOL", 1), ("BYTES", 1),
        ("BYTES", None), ("INT64", 1e3),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_by_name(tree: Tree, datatype: str, value: object) -> None:
    fitting: dict[str, Any] = {"BOOL": True, "BYTES": "a"}
    answer = post(tree, datatype, infer_body("x", datatype, [1, 2], [fitting.get(datatype, 1), value]))
    assert answer.status == 400, answer.body
    assert answer.json()["error"].startswith("input 'x': ")
    assert "index 1" in answer.json()["error"]


def test_bytes_that_are_not_utf8_are_refused_for_the_graph_could_not_hold_them(tree: Tree) -> None:
    item = {"name": "x", "datatype": "BYTES", "shape": [1, 2], "parameters": {"binary_data_size": 10}}
    head = json.dumps({"inputs": [item]}).encode()
    answer = post(tree, "BYTES", head + b"\x01\0\0\0\xff\x01\0\0\0a", len(head))
    assert answer.status == 400
    assert "UTF-8" in answer.json()["error"]
