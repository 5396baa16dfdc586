"""One version as the gateway serves it, under one variant: turns executed rows into answers and counts them.

`Results` is the sink of a runtime's batcher; it hands each batch to those who wait for it. `ServedVersion` answers
requests: encoding is done for the whole batch at once; counting is plain adds on the worker's shared page.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Final, Protocol, cast

import numpy as np

from gateway.control.messages import Collected, Watched
from gateway.counters import DRIFT, DRIFT_TAKEN, DRIFT_TAKEN_VALUES, CounterPage
from gateway.errors import refusal
from gateway.exchange import JSON, Exchange
from gateway.logs import RequestLog
from gateway.meter import Meter
from gateway.monitor.counting import Counter
from gateway.monitor.plan import decoded
from gateway.monitor.tap import Tap
from gateway.predictions import NO_MARK
from gateway.signing import Signer
from gateway.tally import Executions, stratum_of
from gateway.wire.encode import BatchEncoder, encode_response
from gateway.wire.fast_json import FastDecoder
from gateway.wire.fields import field_places
from gateway.wire.request import Limits
from runtimes.batching.batcher import Executed
from runtimes.batching.job import DONE, Job, Part
from runtimes.errors import DeadlineExceeded, ExecutionFailed, ServingError
from runtimes.runtime import Runtime
from runtimes.tensors import DYNAMIC, Array

if TYPE_CHECKING:
    from gateway.monitor.firsttap import FirstTap

Header = tuple[bytes, bytes]
_Encoded = tuple[bytes, tuple[Header, ...], bytes]
"""Content type, further headers, body."""
NO_VARIANT: Final = "-"


class Codec:
    """What all variants of one runtime share: how its requests are read and its answers written.

    Attributes:
        decoder: of plain JSON bodies.
        default_priority: level of a request that asks for none.
        meters: counts by variant.
        taps: where the monitor sees answers, by variant; empty = nobody watches this version.
        first: the tap of all variants while only the first rows are wanted.
        fields: where each named field of an input stands.
    """

    def __init__(self, runtime: Runtime, page: CounterPage, limits: Limits) -> None:
        self.runtime = runtime
        self.name = f"{runtime.name}:{runtime.version}"
        self.decoder = FastDecoder(runtime.signature, limits)
        self.encoder = BatchEncoder(runtime.name, runtime.version_text, runtime.signature)
        batching = runtime.config.batching
        self._levels = batching.priority_levels
        self.default_priority = min(batching.default_priority or (self._levels + 1) // 2, self._levels)
        self.fields = field_places(runtime.signature, runtime.config.feature_names)
        self.meters: dict[str, Meter] = {}
        self.taps: dict[str, Tap | FirstTap] = {}
        self.first: FirstTap | None = None
        self.watched: Watched | Collected | None = None
        self._counter: Counter | None = None
        self._page = page

    def meter(self, variant: str) -> Meter:
        """Counts under a variant."""
        found = self.meters.get(variant)
        if found is None:
            found = self.meters[variant] = Meter(self.runtime, variant, self._page)
            self.tap(variant)
        return found

    def watch(self, watched: Watched | Collected | None) -> None:
        """Count for the monitor from now on, or collect first rows, as it says; None = neither.

        What waits under another plan is counted; first rows that wait are forgotten.
        """
        if watched == self.watched:
            return
        for tap in self.counting:
            tap.finish()
        self.taps = {}
        self.watched = watched
        self.first = None
        if isinstance(watched, Collected):
            from gateway.monitor.firsttap import FirstTap  # noqa: PLC0415  # 12 ms of a start, and few ask for it

            self.first = FirstTap(self.runtime.signature, watched.rows)
        self._counter = Counter(decoded(watched.plan)) if isinstance(watched, Watched) else None
        for variant in self.meters:
            self.tap(variant)

    def tap(self, variant: str) -> None:
        """Let the monitor see a variant, if it watches this version and the page has room."""
        if self.first is not None:
            self.taps[variant] = self.first
        if self._counter is None or not isinstance(self.watched, Watched) or variant in self.taps:
            return
        plan, runtime = self._counter.plan, self.runtime
        place = (runtime.name, runtime.version_text, variant, plan.id)
        counts = self._page.block(DRIFT, place, plan.size)
        taken = self._page.block(DRIFT_TAKEN, place, DRIFT_TAKEN_VALUES)
        if len(counts) == plan.size and len(taken) == DRIFT_TAKEN_VALUES:
            header = self.watched.header.encode()
            values = np.frombuffer(counts, np.int64)
            self.taps[variant] = Tap(self._counter, values, taken, runtime.signature, header)

    @property
    def counting(self) -> Iterable[Tap]:
        """Taps whose rows are counted here: all, or none while first rows are collected."""
        return () if self.first is not None else cast(Iterable[Tap], self.taps.values())

    def priority(self, asked: int) -> int:
        """Level of a request that asks for one, within the model's levels."""
        return min(asked, self._levels)


