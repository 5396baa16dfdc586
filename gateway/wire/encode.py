"""Outputs to response bodies: a whole batch at once where all answers are plain, else one by one. Pure.

FP32 is written as the shortest decimal that reads back as the same FP32; NaN and infinities as the bare words that
Triton's client reads. BYTES in JSON have to be UTF-8.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import orjson

from gateway.wire.oip_binary import write_strings
from gateway.wire.request import InferRequest, RequestedOutput
from runtimes.errors import InvalidInput
from runtimes.tensors import Array, Signature, TensorSpec, f32_from_bf16

JSON: Final = b"application/json"
BINARY: Final = b"application/octet-stream"
_NUMPY: Final = orjson.OPT_SERIALIZE_NUMPY
_HEADS: Final = 256
"""Shapes of answers remembered; when full, all are forgotten."""

Header = tuple[bytes, bytes]


class BatchEncoder:
    """JSON bodies of plain answers (every output, no id) of one model version, written for a whole batch."""

    def __init__(self, name: str, version_text: str, signature: Signature) -> None:
        self._opening = f'{{"model_name":"{name}","model_version":"{version_text}","outputs":['.encode()
        self._specs = signature.outputs
        self._openings = [_output_opening(spec) for spec in signature.outputs]
        self._numbers = all(spec.datatype.kind != "bytes" for spec in signature.outputs)
        self._plain = signature.batched and self._numbers
        self._row_openings: dict[tuple[int, ...], bytes] = {}
        self._binary_heads: dict[tuple[tuple[int, ...], ...], tuple[bytes, tuple[Header, ...]]] = {}

    def encode_binary(self, outputs: Sequence[Array]) -> tuple[bytes, tuple[Header, ...], bytes] | None:
        """The answer of all outputs as bytes, without an id; None when it has to be written in full.

        What stands before the bytes depends on the shapes alone, so it is kept.
        """
        if not self._numbers:
            return None
        shapes = tuple([array.shape for array in outputs])
        known = self._binary_heads.get(shapes)
        if known is None:
            return None
        return BINARY, known[1], b"".join([known[0], *[array.tobytes() for array in outputs]])

    def remember_binary(self, outputs: Sequence[Array], answer: tuple[bytes, tuple[Header, ...], bytes]) -> None:
        """Keep the beginning of such an answer."""
        content_type, headers, body = answer
        if content_type is not BINARY or not self._numbers:
            return
        if len(self._binary_heads) >= _HEADS:
            self._binary_heads.clear()
        size = sum([array.nbytes for array in outputs])
        self._binary_heads[tuple([array.shape for array in outputs])] = (body[: len(body) - size], headers)

    def encode_rows(self, outputs: Sequence[Array], rows_list: Sequence[int]) -> list[bytes] | None:
        """One body for each request of a batch, or None when they have to be written one by one.

        Args:
            outputs: rows of all requests in dim 0.
            rows_list: rows of each request; every one of them at least 1.
        """
        if not self._plain:
            return None
        columns: list[list[bytes]] = []
        for array, spec in zip(outputs, self._specs, strict=True):
            rows = len(array)
            if rows == 0:
                return None
            flat = np.ascontiguousarray(_readable(array, spec))
            if flat.ndim != 2:
                flat = flat.reshape(rows, -1)
            encoded = orjson.dumps(flat, option=_NUMPY)
            if b"null" in encoded:
                # What is not finite; the words for that are put in one by one.
                return None
            columns.append(encoded[2:-2].split(b"],["))
        if len(columns) == 1:
            return self._single(columns[0], outputs[0].shape[1:], rows_list)
        return self._several(columns, outputs, rows_list)

    def _single(self, texts: list[bytes], inner: tuple[int, ...], rows_list: Sequence[int]) -> list[bytes]:
        if len(rows_list) == len(texts):
            opening = self._row_openings.get(inner) or self._row_opening(inner)
            return [opening + text + b"]}]}" for text in texts]
        head, tail = self._opening + self._openings[0], _sizes(inner)
        bodies: list[bytes] = []
        at = 0
        for rows in rows_list:
            data = b",".join(texts[at : at + rows])
            bodies.append(b'%s%d%s],"data":[%s]}]}' % (head, rows, tail, data))
            at += rows
        return bodies

    def _row_opening(self, inner: tuple[int, ...]) -> bytes:
        """What stands before the numbers of one row; kept, for it depends on the shape alone."""
        if len(self._row_openings) >= _HEADS:
            self._row_openings.clear()
        found = b'%s%s1%s],"data":[' % (self._opening, self._openings[0], _sizes(inner))
        self._row_openings[inner] = found
        return found

    def _several(
        self, columns: Sequence[list[bytes]], outputs: Sequence[Array], rows_list: Sequence[int]
    ) -> list[bytes]:
        tails = [_sizes(array.shape[1:]) for array in outputs]
        bodies: list[bytes] = []
        at = 0
        for rows in rows_list:
            parts = [
                b'%s%d%s],"data":[%s]}' % (opening, rows, tail, b",".join(texts[at : at + rows]))
                for opening, tail, texts in zip(self._openings, tails, columns, strict=True)
            ]
            bodies.append(self._opening + b",".join(parts) + b"]}")
            at += rows
        return bodies


def encode_response(
    outputs: Sequence[Array], request: InferRequest, signature: Signature, name: str, version_text: str
) -> tuple[bytes, tuple[Header, ...], bytes]:
    """The answer to one request: content type, further headers, body.

    Args:
        outputs: all of the model's, with the rows of this request alone.

    Raises:
        InvalidInput: BYTES that are not UTF-8 are asked for as JSON.
    """
    asked = request.outputs
    if asked is None:
        asked = tuple(RequestedOutput(i, request.binary_default) for i in range(len(signature.outputs)))
    texts: list[bytes] = []
    tail: list[bytes] = []
    for wanted in asked:
        array, datatype, spec = outputs[wanted.index], "", signature.outputs[wanted.index]
        if wanted.classification:
            array = classify(_readable(array, spec), wanted.classification, batched=signature.batched)
            datatype = "BYTES"
        opening = b'{"name":%s,"datatype":"%s","shape":%s,' % (
            orjson.dumps(spec.name),
            (datatype or spec.datatype.name).encode(),
            orjson.dumps(list(array.shape)),
        )
        if wanted.binary:
            data = _binary(array)
            tail.append(data)
            texts.append(b'%s"parameters":{"binary_data_size":%d}}' % (opening, len(data)))
        else:
            texts.append(b'%s"data":%s}' % (opening, _json_data(array, spec, text=array.dtype == object)))
    head = _document(request.id, name, version_text, texts)
    if not any(tail):
        return JSON, (), head
    length = (b"inference-header-content-length", b"%d" % len(head))
    return BINARY, (length,), b"".join([head, *tail])


def classify(array: Array, count: int, *, batched: bool) -> Array:
    """The `count` largest values as b"value:index", largest first, per row where the model is batched.

    Source: Triton's classification extension; equal values keep the order of their index.
    """
    if batched and array.ndim and not len(array):
        return np.empty((0, min(count, int(np.prod(array.shape[1:])))), dtype=object)
    rows = array.reshape(len(array), -1) if batched and array.ndim else array.reshape(1, -1)
    order = np.argsort(-rows.astype(np.float64), axis=1, kind="stable")[:, :count]
    found = np.empty(order.shape, dtype=object)
    for row, indices in enumerate(order):
        for place, index in enumerate(indices):
            value = rows[row, index]
            text = f"{float(value):f}" if rows.dtype.kind == "f" else str(int(value))
            found[row, place] = f"{text}:{index}".encode()
    return found if batched and array.ndim else found.reshape(-1)


def _document(request_id: str, name: str, version_text: str, texts: Sequence[bytes]) -> bytes:
    opening = b'{"id":%s,' % orjson.dumps(request_id) if request_id else b"{"
    return b'%s"model_name":"%s","model_version":"%s","outputs":[%s]}' % (
        opening,
        name.encode(),
        version_text.encode(),
        b",".join(texts),
    )


def _sizes(inner: tuple[int, ...]) -> bytes:
    return b"".join([b",%d" % size for size in inner])


def _output_opening(spec: TensorSpec) -> bytes:
    return b'{"name":%s,"datatype":"%s","shape":[' % (orjson.dumps(spec.name), spec.datatype.name.encode())


def _readable(array: Array, spec: TensorSpec) -> Array:
    """BF16 bits as the numbers that they are; others unchanged."""
    return f32_from_bf16(array.view(np.uint16)) if spec.datatype.name == "BF16" else array


def _binary(array: Array) -> bytes:
    return write_strings(array.ravel().tolist()) if array.dtype == object else array.tobytes()


def _json_data(array: Array, spec: TensorSpec, *, text: bool) -> bytes:
    if text:
        try:
            return orjson.dumps([value.decode() for value in array.ravel().tolist()])
        except UnicodeDecodeError as error:
            raise InvalidInput(
                f"output {spec.name!r} holds bytes that are not UTF-8: ask for it with binary_data"
            ) from error
    flat = np.ascontiguousarray(_readable(array, spec)).ravel()
    encoded = orjson.dumps(flat, option=_NUMPY)
    if flat.dtype.kind == "f" and not np.isfinite(flat).all():
        return _with_words(encoded, flat)
    return encoded


def _with_words(encoded: bytes, flat: Array) -> bytes:
    """orjson wrote null for what is not finite, in order: put the words there."""
    words = [_word(value) for value in flat[~np.isfinite(flat)].tolist()]
    first, *rest = encoded.split(b"null")
    return first + b"".join([word + piece for word, piece in zip(words, rest, strict=True)])


def _word(value: float) -> bytes:
    return b"NaN" if value != value else b"Infinity" if value > 0 else b"-Infinity"
