"""Jobs that nobody waits for: no caller is refused, estimated to wait longer, or executed longer because of them."""

from collections.abc import Sequence

import numpy as np
import pytest

from runtimes.batching.batcher import LOOP, POOL, Batcher, Executed
from runtimes.batching.job import DONE, Job
from runtimes.batching.plan import Bounds, CostModel
from runtimes.batching.turns import TurnScheduler
from runtimes.errors import Draining, ModelRejectedInput, QueueFull, ServingError
from runtimes.tensors import Array
from tests.simulation.world import SIGNATURE, VirtualLoop, VirtualPool

MS = 1_000_000
DEADLINE_NS = 5_000 * MS


class Node:
    """A batcher of 8 rows per batch and 32 in the queue; remembers each execution and the end of each job."""

    def __init__(self, *, in_pool: bool = False, mergeable: bool = True, run_ns: int = 10_000, row_ns: int = 0) -> None:
        self.loop = VirtualLoop()
        self.pool = VirtualPool(self.loop)
        self.run_ns = run_ns
        self.batches: list[list[Job]] = []
        self.poisoned: set[Job] = set()
        self.ends: dict[Job, str] = {}
        self.idle = 0
        self.batcher = Batcher(
            signature=SIGNATURE,
            bounds=Bounds(max_batch_rows=8, max_queue_rows=32, max_queue_bytes=3200, mergeable=mergeable),
            cost=CostModel(run_ns, row_ns),
            execute=self.execute,
            sink=self,
            scheduler=TurnScheduler(self.loop, self.loop.now_ns, budget_ns=MS),
            pool=self.pool,
            now_ns=self.loop.now_ns,
            turn_budget_ns=MS,
            lane_fixed=in_pool,
        )
        assert self.batcher.lane == (POOL if in_pool else LOOP)

    def execute(self, jobs: Sequence[Job]) -> Executed:
        self.batches.append(list(jobs))
        if self.pool.working:
            self.pool.last_cost_ns = self.run_ns
        else:
            self.loop.now += self.run_ns
        if self.poisoned.intersection(jobs):
            raise ModelRejectedInput("poisoned")
        rows = sum(job.rows for job in jobs)
        return Executed([np.zeros((rows, 1))], rows, 0, self.run_ns, self.run_ns)

    def executed(self, jobs: Sequence[Job], outcome: Executed) -> None:
        """Counted elsewhere."""

    def completed(self, jobs: Sequence[Job], outputs: list[Array], started_ns: int) -> None:
        for job in jobs:
            if job.state != DONE:
                self.end(job, "ok")

    def failed(self, job: Job, error: ServingError) -> None:
        self.end(job, error.code)

    def end(self, job: Job, how: str) -> None:
        assert job not in self.ends, "a job ends once"
        job.state = DONE
        self.ends[job] = how

    def job(self, rows: int = 1, size_bytes: int = 0, deadline_ns: int = 0) -> Job:
        made = Job()
        made.inputs = [np.zeros((rows, 2))]
        made.rows, made.size_bytes, made.deadline_ns = rows, size_bytes, deadline_ns
        return made

    def come(self, count: int = 1, rows: int = 1, size_bytes: int = 0, deadline_ns: int = 0) -> list[Job]:
        """Callers."""
        made = [self.job(rows, size_bytes, deadline_ns) for _ in range(count)]
        for job in made:
            self.batcher.submit(job, self.loop.now)
        return made

    def come_behind(self, count: int = 1, rows: int = 1, size_bytes: int = 0) -> list[Job]:
        """Copies."""
        made = [self.job(rows, size_bytes, self.loop.now + DEADLINE_NS) for _ in range(count)]
        for job in made:
            self.batcher.submit_behind(job, self.loop.now)
        return made

    def run(self) -> None:
        self.loop.run(lambda: None)
        queue, behind = self.batcher.queue, self.batcher.behind
        assert self.batcher.idle
        assert (queue.jobs, queue.rows, queue.size_bytes) == (behind.jobs, behind.rows, behind.size_bytes) == (0, 0, 0)


