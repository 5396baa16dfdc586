"""Answers: a batch at once and one by one give the same bytes, and Triton's client reads them."""

import numpy as np
import orjson
import pytest
import tritonclient.http as triton
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gateway.wire.encode import BINARY, BatchEncoder, classify, encode_response
from gateway.wire.oip_binary import object_array
from gateway.wire.request import InferRequest, RequestedOutput
from runtimes.errors import InvalidInput
from runtimes.tensors import DATATYPES, Array, Signature, TensorSpec, bf16_from_f32


def signature(*outputs: tuple[str, str, tuple[int, ...]], batched: bool = True) -> Signature:
    return Signature((), tuple(TensorSpec(name, DATATYPES[kind], shape) for name, kind, shape in outputs), batched)


def one(arrays: list[Array], sig: Signature, **fields: object) -> tuple[bytes, dict[bytes, bytes], bytes]:
    request = InferRequest((), 1)
    for name, value in fields.items():
        setattr(request, name, value)
    content_type, headers, body = encode_response(arrays, request, sig, "m", "3")
    return content_type, dict(headers), body


def read(answer: tuple[bytes, dict[bytes, bytes], bytes], name: str = "y") -> Array:
    length = answer[1].get(b"inference-header-content-length")
    return triton.InferenceServerClient.parse_response_body(
        answer[2], header_length=int(length) if length else None
    ).as_numpy(name)


KINDS = ["FP32", "FP64", "FP16", "INT8", "INT64", "UINT8", "UINT64", "BOOL"]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_batch_is_written_as_its_requests_alone(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(KINDS))
    inner = data.draw(st.sampled_from([(), (1,), (3,), (2, 2)]))
    rows_list = data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=4))
    shape = (sum(rows_list), *inner)
    columns = data.draw(st.integers(1, 2))
    arrays = [data.draw(hnp.arrays(DATATYPES[kind].dtype, shape)) for _ in range(columns)]
    sig = signature(*[(f"y{i}", kind, (-1, *inner)) for i in range(columns)])
    bodies = BatchEncoder("m", "3", sig).encode_rows(arrays, rows_list)
    if bodies is None:
        assert not all(np.isfinite(array).all() for array in arrays)
        return
    at = 0
    for rows, body in zip(rows_list, bodies, strict=True):
        own = [array[at : at + rows] for array in arrays]
        assert body == one(own, sig)[2]
        at += rows


def test_json_is_exact_and_flat() -> None:
    sig = signature(("y", "FP32", (-1, 2)))
    content_type, headers, body = one([np.float32([[0.1, 2], [3, -4.5]])], sig)
    assert (content_type, headers) == (b"application/json", {})
    assert body == (
        b'{"model_name":"m","model_version":"3","outputs":'
        b'[{"name":"y","datatype":"FP32","shape":[2,2],"data":[0.1,2.0,3.0,-4.5]}]}'
    )


@settings(max_examples=200, deadline=None)
@given(hnp.arrays(np.float32, (2, 3)))
def test_fp32_survives_json(array: Array) -> None:
    answer = one([array], signature(("y", "FP32", (-1, 3))))
    again = read(answer)
    assert np.array_equal(again, array, equal_nan=True)


def test_words_for_what_is_not_finite() -> None:
    array = np.float32([[np.nan, 1, np.inf], [-np.inf, 2, np.nan]])
    sig = signature(("y", "FP32", (-1, 3)))
    assert BatchEncoder("m", "3", sig).encode_rows([array], [2]) is None
    body = one([array], sig)[2]
    assert b"[NaN,1.0,Infinity,-Infinity,2.0,NaN]" in body


def test_bf16_and_int64() -> None:
    sig = signature(("y", "BF16", (-1, 2)))
    bits = bf16_from_f32(np.float32([[1.5, -2]]))
    assert b'"data":[1.5,-2.0]' in one([bits], sig)[2]
    binary = one([bits], sig, binary_default=True)
    assert binary[2].endswith(bits.tobytes())
    exact = np.array([[2**63 - 1]], dtype=np.int64)
    assert b"9223372036854775807" in one([exact], signature(("y", "INT64", (-1, 1))))[2]


