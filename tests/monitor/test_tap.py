"""The tap: what was answered is counted, row by row, whatever the batch looked like; what finds no room is skipped."""

import weakref
from typing import Any

import msgspec
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gateway.counters import DRIFT, DRIFT_TAKEN, CounterPage
from gateway.exchange import Exchange
from gateway.monitor.counting import Counter
from gateway.monitor.countingturns import CountingTurns
from gateway.monitor.plan import ROWS, SCORE_BINS, SKIPPED, CountPlan, FeaturePlan, ScorePlan
from gateway.monitor.tap import SLICE_ROWS, WAITING_BYTES, Tap
from gateway.predictions import NO_MARK, TOLD_ROWS, UNCOUNTED, ForgedId, mark, read
from gateway.signing import Clock, Signer
from runtimes.tensors import DATATYPES, Signature, TensorSpec
from tests.ids import id_by

GROUPS = ("female", "male")


def plan_of(groups: tuple[str, ...] = (), kind: Any = "probability") -> CountPlan:
    features = (FeaturePlan("a", "numeric", 0, 0, (0.0, 1.0, 2.0)), FeaturePlan("b", "numeric", 0, 1, (0.0, 10.0)))
    edges = () if kind == "probability" else (0.0, 1.0)
    return CountPlan("0123456789abcdef", features, ScorePlan(0, -1, kind, 0.5, edges=edges), groups)


SIGNATURE = Signature(
    (TensorSpec("x", DATATYPES["FP32"], (-1, 2)),), (TensorSpec("y", DATATYPES["FP32"], (-1, 1)),), True
)


def tap_of(plan: CountPlan, signature: Signature = SIGNATURE) -> Tap:
    page = CounterPage(memoryview(bytearray(1 << 20)))
    counts = np.frombuffer(page.block(DRIFT, ("m", "1", "-", plan.id), plan.size), np.int64)
    return Tap(Counter(plan), counts, page.block(DRIFT_TAKEN, ("m", "1", "-", plan.id), 2), signature, b"x-group")


def job(rows: Any, group: bytes | None = None) -> Exchange:
    made = Exchange()
    made.inputs = [np.asarray(rows, np.float32)]
    made.rows = len(rows)
    made.headers = {} if group is None else {b"x-group": group}
    return made


def outputs_of(jobs: list[Exchange], score: float = 0.7) -> list[Any]:
    return [np.full((sum(one.rows for one in jobs), 1), score, np.float32)]


def drained(tap: Tap) -> None:
    while tap.work():
        pass


def test_rows_of_many_batches_are_all_counted() -> None:
    tap, sent = tap_of(plan_of()), 0
    for size in (1, 3, 2 * SLICE_ROWS, 1):
        jobs = [job([[0.5, 5.0]] * size), job([[1.5, 5.0]])]
        tap.take(jobs, None, outputs_of(jobs))
        sent += size + 1
    assert tap.counts[ROWS] == 0, "nothing is counted on the hot path"
    assert tap.rows == sent
    drained(tap)
    assert (tap.counts[ROWS], tap.counts[SKIPPED], tap.rows) == (sent, 0, 0)
    first = tap.counts[2:4].tolist()
    assert first == [sent - 4, 4]


def test_a_slice_leaves_the_rest_for_later() -> None:
    tap = tap_of(plan_of())
    for _ in range(3):
        jobs = [job([[0.5, 5.0]] * SLICE_ROWS)]
        tap.take(jobs, None, outputs_of(jobs))
    seen = []
    while tap.work():
        seen.append(int(tap.counts[ROWS]))
    assert sorted(set(seen)) == [0, SLICE_ROWS, 2 * SLICE_ROWS], (
        "whole slices, and something may run between their steps"
    )
    assert seen.count(SLICE_ROWS) > 2
    assert (tap.counts[ROWS], tap.rows, tap.begun) == (3 * SLICE_ROWS, 0, False)


def test_who_ends_in_the_middle_of_a_slice_has_counted_nothing_of_it() -> None:
    page = CounterPage(memoryview(bytearray(1 << 20)))
    plan = plan_of()
    block, taken = (
        page.block(DRIFT, ("m", "1", "-", plan.id), plan.size),
        page.block(DRIFT_TAKEN, ("m", "1", "-", plan.id), 2),
    )
    tap = Tap(Counter(plan), np.frombuffer(block, np.int64), taken, SIGNATURE, b"x-group")
    jobs = [job([[0.5, 5.0]] * 100)]
    tap.take(jobs, None, outputs_of(jobs))
    steps = 0
    while tap.work():
        steps += 1
        assert not np.frombuffer(block, np.int64).any(), "control reads what is whole"
        assert (taken[0], taken[1] & 1) == (100, 0)
    assert steps > 2
    assert (block[ROWS], taken[1]) == (100, 2)


