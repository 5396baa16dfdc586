"""The loop of one runtime: admit, queue, execute, deliver. Decisions are in `plan` and `queue`; this acts.

Everything here runs on the event loop, except `execute` when the model lives in the pool. Each admitted job ends in
exactly one call of the sink, or in none when its caller has gone. A failed batch is run again in halves until
only the offender fails.

There are two queues: callers' jobs, and behind them those that nobody waits for (copies for a shadow). The second is
served while the first is empty, shares no execution with it, and what waits there is in none of its bounds and
estimates.
"""

from collections.abc import Callable, Sequence
from typing import Final, Protocol

from runtimes.batching import plan
from runtimes.batching.gather import rejoin, slices
from runtimes.batching.job import BEHIND, DONE, QUEUED, Job, Part
from runtimes.batching.queue import JobQueue
from runtimes.batching.turns import TurnScheduler
from runtimes.errors import DeadlineExceeded, Draining, ExecutionFailed, InvalidInput, QueueFull, ServingError
from runtimes.tensors import Array, Signature

LOOP: Final = "loop"
POOL: Final = "pool"


class Executed:
    """What one execution gave.

    Attributes:
        outputs: arrays in the signature's order, the rows of all jobs in dim 0.
        rows: of all jobs.
        gather_ns, run_ns, cpu_ns: time to build the inputs, to run, and CPU time of both.
        cpu_measured: whether the last was measured, not estimated.
        inputs: what it was given; () = not kept.
    """

    __slots__ = ("cpu_measured", "cpu_ns", "gather_ns", "inputs", "outputs", "rows", "run_ns")

    def __init__(
        self,
        outputs: list[Array],
        rows: int,
        gather_ns: int,
        run_ns: int,
        cpu_ns: int,
        cpu_measured: bool = True,
        inputs: Sequence[Array | None] = (),
    ) -> None:
        self.inputs = inputs
        self.outputs = outputs
        self.rows = rows
        self.gather_ns = gather_ns
        self.run_ns = run_ns
        self.cpu_ns = cpu_ns
        self.cpu_measured = cpu_measured


class Sink(Protocol):
    """Who hears of the results; called on the event loop only."""

    def executed(self, jobs: Sequence[Job], outcome: Executed) -> None:
        """One execution of these jobs, in the order of their rows, succeeded: count it. Comes before `completed`,
        once per execution; jobs that are DONE have no reader any more."""

    def completed(self, jobs: Sequence[Job], outputs: list[Array], started_ns: int) -> None:
        """Answer those of the jobs that are not DONE, and mark them DONE; outputs hold the rows of all."""

    def failed(self, job: Job, error: ServingError) -> None:
        """Answer this job with an error and mark it DONE, or submit it to another batcher."""


class Pool(Protocol):
    """Threads for executions too long for the loop."""

    def submit(self, work: Callable[[], None], done: Callable[[], None]) -> None:
        """Run `work` in a thread, then `done` on the event loop."""


