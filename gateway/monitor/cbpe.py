"""Performance without labels: what a calibrated score says of its own correctness (CBPE). Pure.

If calibrated probabilities are right, a row with probability p that was decided 1 is a true positive with mass p and a
false positive with mass 1 - p. So the counts of scores per (group, decision, bin) and the sum of calibrated
probabilities of each such cell, which a plan counts anyway, are all that an estimate needs; both add exactly over
workers, nodes and time. Source: NannyML, "Confidence-based Performance Estimation".

It sees what a change of the inputs does. It is blind to a changed meaning of the inputs (concept drift) and to inputs
the calibration has never seen. So an estimate is never called accuracy without the word estimated, is withheld where it
cannot be trusted, and acts on no traffic.

Precision against the form that keeps every row: accuracy and all shares 1e-9 (a row's probability is rounded to 2^-32);
ROC AUC is too low by what the order within bins adds: below 1e-6 for scores spread over [0, 1], more where they crowd
into few bins (base rate 20 %: 3e-6; 2 %: 1e-4), which is far below its standard error.
"""

from collections.abc import Sequence
from typing import Final, Literal

import msgspec
import numpy as np

from gateway.monitor.confusion import Counts, Table, metrics, standard_errors
from gateway.monitor.plan import (
    ABOVE,
    BELOW,
    CALIBRATED_UNIT,
    INFINITE,
    ROWS,
    SCORE_BINS,
    UNSEEN,
    CountPlan,
)

MOST_OUTSIDE: Final = 0.05
"""Share of rows outside the reference above which calibration is not trusted."""
MIN_ROWS: Final = 200
RANKED: Final = ("roc_auc", "average_precision")
"""Metrics of the order of rows, which bins keep only so far."""
Basis = Literal["estimated", "realised"]
State = Literal["ok", "untrusted", "insufficient", "selective_labels"]
Points = Sequence[tuple[float, float]]


class Performance(msgspec.Struct, frozen=True):
    """How good a version was in one window, or why that is not known.

    Attributes:
        state: only "ok" is the performance of all rows. "selective_labels": only what holds within a decision class.
        reason: few_rows | no_calibrator | outside_reference | few_labels | low_coverage | unsettled; "" = none.
        rows: whose decisions, or labels, these are.
        values: by metric; empty where the state is untrusted or insufficient.
        errors: one standard error of each value.
    """

    basis: Basis
    state: State
    reason: str
    rows: int
    values: dict[str, float] = {}
    errors: dict[str, float] = {}


def scores_of(plan: CountPlan, vector: Counts) -> tuple[Counts, Counts]:
    """Counts of scores and calibrated sums of a plan's vector, each [group, decision, bin].

    The plan has a score of kind "probability".
    """
    assert plan.score_values, "a performance is estimated from the probability of a class"
    shape = (plan.group_count, 2, SCORE_BINS)
    begin, middle = plan.score_at, plan.score_at + plan.score_values
    return vector[begin:middle].reshape(shape), vector[middle : middle + plan.score_values].reshape(shape)


def expected(counts: Counts, sums: Counts) -> Table:
    """The table of expected labels. Shapes [..., decision, bin] of int64; sums in units of 2^-32. Groups are added."""
    rows = counts.reshape(-1, *counts.shape[-2:]).sum(axis=0)
    positives = sums.reshape(-1, *sums.shape[-2:]).sum(axis=0).astype(np.float64) * CALIBRATED_UNIT
    # Rounding may take a sum over its count by some units.
    positives = np.clip(positives, 0.0, rows)
    return Table(positives, rows - positives, labelled=False)


def estimate(
    counts: Counts, sums: Counts, *, calibration: Points, outside: float, min_rows: int = MIN_ROWS
) -> Performance:
    """What the performance is likely to be.

    Args:
        counts, sums: as `scores_of`, or of one group alone.
        calibration: of the plan's score; empty = none.
        outside: share of rows outside the reference: `outside_reference`.

    Returns:
        State "untrusted" without values, or "ok".
    """
    rows = int(counts.sum())
    reason = _doubt(rows, calibration, outside, min_rows)
    if reason:
        return Performance("estimated", "untrusted", reason, rows)
    table = expected(counts, sums)
    return Performance("estimated", "ok", "", rows, metrics(table), standard_errors(table))


def _doubt(rows: int, calibration: Points, outside: float, min_rows: int) -> str:
    if not calibration:
        return "no_calibrator"
    if rows < max(1, min_rows):
        return "few_rows"
    return "outside_reference" if not outside <= MOST_OUTSIDE else ""


def outside_reference(plan: CountPlan, vector: Counts) -> float:
    """Share of rows that the reference knows nothing about: the largest over the features and the score.

    A lower bound of the share of rows that are outside in some feature, which counts per feature do not tell.
    """
    rows = int(vector[ROWS])
    if not rows:
        return 0.0
    shares = [0.0]
    begin = plan.feature_at(0)
    for feature in plan.features:
        quality = vector[begin + feature.bins : begin + feature.width]
        shares.append(int(quality[[BELOW, ABOVE, INFINITE, UNSEEN]].sum()) / rows)
        begin += feature.width
    if plan.score_values:
        counts, _ = scores_of(plan, vector)
        assert plan.score is not None, "it has score values"
        shares.append(outside_scores(counts, plan.score.calibration))
    return max(shares)


def outside_scores(counts: Counts, calibration: Points) -> float:
    """Share of rows in score bins that lie wholly outside the calibrated range. Shape [..., bin]."""
    rows = int(counts.sum())
    if not calibration or not rows:
        return 0.0
    edges = np.arange(SCORE_BINS + 1) / SCORE_BINS
    known = (edges[1:] >= calibration[0][0]) & (edges[:-1] <= calibration[-1][0])
    return int(counts[..., ~known].sum()) / rows
