"""The reference decoder: golden bytes of Triton's own client, and an error with both sides for everything else."""

import json
import struct
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton

from gateway.wire import oip_json
from gateway.wire.request import InferRequest, Limits, RequestedOutput
from runtimes.errors import InvalidInput
from runtimes.tensors import DATATYPES, Signature, TensorSpec
from runtimes.wide import Wide, narrow

LIMITS = Limits()


def sig(
    *inputs: tuple[str, str, tuple[int, ...]], outputs: tuple[str, ...] = ("y",), batched: bool = True
) -> Signature:
    specs = tuple(TensorSpec(name, DATATYPES[datatype], shape) for name, datatype, shape in inputs)
    return Signature(specs, tuple(TensorSpec(name, DATATYPES["FP32"], (-1, 2)) for name in outputs), batched)


X = sig(("x", "FP32", (-1, 2)))


def arrays(request: InferRequest, signature: Signature) -> list[Any]:
    pairs = zip(request.inputs, signature.inputs, strict=True)
    return [narrow(value, spec).tolist() if isinstance(value, Wide) else value.tolist() for value, spec in pairs]


def body(**changes: object) -> bytes:
    item: dict[str, object] = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1.0, 2.0]}
    item |= changes
    return json.dumps({"inputs": [{key: value for key, value in item.items() if value is not ...}]}).encode()


def refused(text: bytes, signature: Signature = X, json_length: int | None = None) -> str:
    with pytest.raises(InvalidInput) as error:
        oip_json.decode(text, signature, LIMITS, json_length=json_length)
    assert len(error.value.message) < 600
    error.value.message.encode()
    return error.value.message


# ---- golden bytes, made by tritonclient 2.73 ----


def test_golden_a_binary_in_and_out() -> None:
    text = (
        b'{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","parameters":{"binary_data_size":8}}],'
        b'"parameters":{"binary_data_output":true}}\x00\x00\x80?\x00\x00\x00@'
    )
    request = oip_json.decode(text, X, LIMITS, json_length=134)
    assert arrays(request, X) == [[[1.0, 2.0]]]
    assert request.binary_default
    assert request.outputs is None


def test_golden_b_id_output_priority_timeout() -> None:
    text = (
        b'{"id":"7","inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","parameters":{"binary_data_size":8}}],'
        b'"outputs":[{"name":"y","parameters":{"binary_data":true}}],"parameters":{"priority":1,"timeout":500000}}'
        b"\x00\x00\x80?\x00\x00\x00@"
    )
    request = oip_json.decode(text, X, LIMITS, json_length=206)
    assert (request.id, request.priority, request.timeout_us) == ("7", 1, 500_000)
    assert request.outputs == (RequestedOutput(0, True),)


def test_golden_c_json_with_classes() -> None:
    text = (
        b'{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[1.0,2.0]}],'
        b'"outputs":[{"name":"y","parameters":{"classification":3,"binary_data":false}}]}'
    )
    request = oip_json.decode(text, X, LIMITS)
    assert request.outputs == (RequestedOutput(0, False, 3),)


def test_golden_d_mixed() -> None:
    both = sig(("s", "BYTES", (-1,)), ("x", "FP32", (-1, 2)), batched=False)
    text = (
        b'{"inputs":[{"name":"s","shape":[2],"datatype":"BYTES","parameters":{"binary_data_size":12}},'
        b'{"name":"x","shape":[1,2],"datatype":"FP32","data":[1.0,2.0]}],"parameters":{"binary_data_output":true}}'
        b"\x02\x00\x00\x00ab\x02\x00\x00\x00\xc3\xa9"
    )
    request = oip_json.decode(text, both, LIMITS, json_length=196)
    assert arrays(request, both) == [[b"ab", b"\xc3\xa9"], [[1.0, 2.0]]]


def test_golden_e_empty_tensor() -> None:
    text = (
        b'{"inputs":[{"name":"x","shape":[0,2],"datatype":"FP32","parameters":{"binary_data_size":0}}],'
        b'"parameters":{"binary_data_output":true}}'
    )
    request = oip_json.decode(text, X, LIMITS, json_length=134)
    assert request.rows == 0


