"""Groups that are decided alike and for whom other things come true: only labels show it."""

from collections.abc import Sequence

import msgspec
import numpy as np
import pytest

from gateway.monitor.counting import Counter, Counts, empty
from gateway.monitor.engine import Closed
from gateway.monitor.plan import ROWS as ROWS_AT
from gateway.monitor.realised import Labelled
from gateway.monitor.reference import Binding, Reference, identified
from gateway.monitor.settings import Groups, Labels, Spec
from gateway.monitor.watching import Watching
from gateway.monitor.words import Finding
from tests.monitor.test_tap import GROUPS, plan_of

HOUR_S = 3_600
ROWS = 500
"""Of each group and decision class, in each cohort."""


def watching() -> Watching:
    plan = plan_of(GROUPS)
    spec = Spec(groups=Groups(header="x-group", values=GROUPS), labels=Labels(mature_after_ms=4 * HOUR_S * 1000))
    return Watching("1", identified(Reference(plan, empty(plan), Binding("x", (), ()))), spec)


def cohort(watched: Watching, hour: int, shares: tuple[float, float], closed: Sequence[Closed] = ()) -> Finding:
    """One span: all are decided alike, of group g a share is repaid of those that were decided 1; then it matures.

    Args:
        closed: windows that close with it.
    """
    at = hour * HOUR_S + 1.0
    watched.cohorts.advance(at)
    for group, share in enumerate(shares):
        for decision, positive in ((0, 0.2), (1, share)):
            for k in range(ROWS):
                truth = int(k < positive * ROWS)
                watched.cohorts.predict(at, "stable", _one(group, decision))
                watched.label(Labelled(at, at + 60, "stable", group, decision, 10, truth), round(at * 1000))
    found = watched.findings(closed, round((at + 6 * HOUR_S) * 1000))
    (said,) = [one for one in found if one.signal == "fairness"]
    return said


def _one(group: int, decision: int) -> Counts:
    counts = np.zeros((3, 2), np.int64)
    counts[group, decision] = 1
    return counts


def test_a_gap_by_labels_fires_at_the_second_of_three_cohorts_and_names_the_group() -> None:
    watched = watching()
    assert cohort(watched, 0, (0.8, 0.8)).state == "ok"
    assert cohort(watched, 1, (0.8, 0.4)).state == "pending"
    said = cohort(watched, 2, (0.8, 0.4))
    assert (said.state, said.variant, said.keys) == ("firing", "stable", (GROUPS[1],))
    assert "by labels the" in said.text
    shown = {one["group"]: one for one in watched.exported_gaps("stable")}
    # Of 500 decided 1 and 500 decided 0 per group: TPR = 400/(400+100) and 200/(200+100).
    assert shown[GROUPS[0]]["tpr"] == pytest.approx(0.8)
    assert shown[GROUPS[1]]["tpr"] == pytest.approx(2 / 3)
    assert shown[GROUPS[1]]["tpr_gap"] == pytest.approx(2 / 3 - 0.8)


def test_it_goes_on_after_a_restart() -> None:
    watched = watching()
    for hour, share in ((0, 0.8), (1, 0.4)):
        cohort(watched, hour, (0.8, share))
    again = watching()
    again.restore(msgspec.msgpack.decode(msgspec.msgpack.encode(watched.state())))
    assert cohort(again, 2, (0.8, 0.4)) == cohort(watched, 2, (0.8, 0.4))


def test_groups_of_a_model_without_a_probability_are_not_compared() -> None:
    plan = msgspec.structs.replace(plan_of(GROUPS), score=None)
    spec = Spec(groups=Groups(header="x-group", values=GROUPS), min_rows=1)
    rows = empty(plan)
    rows[ROWS_AT] = 10
    watched = Watching("1", identified(Reference(plan, rows * 10_000, Binding("x", (), ()))), spec)
    watched.take("-", empty(plan), 0)
    closed = watched.take("-", rows * 1_000, 1_000)
    assert closed
    assert all(one.signal != "fairness" for one in watched.findings(closed, 1_000))


def test_a_window_and_a_cohort_that_close_together_are_one_word() -> None:
    watched = watching()
    rows = empty(watched.reference.plan)
    values = np.random.default_rng(1).random((4_000, 2))
    score = values[:, :1]
    Counter(watched.reference.plan).count([values], [score], np.arange(4_000) % 2, rows)
    watched.take("stable", empty(watched.reference.plan), 0)
    closed = watched.take("stable", rows, 1_000)
    assert [one.signal for one in watched.findings(closed, 1_000)].count("fairness") == 1
    cohort(watched, 1, (0.8, 0.4), watched.take("stable", rows, 2_000))
