"""Where the monitor sees requests: rows are copied on the hot path and counted later, in slices between requests.

It keeps neither requests nor the arrays of their execution: memory that is not given back is memory that is cold
(measured: 3 us of each request). What waits is bounded; beyond that, rows are skipped and counted as skipped: the
monitor never makes a request wait.
"""

import logging
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final, cast

import numpy as np
from librt.strings import read_f32_le, read_f64_le

from gateway.monitor.counting import Counter, Counts, empty
from gateway.monitor.kept import TEXT_BYTES, Kept, bytes_of
from gateway.monitor.plan import LABEL_BINS, ROWS, SKIPPED
from gateway.predictions import NO_MARK, TOLD_ROWS, mark, mark_of_rows
from runtimes.batching.gather import gather
from runtimes.batching.job import Job
from runtimes.errors import ServingError
from runtimes.tensors import DYNAMIC, Array, Signature

if TYPE_CHECKING:
    from mypy_extensions import i64  # compiled code keeps these without an object

WAITING_BYTES: Final = 16 * 1024 * 1024
"""What may wait of one variant. One batch may, whatever it weighs."""
WAITING_ROWS: Final = 65_536
COPIED_BYTES: Final = 4_096
"""Of the rows of larger inputs the arrays wait themselves, a batch each."""
COPIED_SCORES: Final = 64
"""Numbers of a row of the score's output, likewise."""
_log: Final = logging.getLogger(__name__)
SLICE_ROWS: Final = 16_384
"""Rows that are counted together: 0.12 us each at 20 numbers, and 0.3 ms besides, for what is done five times a second
finds nothing in the cache. Requests wait for a step of it that comes before them, 0.05 ms."""
_SLICE_BYTES: Final = 2 * 1024 * 1024

_Batch = tuple[Sequence[Array | None], Sequence[Array], int, list[int] | None, int]
"""Inputs, outputs, rows, the group of each row, None = there are no groups, and bytes."""


