"""When a shadow's answer is the same as the one that was given, tensor by tensor."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from gateway.exchange import Exchange, Placed
from gateway.shadow import Comparison, Shadow, compare
from gateway.shadowfields import COMPARED, DROPPED, FAILED, FIELDS
from gateway.tally import Tally
from runtimes.batching.batcher import Batcher, Executed
from runtimes.batching.job import DONE, Job
from runtimes.batching.plan import Bounds, CostModel
from runtimes.batching.turns import TurnScheduler
from runtimes.errors import ExecutionFailed, QueueFull, ServingError
from runtimes.tensors import DATATYPES, DYNAMIC, Array, Signature, TensorSpec
from tests.simulation.world import VirtualLoop, VirtualPool

FP32 = DATATYPES["FP32"]


def signature(datatype: str = "FP32") -> Signature:
    spec = TensorSpec("y", DATATYPES[datatype], (DYNAMIC, DYNAMIC))
    return Signature((TensorSpec("x", FP32, (DYNAMIC, 2)),), (spec,), True)


def rows(*values: list[float]) -> list[Array]:
    return [np.array(values, np.float32)]


def test_argmax_tolerance_and_top_k_by_row() -> None:
    ours = rows([0.1, 0.7, 0.2], [0.5, 0.3, 0.2], [0.2, 0.3, 0.5])
    theirs = rows([0.1, 0.7, 0.2], [0.4, 0.45, 0.15], [0.35, 0.2, 0.45])
    found = compare(theirs, ours, signature(), Comparison(argmax=True, atol=0.01, rtol=0.0, topk=2))
    assert (found.rows, found.argmax, found.tolerance, found.topk) == (3, 1, 2, 1)
    assert found.disagrees
    assert (found.where.tolist(), found.why) == ([False, True, True], ["argmax", "tolerance", "topk"])
    assert found.shifts.tolist() == pytest.approx([0.0, -0.05, -0.05])


def test_what_was_not_asked_does_not_disagree() -> None:
    found = compare(rows([1.0, 0.0]), rows([0.0, 1.0]), signature(), Comparison(argmax=False))
    assert not found.disagrees


def test_infinite_and_missing_numbers() -> None:
    ours, theirs = rows([np.nan, np.inf], [1.0, np.nan]), rows([np.nan, np.inf], [1.0, 2.0])
    found = compare(theirs, ours, signature(), Comparison(argmax=False, atol=0.1, rtol=0.0))
    assert (found.tolerance, np.isfinite(found.shifts).all()) == (1, True)


def classed(found: list[Array], given: list[Array], datatype: str = "FP32") -> list[int]:
    return compare(found, given, signature(datatype), Comparison(argmax=False)).classes.tolist()


def test_rows_are_counted_by_the_class_that_was_answered_and_the_shadows() -> None:
    ours = rows([0.1, 0.7, 0.2], [0.5, 0.3, 0.2], [0.2, 0.3, 0.5], [0.9, 0.1, 0.0])
    theirs = rows([0.1, 0.7, 0.2], [0.4, 0.45, 0.15], [0.35, 0.2, 0.45], [0.9, 0.1, 0.0])
    matrix = np.reshape(classed(theirs, ours), (4, 4))
    assert matrix.tolist() == [[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]


def test_whole_numbers_that_stand_alone_are_classes_and_many_of_them_one() -> None:
    ours, theirs = np.array([[0], [1], [7], [-1]]), np.array([[1], [1], [2], [3]])
    matrix = np.reshape(classed([theirs], [ours], "INT64"), (4, 4))
    assert matrix.tolist() == [[0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 1]]


def test_a_score_alone_has_no_class() -> None:
    assert classed(rows([0.2], [0.9]), rows([0.2], [0.8])) == []
    assert classed(rows([0.2, 0.1]), rows([0.2])) == [], "other shapes"


WHOLE = [
    (np.int64, [2**60], [2**60 + 1], 0.0, 1),
    (np.int64, [2**60], [2**60 + 1], 1.0, 0),
    (np.int64, [2**60], [2**60 + 100], 99.0, 1),
    (np.int64, [-(2**63)], [2**63 - 1], 1e9, 1),
    (np.uint64, [2**64 - 1], [2**64 - 2], 0.0, 1),
    (np.uint64, [0], [2**64 - 1], 1e9, 1),
    (np.int8, [-128], [127], 254.0, 1),
    (np.int8, [-128], [127], 255.0, 0),
]


@pytest.mark.parametrize(("kind", "one", "other", "atol", "differ"), WHOLE)
def test_whole_numbers_are_compared_exactly(
    kind: type, one: list[int], other: list[int], atol: float, differ: int
) -> None:
    """float64 does not tell those above 2^53 apart."""
    arrays = [np.array([one], kind)], [np.array([other], kind)]
    for theirs, ours in (arrays, arrays[::-1]):
        found = compare(theirs, ours, signature("INT64"), Comparison(argmax=False, atol=atol, rtol=0.0))
        assert (found.tolerance, np.isfinite(found.shifts).all()) == (differ, True)


def test_the_largest_of_whole_numbers_is_found_exactly() -> None:
    ours, theirs = np.array([[2**60, 2**60 + 1]]), np.array([[2**60 + 1, 2**60]])
    assert compare([theirs], [ours], signature("INT64"), Comparison(argmax=True)).argmax == 1


def test_whole_numbers_beside_fractions_are_numbers() -> None:
    found = compare([np.array([[3]])], rows([3.0]), signature(), Comparison(argmax=False, atol=0.0, rtol=0.0))
    assert not found.disagrees


def test_another_shape_disagrees_wholly() -> None:
    found = compare(rows([1.0, 2.0, 3.0]), rows([1.0, 2.0]), signature(), Comparison())
    assert (found.rows, found.argmax, found.tolerance) == (1, 1, 1)


def test_another_number_of_outputs_or_texts_for_numbers_disagree_wholly() -> None:
    one = np.array([[1.0], [2.0]], np.float32)
    texts = np.array([[b"a"], [b"b"]], object)
    for theirs, ours in (([one, one], [one]), ([one], [one, one]), ([one], [texts]), ([texts], [one])):
        found = compare(theirs, ours, signature(), Comparison(atol=0.1, rtol=0.0))
        assert (found.rows, found.argmax, found.tolerance) == (2, 2, 2)


def test_another_shape_says_nothing_of_what_was_not_asked() -> None:
    found = compare(rows([1.0, 2.0]), rows([1.0]), signature(), Comparison(argmax=False, atol=0.1))
    assert (found.disagrees, found.why, found.where.tolist()) == (True, ["tolerance"], [True])


def test_texts_and_flags_have_to_be_equal() -> None:
    ours, theirs = np.array([[b"a"], [b"b"]], object), np.array([[b"a"], [b"c"]], object)
    found = compare([theirs], [ours], signature("BYTES"), Comparison())
    assert (found.tolerance, found.disagrees) == (1, True)


def test_bfloat16_is_read_as_numbers() -> None:
    one, other = np.array([[0x3F80]], np.uint16), np.array([[0x3F81]], np.uint16)
    assert not compare([other], [one], signature("BF16"), Comparison(argmax=False, atol=0.01, rtol=0.0)).disagrees
    assert compare([other], [one], signature("BF16"), Comparison(argmax=False, atol=0.001, rtol=0.0)).disagrees


def test_no_rows_agree() -> None:
    empty = [np.empty((0, 2), np.float32)]
    assert not compare(empty, empty, signature(), Comparison(atol=0.1, topk=1)).disagrees


def test_outputs_without_the_rows_of_the_first_are_compared_as_a_whole() -> None:
    """A model that is not batched may answer with any shapes: `compare` failed, and with it the turn of the canary."""
    spec = signature().outputs[0]
    two = Signature(signature().inputs, (spec, spec), False)
    boxes, wanted = np.zeros((3, 4), np.float32), Comparison(argmax=True, atol=0.1, topk=2)
    for other in (np.zeros(5, np.float32), np.float32(0.0).reshape(()), np.zeros((0, 2), np.float32)):
        found = compare([boxes, other], [boxes, other], two, wanted)
        assert (found.rows, found.disagrees) == (3, False)
    five = np.zeros(5, np.float32)
    found = compare([boxes, five + 1], [boxes, five], two, wanted)
    assert (found.rows, found.argmax, found.tolerance) == (3, 0, 3)
    texts = np.array([b"a", b"b"], object)
    assert compare([boxes, texts[::-1]], [boxes, texts], two, wanted).tolerance == 3


def test_a_first_output_without_rows_says_nothing_of_the_others() -> None:
    """No box found, against five: they agreed."""
    spec = signature().outputs[0]
    two = Signature(signature().inputs, (spec, spec), False)
    none, five, wanted = np.zeros((0, 4), np.float32), np.zeros((5, 4), np.float32), Comparison(atol=0.1)
    assert compare([five], [none], signature(), wanted).disagrees
    assert compare([none, five + 1], [none, five], two, wanted).disagrees
    assert not compare([none, five], [none, five], two, wanted).disagrees


class Failing:
    """Codec, runtime and batcher of a shadow that takes copies."""

    state = "READY"
    cost = CostModel(10_000_000, 0)

    def __init__(self) -> None:
        self.runtime = self.batcher = self
        self.copies: list[Any] = []

    def meter(self, variant: str) -> None:
        """Nobody counts."""

    def submit_behind(self, job: Any, now_ns: int) -> None:
        self.copies.append(job)


@pytest.mark.interpreted
def test_a_comparison_that_cannot_be_made_costs_the_copies_behind_it_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """It is our own mistake, in a turn of the batcher."""
    node, counts = Failing(), memoryview(bytearray(8 * len(FIELDS))).cast("q")
    codec: Any = node
    served: Any = None
    shadow = Shadow(codec, 1, Comparison(), counts=counts, most_inflight=32, now_ns=lambda: 1, now_ms=lambda: 1)
    job = Exchange()
    job.rows, job.placed = 1, Placed(served, Tally(counts), 0, 7, shadowed=True, of_canary=False)
    for _ in range(3):
        shadow.offer([job], rows([1.0]), 0)
    assert shadow.inflight == 3
    # A runtime without a signature cannot be compared with.
    shadow.completed(node.copies, rows([1.0], [2.0], [3.0]), 0)
    assert (shadow.inflight, counts[DROPPED], counts[COMPARED]) == (0, 3, 0)
    assert [record.message for record in caplog.records] == ["shadow_not_compared"]


@pytest.mark.interpreted
def test_copies_that_fail_take_their_share_of_the_time_too() -> None:
    """They cost nothing, so a shadow that only failed could take all of the loop's time."""
    node, counts = Failing(), memoryview(bytearray(8 * len(FIELDS))).cast("q")
    codec: Any = node
    shadow = Shadow(codec, 1, Comparison(), counts=counts, most_inflight=32, now_ns=lambda: 1, now_ms=lambda: 1)
    served: Any = None
    job = Exchange()
    job.rows, job.placed = 1, Placed(served, Tally(counts), 0, 7, shadowed=True, of_canary=False)
    answer: Sequence[Array] = rows([1.0])
    for _ in range(100):
        shadow.offer([job], answer, 0)
        for copy in node.copies:
            error = ExecutionFailed("of its own")
            error.executed = True
            shadow.failed(copy, error)
        node.copies.clear()
    assert (counts[FAILED], counts[DROPPED]) == (5, 95), "5 x 10 ms is what it may take at once"


