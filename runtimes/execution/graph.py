"""Which operators a model file uses, read from its protobuf bytes without the onnx package.

Only what is needed to tell whether the run time of a graph can depend on the values it is given. Field numbers are
those of onnx.proto: ModelProto.graph 7, GraphProto.node 1, NodeProto.op_type 4, NodeProto.attribute 5,
AttributeProto.g 6 and .graphs 11. Weights are skipped over, not read.
"""

import mmap
import os
from collections.abc import Iterator
from typing import Final

VALUE_DEPENDENT: Final = frozenset(
    {"Loop", "Scan", "ConstantOfShape", "Range", "Expand", "Tile", "Resize", "Upsample", "OneHot"}
)
"""Operators whose work can be as large as a number in the input says: never on the event loop."""

_MAX_DEPTH: Final = 32


def operators(path: str | os.PathLike[str]) -> frozenset[str]:
    """Names of the operators in a model file, those of nested graphs too; a malformed file gives what was read."""
    found: set[str] = set()
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        view = memoryview(data)
        try:
            for number, start, end in _fields(view, 0, len(view)):
                if number == 7:
                    _graph(view, start, end, found, 0)
        except (IndexError, ValueError):
            return frozenset(found)
        finally:
            view.release()
    return frozenset(found)


def _graph(view: memoryview, start: int, end: int, found: set[str], depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise ValueError("graphs are nested too deeply")
    for number, at, stop in _fields(view, start, end):
        if number == 1:
            _node(view, at, stop, found, depth)


def _node(view: memoryview, start: int, end: int, found: set[str], depth: int) -> None:
    for number, at, stop in _fields(view, start, end):
        if number == 4:
            found.add(bytes(view[at:stop]).decode("utf-8", "replace"))
        elif number == 5:
            for inner, first, last in _fields(view, at, stop):
                if inner in (6, 11):
                    _graph(view, first, last, found, depth + 1)


def _fields(view: memoryview, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(field number, start, end) of each length-delimited field; the others are stepped over."""
    while at < end:
        tag, at = _varint(view, at)
        wire = tag & 7
        if wire == 0:
            _, at = _varint(view, at)
        elif wire == 1:
            at += 8
        elif wire == 5:
            at += 4
        elif wire == 2:
            length, at = _varint(view, at)
            if at + length > end:
                raise ValueError("a field runs past its message")
            yield tag >> 3, at, at + length
            at += length
        else:
            raise ValueError("unknown wire type")


def _varint(view: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = view[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a varint is too long")
