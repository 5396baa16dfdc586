"""What a reference knows of its features together: components, bins of the error, and counts of its rows in them. Pure.

It is kept beside the plan, and is part of it only where the owner asks (`gateway.monitor.together`).
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Final

import msgspec
import numpy as np

from gateway.monitor.plan import CountPlan, FeaturePlan, MultivariatePlan

KINDS: Final = ("numeric", "categorical", "boolean")
"""Of features that have a column. Lengths of texts have none: they say little of what a text is."""
MAX_COLUMNS: Final = 200
"""A row costs at most the square of them; beyond, a reference has none."""


class Multivariate(msgspec.Struct, frozen=True, array_like=True):
    """The part of a reference that is asked for by `spec.multivariate`.

    Attributes:
        plan: how the error of a row is made.
        edges: of its bins, the first 0; the last bin holds whatever is larger than any of the reference.
        counts: of each bin: rows of the reference that the components were not made from.
        overdispersion: at least 1, as of a feature.
    """

    plan: MultivariatePlan
    edges: tuple[float, ...]
    counts: tuple[int, ...]
    overdispersion: float = 1.0


def problems(found: Multivariate, plan: CountPlan) -> Iterator[str]:
    """What of it cannot be beside a plan, first things first."""
    made, columns = found.plan, len(found.plan.features)
    if not 2 <= columns <= MAX_COLUMNS or len(set(made.features)) != columns:
        yield f"expected 2 to {MAX_COLUMNS} columns, each once, got {columns:,}"
        return
    if any(not 0 <= at < len(plan.features) or plan.features[at].kind not in KINDS for at in made.features):
        yield "a column is of no feature that can have one"
        return
    sizes = [_categories(plan.features[at]) for at in made.features]
    rows = (made.fill, made.centre, *made.weights)
    if [len(one) for one in made.shares] != sizes or any(len(one) != columns for one in rows):
        yield "expected as many numbers as columns and categories"
    elif not all(np.isfinite(one).all() for one in (*made.shares, *rows, found.edges)):
        yield "expected finite numbers"
    if len(found.edges) != len(found.counts) + 1 or not all(low < high for low, high in pairwise(found.edges)):
        yield "expected ascending edges, one more than counts"
    if not found.counts or min(found.counts) < 0 or not 0.0 < made.sample <= 1.0 or not found.overdispersion >= 1.0:
        yield "expected counts, a sample and an overdispersion"


def _categories(feature: FeaturePlan) -> int:
    return len(feature.values) + len(feature.others) if feature.kind == "categorical" else 0
