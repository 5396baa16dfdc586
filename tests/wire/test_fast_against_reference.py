"""The fast decoder either says nothing or says what the reference decoder says."""

import functools
import json
import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.wire import fast_json, oip_json
from gateway.wire.request import InferRequest, Limits
from runtimes.errors import InvalidInput
from runtimes.tensors import DATATYPES, Signature, TensorSpec
from runtimes.wide import Wide, narrow

LIMITS = Limits()


def signature(datatype: str, shape: tuple[int, ...], inputs: int = 1, batched: bool = True) -> Signature:
    specs = tuple(TensorSpec(f"x{i}" if i else "x", DATATYPES[datatype], shape) for i in range(inputs))
    return Signature(specs, specs, batched)


def outcome(body: bytes, sig: Signature) -> object:
    try:
        return values(oip_json.decode(body, sig, LIMITS), sig)
    except InvalidInput as error:
        return error.message


def values(request: InferRequest, sig: Signature) -> object:
    """Everything a request says, after narrowing, comparable bit by bit."""
    arrays = []
    for value, spec in zip(request.inputs, sig.inputs, strict=True):
        try:
            array = narrow(value, spec) if isinstance(value, Wide) else value
        except InvalidInput as error:
            return error.message
        arrays.append(None if array is None else (array.shape, array.dtype.str, array.tobytes()))
    return arrays, request.rows, request.id, request.outputs, request.binary_default, request.timeout_us


def check(body: bytes, sig: Signature) -> bool:
    """Whether the fast decoder answered; if so both said the same."""
    fast = fast_json.decode(body, sig, LIMITS)
    if fast is not None:
        assert values(fast, sig) == outcome(body, sig)
    decoder = decoder_for(sig)
    for request in (decoder.decode(body), decoder.decode(body)):
        if request is not None:
            assert values(request, sig) == outcome(body, sig)
    return fast is not None


@functools.cache
def decoder_for(sig: Signature) -> fast_json.FastDecoder:
    """One for all bodies of a signature: what it remembers of one must not mislead it about another."""
    return fast_json.FastDecoder(sig, LIMITS)


NUMBERS = st.one_of(
    st.integers(-(1 << 70), 1 << 70),
    st.integers(-3, 300),
    st.floats(allow_nan=True, allow_infinity=True),
    st.floats(width=32, allow_nan=False, allow_infinity=False),
)
ODD = st.one_of(NUMBERS, st.booleans(), st.none(), st.text(max_size=3), st.lists(st.integers(0, 2), max_size=2))
NUMERIC = [name for name in DATATYPES if name not in ("BYTES", "BOOL")]


@settings(max_examples=1500, deadline=None)
@given(st.data())
def test_any_input_is_read_the_same(data: st.DataObject) -> None:
    datatype = data.draw(st.sampled_from(list(DATATYPES)))
    width = data.draw(st.integers(1, 3))
    rows = data.draw(st.integers(0, 3))
    count = rows * width + data.draw(st.sampled_from([0, 0, 0, 0, 1, -1]))
    element = data.draw(st.sampled_from([NUMBERS, st.integers(0, 100), ODD]))
    numbers = data.draw(st.lists(element, min_size=max(count, 0), max_size=max(count, 0)))
    sig = signature(datatype, (-1, width))
    item = {"name": "x", "shape": [rows, width], "datatype": datatype, "data": numbers}
    document = {"inputs": [item]}
    document |= data.draw(st.sampled_from([{}, {}, {}, {"id": "7"}, {"parameters": {"timeout": 5}}, {"other": []}]))
    check(json.dumps(document).encode(), sig)


LITERALS = [
    *["1", "-1", "0", "-0", "-0.0", "1.0", "1.5", "1e2", "1E400", "1e999", "-1e999", "1e-400", "4e-324", "01", "+1"],
    *[".5", "1.", "0x1", "NaN", "Infinity", "-Infinity", "nan", "true", "false", "null", '"1"', '"abc"', "[1]", "{}"],
    *["9223372036854775807", "9223372036854775808", "-9223372036854775808", "-9223372036854775809"],
    *["18446744073709551615", "18446744073709551616", "9007199254740993", "1e39", "3.4028236e38", "70000", "65519"],
    *["65520", "300", "-1", "256", "128", "0.1", "16777217", "123456789012345678901234567890", "1" * 400],
]


@pytest.mark.parametrize("datatype", DATATYPES)
@pytest.mark.parametrize("literal", LITERALS)
def test_literals_are_read_the_same(datatype: str, literal: str) -> None:
    text = f'{{"inputs":[{{"name":"x","shape":[1,1],"datatype":"{datatype}","data":[{literal}]}}]}}'
    check(text.encode(), signature(datatype, (-1, 1)))


