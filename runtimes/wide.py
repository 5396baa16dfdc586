"""JSON numbers between parsing and execution: still 64 bits wide, narrowed for a whole batch at once. Pure."""

import math
import threading
from collections.abc import Callable
from contextvars import Context
from typing import Any, Final, cast

import numpy as np

from runtimes.errors import InvalidInput
from runtimes.tensors import Array, TensorSpec, bf16_from_f32

_DTYPES: Final = {"d": np.dtype("<f8"), "q": np.dtype("<i8"), "Q": np.dtype("<u8")}


class Wide:
    """Numbers of one input as parsed.

    Attributes:
        buffer: contiguous float64, int64 or uint64 values, little-endian.
        kind: "d", "q" or "Q".
        shape: of the input; its product is the number of values.
    """

    __slots__ = ("buffer", "kind", "shape")

    def __init__(self, buffer: bytes, kind: str, shape: tuple[int, ...]) -> None:
        self.buffer = buffer
        self.kind = kind
        self.shape = shape


def values_of(wide: Wide) -> Array:
    """The numbers as they were parsed, 64 bits wide. Shapes: `wide.shape`."""
    return np.frombuffer(wide.buffer, dtype=_DTYPES[wide.kind]).reshape(wide.shape)


def narrow(wide: Wide, spec: TensorSpec) -> Array:
    """Convert to the input's datatype; floats are rounded, nothing else is changed.

    Shapes: `wide.shape`.

    Raises:
        InvalidInput: a value lies outside the datatype, naming the input, the value and its index.
    """
    values = np.frombuffer(wide.buffer, dtype=_DTYPES[wide.kind])
    datatype = spec.datatype
    if datatype.kind == "float":
        return _narrow_float(values, spec).reshape(wide.shape)
    if datatype.itemsize == 8:
        return values.reshape(wide.shape)
    narrowed = values.astype(datatype.dtype)
    if not np.array_equal(narrowed, values):
        _refuse(values, narrowed != values, spec)
    return narrowed.reshape(wide.shape)


def _narrow_float(values: Array, spec: TensorSpec) -> Array:
    name = spec.datatype.name
    if name == "FP64":
        return values
    run: Callable[..., tuple[Array, bool]] = getattr(_LOCAL, "run", None) or _quiet_run()
    narrowed, finite = run(_rounded, values, np.dtype("<f4") if name == "BF16" else spec.datatype.dtype)
    if name == "BF16":
        narrowed = bf16_from_f32(cast(Any, narrowed))
        overflow = (narrowed & 0x7FFF) == 0x7F80
    elif finite:
        return narrowed
    else:
        overflow = np.isinf(narrowed)
    if overflow.any() and (overflow & np.isfinite(values)).any():
        _refuse(values, overflow & np.isfinite(values), spec)
    return narrowed


_LOCAL: Final = threading.local()


def _quiet_run() -> Callable[..., Any]:
    """Runs in a context of this thread in which numpy does not warn: 2 us less than `np.errstate` each time."""
    run = _LOCAL.run = Context().run
    run(np.seterr, over="ignore", invalid="ignore")
    return run


def _rounded(values: Array, dtype: np.dtype[Any]) -> tuple[Array, bool]:
    """The values rounded, and whether all are finite then."""
    narrowed = values.astype(dtype)
    # One pass in place of three: a sum of squares is finite only when every element is.
    return narrowed, math.isfinite(narrowed.dot(narrowed))


def _refuse(values: Array, wrong: Array, spec: TensorSpec) -> None:
    index = int(np.flatnonzero(wrong)[0])
    raise InvalidInput(
        f"input {spec.name!r}: value {values[index].item()!r} at index {index} does not fit {spec.datatype.name}"
    )
