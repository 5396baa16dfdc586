"""A virtual world for the real batcher: seeded arrivals, cancels and faults on a clock that nobody waits for.

Invariants are checked at every step; a seed that breaks one is printed by the test and replays exactly.
"""

import heapq
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from runtimes.batching.batcher import Batcher, Executed
from runtimes.batching.job import BEHIND, DONE, Job
from runtimes.batching.plan import Bounds, CostModel
from runtimes.batching.turns import TurnScheduler
from runtimes.errors import Draining, InvalidInput, ModelRejectedInput, QueueFull, ServingError
from runtimes.tensors import DATATYPES, DYNAMIC, Array, Signature, TensorSpec

MS = 1_000_000
FP64 = DATATYPES["FP64"]
SIGNATURE = Signature((TensorSpec("x", FP64, (DYNAMIC, DYNAMIC)),), (TensorSpec("y", FP64, (DYNAMIC, DYNAMIC)),), True)


class VirtualLoop:
    """An event loop without time: callbacks run in order, then the clock jumps to the next timer."""

    def __init__(self) -> None:
        self.now = 1
        self._ready: list[Callable[[], object]] = []
        self._timers: list[tuple[int, int, Callable[[], object]]] = []
        self._count = 0

    def now_ns(self) -> int:
        """The virtual clock."""
        return self.now

    def call_soon(self, callback: Callable[[], object]) -> None:
        """As asyncio's."""
        self._ready.append(callback)

    def call_later(self, delay: float, callback: Callable[[], object]) -> None:
        """As asyncio's."""
        self.at(self.now + max(0, round(delay * 1e9)), callback)

    def at(self, when_ns: int, callback: Callable[[], object]) -> None:
        """Run at a point of virtual time."""
        self._count += 1
        heapq.heappush(self._timers, (when_ns, self._count, callback))

    def run(self, check: Callable[[], None], most_steps: int = 1_000_000) -> None:
        """Until nothing is left to do."""
        for _ in range(most_steps):
            if self._ready:
                ready, self._ready = self._ready, []
                for callback in ready:
                    callback()
                # A poll of the sockets, or looking for requests without sleeping would never end.
                self.now += 1_000
                # As uvloop does: timers that are due and I/O come between two turns.
            elif not self._timers:
                return
            while self._timers and (self._timers[0][0] <= self.now or not self._ready):
                when, _, callback = heapq.heappop(self._timers)
                self.now = max(self.now, when)
                callback()
                if self._ready:
                    break
            check()
        raise AssertionError("the world does not come to rest")


