"""Whether features still go together: the error of rows rebuilt from the reference's principal components. Pure.

Each feature alone may look right while their relation is gone; then rows fit the old components badly. Works on rows,
so off the path and on a sample (`Reservoir`). Numbers are centred and scaled, categories become their share in the
reference, what is missing becomes the mean or the most common category; components are kept until they explain 65 % of
the variance. The error of a row is the length of what is left. Method and numbers as of NannyML's data reconstruction.
"""

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from router.evidence.special import log_normal_below

EXPLAINED: Final = 0.65
LEAST_ROWS: Final = 2
_LARGEST: Final = 1e150
"""What is beyond, infinity too, is taken to be this: its square is still a float."""

Rows = NDArray[np.float64]
Category = Hashable


@dataclass(frozen=True, slots=True)
class Shares:
    """How a categorical column becomes a number.

    Attributes:
        of: share of each category in the reference; others are 0.
        common: stands in for what is missing.
    """

    of: Mapping[Category, float]
    common: Category

    def encoded(self, values: Sequence[Category]) -> Rows:
        """float64 (rows,)."""
        return np.array([self.of.get(self.common if _missing(value) else value, 0.0) for value in values], np.float64)


def _missing(value: Category) -> bool:
    return value is None or value != value


@dataclass(frozen=True, slots=True)
class ErrorMean:
    """Reconstruction error of some rows.

    Attributes:
        value: mean over rows, in standard deviations of the reference's features.
        standard_error: of that mean.
        rows: how many.
    """

    value: float
    standard_error: float
    rows: int


@dataclass(frozen=True, slots=True)
class Reconstruction:
    """Principal components of a reference. Columns: the numbers, then the categories, as they were given to `fit`.

    Attributes:
        fill: float64 (numbers,): mean of each, where present.
        categories: of each categorical column.
        centre: float64 (columns,).
        scale: float64 (columns,); 1 where a column is constant.
        components: float64 (kept, columns), orthonormal.
    """

    fill: Rows
    categories: tuple[Shares, ...]
    centre: Rows
    scale: Rows
    components: Rows

    def errors(self, numbers: Rows, categories: Sequence[Sequence[Category]] = ()) -> Rows:
        """Error of each row: float64 (rows,), not negative. NaN = missing."""
        scaled = (_encoded(numbers, categories, self.fill, self.categories) - self.centre) / self.scale
        left = scaled - (scaled @ self.components.T) @ self.components
        return np.asarray(np.sqrt(np.sum(left * left, axis=1)), np.float64)

    def measured(self, numbers: Rows, categories: Sequence[Sequence[Category]] = ()) -> ErrorMean:
        """Mean error of some rows. Raises ValueError for fewer than 2."""
        errors = self.errors(numbers, categories)
        if len(errors) < LEAST_ROWS:
            raise ValueError(f"expected at least {LEAST_ROWS} rows, got {len(errors)}")
        return ErrorMean(float(errors.mean()), float(errors.std(ddof=1)) / math.sqrt(len(errors)), len(errors))


def fit(numbers: Rows, categories: Sequence[Sequence[Category]] = (), explained: float = EXPLAINED) -> Reconstruction:
    """Components of a reference.

    Args:
        numbers: float64 (rows, columns); NaN = missing.
        categories: columns of categories, each of the same length; None and NaN = missing.
        explained: share of the variance that the kept components exceed, 0..1.

    Raises:
        ValueError: fewer than 2 rows, no column, or a column of numbers that is infinite somewhere.
    """
    if len(numbers) < LEAST_ROWS or numbers.shape[1] + len(categories) == 0:
        raise ValueError(f"expected at least {LEAST_ROWS} rows and a column, got {numbers.shape}")
    if np.isinf(numbers).any():
        raise ValueError("numbers: expected finite ones")
    present = np.maximum(1, np.sum(~np.isnan(numbers), axis=0))
    fill = np.nansum(numbers, axis=0) / present
    shares = tuple(_shares(values) for values in categories)
    data = _encoded(numbers, categories, fill, shares)
    centre, spread = data.mean(axis=0), data.std(axis=0)
    # A constant column has a spread of rounding errors; dividing by it would make noise of them.
    tiny = 10.0 * np.finfo(np.float64).eps * np.maximum(1.0, np.abs(centre))
    scale = np.where(spread > tiny, spread, 1.0)
    scaled = (data - centre) / scale
    variances, vectors = np.linalg.eigh(scaled.T @ scaled)
    variances, vectors = np.maximum(variances[::-1], 0.0), vectors[:, ::-1]
    kept = _kept(variances, explained)
    return Reconstruction(fill, shares, centre, scale, np.ascontiguousarray(vectors[:, :kept].T))


def _kept(variances: Rows, explained: float) -> int:
    whole = variances.sum()
    if not whole:
        return 0
    below = int(np.sum(np.cumsum(variances / whole) <= explained))
    return min(len(variances), below + 1)


def _shares(values: Sequence[Category]) -> Shares:
    counts = Counter(value for value in values if not _missing(value))
    if not counts:
        return Shares({}, None)
    top = max(counts.values())
    common = min(
        (value for value, count in counts.items() if count == top), key=lambda value: (str(type(value)), value)
    )
    # What is missing counts as the common one, for then it is one.
    counts[common] += len(values) - counts.total()
    return Shares({value: count / len(values) for value, count in counts.items()}, common)


def _encoded(
    numbers: Rows, categories: Sequence[Sequence[Category]], fill: Rows, shares: Sequence[Shares]
) -> NDArray[np.float64]:
    if numbers.shape[1] != len(fill) or len(categories) != len(shares):
        raise ValueError(
            f"expected {len(fill)} numbers and {len(shares)} categories, got {numbers.shape[1]} and {len(categories)}"
        )
    filled = np.clip(np.where(np.isnan(numbers), fill, numbers), -_LARGEST, _LARGEST)
    encoded = [one.encoded(values) for one, values in zip(shares, categories, strict=True)]
    return np.column_stack([filled, *encoded])


def changed(reference: ErrorMean, current: ErrorMean) -> float:
    """Two-sided p-value that both means are one: normal, both standard errors counted. In either direction rows differ.

    A reference whose own rows made the components has slightly too small an error; hold some rows out.
    """
    error = math.hypot(reference.standard_error, current.standard_error)
    apart = abs(current.value - reference.value)
    if not error:
        return 1.0 if not apart else 0.0
    return min(1.0, 2.0 * math.exp(log_normal_below(-apart / error)))


class Reservoir:
    """An even sample of the rows of a window, of bounded size: algorithm R, Vitter (1985).

    Args:
        capacity: rows kept, > 0.
        random: numpy's generator; the same seed and rows give the same sample.
    """

    def __init__(self, capacity: int, random: np.random.Generator) -> None:
        assert capacity > 0, "a sample has room"
        self.capacity, self.seen = capacity, 0
        self._random = random
        self._rows: list[Any] = []

    def add(self, rows: Sequence[Any]) -> None:
        """More rows, of any kind."""
        room = self.capacity - len(self._rows)
        self._rows.extend(rows[:room])
        rest = rows[room:]
        first = self.seen + min(room, len(rows))
        self.seen += len(rows)
        if not len(rest):
            return
        places = self._random.integers(0, np.arange(first, self.seen) + 1)
        for at in np.flatnonzero(places < self.capacity):
            self._rows[int(places[at])] = rest[int(at)]

    def rows(self) -> list[Any]:
        """The sample, in no order that means something."""
        return list(self._rows)
