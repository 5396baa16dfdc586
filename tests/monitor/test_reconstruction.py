"""Reconstruction error: sees what single features do not show, and is finite whatever the reference was."""

import math

import numpy as np
import pytest

from gateway.monitor import reconstruction


def tied(seed: int, rows: int, tie: float) -> np.ndarray:
    """Four normal columns, the first two tied: each alone is the same whatever the tie."""
    rng = np.random.default_rng(seed)
    found = rng.standard_normal((rows, 4))
    found[:, 1] = tie * found[:, 0] + math.sqrt(1.0 - tie**2) * found[:, 1]
    return found


def means(columns: int) -> np.ndarray:
    return np.full(columns, math.nan)


def test_columns_that_come_apart_are_seen() -> None:
    model = reconstruction.fit(tied(1, 4_000, 0.95), means(4))
    same, apart = model.errors(tied(3, 2_000, 0.95)), model.errors(tied(4, 2_000, 0.0))
    assert apart.mean() - same.mean() > 20 * same.std() / math.sqrt(2_000)


def test_the_error_is_what_the_kept_components_do_not_rebuild() -> None:
    data = tied(1, 500, 0.9)
    model = reconstruction.fit(data, means(4))
    scaled = (data - data.mean(axis=0)) / data.std(axis=0)
    _, values, components = np.linalg.svd(scaled)
    shares = np.cumsum(values**2) / np.sum(values**2)
    kept = components[: int(np.sum(shares <= reconstruction.EXPLAINED)) + 1]
    assert len(model.weights) == 4 - len(kept)
    assert model.errors(data) == pytest.approx(np.linalg.norm(scaled - scaled @ kept.T @ kept, axis=1))


def test_what_is_missing_becomes_the_mean_or_what_stands_in_for_it() -> None:
    data = np.array([[1.0, 5.0], [2.0, math.nan], [3.0, 9.0], [4.0, math.inf]])
    assert reconstruction.fit(data, means(2)).fill == pytest.approx([2.5, 7.0])
    model = reconstruction.fit(data, np.array([math.nan, 6.0]))
    assert model.fill == pytest.approx([2.5, 6.0])
    filled = np.array([[1.0, 5.0], [2.0, 6.0], [3.0, 9.0], [4.0, 6.0]])
    assert model.errors(data) == pytest.approx(model.errors(filled))


@pytest.mark.parametrize(
    "numbers",
    [
        np.zeros((5, 3)),
        np.full((5, 1), 0.1),
        np.array([[1e300, 1.0], [-1e300, 2.0]]),
        np.full((3, 2), math.nan),
        np.array([[0.0, 1.0], [1e-300, 1e300]]),
    ],
)
def test_odd_references_give_finite_errors(numbers: np.ndarray) -> None:
    model = reconstruction.fit(numbers, means(numbers.shape[1]))
    assert np.isfinite(model.errors(numbers)).all()
    assert np.isfinite(model.errors(np.full((2, numbers.shape[1]), -1e308))).all()


def test_categories_become_their_share_and_what_is_missing_the_most_common() -> None:
    assert reconstruction.shares(np.array([2, 1]), missing=1, rows=4).tolist() == [0.75, 0.25]
    assert reconstruction.shares(np.array([1, 1]), missing=0, rows=4).tolist() == [0.25, 0.25]
    assert reconstruction.shares(np.array([0]), missing=3, rows=3).tolist() == [0.0]


@pytest.mark.parametrize("shape", [(1, 2), (5, 0)])
def test_what_cannot_be_fitted(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="at least 2 rows and a column"):
        reconstruction.fit(np.zeros(shape), means(shape[1]))
