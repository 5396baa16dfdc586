"""Single fields of a request's inputs, for policies that route by them: which exist, and what rows agree on. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from router.view import MIXED, Mixed, Value
from runtimes.tensors import Array, Signature
from runtimes.wide import Wide, values_of

Place = tuple[int, int | None]
"""Index of the input, and the column in its rows; None = the whole row is one value."""


def field_places(signature: Signature, feature_names: Mapping[str, Sequence[str]]) -> dict[str, Place]:
    """Where each field stands: inputs with one value per row by their own name, columns by their feature's.

    Args:
        feature_names: input name -> names of its columns.
    """
    found: dict[str, Place] = {}
    for index, spec in enumerate(signature.inputs):
        for column, name in enumerate(feature_names.get(spec.name, ())):
            found.setdefault(name, (index, column))
    for index, spec in enumerate(signature.inputs):
        inner = spec.shape[1:] if signature.batched else spec.shape
        if all(size == 1 for size in inner):
            found[spec.name] = (index, None)
    return found


def agreed_value(values: Array | Wide | None, column: int | None) -> Value | Mixed | None:
    """The value that all rows have in a column; MIXED when they disagree, None when there is none.

    Shapes: rows in dim 0; `column` counts within a row.
    """
    if values is None:
        return None
    array = values_of(values) if isinstance(values, Wide) else values
    if array.size == 0:
        return None
    rows = array.reshape(array.shape[0] if array.ndim else 1, -1)
    if column is not None and column >= rows.shape[1]:
        return None
    cells = rows[:, column or 0]
    first = cells[0]
    if len(cells) > 1 and not bool((cells == first).all()):
        return MIXED
    return _scalar(first)


def _scalar(value: Any) -> Value | None:
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return None
    found: Value = value.item() if isinstance(value, np.generic) else value
    return found
