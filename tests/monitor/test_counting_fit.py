"""References from rows: kinds, edges, categories, calibration, and what was never seen."""

import math
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.monitor.baselines import EVERYBODY_ELSE, baselines, realised
from gateway.monitor.counting import Counter, empty, feature_counts
from gateway.monitor.features import MAX_OTHERS, MAX_TEXTS, TOP, quantile_edges
from gateway.monitor.fit import Choices, Rows, ScoreAt, fit, regrouped
from gateway.monitor.plan import INFINITE, MISSING, TYPE_ERROR, UNSEEN, FeaturePlan
from gateway.monitor.reference import MAX_FEATURES, Reference, ReferenceRefused
from gateway.monitor.significance import binomial_two_sample
from tests.monitor.counting_models import DIGEST, fitted, signature, spec, texts


def feature(found: Any, name: str) -> FeaturePlan:
    return next(one for one in found.reference.plan.features if one.name == name)


def quality(reference: Reference, name: str) -> list[int]:
    return next(q.tolist() for plan, _, q in feature_counts(reference.plan, reference.counts) if plan.name == name)


def test_kinds_are_judged_by_datatype_and_values() -> None:
    rng = np.random.default_rng(0)
    rows = 4000
    found = fitted(
        {
            "real": rng.normal(size=rows),
            "few": rng.integers(0, TOP, rows),
            "many": rng.integers(0, 10 * TOP, rows),
            "halves": rng.integers(0, 5, rows) / 2,
            "flag": rng.random(rows) < 0.5,
            "word": texts(rng.choice(["a", "b"], rows)),
            "id": texts(range(rows)),
            "nothing": np.full(rows, np.nan),
            "constant": np.full(rows, 0.5),
        }
    )
    kinds = {one.name: one.kind for one in found.reference.plan.features}
    assert kinds == {
        "real": "numeric",
        "few": "categorical",
        "many": "numeric",
        "halves": "numeric",
        "flag": "boolean",
        "word": "categorical",
        "id": "text",
        "constant": "numeric",
    }
    assert [(one.name, one.why) for one in found.left] == [("nothing", "no value in the reference")]
    assert feature(found, "constant").edges == (0.5, np.nextafter(0.5, 1))
    assert rows > MAX_TEXTS


def test_a_look_at_the_first_rows_does_not_make_a_category() -> None:
    values = np.concatenate([np.arange(1000) % 5, np.arange(3000)])
    assert fitted({"x": values}).reference.plan.features[0].kind == "numeric"


def test_texts_are_counted_by_length_or_by_what_they_say() -> None:
    words = ["x" * (1 + at % 30) for at in range(1500)]
    found = fitted(
        {"length": texts(words), "number": texts(range(1500))}, schema={"length": "text", "number": "numeric"}
    )
    assert (feature(found, "length").edges[0], feature(found, "length").edges[-1]) == (1, 30)
    assert (feature(found, "number").edges[0], feature(found, "number").edges[-1]) == (0, 1499)


def test_columns_have_their_place_and_name() -> None:
    model = signature(spec("row"), spec("one", "FP32", 1), spec("many", "FP32", 2), spec("named", "FP32", 2))
    x = np.linspace(0, 1, 300, dtype=np.float32).reshape(-1, 1)
    arrays = [x[:, 0], x, np.hstack([x, x]), np.hstack([x, x])]
    found = fit(model, DIGEST, Rows(arrays, [None]), Choices(names={"named": ("a", "b")}))
    places = [(one.name, one.input, one.column) for one in found.reference.plan.features]
    assert places == [
        ("row", 0, -1), ("one", 1, 0), ("many[0]", 2, 0), ("many[1]", 2, 1), ("a", 3, 0), ("b", 3, 1),
    ]  # fmt: skip
    with pytest.raises(ReferenceRefused, match="'row' twice"):
        fit(model, DIGEST, Rows(arrays, [None]), Choices(names={"named": ("row", "b")}))
    with pytest.raises(ReferenceRefused, match="3 names for input 'named', which has 2 columns"):
        fit(model, DIGEST, Rows(arrays, [None]), Choices(names={"named": ("a", "b", "c")}))