class Evidence(Protocol):
    """What a policy wants to know of the requests that it routed."""

    def answered(self, jobs: Sequence[Exchange], outputs: Sequence[Array], started_ns: int, now: int) -> None:
        """Requests of one batch are about to be answered; outputs hold the rows of these jobs alone, in their
        order. Names each prediction in the head of its answer, where it said that it would.

        Args:
            started_ns: when the batch left the queue.
        """

    def failed(self, exchange: Exchange, error: ServingError) -> bool:
        """One failed; True = somebody else answers it."""

    def left(self, exchange: Exchange) -> None:
        """The caller of one has gone."""


class Named:
    """Names the predictions of a version that is watched and has no policy. Nothing of it is evidence."""

    def __init__(self, codec: Codec, signer: Signer) -> None:
        self._codec = codec
        self._signer = signer

    def answered(self, jobs: Sequence[Exchange], outputs: Sequence[Array], started_ns: int, now: int) -> None:
        """Name each prediction. See `Evidence.answered`."""
        tap = self._codec.taps.get(NO_VARIANT)
        marks = tap.marks(jobs, outputs) if tap is not None else None
        self._signer.name(jobs, 0, [NO_MARK] * len(jobs) if marks is None else marks)

    def failed(self, exchange: Exchange, error: ServingError) -> bool:
        """Nobody else answers."""
        return False

    def left(self, exchange: Exchange) -> None:
        """Nobody counts."""


