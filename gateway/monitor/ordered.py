"""Ordered features of all tensors, counted together: how many numbers of each are below each of its cuts.

Where the hot path is compiled, numbers that are the same in float32 are placed one by one (`gateway.monitor.placing`).
Others, and all of them where it is interpreted, are compared as arrays: all numbers with one cut of their feature at
once, which gives a byte of 0 or 1 for each; eight of them are added as one word. To sort each feature and look its cuts
up takes four times as long where AVX-512 writes compressed vectors slowly (AMD Zen 4: 0.8 ms for 2,048 rows of 24
numbers in place of 0.2), and about as long elsewhere.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from gateway.monitor.plan import ABOVE, BELOW, INFINITE, MISSING, FeaturePlan
from gateway.native import is_compiled
from runtimes.tensors import Array

Counts = npt.NDArray[np.int64]
MOST_EDGES: Final = 32
"""Of more edges a look-up in sorted numbers is the shorter way."""
_WORDS: Final = 128
"""Added at once: a byte of each holds at most 255."""
_WORD_ROWS: Final = 8
_BLOCK: Final = 49_152
"""Numbers of a block; they and their flags stay in the cache."""
_STEP: Final = 90_000
"""Comparisons of a step."""
_PLACED: Final = 10_240
"""Numbers that are placed in a step, 0.05 ms."""
_EXACT: Final = frozenset(np.dtype(kind) for kind in "?bBhHef")
"""Numbers that are the same in float32."""


def edge_cuts(edges: Sequence[float]) -> npt.NDArray[np.float64]:
    """Edges at which sorted numbers are cut, each belonging to what is above it; the last one to its bin, too."""
    cuts = np.asarray(edges, np.float64)
    if len(cuts):
        with np.errstate(over="ignore"):
            cuts = np.append(cuts[:-1], np.nextafter(cuts[-1], np.inf))
    return np.concatenate([[-np.finfo(np.float64).max], cuts, [np.inf, np.nan]])


class Ordered:
    """Features with edges.

    Of each feature stand behind one another 0, how many numbers are below each cut, and how many there are. The steps
    between neighbours are its counts, in the order of `edge_cuts`, the first of them that of -inf.

    Args:
        features: each with the place where its counts begin.
    """

    def __init__(self, features: Sequence[tuple[FeaturePlan, int]]) -> None:
        every = [edge_cuts(feature.edges) for feature, _ in features]
        sizes = np.array([len(cuts) + 2 for cuts in every])
        self._last = np.cumsum(sizes) - 1
        self._first = self._last - sizes + 1
        self._inner = np.concatenate([np.arange(*ends) for ends in zip(self._first + 1, self._last, strict=True)])
        self._places = np.concatenate([_places_of_steps(feature, start) for feature, start in features])
        self._infinite = np.array([start + feature.bins + INFINITE for feature, start in features])
        wide, self._lines = _matrix(every)
        self._columns = np.repeat(np.arange(len(features)), sizes - 2)
        self._wide, self._narrow = wide, _not_below(wide)
        self._placing = _Placing(features, every) if is_compiled() else None

    def steps(self, parts: Sequence[Array], into: Counts) -> Iterator[None]:
        """Count numbers, in steps of 0.05 ms at most; compared as arrays in steps of about 0.03 ms at 2,048 rows of 20
        features.

        Args:
            parts: [some of the features, rows] each, of any datatype of numbers; together all features in their order.
        """
        if self._placing is not None and all(part.dtype in _EXACT for part in parts):
            return self._placing.steps(parts, into)
        return self._compared(parts, into)

    def _compared(self, parts: Sequence[Array], into: Counts) -> Iterator[None]:
        features, rows = self._wide.shape[1], parts[0].shape[1]
        below = np.zeros((len(self._wide) + 1, features), np.int64)
        block = max(1, _BLOCK // (features * _WORDS * _WORD_ROWS)) * _WORDS * _WORD_ROWS
        for start in range(0, rows, block):
            yield from self._block([part[:, start : start + block] for part in parts], below)
        whole = np.zeros(self._last[-1] + 1, np.int64)
        whole[self._inner] = below[self._lines, self._columns]
        whole[self._last] = rows
        steps = whole[1:] - whole[:-1]
        into[self._places] += steps[self._inner]
        into[self._infinite] += steps[self._first]
        yield

    def _block(self, parts: Sequence[Array], below: Counts) -> Iterator[None]:
        """Add to `below` how many numbers of a block are below each cut; the last line is how many are numbers."""
        rows = parts[0].shape[1]
        numbers = _padded(parts, len(below[0]), rows)
        yield
        cuts = self._narrow if numbers.dtype == np.float32 else self._wide
        low, high = numbers[:, :rows].min(axis=1), numbers[:, :rows].max(axis=1)  # NaN where there is one
        yield
        every = (cuts > high).all(axis=1)
        below[:-1][every] += rows
        unknown = np.flatnonzero(~(every | (cuts <= low).all(axis=1)))
        group = max(1, _STEP // numbers.size)
        flags = np.empty((min(group, len(unknown)), *numbers.shape), np.bool_)
        for first in range(0, len(unknown), group):
            lines = unknown[first : first + group]
            found = np.less(numbers, cuts[lines, :, None], out=flags[: len(lines)])
            below[lines] += _ones(found)
            yield
        below[-1] += _ones(numbers == numbers) if np.isnan(low).any() else rows


class _Placing:
    """Each number for itself."""

    def __init__(self, features: Sequence[tuple[FeaturePlan, int]], every: Sequence[npt.NDArray[np.float64]]) -> None:
        from gateway.monitor.placing import Cuts, Places  # noqa: PLC0415  # for compiled code alone

        self._cuts, self._places = Cuts([cuts[:-1].tolist() for cuts in every]), Places
        width = self._cuts.size + 1
        into = np.zeros((len(features), width), np.int64)
        for line, (feature, start) in zip(into, features, strict=True):
            steps = _places_of_steps(feature, start)
            line[0] = start + feature.bins + INFINITE
            line[1 : len(steps)], line[-1] = steps[:-1], steps[-1]
        self._into = into.ravel()

    def steps(self, parts: Sequence[Array], into: Counts) -> Iterator[None]:
        """See `Ordered.steps`."""
        places, first = self._places(self._cuts), 0
        for part in parts:
            features, rows = part.shape
            block = max(1, _PLACED // features)
            for start in range(0, rows, block):
                some = part[:, start : start + block].T
                places.add(some.astype("<f4", copy=False).tobytes(), first, features)
                yield
            first += features
        np.add.at(into, self._into, places.counts())


def _matrix(every: Sequence[npt.NDArray[np.float64]]) -> tuple[npt.NDArray[np.float64], Counts]:
    """Cuts by line and feature, and the line of each cut of each feature, the one for NaN behind all of them.

    Features with fewer edges have -inf in the lines that they do not need: no number is below it.
    """
    lines = max(len(cuts) for cuts in every) - 1
    found = np.full((lines, len(every)), -np.inf)
    places = []
    for feature, cuts in enumerate(every):
        own = [*range(len(cuts) - 2), lines - 1]
        found[own, feature] = cuts[:-1]
        places += [*own, lines]
    return found, np.array(places)


def _not_below(cuts: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """The smallest float32 that is not below each cut: a float32 is below the one as it is below the other."""
    with np.errstate(over="ignore"):
        near = cuts.astype(np.float32)
        return np.where(near < cuts, np.nextafter(near, np.float32(np.inf)), near)


def _padded(parts: Sequence[Array], features: int, rows: int) -> npt.NDArray[np.floating[Any]]:
    """The numbers as floats, each feature's behind one another, with NaN up to a whole number of words to be added."""
    words = -(-rows // _WORD_ROWS)
    size = (words if words <= _WORDS else -(-words // _WORDS) * _WORDS) * _WORD_ROWS
    exact = all(part.dtype in _EXACT for part in parts)
    numbers = np.empty((features, size), np.float32 if exact else np.float64)
    first = 0
    for part in parts:
        numbers[first : first + len(part), :rows] = part
        first += len(part)
    numbers[:, rows:] = np.nan
    return numbers


def _ones(flags: npt.NDArray[np.bool_]) -> Counts:
    """How many are true along the last axis, which is whole words."""
    words = flags.view(np.uint64)
    sums = np.add.reduce(words.reshape(*words.shape[:-1], -1, min(words.shape[-1], _WORDS)), axis=-1)
    found: Counts = np.add.reduce(sums.view(np.uint8), axis=-1, dtype=np.int64)
    return found


def _places_of_steps(feature: FeaturePlan, start: int) -> Counts:
    """Where all but the first step of a feature count: each place once."""
    bins = feature.bins
    return start + np.array([bins + BELOW, *range(bins), bins + ABOVE, bins + INFINITE, bins + MISSING])
