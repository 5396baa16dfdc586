"""The score as one more thing that may drift: ten bins whose edges are among the thousand that are counted. Pure."""

from typing import Final

import numpy as np
import numpy.typing as npt

from gateway.monitor.counting import Counts
from gateway.monitor.plan import QUALITY, SCORE_BINS, CountPlan

NESTED: Final = 10


def score_counts(plan: CountPlan, vector: Counts) -> Counts:
    """Counts of the score's bins, groups and decisions added: [SCORE_BINS], or the data bins of a value."""
    assert plan.score is not None, "a plan with a score"
    if plan.score.kind == "value":
        return vector[plan.score_at : -len(QUALITY)]
    cells = vector[plan.score_at : plan.score_at + plan.score_values]
    return np.asarray(cells.reshape(-1, SCORE_BINS).sum(axis=0), np.int64)


def nested_starts(plan: CountPlan, reference: Counts) -> npt.NDArray[np.intp]:
    """First counted bin of each of at most NESTED bins with about equal counts in a reference.

    A value's bins are such already.
    """
    counts = score_counts(plan, reference)
    if plan.score is not None and plan.score.kind == "value":
        return np.arange(len(counts))
    below = np.cumsum(counts) - counts
    wanted = counts.sum() * np.arange(NESTED) / NESTED
    starts = np.unique(np.searchsorted(below, wanted, side="right") - 1)
    starts[0] = 0
    return starts


def nested_edges(plan: CountPlan, reference: Counts, starts: npt.NDArray[np.intp]) -> tuple[float, ...]:
    """Edges of nested bins of a probability; the outer ones where the reference's scores end, not at 0 and 1."""
    occupied = np.flatnonzero(score_counts(plan, reference))
    lowest, highest = (int(occupied[0]), int(occupied[-1])) if len(occupied) else (0, SCORE_BINS - 1)
    return tuple(at / SCORE_BINS for at in (lowest, *starts[1:].tolist(), highest + 1))


def nested(plan: CountPlan, vector: Counts, starts: npt.NDArray[np.intp]) -> Counts:
    """Counts of the bins that begin at `starts`. Shape: [len(starts)]."""
    return np.asarray(np.add.reduceat(score_counts(plan, vector), starts), np.int64)
