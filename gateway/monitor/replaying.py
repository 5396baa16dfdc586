"""Rows of a table through the monitor, as if they had been asked one after the other. Pure; no clock.

It is the same watching and the same counting as in a running gateway; only the times are made up or taken from the
data. When labels came a file does not say, so each judged window is one cohort that has matured.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from gateway.monitor.cbpe import scores_of
from gateway.monitor.columns import column_numbers
from gateway.monitor.confusion import counted, metrics
from gateway.monitor.counting import Counter, empty
from gateway.monitor.engine import Closed, Engine
from gateway.monitor.fit import Rows, label_counts
from gateway.monitor.realised import Cohort, Due, ErrorRun, Judged, in_label_bins, performance
from gateway.monitor.reference import Reference
from gateway.monitor.results import WindowResult
from gateway.monitor.settings import Spec
from gateway.monitor.together import asked_for
from gateway.monitor.watching import Watching
from gateway.monitor.words import Finding, Signal, State
from runtimes.tensors import Array

VARIANT: Final = "-"
BESIDE: Final[tuple[Signal, ...]] = ("performance_realised", "concept_drift", "fairness")
"""Signals that are no family of the window."""
_STEP_ROWS: Final = 100


@dataclass(frozen=True, slots=True)
class Replayed:
    """One closed window of a replay.

    Attributes:
        first, last: rows of the table, from 0; `last` is not part of it.
        realised: metrics of the window's labels; empty without labels.
        said: what is said of it BESIDE the families of the result, by signal.
        began: those of `said` that did not fire before and do now.
    """

    result: WindowResult
    first: int
    last: int
    realised: dict[str, float]
    said: dict[Signal, Finding] = field(default_factory=dict)
    began: tuple[Signal, ...] = ()


def replay(reference: Reference, spec: Spec, rows: Rows, times_ms: npt.NDArray[np.int64]) -> list[Replayed]:
    """Windows that the rows close, in their order. What is left over at the end closes none.

    Args:
        rows: as the reference's model takes and gives them.
        times_ms: [rows] when each was asked; not falling.
    """
    reference = asked_for(reference, spec)
    watching, counter = Watching("", reference, spec), Counter(reference.plan)
    groups = np.full(len(times_ms), len(reference.plan.groups)) if rows.groups is None else rows.groups
    found: list[Replayed] = []
    states: dict[Signal, State] = {}
    # Outputs that are not known are never looked at: the plan has no score of theirs.
    outputs = [np.zeros(len(times_ms)) if array is None else array for array in rows.outputs]
    first = 0
    watching.take(VARIANT, empty(reference.plan), int(times_ms[0]))
    total = empty(reference.plan)
    last = 0
    while last < len(times_ms):
        start = last
        closes = watching.take(VARIANT, empty(reference.plan), int(times_ms[start]))
        last = _last(watching.engine, times_ms, start)
        part = slice(start, last)
        before = total.copy()
        counter.count(_parts(rows.inputs, part), [array[part] for array in outputs], groups[part], total)
        delta = total - before
        for closed in closes + watching.take(VARIANT, delta, int(times_ms[last - 1])):
            stop = first + closed.result.rows + closed.result.skipped
            window = _part(rows, groups, slice(first, stop))
            said = {one.signal: one for one in _said(watching, closed, window) if one.signal in BESIDE}
            began = tuple(name for name, one in said.items() if _fires(one.state) and not _fires(states.get(name)))
            states |= {name: one.state for name, one in said.items()}
            found.append(Replayed(closed.result, first, stop, _realised(reference, window), said, began))
            first = stop
    return found


def _fires(state: State | None) -> bool:
    return state == "firing"


def _last(engine: Engine, times_ms: npt.NDArray[np.int64], start: int) -> int:
    """Where a delta of rows from `start` ends, so that no window closes in its midst."""
    rule, due_ms = engine.rule, engine.due_ms(VARIANT)
    last, rows = min(start + _STEP_ROWS, len(times_ms)), rule.limit
    if due_ms is not None and times_ms[start] < due_ms:
        last = min(last, int(np.searchsorted(times_ms, due_ms)))
    elif due_ms is not None:
        # Its time is over and it is open: it waits for rows that are enough.
        rows = min(rule.limit, rule.min_rows)
    return min(last, start + rows - engine.open_rows(VARIANT)) if rows else last


def _parts(arrays: Sequence[Array | None], part: slice) -> list[Array | None]:
    return [None if array is None else array[part] for array in arrays]


def _part(rows: Rows, groups: npt.NDArray[Any], part: slice) -> Rows:
    labels = None if rows.labels is None else rows.labels[part]
    return Rows(_parts(rows.inputs, part), _parts(rows.outputs, part), groups[part], labels)


def _realised(reference: Reference, window: Rows) -> dict[str, float]:
    assert window.groups is not None, "everybody has one"
    labels = label_counts(reference.plan, window, window.groups)
    return {} if labels is None else metrics(counted(labels))


# ---- what is said beside the families ----


def _said(watching: Watching, closed: Closed, window: Rows) -> Iterator[Finding]:
    """Of groups by their decisions, and of labels, with the time of the window."""
    yield from watching.findings([closed], closed.result.closed_ms)
    plan, result = watching.reference.plan, closed.result
    assert window.groups is not None, "everybody has one"
    labels = None if result.reason else label_counts(plan, window, window.groups)
    if labels is None:
        return
    cohort = Cohort.empty(plan.group_count)
    cohort.predicted += scores_of(plan, closed.counts)[0].sum(axis=2)
    cohort.labels += in_label_bins(labels)
    # A cohort's start only has to grow: windows of a file may begin in one second.
    due = _due(watching, cohort, window, result.index)
    span_s = max(1, (result.closed_ms - result.opened_ms) // 1000)
    times = {"window_from_s": result.opened_ms / 1000, "window_to_s": result.closed_ms / 1000}
    for one in watching.matured(due, lambda start_s, variant: cohort, lambda start_s: start_s + span_s):
        yield msgspec.structs.replace(one, **times)


def _due(watching: Watching, cohort: Cohort, window: Rows, start_s: int) -> Due:
    """What can be said of a cohort, as `Cohorts.due` decides it."""
    coverage, least = cohort.coverage(), watching.spec.labels.min_coverage
    found = performance(cohort, min_coverage=least)
    judged = [Judged(start_s, VARIANT, found, coverage)] if found.state == "ok" else []
    runs = _runs(watching.reference, window, start_s)
    return Due(judged, [run for run in runs if run.rows and coverage[run.decision] >= least])


def _runs(reference: Reference, window: Rows, start_s: int) -> list[ErrorRun]:
    """Errors of each decision, row by row in the order of the file."""
    score = reference.plan.score
    assert score is not None, "labels are counted by the score"
    assert window.labels is not None, "they were counted"
    array = window.outputs[score.output]
    assert array is not None, "a plan's score was given"
    scores = column_numbers(array, score.column, score.bf16)
    known = np.isfinite(scores) & np.isfinite(window.labels)
    decided, labels = scores[known] >= score.threshold, window.labels[known] == 1
    found = []
    for decision in (0, 1):
        wrong = (decided != labels)[decided == bool(decision)].astype(int).tolist()
        found.append(ErrorRun(start_s, VARIANT, decision, tuple(wrong), (1,) * len(wrong)))
    return found
