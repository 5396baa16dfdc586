"""Scores into counts: how many fell into each bin under each decision and group, and what they were calibrated to.

Where the hot path is compiled, one by one (`gateway.monitor.placing`); interpreted, as arrays. Both count the same.
"""

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from gateway.monitor import isotonic
from gateway.monitor.plan import CALIBRATED_UNIT, SCORE_BINS, CountPlan, ScorePlan
from gateway.native import is_compiled

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
_AT_ONCE: Final = 2_048


class Scored:
    """The scores of a plan, which are probabilities."""

    def __init__(self, plan: CountPlan, score: ScorePlan) -> None:
        self._score = score
        self._groups = len(plan.groups)
        self._at, self._count = plan.score_at, plan.score_values
        self._calibrate = isotonic.line(score.calibration)
        self._steps = self._placed if is_compiled() else self._compared

    def steps(self, scores: Floats, groups: npt.NDArray[Any], into: Counts) -> Iterator[None]:
        """Count rows, in steps of about 0.05 ms; what is not finite is left out.

        Args:
            scores: [rows].
            groups: [rows] indices into the plan's; whatever is none of them is everybody else.
            into: [plan.size], changed in place.
        """
        between, end = self._at + self._count, self._at + 2 * self._count
        return self._steps(scores, groups, into[self._at : between], into[between:end])

    def _placed(self, scores: Floats, groups: npt.NDArray[Any], counts: Counts, sums: Counts) -> Iterator[None]:
        from gateway.monitor.placing import Scores  # noqa: PLC0415  # for compiled code alone

        score = self._score
        found = Scores(score.calibration, score.threshold, self._groups, SCORE_BINS, CALIBRATED_UNIT)
        yield
        for start in range(0, len(scores), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            found.add(
                scores[part].astype("<f8", copy=False).tobytes(), groups[part].astype("<i8", copy=False).tobytes()
            )
            yield
        counts += np.asarray(found.counts).astype(np.int64)
        sums += np.asarray(found.sums).astype(np.int64)
        yield

    def _compared(self, scores: Floats, groups: npt.NDArray[Any], counts: Counts, sums: Counts) -> Iterator[None]:
        finite = np.isfinite(scores)
        if not finite.all():
            scores, groups = scores[finite], groups[finite]
        yield
        for start in range(0, len(scores), _AT_ONCE):
            some = scores[start : start + _AT_ONCE]
            cells = self._cells(some, groups[start : start + _AT_ONCE])
            yield
            counts += np.bincount(cells, minlength=self._count)
            calibrated = np.rint(self._calibrate(some) / CALIBRATED_UNIT)
            yield
            sums += np.bincount(cells, calibrated, self._count).astype(np.int64)
            yield

    def _cells(self, scores: Floats, groups: npt.NDArray[Any]) -> Counts:
        """Where finite scores count."""
        last = self._groups
        cells = bins_of(scores)
        cells += SCORE_BINS * (scores >= self._score.threshold)
        if last:
            known = np.where((groups >= 0) & (groups < last), groups, last).astype(np.int64)
            cells += 2 * SCORE_BINS * known
        return cells


def bins_of(scores: Floats) -> Counts:
    """The bin of each score among SCORE_BINS of [0, 1]. Shapes: [n] -> [n]; finite scores, clipped."""
    return np.minimum((np.clip(scores, 0.0, 1.0) * SCORE_BINS).astype(np.int64), SCORE_BINS - 1)
