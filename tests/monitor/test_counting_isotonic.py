"""Isotonic calibration: the nearest rising line, whatever comes in."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.monitor import isotonic

shares = st.lists(st.floats(0, 1, allow_subnormal=False), min_size=1, max_size=40)


@given(shares, st.data())
def test_what_is_pooled_rises_keeps_the_weighted_mean_and_is_the_nearest(
    values: list[float], data: st.DataObject
) -> None:
    weights = data.draw(st.lists(st.floats(0.1, 10), min_size=len(values), max_size=len(values)))
    found = isotonic.pooled(values, weights)
    y, w = np.array(values), np.array(weights)
    assert (np.diff(found) >= 0).all()
    assert np.isclose((found * w).sum(), (y * w).sum())
    # Minimax formula (Barlow et al. 1972): max over starts of min over ends of the weighted means between them.
    for at in range(len(y)):
        best = max(
            min(np.average(y[start:stop], weights=w[start:stop]) for stop in range(at + 1, len(y) + 1))
            for start in range(at + 1)
        )
        assert found[at] == pytest.approx(best, abs=1e-9)


def test_equal_scores_are_averaged_first_and_only_the_ends_of_blocks_are_kept() -> None:
    points = isotonic.fit([0.1, 0.1, 0.2, 0.3, 0.4, 0.5], [0, 1, 0, 1, 1, 1])
    # 0.1 (mean 1/2, two rows) and 0.2 (0) are pooled to 1/3; the rest is 1.
    assert points == ((0.1, pytest.approx(1 / 3)), (0.2, pytest.approx(1 / 3)), (0.3, 1.0), (0.5, 1.0))


def test_between_points_are_lines_and_outside_the_nearest_holds() -> None:
    points = ((0.2, 0.1), (0.4, 0.5))
    found = isotonic.applied(points, np.array([0.0, 0.2, 0.3, 0.4, 1.0, np.nan], np.float32))
    assert found[:5].tolist() == pytest.approx([0.1, 0.1, 0.3, 0.5, 0.5], abs=1e-6)
    assert np.isnan(found[5])


def test_without_points_a_score_is_taken_at_its_word() -> None:
    assert isotonic.applied((), np.array([-0.5, 0.25, 2.0])).tolist() == [0.0, 0.25, 1.0]


@pytest.mark.parametrize("scores", [[], [np.nan], [0.1, 0.2]])
def test_what_cannot_be_fitted_is_refused(scores: list[float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        isotonic.fit(scores, [1] if scores[1:] else [1] * len(scores))


def test_many_rows_give_a_calibration_that_is_right_on_average() -> None:
    rng = np.random.default_rng(1)
    scores = rng.random(20_000)
    labels = rng.random(20_000) < scores**2
    points = isotonic.fit(scores, labels)
    found = isotonic.applied(points, np.linspace(0.05, 0.95, 19))
    assert np.abs(found - np.linspace(0.05, 0.95, 19) ** 2).max() < 0.05
    assert isotonic.applied(points, scores).mean() == pytest.approx(labels.mean(), abs=1e-3)
