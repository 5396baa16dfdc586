"""One incident per model: opening, what is told at once, hysteresis, inhibitions, bounds, plain values."""

import itertools
import json
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.monitor.attribution import Attribution
from gateway.monitor.incidents import (
    AGAIN_S,
    CLOSED,
    CLOSED_TIMELINE,
    TIMELINE,
    Event,
    Ledger,
    ledger_of,
    turn,
)
from gateway.monitor.words import FAMILIES, Finding, Severity, Signal, State

WORLD = Attribution(verdict="world", action="page", sentence="The world.")
MODEL = Attribution(verdict="model", action="rollback", sentence="The model.")
UNCLEAR = Attribution(verdict="unclear", action="wait", sentence="Wait.")
HOUR_S = 3600.0
START_S = 1_767_225_600.0


def finding(signal: Signal = "input_drift", state: State = "firing", **more: Any) -> Finding:
    more.setdefault("version", "2")
    more.setdefault("keys", ("age", "income") if signal == "input_drift" else ())
    return Finding(signal=signal, state=state, **more)


class Story:
    """Turns one after another, an hour apart."""

    def __init__(self) -> None:
        self.ledger = Ledger(model="credit")
        self.now_s = START_S
        self.held: tuple[tuple[Finding, str], ...] = ()

    def turn(
        self, *findings: Finding, attribution: Attribution = WORLD, later_s: float = HOUR_S, **more: Any
    ) -> list[Event]:
        self.now_s += later_s
        found = turn(self.ledger, findings, attribution, self.now_s, **more)
        # Each state survives a store.
        assert ledger_of(json.loads(json.dumps(found.ledger.plain()))) == found.ledger
        self.ledger, self.held = found.ledger, found.held
        return list(found.events)

    def kinds(self, *findings: Finding, **more: Any) -> list[str]:
        return [event.kind for event in self.turn(*findings, **more)]


def test_an_alarm_opens_an_incident_and_two_clean_windows_close_it():
    story = Story()
    (event,) = story.turn(finding())
    assert (event.kind, event.id, event.at_s) == ("opened", f"credit/{int(story.now_s)}/1", story.now_s)
    assert event.reason == "input_drift (age, income) fires, warning"
    assert event.incident.families == ("input",)
    assert story.turn(finding(state="ok")) == []
    (event,) = story.turn(finding(state="ok"))
    assert (event.kind, event.incident.told, event.incident.closed_s) == ("closed", 2, story.now_s)
    assert story.ledger.open is None
    assert [entry.what for entry in story.ledger.closed[0].timeline] == [
        "input_drift (age, income) fires, warning",
        "input_drift (age, income) is over",
        "closed",
    ]


@pytest.mark.parametrize("state", ["ok", "pending", "unknown", "insufficient", "resolved"])
def test_only_an_alarm_opens(state: State):
    assert Story().turn(finding(state=state)) == []


def test_information_opens_nothing():
    story = Story()
    assert story.turn(finding(severity="info")) == []
    assert story.ledger.open is None


@pytest.mark.parametrize(
    ("between", "closes"),
    [
        (finding(state="firing"), False),
        (finding(state="pending"), False),
        (finding(state="ok", level=0.9), False),
        (finding(state="insufficient"), True),
        (finding(state="unknown"), True),
    ],
)
def test_clean_windows_are_counted_in_a_row(between: Finding, closes: bool):
    story = Story()
    story.turn(finding())
    story.turn(finding(state="ok", level=0.1))
    assert story.turn(between) == []
    assert story.kinds(finding(state="ok", level=0.1)) == (["closed"] if closes else [])
    if not closes:
        assert story.kinds(finding(state="resolved", level=0.79)) == ["closed"]


def test_news_in_an_open_incident_are_told_at_once():
    story = Story()
    story.turn(finding())
    assert story.turn(finding(), later_s=60) == []
    (event,) = story.turn(finding(), finding("performance_realised"), later_s=60)
    assert (event.kind, event.reason) == ("changed", "new: performance")
    assert story.turn(finding("concept_drift"), later_s=60) == [], "the family is known"
    (event,) = story.turn(finding(severity="critical"), later_s=60)
    assert (event.reason, event.incident.severity) == ("now critical", "critical")
    assert story.turn(finding(severity="warning"), later_s=60) == []
    assert story.turn(finding(severity="critical"), later_s=60) == [], "told before"
    (event,) = story.turn(finding(), attribution=MODEL, later_s=60)
    assert event.reason == "attribution: world -> model"
    assert event.incident.attribution == MODEL
    assert story.turn(finding(), attribution=UNCLEAR, later_s=60) == []
    assert story.ledger.open is not None
    assert story.ledger.open.attribution == MODEL
    (event,) = story.turn(finding("latency", severity="critical"), finding("fairness"), attribution=WORLD, later_s=60)
    assert event.reason == "new: latency, fairness; attribution: model -> world"


