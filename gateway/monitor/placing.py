"""Numbers among the cuts of their features, and scores, one by one: the compiled way to what `gateway.monitor.ordered`
and `gateway.monitor.scored` count.

Interpreted it would take a hundred times as long, and is not used. Compiled it takes about as long as comparing whole
arrays, but finds its way in a few KiB: requests that come after it find their caches as they were, and it its own.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from librt.strings import read_f32_le, read_f64_le, read_i64_le
from librt.vecs import append, vec

if TYPE_CHECKING:
    from mypy_extensions import i64  # compiled code keeps these without an object

_WHOLE: Final = 1.5 * 2.0**52
"""Added and taken away, it leaves of a number below 2^51 the nearest whole one; of two the even one, as `np.rint`."""


class Cuts:
    """Of several features, by which a number finds its place: how many of them are not above it.

    Args:
        cuts: ascending, of each feature.

    Attributes:
        size: one more than a place of a number can be; NaN has this one.
    """

    def __init__(self, cuts: Sequence[Sequence[float]]) -> None:
        size = 1
        while size <= max(map(len, cuts)):
            size *= 2
        self.size = size
        self.features = len(cuts)
        padded = vec[float]()
        for some in cuts:
            for cut in some:
                padded = append(padded, cut)
            for _ in range(size - len(some)):
                padded = append(padded, float("nan"))  # which no number reaches
        self.padded = padded


class Places:
    """How many numbers of each feature have each place, up to 2^53 of them. For one thread."""

    def __init__(self, cuts: Cuts) -> None:
        self._cuts = cuts
        counts = vec[float]()
        for _ in range(cuts.features * (cuts.size + 1)):
            counts = append(counts, 0.0)
        self._counts = counts

    def add(self, numbers: bytes, first: int, features: int) -> None:
        """Count rows.

        Args:
            numbers: float32, little-endian, [rows, features].
            first: of the features.
        """
        cuts, counts = self._cuts.padded, self._counts
        size: i64 = self._cuts.size
        half: i64 = size >> 1
        begin: i64 = first * size
        end: i64 = (first + features) * size
        at: i64 = 0
        stop: i64 = len(numbers)
        while at < stop:
            base: i64 = begin
            into: i64 = first * (size + 1)
            while base < end:
                value: float = read_f32_le(numbers, at)
                place: i64 = 0
                step: i64 = half
                while step > 0:
                    # Without a branch: which way it goes nobody could foretell.
                    reached: i64 = value >= cuts[base + place + step - 1]
                    place += reached * step
                    step >>= 1
                if value != value:
                    place = size
                counts[into + place] += 1.0
                at += 4
                base += size
                into += size + 1

    def counts(self) -> list[int]:
        """Of each feature `size` + 1 numbers, behind one another."""
        return [int(count) for count in self._counts]


class Scores:
    """How many scores fell into each cell, and what they were calibrated to. For one thread.

    A cell is a group, a decision and a bin of [0, 1], in this order; what is not finite is in none.

    Args:
        points: (score, calibrated probability), ascending in both, straight lines between them; empty = as it is.
        threshold: a score of at least this decides 1.
        groups: that have a number; others come after them.
        bins: of [0, 1].
        unit: of calibrated probabilities; each counts as the nearest multiple.

    Attributes:
        counts, sums: by cell, of at most 2^53 each.
    """

    def __init__(
        self, points: Sequence[tuple[float, float]], threshold: float, groups: int, bins: int, unit: float
    ) -> None:
        scores, means = vec[float](), vec[float]()
        for score, mean in points:
            scores = append(scores, score)
            means = append(means, mean)
        self._scores, self._means = scores, means
        self._threshold = threshold
        self._groups = groups
        self._bins = bins
        self._unit = unit
        counts, sums = vec[float](), vec[float]()
        for _ in range((groups + 1) * 2 * bins):
            counts = append(counts, 0.0)
            sums = append(sums, 0.0)
        self.counts, self.sums = counts, sums

    def add(self, numbers: bytes, groups: bytes) -> None:
        """Count rows.

        Args:
            numbers: scores, float64, little-endian.
            groups: of each, int64, little-endian.
        """
        counts, sums = self.counts, self.sums
        threshold, unit = self._threshold, self._unit
        bins: i64 = self._bins
        others: i64 = self._groups
        last: i64 = bins - 1
        wide = float(self._bins)
        at: i64 = 0
        stop: i64 = len(numbers)
        while at < stop:
            score: float = read_f64_le(numbers, at)
            group: i64 = read_i64_le(groups, at)
            at += 8
            if score - score != 0.0:
                continue  # NaN and infinities
            if group < 0 or group > others:
                group = others
            clipped: float = 0.0 if score < 0.0 else 1.0 if score > 1.0 else score
            place: i64 = int(clipped * wide)
            decided: i64 = score >= threshold
            cell: i64 = (group * 2 + decided) * bins + (last if place > last else place)
            counts[cell] += 1.0
            sums[cell] += (self._mean(score, clipped) / unit + _WHOLE) - _WHOLE

    def _mean(self, score: float, clipped: float) -> float:
        """What it is calibrated to."""
        scores, means = self._scores, self._means
        left: i64 = len(scores)
        if left == 0:
            return clipped
        if score <= scores[0]:
            return means[0]
        if score >= scores[left - 1]:
            return means[left - 1]
        at: i64 = 0
        while left > 1:
            half: i64 = left >> 1
            # Without a branch, as above.
            reached: i64 = score >= scores[at + half]
            at += reached * half
            left -= half
        if score == scores[at]:
            return means[at]
        slope = (means[at + 1] - means[at]) / (scores[at + 1] - scores[at])
        return slope * (score - scores[at]) + means[at]