def test_a_slice_that_fails_is_skipped_and_counted_and_the_next_is_counted() -> None:
    tap = tap_of(plan_of())
    jobs = [job([[0.5, 5.0]] * 10)]
    tap.take(jobs, [np.zeros((10, 2), np.float32)], [np.array([[object()]] * 10)])
    drained(tap)
    assert (tap.counts[ROWS], tap.counts[SKIPPED], tap.rows, tap.begun) == (0, 10, 0, False)
    tap.take(jobs, None, outputs_of(jobs))
    drained(tap)
    assert (tap.counts[ROWS], tap.counts[SKIPPED]) == (10, 10)


def test_a_tap_that_is_always_full_keeps_no_other_waiting() -> None:
    full, other, turns = tap_of(plan_of()), tap_of(plan_of()), CountingTurns()
    many, few = [job([[0.5, 5.0]] * SLICE_ROWS)], [job([[0.5, 5.0]])]
    full.take(many, None, outputs_of(many))
    assert turns.step([other, full])
    other.take(few, None, outputs_of(few))
    for _ in range(100):
        full.take(many, None, outputs_of(many))
        assert turns.step([other, full]), "there is more to count at once"
    assert (other.counts[ROWS], other.rows) == (1, 0)
    assert full.counts[ROWS] >= SLICE_ROWS


def test_few_rows_are_counted_to_the_end_and_then_there_is_time() -> None:
    single = Signature((TensorSpec("x", DATATYPES["FP32"], (2,)),), (TensorSpec("y", DATATYPES["FP32"], ()),), False)
    taps = [tap_of(plan_of()), tap_of(plan_of(), single)]
    one = Exchange()
    one.inputs = [np.array([0.5, 5.0], np.float32)]
    for _ in range(5):
        taps[0].take([job([[0.5, 5.0]])], None, [np.array([[0.7]], np.float32)])
        taps[1].take([one], None, [np.array(0.7, np.float32)])
    turns = CountingTurns()
    while turns.step(taps):
        pass
    assert [(int(tap.counts[ROWS]), tap.rows, tap.begun) for tap in taps] == [(5, 0, False)] * 2
    assert not turns.step(taps), "nothing waits"


def test_what_is_taken_between_two_steps_waits_for_the_next_slice() -> None:
    tap = tap_of(plan_of())
    jobs = [job([[0.5, 5.0]] * 10)]
    tap.take(jobs, None, outputs_of(jobs))
    assert tap.work()
    tap.take(jobs, None, outputs_of(jobs))
    assert tap.rows == 20
    drained(tap)
    assert (tap.counts[ROWS], tap.rows) == (20, 0)


def test_what_finds_no_room_is_skipped_and_counted() -> None:
    tap, sent = tap_of(plan_of()), 0
    jobs = [job([[0.5, 5.0]] * 1000)]
    while not tap.counts[SKIPPED]:
        tap.take(jobs, None, outputs_of(jobs))
        sent += 1000
    drained(tap)
    assert tap.counts[ROWS] + tap.counts[SKIPPED] == sent
    tap.take(jobs, None, outputs_of(jobs))
    drained(tap)
    assert tap.counts[ROWS] + tap.counts[SKIPPED] == sent + 1000, "there is room again"


def test_groups_come_from_the_header_and_others_are_everybody_else() -> None:
    plan = plan_of(GROUPS)
    tap = tap_of(plan)
    jobs = [job([[0.5, 5.0]], b"male"), job([[0.5, 5.0]] * 2, b"martian"), job([[0.5, 5.0]])]
    tap.take(jobs, None, outputs_of(jobs))
    drained(tap)
    cells = tap.counts[plan.score_at : plan.score_at + plan.score_values].reshape(3, 2, SCORE_BINS)
    assert cells.sum(axis=(1, 2)).tolist() == [0, 1, 3]


def test_marks_say_bin_decision_and_group() -> None:
    tap = tap_of(plan_of(GROUPS))
    jobs = [job([[0.5, 5.0]], b"female"), job([[0.5, 5.0]], b"male"), job([[0.5, 5.0]]), job([[0.5, 5.0]])]
    outputs = [np.array([[0.5], [0.499], [1.0], [np.nan]], np.float32)]
    assert tap.marks(jobs, outputs) == [mark(125, 1, 0), mark(124, 0, 1), mark(249, 1, 2), NO_MARK]