class Batcher:
    """Queue and executions of one runtime.

    Args:
        execute: gathers and runs these jobs; raises ServingError. Called on the loop or in the pool.
        lane: LOOP or POOL at start; `choose_lane` moves it with hysteresis.
        lane_fixed: never on the loop (graphs whose run time depends on values).

    Attributes:
        queue: callers' jobs.
        behind: jobs that nobody waits for.
    """

    def __init__(
        self,
        *,
        signature: Signature,
        bounds: plan.Bounds,
        cost: plan.CostModel,
        execute: Callable[[Sequence[Job]], Executed],
        sink: Sink,
        scheduler: TurnScheduler,
        pool: Pool,
        now_ns: Callable[[], int],
        turn_budget_ns: int,
        lane_fixed: bool = False,
    ) -> None:
        self.queue = JobQueue()
        self.behind = JobQueue()
        self.bounds = bounds
        self.cost = cost
        self._work = plan.CostModel(cost.base_ns, cost.per_row_ns)
        self.lane = LOOP
        self.closed = False
        self.on_idle: Callable[[], None] | None = None
        self._signature = signature
        self._optional = [i for i, spec in enumerate(signature.inputs) if spec.optional]
        self._execute = execute
        self._sink = sink
        self._scheduler = scheduler
        self._pool = pool
        self._now_ns = now_ns
        self._turn_budget_ns = turn_budget_ns
        self._lane_fixed = lane_fixed
        self._busy_until_ns = 0
        self._running = False
        self._waking = False
        self._cuts = False
        self._together = 0
        self._looked = False
        self._choose_lane()

    def __repr__(self) -> str:
        state = "closed" if self.closed else "running" if self._running else "open"
        return f"<Batcher {self.lane}, {state}, {self.queue!r}, behind it {self.behind!r}>"

    @property
    def idle(self) -> bool:
        """Nothing waits and nothing runs."""
        queue = self._first()
        return not (queue.jobs or self._running or queue.again)

    # ---- admission ----

    def submit(self, job: Job, now_ns: int) -> None:
        """Admit a job: it will be answered through the sink, unless cancelled.

        Raises:
            Draining: closed.
            QueueFull: a bound is reached or it would wait too long; the job was not taken.
            InvalidInput: larger than the whole queue; or a number does not fit (only where the job has to be cut).
        """
        if self.closed:
            raise Draining("the model version is being unloaded", retry_after_s=1.0)
        queue, bounds = self.queue, self.bounds
        if queue.rows + job.rows > bounds.max_queue_rows or queue.size_bytes + job.size_bytes > bounds.max_queue_bytes:
            self._refuse_full(job)
        if job.deadline_ns and (queue.rows >= bounds.max_batch_rows or self.lane is POOL):
            self._check_wait(job, now_ns)
        self._enqueue(queue, job, now_ns)

    def submit_behind(self, job: Job, now_ns: int) -> None:
        """Admit a job that nobody waits for: it runs when no caller's job is there, so none is refused for it.

        It is taken only where the bounds have room for it beside all that waits. Callers who come later do not ask what
        waits behind them, which would cost each of them time, so both together are at most twice the bounds.

        Raises:
            Draining, QueueFull, InvalidInput: as `submit`; the job was not taken.
        """
        if self.closed:
            raise Draining("the model version is being unloaded", retry_after_s=1.0)
        queue, behind, bounds = self.queue, self.behind, self.bounds
        size_bytes = queue.size_bytes + behind.size_bytes + job.size_bytes
        if queue.rows + behind.rows + job.rows > bounds.max_queue_rows or size_bytes > bounds.max_queue_bytes:
            self._refuse_full(job)
        job.priority = BEHIND
        self._enqueue(behind, job, now_ns)

    def _enqueue(self, queue: JobQueue, job: Job, now_ns: int) -> None:
        bounds = self.bounds
        if self._optional and any(job.inputs[i] is not None for i in self._optional):
            # What it replaces holds for the whole execution, so its rows share one with nobody else's.
            job.bucket = job
        if job.rows > bounds.max_batch_rows and bounds.mergeable:
            pieces = slices(job, self._signature, bounds.max_batch_rows)
            share = job.size_bytes // len(pieces)
            self._cuts = True
            job.parts = tuple(Part(job, inputs, rows, share) for inputs, rows in pieces)
            job.state = QUEUED
            job.enqueued_ns = now_ns
            for part in job.parts:
                queue.push(part, now_ns)
        else:
            queue.push(job, now_ns)
        if self._running:
            self._scheduler.watch(self)
        else:
            self._scheduler.request(self)

    def _refuse_full(self, job: Job) -> None:
        queue, bounds = self.queue, self.bounds
        if job.rows > bounds.max_queue_rows or job.size_bytes > bounds.max_queue_bytes:
            raise InvalidInput(
                f"{job.rows} rows in {job.size_bytes} bytes can never wait in a queue of {bounds.max_queue_rows} rows "
                f"and {bounds.max_queue_bytes} bytes: send fewer rows at once"
            )
        wait = plan.estimated_wait_ns(self.cost, bounds, queue.rows, 0)
        raise QueueFull(
            f"the queue holds {queue.rows} rows in {queue.size_bytes} bytes, and {job.rows} rows in "
            f"{job.size_bytes} bytes more would pass its bound of {bounds.max_queue_rows} rows or "
            f"{bounds.max_queue_bytes} bytes",
            retry_after_s=plan.retry_after_s(wait),
        )

    def _check_wait(self, job: Job, now_ns: int) -> None:
        residual = max(0, self._busy_until_ns - now_ns) if self._running else self._scheduler.lag_ns(now_ns)
        if not self.bounds.mergeable:
            # Each of those in front runs alone, and pays for a run of its own.
            residual += int(plan.SAFETY * self.queue.jobs * self.cost.predict_ns(0))
        wait = plan.estimated_wait_ns(self.cost, self.bounds, self.queue.rows + job.rows, residual)
        if plan.must_refuse(wait, job.deadline_ns - now_ns):
            left_ms = max(0, job.deadline_ns - now_ns) / 1e6
            raise QueueFull(
                f"the estimated wait of {wait / 1e6:.1f} ms is too long for the {left_ms:.1f} ms left",
                reason="estimated_wait",
                retry_after_s=plan.retry_after_s(wait),
            )

    def cancel(self, job: Job) -> None:
        """The caller has gone: queued rows are dropped, running ones finish unseen by it."""
        self._drop_parts(job)
        if job.state == QUEUED and not job.parts:
            self._queue_of(job).drop(job)
        job.state = DONE
        self._settle()

    def _drop_parts(self, whole: Job) -> None:
        for part in whole.parts:
            if part.state == QUEUED:
                self._queue_of(part).drop(part)
            part.state = DONE

    def _queue_of(self, job: Job) -> JobQueue:
        return self.behind if job.priority == BEHIND else self.queue

    def close(self) -> None:
        """Take nothing new; what was admitted is still answered. `on_idle` is called when that is done."""
        self.closed = True
        self._settle()

    # ---- turns ----

    def turn(self, budget_ns: int, must: bool) -> int:
        """Run batches: on the loop while they fit the budget, or one in the pool. See `Turner`."""
        if self._looks_again():
            return 0
        try:
            return self._run_batches(budget_ns, must)
        except Exception:
            # A mistake in the sink: the other half of a bisected batch has nobody else who would ask for it.
            if self.queue.again or self.behind.again:
                self._scheduler.request(self)
            raise
        finally:
            self._settle()

    def _run_batches(self, budget_ns: int, must: bool) -> int:
        spent = 0
        while not self._running:
            queue = self._first()
            if not (queue.jobs or queue.again):
                break
            if self.lane is POOL or (queue.rows > 1 and self._head_is_long(queue)):
                self._start_in_pool(queue)
                break
            jobs = self._next_batch(queue, budget_ns - spent, must and spent == 0)
            if not jobs:
                break
            if queue is self.queue:
                self._together = max(len(jobs), self._together - 1)
            spent += self._run_on_loop(jobs)
        return spent

    def _first(self) -> JobQueue:
        """The queue that is served now: callers' while any of them waits."""
        queue = self.queue
        return queue if queue.jobs or queue.again else self.behind

    def _looks_again(self) -> bool:
        """Put the batch off by one turn, once, when those that came together of late are not all here yet."""
        queue = self.queue
        self._looked = (
            queue.jobs < self._together
            and not self._looked
            and self.lane is LOOP
            and not queue.again
            and not self.closed
            and plan.expects_company(self.bounds, queue.jobs, queue.rows, self._together)
        )
        if self._looked:
            self._scheduler.request(self)
        return self._looked

    def _head_is_long(self, queue: JobQueue) -> bool:
        """One request of so many rows that it would fill a whole turn: not on the loop."""
        if queue.again:
            return False
        head = queue.head()
        return head is not None and head.rows > 1 and self.cost.predict_ns(head.rows) > self._turn_budget_ns

    def sweep(self, now_ns: int) -> bool:
        """Fail what has expired in the queue. See `Turner`."""
        for queue in (self.queue, self.behind):
            for job in [job for job in queue.waiting() if job.deadline_ns and job.deadline_ns <= now_ns]:
                if job.state == QUEUED:
                    queue.drop(job)
                    self._fail(job, _expired())
        # Failed batches of callers run before all else, and so are soon over.
        for job in [job for batch in self.behind.again for job in batch if 0 < job.deadline_ns <= now_ns]:
            self._fail(job, _expired())
        self._settle()
        return bool(self.queue.jobs or self.behind.jobs or self.behind.again)

    def _next_batch(self, queue: JobQueue, budget_ns: int, must: bool) -> list[Job]:
        """The next jobs to run now, or none: nothing waits, it is not ripe, or the budget is spent."""
        if queue.again:
            return queue.again.popleft()
        bounds = self.bounds
        head = queue.head()
        if head is None:
            return []
        if bounds.max_delay_ns and not self.closed:
            waited = self._now_ns() - head.enqueued_ns
            if not plan.is_ripe(bounds, queue.rows, waited):
                self._wake_in(bounds.max_delay_ns - waited)
                self._scheduler.watch(self)
                return []
        limit = min(bounds.max_batch_rows, self.cost.rows_within(budget_ns))
        if limit < head.rows and not must:
            self._scheduler.request(self)
            return []
        return queue.take(head, limit if bounds.mergeable else 1)

    def _wake_in(self, delay_ns: int) -> None:
        """One timer for the queue, not one per request."""
        if self._waking:
            return
        self._waking = True

        def wake() -> None:
            self._waking = False
            self._scheduler.request(self)

        self._scheduler.after(delay_ns, wake)

    def _run_on_loop(self, jobs: list[Job]) -> int:
        started = self._now_ns()
        self._finish(jobs, started, self._attempt(jobs, started))
        return self._now_ns() - started

    def _start_in_pool(self, queue: JobQueue) -> None:
        if self._running:
            return
        head = self.behind.head() if queue is self.behind else None
        # Callers who come meanwhile wait for it: of what nobody waits for, a turn's worth, or twice what one takes.
        most_ns = max(self._turn_budget_ns, 2 * self.cost.predict_ns(head.rows)) if head is not None else 1 << 62
        jobs = self._next_batch(queue, most_ns, True)
        if not jobs:
            return
        started = self._now_ns()
        self._running = True
        self._scheduler.running += 1
        self._busy_until_ns = started + self.cost.predict_ns(sum(job.rows for job in jobs))
        outcome: list[Executed | ServingError] = []

        def done() -> None:
            self._running = False
            self._scheduler.running -= 1
            try:
                self._finish(jobs, started, outcome[0])
            finally:
                if not self.idle:
                    self._scheduler.request(self)
                self._settle()

        self._pool.submit(lambda: outcome.append(self._attempt(jobs, started)), done)
        if self.queue.jobs or self.behind.jobs:
            self._scheduler.watch(self)

    def _attempt(self, jobs: list[Job], now_ns: int) -> Executed | ServingError:
        """Execute those that still have a reader and time; never raises."""
        for job in jobs:
            if job.state == DONE or 0 < job.deadline_ns <= now_ns:
                # Somebody left or expired between queue and run: the rest runs without them.
                return _Stale([job for job in jobs if job.state != DONE and not 0 < job.deadline_ns <= now_ns])
        try:
            return self._execute(jobs)
        except ServingError as error:
            return error
        except Exception as error:
            failed = ExecutionFailed("the execution failed for a reason of the server's own")
            failed.__cause__ = error
            return failed

    # ---- results ----

    def _finish(self, jobs: list[Job], started_ns: int, outcome: "Executed | ServingError") -> None:
        if isinstance(outcome, Executed):
            rows = outcome.rows
            self.cost.learn(rows, outcome.run_ns + outcome.gather_ns)
            if outcome.cpu_measured:
                self._work.learn(rows, outcome.cpu_ns)
                self._choose_lane()
            self._sink.executed(jobs, outcome)
            if self._cuts and any(type(job) is Part for job in jobs):
                self._deliver_parts(jobs, outcome.outputs, started_ns)
            else:
                self._sink.completed(jobs, outcome.outputs, started_ns)
        elif isinstance(outcome, _Stale):
            for job in jobs:
                if job not in outcome.live:
                    self._fail(job, _expired())
            if outcome.live:
                self._queue_of(jobs[0]).again.appendleft(outcome.live)
        elif len(jobs) > 1:
            # By halves until the offender is alone: at most 2 log2(n) more runs, and its neighbours pass.
            middle, again = len(jobs) // 2, self._queue_of(jobs[0]).again
            again.appendleft(jobs[middle:])
            again.appendleft(jobs[:middle])
        else:
            outcome.executed = not isinstance(outcome, InvalidInput)
            self._fail(jobs[0], outcome)

    def _deliver_parts(self, jobs: list[Job], outputs: list[Array], started_ns: int) -> None:
        at = 0
        for job in jobs:
            own = [array[at : at + job.rows] for array in outputs] if self.bounds.mergeable else outputs
            at += job.rows
            if not isinstance(job, Part):
                self._sink.completed([job], own, started_ns)
                continue
            # Copies: a view would keep the whole batch alive until the last part is there.
            job.outputs = [array.copy() for array in own]
            job.state = DONE
            whole = job.whole
            if whole.state != DONE and all(part.outputs is not None for part in whole.parts):
                self._sink.completed([whole], rejoin([p.outputs for p in whole.parts if p.outputs]), started_ns)

    def _fail(self, job: Job, error: ServingError) -> None:
        """Fail a job, or the whole that it is a part of: its other parts need not run."""
        if isinstance(job, Part):
            job.state = DONE
            whole = job.whole
            self._drop_parts(whole)
            job = whole
        if job.state != DONE:
            self._sink.failed(job, error)

    def _choose_lane(self) -> None:
        """Leave the loop when one row exceeds the turn's budget; come back below half of it.

        By CPU time: the clock also counts what others take, and in the pool that is the loop itself, so a short model
        that a bad moment had sent there would never come back.
        """
        single = self._work.predict_ns(1)
        if self._lane_fixed or single > self._turn_budget_ns:
            self.lane = POOL
        elif single < self._turn_budget_ns // 2:
            self.lane = LOOP

    def leave_loop(self) -> None:
        """Never run on the loop again: an execution had to be terminated there."""
        self._lane_fixed = True
        self.lane = POOL

    def _settle(self) -> None:
        if (self.queue.jobs or self.behind.jobs) and not self._running and not self.bounds.max_delay_ns:
            self._scheduler.watch(self)
        if self.closed and self.idle and self.on_idle is not None:
            callback, self.on_idle = self.on_idle, None
            callback()


class _Stale(ServingError):
    """A batch in which some jobs have no reader or no time left; `live` are the others."""

    code = "stale"

    def __init__(self, live: list[Job]) -> None:
        super().__init__("a batch went stale")
        self.live = live


def _expired() -> ServingError:
    return DeadlineExceeded("the deadline passed while the request waited; it was not executed")
