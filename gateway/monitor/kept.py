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
        self._inputs = [_Column(at, array, size) for at, array in enumerate(inputs) if array is not None]
        self._outputs = [_Column(at, array, size) for at, array in enumerate(outputs) if array is not None]
        self._widths = len(inputs), len(outputs)
        self._groups = np.zeros(size, np.int64)
        every = [column.kept for column in (*self._inputs, *self._outputs)]
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
        # What lies behind `rows` means nothing, whoever of them has been there.
        for column in self._inputs:
            if not column.add(inputs[column.at], start, end):
                return False
        for column in self._outputs:
            if not column.add(outputs[column.at], start, end):
                return False
        if groups is not None:
            self._groups[start:end] = groups
        self.rows = end
        return True

    def inputs(self) -> list[Array | None]:
        """Those that are here: [rows, ...] each."""
        return _arrays(self._inputs, self._widths[0], self.rows)

    def outputs(self) -> list[Array | None]:
        """Likewise."""
        return _arrays(self._outputs, self._widths[1], self.rows)

    def groups(self) -> npt.NDArray[np.int64]:
        """Of each row."""
        return self._groups[: self.rows]

    def clear(self) -> None:
        """Begin anew. The groups stay: all batches have some, or none has."""
        for column in (*self._inputs, *self._outputs):
            if column.bytes is None:
                column.kept[: self.rows] = None
        self.rows = 0


class _Column:
    """Rows of one tensor.

    Args:
        at: where it stands among the inputs or outputs.
        first: array of the first batch, whose form all of them have.

    Attributes:
        kept: [size, ...] room for them.
        bytes: of `kept`; None = texts, which are objects.
    """

    __slots__ = ("_dtype", "_row_bytes", "at", "bytes", "kept")

    def __init__(self, at: int, first: Array, size: int) -> None:
        self.at = at
        self._dtype = first.dtype
        self.kept = np.empty((size, *first.shape[1:]), first.dtype)
        self._row_bytes = self.kept.nbytes // size
        self.bytes = None if first.dtype == object else self.kept.reshape(-1).view(np.uint8).data

    def add(self, array: Array | None, start: int, end: int) -> bool:
        """Copy a batch to its place; False = it has another form."""
        if array is None or len(array) != end - start:
            return False
        dtype = array.dtype
        if dtype is not self._dtype and dtype != self._dtype:
            return False
        if self.bytes is None:
            if array.size * len(self.kept) != self.kept.size * (end - start):
                return False  # an array of one column would fill many
            self.kept[start:end] = array
            return True
        # Half as many instructions as an assignment of numpy's, which is for arrays of any two forms.
        rows, each = array.tobytes(), self._row_bytes
        if len(rows) != each * (end - start):
            return False
        self.bytes[start * each : end * each] = rows
        return True


def _arrays(columns: Sequence[_Column], width: int, rows: int) -> list[Array | None]:
    found: list[Array | None] = [None] * width
    for column in columns:
        found[column.at] = column.kept[:rows]
    return found


def bytes_of(array: Array) -> int:
    """Texts by an estimate."""
    return int(array.size * TEXT_BYTES if array.dtype == object else array.nbytes)