@given(
    st.lists(st.floats(width=32, allow_infinity=True) | st.floats(0, 1, width=32), min_size=1, max_size=20),
    st.sampled_from([0.5, 0.0, 1.0, 0.3, 0.501]),
    st.sampled_from(["FP32", "FP64", "FP16"]),
)
def test_marks_are_the_same_by_table_and_one_by_one(scores: list[float], threshold: float, datatype: str) -> None:
    plan = plan_of()
    assert plan.score is not None
    plan = msgspec.structs.replace(plan, score=msgspec.structs.replace(plan.score, threshold=threshold))
    kind = DATATYPES[datatype]
    tap = tap_of(plan, Signature(SIGNATURE.inputs, (TensorSpec("y", kind, (-1, 1)),), True))
    with np.errstate(over="ignore"):
        column = np.array(scores).astype(kind.dtype).reshape(-1, 1)
    together = tap.marks([job([[0.5, 5.0]])] * len(scores), [column])
    alone = [tap.marks([job([[0.5, 5.0]])], [row.reshape(1, 1)]) for row in column]
    wide = tap.marks([job([[0.5, 5.0]])] * len(scores), [np.repeat(column, 2, axis=1)])
    assert together is not None
    assert [[one] for one in together] == alone
    assert wide == together  # not as it lies in memory
    for one, score in zip(together, column[:, 0].tolist(), strict=True):
        if score != score:
            assert one == NO_MARK
        else:
            assert one & 1 == (score >= threshold)
            assert one >> 8 == min(249, max(0, int(min(max(score, 0.0), 1.0) * 250)))


def told(marked: int) -> list[tuple[int | None, int | None, int | None]]:
    """What the id that is signed with this mark says of each row."""
    signer = Signer(1, b"k" * 32, 0, ["sha256:" + "ab" * 32], clock=Clock(1_800_000_000), sequence=5)
    text = id_by(signer, 0, 7, UNCOUNTED, marked)
    found = []
    for row in range(TOLD_ROWS):
        try:
            one = read(f"{text}/{row}", {1: b"k" * 32})
        except ForgedId:
            break
        found.append((one.score_bin, one.decision, one.group))
    return found


@given(
    st.lists(
        st.tuples(st.integers(1, TOLD_ROWS + 2), st.sampled_from([b"female", b"male", b"martian"])),
        min_size=1,
        max_size=6,
    ),
    st.sampled_from([0.5, 0.3, 0.501]),
    st.integers(0, 2**32 - 1),
)
def test_marks_of_rows_are_those_of_the_rows_alone(sizes: list[tuple[int, bytes]], threshold: float, seed: int) -> None:
    plan = plan_of(GROUPS)
    assert plan.score is not None
    tap = tap_of(msgspec.structs.replace(plan, score=msgspec.structs.replace(plan.score, threshold=threshold)))
    jobs = [job([[0.5, 5.0]] * rows, group) for rows, group in sizes]
    scores = np.random.default_rng(seed).random((sum(rows for rows, _ in sizes), 1), np.float32)
    scores[::7] = np.nan
    marks = tap.marks(jobs, [scores])
    if marks is None:
        assert len(jobs) == 1
        assert jobs[0].rows > TOLD_ROWS
        return
    at = 0
    for marked, (rows, group) in zip(marks, sizes, strict=True):
        own, at = scores[at : at + rows], at + rows
        alone = [tap.marks([job([[0.5, 5.0]], group)], [own[k : k + 1]]) for k in range(rows)]
        if rows > TOLD_ROWS:
            assert marked == NO_MARK
            continue
        expected = [told(one[0])[0][:2] for one in alone if one is not None]
        assert [one[:2] for one in told(marked)[:rows]] == expected
        if rows > 1:
            assert {one[2] for one in told(marked)} == {(GROUPS.index(group.decode()) if group != b"martian" else 2)}


def test_a_request_that_is_too_large_takes_no_marks_from_its_neighbours() -> None:
    jobs = [job([[0.5, 5.0]]), job([[0.5, 5.0]] * (TOLD_ROWS + 1)), job([[0.5, 5.0]])]
    marks = tap_of(plan_of()).marks(jobs, outputs_of(jobs, 0.5))
    assert marks == [mark(125, 1, 0), NO_MARK, mark(125, 1, 0)]


def test_what_is_not_divided_into_rows_has_no_mark() -> None:
    tap = tap_of(plan_of())
    assert tap.marks([job(np.empty((0, 2)))], [np.empty((0, 1), np.float32)]) is None
    assert tap.marks([job([[0.5, 5.0]] * 2)], [np.zeros((3, 1), np.float32)]) is None


