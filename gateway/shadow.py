"""Shadow: a copy of a request, executed on another variant after its answer, and compared with it tensor by tensor.

Never in anybody's way: the copy is made after the outputs are there, waits behind all callers, is dropped when too
many wait or shadows take too much of the loop, and nobody hears of its failure but the counts. What it says about a
variant is counted in the worker's page (`FIELDS`); inputs and outputs are kept only where a policy asks for samples
(`gateway.samples`).
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from gateway.counters import CounterPage
from gateway.exchange import Exchange
from gateway.meter import Meter
from gateway.served import Codec, ServedVersion
from gateway.shadowfields import (
    ARGMAX,
    CLASSES,
    COMPARED,
    DISAGREED,
    DROPPED,
    FAILED,
    FIELDS,
    MATRIX,
    MICRO,
    ROWS,
    SHIFT,
    SHIFT_BINS,
    SHIFT_SQUARED,
    SHIFTS,
    TOLERANCE,
    TOPK,
)
from runtimes.batching.job import DONE
from runtimes.errors import ServingError
from runtimes.tensors import Array, Signature, f32_from_bf16

if TYPE_CHECKING:
    from gateway.samples import Sampler

Floats = npt.NDArray[np.float64]
Wholes = npt.NDArray[np.int64]
_SHARE: Final = 0.2
"""Of the loop's time, for all executions of shadows on this worker."""
_TIME_S: Final = 5
_BURST_NS: Final = 50_000_000
_NONE: Final = np.zeros(0, np.int64)
_log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Comparison:
    """When two answers agree.

    Attributes:
        argmax: the largest value of each row stands at the same place.
        atol, rtol: |a - b| <= atol + rtol |b| for every value; None = not asked.
        topk: the k largest of each row are the same ones; 0 = not asked.
    """

    argmax: bool = True
    atol: float | None = None
    rtol: float | None = None
    topk: int = 0


@dataclass(frozen=True, slots=True)
class Difference:
    """What a comparison found, in rows.

    Attributes:
        shifts: the score's, of each row.
        classes: rows by CLASSES x the class that was answered + the shadow's; [] = the outputs have no classes.
        where: of each row, whether it is outside what was asked.
    """

    rows: int
    argmax: int
    tolerance: int
    topk: int
    shifts: Array
    where: Array
    classes: Array

    @property
    def disagrees(self) -> bool:
        """Any row is outside what was asked."""
        return bool(self.argmax or self.tolerance or self.topk)

    @property
    def why(self) -> list[str]:
        """What of that was asked."""
        counts = (("argmax", self.argmax), ("tolerance", self.tolerance), ("topk", self.topk))
        return [name for name, count in counts if count]


def compare(theirs: Sequence[Array], ours: Sequence[Array], signature: Signature, wanted: Comparison) -> Difference:
    """Compare a shadow's outputs with the primary's, for the same rows.

    Shapes: equal lists of arrays with the rows in dim 0; other shapes, and other numbers of outputs, disagree wholly.
    An output with another dim 0 than the first is one of all rows: it differs for all or none.
    Values that are not finite agree with the same such value.
    """
    rows = (len(ours[0]) if ours and ours[0].ndim else 0) or 1
    argmax = np.zeros(rows, bool)
    tolerance = np.zeros(rows, bool)
    topk = np.zeros(rows, bool)
    shifts = np.zeros(rows)
    classes: Array = _NONE
    if not all(map(_alike, theirs, ours)) or len(theirs) != len(ours):
        every = np.ones(rows, bool)
        return Difference(rows, rows * wanted.argmax, rows, rows if wanted.topk else 0, shifts, every, classes)
    for index, (b, a) in enumerate(zip(ours, theirs, strict=True)):
        if a.dtype == object or a.dtype.kind == "b":
            tolerance |= _unequal(a, b, rows)
            continue
        x, y = _numbers(a, signature, index, rows), _numbers(b, signature, index, rows)
        if wanted.atol is not None or wanted.rtol is not None:
            tolerance |= ~_close(x, y, wanted).all(axis=1)
        largest = _classes(x), _classes(y)
        if wanted.argmax and x.shape[1] > 1:
            argmax |= largest[0] != largest[1]
        if not classes.size and largest[0] is not None and largest[1] is not None:
            classes = _matrix(largest[1], largest[0])
        if 0 < wanted.topk < x.shape[1]:
            topk |= _other_top(_floats(x), _floats(y), wanted.topk)
        if index == 0 and x.shape[1]:
            with np.errstate(invalid="ignore"):
                shifts = np.nan_to_num(_floats(x[:, -1]) - _floats(y[:, -1]), nan=0.0, posinf=1.0, neginf=-1.0)
    where = argmax | tolerance | topk
    return Difference(rows, int(argmax.sum()), int(tolerance.sum()), int(topk.sum()), shifts, where, classes)


