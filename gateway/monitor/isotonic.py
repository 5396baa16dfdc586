"""Calibration of scores by isotonic regression: what a score has meant, as points of a rising line. Pure.

Fitted by pooling adjacent violators (Ayer et al. 1955; Barlow et al. 1972): equal scores are averaged first, then any
neighbours whose averages fall are joined until none do. Of each block its first and last score are kept; between
points lie straight lines and outside them the nearest point holds, as in scikit-learn's `IsotonicRegression` with
`out_of_bounds="clip"`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Points = tuple[tuple[float, float], ...]
"""(score, calibrated probability), ascending in both."""


def pooled(values: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> Floats:
    """The nondecreasing sequence that is nearest to `values` in weighted squares.

    Shapes: [n] and [n] -> [n]. Weights are positive; None = all equal.
    """
    y = np.asarray(values, np.float64)
    w = np.ones_like(y) if weights is None else np.asarray(weights, np.float64)
    means: list[float] = []
    masses: list[float] = []
    sizes: list[int] = []
    for mean, mass in zip(y.tolist(), w.tolist(), strict=True):
        size = 1
        while means and means[-1] >= mean:
            below = masses.pop()
            mean = (means.pop() * below + mean * mass) / (below + mass)
            mass += below
            size += sizes.pop()
        means.append(mean)
        masses.append(mass)
        sizes.append(size)
    return np.repeat(np.asarray(means), sizes)


def fit(scores: npt.ArrayLike, labels: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> Points:
    """Points of the calibration that labels teach.

    Shapes: [n], labels 0 or 1 (or any share between). Scores and labels are finite.

    Raises:
        ValueError: no rows, or a score, label or weight that is not finite.
    """
    x, y = np.asarray(scores, np.float64).ravel(), np.asarray(labels, np.float64).ravel()
    w = np.ones_like(x) if weights is None else np.asarray(weights, np.float64).ravel()
    if not len(x) or not len(x) == len(y) == len(w):
        raise ValueError(f"expected as many labels as scores and at least one, got {len(x)}, {len(y)} and {len(w)}")
    if not (np.isfinite(x).all() and np.isfinite(y).all() and np.isfinite(w).all()):
        raise ValueError("expected finite scores, labels and weights")
    distinct, index = np.unique(x, return_inverse=True)
    mass = np.bincount(index, w)
    rising = pooled(np.bincount(index, w * y) / mass, mass)
    # Only the ends of a block: what lies between them is on the line anyway.
    kept = np.ones(len(distinct), np.bool_)
    kept[1:-1] = (rising[1:-1] != rising[:-2]) | (rising[1:-1] != rising[2:])
    return tuple(zip(distinct[kept].tolist(), rising[kept].tolist(), strict=True))


def applied(points: Sequence[tuple[float, float]], scores: npt.NDArray[Any]) -> Floats:
    """Calibrated probabilities of scores; without points the scores themselves, clipped to [0, 1].

    Shapes: any -> the same. NaN stays NaN.
    """
    return line(points)(scores)


def line(points: Sequence[tuple[float, float]]) -> Callable[[npt.NDArray[Any]], Floats]:
    """`applied` with these points, for many calls."""
    if not points:
        return lambda scores: np.clip(np.asarray(scores, np.float64), 0.0, 1.0)
    x, y = np.array(np.asarray(points, np.float64).T, order="C")
    return lambda scores: np.asarray(np.interp(scores, x, y), np.float64)