class Shared:
    """Codec and runtime of a shadow that serves callers, too: batches of 4 rows, 8 in the queue, 10 ms in a thread."""

    state = "READY"

    def __init__(self) -> None:
        self.runtime = self
        self.signature = signature()
        self.loop = VirtualLoop()
        self.pool = VirtualPool(self.loop)
        self.batches: list[list[Job]] = []
        self.batcher = Batcher(
            signature=self.signature,
            bounds=Bounds(max_batch_rows=4, max_queue_rows=8, max_queue_bytes=800),
            cost=CostModel(10_000_000, 0),
            execute=self.execute,
            sink=self,
            scheduler=TurnScheduler(self.loop, self.loop.now_ns, budget_ns=1_000_000),
            pool=self.pool,
            now_ns=self.loop.now_ns,
            turn_budget_ns=1_000_000,
        )
        self.counts = memoryview(bytearray(8 * len(FIELDS))).cast("q")
        codec: Any = self
        clocks = {"now_ns": self.loop.now_ns, "now_ms": lambda: 0}
        self.shadow = Shadow(codec, 1, Comparison(), counts=self.counts, most_inflight=32, **clocks)
        self.answered: list[Job] = []

    def meter(self, variant: str) -> None:
        """Nobody counts."""

    def execute(self, jobs: Sequence[Job]) -> Executed:
        self.batches.append(list(jobs))
        self.pool.last_cost_ns = 10_000_000
        return Executed(rows(*[[1.0]] * len(jobs)), len(jobs), 0, 10_000_000, 10_000_000)

    def executed(self, jobs: Sequence[Job], outcome: Executed) -> None:
        """Counted elsewhere."""

    def completed(self, jobs: Sequence[Any], outputs: list[Array], started_ns: int) -> None:
        if jobs[0].served is self.shadow:
            self.shadow.completed(jobs, outputs, started_ns)
            return
        for job in jobs:
            assert job.served is None, "no batch is of both"
            job.state = DONE
            self.answered.append(job)

    def failed(self, job: Any, error: ServingError) -> None:
        assert job.served is self.shadow, "no caller fails here"
        self.shadow.failed(job, error)

    def request(self) -> Exchange:
        served: Any = None
        job = Exchange()
        job.rows, job.size_bytes = 1, 100
        job.placed = Placed(served, Tally(self.counts), 0, 7, shadowed=True, of_canary=False)
        return job

    def ask(self, deadline_ns: int = 0) -> Exchange:
        """One caller of the shadow's own runtime."""
        job = self.request()
        job.deadline_ns = deadline_ns
        self.batcher.submit(job, self.loop.now)
        return job

    def offer(self, count: int) -> None:
        """So many answers of another variant."""
        for _ in range(count):
            self.shadow.offer([self.request()], rows([1.0]), 0)


