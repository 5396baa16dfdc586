"""Concept drift: one word for each cohort, and an alarm that holds for as long as errors stay up."""

import msgspec
import numpy as np
import pytest

from gateway.monitor.concept import Concept
from gateway.monitor.counting import empty
from gateway.monitor.incidents import CLEAN_WINDOWS
from gateway.monitor.realised import ErrorRun, Labelled
from gateway.monitor.reference import Binding, Reference, identified
from gateway.monitor.settings import Labels, Spec
from gateway.monitor.watching import Watching
from gateway.monitor.words import Finding
from tests.monitor.test_tap import plan_of

HOUR_S = 3_600
ROWS = 1_000
"""Of each decision class, in each cohort."""


def watching() -> Watching:
    plan = plan_of(())
    spec = Spec(labels=Labels(mature_after_ms=4 * HOUR_S * 1000))
    return Watching("1", identified(Reference(plan, empty(plan), Binding("x", (), ()))), spec)


def predicted(watched: Watching, hour: int) -> None:
    watched.cohorts.advance(hour * HOUR_S)
    watched.cohorts.predict(hour * HOUR_S, "stable", np.array([[ROWS, ROWS]]))


def labelled(watched: Watching, hour: int, decision: int, wrong: float) -> None:
    """Labels of one decision class, errors evenly among them."""
    for k in range(ROWS):
        at = hour * HOUR_S + k * HOUR_S / ROWS
        error = int((k + 1) * wrong) - int(k * wrong)
        label = Labelled(at, at + 60, "stable", 0, decision, 10, decision ^ error)
        watched.label(label, round(at * 1000))


def told(watched: Watching, hour: int) -> list[Finding]:
    found = watched.findings([], (hour + 6) * HOUR_S * 1000)
    return [one for one in found if one.signal == "concept_drift"]


def cohort(watched: Watching, hour: int, *wrong: float) -> list[Finding]:
    predicted(watched, hour)
    for decision, share in enumerate(wrong):
        labelled(watched, hour, decision, share)
    return told(watched, hour)


def test_a_cohort_has_one_word_and_it_is_the_worse_of_its_decisions() -> None:
    watched = watching()
    assert [one.state for one in cohort(watched, 0, 0.05, 0.05)] == ["ok"]
    (said,) = cohort(watched, 1, 0.25, 0.05)
    assert (said.state, said.keys) == ("firing", ("decision 0",))
    assert said.text.startswith("errors of decision 0: 5.00% -> ")
    (said,) = cohort(watched, 2, 0.25, 0.25)
    assert (said.state, said.keys) == ("firing", ("decision 0", "decision 1"))


def test_it_fires_until_errors_are_back_and_two_cohorts_are_clean() -> None:
    watched = watching()
    states = [cohort(watched, hour, 0.05, 0.05)[0].state for hour in range(3)]
    states += [cohort(watched, hour, 0.2, 0.05)[0].state for hour in range(3, 9)]
    assert states == 3 * ["ok"] + 6 * ["firing"], "new errors do not become normal"
    after = [one for hour in range(9, 12) for one in cohort(watched, hour, 0.05, 0.05)]
    assert [one.state for one in after] == ["firing", *CLEAN_WINDOWS * ["ok"]], (
        "the first still has old errors beside it"
    )
    assert len({one.window_from_s for one in after}) == 3


def test_classes_that_are_covered_one_after_the_other_are_one_clean_cohort() -> None:
    watched = watching()
    predicted(watched, 0)
    labelled(watched, 0, 1, 0.05)
    assert [one.state for one in told(watched, 0)] == ["ok"]
    labelled(watched, 0, 0, 0.05)
    assert told(watched, 0) == []
    cohort(watched, 1, 0.05, 0.05)
    predicted(watched, 2)
    labelled(watched, 2, 1, 0.05)
    assert [one.state for one in told(watched, 2)] == ["ok"]
    labelled(watched, 2, 0, 0.3)
    assert [one.state for one in told(watched, 2)] == ["firing"], "what fires is told in any case"


def test_it_goes_on_after_a_restart() -> None:
    watched = watching()
    for hour, wrong in enumerate((0.05, 0.05, 0.2)):
        cohort(watched, hour, wrong, 0.05)
    again = watching()
    again.restore(msgspec.msgpack.decode(msgspec.msgpack.encode(watched.state())))
    (said,) = cohort(again, 3, 0.2, 0.05)
    assert said.state == "firing"
    assert [said] == cohort(watched, 3, 0.2, 0.05)
    assert cohort(again, 4, 0.05, 0.05) == cohort(watched, 4, 0.05, 0.05)


@pytest.mark.parametrize(("shares", "fires"), [((0.2, 0.05), False), ((0.05, 0.2), True)])
def test_a_change_within_the_first_cohort_is_held_against_its_own_beginning(
    shares: tuple[float, float], fires: bool
) -> None:
    concept, rows = Concept(), 5_000
    concept.take(ErrorRun(0, "-", 1, tuple(int(share * rows) for share in shares), (rows, rows)), 0.02)
    assert (concept.normal is not None) == fires
