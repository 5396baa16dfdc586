"""Rows that wait to be counted, behind one another."""

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from runtimes.tensors import Array

TEXT_BYTES: Final = 100
"""Of a text, as an estimate."""


class Kept:
    """Rows of batches of one form. They are copied: what was executed is given back while it is warm in the cache, and
    all rows are counted as one array.

    Args:
        inputs, outputs: of the first batch; None = not wanted.
        size: rows there is room for.

    Attributes:
        rows, size: that are here, and that there is room for.
        row_bytes: of each.
    """

    def __init__(self, inputs: Sequence[Array | None], outputs: Sequence[Array | None], size: int) -> None:
        self.rows = 0
        self.size = size
        self._inputs = [None if array is None else np.empty((size, *array.shape[1:]), array.dtype) for array in inputs]
        self._outputs = [
            None if array is None else np.empty((size, *array.shape[1:]), array.dtype) for array in outputs
        ]
        self._groups = np.zeros(size, np.int64)
        every = [array for array in (*self._inputs, *self._outputs) if array is not None]
        self._texts = [array for array in every if array.dtype == object]
        self.row_bytes = sum([bytes_of(array) for array in every]) // size + self._groups.itemsize

    def add(
        self,
        inputs: Sequence[Array | None],
        outputs: Sequence[Array | None],
        rows: int,
        groups: Sequence[int] | None,
    ) -> bool:
        """Take a batch; False = it has another form, or finds no room.

        Args:
            groups: of each row; None = the first.
        """
        start = self.rows
        end = start + rows
        if end > self.size:
            return False
        if not (_copied(inputs, self._inputs, start, end) and _copied(outputs, self._outputs, start, end)):
            return False
        if groups is not None:
            self._groups[start:end] = groups
        self.rows = end
        return True

    def inputs(self) -> list[Array | None]:
        """Those that are here: [rows, ...] each."""
        return [None if array is None else array[: self.rows] for array in self._inputs]

    def outputs(self) -> list[Array | None]:
        """Likewise."""
        return [None if array is None else array[: self.rows] for array in self._outputs]

    def groups(self) -> npt.NDArray[np.int64]:
        """Of each row."""
        return self._groups[: self.rows]

    def clear(self) -> None:
        """Begin anew. The groups stay: all batches have some, or none has."""
        for array in self._texts:
            array[: self.rows] = None
        self.rows = 0


def _copied(arrays: Sequence[Array | None], kept: Sequence[Array | None], start: int, end: int) -> bool:
    """Copy those that are wanted; False = one has another form. What lies behind `rows` means nothing."""
    for at, own in enumerate(kept):
        if own is None:
            continue
        array = arrays[at]
        if array is None or array.dtype != own.dtype or array.ndim != own.ndim:
            return False
        if array.size * len(own) != own.size * (end - start):
            return False  # an array of one column would fill many
        own[start:end] = array
    return True


def bytes_of(array: Array) -> int:
    """Texts by an estimate."""
    return int(array.size * TEXT_BYTES if array.dtype == object else array.nbytes)
