"""The first rows of a version on their way to control, which makes a provisional reference of them.

The one place where the monitor takes values and not counts: only of a version that control wants rows of, and only
until it has enough. Noting a batch keeps a reference to its arrays, as `gateway.monitor.tap` does; what waits is
bounded, and what finds no room is passed over. Inputs that may be left out belong to no row and are not taken; of the
outputs only those that may be a score are.
"""

from collections import deque
from collections.abc import Sequence
from itertools import chain
from typing import Final

import msgspec
import numpy as np

from gateway.monitor.reference import Tensor, tensors_of
from runtimes.batching.gather import gather
from runtimes.batching.job import Job
from runtimes.errors import ServingError
from runtimes.tensors import DYNAMIC, Array, Signature, TensorSpec

PART_ROWS: Final = 1_024
"""Rows that are sent at once: 1 ms at 20 numbers each."""
PART_BYTES: Final = 4 * 1024 * 1024
"""And bytes; a row that has more is not sent. A frame of the link has at most 64 MiB."""
WAITING_BYTES: Final = 16 * 1024 * 1024
"""What may wait, as an estimate: a part is sent 20 times a second."""
_TEXT_BYTES: Final = 100
_Columns = list[Array | None]
"""Inputs, then outputs; None = not taken."""


class Column(msgspec.Struct, frozen=True, array_like=True):
    """One tensor of some rows.

    Attributes:
        data: numbers as they are in memory, or texts.
    """

    shape: tuple[int, ...]
    data: bytes | list[bytes]


class Part(msgspec.Struct, frozen=True, array_like=True):
    """Some rows, and what their model takes and gives.

    Attributes:
        columns: inputs, then outputs; None = not taken. Empty where the rows cannot be sent.
        row_bytes: of a row that is too large to be sent.
    """

    batched: bool
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    columns: tuple[Column | None, ...] = ()
    row_bytes: int = 0


class FirstTap:
    """The rows of one version, of all its variants, until control has enough.

    Args:
        wanted: rows.

    Attributes:
        rows: that wait to be sent.
        sending: somebody takes parts.
    """

    def __init__(self, signature: Signature, wanted: int) -> None:
        self.rows = 0
        self.sending = False
        self._signature = signature
        self._wanted = wanted
        self._specs = (*signature.inputs, *signature.outputs)
        self._taken = [*(not spec.optional for spec in signature.inputs), *map(_may_be_score, signature.outputs)]
        taken = [spec for spec, is_taken in zip(self._specs, self._taken, strict=True) if is_taken]
        self._joinable = all(DYNAMIC not in spec.shape[1:] for spec in taken)
        self._waiting: deque[tuple[_Columns, int]] = deque()
        self._bytes = 0

    def take(self, jobs: Sequence[Job], inputs: Sequence[Array | None] | None, outputs: Sequence[Array]) -> None:
        """Note a batch that was answered. See `gateway.monitor.tap.Tap.take`."""
        rows = len(outputs[0]) if self._signature.batched else 1
        if not rows or self.rows >= self._wanted or self._bytes >= WAITING_BYTES:
            return
        if inputs is None:
            try:
                inputs = gather(jobs, self._signature)
            except (ServingError, ValueError):
                return  # as in `Tap.take`
        found = zip((*inputs, *outputs), self._taken, strict=False)
        columns = [array if is_taken else None for array, is_taken in found]
        lengths = [len(array) if array.ndim else 1 for array in columns if array is not None]
        if len(columns) == len(self._taken) and (not self._signature.batched or set(lengths) <= {rows}):
            self._note(columns, rows)

    def _note(self, columns: _Columns, rows: int, *, in_front: bool = False) -> None:
        (self._waiting.appendleft if in_front else self._waiting.append)((columns, rows))
        self.rows += rows
        self._bytes += _estimated(columns)

    def marks(self, jobs: Sequence[Job], outputs: Sequence[Array]) -> list[int] | None:
        """Nothing is known of scores yet."""
        return None

    # ---- between requests ----

    def wants(self, rows: int) -> None:
        """Control wants so many more; 0 = it has enough, and what waits is forgotten."""
        self._wanted = rows
        if not rows:
            self._waiting.clear()
            self.rows = self._bytes = 0

    def part(self) -> bytes | None:
        """The next rows, as `read` reads them; None = none wait."""
        batches: list[_Columns] = []
        rows = 0
        while self._waiting and rows < PART_ROWS and (self._joinable or not batches):
            columns, count = self._waiting.popleft()
            batches.append(columns)
            rows += count
            self._bytes -= _estimated(columns)
        if not batches:
            return None
        self.rows -= rows
        signature = self._signature
        about = Part(signature.batched, tensors_of(signature.inputs), tensors_of(signature.outputs))
        if not signature.batched:
            return msgspec.msgpack.encode(about)
        joined = [_joined([batch[at] for batch in batches]) for at in range(len(self._specs))]
        for at in range(len(signature.inputs), len(joined)):
            output = joined[at]
            if output is not None and int(np.prod(output.shape[1:])) not in (1, 2):
                joined[at] = None  # its width was not known before
        keep = rows
        while (size := _bytes_of(joined, keep)) > PART_BYTES and keep > 1:
            keep = (keep + 1) // 2
        if size > PART_BYTES:
            return msgspec.msgpack.encode(msgspec.structs.replace(about, row_bytes=size))
        if keep < rows:
            self._note([None if array is None else array[keep:] for array in joined], rows - keep, in_front=True)
        written = tuple(map(_written, self._specs, _first(joined, keep)))
        return msgspec.msgpack.encode(msgspec.structs.replace(about, columns=written))


def read(data: bytes) -> Part:
    """What `FirstTap.part` gave."""
    return msgspec.msgpack.decode(data, type=Part)


def array_of(column: Column, spec: TensorSpec) -> Array:
    """The tensor again."""
    if isinstance(column.data, bytes):
        return np.frombuffer(column.data, spec.datatype.dtype).reshape(column.shape)
    array = np.empty(len(column.data), object)
    array[:] = column.data
    return array.reshape(column.shape)


def _may_be_score(spec: TensorSpec) -> bool:
    """As `gateway.monitor.fit.score_place` finds it: a float, or two, a row."""
    return spec.datatype.kind == "float" and (DYNAMIC in spec.shape[1:] or int(np.prod(spec.shape[1:])) in (1, 2))


def _joined(arrays: list[Array | None]) -> Array | None:
    given = [array for array in arrays if array is not None]
    return np.concatenate(given) if len(given) > 1 else given[0] if given else None


def _first(columns: _Columns, rows: int) -> _Columns:
    return [None if array is None else array[:rows] for array in columns]


def _estimated(columns: _Columns) -> int:
    return sum(
        array.size * _TEXT_BYTES if array.dtype == object else array.nbytes for array in columns if array is not None
    )


def _bytes_of(columns: _Columns, rows: int) -> int:
    found = [array for array in _first(columns, rows) if array is not None]
    texts = chain.from_iterable(array.ravel().tolist() for array in found if array.dtype == object)
    return sum(array.nbytes for array in found) + sum(map(len, texts))


def _written(spec: TensorSpec, array: Array | None) -> Column | None:
    if array is None:
        return None
    if array.dtype == object:
        texts = array.ravel().tolist()
        return Column(array.shape, [text if isinstance(text, bytes) else str(text).encode() for text in texts])
    return Column(array.shape, array.astype(spec.datatype.dtype, copy=False).tobytes())