# BF16 has no numpy type, and the client refuses to write FP16 as JSON.
WRITTEN = [
    (name, binary) for name in DATATYPES for binary in (True, False) if name != "BF16" and (binary or name != "FP16")
]


@pytest.mark.parametrize(("datatype", "binary"), WRITTEN)
def test_what_tritonclient_writes_is_read(datatype: str, binary: bool) -> None:
    signature = sig(("x", datatype, (-1, 2)))
    array = (
        np.array([[b"a", "é".encode()], [b"", b"c"]], dtype=object)
        if datatype == "BYTES"
        else np.array([[0, 1], [1, 0]], dtype=DATATYPES[datatype].dtype)
    )
    given = triton.InferInput("x", [2, 2], datatype)
    given.set_data_from_numpy(array, binary_data=binary)
    text, length = triton.InferenceServerClient.generate_request_body([given])
    request = oip_json.decode(text, signature, LIMITS, json_length=length)
    assert arrays(request, signature) == [array.tolist()]


# ---- forms that mean the same ----


def test_nested_and_flat_data_are_the_same() -> None:
    cube = sig(("x", "INT8", (-1, 2, 2)))
    flat = body(shape=[2, 2, 2], datatype="INT8", data=[1, 2, 3, 4, 5, 6, 7, 8])
    nested = body(shape=[2, 2, 2], datatype="INT8", data=[[[1, 2], [3, 4]], [[5, 6], [7, 8]]])
    both = [arrays(oip_json.decode(text, cube, LIMITS), cube) for text in (flat, nested)]
    assert both[0] == both[1]


def test_bare_words_are_numbers_for_floats_only() -> None:
    text = b'{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[NaN,-Infinity]}]}'
    (row,) = arrays(oip_json.decode(text, X, LIMITS), X)[0]
    assert row[0] != row[0]
    assert row[1] == float("-inf")
    refused(text.replace(b"FP32", b"INT32"), sig(("x", "INT32", (-1, 2))))
    assert "1e999" in refused(text.replace(b"NaN", b"1e999"))


def test_scalar_inputs() -> None:
    scalar = sig(("x", "FP32", ()), batched=False)
    assert arrays(oip_json.decode(body(shape=[], data=[3.5]), scalar, LIMITS), scalar) == [3.5]


def test_raw_tensor_of_the_only_input() -> None:
    request = oip_json.decode(struct.pack("<2f", 1, 2), X, LIMITS, json_length=0)
    assert arrays(request, X) == [[[1.0, 2.0]]]
    assert request.binary_default
    dynamic = sig(("x", "FP32", (-1, -1)))
    assert arrays(oip_json.decode(struct.pack("<3f", 1, 2, 3), dynamic, LIMITS, json_length=0), dynamic) == [
        [[1.0, 2.0, 3.0]]
    ]
    assert "got 12" in refused(b"\x00" * 12, json_length=0)
    assert "one input" in refused(b"\x00" * 8, sig(("x", "FP32", (-1, 2)), ("z", "FP32", (-1, 2))), json_length=0)


def test_optional_inputs_may_be_left_out() -> None:
    spec = TensorSpec("z", DATATYPES["FP32"], (-1, 2), optional=True)
    request = oip_json.decode(body(), Signature((*X.inputs, spec), X.outputs, True), LIMITS)
    assert request.inputs[1] is None


# ---- bad JSON ----


@pytest.mark.parametrize("text", [b"", b" \n", b"null", b"[]", b'"x"', b"1", b"{}", b'{"inputs":{}}', b'{"inputs":[]}'])
def test_b01_b08_no_object_or_no_inputs(text: bytes) -> None:
    refused(text)


GOOD = b'{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[1.0,2.0]}]}'


@pytest.mark.parametrize(
    "text",
    [
        *[GOOD[:-1], GOOD + b"x", b"/**/" + GOOD, GOOD.replace(b"2.0]", b"2.0,]"), GOOD.replace(b"1.0", b"01")],
        *[GOOD.replace(b"1.0", b"+1"), b"\xef\xbb\xbf" + GOOD, GOOD.decode().encode("utf-16")],
        *[GOOD.replace(b'"x"', b'"\xff"'), GOOD.replace(b'"x"', b'"\\ud800"'), GOOD.replace(b'"x"', b'"\n"')],
    ],
)
def test_b02_not_json(text: bytes) -> None:
    refused(text)


