"""Labels that stop coming: coverage falls to 0, and what labels said once is not said for ever."""

import re

import msgspec
import numpy as np
import pytest

from gateway.control.monitorbins import drawn
from gateway.control.monitorheld import Held
from gateway.control.monitorpage import page_of
from gateway.control.monitorviews import facts, view
from gateway.monitor.book import ModelMonitor, Roles
from gateway.monitor.counting import empty
from gateway.monitor.explaining import explained
from gateway.monitor.plan import SCORE_BINS
from gateway.monitor.realised import Labelled
from gateway.monitor.reference import Binding, Reference, identified
from gateway.monitor.settings import Labels, Spec
from gateway.monitor.watching import Watching
from tests.monitor.test_tap import plan_of

HOUR_S = 3_600
SERIES = ("1", "-")
ROLES = Roles(champion=SERIES, live=frozenset({SERIES}))
ROWS = 400
"""Of each decision class, in each cohort."""


class World:
    """A model whose cohorts last an hour and mature after four."""

    def __init__(self) -> None:
        plan = plan_of(())
        labels = np.zeros((plan.group_count, 2, SCORE_BINS, 2), np.int64)
        labels[0, 0, 40], labels[0, 1, 40] = (800, 200), (200, 800)
        reference = identified(Reference(plan, empty(plan), Binding("x", (), ()), labels=labels))
        self.spec = Spec(labels=Labels(mature_after_ms=4 * HOUR_S * 1000))
        self.monitor = ModelMonitor("m", self.spec)
        self.monitor.watch({"1": reference})
        self.hour = 0
        self.watched.take("-", empty(plan), 0)

    @property
    def watched(self) -> Watching:
        return self.monitor.versions["1"]

    def cohort(self, right: float, share: float = 1.0) -> None:
        """One hour: a share of the predictions gets its label, and so many of those were right; then it matures."""
        at = self.hour * HOUR_S + 1.0
        self.hour += 1
        self.watched.cohorts.advance(at)
        self.watched.cohorts.predict(at, "-", np.array([[ROWS, ROWS]]))
        for decision in (0, 1):
            for k in range(int(share * ROWS)):
                truth = decision if k < right * share * ROWS else 1 - decision
                self.watched.label(Labelled(at, at + 60, "-", 0, decision, 10, truth), round(at * 1000))
        self.monitor.turn([], ROLES, self.now_ms)

    @property
    def now_ms(self) -> int:
        return (self.hour + 4) * HOUR_S * 1000

    def states(self) -> dict[str, str]:
        wanted = ("performance_realised", "concept_drift")
        return {one.signal: one.state for one in self.monitor.board.latest if one.signal in wanted}

    def coverage(self) -> list[tuple[str | float, ...]]:
        held = {"m": Held(self.spec, self.monitor, roles=ROLES)}
        shown = facts(held, {}, {}, {}, dropped=0, overhead_s=0.0, leads=True, now_ms=self.now_ms)
        return list(shown.label_coverage_ratio)

    def page(self) -> str:
        """Words of the report, a bar between cells."""
        held = Held(self.spec, self.monitor, roles=ROLES)
        found = view("m", held, leads=True, away="", now_ms=self.now_ms)
        about = {"1": explained(self.watched.reference, self.spec)}
        text = page_of(found, about, drawn(held, found), self.now_ms / 1000)
        return re.sub(r"<[^>]+>", "|", text).replace("||", "|")


OK = {"performance_realised": "ok", "concept_drift": "ok"}


def test_coverage_is_that_of_the_newest_cohort_that_has_matured() -> None:
    world = World()
    assert world.coverage() == []
    world.cohort(0.8)
    assert world.coverage() == [("m", "1", "-", 1.0)]
    world.cohort(0.8, share=0.25)
    assert world.coverage() == [("m", "1", "-", 0.25)]
    world.cohort(0.8, share=0.0)
    assert world.coverage() == [("m", "1", "-", 0.0)]
    world.watched.cohorts.predict(world.hour * HOUR_S + 1.0, "-", np.array([[ROWS, ROWS]]))
    assert world.coverage() == [("m", "1", "-", 0.0)], "the newest is too young"


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5])
def test_after_two_cohorts_with_too_few_labels_what_was_said_is_not_known_any_more(share: float) -> None:
    world = World()
    world.cohort(0.8)
    assert world.states() == OK
    world.cohort(0.8, share=share)
    assert world.states() == OK, "labels may be late"
    world.cohort(0.8, share=share)
    assert world.states() == dict.fromkeys(OK, "insufficient")
    (said,) = [one for one in world.monitor.board.latest if one.signal == "performance_realised"]
    assert f"in the newest one {share:.0%} of decision 0 and {share:.0%} of decision 1" in said.text
    assert world.monitor.turn([], ROLES, world.now_ms + 1).findings == (), "once for each span"
    world.cohort(0.8)
    assert world.states() == OK


def test_the_report_calls_judged_what_was_and_tells_labels_from_predictions() -> None:
    world = World()
    world.cohort(0.7, share=0.75)
    world.cohort(0.7, share=0.0)
    world.hour += 6
    world.cohort(0.9)
    world.hour -= 4  # the last one has all its labels, and is too young
    page = world.page()
    assert "Labels of the last judged cohort, 800 predictions from 1970-01-01 00:00:00 UTC: 75.0% of decision 0" in page
    assert "|1970-01-01 08:00:00 UTC|800|800|100.0%|100.0%|0.9000 ± " in page
    assert [line for line in ("too young to be judged", "too few labels", "judged") if f"|{line}|" not in page] == []
    assert "|1970-01-01 01:00:00 UTC|800|0|0.0%|0.0%|-|too few labels|" in page
    last = r"came true, last cohort.*?\|accuracy\|0\.8000 ± [0-9.]+\|-\|0\.7000 ± "
    assert re.search(last, page, re.DOTALL), "of a judged cohort"


def test_an_alarm_is_not_over_because_labels_stop() -> None:
    world = World()
    for right in (0.8, 0.8, 0.4, 0.4):
        world.cohort(right)
    firing = dict.fromkeys(OK, "firing")
    assert world.states() == firing
    world.cohort(0.8)
    assert world.states() == firing, "one good cohort is not enough"
    assert re.search(r"performance realised\|.?firing\|accuracy, precision", world.page())
    before = world.monitor.ledger.open
    for _ in range(4):
        world.cohort(0.8, share=0.0)
    assert world.states() == firing
    after = world.monitor.ledger.open
    assert before is not None
    assert after is not None
    assert after.alarms == before.alarms


def test_a_restart_does_not_make_what_is_not_known_well() -> None:
    world = World()
    for share in (1.0, 0.0, 0.0):
        world.cohort(0.8, share)
    state = msgspec.msgpack.decode(msgspec.msgpack.encode(world.monitor.state()))
    reference = world.watched.reference
    world.monitor = ModelMonitor("m", world.spec)
    world.monitor.watch({"1": reference})
    world.monitor.restore(state)
    world.monitor.turn([], ROLES, world.now_ms)
    assert world.states() == dict.fromkeys(OK, "insufficient")
    assert world.coverage() == [("m", "1", "-", 0.0)]