@settings(max_examples=400, deadline=None)
@given(st.integers(0, 10_000), st.binary(min_size=1, max_size=3), st.integers(0, 3))
@example(0, b"\xef\xbb\xbf", 0)
def test_damaged_text_is_read_the_same(at: int, what: bytes, cut: int) -> None:
    text = b'{"inputs":[{"name":"x","shape":[2,2],"datatype":"FP32","data":[1.0,2.5,-3e-2,4]}]}'
    at %= len(text) + 1
    check(text[:at] + what + text[at + cut :], signature("FP32", (-1, 2)))


@pytest.mark.parametrize(
    "text",
    [
        '{"inputs":[{"name":"x","name":"x","shape":[1,2],"datatype":"FP32","data":[1,2]}]}',
        '{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[1,2],"data":[1,2]}]}',
        '{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[1,2]}],"inputs":[]}',
        '{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[[1,2]]}]}',
        '{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[1,2]}]} x',
        '{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[1,2]}]}{}',
        '{"inputs":[{"name":"x","shape":[1,2.0],"datatype":"FP32","data":[1,2]}]}',
        '{"inputs":[{"name":"x","shape":[true,2],"datatype":"FP32","data":[1,2]}]}',
        '{"inputs":[{"name":"x","shape":[18446744073709551617,2],"datatype":"FP32","data":[1,2]}]}',
        '{"inputs":[{"name":"x","shape":"12","datatype":"FP32","data":[1,2]}]}',
        '{"inputs":{"name":"x","shape":[1,2],"datatype":"FP32","data":[1,2]}}',
        '{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":{"a":1,"b":2}}]}',
        '{"inputs":[{"name":"x","shape":[0,2],"datatype":"FP32","data":[]}]}',
        '\ufeff{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[1,2]}]}',
        ' \n{ "inputs" : [ {"name":"\\u0078","shape":[1,2],"datatype":"FP32","data":[1,2]} ] }\t',
    ],
)
def test_odd_documents_are_read_the_same(text: str) -> None:
    check(text.encode(), signature("FP32", (-1, 2)))


@pytest.mark.parametrize("datatype", NUMERIC)
def test_plain_requests_take_the_fast_way(datatype: str) -> None:
    text = f'{{"inputs":[{{"name":"x","shape":[2,2],"datatype":"{datatype}","data":[1,2,3,4]}}]}}'
    assert check(text.encode(), signature(datatype, (-1, 2)))


def test_several_inputs_in_any_order() -> None:
    sig = signature("INT32", (-1, 2), inputs=3)
    items = [{"name": name, "shape": [1, 2], "datatype": "INT32", "data": [1, 2]} for name in ("x2", "x", "x1")]
    assert check(json.dumps({"inputs": items}).encode(), sig)
    assert not check(json.dumps({"inputs": [items[0], items[0], items[2]]}).encode(), sig)
    items[0]["shape"], items[0]["data"] = [2, 2], [1, 2, 3, 4]
    assert not check(json.dumps({"inputs": items}).encode(), sig)


def test_int64_is_exact() -> None:
    numbers = [2**63 - 1, -(2**63), 2**53 + 1, -1]
    body = json.dumps({"inputs": [{"name": "x", "shape": [4, 1], "datatype": "INT64", "data": numbers}]}).encode()
    sig = signature("INT64", (-1, 1))
    assert check(body, sig)
    fast = fast_json.decode(body, sig, LIMITS)
    assert fast is not None
    assert narrow(fast.inputs[0], sig.inputs[0]).ravel().tolist() == numbers  # type: ignore[arg-type]


def test_nothing_is_left_behind_by_a_refusal() -> None:
    """The parser is reused: a document that was refused midway must not block the next one."""
    sig = signature("FP32", (-1, 2))
    good = b'{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[1,2]}]}'
    for bad in (b"{", b'{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":["a",2]}]}', b"\xff"):
        assert fast_json.decode(bad, sig, LIMITS) is None
        assert fast_json.decode(good, sig, LIMITS) is not None


@settings(max_examples=300, deadline=None)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=20))
def test_floats_are_correctly_rounded(numbers: list[float]) -> None:
    body = json.dumps(
        {"inputs": [{"name": "x", "shape": [len(numbers), 1], "datatype": "FP64", "data": numbers}]}
    ).encode()
    fast = fast_json.decode(body, signature("FP64", (-1, 1)), LIMITS)
    assert fast is not None
    read = np.frombuffer(fast.inputs[0].buffer)  # type: ignore[union-attr]
    assert all(a == b and math.copysign(1, a) == math.copysign(1, b) for a, b in zip(read, numbers, strict=True))