def test_a_schema_has_the_last_word_and_must_name_features() -> None:
    columns = {"a": np.arange(300) % 7, "b": np.arange(300) / 7}
    found = fitted(columns, schema={"a": "numeric", "b": "ignore"})
    assert [(one.name, one.kind) for one in found.reference.plan.features] == [("a", "numeric")]
    assert found.left[0].why == "the schema says ignore"
    with pytest.raises(ReferenceRefused, match="'c', which is no feature; there are a, b"):
        fitted(columns, schema={"c": "numeric"})


def test_quantile_edges_are_values_and_fewer_where_they_tie() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(size=5000)
    edges = quantile_edges(values)
    assert len(edges) == 11
    assert set(edges) <= set(values.tolist())
    counts = np.histogram(values, edges)[0]
    assert counts.min() >= 499


def test_a_value_that_many_rows_have_has_a_bin_of_its_own() -> None:
    rng = np.random.default_rng(1)
    mostly_zero = np.where(rng.random(5000) < 0.9, 0.0, rng.exponential(size=5000))
    edges = quantile_edges(mostly_zero)
    assert np.histogram(mostly_zero, edges)[0][0] == (mostly_zero == 0).sum()
    assert len(edges) > 9
    capped = np.minimum(rng.exponential(size=5000), 1.0)
    assert np.histogram(capped, quantile_edges(capped))[0][-1] == (capped == 1).sum()
    assert quantile_edges(np.array([3.0])) == (3.0, np.nextafter(3.0, 4.0))
    assert quantile_edges(np.array([-0.0, 0.0])) == (0.0, 5e-324)


@given(st.lists(st.floats(width=32), min_size=1, max_size=60))
def test_a_reference_counts_its_own_rows_whatever_they_are(values: list[float]) -> None:
    array = np.array(values, np.float32)
    try:
        reference = fitted({"x": array}, scores=np.linspace(0, 1, len(array))).reference
    except ReferenceRefused:
        raise AssertionError("a score is always there to count") from None
    again = empty(reference.plan)
    scores = np.linspace(0, 1, len(array)).astype(np.float32).reshape(-1, 1)
    Counter(reference.plan).count([array], [scores], np.zeros(len(array), np.int64), again)
    for (plan, before, was), (_, now, is_now) in zip(
        feature_counts(reference.plan, reference.counts), feature_counts(reference.plan, again), strict=True
    ):
        assert before.sum() + was.sum() == now.sum() + is_now.sum() == len(values)
        assert was[MISSING] == is_now[MISSING] == np.isnan(array).sum()
        assert was[INFINITE] == is_now[INFINITE] == np.isinf(array).sum()
        if plan.kind == "numeric":
            assert np.array_equal(before, now)
    assert np.array_equal(reference.counts[reference.plan.score_at :], again[reference.plan.score_at :])


def test_edges_lie_where_the_model_sees_the_values_not_where_a_file_has_them() -> None:
    # 0.7 as FP32 is less than 0.7: an edge from the file's number would put all later rows one bin lower.
    reference = fitted({"x": np.linspace(0.1, 0.7, 1201)}).reference
    assert all(edge == float(np.float32(edge)) for edge in reference.plan.features[0].edges)
    assert reference.plan.features[0].edges[-1] < 0.7


def test_a_million_categories_are_bounded_and_those_to_come_are_no_alarm() -> None:
    rng = np.random.default_rng(2)
    began = time.process_time()
    values = rng.integers(0, 10**6, 200_000).astype(np.float64)
    reference = fitted({"id": values}, schema={"id": "categorical"}).reference
    assert time.process_time() - began < 5
    plan = reference.plan.features[0]
    assert len(plan.values) == TOP
    assert 0 < len(plan.others) <= MAX_OTHERS
    later = empty(reference.plan)
    Counter(reference.plan).count([rng.integers(0, 10**6, 5000).astype(np.float32)], [], np.zeros(5000), later)
    before, now = quality(reference, "id")[UNSEEN], int(later[2 + plan.bins + UNSEEN])
    assert now / 5000 > 0.9
    assert binomial_two_sample(now, 5000, before, 200_000) > 0.001


