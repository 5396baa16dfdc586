"""One loaded version of a model: LOADING, WARMING, READY, DRAINING, CLOSED.

A runtime is built beside what serves, and only then put in its place; it never changes into another version.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import get_ident
from typing import Final

import numpy as np

from runtimes.batching import plan
from runtimes.batching.batcher import Batcher, Executed, Sink
from runtimes.batching.gather import gather
from runtimes.batching.job import Job
from runtimes.batching.turns import TurnScheduler
from runtimes.errors import (
    DeadlineExceeded,
    ExecutionFailed,
    LoadFailed,
    ModelNotReady,
    NonFiniteOutput,
    ServingError,
)
from runtimes.execution.cputime import CpuTime
from runtimes.execution.graph import VALUE_DEPENDENT, operators
from runtimes.execution.pool import ModelThread
from runtimes.execution.session import OnnxSession
from runtimes.execution.warmup import Learnt, warm_up
from runtimes.execution.watchdog import CEILING_NS, Guard, Watchdog, limit_ns
from runtimes.readiness import Readiness
from runtimes.registry.modelconfig import ModelConfig
from runtimes.sizes import Sizes, largest, size_for
from runtimes.tensors import DYNAMIC, Array, Signature

LOADING: Final = "LOADING"
WARMING: Final = "WARMING"
READY: Final = "READY"
DRAINING: Final = "DRAINING"
UNAVAILABLE: Final = "UNAVAILABLE"
CLOSED: Final = "CLOSED"

QUARANTINE_NS: Final = 60_000_000_000
TERMINATIONS: Final = 2
"""So many terminated executions within QUARANTINE_NS put the model into quarantine for as long."""
_WARMUP_LIMIT_NS: Final = 120_000_000_000
_UNKNOWN_COST: Final = plan.CostModel(5_000_000.0, 1_000_000.0)


@dataclass(frozen=True, slots=True)
class WantedVersion:
    """What to load.

    Attributes:
        digest: "sha256:HEX" of the version's files.
        directory, file: the private copy and the model file in it.
        generation: distinguishes two loads of the same version.
    """

    name: str
    version: int
    digest: str
    directory: str
    file: str
    config: ModelConfig
    generation: int = 0

    @property
    def key(self) -> tuple[str, int, str, int]:
        """Identity of a load: equal keys are served by the same runtime."""
        return (self.name, self.version, self.digest, self.generation)


def _private(wanted: WantedVersion) -> memoryview:
    """Marks that nobody reads."""
    return memoryview(bytearray(16)).cast("q")


@dataclass(frozen=True, slots=True)
class Environment:
    """What every runtime of a worker shares.

    Attributes:
        intra_op_threads: ONNX Runtime threads of one execution, from the node's thread plan.
        turn_budget_ns: executions on the loop may take so long in one turn.
        memory_bytes: of this machine; bounds the sizes of dynamic dimensions.
        marks: two int64 for a version, where the thread that executes it and the one that loads it leave their idents
            while they do: a crash can then be laid at its door.
    """

    loop: asyncio.AbstractEventLoop
    scheduler: TurnScheduler
    watchdog: Watchdog
    now_ns: Callable[[], int]
    intra_op_threads: int
    turn_budget_ns: int
    memory_bytes: int
    marks: Callable[[WantedVersion], memoryview] = _private


@dataclass(frozen=True, slots=True)
class Prepared:
    """A session that has been warmed up; made in a thread, far from the loop."""

    session: OnnxSession
    learnt: Learnt
    value_dependent: frozenset[str]
    most: Sizes | None = None


def prepare(wanted: WantedVersion, environment: Environment, warming: Callable[[], None]) -> Prepared:
    """Build the session and warm it up. Blocks for as long as that takes: call it in a thread.

    Args:
        warming: called when the session stands and warm-up begins.

    Raises:
        LoadFailed: with the stage.
    """
    if wanted.config.execution.mode == "shared":
        raise LoadFailed("execution.mode: shared is not offered by this version; use auto or inline", stage="check")
    marks = environment.marks(wanted)
    marks[1] = get_ident()
    try:
        return _prepare(wanted, environment, warming)
    finally:
        marks[1] = 0


def _prepare(wanted: WantedVersion, environment: Environment, warming: Callable[[], None]) -> Prepared:
    path = Path(wanted.directory) / wanted.file
    threads = wanted.config.execution.intra_op_threads or environment.intra_op_threads
    session = OnnxSession(path, intra_op_threads=threads)
    config = wanted.config
    otherwise = config.max_dynamic_size or size_for(environment.memory_bytes)
    most = largest(session.signature, config.max_dims, otherwise)
    warming()
    guard = Guard()
    guard.limit_ns = _WARMUP_LIMIT_NS
    environment.watchdog.add(guard)

    def run(inputs: Sequence[Array | None]) -> list[Array]:
        guard.started_ns = environment.now_ns()
        try:
            return session.run(inputs, guard.control)
        finally:
            guard.end()

    try:
        learnt = warm_up(
            session.signature,
            run,
            batch_sizes=_batch_sizes(wanted.config),
            dynamic_size=wanted.config.warmup.dynamic_size,
        )
    finally:
        environment.watchdog.remove(guard)
    return Prepared(session, learnt, operators(path) & VALUE_DEPENDENT, most)


def _batch_sizes(config: ModelConfig) -> list[int]:
    if not config.batching.enabled:
        return [1]
    most = config.batching.max_batch_size
    sizes = config.warmup.batch_sizes or [1 << i for i in range(most.bit_length()) if 1 << i <= most]
    return [*sizes, most]


class Runtime:
    """A version that can execute.

    Attributes:
        state, reason: shown in the index.
        notes: what its owner should know (why rows are not merged, why it runs in the pool).
        load_ns: from the wish to READY.
        terminations: executions that the watchdog ended.
        readiness: whether it takes requests, in short.
        most: bounds of its inputs' sizes; None = all are fixed.
    """

    def __init__(self, wanted: WantedVersion, environment: Environment) -> None:
        self.wanted = wanted
        self.name = wanted.name
        self.version = wanted.version
        self.version_text = str(wanted.version)
        self.digest = wanted.digest
        self.config = wanted.config
        self.readiness = Readiness()
        self._state = LOADING
        self.reason = ""
        self.notes: tuple[str, ...] = ()
        self.load_ns = 0
        self.terminations = 0
        self.default_deadline_ns = 0
        self.fixed_inner = True
        self.most: Sizes | None = None
        self._environment = environment
        self._marks = environment.marks(wanted)
        self._guard = Guard()
        self._cpu = CpuTime(environment.turn_budget_ns // 4)
        self._thread: ModelThread | None = None
        self._terminated_at_ns: list[int] = []
        self._quarantined_until_ns = 0
        self.signature: Signature
        self.batcher: Batcher
        self._session: OnnxSession | None = None

    def __repr__(self) -> str:
        return f"<Runtime {self.name}:{self.version} {self.state} {self.digest[:19]}>"

    @property
    def state(self) -> str:
        """Where it stands: LOADING, READY, DRAINING, CLOSED or UNAVAILABLE."""
        return self._state

    @state.setter
    def state(self, state: str) -> None:
        """Whoever sets it sets what requests ask."""
        self._state = state
        self.readiness.clear = state == READY and not self.terminations

    def open(self, prepared: Prepared, sink_for: Callable[["Runtime"], Sink]) -> None:
        """Become READY with a prepared session; `sink_for` makes the receiver of its results."""
        environment, batching = self._environment, self.config.batching
        self._session = prepared.session
        self.signature = prepared.session.signature
        self.most = prepared.most
        inputs = self.signature.inputs
        self.fixed_inner = all(DYNAMIC not in spec.shape[1:] and not spec.optional for spec in inputs)
        cost = plan.CostModel.fit(prepared.learnt.run_ns) if prepared.learnt.run_ns else _UNKNOWN_COST
        mergeable = self.signature.batched and batching.enabled and prepared.learnt.independent
        self._thread = ModelThread(environment.loop, self.name)
        self.batcher = Batcher(
            signature=self.signature,
            bounds=plan.Bounds(
                max_batch_rows=batching.max_batch_size,
                max_queue_rows=batching.max_queue_rows,
                max_queue_bytes=batching.max_queue_bytes,
                max_delay_ns=batching.max_queue_delay_us * 1000,
                mergeable=mergeable,
            ),
            cost=plan.CostModel(cost.base_ns, cost.per_row_ns),
            execute=self._execute,
            sink=sink_for(self),
            scheduler=environment.scheduler,
            pool=self._thread,
            now_ns=environment.now_ns,
            turn_budget_ns=environment.turn_budget_ns,
            lane_fixed=bool(prepared.value_dependent),
        )
        largest_ns = cost.predict_ns(batching.max_batch_size)
        configured_ms = self.config.deadline_ms
        self.default_deadline_ns = configured_ms * 1_000_000 if configured_ms else max(10_000_000_000, 20 * largest_ns)
        self.notes = tuple(note for note in (prepared.learnt.note, _pool_note(prepared)) if note)
        environment.watchdog.add(self._guard)
        self.state = READY

    def refusal(self) -> ServingError | None:
        """Why no request is taken now; None when READY."""
        if self.state != READY:
            return ModelNotReady(f"model {self.name!r} version {self.version} is {self.state.lower()}")
        if self._quarantined_until_ns:
            left_ns = self._quarantined_until_ns - self._environment.now_ns()
            if left_ns > 0:
                return ModelNotReady(
                    f"model {self.name!r} version {self.version} is quarantined: {TERMINATIONS} executions within "
                    "60 s had to be ended",
                    retry_after_s=float(-(-left_ns // 1_000_000_000)),
                )
            self._quarantined_until_ns = 0
        return None

    async def close(self) -> None:
        """Drain and release. What was admitted is answered first; cancelling skips the wait, not the release."""
        self.state = DRAINING
        drained = asyncio.Event()
        self.batcher.on_idle = drained.set
        self.batcher.close()
        try:
            await drained.wait()
        finally:
            self.state = CLOSED
            self._environment.watchdog.remove(self._guard)
            if self._thread is not None:
                self._thread.close()
            self._session = None

    # ---- execution: on the loop or in the model's thread, never both at once ----

    def _execute(self, jobs: Sequence[Job]) -> Executed:
        """Gather, run under the watchdog, check. Raises ServingError."""
        now_ns = self._environment.now_ns
        rows = sum([job.rows for job in jobs])
        predicted_ns = self.batcher.cost.predict_ns(rows)
        self._cpu.begin(predicted_ns)
        begun_ns = now_ns()
        inputs = gather(jobs, self.signature)
        ready_ns = now_ns()
        self._marks[0] = get_ident()
        try:
            outputs = self._run(jobs, predicted_ns, inputs, ready_ns)
        finally:
            self._marks[0] = 0
        done_ns = checked_ns = now_ns()
        if self.batcher.bounds.mergeable:
            for array in outputs:
                if array.shape[0] != rows:
                    raise ExecutionFailed(f"the model gave {array.shape[0]} rows for {rows}")
        if self.config.finite:
            self._check_finite(outputs)
            checked_ns = now_ns()
        cpu_ns, measured = self._cpu.end(checked_ns - begun_ns)
        return Executed(outputs, rows, ready_ns - begun_ns, done_ns - ready_ns, cpu_ns, measured, inputs)

    def _run(self, jobs: Sequence[Job], predicted_ns: int, inputs: Sequence[Array | None], now_ns: int) -> list[Array]:
        session, guard = self._session, self._guard
        assert session is not None, "a closed runtime does not execute"
        last_ns = max([job.deadline_ns for job in jobs])
        configured_ms = self.config.execution.watchdog_ms
        own_limit_ns = limit_ns(predicted_ns, configured_ms * 1_000_000 if configured_ms else None)
        guard.limit_ns = min(own_limit_ns, max(1, last_ns - now_ns)) if last_ns else own_limit_ns
        guard.started_ns = now_ns
        try:
            outputs = session.run(inputs, guard.control)
        except DeadlineExceeded:
            guard.end()
            took_ns = self._environment.now_ns() - now_ns
            if took_ns <= guard.limit_ns:
                # The watchdog meant the execution before this one and was a moment late.
                return session.run(inputs, guard.control)
            if took_ns > own_limit_ns:
                # Not for a caller's short deadline: with those, two callers could take the model from everybody.
                self._environment.loop.call_soon_threadsafe(self._terminated)
            raise
        except ServingError:
            guard.end()
            raise
        guard.end()
        return outputs

    def _terminated(self) -> None:
        """An execution was ended: leave the loop for good, and after the second in a minute, quarantine."""
        now = self._environment.now_ns()
        self.terminations += 1
        self.readiness.clear = False
        self.batcher.leave_loop()
        self._terminated_at_ns = [at for at in self._terminated_at_ns if now - at < QUARANTINE_NS] + [now]
        if len(self._terminated_at_ns) >= TERMINATIONS:
            self._quarantined_until_ns = now + QUARANTINE_NS
            self._terminated_at_ns.clear()

    def _check_finite(self, outputs: Sequence[Array]) -> None:
        for array, spec in zip(outputs, self.signature.outputs, strict=True):
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise NonFiniteOutput(f"output {spec.name!r} is not finite, and the model's contract says so")


def _pool_note(prepared: Prepared) -> str:
    if prepared.value_dependent:
        names = ", ".join(sorted(prepared.value_dependent))
        return f"runs in a thread, not on the loop: its run time may depend on values ({names})"
    return ""


assert CEILING_NS < QUARANTINE_NS, "a terminated execution must not outlast the window that counts it"