@pytest.mark.interpreted
def test_copies_that_wait_refuse_no_caller_of_the_same_version() -> None:
    """They filled its queue, counted in the estimated wait, and its batches were filled up with them."""
    node = Shared()
    node.offer(20)
    assert (node.counts[DROPPED], node.shadow.inflight) == (12, 8), "of the queue's bounds they get no more than all"
    callers = [node.ask(deadline_ns=node.loop.now + 50_000_000) for _ in range(8)]
    with pytest.raises(QueueFull, match="holds 8 rows"):
        node.ask()
    node.loop.run(lambda: None)
    assert node.answered == callers
    assert node.batches[:2] == [callers[:4], callers[4:]]
    assert (node.counts[COMPARED], node.counts[DROPPED], node.shadow.inflight) == (8, 12, 0)
    assert node.batcher.idle


@pytest.mark.interpreted
def test_copies_that_find_no_time_beside_callers_are_dropped() -> None:
    node = Shared()
    node.offer(4)
    node.ask()

    def ask() -> None:
        for _ in range(4):
            node.ask()
        if node.loop.now < 5_100_000_000:
            node.loop.at(node.loop.now + 10_000_000, ask)
        else:
            assert (node.counts[DROPPED], node.shadow.inflight) == (4, 0)

    node.loop.at(1, ask)
    node.loop.run(lambda: None)
    assert (node.counts[COMPARED], node.counts[DROPPED], node.shadow.inflight) == (0, 4, 0)
    assert node.batcher.idle
