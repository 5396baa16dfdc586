"""The keys of a window: each feature, the score, and each kind of rows without data, against the reference. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True, eq=False)
class Binned:
    """What a comparison is made of: from equal ones comes the same `Compared`, bit for bit.

    Attributes:
        before, now: rows of the reference and of the window in each data bin.
        quality: rows of the window that are no data, by word of `plan.QUALITY`.
        edges: of ordered bins; () = categories.
        phi: see `significance.overdispersion`.
    """

    name: str
    before: Counts
    now: Counts
    quality: Counts
    edges: tuple[float, ...]
    phi: float


def input_keys(reference: Reference, window: Counts, floor: float) -> tuple[list[Key], list[Compared]]:
    """A key for each feature, in the order of the plan: the law of its data bins. Args: floor, of PSI."""
    found = [compared(one) for one in input_bins(reference, window)]
    return [drift_key(one, floor) for one in found], found


def input_bins(reference: Reference, window: Counts) -> Iterator[Binned]:
    """Each feature, in the order of the plan."""
    plan = reference.plan
    pairs = zip(feature_counts(plan, reference.counts), feature_counts(plan, window), strict=True)
    for index, ((feature, before, _), (_, now, quality)) in enumerate(pairs):
        yield Binned(feature.name, before, now, quality, feature.edges, reference.phi(index))


def prediction_keys(reference: Reference, window: Counts, floor: float) -> tuple[list[Key], Compared | None]:
    """The key of the score, in ten bins; none without a score. Args: floor, of PSI."""
    binned = score_bins(reference, window)
    if binned is None:
        return [], None
    one = compared(binned)
    return [drift_key(one, floor)], one


def score_bins(reference: Reference, window: Counts) -> Binned | None:
    """The score in ten bins; None = there is none."""
    plan = reference.plan
    if plan.score is None:
        return None
    starts = nested_starts(plan, reference.counts)
    before, now = nested(plan, reference.counts, starts), nested(plan, window, starts)
    edges = plan.score.edges if plan.score.kind == "value" else nested_edges(plan, reference.counts, starts)
    return Binned(SCORE, before, now, _score_quality(plan, window), edges, reference.score_overdispersion)


def drift_key(one: Compared, floor: float) -> Key:
    """The key of a feature or the score. Args: floor, of PSI."""
    return Key(one.name, one.p_value, one.psi, floor)


def compared(one: Binned) -> Compared:
    """Distances and test of one feature's data bins."""
    ordered = bool(one.edges)
    edges = np.asarray(one.edges, np.float64) if ordered else None
    apart = distances(one.before, one.now, ordered, edges)
    test = homogeneity(one.before, one.now, ordered, one.phi)
    return Compared(
        one.name,
        int(one.now.sum()),
        test.p_value,
        test.degrees,
        apart.psi,
        apart.js,
        apart.hellinger,
        apart.tvd,
        apart.linf,
        apart.ks,
        apart.wasserstein,
        {word: int(count) for word, count in zip(QUALITY, one.quality, strict=True) if count},
        apart.chi_square,
        chi_square_above(apart.chi_square / max(1.0, one.phi), apart.groups - 1) if apart.groups > 1 else 1.0,
    )


def quality_keys(reference: Reference, window: Counts, floor: float) -> list[Key]:
    """A key for each way in which rows of a feature, or scores, can be no data: `feature:word`. Only more is worse.

    Args:
        floor: of the rise of a rate.
    """
    rows = int(window[ROWS]), int(reference.counts[ROWS])
    return [quality_key(*one, *rows, floor) for one in quality_counts(reference.plan, reference.counts, window)]


def quality_key(name: str, before: int, now: int, rows: int, rows_before: int, floor: float) -> Key:
    """The key of one way to be no data: of the reference's rows it had `before`, of the window's `now`."""
    counts = now, rows, before, rows_before
    return Key(name, binomial_rise(*counts), rate_rise(*counts), floor)


def quality_counts(plan: CountPlan, before: Counts, now: Counts) -> Iterator[tuple[str, int, int]]:
    """(`feature:word`, rows in `before`, rows in `now`), in the order of the keys."""
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