@pytest.mark.parametrize("depth", [33, 101, 1_024, 1_025, 250_000, 1_000_000])
def test_b04_depth(depth: int) -> None:
    assert "deep" in refused(b'{"a":' + b"[" * depth + b"]" * depth + b"}") or depth > 65_000


def test_b05_containers() -> None:
    assert "65536" in refused(b'{"a":[' + b"[]," * 1_000_000 + b"[]]}")
    assert oip_json.decode(GOOD[:-1] + b',"note":"' + b"[" * 70_000 + b'"}', X, LIMITS).rows == 1


def test_b06_duplicate_keys() -> None:
    assert "twice" in refused(GOOD.replace(b'"shape"', b'"name":"x","shape"'))


def test_b08_too_many_inputs() -> None:
    refused(json.dumps({"inputs": [{"name": "x"}] * 65}).encode())


@pytest.mark.parametrize("item", [1, None, "x", [], {}, {"name": 5}, {"name": ""}, {"name": "x" * 2**20}])
def test_b09_wrong_inputs(item: object) -> None:
    refused(json.dumps({"inputs": [item]}).encode())


def test_b09_control_characters_are_escaped() -> None:
    message = refused(body(name="a\n\u001b[31mred"))
    assert "\n" not in message
    assert "\x1b" not in message


def test_b10_names() -> None:
    assert "unknown input 'q'" in refused(body(name="q"))
    two = sig(("x", "FP32", (-1, 2)), ("z", "FP32", (-1, 2)))
    assert "'z' is missing" in refused(body(), two)
    item = json.loads(body())["inputs"][0]
    assert "twice" in refused(json.dumps({"inputs": [item, item]}).encode())


@pytest.mark.parametrize("datatype", [..., "FLOAT", "fp32", 32, "OBJECT", "FP64", "INT32", "BYTES", None])
def test_b11_b12_datatypes(datatype: object) -> None:
    assert "FP32" in refused(body(datatype=datatype))


SHAPES = [
    *[..., "12", [], ["1", "2"], [1, 2.0], [True, 2], None, [None, 2], [2, -5], [-1, 2], [-2], [1], [1, 3], [1, 2, 1]],
    *[[16, 2**60 + 2], [4, 2**60 + 2], [2**32, 2**32], [10**400, 2], [1] * 9, [1] * 65, [2, 2], [0, 10**12]],
]


@pytest.mark.parametrize("shape", SHAPES)
def test_b13_to_b20_shapes(shape: object) -> None:
    assert "shape" in refused(body(shape=shape)) or isinstance(shape, list)


def test_b15_products_beyond_any_integer() -> None:
    free = sig(("x", "FP32", (-1, -1)))
    for shape in ([2**32, 2**32], [0, 10**12], [2**60 + 2, 16], [4097, 4096]):
        assert "elements" in refused(body(shape=shape), free)


DATA = [
    *[[1.0], [1.0, 2.0, 3.0], [[1.0], [2.0]], [[1.0, 2.0], [3.0]], [[1.0, 2.0]] * 2, [1.0, [2.0]], [[]], {}, "ab", 1],
    *[["1.5", 2], ["abc", 2], [None, 2], [True, 2], [{}, 2], None],
]


@pytest.mark.parametrize("data", DATA)
def test_b16_b22_to_b26_data(data: object) -> None:
    refused(body(data=data))


