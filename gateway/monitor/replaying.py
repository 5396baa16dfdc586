"""Rows of a table through the monitor, as if they had been asked one after the other. Pure; no clock.

It is the same engine and the same counting as in a running gateway; only the times are made up or taken from the data.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from gateway.monitor.confusion import counted, metrics
from gateway.monitor.counting import Counter, empty
from gateway.monitor.engine import Engine
from gateway.monitor.fit import Rows, label_counts
from gateway.monitor.reference import Reference
from gateway.monitor.results import WindowResult
from gateway.monitor.settings import Spec
from gateway.monitor.together import asked_for
from runtimes.tensors import Array

VARIANT: Final = "-"
_STEP_ROWS: Final = 100


@dataclass(frozen=True, slots=True)
class Replayed:
    """One closed window of a replay.

    Attributes:
        first, last: rows of the table, from 0; `last` is not part of it.
        realised: metrics of the window's labels; empty without labels.
    """

    result: WindowResult
    first: int
    last: int
    realised: dict[str, float]


def replay(reference: Reference, spec: Spec, rows: Rows, times_ms: npt.NDArray[np.int64]) -> list[Replayed]:
    """Windows that the rows close, in their order. What is left over at the end closes none.

    Args:
        rows: as the reference's model takes and gives them.
        times_ms: [rows] when each was asked; not falling.
    """
    reference = asked_for(reference, spec)
    engine, counter = Engine(reference, spec), Counter(reference.plan)
    groups = np.full(len(times_ms), len(reference.plan.groups)) if rows.groups is None else rows.groups
    found: list[Replayed] = []
    # Outputs that are not known are never looked at: the plan has no score of theirs.
    outputs = [np.zeros(len(times_ms)) if array is None else array for array in rows.outputs]
    first = 0
    engine.take(VARIANT, empty(reference.plan), int(times_ms[0]))
    step = step_rows(reference, spec)
    total = empty(reference.plan)
    for start in range(0, len(times_ms), step):
        part = slice(start, start + step)
        before = total.copy()
        counter.count(_parts(rows.inputs, part), [array[part] for array in outputs], groups[part], total)
        delta = total - before
        last = min(start + step, len(times_ms))
        for closed in engine.take(VARIANT, delta, int(times_ms[last - 1])):
            stop = first + closed.result.rows + closed.result.skipped
            realised = _realised(reference, rows, groups, slice(first, stop))
            found.append(Replayed(closed.result, first, stop, realised))
            first = stop
    return found


def step_rows(reference: Reference, spec: Spec) -> int:
    """Rows of one delta: so many that windows of rows close exactly."""
    limit = Engine(reference, spec).rule.limit
    return next((step for step in range(_STEP_ROWS, 0, -1) if limit % step == 0), 1) if limit else _STEP_ROWS


def _parts(arrays: Sequence[Array | None], part: slice) -> list[Array | None]:
    return [None if array is None else array[part] for array in arrays]


def _realised(reference: Reference, rows: Rows, groups: npt.NDArray[Any], part: slice) -> dict[str, float]:
    if rows.labels is None:
        return {}
    window = Rows(_parts(rows.inputs, part), _parts(rows.outputs, part), None, rows.labels[part])
    labels = label_counts(reference.plan, window, groups[part])
    return {} if labels is None else metrics(counted(labels))
