"""Rows into counts: every row lands where the plan says, whatever a caller sends."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.monitor import isotonic
from gateway.monitor.counting import Counter, Counts, empty
from gateway.monitor.plan import (
    ABOVE,
    BELOW,
    HEAD,
    INFINITE,
    MISSING,
    QUALITY,
    ROWS,
    SCORE_BINS,
    SKIPPED,
    TYPE_ERROR,
    UNSEEN,
    CountPlan,
    FeaturePlan,
    ScorePlan,
    decoded,
    encoded,
)
from runtimes.tensors import bf16_from_f32

Rows = list[float]
EDGES = (-1.0, 0.0, 0.5, 2.0)
NUMERIC = FeaturePlan("amount", "numeric", 0, 0, EDGES)
CODES = FeaturePlan("code", "categorical", 0, 1, values=(3.0, 1.0, 2.0), other=True, others=(7.0, 5.0))
FLAG = FeaturePlan("flag", "boolean", 0, 2, values=(0.0, 1.0))
WORDS = FeaturePlan("word", "categorical", 1, -1, values=("b", "a"), other=True, others=("c",))
LENGTH = FeaturePlan("note", "text", 2, 0, (1.0, 3.0, 6.0))
numbers = st.one_of(
    st.sampled_from([*EDGES, 1.0, 2.0, 3.0, 5.0, 7.0, 4.0, -0.0, math.nan, math.inf, -math.inf, 1.8e308, 5e-324]),
    st.floats(-3, 3),
    st.floats(),
)


def place(feature: FeaturePlan, value: float) -> int:
    """Bin of one number, by the words of the plan."""
    bins = feature.bins
    if math.isnan(value):
        return bins + MISSING
    if math.isinf(value):
        return bins + INFINITE
    if feature.edges:
        if value < feature.edges[0]:
            return bins + BELOW
        if value > feature.edges[-1]:
            return bins + ABOVE
        return min(sum(value >= edge for edge in feature.edges) - 1, bins - 1)
    if value in feature.values:
        return feature.values.index(value)
    if value in feature.others:
        return bins - 1
    return bins + (TYPE_ERROR if feature.kind == "boolean" else UNSEEN)


def counted(plan: CountPlan, inputs: list[Any], rows: int, outputs: list[Any] | None = None) -> Counts:
    into = empty(plan)
    Counter(plan).count(inputs, outputs or [], np.zeros(rows, np.int64), into)
    return into


def bins_of(plan: CountPlan, vector: Counts, index: int) -> list[int]:
    at = plan.feature_at(index)
    return [int(count) for count in vector[at : at + plan.features[index].width]]


MANY = FeaturePlan("many", "numeric", 3, 1, tuple(range(-20, 21)))


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int32])
@pytest.mark.parametrize("absent", [None, 0, 3, 9])
def test_features_of_several_tensors_are_counted_as_each_tensor_alone(kind: Any, absent: int | None) -> None:
    features = (
        FeaturePlan("b", "numeric", 0, 1, EDGES),
        FeaturePlan("a", "numeric", 0, 0, (0.0, 1.0)),
        FeaturePlan("c", "categorical", 0, 2, values=(0.0, 1.0)),
        FeaturePlan("d", "numeric", 3, 0, EDGES),
        MANY,
        FeaturePlan("e", "numeric", 9, 0, (-2.0, 0.0, 2.0)),
    )
    plan, rng = CountPlan("id", features), np.random.default_rng(3)
    arrays: list[Any] = [None] * 10
    arrays[0] = (3 * rng.standard_normal((300, 3))).astype(kind)
    arrays[3] = (9 * rng.standard_normal((300, 2))).astype(np.float64)
    arrays[9] = (3 * rng.standard_normal((300, 1))).astype(np.float32)
    if absent is not None:
        arrays[absent] = None
    whole = counted(plan, arrays, 300)
    for at, feature in enumerate(features):
        alone: list[Any] = [None] * 10
        alone[feature.input] = arrays[feature.input]
        assert bins_of(plan, whole, at) == bins_of(plan, counted(plan, alone, 300), at), feature.name
        assert sum(bins_of(plan, whole, at)) == 300
    # Fewer tensors than the plan knows: those behind them are missing.
    if absent is None:
        few = counted(plan, arrays[:4], 300)
        assert bins_of(plan, few, 5)[features[5].bins + MISSING] == 300
        assert bins_of(plan, few, 0) == bins_of(plan, whole, 0)


@given(st.lists(st.tuples(numbers, numbers, numbers), max_size=30))
def test_every_number_is_in_the_bin_that_the_plan_says(rows: list[tuple[float, float, float]]) -> None:
    plan = CountPlan("id", (NUMERIC, CODES, FLAG))
    found = counted(plan, [np.array(rows, np.float64).reshape(len(rows), 3)], len(rows))
    assert found[ROWS] == len(rows)
    for index, feature in enumerate(plan.features):
        expected = [0] * feature.width
        for row in rows:
            expected[place(feature, row[index])] += 1
        assert bins_of(plan, found, index) == expected


@given(st.lists(st.tuples(numbers, numbers, numbers), max_size=30), st.integers(0, 30))
def test_batches_add_exactly_however_rows_are_cut(rows: list[tuple[float, float, float]], cut: int) -> None:
    plan = CountPlan("id", (NUMERIC, CODES, FLAG), ScorePlan(0, -1, "probability"))
    inputs = np.array(rows, np.float64).reshape(len(rows), 3)
    scores = np.abs(np.nan_to_num(inputs[:, 0])) % 1
    whole = counted(plan, [inputs], len(rows), [scores])
    parts = [counted(plan, [part], len(part), [score]) for part, score in _cut(inputs, scores, cut)]
    assert np.array_equal(whole, parts[0] + parts[1])


def _cut(inputs: Any, scores: Any, cut: int) -> list[tuple[Any, Any]]:
    return [(inputs[:cut], scores[:cut]), (inputs[cut:], scores[cut:])]


def test_words_have_their_bins_and_lengths_theirs() -> None:
    plan = CountPlan("id", (WORDS, LENGTH))
    words = np.array([b"a", b"b", b"b", b"c", b"d", b"", "ä".encode()], object)
    notes = np.array([[b"x"], [b"xx"], [b"xxx"], ["äöü".encode()], [b""], [b"x" * 6], [b"x" * 7]], object)
    found = counted(plan, [None, words, notes], 7)
    # Data bins: b, a, the rest; then missing, below, above, infinite, unseen, type_error.
    assert bins_of(plan, found, 0) == [2, 1, 1, 1, 0, 0, 0, 2, 0]
    # Data bins: 1 to 2, 3 to 6 characters.
    assert bins_of(plan, found, 1) == [2, 3, 1, 0, 1, 0, 0, 0]


def test_numbers_sent_as_text_are_read_and_text_that_is_none_is_a_type_error() -> None:
    plan = CountPlan("id", (NUMERIC, CODES, FLAG))
    rows = [[b"0.25", b"3", b"TRUE"], [b"x", b"x", b"x"], [b"", b"", b""], [b"inf", b"5.0", b"0"], [b"nan", b"9", b"f"]]
    found = counted(plan, [np.array(rows, object)], 5)
    assert bins_of(plan, found, 0) == [0, 1, 0, 2, 0, 0, 1, 0, 1]
    assert bins_of(plan, found, 1) == [1, 0, 0, 1, 1, 0, 0, 0, 1, 1]
    assert bins_of(plan, found, 2) == [1, 1, 1, 0, 0, 0, 0, 2]


def test_numbers_where_words_are_expected_are_type_errors() -> None:
    plan = CountPlan("id", (WORDS,))
    found = counted(plan, [None, np.array([1.0, np.nan])], 2)
    assert bins_of(plan, found, 0)[WORDS.bins + TYPE_ERROR] == 2


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [([None], MISSING), ([], MISSING), ([np.zeros((4, 0))], TYPE_ERROR)],
)
def test_an_input_left_out_is_missing_and_a_column_that_is_not_there_a_type_error(
    inputs: list[Any], expected: int
) -> None:
    plan = CountPlan("id", (NUMERIC,))
    found = counted(plan, inputs, 4)
    assert bins_of(plan, found, 0)[NUMERIC.bins + expected] == 4


def test_tensors_of_other_lengths_are_skipped_and_no_rows_are_no_change() -> None:
    plan = CountPlan("id", (NUMERIC, WORDS), ScorePlan(0, -1, "probability"))
    found = counted(plan, [np.zeros((3, 1))], 4)
    assert found[SKIPPED] == 4
    assert found.sum() == 4
    none = counted(plan, [np.zeros((0, 1)), np.zeros(0, object)], 0, [np.zeros((0, 1))])
    assert not none.any()


def test_bfloat16_is_read_as_numbers() -> None:
    plan = CountPlan("id", (FeaturePlan("x", "numeric", 0, -1, EDGES, bf16=True),))
    found = counted(plan, [bf16_from_f32(np.array([0.25, np.nan, -5.0], np.float32))], 3)
    assert bins_of(plan, found, 0) == [0, 1, 0, 1, 1, 0, 0, 0, 0]


@given(st.lists(st.tuples(numbers, st.integers(-2, 4)), max_size=40))
def test_scores_are_counted_by_group_decision_and_bin_and_calibrated_in_whole_units(
    rows: list[tuple[float, int]],
) -> None:
    points = ((0.2, 0.1), (0.8, 0.7))
    plan = CountPlan("id", (), ScorePlan(0, 1, "probability", 0.4, points), ("x", "y"))
    scores = np.array([score for score, _ in rows], np.float64)
    into = empty(plan)
    groups = np.array([group for _, group in rows], np.int64)
    Counter(plan).count([], [np.column_stack([scores, scores])], groups, into)
    cells = plan.group_count * 2 * SCORE_BINS
    counts, sums = np.zeros((3, 2, SCORE_BINS), np.int64), np.zeros((3, 2, SCORE_BINS), np.int64)
    for score, group in rows:
        if math.isfinite(score):
            cell = (group if group in (0, 1) else 2, int(score >= 0.4), min(int(min(max(score, 0), 1) * 1000), 999))
            counts[cell] += 1
            sums[cell] += round(float(isotonic.applied(points, np.array([score]))[0]) * 2**32)
    assert np.array_equal(into[HEAD : HEAD + cells], counts.ravel())
    assert np.array_equal(into[HEAD + cells :], sums.ravel())


def test_the_score_of_a_regression_is_binned_like_a_feature() -> None:
    plan = CountPlan("id", (NUMERIC,), ScorePlan(0, -1, "value", edges=EDGES))
    found = counted(plan, [None], 4, [np.array([[0.25], [np.nan], [9.0], [-np.inf]], np.float32)])
    assert found[plan.score_at :].tolist() == [0, 1, 0, 1, 0, 1, 1, 0, 0]
    assert plan.size == plan.score_at + 3 + len(QUALITY)


def test_a_million_categories_are_bounded_and_all_counted() -> None:
    plan = CountPlan("id", (FeaturePlan("id", "categorical", 0, -1, values=(1.0,), other=True, others=(2.0, 3.0)),))
    found = counted(plan, [np.arange(1_000_000, dtype=np.float32)], 1_000_000)
    assert bins_of(plan, found, 0) == [1, 2, 0, 0, 0, 0, 999_997, 0]


def test_batches_larger_than_a_slice_are_counted_whole_and_exactly() -> None:
    plan = CountPlan("id", (), ScorePlan(0, -1, "probability"))
    rows = 600_001
    found = counted(plan, [], rows, [np.full(rows, 1 / 3)])
    assert found[ROWS] == rows
    assert int(found[HEAD + 2 * SCORE_BINS :].sum()) == rows * round(2**32 / 3)


def test_a_plan_travels_whole() -> None:
    plan = CountPlan("id", (NUMERIC, CODES, FLAG, WORDS, LENGTH), ScorePlan(0, 1, "value", edges=EDGES), ("x",))
    assert decoded(encoded(plan)) == plan


def test_differences_of_totals_stay_right_where_a_sum_has_passed_its_largest_value() -> None:
    plan = CountPlan("id", (), ScorePlan(0, -1, "probability"))
    delta = counted(plan, [], 100, [np.full(100, 0.75)])
    total = empty(plan)
    total[HEAD + 2 * SCORE_BINS :] = 2**63 - 5
    before = total.copy()
    total += delta
    assert total.min() < 0
    assert np.array_equal(total - before, delta)