def test_values_of_one_row_each_are_an_identifier_and_left_out() -> None:
    found = fitted({"id": np.arange(20_000), "x": np.arange(20_000)}, schema={"id": "categorical"})
    assert [one.name for one in found.left] == ["id"]
    assert "an identifier" in found.left[0].why


def test_rare_words_that_the_reference_has_not_seen_are_expected() -> None:
    """A category that one row has counts as unseen in the reference, so later new ones of its kind are as many."""
    rng = np.random.default_rng(3)
    p_values = []
    for _ in range(40):
        words = rng.zipf(1.5, 12_000)
        reference = fitted({"word": texts(words[:11_000])}, schema={"word": "categorical"}).reference
        later = empty(reference.plan)
        Counter(reference.plan).count([texts(words[11_000:])], [], np.zeros(1000), later)
        plan = reference.plan.features[0]
        now = int(later[2 + plan.bins + UNSEEN])
        p_values.append(binomial_two_sample(now, 1000, quality(reference, "word")[UNSEEN], 11_000))
    assert min(p_values) > 0.05 / 40 / 10
    assert 0.2 < np.mean(np.array(p_values) < 0.5) < 0.8


def test_texts_that_are_no_numbers_are_type_errors_of_the_reference_too() -> None:
    reference = fitted({"x": texts([*range(600), "oops", ""])}, schema={"x": "numeric"}).reference
    assert quality(reference, "x")[TYPE_ERROR] == 1
    assert quality(reference, "x")[MISSING] == 1


def test_neighbours_that_are_alike_are_overdispersed_and_independent_rows_are_not() -> None:
    rng = np.random.default_rng(4)
    alike = np.repeat(rng.normal(size=200), 100) + rng.normal(0, 0.05, 20_000)
    reference = fitted({"alike": alike, "independent": rng.normal(size=20_000)}).reference
    assert reference.phi(0) > 10
    assert 1 <= reference.phi(1) < 1.5


def test_labels_give_a_calibration_and_the_metrics_that_the_rows_have() -> None:
    rng = np.random.default_rng(5)
    scores = rng.random(5000).astype(np.float32)
    labels = (rng.random(5000) < scores**2).astype(float)
    labels[:500] = np.nan
    groups = rng.integers(0, 3, 5000)
    reference = fitted({"x": rng.normal(size=5000)}, scores, labels, groups=("a", "b"), indices=groups).reference
    known = ~np.isnan(labels)
    found = realised(reference)
    assert found is not None
    assert found.rows == 4500
    assert found.values["accuracy"] == pytest.approx(((scores >= 0.5) == labels)[known].mean())
    assert reference.plan.score is not None
    assert dict(reference.plan.score.calibration)[max(scores[known].tolist())] > 0.8
    table = baselines(reference)
    assert list(table) == ["all", "a", "b", EVERYBODY_ELSE]
    assert table["b"]["rows"] == int((groups == 1).sum())
    assert table["b"]["positive_rate"] == pytest.approx((scores >= 0.5)[groups == 1].mean())
    hits = ((scores >= 0.5) == labels)[known & (groups == 2)]
    assert table[EVERYBODY_ELSE]["realised"]["accuracy"] == pytest.approx(hits.mean())


def test_without_labels_or_with_few_nothing_is_calibrated_and_it_is_said() -> None:
    x = np.linspace(0, 1, 3000)
    assert "no labels" in fitted({"x": x}, scores=x).warnings[0]
    one_class = fitted({"x": x}, scores=x, labels=np.ones(3000))
    assert "fewer than 100 labels that are not positive (3,000 labels, 3,000 positive)" in one_class.warnings[0]
    assert one_class.reference.plan.score is not None
    assert one_class.reference.plan.score.calibration == ()
    few = np.where(np.arange(3000) < 900, np.arange(3000) % 2, np.nan)
    assert "fewer than 1,000 labels (900 labels, 450 positive)" in fitted({"x": x}, scores=x, labels=few).warnings[0]


