"""CBPE from counts: against the row-wise form, when it is withheld, and whether its errors are what they say."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.monitor import cbpe, confusion, isotonic
from gateway.monitor.plan import HEAD, SCORE_BINS, CountPlan, FeaturePlan, ScorePlan
from tests.monitor.performance_rows import auc_gap, by_rows, counted_rows, labels_counted, sums_of_centres

STEPS = ((0.0, 0.01), (0.2, 0.05), (0.2001, 0.3), (0.7, 0.8), (1.0, 0.97))
IDENTITY = ((0.0, 0.0), (1.0, 1.0))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(300, 4_000),
    st.floats(0.2, 5.0),
    st.floats(0.2, 5.0),
    st.sampled_from([STEPS, IDENTITY]),
    st.sampled_from([0.5, 0.3337]),
)
def test_counts_against_rows(
    seed: int, rows: int, a: float, b: float, points: isotonic.Points, threshold: float
) -> None:
    scores = np.random.default_rng(seed).beta(a, b, rows)
    scores[:2] = 0.01, 0.99
    counts, sums = counted_rows(scores, points, threshold)
    exact = by_rows(scores, isotonic.applied(points, scores), threshold)
    found = cbpe.estimate(counts, sums, calibration=points, outside=0.0)
    for name in ("accuracy", "precision", "recall", "specificity", "f1"):
        # Each row is off by at most 2^-33, and a share of k rows by that much of k rows.
        assert found.values[name] == pytest.approx(exact[name], abs=1e-9)
    gap = exact["roc_auc"] - found.values["roc_auc"]
    assert -1e-9 <= gap <= auc_gap(counts, sums, points) + 1e-9
    assert abs(exact["average_precision"] - found.values["average_precision"]) <= 2e-4


@pytest.mark.parametrize(("a", "b"), [(1.0, 1.0), (0.6, 0.6), (2.0, 3.0)])
@pytest.mark.parametrize("rows", [5_000, 50_000])
def test_auc_of_spread_scores_to_1e_6(a: float, b: float, rows: int) -> None:
    scores = np.random.default_rng(5).beta(a, b, rows)
    counts, sums = counted_rows(scores, IDENTITY)
    exact = by_rows(scores, scores)
    table = cbpe.expected(counts, sums)
    assert confusion.metrics(table)["roc_auc"] == pytest.approx(exact["roc_auc"], abs=1e-6)
    # Without the sums, from the middle of each bin.
    rough = confusion.metrics(cbpe.expected(counts, sums_of_centres(counts, IDENTITY)))
    assert rough["roc_auc"] == pytest.approx(exact["roc_auc"], abs=3e-5)
    assert rough["accuracy"] == pytest.approx(exact["accuracy"], abs=3e-5)


def test_scores_crowded_into_few_bins_lose_area_and_the_gap_says_so() -> None:
    for a, b, most in ((0.5, 2.0, 5e-6), (1.0, 50.0, 2e-4), (1.0, 300.0, 6e-3)):
        scores = np.random.default_rng(6).beta(a, b, 20_000)
        counts, sums = counted_rows(scores, IDENTITY, 0.01)
        found = confusion.metrics(cbpe.expected(counts, sums))["roc_auc"]
        assert 1e-6 < by_rows(scores, scores, 0.01)["roc_auc"] - found < auc_gap(counts, sums, IDENTITY) < most


@given(st.integers(0, 2**32 - 1), st.integers(2, 5))
@settings(max_examples=20, deadline=None)
def test_shards_and_groups_add_exactly(seed: int, parts: int) -> None:
    scores = np.random.default_rng(seed).random(500)
    whole = cbpe.estimate(*counted_rows(scores, STEPS), calibration=STEPS, outside=0.0)
    shards = [counted_rows(part, STEPS) for part in np.array_split(scores, parts)]
    stacked = cbpe.estimate(*(np.stack(side) for side in zip(*shards, strict=True)), calibration=STEPS, outside=0.0)
    assert whole == stacked


def test_an_estimate_that_cannot_be_trusted_shows_no_value() -> None:
    counts, sums = counted_rows(np.linspace(0.0, 1.0, 1_000), IDENTITY)

    def reason(calibration: isotonic.Points = IDENTITY, outside: float = 0.0, min_rows: int = 200) -> str:
        found = cbpe.estimate(counts, sums, calibration=calibration, outside=outside, min_rows=min_rows)
        assert (found.state == "untrusted") == bool(found.reason) == (not found.values) == (not found.errors)
        assert found.rows == 1_000
        return found.reason

    assert reason() == reason(outside=0.05) == ""
    assert reason(calibration=()) == "no_calibrator"
    assert reason(outside=0.0501) == reason(outside=math.nan) == "outside_reference"
    assert reason(min_rows=1_001) == "few_rows"
    nothing = np.zeros((2, SCORE_BINS), np.int64)
    assert cbpe.estimate(nothing, nothing, calibration=IDENTITY, outside=0.0, min_rows=0).reason == "few_rows"


def test_a_metric_without_denominator_is_left_out() -> None:
    counts, sums = counted_rows(np.full(300, 0.1), ((0.0, 0.0), (0.1, 0.0), (1.0, 1.0)))
    found = cbpe.estimate(counts, sums, calibration=IDENTITY, outside=0.0)
    assert found.values == {"accuracy": 1.0, "specificity": 1.0}
    assert set(found.errors) == set(found.values)


def test_mass_outside_the_reference() -> None:
    number = FeaturePlan("x", "numeric", 0, 0, edges=(0.0, 1.0, 2.0))
    word = FeaturePlan("w", "categorical", 1, 0, values=("a",))
    score = ScorePlan(0, 1, "probability", calibration=((0.1, 0.0), (0.9, 1.0)))
    plan = CountPlan("0" * 16, (number, word), score, ("f",))
    vector = np.zeros(plan.size, np.int64)
    assert cbpe.outside_reference(plan, vector) == 0.0
    vector[0] = 100
    vector[HEAD : HEAD + number.width] = 50, 39, 5, 2, 3, 1, 0, 0
    vector[plan.feature_at(1) :][: word.width] = 96, 0, 0, 0, 0, 4, 0
    assert cbpe.outside_reference(plan, vector) == pytest.approx(0.06)
    counts, sums = cbpe.scores_of(plan, vector)
    assert counts.shape == sums.shape == (2, 2, SCORE_BINS)
    counts[1, 0, 50], counts[0, 0, 99], counts[0, 1, 950], counts[0, 1, 500] = 3, 7, 4, 86
    # Bin 99 ends at 0.1 and so touches the range; a view is what was written to.
    assert cbpe.outside_reference(plan, vector) == pytest.approx(0.07)
    sums[1, 1, 7] = 9
    assert vector[-1 - (SCORE_BINS - 8)] == 9


@pytest.mark.parametrize(("slope", "rows"), [(4.0, 500), (4.0, 5_000), (8.0, 2_000), (1.5, 1_000)])
def test_three_standard_errors_cover_what_comes_true(slope: float, rows: int) -> None:
    """Calibrated scores, labels drawn from them: realised lies within 3 SE of estimated; so does the long run.

    The distance to the long run has at most this error, its share in 400 windows at most 1 % (normal: 0.27 %); and its
    spread is not exaggerated either: the realised value varies by 0.9 to 1.1 errors.
    """
    rng = np.random.default_rng(int(slope * 10) + rows)
    windows, deviations, beyond = 400, [], dict.fromkeys(confusion.METRICS, 0)
    truth = _long_run(rng, slope)
    for _ in range(windows):
        scores, labels = _draw(rng, slope, rows)
        found = cbpe.estimate(*counted_rows(scores, IDENTITY), calibration=IDENTITY, outside=0.0)
        realised = confusion.metrics(confusion.counted(labels_counted(scores, labels)))
        for name, value in found.values.items():
            beyond[name] += abs(realised[name] - value) > 3 * found.errors[name]
            beyond[name] += abs(truth[name] - value) > 3 * found.errors[name]
        deviations.append([(realised[name] - truth[name]) / found.errors[name] for name in confusion.METRICS])
    assert max(beyond.values()) <= 8, beyond
    spread = np.std(deviations, axis=0)
    assert (spread > 0.88).all(), spread
    assert (spread < 1.12).all(), spread


def _draw(rng: np.random.Generator, slope: float, rows: int) -> tuple[np.ndarray, np.ndarray]:
    scores = 1.0 / (1.0 + np.exp(-rng.normal(-0.3, slope / 2, rows)))
    return scores, (rng.random(rows) < scores).astype(np.int64)


def _long_run(rng: np.random.Generator, slope: float) -> dict[str, float]:
    scores, _ = _draw(rng, slope, 1_000_000)
    return confusion.metrics(cbpe.expected(*counted_rows(scores, IDENTITY)))


def test_harmonic_numbers_on_both_sides_of_the_series() -> None:
    whole = np.array([0, 1, 2, 31, 32, 33, 1_000, 100_000], np.float64)
    exact = [math.fsum(1.0 / k for k in range(1, int(n) + 1)) for n in whole]
    assert confusion.harmonic(whole) == pytest.approx(exact, rel=2e-15)