@pytest.mark.parametrize(
    ("datatype", "value"),
    [
        *[("INT32", 1.9), ("INT32", 1.0), ("INT32", True), ("INT32", 2**31), ("UINT8", 300), ("UINT8", -1)],
        *[("INT64", 2**63), ("UINT64", 2**64), ("UINT64", -1), ("BOOL", 2), ("BOOL", 1), ("BOOL", "false")],
        *[
            ("FP32", 1e39),
            ("FP16", 70_000),
            ("BF16", 3.4e38 * 1.01),
            ("FP64", 10**400),
            ("BYTES", 5),
            ("BYTES", [["a"]]),
        ],
        *[("BYTES", {"b64": "x"}), ("BYTES", None)],
    ],
)
def test_b26_to_b34_values(datatype: str, value: object) -> None:
    signature = sig(("x", datatype, (-1, 1)))
    text = body(shape=[1, 1], datatype=datatype, data=[value])
    with pytest.raises(InvalidInput, match="'x'"):
        arrays(oip_json.decode(text, signature, LIMITS), signature)


@pytest.mark.parametrize(
    ("datatype", "literal", "expected"),
    [
        *[("FP64", "9007199254740993", 2.0**53), ("FP64", "1e-400", 0.0), ("FP32", "-0.0", -0.0), ("INT8", "-0", 0)],
        *[("UINT64", str(2**64 - 1), 2**64 - 1), ("INT64", str(-(2**63)), -(2**63)), ("FP16", "65519", 65504.0)],
    ],
)
def test_b29_to_b32_numbers_that_fit(datatype: str, literal: str, expected: float) -> None:
    signature = sig(("x", datatype, (-1, 1)))
    text = f'{{"inputs":[{{"name":"x","shape":[1,1],"datatype":"{datatype}","data":[{literal}]}}]}}'.encode()
    assert arrays(oip_json.decode(text, signature, LIMITS), signature) == [[[expected]]]


def test_b33_long_and_null_texts() -> None:
    signature = sig(("x", "BYTES", (-1, 1)))
    good = body(shape=[1, 1], datatype="BYTES", data=["a\0b"])
    assert arrays(oip_json.decode(good, signature, LIMITS), signature) == [[[b"a\0b"]]]
    assert "1048576" in refused(body(shape=[1, 1], datatype="BYTES", data=["x" * (2 << 20)]), signature)


def request_with(**fields: object) -> bytes:
    return json.dumps(json.loads(GOOD) | fields).encode()


OUTPUTS = [
    *[[{"name": "q"}], [{"name": "y"}] * 2, [{"name": "y"}] * 10_000, {}, "y", [1], [{}], [{"name": 1}], None],
    *[[{"name": "y", "parameters": {"classification": 0.5}}], [{"name": "y", "parameters": {"binary_data": 1}}]],
    *[[{"name": "y", "parameters": 1}], [{"name": "y", "parameters": {"shared_memory_region": "a"}}]],
]


@pytest.mark.parametrize("outputs", OUTPUTS)
def test_b36_outputs(outputs: object) -> None:
    assert "output" in refused(request_with(outputs=outputs)) or isinstance(outputs, list)


def test_b36_no_output_asked_means_all() -> None:
    assert oip_json.decode(request_with(outputs=[]), X, LIMITS).outputs is None


@pytest.mark.parametrize(
    "parameters",
    [
        *[
            {"timeout": -1},
            {"timeout": "x"},
            {"timeout": 10**30},
            {"timeout": 1.5},
            {"timeout": True},
            {"priority": -1},
        ],
        *[{"priority": "high"}, {"binary_data_output": 1}, {"sequence_id": 5}, {"triton_x": 1}, {"a": {}}, [], 1, None],
    ],
)
def test_b37_b39_parameters(parameters: object) -> None:
    assert "parameter" in refused(request_with(parameters=parameters))


@pytest.mark.parametrize("value", ["x" * 2**20, {}, 5, "a\nb", "\u0000", None, "\ud800"])
def test_b38_ids(value: object) -> None:
    assert "id" in refused(request_with(id=value))


def test_b39_shared_memory() -> None:
    assert "shared memory" in refused(body(data=..., parameters={"shared_memory_region": "r"}))


# ---- binary bodies ----


def binary(header: bytes, tail: bytes) -> tuple[bytes, int]:
    return header + tail, len(header)


def header(size: object = 8, shape: object = (1, 2), datatype: str = "FP32", **more: object) -> bytes:
    item = {"name": "x", "shape": shape, "datatype": datatype, "parameters": {"binary_data_size": size}} | more
    return json.dumps({"inputs": [item]}).encode()


