"""Performance from every single row: the slow and plain form that counts are held against."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from gateway.monitor import isotonic
from gateway.monitor.plan import CALIBRATED_UNIT, SCORE_BINS

Rows = npt.NDArray[Any]


def counted_rows(scores: Rows, calibration: Sequence[tuple[float, float]], threshold: float = 0.5) -> tuple[Rows, Rows]:
    """Counts and calibrated sums of rows, each [decision, bin]."""
    at = ((scores >= threshold).astype(int), np.minimum((scores * SCORE_BINS).astype(int), SCORE_BINS - 1))
    counts, sums = (np.zeros((2, SCORE_BINS), np.int64) for _ in range(2))
    np.add.at(counts, at, 1)
    np.add.at(sums, at, np.rint(isotonic.applied(calibration, scores) / CALIBRATED_UNIT).astype(np.int64))
    return counts, sums


def by_rows(scores: Rows, probability: Rows, threshold: float = 0.5) -> dict[str, float]:
    """Estimated metrics row by row, as NannyML defines them, without its rounding to 5 places. All are defined."""
    decided, p = scores >= threshold, probability
    tp, fp = float(p[decided].sum()), float((1 - p)[decided].sum())
    fn, tn = float(p[~decided].sum()), float((1 - p)[~decided].sum())
    falling = p[np.argsort(scores, kind="stable")[::-1]]
    hits, misses = np.cumsum(falling), np.cumsum(1 - falling)
    tpr, fpr = np.r_[0, hits / hits[-1]], np.r_[0, misses / misses[-1]]
    return {
        "accuracy": (tp + tn) / len(p),
        "precision": tp / (tp + fp),
        "recall": tp / (tp + fn),
        "specificity": tn / (tn + fp),
        "f1": tp / (tp + (fp + fn) / 2),
        "roc_auc": float(np.sum(np.diff(fpr) * (tpr[1:] + tpr[:-1]) / 2)),
        "average_precision": float(np.sum(falling * hits / np.arange(1, len(p) + 1)) / hits[-1]),
    }


def labels_counted(scores: Rows, labels: Rows, threshold: float = 0.5) -> Rows:
    """Counts of labelled rows, [decision, bin, label]."""
    counts = np.zeros((2, SCORE_BINS, 2), np.int64)
    at = np.minimum((scores * SCORE_BINS).astype(int), SCORE_BINS - 1)
    np.add.at(counts, ((scores >= threshold).astype(int), at, labels.astype(int)), 1)
    return counts
