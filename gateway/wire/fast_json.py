"""The fast decoder: JSON numbers to one buffer per input by SIMD. Answers only what it fully recognises. Pure.

Known fields exactly once, flat data, the datatype's kind of numbers, sizes that fit: anything else, every exception
included, gives None, and the reference decoder (`oip_json`) judges it again. A property test holds them together.

Clients send the same text around ever new numbers. What stands around the numbers of a one-input body is remembered
once it was read in full: a later body with the very same text before and after its last list differs in that list
alone, so only the list is parsed. So too the JSON before a binary tensor: the same text says the same.
"""

from typing import Any, Final

import numpy as np
import simdjson

from gateway.wire.request import InferRequest, Limits
from runtimes.tensors import DYNAMIC, Signature, TensorSpec
from runtimes.wide import Wide

_KINDS: Final = {"float": "d", "int": "i", "uint": "u"}
_WIDE: Final = {"d": "d", "i": "q", "u": "Q"}
_FRAMES: Final = 256
"""Texts remembered per decoder; when full, all are forgotten."""
_FRAME_BYTES: Final = 1024
_GAP: Final = b"\0"
"""Stands where the list stood. It is no JSON: what was read in full has none, so texts with equal gaps alone are the
same."""
_PARSER: Final = simdjson.Parser()
"""Reused: one that is made anew costs 1 us. A document must be let go of before the next parse."""
_parse: Final[Any] = _PARSER.parse


def new_parser() -> simdjson.Parser:
    """A parser for a thread of its own."""
    return simdjson.Parser()


class FastDecoder:
    """Decodes bodies for one signature."""

    def __init__(self, signature: Signature, limits: Limits) -> None:
        self._signature = signature
        self._limits = limits
        self._frames: dict[bytes, tuple[tuple[int, ...], int]] = {}
        self._kind: Any = _kind(signature.inputs[0]) if len(signature.inputs) == 1 else None
        self._wide = _WIDE.get(self._kind or "", "")
        self._batched = signature.batched
        self._headers: dict[bytes, tuple[InferRequest, tuple[int, ...], int]] = {}

    def decode(self, body: bytes) -> InferRequest | None:
        """Read a plain body; None for any other. On the event loop only: it uses the loop's parser."""
        try:
            # The last list of a one-input body that ends with its data; see `_remember`.
            start = body.rfind(b"[")
            end = body.find(b"]", start) + 1
            frame = self._frames.get(body[:start] + _GAP + body[end:])
            if frame is not None:
                shape, size = frame
                numbers = bytes(_parse(body[start:end]).as_buffer(of_type=self._kind))
                if len(numbers) == size:
                    return InferRequest((Wide(numbers, self._wide, shape),), shape[0] if self._batched else 1)
                return None
            request = decode(body, self._signature, self._limits)
            if request is not None and self._kind is not None:
                self._remember(body, start, end, request)
        except Exception:
            return None
        return request

    def decode_binary(self, body: bytes, json_length: int) -> InferRequest | None:
        """Read a body whose JSON was read before; None for any other."""
        found = self._headers.get(body[:json_length])
        if found is None:
            return None
        known, shape, size = found
        if len(body) - json_length != size:
            return None
        array = np.frombuffer(body, self._signature.inputs[0].datatype.dtype, offset=json_length).reshape(shape)
        request = InferRequest((array,), known.rows)
        request.outputs, request.binary_default, request.plain = known.outputs, known.binary_default, known.plain
        request.timeout_us, request.priority = known.timeout_us, known.priority
        return request

    def remember_binary(self, body: bytes, json_length: int, request: InferRequest) -> None:
        """Keep what the JSON before the only input's bytes said; one with an id will not come again."""
        datatype = self._signature.inputs[0].datatype
        array = request.inputs[0]
        if (
            len(self._signature.inputs) != 1
            or not 0 < json_length <= _FRAME_BYTES
            or not isinstance(array, np.ndarray)
            or datatype.kind in ("bytes", "bool")
            or request.id
            or array.nbytes == 0
            or array.nbytes != len(body) - json_length
        ):
            return
        if len(self._headers) >= _FRAMES:
            self._headers.clear()
        known = InferRequest((), request.rows)
        known.outputs, known.binary_default, known.plain = request.outputs, request.binary_default, request.plain
        known.timeout_us, known.priority = request.timeout_us, request.priority
        self._headers[body[:json_length]] = (known, array.shape, array.nbytes)

    def _remember(self, body: bytes, start: int, end: int, request: InferRequest) -> None:
        """Keep what stands around the data, if the last list is the data and nothing else."""
        before = body[:start].rstrip()
        if not before.endswith(b":") or not before[:-1].rstrip().endswith(b'"data"'):
            return
        wide = request.inputs[0]
        assert isinstance(wide, Wide), "the fast decoder makes nothing else"
        frame = body[:start] + _GAP + body[end:]
        if len(frame) <= _FRAME_BYTES:
            if len(self._frames) >= _FRAMES:
                self._frames.clear()
            self._frames[frame] = (wide.shape, len(wide.buffer))


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
    kind = _kind(spec)
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


def _kind(spec: TensorSpec) -> str | None:
    """simdjson's name of the numbers that the datatype takes; None when it takes no numbers."""
    kind = _KINDS.get(spec.datatype.kind)
    return "i" if kind == "u" and spec.datatype.itemsize < 8 else kind