def test_the_score_of_a_regression_has_no_mark() -> None:
    jobs = [job([[0.5, 5.0]])]
    assert tap_of(plan_of(kind="value")).marks(jobs, outputs_of(jobs)) is None


def test_a_model_without_a_batch_dimension_counts_one_row_each() -> None:
    specs = (TensorSpec("x", DATATYPES["FP32"], (2,)),), (TensorSpec("y", DATATYPES["FP32"], ()),)
    tap = tap_of(plan_of(), Signature(*specs, False))
    one = Exchange()
    one.inputs = [np.array([0.5, 5.0], np.float32)]
    for _ in range(3):
        tap.take([one], None, [np.array(0.7, np.float32)])
    steps = 0
    while tap.work():
        steps += 1
        assert tap.counts[ROWS] == 0, "a slice of several batches, each by itself"
    assert (tap.counts[ROWS], tap.counts[SKIPPED], steps) == (3, 0, 3)


def test_what_cannot_be_gathered_is_skipped_and_the_next_batch_is_counted() -> None:
    tap = tap_of(plan_of())
    broken = [job([[0.5, 5.0]]), job(np.zeros((1, 3)))]
    tap.take(broken, None, outputs_of([job([[0.5, 5.0]])] * 2))
    drained(tap)
    good = [job([[0.5, 5.0]])]
    tap.take(good, None, outputs_of(good))
    drained(tap)
    assert (tap.counts[ROWS], tap.counts[SKIPPED]) == (1, 2)


PIXELS = TensorSpec("pixels", DATATYPES["FP32"], (-1, 64, 64))
TEXTS = TensorSpec("texts", DATATYPES["BYTES"], (-1, -1))


def wide_job(*arrays: Any) -> Exchange:
    made = Exchange()
    made.inputs = list(arrays)
    made.rows = len(arrays[0])
    return made