def test_a_score_outside_of_0_to_1_is_a_value_with_bins_of_its_own() -> None:
    x = np.linspace(-5, 5, 3000)
    plan = fitted({"x": x}, scores=x).reference.plan
    assert plan.score is not None
    assert (plan.score.kind, len(plan.score.edges), plan.score_values) == ("value", 11, 0)


def test_a_probability_may_be_rounded_over_1() -> None:
    x = np.linspace(0, 1.0000001, 3000, dtype=np.float32)
    plan = fitted({"x": x}, scores=x).reference.plan
    assert plan.score is not None
    assert plan.score.kind == "probability"


@pytest.mark.parametrize(("width", "column"), [(2, 1), (3, None)])
def test_two_probabilities_score_by_the_second_and_three_by_none(width: int, column: int | None) -> None:
    x = np.linspace(0, 1, 3000, dtype=np.float32)
    model = signature(spec("x"), output=spec("probabilities", "FP32", width))
    found = fit(model, DIGEST, Rows([x], [np.column_stack([x] * width)]))
    score = found.reference.plan.score
    assert (None if score is None else score.column) == column
    assert any(line.startswith("no score") for line in found.warnings) == (column is None)


def test_a_reference_too_small_for_its_windows_says_so() -> None:
    assert "2,000 rows are needed" in fitted({"x": np.linspace(0, 1, 1000)}).warnings[-1]


def test_rows_that_do_not_fit_the_model_are_refused() -> None:
    model = signature(spec("x"), spec("y"))
    x = np.zeros(10, np.float32)
    with pytest.raises(ReferenceRefused, match="expected 2 inputs and 1 outputs, got 1 and 1"):
        fit(model, DIGEST, Rows([x], [None]))
    with pytest.raises(ReferenceRefused, match=r"as many rows everywhere and at least one, got \[10, 11\]"):
        fit(model, DIGEST, Rows([x, np.zeros(11, np.float32)], [None]))
    with pytest.raises(ReferenceRefused, match="at least one"):
        fit(model, DIGEST, Rows([x[:0], x[:0]], [None]))
    with pytest.raises(ReferenceRefused, match="expected 'y' as FP32, got int64"):
        fit(model, DIGEST, Rows([x, np.zeros(10, np.int64)], [None]))
    wide = signature(spec("pixels", "FP32", MAX_FEATURES + 1))
    with pytest.raises(ReferenceRefused, match="expected at most 1,000 features"):
        fit(wide, DIGEST, Rows([np.zeros((3, MAX_FEATURES + 1), np.float32)], [None]))


def test_groups_of_a_reference_can_be_those_of_the_settings() -> None:
    rng = np.random.default_rng(7)
    scores, groups = rng.random(3000), rng.integers(0, 4, 3000)
    reference = fitted(
        {"x": scores}, scores, rng.integers(0, 2, 3000), groups=("a", "b", "c"), indices=groups
    ).reference
    found = regrouped(reference, ["c", "z", "a"])
    sizes = {name: one["rows"] for name, one in baselines(found).items()}
    assert sizes == {
        "all": 3000,
        "c": int((groups == 2).sum()),
        "z": 0,
        "a": int((groups == 0).sum()),
        EVERYBODY_ELSE: int(((groups == 1) | (groups == 3)).sum()),
    }
    assert found.labels is not None
    assert found.labels.sum() == 3000
    assert found.id != reference.id
    assert regrouped(reference, ["a", "b", "c"]) is reference
    assert math.isclose(sum(one["rows"] for one in list(baselines(found).values())[1:]), 3000)


def test_a_score_of_a_column_that_is_not_there_is_refused() -> None:
    rows = Rows([np.zeros(300, np.float32)], [np.zeros((300, 2), np.float32)])
    wide = signature(spec("x"), output=spec("p", "FP32", -1))
    with pytest.raises(ReferenceRefused, match="output 'p' has no column 5: they go from 0 to 1"):
        fit(wide, DIGEST, rows, Choices(score=ScoreAt(0, 5)))
