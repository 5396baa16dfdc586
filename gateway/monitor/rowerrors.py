"""Rows as one matrix of numbers, and the reconstruction error of each: what needs a row's features together. Pure.

Rows come in whatever tensors a caller sent; nothing is raised for them. Errors are rounded to 1e-6: those of rows of
few categories are few different numbers, which must not lie now here, now there of an edge by the last digit of a
product.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from gateway.monitor.columns import Floats, as_floats, boolean_place, number
from gateway.monitor.plan import FeaturePlan, MultivariatePlan
from gateway.monitor.reconstruction import Reconstruction
from runtimes.tensors import Array

DIGITS: Final = 6
_ALL: Final = 2.0**64

Read = Callable[[Any], Floats]


class RowMatrix:
    """Some features as columns of numbers.

    Args:
        shares: of each feature, what its categories become, those of `values`, then those of `others`; an unknown one
            becomes 0. () = it is a number.
    """

    def __init__(self, features: Sequence[FeaturePlan], shares: Sequence[Sequence[float]]) -> None:
        self._width = len(features)
        self._inputs: dict[int, list[tuple[int, int, Read, Read]]] = {}
        self._bf16 = {feature.input: feature.bf16 for feature in features}
        for at, (feature, becomes) in enumerate(zip(features, shares, strict=True)):
            numbers, texts = _readers(feature, np.asarray(becomes, np.float64))
            self._inputs.setdefault(feature.input, []).append((at, max(feature.column, 0), numbers, texts))

    def of(self, inputs: Sequence[Array | None], chosen: npt.NDArray[np.int64]) -> Floats:
        """Some rows as float64 [chosen, features]; NaN or infinite = missing.

        Args:
            inputs: [rows, ...] each, in the order of the model's signature; None = left out.
            chosen: which rows.
        """
        # Columns are contiguous here: they are written, and read, one by one.
        found = np.full((self._width, len(chosen)), np.nan)
        for index, columns in self._inputs.items():
            array = inputs[index] if index < len(inputs) else None
            if array is None or not len(array):
                continue
            flat = array.reshape(len(array), -1)[chosen]
            present = [one for one in columns if one[1] < flat.shape[1]]
            if array.dtype == object:
                for at, column, _, texts in present:
                    found[at] = texts(flat[:, column].tolist())
            elif present:
                numbers = as_floats(flat[:, [column for _, column, _, _ in present]].T, self._bf16[index])
                for (at, _, read, _), values in zip(present, numbers, strict=True):
                    found[at] = read(values)
        return found.T


def _readers(feature: FeaturePlan, becomes: Floats) -> tuple[Read, Read]:
    """How a feature's numbers are read, and how its texts are."""
    if feature.kind == "numeric":
        return _as_they_are, _said
    if feature.kind == "boolean":
        return _of_two, lambda texts: _of_two(np.array([boolean_place(text) for text in texts], np.float64))
    known = (*feature.values, *feature.others)
    if any(isinstance(value, str) for value in known):
        places = {str(value).encode(): share for value, share in zip(known, becomes.tolist(), strict=True)}
        # Empty text is missing, unless it is a category.
        places.setdefault(b"", np.nan)
        return _nothing, lambda texts: np.array([places.get(text, 0.0) for text in texts], np.float64)
    order = np.argsort(np.asarray(known, np.float64))
    values, shares = np.asarray(known, np.float64)[order], becomes[order]

    def read(numbers: Floats) -> Floats:
        at = np.minimum(np.searchsorted(values, numbers), len(values) - 1)
        found = np.where(values[at] == numbers, shares[at], 0.0)
        found[~np.isfinite(numbers)] = np.nan
        return found

    return read, lambda texts: read(_said(texts))


def _as_they_are(numbers: Floats) -> Floats:
    return numbers


def _of_two(numbers: Floats) -> Floats:
    return np.where((numbers == 0.0) | (numbers == 1.0), numbers, np.nan)


def _nothing(numbers: Floats) -> Floats:
    return np.full(len(numbers), np.nan)


def _said(texts: Sequence[Any]) -> Floats:
    return np.array([number(text) for text in texts], np.float64)


class RowErrors:
    """Reconstruction errors of rows, within a reference's bins.

    Args:
        features: all of the count plan's.
    """

    def __init__(self, plan: MultivariatePlan, features: Sequence[FeaturePlan]) -> None:
        self._matrix = RowMatrix([features[at] for at in plan.features], plan.shares)
        weights = np.asarray(plan.weights, np.float64).reshape(-1, len(plan.features))
        self._model = Reconstruction(np.asarray(plan.fill), np.asarray(plan.centre), weights)
        self._below = None if plan.sample >= 1.0 else np.uint64(plan.sample * _ALL)

    def errors(self, inputs: Sequence[Array | None], rows: int, first: int) -> Floats:
        """Errors of the sampled ones of some rows; whatever they hold, each has one.

        Args:
            inputs: [rows, ...] each.
            first: number of the first row, which with the others' decides who is sampled.
        """
        chosen = np.arange(rows)
        if self._below is not None:
            chosen = np.flatnonzero(scattered(first, rows) < self._below)
        return np.round(self._model.errors(self._matrix.of(inputs, chosen)), DIGITS)


def scattered(first: int, count: int) -> npt.NDArray[np.uint64]:
    """Numbers of rows as uint64 without any order in them: SplitMix64, Steele, Lea and Flood (2014).

    So a sample follows no rhythm that the rows may have, and the same rows are sampled again.
    """
    found = (np.arange(first, first + count, dtype=np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    found = (found ^ (found >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    found = (found ^ (found >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return found ^ (found >> np.uint64(31))
