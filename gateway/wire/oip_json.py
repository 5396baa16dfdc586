"""The Open Inference Protocol's request body: the reference decoder, which words every error. Pure.

    body = JSON | JSON and the bytes of binary tensors behind it | one raw tensor (header length 0)

What the fast decoder does not recognise ends here, so this one decides what is right. Source of the format:
https://github.com/open-inference/open-inference-protocol, and Triton's extension for binary tensor data.
"""

from collections.abc import Sequence
from itertools import chain
from math import prod
from typing import Any, Final

import numpy as np

from gateway.wire import oip_binary
from gateway.wire.document import check_no_overflow, parse
from gateway.wire.request import (
    InferRequest,
    Limits,
    check_datatype,
    check_shape,
    check_strings,
    find_spec,
    read_outputs,
    read_parameters,
    rows_of,
    shown,
)
from runtimes.errors import InvalidInput
from runtimes.tensors import Array, Signature, TensorSpec
from runtimes.wide import Wide

_TYPES: Final[dict[str, tuple[set[type], str]]] = {
    "float": ({int, float}, "numbers"),
    "int": ({int}, "whole numbers"),
    "uint": ({int}, "whole numbers"),
    "bool": ({bool}, "true or false"),
    "bytes": ({str}, "texts"),
}


def decode(body: bytes, signature: Signature, limits: Limits, *, json_length: int | None = None) -> InferRequest:
    """Read a body.

    Args:
        json_length: of `Inference-Header-Content-Length`: so many bytes are JSON; None = all of them.

    Raises:
        InvalidInput: with what was expected and what came.
    """
    if json_length is None:
        return _decode(body, b"", signature, limits)
    if json_length == 0:
        return oip_binary.decode_raw(body, signature, limits)
    if json_length > len(body):
        raise InvalidInput(
            f"Inference-Header-Content-Length: expected a number from 0 to {len(body)}, the body's length, "
            f"got {json_length}"
        )
    return _decode(body[:json_length], memoryview(body)[json_length:], signature, limits)


def _decode(text: bytes, tail: bytes | memoryview, signature: Signature, limits: Limits) -> InferRequest:
    document = parse(text, limits)
    shapes: list[tuple[int, ...] | None] = [None] * len(signature.inputs)
    arrays: list[Array | Wide | None] = [None] * len(signature.inputs)
    at = 0
    for item in _inputs(document, limits):
        index = find_spec(signature.inputs, item.get("name"), "input")
        spec = signature.inputs[index]
        if shapes[index] is not None:
            raise InvalidInput(f"input {spec.name!r} is given twice")
        check_datatype(spec, item.get("datatype"))
        shape = shapes[index] = check_shape(spec, item.get("shape"), limits)
        size = _binary_size(spec, item)
        if size is None:
            arrays[index] = _from_json(spec, shape, item["data"], text, limits)
        else:
            arrays[index] = oip_binary.read_tensor(spec, shape, tail[at : at + size], size, limits)
            at += size
    if at != len(tail):
        raise InvalidInput(f"expected {at} bytes of binary tensors behind the JSON, got {len(tail)}")
    request = InferRequest(arrays, rows_of(signature, shapes))
    _read_rest(request, document, signature, limits)
    return request


def _inputs(document: dict[str, Any], limits: Limits) -> Sequence[dict[str, Any]]:
    inputs = document.get("inputs")
    if not isinstance(inputs, list) or not inputs:
        raise InvalidInput(f"inputs: expected a list of at least one input, got {_what(inputs)}")
    if len(inputs) > limits.inputs:
        raise InvalidInput(f"{len(inputs)} inputs, at most {limits.inputs} are read")
    for item in inputs:
        if not isinstance(item, dict):
            raise InvalidInput(f"inputs: expected objects, got {shown(item)}")
    return inputs


def _what(inputs: object) -> str:
    return "none" if inputs is None else "an empty list" if inputs == [] else shown(inputs)


def _read_rest(request: InferRequest, document: dict[str, Any], signature: Signature, limits: Limits) -> None:
    parameters = document.get("parameters", {})
    if not isinstance(parameters, dict):
        raise InvalidInput(f"parameters: expected an object, got {shown(parameters)}")
    read_parameters(request, parameters)
    if "outputs" in document:
        request.outputs = read_outputs(signature, document["outputs"], request.binary_default)
    request_id = document.get("id", "")
    if not isinstance(request_id, str) or len(request_id) > limits.id_chars or not _is_plain(request_id):
        got = f"{len(request_id)} characters" if isinstance(request_id, str) else shown(request_id)
        raise InvalidInput(f"id: expected a text of at most {limits.id_chars} printable characters, got {got}")
    request.id = request_id
    request.plain = request.outputs is None and not request.binary_default and not request_id