def test_what_waits_is_bounded_by_its_bytes_and_one_batch_may_always_wait() -> None:
    features = (FeaturePlan("p", "numeric", 0, 5, (0.0, 1.0)),)
    plan = CountPlan("0123456789abcdef", features, ScorePlan(0, -1, "probability", 0.5))
    for signature, array in [
        (Signature((PIXELS,), SIGNATURE.outputs, True), np.zeros((100, 64, 64), np.float32)),
        (Signature((TEXTS,), SIGNATURE.outputs, True), np.full((100, 400), b"word", object)),
    ]:
        each = array.nbytes if array.dtype != object else 100 * array.size
        tap, sent = tap_of(plan, signature), 0
        while not tap.counts[SKIPPED]:
            jobs = [wide_job(array)]
            tap.take(jobs, None, outputs_of(jobs))
            sent += 100
        assert WAITING_BYTES // each <= tap.rows // 100 <= WAITING_BYTES // each + 1
        drained(tap)
        assert tap.counts[ROWS] + tap.counts[SKIPPED] == sent
        heavy = [wide_job(np.repeat(array, 2 * WAITING_BYTES // each, axis=0))]
        before = int(tap.counts[ROWS])
        tap.take(heavy, None, outputs_of(heavy))
        drained(tap)
        assert int(tap.counts[ROWS]) - before == heavy[0].rows, "an empty tap takes any batch"


def test_inputs_that_no_feature_is_made_of_are_not_kept() -> None:
    features = (FeaturePlan("a", "numeric", 1, 0, (0.0, 1.0)),)
    plan = CountPlan("0123456789abcdef", features, ScorePlan(0, -1, "probability", 0.5))
    tap = tap_of(plan, Signature((PIXELS, TensorSpec("a", DATATYPES["FP32"], (-1, 1))), SIGNATURE.outputs, True))
    pixels, numbers = np.zeros((3, 64, 64), np.float32), np.full((3, 1), 0.5, np.float32)
    kept = weakref.ref(pixels)
    for _ in range(2):
        jobs = [wide_job(pixels, numbers)]
        tap.take(jobs, jobs[0].inputs, outputs_of(jobs))
    del pixels, jobs
    assert kept() is None
    drained(tap)
    assert (tap.counts[ROWS], tap.counts[SKIPPED], tap.counts[2]) == (6, 0, 6)


SCORED = Signature(
    (TensorSpec("x", DATATYPES["FP32"], (-1, 2)),), (TensorSpec("y", DATATYPES["FP32"], (-1, -1)),), True
)


def test_batches_of_another_form_wait_apart_and_every_row_is_counted() -> None:
    tap, sent = tap_of(plan_of(GROUPS), SCORED), 0
    for at in range(12):
        jobs = [job([[0.5, 5.0]] * 3, GROUPS[at % 2].encode())]
        width = 1 + at // 2 % 2  # of the output: twice one column, twice two
        tap.take(jobs, None, [np.full((3, width), 0.75, np.float32 if at < 8 else np.float64)])
        sent += 3
    assert tap.rows == sent
    drained(tap)
    assert (tap.counts[ROWS], tap.counts[SKIPPED], tap.rows) == (sent, 0, 0)
    plan = plan_of(GROUPS)
    cells = tap.counts[plan.score_at : plan.score_at + plan.score_values].reshape(3, 2, SCORE_BINS)
    assert cells.sum(axis=(1, 2)).tolist() == [18, 18, 0]
    assert cells[:, 1, 750].sum() == sent


def test_rows_that_are_counted_are_not_touched_by_those_that_come_meanwhile() -> None:
    tap = tap_of(plan_of())
    for value, fresh in [(0.5, 1.5), (1.5, 0.5), (0.5, 1.5)]:
        jobs, others = [job([[value, 5.0]] * 50)], [job([[fresh, 5.0]] * 50)]
        tap.take(jobs, None, outputs_of(jobs))
        before = tap.counts[2:4].copy()
        assert tap.work()
        tap.take(others, None, outputs_of(others))
        while tap.begun:
            tap.work()
        grown = (tap.counts[2:4] - before).tolist()
        assert grown == ([50, 0] if value < 1 else [0, 50])
        drained(tap)
    assert tap.counts[2:4].tolist() == [150, 150]


def test_an_executed_array_is_given_back_once_it_is_copied() -> None:
    tap = tap_of(plan_of())
    jobs = [job([[0.5, 5.0]] * 4)]
    inputs, outputs = [jobs[0].inputs[0].copy()], outputs_of(jobs)
    kept = weakref.ref(inputs[0]), weakref.ref(outputs[0])
    tap.take(jobs, inputs, outputs)
    inputs[0] *= np.float32(3)
    del inputs, outputs
    assert [one() for one in kept] == [None, None]
    drained(tap)
    assert tap.counts[2:4].tolist() == [4, 0]


def test_texts_are_let_go_of_when_they_are_counted() -> None:
    signature = Signature((TensorSpec("t", DATATYPES["BYTES"], (-1, 1)),), SIGNATURE.outputs, True)
    words = FeaturePlan("w", "categorical", 0, 0, values=("a", "b"))
    plan = CountPlan("0123456789abcdef", (words,), ScorePlan(0, -1, "probability", 0.5))
    tap = tap_of(plan, signature)
    for _ in range(2):
        jobs = [wide_job(np.array([[b"a"], [b"b"], [b"a"]], object))]
        tap.take(jobs, None, outputs_of(jobs))
    drained(tap)
    assert tap.counts[2:4].tolist() == [4, 2]
    assert not tap._spare or all(one is None for one in tap._spare._inputs[0].kept[:6, 0])


def test_requests_without_rows_leave_nothing_behind() -> None:
    for signature in (SIGNATURE, Signature((TEXTS,), SIGNATURE.outputs, True)):
        tap = tap_of(plan_of(), signature)
        for _ in range(3):
            tap.take([], [np.empty((0, 2), np.float32)], [np.empty((0, 1), np.float32)])
        assert (tap.rows, tap.work(), tap.counts[ROWS]) == (0, False, 0)


def test_room_for_one_large_batch_is_not_kept() -> None:
    tap = tap_of(plan_of())
    for rows, spared in [(400_000, False), (10, True)]:
        jobs = [wide_job(np.full((rows, 2), 0.5, np.float32))]
        tap.take(jobs, None, outputs_of(jobs))
        drained(tap)
        assert (tap._spare is not None) == spared
    assert (tap.counts[ROWS], tap.counts[SKIPPED]) == (400_010, 0)


def test_wide_outputs_are_not_copied_and_fewer_outputs_than_ever_are_skipped() -> None:
    tap = tap_of(plan_of(), SCORED)
    jobs = [job([[0.5, 5.0]] * 3)]
    wide = np.full((3, 1_000), 0.75, np.float32)
    tap.take(jobs, None, [wide])
    kept = weakref.ref(wide)
    del wide
    assert kept() is not None
    tap.take(jobs, None, outputs_of(jobs))
    tap.take(jobs, None, [np.full(3, 0.75, np.float32)])
    drained(tap)
    assert (tap.counts[ROWS], tap.counts[SKIPPED], kept()) == (9, 0, None)
