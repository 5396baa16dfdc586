"""Columns of tensors as numbers: what elements of any datatype say. Nothing is raised for what a caller may send."""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from runtimes.tensors import Array, f32_from_bf16

Floats = npt.NDArray[np.float64]
_TRUE: Final = frozenset({b"true", b"1", b"1.0"})
_FALSE: Final = frozenset({b"false", b"0", b"0.0"})


def as_floats(array: Array, bf16: bool) -> Floats:
    """A copy in float64, its last dimension contiguous."""
    if bf16 and array.dtype == np.uint16:
        array = f32_from_bf16(array.astype(np.uint16, copy=False))
    return np.array(array, np.float64, order="C")


def column_numbers(array: Array, column: int, bf16: bool) -> Floats:
    """One column of an output [rows, ...] as float64 [rows]; NaN where it is no number or not there."""
    flat = array.reshape(len(array), -1) if len(array) else array.reshape(0, 1)
    if max(column, 0) >= flat.shape[1]:
        return np.full(len(array), np.nan)
    one = flat[:, max(column, 0)]
    if one.dtype == object:
        return np.array([number(item) for item in one.tolist()], np.float64)
    return as_floats(one, bf16)


def number(text: Any) -> float | None:
    """What a text says as a number: NaN when it is empty, None when it says none."""
    if not text:
        return np.nan
    try:
        return float(text)
    except ValueError:
        return None


def boolean_place(text: Any) -> int:
    """Data bin of false and true; -1 = neither."""
    lower = text.lower() if isinstance(text, bytes) else text
    return 1 if lower in _TRUE else 0 if lower in _FALSE else -1