def test_a_pause_of_traffic_does_not_make_speed_the_cause():
    story = Story()
    slow = Attribution(verdict="latency", action="page", sentence="Too slow.")
    story.turn(finding(), finding("latency"))
    # The word on inputs is over, that on speed is not.
    assert story.turn(finding("latency"), attribution=slow, later_s=60) == []
    assert story.ledger.open is not None
    assert story.ledger.open.attribution == WORLD
    back = msgspec.structs.replace(slow, action="rollback")
    assert story.kinds(finding("latency"), attribution=back, later_s=60) == ["changed"], "one variant is blamed"
    story.turn(finding("latency"), finding(state="ok"), later_s=60)
    (event,) = story.turn(finding("latency"), finding(state="ok"), attribution=slow, later_s=60)
    assert event.reason == "attribution: world -> latency"


def test_it_is_told_again_every_four_hours():
    story = Story()
    story.turn(finding())
    told = [story.now_s]
    for _ in range(100):
        for event in story.turn(finding(), later_s=600):
            assert event.kind == "again"
            told.append(event.at_s)
    assert {later - before for before, later in itertools.pairwise(told)} == {AGAIN_S}
    assert len(told) == 1 + int(100 * 600 // AGAIN_S)


def test_an_open_incident_is_told_again_though_no_window_closes():
    story = Story()
    story.turn(finding())
    assert story.kinds(later_s=AGAIN_S) == ["again"]


def test_one_incident_for_all_signals_and_variants():
    story = Story()
    assert story.kinds(finding(), finding("prediction_drift"), finding(version="3", variant="canary")) == ["opened"]
    assert story.ledger.open is not None
    assert len(story.ledger.open.alarms) == 3
    clean = [finding(state="ok"), finding("prediction_drift", "ok")]
    story.turn(*clean)
    story.turn(*clean)
    assert [alarm.variant for alarm in story.ledger.open.alarms] == ["canary"]


def test_a_series_that_is_gone_ends_its_alarms():
    story = Story()
    story.turn(finding(version="3", variant="canary"))
    assert story.kinds(live={("2", "-")}) == ["closed"]
    assert "canary is no longer served" in story.ledger.closed[0].timeline[-2].what
    assert story.turn(finding(version="3", variant="canary"), live={("2", "-")}) == [], (
        "nor does its last window open one"
    )


def test_broken_data_of_a_feature_inhibit_its_drift():
    story = Story()
    story.turn(finding(keys=("age", "income")), finding("data_quality", keys=("income",)))
    assert story.ledger.open is not None
    assert {alarm.signal: alarm.keys for alarm in story.ledger.open.alarms} == {
        "input_drift": ("age",),
        "data_quality": ("income",),
    }
    story = Story()
    story.turn(finding(keys=("income",)), finding("data_quality", keys=("income",)))
    assert story.ledger.open is not None
    assert [alarm.signal for alarm in story.ledger.open.alarms] == ["data_quality"]
    assert [(one.signal, why) for one, why in story.held] == [("input_drift", "the data of these features are broken")]
    # Another series is judged by itself.
    story.turn(finding(keys=("income",), variant="canary"), finding("data_quality", keys=("income",)))
    assert ("input_drift", "canary") in {(alarm.signal, alarm.variant) for alarm in story.ledger.open.alarms}


def test_a_broken_schema_inhibits_everything_else_of_its_series():
    story = Story()
    story.turn(finding(), finding("prediction_drift"))
    both = [finding(state="ok"), finding("prediction_drift", "ok")]
    for _ in range(5):
        story.turn(*both, finding("data_quality", severity="critical", schema_break=True))
        assert story.ledger.open is not None
        assert len(story.ledger.open.alarms) == 3, "what is held back is no clean window"
        assert len(story.held) == 2
    story = Story()
    story.turn(finding(), finding("latency"), finding("data_quality", schema_break=True))
    assert story.ledger.open is not None
    assert [alarm.signal for alarm in story.ledger.open.alarms] == ["data_quality"]


def test_a_change_of_the_split_mutes_mixed_views_for_the_window_it_lies_in():
    story = Story()
    changed = START_S + 1800
    first = {"window_from_s": START_S, "window_to_s": START_S + 3600}
    second = {"window_from_s": START_S + 3600, "window_to_s": START_S + 7200}
    assert story.turn(finding(mixed=True, **first), route_changed_s=changed) == []
    assert story.held[0][1] == "the split was changed within its window"
    assert story.kinds(finding(mixed=True, **second), route_changed_s=changed) == ["opened"]
    assert Story().kinds(finding(**first), route_changed_s=changed) == ["opened"], "a variant's own view is not mixed"


def test_bounds():
    story = Story()
    for number in range(300):
        story.turn(finding(keys=(f"f{number}",)), later_s=1)
    incident = story.ledger.open
    assert incident is not None
    assert len(incident.timeline) == TIMELINE
    assert incident.left_out == 300 - TIMELINE
    assert incident.timeline[0].what == "input_drift (f0) fires, warning"
    assert incident.timeline[-1].what == "input_drift (f299) is now warning"
    for _ in range(CLOSED + 5):
        for state in ("ok", "ok", "firing"):
            story.turn(finding(state=state), later_s=1)
    assert len(story.ledger.closed) == CLOSED
    assert all(len(one.timeline) <= CLOSED_TIMELINE for one in story.ledger.closed)
    assert len({one.id for one in story.ledger.closed}) == CLOSED


def test_ids_are_never_used_twice_within_a_second():
    story = Story()
    ids = set()
    for _ in range(5):
        (opened,) = story.turn(finding(), later_s=0)
        story.turn(finding(state="ok"), later_s=0)
        (closed,) = story.turn(finding(state="ok"), later_s=0)
        ids |= {opened.id, closed.id}
    assert len(ids) == 10


@pytest.mark.parametrize("value", [{}, {"model": 1}, {"model": "m", "open": {"id": "x"}}, [], None])
def test_what_is_no_ledger_is_refused(value: object):
    with pytest.raises(msgspec.ValidationError):
        ledger_of(value)


findings = st.builds(
    Finding,
    signal=st.sampled_from(get_args(Signal)),
    state=st.sampled_from(get_args(State)),
    version=st.sampled_from(["1", "2"]),
    variant=st.sampled_from(["-", "canary"]),
    severity=st.sampled_from(get_args(Severity)),
    keys=st.lists(st.sampled_from("abc"), unique=True).map(tuple),
    level=st.none() | st.floats(0, 10),
    schema_break=st.booleans(),
    mixed=st.booleans(),
    window_from_s=st.floats(0, 100),
)
attributions = st.sampled_from([WORLD, MODEL, UNCLEAR])
steps = st.tuples(st.lists(findings, max_size=4), attributions, st.floats(0, 2 * AGAIN_S), st.floats(0, 100))


@given(st.lists(steps, max_size=25))
@settings(max_examples=200, deadline=None)
def test_laws(script: list[tuple[list[Finding], Attribution, float, float]]):
    ledger, now_s, opened, told = Ledger(model="m"), 0.0, 0, set()
    for seen, attribution, later_s, changed_s in script:
        now_s += later_s
        before = ledger.open
        found = turn(ledger, seen, attribution, now_s, route_changed_s=changed_s)
        ledger = found.ledger
        assert ledger_of(json.loads(msgspec.json.encode(ledger.plain()))) == ledger
        assert len(found.events) <= 1
        for event in found.events:
            opened += {"opened": 1, "closed": -1}.get(event.kind, 0)
            assert event.id not in told
            told.add(event.id)
        assert opened == int(ledger.open is not None)
        if ledger.open is not None:
            assert ledger.open.alarms
            assert {FAMILIES[alarm.signal] for alarm in ledger.open.alarms} <= set(ledger.open.families)
            assert now_s - ledger.open.told_s < AGAIN_S
            if before is not None and before.severity != ledger.open.severity:
                assert found.events
        keys = [(alarm.signal, alarm.series) for alarm in (ledger.open.alarms if ledger.open else ())]
        assert len(keys) == len(set(keys))
