"""Callers of the last batch come back a few at a time: the batcher looks at the sockets once more, and only once."""

from collections.abc import Sequence

from runtimes.batching.batcher import Batcher, Executed
from runtimes.batching.job import DONE, Job
from runtimes.batching.plan import Bounds, CostModel
from runtimes.batching.turns import TurnScheduler
from runtimes.errors import ServingError
from runtimes.tensors import Array
from tests.simulation.world import SIGNATURE, VirtualLoop, VirtualPool


class Bench:
    """A batcher on a loop that is turned by hand; remembers how many jobs each execution had."""

    def __init__(self) -> None:
        self.loop = VirtualLoop()
        self.sizes: list[int] = []
        self.batcher = Batcher(
            signature=SIGNATURE,
            bounds=Bounds(max_batch_rows=32, max_queue_rows=100, max_queue_bytes=1 << 20),
            cost=CostModel(10_000, 0),
            execute=self.execute,
            sink=self,
            scheduler=TurnScheduler(self.loop, self.loop.now_ns, budget_ns=1_000_000),
            pool=VirtualPool(self.loop),
            now_ns=self.loop.now_ns,
            turn_budget_ns=1_000_000,
        )

    def execute(self, jobs: Sequence[Job]) -> Executed:
        self.sizes.append(len(jobs))
        return Executed([], len(jobs), 1, 1, 1)

    def executed(self, jobs: Sequence[Job], outcome: Executed) -> None:
        """A sink hears of it."""

    def completed(self, jobs: Sequence[Job], outputs: list[Array], started_ns: int) -> None:
        for job in jobs:
            job.state = DONE

    def failed(self, job: Job, error: ServingError) -> None:
        raise AssertionError(f"nothing fails here: {error}")

    def come(self, count: int) -> None:
        for _ in range(count):
            self.batcher.submit(Job(), self.loop.now)

    def turn(self) -> None:
        """Everything that is ready now, as one turn of the loop."""
        ready, self.loop._ready = self.loop._ready, []
        for callback in ready:
            callback()


def test_late_comers_share_the_execution() -> None:
    bench = Bench()
    bench.come(8)
    bench.turn()
    bench.come(3)
    bench.turn()
    assert bench.sizes == [8], "five of the eight may be here within the next poll"
    bench.come(5)
    bench.turn()
    assert bench.sizes == [8, 8]


def test_who_does_not_come_is_waited_for_one_turn_only() -> None:
    bench = Bench()
    bench.come(8)
    bench.turn()
    bench.come(3)
    bench.turn()
    bench.turn()
    assert bench.sizes == [8, 3]
    assert bench.batcher.idle


def test_a_lone_caller_never_waits() -> None:
    bench = Bench()
    for expected in ([1], [1, 1], [1, 1, 1]):
        bench.come(1)
        bench.turn()
        assert bench.sizes == expected


def test_a_burst_is_forgotten_batch_by_batch() -> None:
    bench = Bench()
    bench.come(4)
    bench.turn()
    waits = 0
    for _ in range(6):
        before = len(bench.sizes)
        bench.come(1)
        bench.turn()
        if len(bench.sizes) == before:
            waits += 1
            bench.turn()
    assert waits == 3
    assert bench.sizes == [4, 1, 1, 1, 1, 1, 1]


def test_who_leaves_while_the_batch_is_put_off_leaves_nothing_behind() -> None:
    bench = Bench()
    bench.come(4)
    bench.turn()
    job = Job()
    bench.batcher.submit(job, bench.loop.now)
    bench.turn()
    bench.batcher.cancel(job)
    bench.turn()
    assert bench.sizes == [4]
    assert bench.batcher.idle


def test_a_drain_does_not_wait_for_company() -> None:
    bench = Bench()
    bench.come(4)
    bench.turn()
    bench.come(1)
    bench.batcher.close()
    bench.turn()
    assert bench.sizes == [4, 1]