class ServedVersion:
    """Answers for one runtime under one variant.

    Args:
        more: headers that follow the variant's, e.g. the policy's revision.
        evidence: of the policy that routes here; None = no policy does.

    Attributes:
        headers: those that every answer of this version carries.
        head: the same as bytes, without the end of the last line.
        meter: counts of this variant.
        second_chance: what fails here is answered by another variant, so an attempt gets less than all of the time.
        executions: counts how long they take, by batch size; None = no policy judges that.
    """

    second_chance = False
    executions: Executions | None = None

    def __init__(
        self,
        codec: Codec,
        log: RequestLog,
        now_ns: Callable[[], int],
        now_ms: Callable[[], int],
        *,
        variant: str = NO_VARIANT,
        more: Sequence[Header] = (),
        evidence: Evidence | None = None,
    ) -> None:
        self.codec = codec
        self.runtime = codec.runtime
        self.readiness = codec.runtime.readiness
        self.meter = codec.meter(variant)
        self.variant = variant
        self.decoder = codec.decoder
        self.evidence = evidence
        self.headers: tuple[Header, ...] = (
            (b"x-tidegate-model", codec.name.encode()),
            (b"x-tidegate-variant", variant.encode()),
            *more,
        )
        self.head = b"\r\n".join(b"%s: %s" % pair for pair in self.headers)
        self._encoder = codec.encoder
        self._log = log
        self._now_ns = now_ns
        self._now_ms = now_ms

    def __repr__(self) -> str:
        return f"<ServedVersion {self.codec.name} {self.variant}>"

    def headers_of(self, exchange: Exchange) -> Sequence[Header]:
        """Headers of an answer to this exchange."""
        if exchange.prediction:
            return [*self.headers, (b"x-prediction-id", exchange.prediction)]
        return self.headers

    # ---- results ----

    def completed(
        self,
        jobs: Sequence[Exchange],
        outputs: Sequence[Array],
        started_ns: int,
        inputs: Sequence[Array | None] | None = None,
    ) -> None:
        """Answer every request of a batch that still has a reader; counted before it is sent, so that no kill in
        between can make a client's count the larger one.

        Args:
            inputs: rows of these jobs as they were executed; None = each job has its own.
        """
        encode_from = self._now_ns()
        bodies = self._encode(jobs, outputs) if any(map(_is_plain, jobs)) else None
        now = self._now_ns()
        if bodies is None or not _all_plain(jobs, now):
            self._complete_each(jobs, outputs, bodies, started_ns, now - encode_from)
            return
        for job in jobs:
            job.state = DONE
        self.meter.answered(jobs, started_ns, now, now - encode_from, self._now_ms())
        self._tell(jobs, inputs, outputs, started_ns, now)
        for job, body in zip(jobs, bodies, strict=True):
            job.respond_ok(self, body)

    def _tell(
        self,
        jobs: Sequence[Exchange],
        inputs: Sequence[Array | None] | None,
        outputs: Sequence[Array],
        started_ns: int,
        now: int,
    ) -> None:
        """Policy and monitor hear of answers. A mistake of ours there costs no caller its answer."""
        try:
            if self.evidence is not None:
                self.evidence.answered(jobs, outputs, started_ns, now)
            tap = self.codec.taps.get(self.variant)
            if tap is not None:
                tap.take(jobs, inputs, outputs)
        except Exception as error:
            self._log.untold(self.codec.name, error)

    def _complete_each(
        self,
        jobs: Sequence[Exchange],
        outputs: Sequence[Array],
        bodies: list[bytes] | None,
        started_ns: int,
        encode_ns: int,
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
            assert job.request is not None, "an executed request was decoded"
            if now > job.deadline_ns:
                self.failed(job, _too_late())
                continue
            own = outputs if len(jobs) == 1 else [array[start:end] for array in outputs]
            if bodies is not None and job.request.plain:
                plain.append((job, bodies[i]))
            elif (encoded := self._encode_alone(job, own)) is not None:
                others.append((job, encoded))
            else:
                continue
            job.state = DONE
            self._tell([job], None, own, started_ns, now)
        answered = [job for job, _ in plain] + [job for job, _ in others]
        self.meter.answered(answered, started_ns, now, encode_ns, self._now_ms())
        for job, body in plain:
            job.respond_ok(self, body)
        for job, (content_type, headers, body) in others:
            job.respond(200, content_type, [*self.headers_of(job), *headers], body)

    def failed(self, exchange: Exchange, error: ServingError) -> None:
        """Answer one request with an error, whenever it came about, unless another variant answers it."""
        exchange.state = DONE
        if exchange.tally is not None:
            assert self.evidence is not None, "only a policy gives out tallies"
            if self.evidence.failed(exchange, error):
                return
        status, headers, body = refusal(error, exchange.request_id)
        self._log.refused(status, error.code, exchange.request_id, self.codec.name, error)
        self.meter.refused(status, error, self._now_ns() - exchange.started_ns)
        exchange.respond(status, JSON, [*self.headers, *headers], body)

    # ---- everything that is not a result ----

    def begin(self) -> None:
        """A request has found this version."""
        self.meter.inflight += 1

    def cancelled(self, exchange: Exchange) -> None:
        """The caller of an admitted request has gone: counted as 499, never sent."""
        if exchange.tally is not None:
            assert self.evidence is not None, "only a policy gives out tallies"
            self.evidence.left(exchange)
        self.meter.cancelled()

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

    def _encode(self, jobs: Sequence[Exchange], outputs: Sequence[Array]) -> list[bytes] | None:
        """JSON bodies of a whole batch, or None when each has to be encoded by itself."""
        if not self.runtime.batcher.bounds.mergeable and len(jobs) == 1:
            return None
        return self._encoder.encode_rows(outputs, [job.rows for job in jobs])

    def _encode_alone(self, exchange: Exchange, outputs: Sequence[Array]) -> _Encoded | None:
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
            failed.executed = True
            self.failed(exchange, failed)
        return None


class Results:
    """Sink of one runtime: a batch may hold requests of several variants, and each hears of its own."""

    _jobs: Sequence[Job] = ()
    _inputs: Sequence[Array | None] = ()

    def executed(self, jobs: Sequence[Job], outcome: Executed) -> None:
        """Count one execution, under the variant that came first."""
        served = _waiting(jobs[0])
        served.meter.executed(len(jobs), outcome)
        if served.executions is not None:
            served.executions.add(outcome.rows, outcome.run_ns, _stratum(jobs[0]))
        self._jobs, self._inputs = jobs, outcome.inputs

    def completed(self, jobs: Sequence[Job], outputs: list[Array], started_ns: int) -> None:
        """Answer every request of a batch."""
        exchanges: Sequence[Exchange] = jobs  # type: ignore[assignment]  # a cast is a call, and this is the hot path
        first = exchanges[0].served
        assert first is not None, "an admitted request was routed"
        inputs = self._inputs if jobs is self._jobs and self._inputs else None
        self._jobs = self._inputs = ()
        for job in exchanges:
            if job.served is not first:
                self._completed_apart(exchanges, outputs, started_ns, inputs)
                return
        first.completed(exchanges, outputs, started_ns, inputs)

    def _completed_apart(
        self,
        jobs: Sequence[Exchange],
        outputs: list[Array],
        started_ns: int,
        inputs: Sequence[Array | None] | None,
    ) -> None:
        """The same for a batch of several variants: those next to each other go together."""
        at = begin = row = 0
        while at < len(jobs):
            served, rows = _waiting(jobs[at]), 0
            while at < len(jobs) and jobs[at].served is served:
                rows += jobs[at].rows
                at += 1
            # Optional inputs belong to no row, and those who give one share an execution with nobody.
            own = None if inputs is None else [None if array is None else array[row : row + rows] for array in inputs]
            served.completed(jobs[begin:at], [array[row : row + rows] for array in outputs], started_ns, own)
            begin, row = at, row + rows

    def failed(self, job: Job, error: ServingError) -> None:
        """Answer one request with an error."""
        _waiting(job).failed(cast(Exchange, job), error)


def _whole(job: Job) -> Exchange:
    """The request that a job is, or is a slice of."""
    return cast(Exchange, job.whole if isinstance(job, Part) else job)


def _waiting(job: Job) -> ServedVersion:
    served = _whole(job).served
    assert served is not None, "an admitted request was routed"
    return served


def _stratum(job: Job) -> int:
    """Of what put a request where it is by chance; -1 = nothing did: a rule may send long ones to one variant."""
    exchange = _whole(job)
    return stratum_of(exchange.placed.place) if exchange.placed is not None else -1


def _too_late() -> DeadlineExceeded:
    error = DeadlineExceeded("the deadline passed while the request was executed")
    error.executed = True
    return error


def _is_plain(job: Exchange) -> bool:
    return job.request is not None and job.request.plain


def _all_plain(jobs: Sequence[Exchange], now: int) -> bool:
    """Whether every job has a reader, time, and wants plain JSON."""
    for job in jobs:
        request = job.request
        if job.state == DONE or now > job.deadline_ns or request is None or not request.plain:
            return False
    return True