FRAMES = [
    *['{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":%s}]}'],
    *['{"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": %s}]}'],
    *['{"inputs":[{"name":"x","data":[1,2],"datatype":"FP32","shape":%s}]}'],
    *['{"inputs":[{"data":%s,"name":"x","datatype":"FP32","shape":[1,2]}]}'],
    *['{"id":"%s","inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[1,2]}]}'],
    *['{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data" : [1,2]}],"note":%s}'],
]
FILLINGS = [
    *["[1,2]", "[2,1]", "[1,3]", "[1]", "[]", "[1,2,3]", "[[1,2]]", '[1,"2"]', "[1,2", "1,2]", "[1,2]]"],
    *[
        "[1,2],[3,4]",
        "[1,null]",
        "[1,2]}]}",
        '[1,2],"data":[3,4]',
        "[1,NaN]",
        "[1e999,2]",
        "[1,2]x",
        "[1,,2]",
        '[1,"]"]',
        '["[",2]',
        "[1,null]",
    ],
    *["[ 1 , 2 ]", "[1,2]\u00a0", "[1,2]/**/"],
]


def test_remembered_texts_mislead_nobody() -> None:
    """Every filling in every frame, after every other: what was remembered meets what looks like it."""
    sig = signature("FP32", (-1, 2))
    decoder_for.cache_clear()
    for _ in range(2):
        for frame in FRAMES:
            for filling in FILLINGS:
                check((frame % filling).encode(), sig)
    decoder = decoder_for(sig)
    assert decoder.decode((FRAMES[0] % "[5,6]").encode()) is not None


def test_a_list_that_stands_elsewhere_is_another_text() -> None:
    decoder = fast_json.FastDecoder(signature("FP32", (-1, 2)), LIMITS)
    assert decoder.decode(b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,2],"data":[1,2]}]}') is not None
    assert decoder.decode(b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,2],"data":}]}[3,4]') is None
    assert decoder.decode(b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,2],"data":}]}\0[3,4]') is None


def test_memory_of_texts_is_bounded() -> None:
    sig = signature("FP32", (-1, 1))
    decoder = fast_json.FastDecoder(sig, LIMITS)
    for spaces in range(2000):
        text = '{"inputs":[{"name":"x",%s"shape":[1,1],"datatype":"FP32","data":[7]}]}' % (" " * spaces)
        request = decoder.decode(text.encode())
        assert request is not None
    assert len(decoder._frames) <= 256
    assert max(map(len, decoder._frames)) <= 1024


@settings(max_examples=300, deadline=None)
@given(
    st.binary(min_size=0, max_size=24), st.sampled_from(["FP32", "INT64", "UINT8", "BF16", "BOOL"]), st.integers(0, 3)
)
def test_remembered_binary_headers_say_what_the_reference_says(tail: bytes, datatype: str, rows: int) -> None:
    sig = signature(datatype, (-1, 2))
    decoder = decoder_for(sig)
    size = rows * 2 * max(1, sig.inputs[0].datatype.itemsize)
    item = {"name": "x", "shape": [rows, 2], "datatype": datatype, "parameters": {"binary_data_size": size}}
    head = json.dumps({"inputs": [item], "parameters": {"binary_data_output": True, "timeout": 7}}).encode()
    whole = head + bytes(size)
    decoder.remember_binary(whole, len(head), oip_json.decode(whole, sig, LIMITS, json_length=len(head)))
    for body, length in ((whole, len(head)), (head + tail, len(head)), (head + tail, len(head) - 1), (tail, 0)):
        fast = decoder.decode_binary(body, length)
        if fast is not None:
            assert values(fast, sig) == values(oip_json.decode(body, sig, LIMITS, json_length=length), sig)
    if datatype != "BOOL" and rows:
        assert decoder.decode_binary(whole, len(head)) is not None


def test_binary_headers_with_an_id_are_not_kept() -> None:
    sig = signature("FP32", (-1, 2))
    decoder = fast_json.FastDecoder(sig, LIMITS)
    for number in range(1000):
        item = {"name": "x", "shape": [1, 2], "datatype": "FP32", "parameters": {"binary_data_size": 8}}
        kept = {"inputs": [item], "parameters": {"timeout": number}}
        for document in (kept, kept | {"id": str(number)}):
            head = json.dumps(document).encode()
            body = head + bytes(8)
            decoder.remember_binary(body, len(head), oip_json.decode(body, sig, LIMITS, json_length=len(head)))
            assert (decoder.decode_binary(body, len(head)) is None) == ("id" in document)
    assert len(decoder._headers) <= 256
