"""Whether scores are probabilities, and the calibration that makes them so: what an estimate rests on. Pure.

An isotonic calibration is chosen only if it lowers the Brier score (mean squared error) of rows it was not fitted on;
if not, scores already are probabilities, and are used as they are (IDENTITY).

What was chosen must have a small expected calibration error (ECE): rows sorted by score in 10 bins of equal count, the
mean distance between the mean probability and the share of positives; Naeini et al. (2015). NannyML chooses by the
ECE, too. But all folds together reproduce the sums of labels in each bin, so there the ECE prefers isotonic even to
perfect scores; and it sorts calibrated rows by their probability, which hides a flat line where positives come and go.

With few rows all this would be noise: then there is no calibration, and estimates are withheld.
"""

from itertools import pairwise
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from gateway.monitor.confusion import Floats
from gateway.monitor.isotonic import Points, applied, fit

IDENTITY: Final[Points] = ((0.0, 0.0), (1.0, 1.0))
"""Scores that already are probabilities."""
MIN_ROWS: Final = 1_000
MIN_CLASS: Final = 100
"""Rows of each class. With fewer the ECE of a perfect calibration comes near the largest one allowed."""
MOST_ECE: Final = 0.05
BINS: Final = 10
FOLDS: Final = 10


class Calibration(msgspec.Struct, frozen=True):
    """What was chosen, and why.

    Attributes:
        points: for the plan; empty = none, and `reason` says why: few_rows | few_positives | few_negatives |
            not_probabilities | badly_calibrated.
        kind: isotonic | identity | none.
        ece_before, ece_after: of scores as they are, and of calibrated rows that the fit had not seen. NaN if too few.
        rows, positives: it was fitted on.
    """

    points: Points
    kind: str
    reason: str
    ece_before: float
    ece_after: float
    rows: int
    positives: int


def chosen(scores: npt.ArrayLike, labels: npt.ArrayLike) -> Calibration:
    """The calibration of a reference. Use rows that the model was not trained on, or it will look too good.

    Shapes: [n], labels 0 or 1; finite.

    Raises:
        ValueError: unequal lengths, or what is not finite or no label.
    """
    x, y = np.asarray(scores, np.float64).ravel(), np.asarray(labels, np.float64).ravel()
    if len(x) != len(y) or not np.isfinite(x).all() or not np.isin(y, (0.0, 1.0)).all():
        raise ValueError(f"expected finite scores and as many labels of 0 or 1, got {len(x)} and {len(y)}")
    rows, positives = len(x), int(y.sum())
    reason = _gate(x, rows, positives)
    if reason:
        return Calibration((), "none", reason, np.nan, np.nan, rows, positives)
    calibrated = held_out(x, y)
    before, after = ece(x, y), ece(calibrated, y, scores=x)
    better = float(np.mean((calibrated - y) ** 2)) < float(np.mean((x - y) ** 2))
    kind, points, left = ("isotonic", fit(x, y), after) if better else ("identity", IDENTITY, before)
    if left > MOST_ECE:
        return Calibration((), "none", "badly_calibrated", before, after, rows, positives)
    return Calibration(points, kind, "", before, after, rows, positives)


def _gate(scores: Floats, rows: int, positives: int) -> str:
    if rows < MIN_ROWS:
        return "few_rows"
    if positives < MIN_CLASS:
        return "few_positives"
    if rows - positives < MIN_CLASS:
        return "few_negatives"
    return "not_probabilities" if scores.min() < 0.0 or scores.max() > 1.0 else ""


def held_out(scores: Floats, labels: Floats) -> Floats:
    """Each row calibrated by the rows of the other nine folds. Shape [n].

    Folds deal out the rows of each class in turn, so that each fold has its share of both, without any randomness.
    """
    fold = np.empty(len(scores), np.int64)
    for label in (0.0, 1.0):
        places = np.flatnonzero(labels == label)
        fold[places] = np.arange(len(places)) % FOLDS
    found = np.empty(len(scores), np.float64)
    for k in range(FOLDS):
        out = fold == k
        found[out] = applied(fit(scores[~out], labels[~out]), scores[out])
    return found


def ece(
    probabilities: npt.ArrayLike, labels: npt.ArrayLike, bins: int = BINS, scores: npt.ArrayLike | None = None
) -> float:
    """Expected calibration error of rows. Shapes: [n]. Bins have at least 2 rows, or there are fewer bins.

    Args:
        scores: what rows are sorted by; None = the probabilities.

    Raises:
        ValueError: fewer than 4 rows.
    """
    p, y = np.asarray(probabilities, np.float64), np.asarray(labels, np.float64)
    if len(p) < 4:
        raise ValueError(f"expected at least 4 rows, got {len(p)}")
    bins = bins if len(p) > 2 * bins else len(p) // 2
    order = np.argsort(p if scores is None else np.asarray(scores, np.float64), kind="stable")
    width = len(p) // bins
    cuts = [*range(0, bins * width, width), len(p)]
    off = p[order] - y[order]
    return sum(abs(float(off[a:b].sum())) for a, b in pairwise(cuts)) / len(p)
