"""The fast decoder: JSON numbers to one buffer per input by SIMD. Answers only what it fully recognises. Pure.

Known fields exactly once, flat data, the datatype's kind of numbers, sizes that fit: anything else, every exception
included, gives None, and the reference decoder (`oip_json`) judges it again. A property test holds them together.
"""

from typing import Any, Final

import simdjson

from gateway.wire.request import InferRequest, Limits
from runtimes.tensors import DYNAMIC, Signature, TensorSpec
from runtimes.wide import Wide

_KINDS: Final = {"float": "d", "int": "i", "uint": "u"}
_WIDE: Final = {"d": "d", "i": "q", "u": "Q"}
_PARSER: Final = simdjson.Parser()
"""Reused: one that is made anew costs 1 us. A document must be let go of before the next parse."""


def decode(body: bytes, signature: Signature, limits: Limits, parser: simdjson.Parser = _PARSER) -> InferRequest | None:
    """Read a plain body; None for any other. The default parser belongs to the event loop's thread."""
    try:
        document = parser.parse(body)
        try:
            return _decode(document, body, signature, limits)
        finally:
            del document
    except Exception:
        return None


def _decode(document: Any, body: bytes, signature: Signature, limits: Limits) -> InferRequest | None:
    if body[0] == 0xEF:
        # simdjson passes over a byte order mark, which JSON may not have.
        return None
    # One list of inputs, and a shape and data for each: a further bracket means something nested.
    if len(document) != 1 or body.count(b"[") != 1 + 2 * len(signature.inputs):
        return None
    items = document["inputs"]
    if len(items) != len(signature.inputs):
        return None
    if len(items) == 1:
        spec = signature.inputs[0]
        wide = _input(items[0], spec, limits)
        return None if wide is None else InferRequest((wide,), wide.shape[0] if signature.batched else 1)
    return _several(items, signature, limits)


def _several(items: Any, signature: Signature, limits: Limits) -> InferRequest | None:
    named = {item["name"]: item for item in items}
    wides: list[Wide] = []
    for spec in signature.inputs:
        wide = _input(named[spec.name], spec, limits)
        if wide is None:
            return None
        wides.append(wide)
    rows = wides[0].shape[0] if signature.batched else 1
    if signature.batched and any(wide.shape[0] != rows for wide in wides):
        return None
    return InferRequest(wides, rows)


def _input(item: Any, spec: TensorSpec, limits: Limits) -> Wide | None:
    kind = _KINDS.get(spec.datatype.kind)
    if kind == "u" and spec.datatype.itemsize < 8:
        kind = "i"
    if len(item) != 4 or item["name"] != spec.name or item["datatype"] != spec.datatype.name or kind is None:
        return None
    shape = tuple(item["shape"])
    wanted = spec.shape
    if len(shape) != len(wanted) or len(shape) > limits.rank:
        return None
    count = 1
    for size, expected in zip(shape, wanted, strict=True):
        if type(size) is not int or not (size == expected or (expected == DYNAMIC and size > 0)):
            return None
        count *= size
    buffer = bytes(item["data"].as_buffer(of_type=kind))
    if len(buffer) != 8 * count or count > limits.elements:
        return None
    return Wide(buffer, _WIDE[kind], shape)
