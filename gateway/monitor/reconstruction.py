"""Whether features still go together: the error of rows rebuilt from the reference's principal components. Pure.

Each feature alone may look right while their relation is gone; then rows fit the old components badly. Columns are
numbers; categories become their share in the reference (`shares`). What is missing becomes the mean, or the share of
the most common category. Columns are centred and scaled, and components are kept until they explain 65 % of the
variance. The error of a row is the length of what is left, in standard deviations of the reference's columns. Method
and numbers as of NannyML's data reconstruction.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

EXPLAINED: Final = 0.65
LEAST_ROWS: Final = 2
_LARGEST: Final = 1e100
"""What is beyond is taken to be this: scaled by the smallest spread, its square is still a float."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Reconstruction:
    """Principal components of a reference.

    Attributes:
        fill: float64 (columns,): stands in for what is missing.
        centre: float64 (columns,).
        weights: float64 (left out, columns): the components that are not kept, divided by the columns' scale. What
            they catch of a row is what the kept ones cannot rebuild; so one product gives the error.
    """

    fill: Floats
    centre: Floats
    weights: Floats

    def errors(self, data: Floats) -> Floats:
        """Error of each row, not negative. Shapes: (rows, columns) -> (rows,); what is not finite is missing."""
        left = (_filled(data, self.fill) - self.centre) @ self.weights.T
        return np.asarray(np.sqrt(np.einsum("ij,ij->i", left, left)), np.float64)


def fit(data: Floats, fill: Floats, explained: float = EXPLAINED) -> Reconstruction:
    """Components of a reference.

    Args:
        data: float64 (rows, columns); what is not finite is missing.
        fill: float64 (columns,): stands in for what is missing; NaN = the mean of the column.
        explained: share of the variance that the kept components exceed, 0..1.

    Raises:
        ValueError: fewer than 2 rows, or no column.
    """
    if len(data) < LEAST_ROWS or not data.shape[1]:
        raise ValueError(f"expected at least {LEAST_ROWS} rows and a column, got {data.shape}")
    data = np.where(np.isfinite(data), np.clip(data, -_LARGEST, _LARGEST), np.nan)
    means = np.nansum(data, axis=0) / np.maximum(1, np.sum(~np.isnan(data), axis=0))
    fill = np.where(np.isnan(fill), means, fill)
    data = _filled(data, fill)
    centre, spread = data.mean(axis=0), data.std(axis=0)
    # A constant column has a spread of rounding errors; dividing by it would make noise of them.
    tiny = 10.0 * np.finfo(np.float64).eps * np.maximum(1.0, np.abs(centre))
    scale = np.where(spread > tiny, spread, 1.0)
    scaled = (data - centre) / scale
    variances, vectors = np.linalg.eigh(scaled.T @ scaled)
    # Ascending: those left out come first.
    left_out = data.shape[1] - _kept(np.maximum(variances[::-1], 0.0), explained)
    return Reconstruction(fill, centre, np.ascontiguousarray(vectors[:, :left_out].T / scale))


def _filled(data: Floats, fill: Floats) -> Floats:
    finite = np.isfinite(data)
    return np.clip(data if finite.all() else np.where(finite, data, fill), -_LARGEST, _LARGEST)


def _kept(variances: Floats, explained: float) -> int:
    whole = variances.sum()
    if not whole:
        return 0
    below = int(np.sum(np.cumsum(variances / whole) <= explained))
    return min(len(variances), below + 1)


def shares(counts: NDArray[np.int64], missing: int, rows: int) -> Floats:
    """What categories become: their share in the reference; the largest is that of what is missing, too.

    Args:
        counts: rows of each category.
        missing: rows without one; they count as the most common, for then they are.
        rows: all of them, not 0.
    """
    found = counts / rows
    if counts.any():
        found[np.argmax(counts)] += missing / rows
    return found
