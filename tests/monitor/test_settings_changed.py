"""A changed document: what was seen stays, and is judged by what the document says now; so it is after a restart."""

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest

from gateway.control.monitors import Monitors
from gateway.monitor.book import ModelMonitor, Roles
from gateway.monitor.counting import Counter, Counts, empty
from gateway.monitor.plan import SCORE_BINS, CountPlan, FeaturePlan, ScorePlan
from gateway.monitor.realised import Labelled
from gateway.monitor.reference import Binding, Reference, identified
from gateway.monitor.settings import Floors, Groups, Labels, Spec, Window
from gateway.monitor.words import State
from tests.monitor.test_monitors_loop import monitors_on

GROUPS = ("f", "m")
PLAN = CountPlan(
    "",
    (FeaturePlan("a", "numeric", 0, 0, (0.0, 0.5, 1.0)),),
    ScorePlan(0, -1, "probability", calibration=((0.0, 0.0), (1.0, 1.0))),
    GROUPS,
)
ALONE = ("1", "-")
ROLES = Roles(champion=ALONE, live=frozenset({ALONE}))
HIGH = Floors(performance_drop=0.5, disparate_impact=0.01)
LOW = Floors(performance_drop=0.02, disparate_impact=0.8)
HOUR_MS = 3_600_000
Judged = Callable[[ModelMonitor, int], State]
"""Gives a model a window, the at-th, and says what it comes to."""


def spec(floors: Floors) -> Spec:
    groups, labels = Groups(header="x-group", values=GROUPS), Labels(mature_after_ms=HOUR_MS)
    return Spec(window=Window(rows=1_000), groups=groups, labels=labels, floors=floors)


def counts(rng: np.random.Generator, rows: int, sure: float, shares: tuple[float, float] = (0.5, 0.5)) -> Counts:
    """Rows whose scores are `sure` of the decision; of each group a share is decided 1."""
    vector, of = empty(PLAN), np.arange(rows) % 2
    decided = rng.random(rows) < np.take(shares, of)
    scores = np.where(decided, sure, 1 - sure).reshape(-1, 1)
    Counter(PLAN).count([rng.random((rows, 1))], [scores], of, vector)
    return vector


def reference() -> Reference:
    labels = np.zeros((3, 2, SCORE_BINS, 2), np.int64)
    for decision in (0, 1):
        labels[0, decision, 50 + 900 * decision, decision] = 9_500
        labels[0, decision, 50 + 900 * decision, 1 - decision] = 500
    held_out = counts(np.random.default_rng(1), 50_000, 0.95)
    return identified(Reference(PLAN, held_out, Binding("x", (), ()), labels=labels))


def model(floors: Floors) -> ModelMonitor:
    found = ModelMonitor("m", spec(floors))
    found.watch({"1": reference()})
    return found


def estimated(one: ModelMonitor, at: int) -> State:
    one.turn([(*ALONE, counts(np.random.default_rng(at), 1_000, 0.8))], ROLES, at * HOUR_MS)
    return one.board.arm(*ALONE, at * 3_600).states["performance_estimated"]


def unfair(one: ModelMonitor, at: int) -> State:
    one.turn([(*ALONE, counts(np.random.default_rng(at), 1_000, 0.95, (0.2, 0.6)))], ROLES, at * HOUR_MS)
    return one.board.arm(*ALONE, at * 3_600).states["fairness"]


def realised(one: ModelMonitor, at: int) -> State:
    """A cohort of which 80 % were right, where 95 % of the reference's are."""
    came_s = at * 3_600.0
    one.turn([(*ALONE, counts(np.random.default_rng(at), 999, 0.95))], ROLES, at * HOUR_MS)
    for k in range(999):
        decision = k % 2
        truth = decision if k % 10 < 8 else 1 - decision
        one.label("1", Labelled(came_s, came_s, "-", 0, decision, 12 + 225 * decision, truth), at * HOUR_MS)
    found = one.turn([], ROLES, (at + 2) * HOUR_MS).findings
    return next(finding.state for finding in found if finding.signal == "performance_realised")


def applied_spec(before: ModelMonitor, after: Spec) -> ModelMonitor:
    monitors: Monitors = monitors_on(None)
    monitors._put("m", before.spec, 1, None)
    monitors.held["m"].monitor = before
    monitors._put("m", after, 2, None)
    return monitors.held["m"].monitor


def applied(before: ModelMonitor, floors: Floors) -> ModelMonitor:
    return applied_spec(before, spec(floors))


def restarted(before: ModelMonitor, floors: Floors) -> ModelMonitor:
    """The document was changed while nobody ran."""
    after = model(floors)
    after.restore(msgspec.msgpack.decode(msgspec.msgpack.encode(before.state())))
    return after


CHANGES: Any = pytest.mark.parametrize("change", [applied, restarted])
SIGNALS: Any = pytest.mark.parametrize("judged", [estimated, unfair, realised])


@CHANGES
@SIGNALS
def test_a_lower_floor_is_in_force_from_the_next_window_on(judged: Judged, change: Any) -> None:
    one = model(HIGH)
    assert judged(one, 0) == "ok"
    one = change(one, LOW)
    assert [judged(one, at) for at in (4, 8)] == ["pending", "firing"]


@CHANGES
@SIGNALS
def test_so_is_a_higher_one_and_what_was_seen_stays(judged: Judged, change: Any) -> None:
    one = model(LOW)
    assert [judged(one, at) for at in (0, 4)] == ["pending", "firing"]
    one = change(one, HIGH)
    assert [judged(one, at) for at in (8, 12)] == ["firing", "resolved"], "the alarm of before needs two clean windows"
