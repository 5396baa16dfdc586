"""Counts of one model version under one variant: plain adds on the worker's shared page.

The layout is `gateway.counters`; the metrics page and Triton's statistics are made from it in control.
"""

from bisect import bisect_left
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from gateway.counters import (
    BATCH_ROWS,
    BATCH_STATS,
    CODE_INDEX,
    COMPUTE_INFER_NS,
    COMPUTE_INPUT_NS,
    COMPUTE_OUTPUT_NS,
    CPU_NS,
    DURATION_BOUNDS_NS,
    EXECUTION_DURATION,
    EXECUTIONS,
    FAIL,
    FAIL_NS,
    FAILED_RUN,
    INFERENCES,
    INFLIGHT,
    LAST_INFERENCE_MS,
    MODEL_VALUES,
    QUEUE_DURATION,
    QUEUE_NS,
    QUEUE_ROWS,
    REASON_INDEX,
    REQUEST_DURATION,
    ROWS_BOUNDS,
    SUCCESS_NS,
    TERMINATED,
    CounterPage,
)
from runtimes.batching.batcher import Executed
from runtimes.errors import QueueFull, ServingError
from runtimes.runtime import Runtime

if TYPE_CHECKING:
    from gateway.exchange import Exchange

_SUM: Final = len(DURATION_BOUNDS_NS) + 1
_ROWS_SUM: Final = len(ROWS_BOUNDS) + 1
_REASON_OF_CODE: Final = {"deadline_exceeded": "expired", "draining": "draining", "model_not_ready": "not_ready"}


class Meter:
    """What is counted for one runtime and variant; every method is plain adds.

    Attributes:
        inflight: requests begun and not ended.
    """

    def __init__(self, runtime: Runtime, variant: str, page: CounterPage) -> None:
        self.inflight = 0
        self._runtime = runtime
        self._counts = page.block("model", (runtime.name, runtime.version_text, variant), MODEL_VALUES)

    def executed(self, jobs: int, executed: Executed) -> None:
        """One execution of so many jobs."""
        counts, rows = self._counts, executed.rows
        counts[EXECUTIONS] += 1
        counts[EXECUTION_DURATION + bisect_left(DURATION_BOUNDS_NS, executed.run_ns)] += 1
        counts[EXECUTION_DURATION + _SUM] += executed.run_ns
        counts[BATCH_ROWS + bisect_left(ROWS_BOUNDS, rows)] += 1
        counts[BATCH_ROWS + _ROWS_SUM] += rows
        counts[COMPUTE_INPUT_NS] += executed.gather_ns * jobs
        counts[COMPUTE_INFER_NS] += executed.run_ns * jobs
        counts[CPU_NS] += executed.cpu_ns
        at = BATCH_STATS + 4 * (rows if rows <= 128 else 0)
        counts[at] += 1
        counts[at + 1] += executed.gather_ns
        counts[at + 2] += executed.run_ns

    def answered(self, jobs: "Sequence[Exchange]", started_ns: int, now: int, encode_ns: int, now_ms: int) -> None:
        """Answers of one batch, together.

        Args:
            started_ns: when the batch left the queue.
        """
        counts, answered = self._counts, len(jobs)
        self.inflight -= answered
        counts[INFLIGHT] = self.inflight
        counts[QUEUE_ROWS] = self._runtime.batcher.queue.rows
        if not answered:
            return
        durations = [now - job.started_ns for job in jobs]
        waits = [started_ns - job.enqueued_ns for job in jobs]
        duration_sum, wait_sum = sum(durations), sum(waits)
        _observe(counts, REQUEST_DURATION, durations)
        _observe(counts, QUEUE_DURATION, waits)
        counts[REQUEST_DURATION + _SUM] += duration_sum
        counts[QUEUE_DURATION + _SUM] += wait_sum
        counts[CODE_INDEX[200]] += answered
        rows = sum([job.rows for job in jobs])
        counts[INFERENCES] += rows
        counts[BATCH_STATS + 4 * (rows if rows <= 128 else 0) + 3] += encode_ns
        counts[SUCCESS_NS] += duration_sum
        counts[QUEUE_NS] += wait_sum
        counts[COMPUTE_OUTPUT_NS] += encode_ns * answered
        counts[LAST_INFERENCE_MS] = now_ms

    def refused(self, status: int, error: ServingError, duration_ns: int) -> None:
        """An answer that is an error, whenever it came about."""
        counts = self._counts
        self.left()
        counts[CODE_INDEX.get(status, CODE_INDEX[500])] += 1
        counts[FAIL] += 1
        counts[FAIL_NS] += duration_ns
        if error.executed:
            counts[FAILED_RUN] += 1
        counts[REQUEST_DURATION + bisect_left(DURATION_BOUNDS_NS, duration_ns)] += 1
        counts[REQUEST_DURATION + _SUM] += duration_ns
        counts[TERMINATED] = self._runtime.terminations
        reason = error.reason if isinstance(error, QueueFull) else _REASON_OF_CODE.get(error.code)
        if reason is not None:
            counts[REASON_INDEX[reason]] += 1

    def cancelled(self) -> None:
        """The caller of an admitted request has gone: 499, never sent."""
        self.left()
        self._counts[CODE_INDEX[499]] += 1
        self._counts[REASON_INDEX["cancelled"]] += 1

    def left(self) -> None:
        """A request ends here, or goes on elsewhere (another variant answers it)."""
        self.inflight -= 1
        self._counts[INFLIGHT] = self.inflight
        self._counts[QUEUE_ROWS] = self._runtime.batcher.queue.rows


def _observe(counts: memoryview, at: int, values: list[int]) -> None:
    """Add durations to the histogram at `at`; those of a batch mostly fall into one bucket, or into few."""
    bounds = DURATION_BOUNDS_NS
    bucket = alike = 0
    above, up_to = 0, -1
    for value in values:
        if not above < value <= up_to:
            if alike:
                counts[at + bucket] += alike
            bucket, alike = bisect_left(bounds, value), 0
            above = bounds[bucket - 1] if bucket else -1
            up_to = bounds[bucket] if bucket < len(bounds) else value
        alike += 1
    counts[at + bucket] += alike