def _is_plain(text: str) -> bool:
    return text.isprintable() or not any(ord(char) < 32 or 0xD800 <= ord(char) < 0xE000 for char in text)


def _binary_size(spec: TensorSpec, item: dict[str, Any]) -> int | None:
    """Length of the input's bytes behind the JSON; None when its data is in the JSON."""
    parameters = item.get("parameters", {})
    if not isinstance(parameters, dict):
        raise InvalidInput(f"input {spec.name!r}: parameters: expected an object, got {shown(parameters)}")
    if "shared_memory_region" in parameters:
        raise InvalidInput(f"input {spec.name!r}: shared memory is not supported")
    if ("data" in item) == ("binary_data_size" in parameters):
        got = "both" if "data" in item else "neither"
        raise InvalidInput(f"input {spec.name!r}: expected one of data and parameters.binary_data_size, got {got}")
    if "data" in item:
        return None
    size = parameters["binary_data_size"]
    if type(size) is not int or not 0 <= size < 1 << 53:
        raise InvalidInput(f"input {spec.name!r}: binary_data_size: expected a number of bytes, got {shown(size)}")
    return size


def _from_json(spec: TensorSpec, shape: tuple[int, ...], data: object, text: bytes, limits: Limits) -> Array | Wide:
    values = _flat(spec, shape, data)
    allowed, wanted = _TYPES[spec.datatype.kind]
    if not set(map(type, values)) <= allowed:
        index, wrong = next((i, v) for i, v in enumerate(values) if type(v) not in allowed)
        raise InvalidInput(f"input {spec.name!r}: expected {wanted}, got {shown(wrong)} at index {index}")
    if len(values) != prod(shape):
        raise InvalidInput(f"input {spec.name!r}: shape {list(shape)} means {prod(shape)} values, got {len(values)}")
    if spec.datatype.kind == "bytes":
        return _strings(spec, shape, values, limits)
    if spec.datatype.kind == "bool":
        return np.array(values, dtype=bool).reshape(shape)
    return _numbers(spec, shape, values, text)


def _numbers(spec: TensorSpec, shape: tuple[int, ...], values: Sequence[Any], text: bytes) -> Wide:
    """Still 64 bits wide: narrowing is the same whichever decoder read them."""
    kind = "d" if spec.datatype.kind == "float" else "Q" if spec.datatype.name == "UINT64" else "q"
    dtype = {"d": "<f8", "q": "<i8", "Q": "<u8"}[kind]
    try:
        array = np.array(values, dtype=dtype)
    except OverflowError:
        index, wrong = next((i, v) for i, v in enumerate(values) if not _fits(v, kind))
        raise InvalidInput(
            f"input {spec.name!r}: value {shown(wrong)} at index {index} does not fit {spec.datatype.name}"
        ) from None
    if kind == "d" and np.isinf(array).any():
        check_no_overflow(text, spec.name)
    return Wide(array.tobytes(), kind, shape)


def _fits(value: int | float, kind: str) -> bool:
    if kind == "d":
        try:
            float(value)
        except OverflowError:
            return False
        return True
    return 0 <= value < 1 << 64 if kind == "Q" else -(1 << 63) <= value < 1 << 63


def _strings(spec: TensorSpec, shape: tuple[int, ...], values: Sequence[str], limits: Limits) -> Array:
    try:
        encoded = [value.encode() for value in values]
    except UnicodeEncodeError as error:
        raise InvalidInput(f"input {spec.name!r}: a text holds half a surrogate pair") from error
    check_strings(spec, encoded, limits)
    return oip_binary.object_array(encoded, shape)


def _flat(spec: TensorSpec, shape: tuple[int, ...], data: object) -> Sequence[Any]:
    """The values of flat data, or of data nested exactly as the shape says."""
    if not isinstance(data, list):
        raise InvalidInput(f"input {spec.name!r}: data: expected a list, got {shown(data)}")
    values = data
    if not values or type(values[0]) is not list:
        return values
    for axis, size in enumerate(shape):
        if axis == len(shape) - 1:
            return values
        inner = shape[axis + 1]
        if (axis == 0 and len(values) != size) or not all(type(v) is list and len(v) == inner for v in values):
            break
        values = list(chain.from_iterable(values))
    raise InvalidInput(f"input {spec.name!r}: data is nested otherwise than shape {list(shape)} says")
