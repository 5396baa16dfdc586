"""A canary that is wrong more often, by labels: compared with stable over the same time, it may be rolled back."""

from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest

from gateway.monitor.book import ModelMonitor, Outcome, Roles
from gateway.monitor.families import simes
from gateway.monitor.mistakes import Mistakes, errors_of, keys_of
from gateway.monitor.realised import Labelled
from gateway.monitor.reference import Binding
from gateway.monitor.settings import Actions
from tests.monitor.mistakes_world import cohorts
from tests.monitor.test_settings_changed import LOW, counts, reference, spec

STABLE, CANARY = ("1", "stable"), ("2", "canary")
ROLES = Roles(champion=STABLE, canary=CANARY, revision=1, live=frozenset({STABLE, CANARY}))
DAY_MS = 86_400_000


@pytest.mark.parametrize(
    "world",
    [
        {},
        {"share": (0.01, 0.5), "wrong": (0.05, 0.3)},
        {"share": (0.02, 0.1), "wrong": (0.02, 0.02)},
        {"clump": 5, "rows": 6_000},
    ],
    ids=["even", "a ramp while the world grows harder", "rare mistakes of a small canary", "users of five rows"],
)
def test_arms_that_are_alike_differ_no_more_often_than_their_level(world: Any) -> None:
    """A/A, 600 cohorts at 2 %: within the binomial's upper 99.9 %."""
    rng, level, rounds = np.random.default_rng(4), 0.02, 600
    found = [keys_of(*map(errors_of, cohorts(rng, **world)), 0.0) for _ in range(rounds)]
    hits = sum(simes([key.p_value for key in keys]) <= level for keys in found)
    assert all(found)
    assert hits <= rounds * level + 3.1 * (rounds * level * (1 - level)) ** 0.5


def test_shares_of_whole_cohorts_would_blame_a_canary_on_a_ramp() -> None:
    rng, blamed = np.random.default_rng(4), 0
    for _ in range(100):
        ours, theirs = (one.errors.sum(axis=(0, 1)) for one in cohorts(rng, share=(0.01, 0.5), wrong=(0.05, 0.3)))
        c, v = theirs[1] / theirs.sum(), ours[1] / ours.sum()
        blamed += c - v > 3 * (c * (1 - c) / theirs.sum() + v * (1 - v) / ours.sum()) ** 0.5
    assert blamed > 30


def test_a_canary_that_is_wrong_three_times_as_often_is_found_in_its_second_cohort() -> None:
    rng, states = np.random.default_rng(4), []
    mistakes = Mistakes(floor=0.02, distance_ms=30 * DAY_MS)
    assert mistakes.state(0.0) == "unknown"
    for hour in range(2):
        for _ in range(3):  # each cohort counts once
            mistakes.close(*cohorts(rng, times=3.0), (hour * 3_600, (hour + 1) * 3_600), hour * 3_600)
        states.append(mistakes.state(hour * 3_600))
    assert states == ["pending", "firing"]
    assert mistakes.state(3_600 + 2 * 3_600 + 1) == "unknown", "an old verdict is none"


def test_few_labels_or_a_difference_under_the_floor_say_nothing() -> None:
    rng = np.random.default_rng(4)
    assert keys_of(*map(errors_of, cohorts(rng, rows=200)), 0.02) == []
    mistakes = Mistakes(floor=0.5, distance_ms=30 * DAY_MS)
    for hour in range(4):
        mistakes.close(*cohorts(rng, times=3.0), (hour * 3_600, (hour + 1) * 3_600), 0.0)
    assert mistakes.state(0.0) == "ok"


# ---- the whole way ----


def monitor() -> ModelMonitor:
    found = ModelMonitor("m", msgspec.structs.replace(spec(LOW), actions=Actions(on_drift_of_canary="rollback")))
    one = reference()
    found.watch({"1": one, "2": replace(one, binding=Binding("y", (), ()))})
    return found


def hour(model: ModelMonitor, at: int, right: dict[tuple[str, str], float]) -> Outcome:
    """Both arms answer over a quarter of an hour, and labels come; two hours later they are judged."""
    begin_s = 4 * at * 3_600
    for minute in range(15):
        now_s = begin_s + 60 * minute + 30
        rng = np.random.default_rng(100 * at + minute)
        model.turn([(*series, counts(rng, 100, 0.95)) for series in right], ROLES, now_s * 1000)
        for (version, variant), share in right.items():
            for k in range(100):
                decision = k % 2
                truth = decision if rng.random() < share else 1 - decision
                item = Labelled(now_s + k % 30, now_s + 60, variant, 0, decision, 12 + 225 * decision, truth)
                model.label(version, item, now_s * 1000)
    for minute in range(95, 120):
        rng = np.random.default_rng(100 * at + minute)
        deltas = [(*series, counts(rng, 100, 0.95)) for series in right]
        outcome = model.turn(deltas, ROLES, (begin_s + 60 * minute) * 1000)
        if outcome.lease is not None or outcome.events:
            return outcome
    return model.turn([], ROLES, (begin_s + 2 * 3_600) * 1000)


def test_labels_that_say_the_canary_is_worse_roll_it_back_and_a_restart_in_between_does_not_matter() -> None:
    model = monitor()
    right = {STABLE: 0.95, CANARY: 0.7}
    assert hour(model, 0, right).lease is None
    again = monitor()
    again.restore(msgspec.msgpack.decode(msgspec.msgpack.encode(model.state())))
    outcome = hour(again, 1, right)
    assert (again.attribution.verdict, again.attribution.action) == ("model", "rollback")
    assert again.attribution.sentence.startswith("By its labels, canary alone has become worse")
    assert outcome.lease is not None
    assert (outcome.lease.level, outcome.lease.variant) == ("rollback", "canary")


@pytest.mark.parametrize(("stable", "canary"), [(0.95, 0.95), (0.7, 0.7)])
def test_what_both_suffer_rolls_nothing_back(stable: float, canary: float) -> None:
    model = monitor()
    found = [hour(model, at, {STABLE: stable, CANARY: canary}) for at in range(4)]
    assert all(outcome.lease is None for outcome in found)
    assert model.attribution.verdict == ("none" if stable > 0.9 else "concept")


def test_a_metric_that_is_not_compared_freezes_and_no_more() -> None:
    model = monitor()
    for at in range(3):
        hour(model, at, {STABLE: 0.95, CANARY: 0.95})
    arm = model.board.arm(*CANARY, 8 * 3_600 + 7_200.0)
    assert model._compared_labels(arm, CANARY, 10 * 3_600.0) == "ok"
    fired = [one for one in model.board.latest if one.signal == "performance_realised" and one.series == CANARY]
    other = msgspec.structs.replace(fired[0], state="firing", keys=("recall",))
    model.board = model.board.take([other])
    arm = model.board.arm(*CANARY, 10 * 3_600.0)
    assert model._compared_labels(arm, CANARY, 10 * 3_600.0) == "unknown"
