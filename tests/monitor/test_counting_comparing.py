"""What a window's keys are: fixed by the plan, and numbers in the units of what is compared."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.monitor.comparing import Binned, compared, input_keys, prediction_keys, quality_keys
from gateway.monitor.counting import Counter, Counts, empty
from gateway.monitor.plan import QUALITY, ROWS, SCORE_BINS, CountPlan, ScorePlan
from gateway.monitor.reference import Reference
from gateway.monitor.scorebins import NESTED, nested, nested_edges, nested_starts, score_counts
from tests.monitor.counting_models import fitted, texts


def counted(reference: Reference, x: np.ndarray, words: np.ndarray, scores: np.ndarray) -> Counts:
    into = empty(reference.plan)
    arrays = [x.astype(np.float32), words]
    Counter(reference.plan).count(arrays, [scores.astype(np.float32).reshape(-1, 1)], np.zeros(len(x)), into)
    return into


def made(scores: np.ndarray, x: np.ndarray) -> Reference:
    return fitted({"x": x, "word": texts(np.where(x > 0, "up", "down"))}, scores).reference


def test_the_keys_of_a_plan_are_the_same_whatever_came() -> None:
    x = np.random.default_rng(0).normal(size=5000)
    reference = made(1 / (1 + np.exp(-x)), x)
    names = [
        "x:missing", "x:below", "x:above", "x:infinite", "x:type_error",
        "word:missing", "word:infinite", "word:unseen", "word:type_error", "score:missing",
    ]  # fmt: skip
    for window in (empty(reference.plan), reference.counts, counted(reference, x * np.nan, texts(["?"] * 5000), x)):
        assert [key.name for key in quality_keys(reference, window, 0.005)] == names
        assert [key.name for key in input_keys(reference, window, 0.1)[0]] == ["x", "word"]
        assert [key.name for key in prediction_keys(reference, window, 0.1)[0]] == ["score"]


def test_only_more_rows_without_data_are_worse() -> None:
    x = np.random.default_rng(0).normal(size=20_000)
    holes = np.where(np.arange(len(x)) % 5, x, np.nan)
    words, scores = texts(["up"] * len(x)), 1 / (1 + np.exp(-x))
    for before, now, fires in ((holes, x, False), (x, holes, True)):
        reference = fitted({"x": before, "word": words}, scores).reference
        window = counted(reference, now[:2000], texts(["up"] * 2000), scores[:2000])
        (key,) = [key for key in quality_keys(reference, window, 0.005) if key.name == "x:missing"]
        assert (key.p_value < 1e-6, key.matters) == (fires, fires)
        assert key.effect == pytest.approx(0.2 if fires else 0.0)


def test_scores_that_came_before_their_rows_are_not_less_than_none_missing() -> None:
    x = np.random.default_rng(0).normal(size=5000)
    reference = made(1 / (1 + np.exp(-x)), x)
    window = counted(reference, x[:2000], texts(["up"] * 2000), 1 / (1 + np.exp(-x[:2000])))
    window[ROWS] -= 3  # of a page that was read while its worker counted
    keys = {key.name: key for key in quality_keys(reference, window, 0.005)}
    assert (keys["score:missing"].effect, keys["score:missing"].p_value) == (0, 1)


def test_a_regression_has_its_own_edges_and_quality() -> None:
    rng = np.random.default_rng(1)
    x = rng.uniform(-2, 2, 5000)
    reference = made(100 * x, x)
    moved = rng.uniform(-1, 2, 2000)
    now = counted(
        reference, moved, texts(np.where(moved > 0, "up", "down")), np.where(moved > 1.5, np.nan, 100 * moved)
    )
    keys = {key.name: key for key in quality_keys(reference, now, 0.005)}
    assert keys["score:missing"].p_value < 1e-20
    assert keys["score:missing"].effect == pytest.approx((moved > 1.5).mean())
    assert "score:above" in keys
    compared = prediction_keys(reference, counted(reference, moved, texts(["up"] * 2000), 100 * moved), 0.1)[1]
    assert compared is not None
    assert compared.wasserstein == pytest.approx(50, abs=12)
    assert compared.ks is not None


def test_probabilities_are_compared_in_their_own_units() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=5000)
    reference = made(rng.uniform(0.2, 0.6, 5000), x)
    later = counted(reference, x, texts(["up"] * 5000), rng.uniform(0.3, 0.6, 5000))
    compared = prediction_keys(reference, later, 0.1)[1]
    assert compared is not None
    assert compared.wasserstein == pytest.approx(0.05, abs=0.01)
    features = input_keys(reference, later, 0.1)[1]
    assert features[0].wasserstein is not None
    assert features[1].wasserstein is features[1].ks is None


@given(st.lists(st.integers(0, SCORE_BINS - 1), min_size=1, max_size=300))
def test_nested_bins_hold_every_score_and_are_about_equal(bins: list[int]) -> None:
    plan = CountPlan("id", (), ScorePlan(0, -1, "probability"), ("a",))
    scores = (np.array(bins) + 0.5) / SCORE_BINS
    vector = empty(plan)
    Counter(plan).count([], [scores], np.arange(len(bins)) % 2, vector)
    assert score_counts(plan, vector).tolist() == np.bincount(bins, minlength=SCORE_BINS).tolist()
    starts = nested_starts(plan, vector)
    assert starts[0] == 0
    assert len(starts) <= NESTED
    assert (np.diff(starts) > 0).all()
    edges = nested_edges(plan, vector, starts)
    assert list(edges) == sorted(set(edges))
    assert (edges[0], edges[-1]) == (min(bins) / SCORE_BINS, (max(bins) + 1) / SCORE_BINS)
    found = nested(plan, vector, starts)
    assert found.sum() == len(bins)
    # A bin is larger than a tenth only by the rows of one counted bin, or because it begins with no row.
    heaviest = np.bincount(bins).max()
    assert found.max() <= len(bins) / NESTED + heaviest + 1


def test_ten_equal_bins_come_of_many_different_scores() -> None:
    plan = CountPlan("id", (), ScorePlan(0, -1, "probability"))
    vector = empty(plan)
    Counter(plan).count([], [np.random.default_rng(3).beta(2, 5, 20_000)], np.zeros(20_000), vector)
    found = nested(plan, vector, nested_starts(plan, vector))
    assert len(found) == NESTED
    assert found.min() > 1800
    assert found.max() < 2200


def test_all_distances_and_tests_of_a_feature_are_there_and_agree_with_each_other() -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=20_000)
    reference = made(1 / (1 + np.exp(-x)), x)
    same, moved = (
        input_keys(reference, counted(reference, now, texts(np.where(now > 0, "up", "down")), now), 0.1)[1][0]
        for now in (rng.normal(size=2_000), rng.normal(0.5, 1.0, 2_000))
    )
    assert same.chi_square is not None
    assert moved.chi_square is not None
    assert same.chi_square_p is not None
    assert moved.chi_square_p is not None
    # Without drift PSI is about (1/n + 1/m) chi-square; the law of the test is near Pearson's.
    assert same.psi == pytest.approx(same.chi_square * (1 / 2_000 + 1 / 20_000), rel=0.05)
    assert same.chi_square_p == pytest.approx(same.p_value, rel=0.05)
    assert same.chi_square_p > 0.01
    assert max(moved.chi_square_p, moved.p_value) < 1e-50
    for name in ("psi", "js", "hellinger", "tvd", "linf", "chi_square", "ks", "wasserstein"):
        assert getattr(moved, name) > 2 * getattr(same, name), name


def test_what_varies_more_than_chance_has_larger_p_values_by_pearson_too() -> None:
    plan = fitted({"x": np.random.default_rng(3).normal(size=5_000)}, None).reference.plan.features[0]
    before = np.full(plan.bins, 500)
    now = np.arange(plan.bins) * 6 + 40
    none = np.zeros(len(QUALITY), np.int64)
    once, tenfold = (compared(Binned("x", before, now, none, tuple(plan.edges), phi)) for phi in (1.0, 10.0))
    assert once.chi_square == tenfold.chi_square
    assert once.chi_square_p is not None
    assert tenfold.chi_square_p is not None
    assert once.chi_square_p < 1e-3 < tenfold.chi_square_p