def _classes(values: Array) -> Array | None:
    """The class of each row: where its largest value stands, or a whole number that stands alone; None = neither."""
    if values.shape[1] > 1:
        largest: Array = values.argmax(axis=1)
        return largest
    return values[:, 0] if values.shape[1] == 1 and values.dtype.kind in "iu" else None


def _matrix(answered: Array, shadows: Array) -> Array:
    places = CLASSES * _few(answered) + _few(shadows)
    found: Array = np.bincount(places, minlength=CLASSES**2)
    return found


def _few(classes: Array) -> Wholes:
    """All from the last one on, and negative ones, are one class."""
    last = CLASSES - 1
    found: Wholes = np.where(np.isin(classes, range(last)), classes, last).astype(np.int64)
    return found


def _alike(a: Array, b: Array) -> bool:
    return a.shape == b.shape and (a.dtype == object) == (b.dtype == object)


def _numbers(array: Array, signature: Signature, index: int, rows: int) -> Array:
    """Rows of numbers; whole ones as they are, for float64 does not tell those above 2^53 apart."""
    if signature.outputs[index].datatype.name == "BF16":
        array = f32_from_bf16(array.view(np.uint16))
    return _by_row(array if array.dtype.kind in "iu" else _floats(array), rows)


def _by_row(array: Array, rows: int) -> Array:
    """Values of each row; all together where the rows are not in dim 0."""
    rows = rows if array.ndim and len(array) == rows else 1
    return array.reshape(rows, array.size // rows)


def _floats(array: Array) -> Floats:
    return np.asarray(array, dtype=np.float64)


def _close(x: Array, y: Array, wanted: Comparison) -> Array:
    rtol, atol = wanted.rtol or 0.0, wanted.atol or 0.0
    found: Array
    if x.dtype != y.dtype or x.dtype.kind not in "iu":
        found = np.isclose(_floats(x), _floats(y), rtol=rtol, atol=atol, equal_nan=True)
        return found
    wide = np.dtype(np.int64 if x.dtype.kind == "i" else np.uint64)
    high, low = (one(x, y).astype(wide).view(np.uint64) for one in (np.maximum, np.minimum))
    # Modulo 2^64, so it is exact.
    found = high - low <= atol + rtol * np.abs(_floats(y))
    return found


def _unequal(a: Array, b: Array, rows: int) -> Array:
    found: Array = (_by_row(a, rows) != _by_row(b, rows)).any(axis=1)
    return found


def _other_top(x: Floats, y: Floats, k: int) -> Array:
    top = [np.sort(np.argsort(-values, axis=1, kind="stable")[:, :k], axis=1) for values in (x, y)]
    found: Array = (top[0] != top[1]).any(axis=1)
    return found


class _Copy(Exchange):
    """A copy of a request on its way through the shadow's runtime.

    Attributes:
        primary: outputs of the answer that was given.
    """

    primary: Sequence[Array] = ()


class Shadow(ServedVersion):
    """Executes copies on one variant and counts how they compare.

    Args:
        variant: its index in the policy; requests that it answered itself are not copied.
        most_inflight: copies that wait or run on this worker.
        samples: takes requests that were answered otherwise; None = the policy asks for none.
        now_ms: Unix time.
    """

    def __init__(
        self,
        codec: Codec,
        variant: int,
        wanted: Comparison,
        *,
        counts: memoryview,
        most_inflight: int,
        now_ns: Callable[[], int],
        now_ms: Callable[[], int],
        samples: "Sampler | None" = None,
    ) -> None:
        self.codec = codec
        self.runtime = codec.runtime
        self.meter: Meter = codec.meter("shadow")
        self.evidence = None
        self.inflight = 0
        self._variant = variant
        self._wanted = wanted
        self._counts = counts
        self._most = most_inflight
        self._now_ns = now_ns
        self._now_ms = now_ms
        self._samples = samples
        self._mistaken = False
        self._credit_ns = float(_BURST_NS)
        self._credited_ns = 0

    def offer(self, jobs: Sequence[Exchange], outputs: Sequence[Array], variant: int) -> None:
        """Copy those of the jobs that the policy wants copied; their outputs are about to be answered."""
        if variant == self._variant:
            return
        row = 0
        for job in jobs:
            if job.rows and job.placed is not None and job.placed.shadowed:
                own = outputs if len(jobs) == 1 else [array[row : row + job.rows] for array in outputs]
                self._submit(job, own)
            row += job.rows

    def _submit(self, job: Exchange, outputs: Sequence[Array]) -> None:
        now = self._now_ns()
        self._earn(now)
        if self.inflight >= self._most or self._credit_ns <= 0 or self.runtime.state != "READY":
            self._counts[DROPPED] += 1
            return
        copy = _Copy()
        copy.served = self
        copy.inputs, copy.rows, copy.size_bytes, copy.bucket = job.inputs, job.rows, job.size_bytes, job.bucket
        copy.deadline_ns = now + _TIME_S * 1_000_000_000
        copy.started_ns = now
        copy.request_id, copy.placed = job.request_id, job.placed
        # Copies, because a view would keep the whole batch.
        copy.primary = [array.copy() for array in outputs]
        try:
            self.runtime.batcher.submit_behind(copy, now)
        except ServingError:
            self._counts[DROPPED] += 1
            return
        self.inflight += 1

    def _earn(self, now: int) -> None:
        earned = _SHARE * (now - self._credited_ns) if self._credited_ns else 0.0
        self._credit_ns = min(float(_BURST_NS), self._credit_ns + earned)
        self._credited_ns = now

    def completed(
        self,
        jobs: Sequence[Exchange],
        outputs: Sequence[Array],
        started_ns: int,
        inputs: Sequence[Array | None] | None = None,
    ) -> None:
        """Compare each copy with the answer that was given."""
        begun = self._now_ns()
        row = 0
        for job in jobs:
            own = outputs if len(jobs) == 1 else [array[row : row + job.rows] for array in outputs]
            row += job.rows
            if job.state == DONE:
                continue
            job.state = DONE
            self.inflight -= 1
            assert isinstance(job, _Copy), "nothing else waits here"
            try:
                self._compare(job, own)
            except Exception as mistake:
                self._not_compared(mistake)
        # The execution, roughly, and all of the comparison.
        self._credit_ns -= self._now_ns() - begun + self.runtime.batcher.cost.predict_ns(row)

    def _compare(self, job: _Copy, own: Sequence[Array]) -> None:
        found = compare(own, job.primary, self.runtime.signature, self._wanted)
        self._count(found)
        if self._samples is not None and found.disagrees:
            places = np.flatnonzero(found.where).tolist()
            self._samples.take(job, (job.primary, own), found.why, places, now_ms=self._now_ms())

    def _not_compared(self, mistake: Exception) -> None:
        """A mistake of ours, in a turn of the batcher: the copies behind it, and callers, have theirs all the same."""
        self._counts[DROPPED] += 1
        if not self._mistaken:
            # Its text might hold what a caller sent.
            _log.error("shadow_not_compared", extra={"facts": {"reason": type(mistake).__name__}})
        self._mistaken = True

    def _count(self, found: Difference) -> None:
        counts = self._counts
        counts[COMPARED] += 1
        counts[DISAGREED] += found.disagrees
        counts[ROWS] += found.rows
        counts[ARGMAX] += found.argmax
        counts[TOLERANCE] += found.tolerance
        counts[TOPK] += found.topk
        clipped = np.clip(found.shifts, -1.0, 1.0)
        counts[SHIFT] += int(clipped.sum() * MICRO)
        counts[SHIFT_SQUARED] += int((clipped**2).sum() * MICRO)
        for place in np.rint((clipped + 1) * (SHIFT_BINS // 2)).astype(int).tolist():
            counts[SHIFTS + place] += 1
        for place, rows in enumerate(found.classes.tolist()):
            counts[MATRIX + place] += rows

    def failed(self, exchange: Exchange, error: ServingError) -> None:
        """A copy failed: counted, and nobody hears of it. Its execution took time like any other."""
        if error.executed:
            begun = self._now_ns()
            if self._samples is not None and isinstance(exchange, _Copy):
                given, places, now_ms = (exchange.primary,), range(exchange.rows), self._now_ms()
                self._samples.take(exchange, given, ("failed",), places, now_ms=now_ms, error=error.message)
            self._credit_ns -= self._now_ns() - begun + self.runtime.batcher.cost.predict_ns(exchange.rows)
        self._counts[FAILED if error.executed else DROPPED] += 1
        exchange.state = DONE
        self.inflight -= 1


def shadow_counts(page: CounterPage, model: str, revision: int, variant: str) -> memoryview:
    """The counts of one variant's shadow in one revision of a policy; nobody sees those that find no room."""
    block = page.block("shadow", (model, str(revision), variant), len(FIELDS))
    return block if len(block) == len(FIELDS) else memoryview(bytearray(8 * len(FIELDS))).cast("q")
