"""Where the monitor sees requests: batches are noted on the hot path and counted later, in slices between requests.

Noting a batch keeps a reference to the arrays of its execution and copies nothing: they are never written again. It
does not keep the requests: memory that is not given back is memory that is cold (measured: 3 us of each request). What
waits is bounded; beyond that, rows are skipped and counted as skipped: the monitor never makes a request wait.
"""

import logging
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import numpy as np

from gateway.monitor.counting import Counter, Counts, empty
from gateway.monitor.plan import LABEL_BINS, ROWS, SKIPPED
from gateway.predictions import NO_MARK, TOLD_ROWS, mark, mark_of_rows
from runtimes.batching.gather import gather, rejoin
from runtimes.batching.job import Job
from runtimes.errors import ServingError
from runtimes.tensors import DYNAMIC, Array, Signature

WAITING_BYTES: Final = 16 * 1024 * 1024
"""What may wait of one variant: a worker counts 20 times a second. One batch may, whatever it weighs."""
WAITING_ROWS: Final = 65_536
_TEXT_BYTES: Final = 100
"""Of a text, as an estimate."""
_log: Final = logging.getLogger(__name__)
SLICE_ROWS: Final = 2_048
"""Rows that are counted together: 0.26 ms at 20 numbers each, 0.08 of them for however few rows, so slices are few: at
40,000 rows/s one each time that a worker counts. Requests wait for a step of it that comes before them, 0.03 ms."""

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
        self._waiting: deque[_Batch] = deque()
        self._rows = self._bytes = 0
        self._steps: Iterator[None] | None = None
        self._unread = [at for at in range(len(signature.inputs)) if at not in counter.reads]
        self._row_bytes = _row_bytes(signature, self._unread)
        fixed = all(DYNAMIC not in spec.shape[1:] and not spec.optional for spec in signature.inputs)
        self._together = fixed and signature.batched
        self._score = plan.score if plan.score_values and plan.score is not None and not plan.score.bf16 else None
        self._table = _table(self._score.threshold) if self._score is not None else []

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
        self._taken[0] += rows
        if self._rows and (self._rows + rows > WAITING_ROWS or self._bytes > WAITING_BYTES):
            self.counts[SKIPPED] += rows
            return
        if inputs is None:
            try:
                inputs = gather(jobs, self._signature)
            except (ServingError, ValueError):
                # Only what was executed comes here, so this is our own mistake; the count says that it happened.
                self.counts[SKIPPED] += rows
                return
        if self._unread:
            inputs = list(inputs)
            for at in self._unread:
                inputs[at] = None
        weight = self._row_bytes * rows or _bytes_of(inputs) + _bytes_of(outputs)
        self._rows += rows
        self._bytes += weight
        self._waiting.append((inputs, outputs, rows, self._by_row(jobs, rows) if self._groups else None, weight))

    def marks(self, jobs: Sequence[Job], outputs: Sequence[Array]) -> list[int] | None:
        """Score bins, decisions and group of each request, for its prediction id; None = not known."""
        score = self._score
        if score is None or score.output >= len(outputs):
            return None
        array = outputs[score.output]
        if array.ndim == 0 or array.dtype == object:
            return None
        rows = len(array)
        one_each = rows == len(jobs)
        if not one_each and not self._are_told(jobs, rows):
            return None
        flat = array.reshape(rows, -1)
        if score.column >= flat.shape[1]:
            return None
        scores = flat[:, max(score.column, 0)].tolist()
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
        if table and min(scores) >= 0.0:
            try:
                # A look-up each: this is on the way of every answer.
                return [table[int(value * LABEL_BINS)] for value in scores]
            except (IndexError, ValueError, OverflowError):
                pass  # above 1, NaN, infinite
        return [_mark(value, threshold) for value in scores]

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
        return going_on or bool(self._waiting)

    def finish(self) -> None:
        """Count all that waits, at once."""
        while self.work():
            pass

    def _slice(self) -> Iterator[None]:
        """The steps of counting a slice of what waits."""
        taken: list[_Batch] = []
        rows = weight = 0
        while self._waiting and rows < SLICE_ROWS:
            taken.append(self._waiting.popleft())
            rows += taken[-1][2]
            weight += taken[-1][4]
        if not taken:
            return
        try:
            found, before = empty(self._counter.plan), int(self.counts[ROWS])
            found[ROWS] = before  # it says which rows are sampled
            yield from self._add(taken, rows, found)
        except Exception:
            self.counts[SKIPPED] += rows
            raise
        finally:
            self._rows -= rows
            self._bytes -= weight
        # Odd while the counts are in motion: control never takes half a slice into a window.
        self._taken[1] += 1
        found[ROWS] -= before
        self.counts += found
        self._taken[1] += 1

    def _add(self, taken: Sequence[_Batch], rows: int, into: Counts) -> Iterator[None]:
        """Add batches to a vector: joined where they have one form, else one after the other."""
        if not self._together:
            for inputs, outputs, count, by_row, _ in taken:
                if not self._signature.batched:
                    inputs = [None if array is None else array.reshape(1, -1) for array in inputs]
                    outputs = [array.reshape(1, -1) for array in outputs]
                self._counter.count(inputs, outputs, _group_array(by_row, count), into)
                yield
            return
        inputs, outputs = taken[0][:2]
        if len(taken) > 1:
            inputs = [_joined(column) for column in zip(*(batch[0] for batch in taken), strict=True)]
            outputs = rejoin([batch[1] for batch in taken])
        groups = [group for _, _, _, by_row, _ in taken for group in by_row or ()]
        yield
        yield from self._counter.steps(inputs, outputs, _group_array(groups, rows), into)


def _group_array(groups: list[int] | None, rows: int) -> Counts:
    """Everybody is of the first group where there are none."""
    return np.array(groups, np.int64) if groups else np.zeros(rows, np.int64)


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


def _joined(column: Sequence[Array | None]) -> Array | None:
    """One input of several batches: there in all of them, for optional ones are not counted together, or in none."""
    found = [array for array in column if array is not None]
    return np.concatenate(found) if found else None


def _row_bytes(signature: Signature, unread: Sequence[int]) -> int:
    """Of a row that waits, with what refers to it; 0 = it depends."""
    read = [spec for at, spec in enumerate(signature.inputs) if at not in unread] + list(signature.outputs)
    shapes = [spec.shape[1:] if signature.batched else spec.shape for spec in read]
    if any(spec.optional or spec.datatype.dtype == object for spec in read) or any(DYNAMIC in one for one in shapes):
        return 0
    return 64 + sum(int(np.prod(one)) * spec.datatype.dtype.itemsize for one, spec in zip(shapes, read, strict=True))


def _bytes_of(arrays: Sequence[Array | None]) -> int:
    every = [array for array in arrays if array is not None]
    return sum([array.size * _TEXT_BYTES if array.dtype == object else array.nbytes for array in every])