class Caller:
    """Who sends one request of the simulation: its rows carry its number, so a swapped row is seen."""

    def __init__(self, name: int, rows: int, width: int, poisoned: bool) -> None:
        self.name = name
        self.behind = False
        self.poisoned = poisoned
        values = np.full((rows, width), float(name))
        values[:, 0] = np.arange(rows)
        if poisoned:
            values[rows // 2, -1] = -1.0
        self.job = Job()
        self.job.rows = rows
        self.job.inputs = [values]
        self.job.size_bytes = values.nbytes
        self.job.bucket = width
        self.answers = 0
        self.error: ServingError | None = None
        self.outputs: Array | None = None
        self.cancelled_at: int | None = None
        self.refused = False
        self.arrived_ns = 0

    def __repr__(self) -> str:
        return f"<caller {self.name} of {self.job!r}>"


@dataclass
class World:
    """One seeded run of at least `requests` requests."""

    seed: int
    requests: int = 100
    callers: list[Caller] = field(default_factory=list)
    executions: int = 0
    executed_rows: int = 0

    def __post_init__(self) -> None:
        self.rng = rng = random.Random(self.seed)
        self.loop = VirtualLoop()
        self.pool = VirtualPool(self.loop)
        budget = rng.choice([200_000, MS, 5 * MS])
        self.scheduler = TurnScheduler(self.loop, self.loop.now_ns, budget_ns=budget, linger_ns=rng.choice([0, 60_000]))
        self.bounds = Bounds(
            max_batch_rows=rng.choice([1, 4, 8, 32]),
            max_queue_rows=rng.choice([16, 64, 4096]),
            max_queue_bytes=rng.choice([2_000, 1 << 30]),
            max_delay_ns=rng.choice([0, 0, 0, MS, 5 * MS]),
            mergeable=rng.random() < 0.85,
        )
        self.base_ns = rng.choice([10_000, 200_000, 2 * MS, 20 * MS])
        self.per_row_ns = rng.choice([0, 1_000, 50_000, MS])
        self.predicted = rng.choice([0.3, 1.0, 3.0])
        self.batcher = Batcher(
            signature=SIGNATURE,
            bounds=self.bounds,
            cost=CostModel(self.base_ns * self.predicted, self.per_row_ns * self.predicted),
            execute=self.execute,
            sink=self,
            scheduler=self.scheduler,
            pool=self.pool,
            now_ns=self.loop.now_ns,
            turn_budget_ns=budget,
            lane_fixed=rng.random() < 0.2,
        )
        self.drained = False
        self.by_job: dict[Job, Caller] = {}

    # ---- the model ----

    def execute(self, jobs: Sequence[Job]) -> Executed:
        """y = 2 x; refuses a batch that holds a poisoned row; takes virtual time."""
        assert jobs, "an execution holds at least one job"
        rows = sum(job.rows for job in jobs)
        assert len(jobs) == 1 or rows <= self.bounds.max_batch_rows, "a batch passed its bound"
        assert len(jobs) == 1 or self.bounds.mergeable, "a model that cannot be batched was"
        assert len({job.bucket for job in jobs}) == 1, "two shapes in one batch"
        assert len({job.priority == BEHIND for job in jobs}) == 1, "a copy in a batch of callers"
        assert jobs[0].priority != BEHIND or not self.batcher.queue.jobs, "a copy ran before a caller"
        values = np.concatenate([np.asarray(job.inputs[0]) for job in jobs])
        cost = int((self.base_ns + self.per_row_ns * rows) * self.rng.uniform(0.8, 1.5))
        self.pool.last_cost_ns = cost
        if not self.pool.working:
            self.loop.now += cost
        self.executions += 1
        self.executed_rows += rows
        if (values[:, -1] < 0).any():
            raise ModelRejectedInput("poisoned")
        return Executed([values * 2.0], len(values), 0, cost, cost)

    # ---- the sink ----

    def executed(self, jobs: Sequence[Job], outcome: Executed) -> None:
        """Counted elsewhere."""
        assert outcome.rows == sum(job.rows for job in jobs)

    def completed(self, jobs: Sequence[Job], outputs: list[Array], started_ns: int) -> None:
        """Hand each caller its rows."""
        at = 0
        for job in jobs:
            own = outputs[0][at : at + job.rows]
            at += job.rows
            caller = self.by_job[job]  # a part has none, and must not come here
            if job.state != DONE:
                job.state = DONE
                caller.answers += 1
                caller.outputs = own.copy()
        assert at == len(outputs[0]), "rows were lost or made up"

    def failed(self, job: Job, error: ServingError) -> None:
        """Tell the caller."""
        caller = self.by_job[job]
        assert job.state != DONE, "a finished job failed"
        job.state = DONE
        caller.answers += 1
        caller.error = error

    # ---- the callers ----

    def arrive(self) -> None:
        """One request, perhaps with a deadline, perhaps soon cancelled."""
        rng = self.rng
        most = self.bounds.max_batch_rows
        rows = rng.choice([1, 1, 1, 2, most, most + 1, 3 * most]) if rng.random() < 0.3 else 1
        caller = Caller(len(self.callers) + 1, rows, rng.choice([2, 2, 2, 3]), rng.random() < 0.03)
        caller.behind = rng.random() < 0.1
        job = caller.job
        job.priority = rng.choice([1, 2, 2, 2])
        caller.arrived_ns = self.loop.now
        if rng.random() < 0.7:
            job.deadline_ns = self.loop.now + rng.choice([MS, 20 * MS, 200 * MS, 10_000 * MS])
        try:
            self.submit(caller)
        except (QueueFull, InvalidInput, Draining) as error:
            if isinstance(error, InvalidInput) != self.never_fits(caller) and not isinstance(error, Draining):
                raise AssertionError(f"{caller!r} was refused as it should not be") from error
            caller.refused, caller.error, job.state = True, error, DONE
            return
        if rng.random() < 0.15:
            delay = rng.choice([0, 10_000, MS, 30 * MS])
            self.loop.at(self.loop.now + delay, lambda: self.cancel(caller))

    def submit(self, caller: Caller) -> None:
        """Let the batcher have it. Raises QueueFull, InvalidInput, Draining."""
        self.callers.append(caller)
        self.by_job[caller.job] = caller
        if caller.behind:
            self.batcher.submit_behind(caller.job, self.loop.now)
        else:
            self.batcher.submit(caller.job, self.loop.now)

    def never_fits(self, caller: Caller) -> bool:
        """Larger than the whole queue: that is the caller's mistake, not the load's."""
        bounds = self.batcher.bounds
        return caller.job.rows > bounds.max_queue_rows or caller.job.size_bytes > bounds.max_queue_bytes

    def cancel(self, caller: Caller) -> None:
        """The caller goes away, if it still waits."""
        if caller.job.state != DONE:
            caller.cancelled_at = self.loop.now
            self.batcher.cancel(caller.job)

    def check(self) -> None:
        """What must hold at every moment."""
        for queue in (self.batcher.queue, self.batcher.behind):
            waiting = list(queue.waiting())
            assert queue.rows == sum(job.rows for job in waiting)
            assert queue.jobs == len(waiting)
            assert queue.size_bytes == sum(job.size_bytes for job in waiting)
            assert queue.rows <= self.bounds.max_queue_rows
            assert queue.size_bytes <= self.bounds.max_queue_bytes
        assert all(caller.answers <= 1 for caller in self.callers[-64:])

    def run(self) -> "World":
        """Arrivals in bursts, then a drain; every invariant holds at the end too."""
        at = 0
        gap = self.rng.choice([0, 5_000, 100_000, MS])
        for _ in range(self.requests):
            at += self.rng.choice([0, 0, 0, gap, 2 * gap])
            self.loop.at(at, self.arrive)
        self.batcher.on_idle = lambda: setattr(self, "drained", True)
        if self.rng.random() < 0.3:
            self.loop.at(int(at * self.rng.random()), self.batcher.close)
        self.loop.run(self.check)
        self.batcher.close()
        self.loop.run(self.check)
        self.judge()
        return self

    def judge(self) -> None:
        """Each admitted request: one right answer, or one error that it deserves, or it left."""
        assert self.drained, "the drain did not end"
        assert self.batcher.idle
        for caller in self.callers:
            if caller.cancelled_at is not None:
                assert caller.answers == 0, f"{caller} left and was answered"
                continue
            if caller.refused:
                assert caller.answers == 0
                continue
            assert caller.answers == 1, f"{caller} got {caller.answers} answers"
            if caller.error is None:
                assert not caller.poisoned, f"{caller} is poisoned and succeeded"
                assert caller.outputs is not None
                assert np.array_equal(caller.outputs, np.asarray(caller.job.inputs[0]) * 2.0), f"{caller}: swapped rows"
            elif caller.error.code == "model_rejected_input":
                assert caller.poisoned, f"{caller} failed for its neighbour"
            else:
                assert caller.error.code == "deadline_exceeded", caller.error
                assert caller.job.deadline_ns, f"{caller} has no deadline and missed it"


class VirtualPool:
    """A thread that takes virtual time."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self.working = False
        self.last_cost_ns = 0

    def submit(self, work: Callable[[], None], done: Callable[[], None]) -> None:
        """The work happens now, its end is known later."""
        self.working = True
        self.last_cost_ns = 1_000
        work()
        self.working = False
        self._loop.at(self._loop.now + self.last_cost_ns, done)
