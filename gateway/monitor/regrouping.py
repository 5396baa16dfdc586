"""A reference whose groups are those of the monitor's document: counts are moved, none is made up. Pure."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

import msgspec
import numpy as np

from gateway.monitor.counting import Counts
from gateway.monitor.plan import SCORE_BINS
from gateway.monitor.reference import Reference, identified


def regrouped(reference: Reference, groups: Sequence[str]) -> Reference:
    """The same rows under other groups: those that the reference did not tell apart are everybody else.

    Its id is another one where the groups are: counts of both must not be added.
    """
    plan, wanted = reference.plan, tuple(groups)
    if plan.groups == wanted or not plan.score_values:
        return reference
    places = [*(wanted.index(name) if name in wanted else len(wanted) for name in plan.groups), len(wanted)]
    at, count = plan.score_at, plan.score_values
    parts = [reference.counts[at : at + count], reference.counts[at + count : at + 2 * count]]
    moved = [_moved(part.reshape(plan.group_count, 2, SCORE_BINS), places, len(wanted) + 1) for part in parts]
    counts = np.concatenate([reference.counts[:at], *chain(part.reshape(-1) for part in moved)])
    labels = None if reference.labels is None else _moved(reference.labels, places, len(wanted) + 1)
    return identified(
        replace(reference, plan=msgspec.structs.replace(plan, groups=wanted), counts=counts, labels=labels)
    )


def _moved(cells: Counts, places: Sequence[int], groups: int) -> Counts:
    found = np.zeros((groups, *cells.shape[1:]), np.int64)
    for row, place in zip(cells, places, strict=True):
        found[place] += row
    return found