def test_arrays_that_are_not_contiguous() -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4).T
    sig = signature(("y", "FP32", (-1, 3)))
    bodies = BatchEncoder("m", "3", sig).encode_rows([array], [1, 3])
    assert bodies is not None
    assert orjson.loads(bodies[0])["outputs"][0]["data"] == [0.0, 4.0, 8.0]
    assert np.array_equal(read(one([array], sig, binary_default=True)), array)


def test_binary_and_json_side_by_side() -> None:
    sig = signature(("y", "FP32", (-1, 2)), ("t", "BYTES", (-1,)), ("n", "INT32", (-1,)))
    texts = object_array([b"a", b"\xff\0", b""], (3,))
    outputs = [np.float32([[1, 2]] * 3), texts, np.int32([1, 2, 3])]
    asked = (RequestedOutput(1, True), RequestedOutput(2, False), RequestedOutput(0, True))
    answer = one(outputs, sig, outputs=asked, id="é")
    assert answer[0] == b"application/octet-stream"
    assert read(answer, "t").tolist() == [b"a", b"\xff\0", b""]
    assert read(answer, "n").tolist() == [1, 2, 3]
    assert read(answer, "y").tolist() == [[1, 2]] * 3
    head = orjson.loads(answer[2][: int(answer[1][b"inference-header-content-length"])])
    assert list(head) == ["id", "model_name", "model_version", "outputs"]
    assert [list(output.get("parameters", {})) for output in head["outputs"]] == [
        ["binary_data_size"],
        [],
        ["binary_data_size"],
    ]


def test_no_bytes_behind_means_json() -> None:
    answer = one([np.empty((0, 2), np.float32)], signature(("y", "FP32", (-1, 2))), binary_default=True)
    assert answer[:2] == (b"application/json", {})
    assert read(answer).shape == (0, 2)


def test_texts_that_are_not_utf8_cannot_be_json() -> None:
    sig = signature(("y", "BYTES", (-1,)))
    assert b'"data":["\xc3\xa9"]' in one([object_array(["é".encode()], (1,))], sig)[2]
    with pytest.raises(InvalidInput, match="binary_data"):
        one([object_array([b"\xff"], (1,))], sig)


def test_classification() -> None:
    array = np.float32([[0.1, 0.7, 0.2], [0.5, 0.1, 0.5]])
    assert classify(array, 2, batched=True).tolist() == [[b"0.700000:1", b"0.200000:2"], [b"0.500000:0", b"0.500000:2"]]
    assert classify(np.int32([3, 9]), 5, batched=False).tolist() == [b"9:1", b"3:0"]
    assert classify(np.zeros((0, 3), np.float32), 2, batched=True).shape == (0, 2)
    answer = one([array], signature(("y", "FP32", (-1, 3))), outputs=(RequestedOutput(0, False, 1),))
    assert orjson.loads(answer[2])["outputs"][0] == {
        "name": "y", "datatype": "BYTES", "shape": [2, 1], "data": ["0.700000:1", "0.500000:0"],
    }  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_remembered_binary_answers_are_those_written_in_full(kind: str) -> None:
    sig = signature(("a", kind, (-1, 2)), ("b", kind, (-1,)))
    encoder = BatchEncoder("m", "3", sig)
    for rows in (1, 2, 1, 3, 2):
        rng = np.random.default_rng(rows)
        arrays = [rng.integers(0, 2, shape).astype(DATATYPES[kind].dtype) for shape in ((rows, 2), (rows,))]
        full = one(arrays, sig, binary_default=True)
        known = encoder.encode_binary(arrays)
        if known is not None:
            assert (known[0], dict(known[1]), known[2]) == full
        encoder.remember_binary(arrays, (full[0], tuple(full[1].items()), full[2]))
        assert encoder.encode_binary(arrays) is not None or full[0] is not BINARY
