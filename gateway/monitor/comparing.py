"""The keys of a window: each feature, the score, and each kind of rows without data, against the reference. Pure."""

from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np

from gateway.monitor.counting import Counts, feature_counts
from gateway.monitor.distances import distances
from gateway.monitor.families import Key
from gateway.monitor.plan import (
    ABOVE,
    BELOW,
    INFINITE,
    MISSING,
    QUALITY,
    ROWS,
    TYPE_ERROR,
    UNSEEN,
    CountPlan,
    FeaturePlan,
)
from gateway.monitor.reference import Reference
from gateway.monitor.results import Compared
from gateway.monitor.scorebins import nested, nested_edges, nested_starts, score_counts
from gateway.monitor.significance import binomial_rise, homogeneity, rate_rise
from router.evidence.special import chi_square_above

SCORE: Final = "score"
_WORDS: Final[Mapping[str, tuple[int, ...]]] = {
    "numeric": (MISSING, BELOW, ABOVE, INFINITE, TYPE_ERROR),
    "text": (MISSING, BELOW, ABOVE, TYPE_ERROR),
    "categorical": (MISSING, INFINITE, UNSEEN, TYPE_ERROR),
    "boolean": (MISSING, INFINITE, TYPE_ERROR),
    "multivariate": (),
}
"""What can happen to a kind. Which keys there are must not depend on what did happen."""


def input_keys(reference: Reference, window: Counts, floor: float) -> tuple[list[Key], list[Compared]]:
    """A key for each feature, in the order of the plan: the law of its data bins. Args: floor, of PSI."""
    keys, found = [], []
    plan = reference.plan
    pairs = zip(feature_counts(plan, reference.counts), feature_counts(plan, window), strict=True)
    for index, ((feature, before, _), (_, now, quality)) in enumerate(pairs):
        one = compared(feature.name, before, now, quality, feature, reference.phi(index))
        found.append(one)
        keys.append(Key(feature.name, one.p_value, one.psi, floor))
    return keys, found


def prediction_keys(reference: Reference, window: Counts, floor: float) -> tuple[list[Key], Compared | None]:
    """The key of the score, in ten bins; none without a score. Args: floor, of PSI."""
    plan = reference.plan
    if plan.score is None:
        return [], None
    starts = nested_starts(plan, reference.counts)
    before, now = nested(plan, reference.counts, starts), nested(plan, window, starts)
    edges = plan.score.edges if plan.score.kind == "value" else nested_edges(plan, reference.counts, starts)
    as_feature = FeaturePlan(SCORE, "numeric", 0, -1, edges)
    one = compared(SCORE, before, now, _score_quality(plan, window), as_feature, reference.score_overdispersion)
    return [Key(SCORE, one.p_value, one.psi, floor)], one


def compared(name: str, before: Counts, now: Counts, quality: Counts, feature: FeaturePlan, phi: float) -> Compared:
    """Distances and test of one feature's data bins. Args: phi, see `significance.overdispersion`."""
    ordered = feature.ordered
    edges = np.asarray(feature.edges, np.float64) if ordered else None
    apart = distances(before, now, ordered, edges)
    test = homogeneity(before, now, ordered, phi)
    return Compared(
        name,
        int(now.sum()),
        test.p_value,
        test.degrees,
        apart.psi,
        apart.js,
        apart.hellinger,
        apart.tvd,
        apart.linf,
        apart.ks,
        apart.wasserstein,
        {word: int(count) for word, count in zip(QUALITY, quality, strict=True) if count},
        apart.chi_square,
        chi_square_above(apart.chi_square / max(1.0, phi), apart.groups - 1) if apart.groups > 1 else 1.0,
    )


def quality_keys(reference: Reference, window: Counts, floor: float) -> list[Key]:
    """A key for each way in which rows of a feature, or scores, can be no data: `feature:word`. Only more is worse.

    Args:
        floor: of the rise of a rate.
    """
    rows, rows_before = int(window[ROWS]), int(reference.counts[ROWS])
    keys = []
    for name, before, now in _quality_counts(reference.plan, reference.counts, window):
        counts = now, rows, before, rows_before
        keys.append(Key(name, binomial_rise(*counts), rate_rise(*counts), floor))
    return keys


def _quality_counts(plan: CountPlan, before: Counts, now: Counts) -> Iterator[tuple[str, int, int]]:
    pairs = zip(feature_counts(plan, before), feature_counts(plan, now), strict=True)
    for (feature, _, was), (_, _, is_now) in pairs:
        for at in _WORDS[feature.kind]:
            yield f"{feature.name}:{QUALITY[at]}", int(was[at]), int(is_now[at])
    if plan.score is not None:
        words = (MISSING, BELOW, ABOVE, INFINITE) if plan.score.kind == "value" else (MISSING,)
        was, is_now = _score_quality(plan, before), _score_quality(plan, now)
        for at in words:
            yield f"{SCORE}:{QUALITY[at]}", int(was[at]), int(is_now[at])


def _score_quality(plan: CountPlan, vector: Counts) -> Counts:
    """Bins of QUALITY of the score; of a probability, what has no bin is missing."""
    if plan.score is not None and plan.score.kind == "value":
        return vector[-len(QUALITY) :]
    found = np.zeros(len(QUALITY), np.int64)
    # A page is read while its worker counts: scores of a few rows may be there before the rows are.
    found[MISSING] = max(0, vector[ROWS] - score_counts(plan, vector).sum())
    return found
