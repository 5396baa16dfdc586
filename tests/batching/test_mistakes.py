"""A sink that raises is a mistake of ours: it costs its own batch, and nobody waits for ever because of it."""

from collections.abc import Sequence

import pytest

from runtimes.batching.batcher import POOL, Batcher, Executed
from runtimes.batching.job import DONE, Job
from runtimes.batching.plan import Bounds, CostModel
from runtimes.batching.turns import TurnScheduler
from runtimes.errors import ModelRejectedInput, ServingError
from runtimes.tensors import Array
from tests.simulation.world import SIGNATURE, VirtualLoop, VirtualPool


class Node:
    """A batcher of two rows per batch whose sink raises for some jobs."""

    def __init__(self, *, in_pool: bool = False) -> None:
        self.loop = VirtualLoop()
        self.wrong: set[int] = set()
        self.poisoned: set[int] = set()
        self.answered: list[int] = []
        self.idle = 0
        self.batcher = Batcher(
            signature=SIGNATURE,
            bounds=Bounds(max_batch_rows=2, max_queue_rows=100, max_queue_bytes=1 << 20),
            cost=CostModel(10_000, 0),
            execute=self.execute,
            sink=self,
            scheduler=TurnScheduler(self.loop, self.loop.now_ns, budget_ns=1_000_000),
            pool=VirtualPool(self.loop),
            now_ns=self.loop.now_ns,
            turn_budget_ns=1_000_000,
            lane_fixed=in_pool,
        )
        assert (self.batcher.lane == POOL) == in_pool

    def execute(self, jobs: Sequence[Job]) -> Executed:
        if any(job.sequence in self.poisoned for job in jobs):
            raise ModelRejectedInput("poisoned")
        return Executed([], len(jobs), 1, 1, 1)

    def executed(self, jobs: Sequence[Job], outcome: Executed) -> None:
        """Counted elsewhere."""

    def completed(self, jobs: Sequence[Job], outputs: list[Array], started_ns: int) -> None:
        for job in jobs:
            job.state = DONE
        if any(job.sequence in self.wrong for job in jobs):
            raise RuntimeError("a mistake of ours")
        self.answered += [job.sequence for job in jobs]

    def failed(self, job: Job, error: ServingError) -> None:
        job.state = DONE
        self.answered.append(-job.sequence)

    def come(self, count: int, deadline_ns: int = 0) -> None:
        for _ in range(count):
            job = Job()
            job.deadline_ns = deadline_ns
            self.batcher.submit(job, self.loop.now)

    def run(self) -> None:
        self.loop.run(lambda: None)

    def close(self) -> None:
        def idle() -> None:
            self.idle += 1

        self.batcher.on_idle = idle
        self.batcher.close()


def test_the_next_request_brings_back_those_who_were_behind_it() -> None:
    node = Node()
    node.wrong = {1}
    node.come(4)
    with pytest.raises(RuntimeError, match="mistake"):
        node.run()
    node.come(1)
    node.run()
    assert node.answered == [3, 4, 5]


def test_without_a_next_request_they_expire() -> None:
    node = Node()
    node.wrong = {1}
    node.come(4, deadline_ns=50_000_000)
    with pytest.raises(RuntimeError, match="mistake"):
        node.run()
    node.run()
    assert sorted(node.answered) == [-4, -3]


def test_the_other_half_of_a_bisected_batch_is_run() -> None:
    node = Node()
    node.wrong, node.poisoned = {1}, {2}
    node.come(2)
    with pytest.raises(RuntimeError, match="mistake"):
        node.run()
    node.run()
    assert node.answered == [-2]
    assert node.batcher.idle


@pytest.mark.parametrize("in_pool", [False, True])
def test_a_drain_ends(in_pool: bool) -> None:
    node = Node(in_pool=in_pool)
    node.wrong = {1}
    node.come(1)
    node.close()
    with pytest.raises(RuntimeError, match="mistake"):
        node.run()
    assert node.idle == 1


def test_a_model_in_a_thread_goes_on_with_those_who_wait() -> None:
    node = Node(in_pool=True)
    node.wrong = {1}
    node.come(4)
    with pytest.raises(RuntimeError, match="mistake"):
        node.run()
    node.run()
    assert node.answered == [3, 4]