@pytest.mark.parametrize(("rows", "size_bytes"), [(1, 0), (1, 100), (8, 0)])
def test_what_waits_behind_takes_no_caller_s_place(rows: int, size_bytes: int) -> None:
    node = Node()
    behind = node.come_behind(32 // rows, rows, size_bytes)
    callers = node.come(32 // rows, rows, size_bytes)
    with pytest.raises(QueueFull, match=f"holds 32 rows in {32 * size_bytes} bytes"):
        node.come()
    node.run()
    assert [node.ends[job] for job in callers + behind] == ["ok"] * 2 * (32 // rows)


@pytest.mark.parametrize("rows", [1, 33])
def test_behind_there_is_only_the_room_that_callers_leave(rows: int) -> None:
    node = Node()
    node.come(20)
    node.come_behind(12)
    with pytest.raises(ServingError):
        node.come_behind(1, rows)
    assert node.batcher.behind.rows == 12
    node.run()


def test_behind_the_bytes_are_bounded_too() -> None:
    node = Node()
    node.come(1, size_bytes=3000)
    node.come_behind(2, size_bytes=100)
    with pytest.raises(QueueFull):
        node.come_behind(1, size_bytes=1)
    node.run()


@pytest.mark.parametrize("mergeable", [True, False])
def test_the_estimated_wait_does_not_know_what_waits_behind(mergeable: bool) -> None:
    """Alone, a run of 10 ms is admitted with 16 ms left and not with 14: 1.2 x 10 of 0.8 x 16."""
    node = Node(in_pool=True, mergeable=mergeable, run_ns=10 * MS)
    behind = node.come_behind(24)
    factor = 1 if mergeable else 2
    with pytest.raises(QueueFull, match=r"wait of 12\.0 ms"):
        node.come(deadline_ns=node.loop.now + 14 * MS)
    callers = node.come(deadline_ns=node.loop.now + 16 * MS)
    with pytest.raises(QueueFull, match=rf"wait of {12 * factor}\.0 ms"):
        node.come(deadline_ns=node.loop.now + 14 * MS)
    node.run()
    assert node.batches[0] == callers, "who came later was served first, and alone"
    assert [node.ends[job] for job in callers + behind] == ["ok"] * 25


def test_of_what_came_behind_only_the_run_under_way_counts() -> None:
    node = Node(in_pool=True, run_ns=10 * MS)
    node.come_behind(24)
    node.batcher.turn(0, True)
    with pytest.raises(QueueFull, match=r"wait of 22\.0 ms"):
        node.come(deadline_ns=node.loop.now + 14 * MS)
    caller = node.come(deadline_ns=node.loop.now + 28 * MS)
    node.run()
    assert [len(jobs) for jobs in node.batches] == [8, 1, 8, 8]
    assert node.batches[1] == caller


def test_in_the_pool_a_run_from_behind_takes_no_longer_than_two_of_one_job() -> None:
    """A caller that comes then waits for it; batches of callers are as large as ever."""
    node = Node(in_pool=True, run_ns=0, row_ns=5 * MS)
    behind = node.come_behind(8)
    node.batcher.turn(0, True)
    assert node.batches == [behind[:2]]
    node = Node(in_pool=True, run_ns=0, row_ns=5 * MS)
    callers = node.come(8)
    node.batcher.turn(0, True)
    assert node.batches == [callers]


def test_what_failed_behind_is_told_when_its_time_is_over() -> None:
    node = Node(in_pool=True, run_ns=10 * MS)
    behind = node.come_behind(4)
    node.poisoned.add(behind[0])
    node.batcher.turn(0, True)
    node.come(16)

    def come() -> None:
        node.come(8)
        assert node.batcher.behind.again
        if node.loop.now < DEADLINE_NS + 50 * MS:
            node.loop.at(node.loop.now + 10 * MS, come)
        else:
            assert [node.ends.get(job) for job in behind] == ["deadline_exceeded"] * 4

    node.loop.at(11 * MS, come)
    node.run()
    assert node.batches[0] == behind
    assert not any(set(jobs).intersection(behind) for jobs in node.batches[1:])


@pytest.mark.parametrize("in_pool", [False, True])
def test_no_execution_of_callers_is_filled_up_from_behind(in_pool: bool) -> None:
    node = Node(in_pool=in_pool)
    behind = node.come_behind(7)
    callers = node.come(3)
    node.run()
    assert node.batches == [callers, behind]


def test_a_failed_batch_from_behind_is_run_again_behind_callers() -> None:
    node = Node(in_pool=True)
    behind = node.come_behind(8)
    node.poisoned.add(behind[2])
    node.batcher.turn(0, True)
    callers = node.come(8)
    node.run()
    assert node.batches[:2] == [behind, callers]
    assert [node.ends[job] for job in behind] == ["ok", "ok", "model_rejected_input", *["ok"] * 5]


def test_a_failed_batch_of_callers_is_run_again_before_what_waits_behind() -> None:
    node = Node()
    behind = node.come_behind(1)
    callers = node.come(2)
    node.poisoned.add(callers[0])
    node.run()
    assert node.batches == [callers, callers[:1], callers[1:], behind]


def test_what_finds_no_time_behind_is_told_so_and_leaves_nothing() -> None:
    """Callers without a pause; one of the copies is cut, and its pieces go together."""
    node = Node(in_pool=True, run_ns=10 * MS)
    node.come(16)
    behind = [*node.come_behind(2), *node.come_behind(1, rows=14)]

    def come() -> None:
        node.come(8)
        if node.loop.now < DEADLINE_NS + 50 * MS:
            node.loop.at(node.loop.now + 10 * MS, come)
        else:
            assert [node.ends.get(job) for job in behind] == ["deadline_exceeded"] * 3
            assert (node.batcher.behind.jobs, node.batcher.behind.rows) == (0, 0)

    node.loop.at(10 * MS, come)
    node.run()
    assert len(node.batches) > 500
    assert not any(set(jobs).intersection(behind) for jobs in node.batches)


def test_a_large_one_is_cut_and_may_be_cancelled() -> None:
    node = Node()
    kept, left = node.come_behind(2, rows=12)
    node.batcher.cancel(left)
    assert node.batcher.behind.rows == 12
    alone = node.come_behind(1)[0]
    node.batcher.cancel(alone)
    node.run()
    assert node.ends == {kept: "ok"}
    assert [sum(job.rows for job in jobs) for jobs in node.batches] == [8, 4]


def test_callers_are_not_put_off_for_company_that_came_from_behind() -> None:
    node = Node()
    node.come_behind(8)
    node.run()
    node.come(1)
    node.batcher.turn(MS, True)
    assert [len(jobs) for jobs in node.batches] == [8, 1]


@pytest.mark.parametrize("in_pool", [False, True])
def test_a_drain_ends_with_the_last_from_behind(in_pool: bool) -> None:
    node = Node(in_pool=in_pool)
    node.come_behind(10)
    node.batcher.on_idle = lambda: setattr(node, "idle", len(node.ends))
    node.batcher.close()
    with pytest.raises(Draining):
        node.come_behind()
    node.run()
    assert node.idle == 10
