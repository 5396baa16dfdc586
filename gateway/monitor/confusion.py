"""How good a classifier is, from masses of positives and negatives per (decision, score bin). Pure.

A `Table` holds either labels that were counted or labels that are expected (`gateway.monitor.cbpe`): the metrics and
their standard errors are the same functions of both.

Standard errors say how far a metric of so many rows lies from the metric of endlessly many. Shares are binomial; F1 and
average precision by the delta method on multinomial cells; ROC AUC by DeLong et al. (1988), both classes. NannyML takes
only the smaller class for AUC and holds F1's denominator fixed: its AUC error is too small, its F1 error up to twice
too large.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]
METRICS: Final = ("accuracy", "precision", "recall", "specificity", "f1", "roc_auc", "average_precision")
LEAST_MASS: Final = 0.5
"""A share of less than half a row is not defined: a metric over it is left out rather than called 0."""


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """Masses of rows.

    Attributes:
        positives, negatives: [decision, bin], not negative; bins ascending in score.
        labelled: the masses are labels that were counted. Rows of a bin then tie, as they do for scikit-learn.
            Expected labels are spread over the rows of their bin.
    """

    positives: Floats
    negatives: Floats
    labelled: bool

    @property
    def true_positives(self) -> float:
        """Mass of positives that were decided 1."""
        return float(self.positives[1].sum())

    @property
    def false_positives(self) -> float:
        """Mass of negatives that were decided 1."""
        return float(self.negatives[1].sum())

    @property
    def false_negatives(self) -> float:
        """Mass of positives that were decided 0."""
        return float(self.positives[0].sum())

    @property
    def true_negatives(self) -> float:
        """Mass of negatives that were decided 0."""
        return float(self.negatives[0].sum())

    @property
    def rows(self) -> float:
        """Mass of all rows."""
        return float(self.positives.sum() + self.negatives.sum())

    def scaled(self, factors: tuple[float, float]) -> "Table":
        """The same with the rows of each decision class multiplied."""
        by = np.asarray(factors, np.float64)[:, None]
        return Table(self.positives * by, self.negatives * by, self.labelled)

    def descending(self) -> tuple[Floats, Floats]:
        """Positives and negatives from the highest score down; within a bin, decision 1 first: it has the higher."""
        return self.positives.T[::-1, ::-1].ravel(), self.negatives.T[::-1, ::-1].ravel()


def counted(labels: npt.NDArray[Any]) -> Table:
    """The table of labels that were counted. Shape [..., decision, bin, label], 1 = positive. Groups are added."""
    summed = labels.reshape(-1, *labels.shape[-3:]).sum(axis=0)
    return Table(summed[..., 1].astype(np.float64), summed[..., 0].astype(np.float64), labelled=True)


def metrics(table: Table) -> dict[str, float]:
    """Each of METRICS that is defined: one whose denominator is empty is left out."""
    tp, fp, fn, tn = table.true_positives, table.false_positives, table.false_negatives, table.true_negatives
    found = {
        "accuracy": _share(tp + tn, fp + fn),
        "precision": _share(tp, fp),
        "recall": _share(tp, fn),
        "specificity": _share(tn, fp),
        "f1": _share(tp, (fp + fn) / 2.0),
    }
    if min(tp + fn, fp + tn) >= LEAST_MASS:
        found["roc_auc"] = _roc_auc(*table.descending())
        found["average_precision"] = _average_precision(table)
    return {name: value for name, value in found.items() if not math.isnan(value)}


def standard_errors(table: Table) -> dict[str, float]:
    """One standard error of each metric that `metrics` gives, for that many rows."""
    tp, fp, fn, tn = table.true_positives, table.false_positives, table.false_negatives, table.true_negatives
    found = {
        "accuracy": _share_error(tp + tn, fp + fn),
        "precision": _share_error(tp, fp),
        "recall": _share_error(tp, fn),
        "specificity": _share_error(tn, fp),
        "f1": _f1_error(tp, fp + fn),
    }
    if min(tp + fn, fp + tn) >= LEAST_MASS:
        found["roc_auc"] = _roc_auc_error(*table.descending())
        found["average_precision"] = _average_precision_error(*table.descending())
    return {name: value for name, value in found.items() if not math.isnan(value)}


def interval(values: Mapping[str, float], errors: Mapping[str, float], times: float = 3.0) -> dict[str, list[float]]:
    """For each metric its value -+ so many standard errors, within [0, 1]."""
    return {
        name: [max(0.0, value - times * errors[name]), min(1.0, value + times * errors[name])]
        for name, value in values.items()
    }


def _share(good: float, bad: float) -> float:
    whole = good + bad
    return min(1.0, max(0.0, good / whole)) if whole >= LEAST_MASS else math.nan


def _share_error(good: float, bad: float) -> float:
    share = _share(good, bad)
    return math.sqrt(share * (1.0 - share) / (good + bad)) if not math.isnan(share) else math.nan


def _f1_error(hits: float, misses: float) -> float:
    """F1 = 2q / (1 + q) with q = hits / (hits + misses), so its error is 2 / (1 + q)^2 times that of q."""
    if math.isnan(_share(hits, misses / 2.0)):
        return math.nan
    return 2.0 / (1.0 + _share(hits, misses)) ** 2 * _share_error(hits, misses)


def _roc_auc(positives: Floats, negatives: Floats) -> float:
    above = np.cumsum(positives) - positives
    area = float(np.dot(negatives, above + positives / 2.0))
    return min(1.0, max(0.0, area / float(positives.sum() * negatives.sum())))


def _roc_auc_error(positives: Floats, negatives: Floats) -> float:
    p, n = float(positives.sum()), float(negatives.sum())
    auc = _roc_auc(positives, negatives)
    # Of a positive: the share of negatives below it. Of a negative: the share of positives above it.
    beaten = 1.0 - (np.cumsum(negatives) - negatives / 2.0) / n
    beaten_by = (np.cumsum(positives) - positives / 2.0) / p
    of_positives = float(np.dot(positives, (beaten - auc) ** 2)) / p
    of_negatives = float(np.dot(negatives, (beaten_by - auc) ** 2)) / n
    return math.sqrt(of_positives / p + of_negatives / n)


def _average_precision(table: Table) -> float:
    positives, negatives = table.descending()
    rows = positives + negatives
    hits, seen = np.cumsum(positives), np.cumsum(rows)
    if table.labelled:
        terms = positives * np.divide(hits, seen, out=np.zeros_like(hits), where=seen > 0.0)
    else:
        # Row k of a bin's n adds p (hits before + k p) / (rows before + k); summed, with H the harmonic numbers.
        share = np.divide(positives, rows, out=np.zeros_like(rows), where=rows > 0.0)
        before = seen - rows
        terms = share * (positives + (hits - positives - share * before) * (harmonic(seen) - harmonic(before)))
    return min(1.0, max(0.0, float(terms.sum()) / float(hits[-1])))


def _average_precision_error(positives: Floats, negatives: Floats) -> float:
    rows = positives + negatives
    hits, seen = np.cumsum(positives), np.cumsum(rows)
    precision = np.divide(hits, seen, out=np.zeros_like(hits), where=seen > 0.0)
    weight = np.divide(positives, seen, out=np.zeros_like(hits), where=seen > 0.0)
    total = float(hits[-1])
    value = float(np.dot(positives, precision)) / total
    # One more row at a place changes the precision there and at every lower score.
    of_negative = -_from_here(weight * precision) / total
    of_positive = (precision - value + _from_here(weight * (1.0 - precision))) / total
    return math.sqrt(float(np.dot(positives, of_positive**2) + np.dot(negatives, of_negative**2)))


def _from_here(values: Floats) -> Floats:
    return np.cumsum(values[::-1])[::-1]


_FEW: Final = 32
_FIRST: Final = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, _FEW))])


def harmonic(n: Floats) -> Floats:
    """1 + 1/2 + ... + 1/n of whole numbers, to 2e-15 of it: a table, and above it the series of DLMF 5.11.2."""
    whole = np.rint(n)
    large = np.maximum(whole, float(_FEW))
    square = 1.0 / (large * large)
    series = np.log(large) + np.euler_gamma + 0.5 / large - square * (1 / 12 - square * (1 / 120 - square / 252))
    return np.where(whole < _FEW, _FIRST[np.minimum(whole, _FEW - 1).astype(np.intp)], series)
