"""Performance from every single row: the slow and plain form that counts are held against."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from gateway.monitor import cbpe, isotonic
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


def sums_of_centres(counts: Rows, calibration: Sequence[tuple[float, float]]) -> Rows:
    """Calibrated sums where only counts are known: each row taken for the middle of its bin. Units of 2^-32, to 1e-5.

    Shape [..., bin] -> the same.
    """
    middle = (np.arange(SCORE_BINS) + 0.5) / SCORE_BINS
    unit = np.rint(isotonic.applied(calibration, middle) / CALIBRATED_UNIT).astype(np.int64)
    return np.asarray(counts * unit, np.int64)


def auc_gap(counts: Rows, sums: Rows, calibration: Sequence[tuple[float, float]]) -> float:
    """By how much at most the ROC AUC of every single row exceeds that of the bins. Shapes [..., decision, bin].

    Within a bin of n rows the order is lost. Calibrated probabilities rise with the score and differ within the bin by
    at most d, so the area lost is between 0 (all equal) and n^2 d / 8 (half of them at each end).
    """
    table = cbpe.expected(counts, sums)
    masses = float(table.positives.sum()) * float(table.negatives.sum())
    if masses <= 0.0:
        return 0.0
    rows = (table.positives + table.negatives).sum(axis=0)
    return float(np.dot(rows**2, _rise(calibration))) / (8.0 * masses)


def _rise(calibration: Sequence[tuple[float, float]]) -> Rows:
    """By how much calibrated probabilities differ within each score bin, rounding at its edges included."""
    edges = np.arange(SCORE_BINS + 1) / SCORE_BINS
    near = 1e-12
    ends = isotonic.applied(calibration, np.stack([edges[:-1] - near, edges[1:] + near]))
    return np.asarray(ends[1] - ends[0], np.float64)
