"""A split without a rollout: what fires of its second variant alone is told of that variant."""

import numpy as np

from gateway.monitor.book import ModelMonitor, Roles
from gateway.monitor.settings import Spec, Window
from tests.monitor.test_champion import PLAN, STABLE, counts, referenced

TREAT = ("2", "treat")
SPLIT = Roles(champion=STABLE, live=frozenset({STABLE, TREAT}))


def test_an_alarm_of_the_other_half_of_a_split_opens_with_a_word_on_it() -> None:
    model = ModelMonitor("m", Spec(window=Window(rows=1000)))
    model.watch({"1": referenced(PLAN, "x"), "2": referenced(PLAN, "y")})
    rng, events = np.random.default_rng(3), []
    for minute in range(3):
        deltas = [(*STABLE, counts(rng, 1000)), (*TREAT, counts(rng, 1000, score=1.0))]
        events += model.turn(deltas, SPLIT, minute * 60_000).events
    (opened,) = events
    said = opened.incident.attribution
    assert {alarm.variant for alarm in opened.incident.alarms} == {"treat"}
    assert (said.verdict, said.action) == ("unclear", "page")
    assert said.sentence == "prediction_drift of treat: compared with no other variant; look at it."
    assert model.attribution == said


def test_a_version_without_a_policy_is_named_by_its_number() -> None:
    model = ModelMonitor("m", Spec(window=Window(rows=1000)))
    model.watch({"1": referenced(PLAN, "x")})
    rng, alone = np.random.default_rng(3), ("1", "-")
    for minute in range(3):
        model.turn([(*alone, counts(rng, 1000, score=1.0))], Roles(champion=alone), minute * 60_000)
    assert model.attribution.sentence.startswith("The answers of version 1 have shifted")