def test_c01_header_length_beyond_the_body() -> None:
    assert "from 0 to" in refused(GOOD, json_length=len(GOOD) + 1)


def test_c03_header_ends_inside_or_behind_the_json() -> None:
    text, length = binary(header(), b"\0" * 8)
    refused(text, json_length=length + 4)
    refused(text, json_length=length - 4)


@pytest.mark.parametrize("size", [-1, 8.0, 2**63, "8", None, True, 4, 12, 7, 9])
def test_c04_c05_sizes(size: object) -> None:
    text, length = binary(header(size), b"\0" * 8)
    assert "x" in refused(text, json_length=length) or size in (4, 7)


def test_c06_c07_trailing_bytes_and_both_forms() -> None:
    text, length = binary(header(), b"\0" * 12)
    assert "expected 8 bytes" in refused(text, json_length=length)
    text, length = binary(header(data=[1.0, 2.0]), b"\0" * 8)
    assert "one of data" in refused(text, json_length=length)
    assert "one of data" in refused(body(data=...))


@pytest.mark.parametrize(
    "tail",
    [
        *[b"\x05\0\0\0ab", b"\xff\xff\xff\xffab", b"\x01\0", b"", b"\x01\0\0\0a", b"\x01\0\0\0a" * 3],
        b"\x01\0\0\0a\x02\0\0\0b",
    ],
)
def test_c08_bytes_elements(tail: bytes) -> None:
    signature = sig(("x", "BYTES", (-1, 2)))
    text, length = binary(header(len(tail), datatype="BYTES"), tail)
    refused(text, signature, json_length=length)


def test_c08_empty_elements_are_fine() -> None:
    signature = sig(("x", "BYTES", (-1, 2)))
    text, length = binary(header(8, datatype="BYTES"), b"\0" * 8)
    assert arrays(oip_json.decode(text, signature, LIMITS, json_length=length), signature) == [[[b"", b""]]]


def test_c09_bool_bytes() -> None:
    signature = sig(("x", "BOOL", (-1, 2)))
    text, length = binary(header(2, datatype="BOOL"), b"\x01\x02")
    assert "expected 0 or 1" in refused(text, signature, json_length=length)


def test_c10_c12_not_finite_and_unaligned() -> None:
    head = header(8)
    head += b" " * (1 - len(head) % 2)  # an odd length
    text, length = binary(head, struct.pack("<2f", float("nan"), float("inf")))
    (row,) = arrays(oip_json.decode(text, X, LIMITS, json_length=length), X)[0]
    assert row[0] != row[0]
    assert row[1] == float("inf")


@pytest.mark.parametrize("datatype", ["FP8", "INT4", "COMPLEX64"])
def test_c14_unknown_datatypes(datatype: str) -> None:
    text, length = binary(header(8, datatype=datatype), b"\0" * 8)
    assert "expected datatype FP32" in refused(text, json_length=length)


@pytest.mark.parametrize("text", [b"\x93NUMPY\x01\0", b"\x80\x04\x95", b"PK\x03\x04", b"\0" * 8])
def test_c15_other_formats(text: bytes) -> None:
    refused(text)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"shape": "2"}, "shape: expected a list of whole numbers, got '2'"),
        ({"shape": [1, 2.0]}, "shape: expected a list of whole numbers, got 2.0"),
        ({"shape": [10**9, 2]}, "expected at most 16777216 elements, got shape [1000000000, 2]"),
        ({"shape": [10**400, 2]}, "got shape ['...', 2]"),
        ({"parameters": {"binary_data_size": 8}}, "expected one of data and parameters.binary_data_size, got both"),
    ],
)
def test_errors_say_what_came(changed: dict[str, object], told: str) -> None:
    item = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]} | changed
    message = refused(json.dumps({"inputs": [item]}).encode())
    assert told in message
    assert len(message) < 300


def test_an_id_that_is_too_long_is_told_by_its_length() -> None:
    body = {"id": "a" * 5000, "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}
    assert refused(json.dumps(body).encode()).endswith("printable characters, got 5000 characters")
