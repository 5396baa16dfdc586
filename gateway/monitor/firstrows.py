"""The first rows that a version was asked, until there are enough for a provisional reference. Pure.

They are values that somebody sent, so they are held in memory only, within a bound, and forgotten once the reference is
made. Nobody chose them: what they call normal may not be.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from gateway.monitor.firsttap import PART_BYTES, Part, array_of
from gateway.monitor.fit import Choices, Fitted, Rows, fit
from gateway.monitor.reference import ReferenceRefused, specs_of
from runtimes.tensors import Array, Signature, TensorSpec

MAX_BYTES: Final = 64 * 1024 * 1024
_TEXT_BYTES: Final = 64
"""Of each text, besides its letters."""
_ELSE: Final = "ask for fewer rows, or make a reference with `tidegate monitor fit`"


class FirstRows:
    """Room for the rows of one version.

    Args:
        wanted: rows.
        max_bytes: of what is held.

    Attributes:
        rows: that are there.
        bytes: that are held for all that are wanted; of texts for those that are there.
    """

    def __init__(self, wanted: int, max_bytes: int = MAX_BYTES) -> None:
        self.rows = 0
        self.bytes = 0
        self._wanted = wanted
        self._max_bytes = max_bytes
        self._signature: Signature | None = None
        self._columns: list[Array | None] = []

    @property
    def missing(self) -> int:
        """Rows that are still wanted."""
        return self._wanted - self.rows

    def take(self, part: Part) -> None:
        """Add rows; more than wanted is not kept.

        Raises:
            ReferenceRefused: no reference can be made of such rows, or there is no room for them.
        """
        if not part.batched:
            raise ReferenceRefused(
                "the model's inputs have no row dimension: make a reference with `tidegate monitor fit`"
            )
        if not part.columns:
            raise ReferenceRefused(f"expected rows of at most {PART_BYTES:,} bytes, got one of {part.row_bytes:,}")
        signature = Signature(specs_of(part.inputs), specs_of(part.outputs), batched=True)
        specs = (*signature.inputs, *signature.outputs)
        arrays = [
            None if column is None else array_of(column, spec) for column, spec in zip(part.columns, specs, strict=True)
        ]
        if self._signature is None:
            self._signature, self._columns = signature, self._rooms(arrays)
        self._fill(arrays, specs)

    def _rooms(self, arrays: Sequence[Array | None]) -> list[Array | None]:
        """Empty columns for all that are wanted; memory is used as they are filled."""
        row_bytes = sum(array.nbytes // len(array) for array in arrays if array is not None)
        self._hold(row_bytes * self._wanted, f"{self._wanted:,} rows of {row_bytes:,} bytes each")
        return [None if array is None else np.empty((self._wanted, *array.shape[1:]), array.dtype) for array in arrays]

    def _fill(self, arrays: Sequence[Array | None], specs: Sequence[TensorSpec]) -> None:
        given = [
            (room, array, spec)
            for room, array, spec in zip(self._columns, arrays, specs, strict=True)
            if room is not None and array is not None
        ]
        for room, array, spec in given:
            if room.shape[1:] != array.shape[1:]:
                before, now = list(room.shape[1:]), list(array.shape[1:])
                raise ReferenceRefused(f"rows of {spec.name!r} have the shape {before}, and {now} in a later request")
        if not given:
            raise ReferenceRefused("nothing to count: every input may be left out, and no output may be a score")
        count = min(self.missing, len(given[0][1]))
        texts = [array[:count].ravel().tolist() for _, array, _ in given if array.dtype == object]
        letters = sum(len(text) + _TEXT_BYTES for column in texts for text in column)
        self._hold(letters, f"{self.rows + count:,} of {self._wanted:,} rows with their texts")
        for room, array, _ in given:
            room[self.rows : self.rows + count] = array[:count]
        self.rows += count

    def _hold(self, more: int, what: str) -> None:
        self.bytes += more
        if self.bytes > self._max_bytes:
            found, most = self.bytes / 2**20, self._max_bytes / 2**20
            raise ReferenceRefused(f"{what} take {found:,.1f} MiB, and at most {most:,.0f} MiB are kept: {_ELSE}")

    def fitted(self, digest: str, choices: Choices) -> Fitted:
        """The provisional reference of what is there: without labels, groups and calibration.

        Raises ReferenceRefused: as `gateway.monitor.fit.fit`, or no rows.
        """
        if self._signature is None:
            raise ReferenceRefused("no rows yet")
        found = [None if column is None else column[: self.rows] for column in self._columns]
        inputs = len(self._signature.inputs)
        return fit(self._signature, digest, Rows(found[:inputs], found[inputs:]), choices, origin="first")
