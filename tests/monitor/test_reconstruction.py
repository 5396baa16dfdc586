"""Reconstruction error: sees what single features do not show, and reservoirs sample evenly."""

import math

import numpy as np
import pytest

from gateway.monitor import reconstruction
from gateway.monitor.reconstruction import ErrorMean, Reservoir


def tied(seed: int, rows: int, tie: float) -> np.ndarray:
    """Four normal columns, the first two tied: each alone is the same whatever the tie."""
    rng = np.random.default_rng(seed)
    found = rng.standard_normal((rows, 4))
    found[:, 1] = tie * found[:, 0] + math.sqrt(1.0 - tie**2) * found[:, 1]
    return found


def test_columns_that_come_apart_are_seen() -> None:
    model = reconstruction.fit(tied(1, 4_000, 0.95))
    reference = model.measured(tied(2, 4_000, 0.95))
    same, apart = model.measured(tied(3, 2_000, 0.95)), model.measured(tied(4, 2_000, 0.0))
    assert reconstruction.changed(reference, same) > 0.01
    assert reconstruction.changed(reference, apart) < 1e-12


def test_its_p_value_is_even_without_drift() -> None:
    model = reconstruction.fit(tied(1, 20_000, 0.6))
    reference = model.measured(tied(2, 20_000, 0.6))
    below = sum(
        reconstruction.changed(reference, model.measured(tied(seed, 500, 0.6))) <= 0.05 for seed in range(100, 500)
    )
    assert 6 <= below <= 38


def test_what_is_missing_or_new() -> None:
    numbers = np.array([[1.0, 5.0], [2.0, math.nan], [3.0, 9.0], [4.0, 11.0]])
    model = reconstruction.fit(numbers, [["a", None, "a", "b"]])
    assert model.fill == pytest.approx([2.5, 25.0 / 3.0])
    assert (model.categories[0].of, model.categories[0].common) == ({"a": 0.75, "b": 0.25}, "a")
    filled = np.where(np.isnan(numbers), model.fill, numbers)
    assert model.errors(numbers, [["a", math.nan, "a", "b"]]) == pytest.approx(
        model.errors(filled, [["a"] * 3 + ["b"]])
    )
    assert np.isfinite(model.errors(np.array([[math.inf, 1e308]]), [["never seen"]])).all()


@pytest.mark.parametrize(
    "numbers",
    [np.zeros((5, 3)), np.full((5, 1), 0.1), np.array([[1e300, 1.0], [-1e300, 2.0]]), np.full((3, 2), math.nan)],
)
def test_odd_references_give_finite_errors(numbers: np.ndarray) -> None:
    assert np.isfinite(reconstruction.fit(numbers).errors(numbers)).all()


def test_only_missing_categories() -> None:
    model = reconstruction.fit(np.zeros((3, 0)), [[None, None, None]])
    assert model.errors(np.zeros((2, 0)), [["x", None]]) == pytest.approx([0.0, 0.0])


def test_what_cannot_be_fitted_or_measured() -> None:
    with pytest.raises(ValueError, match="at least 2 rows"):
        reconstruction.fit(np.zeros((1, 2)))
    with pytest.raises(ValueError, match="finite"):
        reconstruction.fit(np.array([[1.0], [math.inf]]))
    model = reconstruction.fit(tied(1, 50, 0.5))
    with pytest.raises(ValueError, match="at least 2 rows"):
        model.measured(tied(1, 1, 0.5))
    with pytest.raises(ValueError, match="expected 4 numbers"):
        model.errors(np.zeros((2, 3)))


def test_errors_without_spread() -> None:
    none, one = ErrorMean(0.0, 0.0, 5), ErrorMean(1.0, 0.0, 5)
    assert reconstruction.changed(none, none) == 1.0
    assert reconstruction.changed(none, one) == 0.0


def test_a_reservoir_samples_evenly_and_the_same_again() -> None:
    def sample(seed: int) -> list[int]:
        reservoir = Reservoir(20, np.random.default_rng(seed))
        for start, size in ((0, 7), (7, 0), (7, 30), (37, 163)):
            reservoir.add(range(start, start + size))
        assert reservoir.seen == 200
        return reservoir.rows()

    assert sample(1) == sample(1)
    picked = np.zeros(200)
    for seed in range(1_000):
        rows = sample(seed)
        assert len(set(rows)) == 20
        picked[rows] += 1
    # Each is expected 100 times; chi-square over 200 has mean 199 and deviation 20.
    assert 130 < float(np.sum((picked - 100.0) ** 2 / 100.0)) / 0.9 < 270


def test_a_short_window_is_kept_whole() -> None:
    reservoir = Reservoir(10, np.random.default_rng(0))
    reservoir.add(["a", "b"])
    assert reservoir.rows() == ["a", "b"]
