"""Where the monitor sees requests: batches are noted on the hot path and counted later, in slices between requests.

Noting a batch keeps a reference to it and copies nothing: what was executed and answered is never written again. What
waits is bounded; beyond that, rows are skipped and counted as skipped: the monitor never makes a request wait.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from gateway.monitor.counting import Counter, Counts
from gateway.monitor.plan import SKIPPED
from gateway.monitor.realised import LABEL_BINS
from gateway.predictions import NO_MARK, mark
from runtimes.batching.gather import gather, rejoin
from runtimes.batching.job import Job
from runtimes.errors import ServingError
from runtimes.tensors import DYNAMIC, Array, Signature

WAITING_BYTES: Final = 16 * 1024 * 1024
"""What may wait of one variant, as an estimate: a worker counts 20 times a second."""
WAITING_ROWS: Final = 65_536
SLICE_ROWS: Final = 1_024
"""Rows that are counted at once: 0.3 ms at 20 numbers each."""


class Tap:
    """The rows of one variant of one version on their way into its counts.

    Args:
        counter: of the version's plan.
        counts: [plan.size] in the worker's page.
        taken: one int64 in the page: rows noted, before they are counted. What a killed worker had noted and not
            counted is the difference.
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
        self._waiting: deque[tuple[Sequence[Job], Sequence[Array]]] = deque()
        self._rows = 0
        self._most = _most_rows(signature)
        fixed = all(DYNAMIC not in spec.shape[1:] and not spec.optional for spec in signature.inputs)
        self._together = fixed and signature.batched
        self._score = plan.score if plan.score_values and plan.score is not None and not plan.score.bf16 else None

    @property
    def rows(self) -> int:
        """That wait to be counted."""
        return self._rows

    def take(self, jobs: Sequence[Job], outputs: Sequence[Array], rows: int) -> None:
        """Note a batch that was answered: the hot path's whole share."""
        self._taken[0] += rows
        if self._rows + rows > self._most:
            self.counts[SKIPPED] += rows
            return
        self._rows += rows
        self._waiting.append((jobs, outputs))

    def marks(self, jobs: Sequence[Job], outputs: Sequence[Array]) -> list[int] | None:
        """Score bin, decision and group of each request of one row, for its prediction id; None = not known."""
        score = self._score
        if score is None or score.output >= len(outputs):
            return None
        array = outputs[score.output]
        if array.ndim == 0 or len(array) != len(jobs) or array.dtype == object:
            return None
        flat = array.reshape(len(jobs), -1)
        if score.column >= flat.shape[1]:
            return None
        threshold = score.threshold
        scores = flat[:, max(score.column, 0)].tolist()
        if not self._groups:
            return [_mark(value, threshold, 0) for value in scores]
        return [_mark(value, threshold, self._group(job)) for value, job in zip(scores, jobs, strict=True)]

    def _group(self, job: Job) -> int:
        headers: Mapping[bytes, bytes] = getattr(job, "headers", {})
        return self._groups.get(headers.get(self._header, b""), self._others)

    # ---- between requests ----

    def work(self) -> bool:
        """Count a slice of what waits; whether more does."""
        jobs: list[Job] = []
        outputs: list[Sequence[Array]] = []
        rows = 0
        while self._waiting and rows < SLICE_ROWS:
            batch, answers = self._waiting.popleft()
            jobs += batch
            outputs.append(answers)
            rows += sum([job.rows for job in batch])
            if not self._together:
                break
        if jobs:
            self._rows -= rows
            self._count(jobs, outputs, rows)
        return bool(self._waiting)

    def _count(self, jobs: Sequence[Job], outputs: Sequence[Sequence[Array]], rows: int) -> None:
        try:
            inputs: Sequence[Array | None] = gather(jobs, self._signature)
            answers = list(outputs[0]) if len(outputs) == 1 else rejoin(outputs)
        except (ServingError, ValueError):
            # Only what was executed comes here, so this is our own mistake; the count says that it happened.
            self.counts[SKIPPED] += rows
            return
        if not self._signature.batched:
            inputs = [None if array is None else array.reshape(1, -1) for array in inputs]
            answers = [array.reshape(1, -1) for array in answers]
        self._counter.count(inputs, answers, self._groups_of(jobs, rows), self.counts)

    def _groups_of(self, jobs: Sequence[Job], rows: int) -> np.ndarray:
        if not self._groups:
            return np.zeros(rows, np.int64)
        groups = np.array([self._group(job) for job in jobs], np.int64)
        return groups if len(jobs) == rows else np.repeat(groups, [job.rows for job in jobs])


def _mark(score: float, threshold: float, group: int) -> int:
    if score != score:  # NaN
        return NO_MARK
    place = LABEL_BINS - 1 if score >= 1.0 else int(score * LABEL_BINS) if score > 0.0 else 0
    return mark(place, 1 if score >= threshold else 0, group)


def _most_rows(signature: Signature) -> int:
    """Rows that may wait; each is its request as it came, about 20 bytes a number, and 2 KiB around it."""
    numbers = sum(int(np.prod([max(size, 1) for size in spec.shape[1:]])) for spec in signature.inputs)
    return max(1_024, min(WAITING_ROWS, WAITING_BYTES // (20 * numbers + 2_048)))
