"""Tensors as bytes: little-endian, row-major, no padding; BYTES as length u32 and content for each element. Pure.

Source: Triton's binary tensor data extension (protocol/extension_binary_data.md).
"""

import struct
from collections.abc import Sequence
from math import prod
from typing import Final

import numpy as np

from gateway.wire.request import InferRequest, Limits, check_strings
from runtimes.errors import InvalidInput
from runtimes.tensors import DYNAMIC, Array, Signature, TensorSpec

_LENGTH: Final = struct.Struct("<I")


def read_tensor(
    spec: TensorSpec, shape: tuple[int, ...], data: bytes | memoryview, stated_bytes: int, limits: Limits
) -> Array:
    """Read one tensor. The array is a read-only view of `data` where the datatype allows it.

    Args:
        stated_bytes: what the caller says it is; `data` is shorter when the body ends before.

    Raises:
        InvalidInput: the bytes do not make `shape`.
    """
    if len(data) != stated_bytes:
        raise InvalidInput(
            f"input {spec.name!r}: expected {stated_bytes} bytes behind the JSON, got {len(data)} before the end"
        )
    if spec.datatype.kind == "bytes":
        return object_array(_read_strings(spec, data, prod(shape), limits), shape)
    wanted = prod(shape) * spec.datatype.itemsize
    if len(data) != wanted:
        raise InvalidInput(
            f"input {spec.name!r}: shape {list(shape)} of {spec.datatype.name} means {wanted} bytes, got {len(data)}"
        )
    if spec.datatype.kind == "bool":
        return _read_bools(spec, data).reshape(shape)
    return np.frombuffer(data, dtype=spec.datatype.dtype).reshape(shape)


def decode_raw(body: bytes, signature: Signature, limits: Limits) -> InferRequest:
    """Read a body that is nothing but the tensor of a model's only input; all outputs go back as bytes.

    Raises:
        InvalidInput: several inputs, more than one dynamic size, or a length that no shape has.
    """
    required = [spec for spec in signature.inputs if not spec.optional]
    if len(required) != 1:
        raise InvalidInput(f"Inference-Header-Content-Length 0 needs a model of one input, got {len(required)}")
    spec = required[0]
    shape = _raw_shape(spec, len(body), batched=signature.batched)
    array = read_tensor(spec, shape, body, len(body), limits)
    inputs = [array if given is spec else None for given in signature.inputs]
    request = InferRequest(inputs, shape[0] if signature.batched else 1)
    request.binary_default = True
    request.plain = False
    return request


def write_strings(values: Sequence[bytes]) -> bytes:
    """The bytes of a BYTES tensor."""
    return b"".join([part for value in values for part in (_LENGTH.pack(len(value)), value)])


def object_array(values: Sequence[bytes], shape: tuple[int, ...]) -> Array:
    """An object array of these elements; numpy alone would make one of fixed-width strings and cut NULs."""
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array.reshape(shape)


def _raw_shape(spec: TensorSpec, size: int, *, batched: bool) -> tuple[int, ...]:
    """One row; a dynamic size other than the rows follows from the length."""
    shape = [1, *spec.shape[1:]] if batched else list(spec.shape)
    unknown = shape.count(DYNAMIC)
    if spec.datatype.kind == "bytes":
        return tuple(1 if dim == DYNAMIC else dim for dim in shape)
    if unknown > 1:
        raise InvalidInput(f"input {spec.name!r}: {unknown} sizes are dynamic, so a raw tensor has no shape")
    known = prod(dim for dim in shape if dim != DYNAMIC) * spec.datatype.itemsize
    found = size // known if known else 0
    return tuple(found if dim == DYNAMIC else dim for dim in shape)


def _read_bools(spec: TensorSpec, data: bytes | memoryview) -> Array:
    values = np.frombuffer(data, dtype=np.uint8)
    if (values > 1).any():
        index = int(np.flatnonzero(values > 1)[0])
        raise InvalidInput(f"input {spec.name!r}: expected 0 or 1 for BOOL, got {values[index]} at index {index}")
    return values.view(bool)


def _read_strings(spec: TensorSpec, data: bytes | memoryview, count: int, limits: Limits) -> list[bytes]:
    values: list[bytes] = []
    raw, at = bytes(data), 0
    while at < len(raw):
        if len(values) == count:
            raise InvalidInput(f"input {spec.name!r}: more than the {count} elements that the shape means")
        end = at + _LENGTH.size
        length = _LENGTH.unpack_from(raw, at)[0] if end <= len(raw) else 0
        if end + length > len(raw):
            raise InvalidInput(f"input {spec.name!r}: element {len(values)} ends beyond the tensor's bytes")
        values.append(raw[end : end + length])
        at = end + length
    if len(values) != count:
        raise InvalidInput(f"input {spec.name!r}: the shape means {count} elements, got {len(values)}")
    check_strings(spec, values, limits)
    return values