class Tap:
    """The rows of one variant of one version on their way into its counts.

    Args:
        counter: of the version's plan.
        counts: [plan.size] in the worker's page.
        taken: two int64 in the page: rows noted, before they are counted (what a killed worker had noted and not
            counted is the difference), and a number that is odd while it counts.
        header: lower-case name of the header that names a row's group; b"" = none.
    """

    def __init__(
        self, counter: Counter, counts: Counts, taken: memoryview, signature: Signature, header: bytes = b""
    ) -> None:
        plan = counter.plan
        self.counts = counts
        self._counter = counter
        self._taken = taken
        self._signature = signature
        self._header = header
        self._groups = {name.encode(): index for index, name in enumerate(plan.groups)}
        self._others = len(plan.groups)
        self._kept: deque[Kept] = deque()
        self._spare: Kept | None = None
        self._apart: deque[_Batch] = deque()
        self._rows = self._bytes = 0
        self._steps: Iterator[None] | None = None
        self._unread = [at for at in range(len(signature.inputs)) if at not in counter.reads]
        self._output = plan.score.output if plan.score is not None else -1
        self._copies = _is_copied(signature, counter.reads)
        self._score = plan.score if plan.score_values and plan.score is not None and not plan.score.bf16 else None
        self._table = _table(self._score.threshold) if self._score is not None else []
        # What else stands there is no score; a plan may name an output that is not there.
        scores = signature.outputs[self._score.output :][:1] if self._score is not None else ()
        self._texts = any(spec.datatype.kind == "bytes" for spec in scores)
        alone = self._score is not None and self._score.column <= 0 and self._table
        dtypes = [spec.datatype.dtype for spec in scores if alone and spec.datatype.name in ("FP32", "FP64")]
        self._packed = dtypes[0] if dtypes else None
        self._is_short = self._packed == np.float32

    @property
    def rows(self) -> int:
        """That are not counted yet."""
        return self._rows

    @property
    def begun(self) -> bool:
        """Some of them are being counted."""
        return self._steps is not None

    def take(self, jobs: Sequence[Job], inputs: Sequence[Array | None] | None, outputs: Sequence[Array]) -> None:
        """Note a batch that was answered: the hot path's whole share.

        Args:
            inputs, outputs: the rows of these jobs, in their order; inputs None = each job still has its own.
        """
        rows = len(outputs[0]) if self._signature.batched else 1
        if not rows:
            return
        self._taken[0] += rows
        if self._rows and (self._rows + rows > WAITING_ROWS or self._bytes > WAITING_BYTES):
            self.counts[SKIPPED] += rows
            return
        groups = self._by_row(jobs, rows) if self._groups else None
        try:
            if inputs is None:
                inputs = gather(jobs, self._signature)
            self._bytes += self._keep(inputs, outputs, rows, groups)
            self._rows += rows
        except (ServingError, ValueError, TypeError, IndexError):
            # Only what was executed comes here, so this is our own mistake; the count says that it happened.
            self.counts[SKIPPED] += rows

    def _keep(
        self, inputs: Sequence[Array | None], outputs: Sequence[Array], rows: int, groups: list[int] | None
    ) -> int:
        """Let a batch wait; its bytes. Raises ValueError: arrays that have not its rows."""
        if self._copies and (self._output < 0 or outputs[self._output].size <= COPIED_SCORES * rows):
            if not self._kept or not self._kept[-1].add(inputs, outputs, rows, groups):
                self._kept.append(self._begun_with(inputs, outputs, rows, groups))
            return self._kept[-1].row_bytes * rows
        if self._unread:
            inputs = list(inputs)
            for at in self._unread:
                inputs[at] = None
        weight = sum([bytes_of(array) for array in (*inputs, *outputs) if array is not None])
        self._apart.append((inputs, outputs, rows, groups, weight))
        return weight

    def _begun_with(
        self, inputs: Sequence[Array | None], outputs: Sequence[Array], rows: int, groups: list[int] | None
    ) -> Kept:
        """A place for rows that holds this batch."""
        spare, self._spare = self._spare, None
        if spare is not None and spare.add(inputs, outputs, rows, groups):
            return spare
        read = [None if at in self._unread else array for at, array in enumerate(inputs)]
        scores = [array if at == self._output else None for at, array in enumerate(outputs)]
        each = sum([bytes_of(array) for array in (*read, *scores) if array is not None]) // max(1, rows)
        kept = Kept(read, scores, max(rows, min(SLICE_ROWS, _SLICE_BYTES // max(1, each))))
        if not kept.add(inputs, outputs, rows, groups):
            raise ValueError("a batch without its rows")
        return kept

    def marks(self, jobs: Sequence[Job], outputs: Sequence[Array]) -> list[int] | None:
        """Score bins, decisions and group of each request, for its prediction id; None = not known."""
        score = self._score
        if score is None or score.output >= len(outputs):
            return None
        array = outputs[score.output]
        if array.ndim == 0 or self._texts:
            return None
        rows = len(array)
        if rows == len(jobs) == array.size and array.dtype is self._packed:
            found = self._marks_in(array.tobytes(), rows, score.threshold)
        elif rows != len(jobs) and not self._are_told(jobs, rows):
            return None
        else:
            scores = _column(array, rows, score.column)
            if scores is None:
                return None
            one_each = rows == len(jobs)
            found = self._marks_of(scores, score.threshold) if one_each else self._of_requests(jobs, scores)
        if not self._groups:
            return found
        groups = self._by_row(jobs, len(jobs))
        return [one if one == NO_MARK else one | group << 2 for one, group in zip(found, groups, strict=True)]

    def _are_told(self, jobs: Sequence[Job], rows: int) -> bool:
        """Whether any of these requests, not all of one row, may have room in its id for its scores."""
        if not rows or (len(jobs) == 1 and rows > TOLD_ROWS):
            return False
        return self._signature.batched and sum([job.rows for job in jobs]) == rows

    def _of_requests(self, jobs: Sequence[Job], scores: list[float]) -> list[int]:
        """Marks of requests of which some have several rows, of the first group."""
        assert self._score is not None, "there are scores"
        threshold, marks_of = self._score.threshold, self._marks_of
        found: list[int] = []
        end = 0
        for job in jobs:
            begin, end = end, end + job.rows
            if job.rows == 1:
                found += marks_of(scores[begin:end], threshold)
            elif 2 <= job.rows <= TOLD_ROWS:
                found.append(mark_of_rows(marks_of(scores[begin:end], threshold)))
            else:
                found.append(NO_MARK)
        return found

    def _marks_of(self, scores: list[float], threshold: float) -> list[int]:
        """Marks of the first group."""
        table = self._table
        # Mostly a look-up each: this is on the way of every answer. What is below 0, above 1 or NaN is rare.
        return [
            table[int(value * LABEL_BINS)] if table and 0.0 <= value <= 1.0 else _mark(value, threshold)
            for value in scores
        ]

    def _marks_in(self, packed: bytes, rows: int, threshold: float) -> list[int]:
        """The same of numbers as they lie in memory, none of which becomes an object on the way of every answer."""
        is_short = self._is_short
        # Objects that are handed on as they are: as numbers each would be made anew.
        table = cast(list[object], self._table)
        found: list[object] = [None] * rows
        each: i64 = 4 if is_short else 8
        at: i64 = 0
        for row in range(rows):
            value = read_f32_le(packed, at) if is_short else read_f64_le(packed, at)
            found[row] = table[int(value * LABEL_BINS)] if 0.0 <= value <= 1.0 else _mark(value, threshold)
            at += each
        return cast(list[int], found)

    def _by_row(self, jobs: Sequence[Job], rows: int) -> list[int]:
        known, header, others = self._groups, self._header, self._others
        groups = [known.get(_headers(job).get(header, b""), others) for job in jobs]
        if len(jobs) == rows:
            return groups
        return [group for group, job in zip(groups, jobs, strict=True) for _ in range(job.rows)]

    # ---- between requests ----

    def work(self) -> bool:
        """Do a step of counting what waits; whether there are more.

        A mistake of ours skips the rows of its slice, which are counted as that, and the next slice is counted.
        """
        if self._steps is None:
            self._steps = self._slice()
        going_on = False
        try:
            for _ in self._steps:
                going_on = True
                break
        except Exception:
            _log.exception("monitor_slice_skipped")
        if not going_on:
            self._steps = None
        return going_on or bool(self._kept) or bool(self._apart)

    def finish(self) -> None:
        """Count all that waits, at once."""
        while self.work():
            pass

    def _slice(self) -> Iterator[None]:
        """The steps of counting a slice of what waits."""
        kept = self._kept.popleft() if self._kept else None
        batches = self._some_batches() if kept is None else []
        rows = sum([batch[2] for batch in batches]) if kept is None else kept.rows
        weight = sum([batch[4] for batch in batches]) if kept is None else kept.rows * kept.row_bytes
        try:
            found, before = empty(self._counter.plan), int(self.counts[ROWS])
            found[ROWS] = before  # it says which rows are sampled
            if kept is not None:
                yield
                yield from self._counter.steps(kept.inputs(), kept.outputs(), kept.groups(), found)
            for batch in batches:
                self._count_alone(batch, found)
                yield
        except Exception:
            self.counts[SKIPPED] += rows
            raise
        finally:
            self._rows -= rows
            self._bytes -= weight
            if kept is not None and kept.size * kept.row_bytes <= 2 * _SLICE_BYTES:
                kept.clear()
                self._spare = kept
        # Odd while the counts are in motion: control never takes half a slice into a window.
        self._taken[1] += 1
        found[ROWS] -= before
        self.counts += found
        self._taken[1] += 1

    def _some_batches(self) -> list[_Batch]:
        """Those of a slice, in which each is counted by itself."""
        found: list[_Batch] = []
        rows = 0
        while self._apart and rows < SLICE_ROWS:
            found.append(self._apart.popleft())
            rows += found[-1][2]
        return found

    def _count_alone(self, batch: _Batch, into: Counts) -> None:
        inputs, outputs, rows, groups, _ = batch
        if not self._signature.batched:
            inputs = [None if array is None else array.reshape(1, -1) for array in inputs]
            outputs = [array.reshape(1, -1) for array in outputs]
        self._counter.count(inputs, outputs, _group_array(groups, rows), into)


def _group_array(groups: list[int] | None, rows: int) -> Counts:
    """Everybody is of the first group where there are none."""
    return np.array(groups, np.int64) if groups else np.zeros(rows, np.int64)


def _column(array: Array, rows: int, column: int) -> list[float] | None:
    """A score of each row; None = there is no such column."""
    if column <= 0 and array.size == rows:
        # Mostly it is alone, and this is on the way of every answer.
        return array.ravel().tolist()
    flat = array.reshape(rows, -1)
    return flat[:, max(column, 0)].tolist() if column < flat.shape[1] else None


def _headers(job: Job) -> Mapping[bytes, bytes]:
    found: Mapping[bytes, bytes] = getattr(job, "headers", {})
    return found


def _mark(score: float, threshold: float) -> int:
    """The mark of a score, of the first group."""
    if score != score:  # NaN
        return NO_MARK
    place = LABEL_BINS - 1 if score >= 1.0 else int(score * LABEL_BINS) if score > 0.0 else 0
    return mark(place, 1 if score >= threshold else 0, 0)


def _table(threshold: float) -> list[int]:
    """Marks by label bin, a score of 1 the last; none where the threshold lies within a bin."""
    edge = threshold * LABEL_BINS
    if edge != int(edge):
        return []
    found = [mark(place, int(place >= edge), 0) for place in range(LABEL_BINS)]
    return [*found, mark(LABEL_BINS - 1, int(threshold <= 1.0), 0)]


def _is_copied(signature: Signature, reads: Collection[int]) -> bool:
    """Whether rows have one form and are small."""
    specs = [spec for at, spec in enumerate(signature.inputs) if at in reads]
    if not signature.batched or any(DYNAMIC in spec.shape[1:] or spec.optional for spec in specs):
        return False
    sizes = [(int(np.prod(spec.shape[1:])), spec.datatype.dtype) for spec in specs]
    return sum([size * (TEXT_BYTES if dtype.kind == "O" else dtype.itemsize) for size, dtype in sizes]) <= COPIED_BYTES
