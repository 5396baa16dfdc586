"""One version as the gateway serves it: turns executed rows into answers and counts them.

It is the sink of the runtime's batcher: `executed` hears of each execution once, `completed` answers the requests in
it. Encoding is done for the whole batch at once; counting is plain adds on the worker's shared page.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Final, cast

import numpy as np

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
from gateway.errors import refusal
from gateway.logs import RequestLog
from gateway.wire.encode import BatchEncoder, encode_response
from gateway.wire.fast_json import FastDecoder
from gateway.wire.request import InferRequest, Limits
from runtimes.batching.batcher import Batch
from runtimes.batching.job import DONE, Job
from runtimes.errors import DeadlineExceeded, ExecutionFailed, QueueFull, ServingError
from runtimes.runtime import Runtime
from runtimes.tensors import DYNAMIC, Array

JSON: Final = b"application/json"
_SUM: Final = len(DURATION_BOUNDS_NS) + 1
_Encoded = tuple[bytes, tuple[tuple[bytes, bytes], ...], bytes]
"""Content type, further headers, body."""
_ROWS_SUM: Final = len(ROWS_BOUNDS) + 1
_REASON_OF_CODE: Final = {"deadline_exceeded": "expired", "draining": "draining", "model_not_ready": "not_ready"}


class Exchange(Job):
    """One inference request in flight; each HTTP lane derives its own and implements `respond`.

    Attributes:
        model_name, selector: from the URL; selector is "", digits or an alias.
        json_length: of `Inference-Header-Content-Length`; None when the header is absent.
        request_id: the client's x-request-id if it may be echoed, else ours.
        timeout_ms: of `x-request-timeout-ms`; 0 = none.
        started_ns: when the request was complete.
        served, request: set on the way.
    """

    model_name: str = ""
    selector: str = ""
    body: bytes = b""
    json_length: int | None = None
    request_id: bytes = b""
    timeout_ms: int = 0
    started_ns: int = 0
    served: "ServedVersion | None" = None
    request: InferRequest | None = None

    def respond(self, status: int, content_type: bytes, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> None:
        """Send the answer; called exactly once, on the loop, unless the exchange was cancelled."""
        raise AssertionError("a lane must say how it responds")

    def respond_ok(self, served: "ServedVersion", body: bytes) -> None:
        """Send a plain JSON answer with status 200; a lane may have a shorter way."""
        self.respond(200, JSON, served.headers, body)


class ServedVersion:
    """Answers for one runtime.

    Attributes:
        headers: those that every answer of this version carries.
        head: the same as bytes, up to the value of x-request-id.
        decoder: of plain JSON bodies.
        default_priority: level of a request that asks for none.
    """

    def __init__(
        self,
        runtime: Runtime,
        page: CounterPage,
        limits: Limits,
        log: RequestLog,
        now_ns: Callable[[], int],
        now_ms: Callable[[], int],
    ) -> None:
        self.runtime = runtime
        self.headers: tuple[tuple[bytes, bytes], ...] = (
            (b"x-tidegate-model", f"{runtime.name}:{runtime.version}".encode()),
            (b"x-tidegate-variant", b"-"),
        )
        self.head = b"".join(b"%s: %s\r\n" % pair for pair in self.headers) + b"x-request-id: "
        self.inflight = 0
        self._log = log
        self._name = f"{runtime.name}:{runtime.version}"
        self._now_ns = now_ns
        self._now_ms = now_ms
        self._counts = page.block("model", (runtime.name, runtime.version_text, "-"), MODEL_VALUES)
        self.decoder = FastDecoder(runtime.signature, limits)
        self._encoder = BatchEncoder(runtime.name, runtime.version_text, runtime.signature)
        batching = runtime.config.batching
        self._levels = batching.priority_levels
        self.default_priority = min(batching.default_priority or (self._levels + 1) // 2, self._levels)

    def priority(self, asked: int) -> int:
        """Level of a request that asks for one, within the model's levels."""
        return min(asked, self._levels)

    # ---- results of the batcher ----

    def executed(self, batch: Batch) -> None:
        """Count one execution."""
        counts, executed, rows = self._counts, batch.executed, batch.rows
        counts[EXECUTIONS] += 1
        counts[EXECUTION_DURATION + bisect_left(DURATION_BOUNDS_NS, executed.run_ns)] += 1
        counts[EXECUTION_DURATION + _SUM] += executed.run_ns
        counts[BATCH_ROWS + bisect_left(ROWS_BOUNDS, rows)] += 1
        counts[BATCH_ROWS + _ROWS_SUM] += rows
        counts[COMPUTE_INPUT_NS] += executed.gather_ns * len(batch.jobs)
        counts[COMPUTE_INFER_NS] += executed.run_ns * len(batch.jobs)
        counts[CPU_NS] += executed.cpu_ns
        at = BATCH_STATS + 4 * (rows if rows <= 128 else 0)
        counts[at] += 1
        counts[at + 1] += executed.gather_ns
        counts[at + 2] += executed.run_ns

    def completed(self, jobs: Sequence[Job], outputs: list[Array], started_ns: int) -> None:
        """Answer every request of a batch that still has a reader; counted before it is sent, so that no kill in
        between can make a client's count the larger one."""
        encode_from = self._now_ns()
        bodies = self._encode(jobs, outputs) if any(map(_is_plain, jobs)) else None
        now = self._now_ns()
        if bodies is None or not _all_plain(jobs, now):
            self._complete_each(jobs, outputs, bodies, started_ns, now - encode_from)
            return
        exchanges = cast(Sequence[Exchange], jobs)
        for job in exchanges:
            job.state = DONE
        self._count(exchanges, started_ns, now, now - encode_from)
        for job, body in zip(exchanges, bodies, strict=True):
            job.respond_ok(self, body)

    def _complete_each(
        self, jobs: Sequence[Job], outputs: list[Array], bodies: list[bytes] | None, started_ns: int, encode_ns: int
    ) -> None:
        """The same for a batch in which somebody left, was too late, or wants another form than plain JSON."""
        now = self._now_ns()
        plain: list[tuple[Exchange, bytes]] = []
        others: list[tuple[Exchange, _Encoded]] = []
        end = 0
        for i, job in enumerate(jobs):
            start, end = end, end + job.rows
            if job.state == DONE:
                continue
            assert isinstance(job, Exchange), "only exchanges are submitted"
            assert job.request is not None, "an executed request was decoded"
            if now > job.deadline_ns:
                self.failed(job, DeadlineExceeded("the deadline passed while the request was executed"))
                continue
            if bodies is not None and job.request.plain:
                job.state = DONE
                plain.append((job, bodies[i]))
                continue
            own = outputs if len(jobs) == 1 else [array[start:end] for array in outputs]
            if (encoded := self._encode_alone(job, own)) is not None:
                job.state = DONE
                others.append((job, encoded))
        self._count([job for job, _ in plain] + [job for job, _ in others], started_ns, now, encode_ns)
        for job, body in plain:
            job.respond_ok(self, body)
        for job, (content_type, headers, body) in others:
            job.respond(200, content_type, [*self.headers, *headers], body)

    def _count(self, jobs: Sequence[Exchange], started_ns: int, now: int, encode_ns: int) -> None:
        """Count answers of one batch together."""
        counts, answered = self._counts, len(jobs)
        self.inflight -= answered
        counts[INFLIGHT] = self.inflight
        counts[QUEUE_ROWS] = self.runtime.batcher.queue.rows
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
        counts[LAST_INFERENCE_MS] = self._now_ms()

    def failed(self, job: Job, error: ServingError) -> None:
        """Answer one request with an error."""
        assert isinstance(job, Exchange), "only exchanges are submitted"
        job.state = DONE
        self.refused(job, error)

    # ---- everything that is not a result ----

    def begin(self) -> None:
        """A request has found this version."""
        self.inflight += 1

    def refused(self, exchange: Exchange, error: ServingError) -> None:
        """Count and send an error, whenever it came about."""
        status, headers, body = refusal(error, exchange.request_id)
        self._log.refused(status, error.code, exchange.request_id, self._name, error)
        counts = self._counts
        duration = self._now_ns() - exchange.started_ns
        self.inflight -= 1
        counts[INFLIGHT] = self.inflight
        counts[QUEUE_ROWS] = self.runtime.batcher.queue.rows
        counts[CODE_INDEX.get(status, CODE_INDEX[500])] += 1
        counts[FAIL] += 1
        counts[FAIL_NS] += duration
        counts[REQUEST_DURATION + bisect_left(DURATION_BOUNDS_NS, duration)] += 1
        counts[REQUEST_DURATION + _SUM] += duration
        counts[TERMINATED] = self.runtime.terminations
        reason = error.reason if isinstance(error, QueueFull) else _REASON_OF_CODE.get(error.code)
        if reason is not None:
            counts[REASON_INDEX[reason]] += 1
        exchange.respond(status, JSON, [*self.headers, *headers], body)

    def cancelled(self) -> None:
        """The caller of an admitted request has gone: counted as 499, never sent."""
        counts = self._counts
        self.inflight -= 1
        counts[INFLIGHT] = self.inflight
        counts[QUEUE_ROWS] = self.runtime.batcher.queue.rows
        counts[CODE_INDEX[499]] += 1
        counts[REASON_INDEX["cancelled"]] += 1

    def answer_empty(self, exchange: Exchange) -> None:
        """No rows asked, none given: outputs with 0 in the row dimension, without an execution."""
        outputs: list[Array] = [
            np.empty((0, *[0 if size == DYNAMIC else size for size in spec.shape[1:]]), dtype=spec.datatype.dtype)
            for spec in self.runtime.signature.outputs
        ]
        now = self._now_ns()
        exchange.enqueued_ns = now
        self.completed([exchange], outputs, now)

    # ---- encoding ----

    def _encode(self, jobs: Sequence[Job], outputs: list[Array]) -> list[bytes] | None:
        """JSON bodies of a whole batch, or None when each has to be encoded by itself."""
        if not self.runtime.batcher.bounds.mergeable and len(jobs) == 1:
            return None
        return self._encoder.encode_rows(outputs, [job.rows for job in jobs])

    def _encode_alone(self, exchange: Exchange, outputs: list[Array]) -> "_Encoded | None":
        """The answer to one request; None when it cannot be written, which costs its neighbours nothing."""
        request, runtime = exchange.request, self.runtime
        assert request is not None, "an executed request was decoded"
        bytes_only = request.binary_default and request.outputs is None and not request.id
        if bytes_only and (known := self._encoder.encode_binary(outputs)) is not None:
            return known
        try:
            answer = encode_response(outputs, request, runtime.signature, runtime.name, runtime.version_text)
            if bytes_only:
                self._encoder.remember_binary(outputs, answer)
            return answer
        except ServingError as error:
            self.failed(exchange, error)
        except Exception as error:
            failed = ExecutionFailed("the answer could not be encoded")
            failed.__cause__ = error
            self.failed(exchange, failed)
        return None


def _observe(counts: memoryview, at: int, values: list[int]) -> None:
    """Add durations to the histogram at `at`; those of a batch mostly fall into one bucket."""
    lowest, highest = bisect_left(DURATION_BOUNDS_NS, min(values)), bisect_left(DURATION_BOUNDS_NS, max(values))
    if lowest == highest:
        counts[at + lowest] += len(values)
        return
    for value in values:
        counts[at + bisect_left(DURATION_BOUNDS_NS, value)] += 1


def _is_plain(job: Job) -> bool:
    request = cast(Exchange, job).request
    return request is not None and request.plain


def _all_plain(jobs: Sequence[Job], now: int) -> bool:
    """Whether every job has a reader, time, and wants plain JSON."""
    for job in jobs:
        request = cast(Exchange, job).request
        if job.state == DONE or now > job.deadline_ns or request is None or not request.plain:
            return False
    return True
