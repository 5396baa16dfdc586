"""The matrix: whose fault it is, what to do, and what must never follow from it."""

import itertools
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.monitor.attribution import Arm, Attribution, Compared, attribute
from gateway.monitor.words import Signal, State

STATES: tuple[State, ...] = get_args(State)
SIGNALS: tuple[Signal, ...] = get_args(Signal)
states = st.sampled_from(STATES)
arms = st.dictionaries(st.sampled_from(SIGNALS), states)
comparisons = st.builds(Compared, inputs=states, outputs=states, performance=states, latency=states)


def arm(variant: str = "stable", **states: State) -> Arm:
    """All is well but what is named."""
    well: dict[Signal, State] = {
        "input_drift": "ok", "prediction_drift": "ok", "performance_realised": "ok", "latency": "ok",
    }  # fmt: skip
    return Arm(variant=variant, states={**well, **states})  # type: ignore[dict-item]


def judged(
    champion: dict[str, State], canary: dict[str, State], hosts: dict[str, State] | None = None, **compared: State
) -> Attribution:
    return attribute(arm(**champion), arm("canary", **canary), Compared(**compared), hosts=hosts)


FIRING: State = "firing"
IN, OUT = {"input_drift": FIRING}, {"prediction_drift": FIRING}
BAD = {"performance_realised": FIRING}
ESTIMATED = {"performance_estimated": FIRING}
SLOW = {"latency": FIRING}


@pytest.mark.parametrize(
    ("champion", "canary", "compared", "verdict", "action", "retrain"),
    [
        ({}, {}, {}, "none", "none", False),
        # outputs of the canary alone
        ({}, OUT, {"outputs": FIRING}, "model", "rollback", False),
        ({}, OUT, {}, "model", "freeze", False),
        ({}, OUT, {"outputs": "ok"}, "unclear", "wait", False),
        ({}, OUT, {"outputs": "pending"}, "unclear", "wait", False),
        ({}, OUT, {"outputs": "insufficient"}, "unclear", "wait", False),
        ({"prediction_drift": "pending"}, OUT, {"outputs": FIRING}, "unclear", "wait", False),
        ({"input_drift": "unknown"}, OUT, {"outputs": FIRING}, "unclear", "wait", False),
        ({}, {**OUT, "input_drift": "pending"}, {"outputs": FIRING}, "unclear", "wait", False),
        # inputs of one arm
        ({}, IN, {}, "split", "freeze", False),
        ({}, {**IN, **OUT}, {"inputs": FIRING}, "split", "freeze", False),
        (IN, {}, {"inputs": FIRING}, "split", "freeze", False),
        (IN, {}, {"inputs": "ok"}, "world", "page", False),
        (IN, IN, {"inputs": FIRING}, "split", "freeze", False),
        ({}, {}, {"inputs": FIRING}, "split", "freeze", False),
        # the world
        (IN, IN, {"inputs": "ok"}, "world", "page", False),
        (IN, {**IN, **OUT}, {"outputs": FIRING}, "world", "page", False),
        ({**IN, **OUT}, {**IN, **OUT}, {}, "world", "page", False),
        ({**IN, **BAD}, {**IN, **BAD}, {}, "world", "page", True),
        ({**IN, **ESTIMATED}, {**IN, **ESTIMATED}, {}, "world", "page", True),
        ({**IN, **BAD, "data_quality": FIRING}, {**IN, **BAD}, {}, "world", "page", False),
        ({"data_quality": FIRING}, {"data_quality": FIRING}, {}, "world", "page", False),
        # what both depend on
        (OUT, OUT, {}, "shared_dependency", "page", False),
        ({**OUT, **BAD}, {**OUT, **BAD}, {}, "shared_dependency", "page", False),
        # the champion's answers alone
        (OUT, {}, {"outputs": FIRING}, "model", "page", False),
        (OUT, {}, {}, "unclear", "wait", False),
        # labels
        (BAD, BAD, {}, "concept", "retrain", True),
        ({"concept_drift": FIRING}, BAD, {}, "concept", "retrain", True),
        (ESTIMATED, ESTIMATED, {}, "unclear", "wait", False),
        ({**BAD, "input_drift": "pending"}, BAD, {}, "unclear", "wait", False),
        (BAD, {**BAD, "prediction_drift": "pending"}, {}, "unclear", "wait", False),
        ({}, {**BAD, "input_drift": "unknown"}, {"performance": FIRING}, "unclear", "wait", False),
        ({}, {**BAD, "prediction_drift": "insufficient"}, {"performance": FIRING}, "unclear", "wait", False),
        ({"performance_realised": "pending"}, BAD, {"performance": FIRING}, "unclear", "wait", False),
        ({}, BAD, {"performance": FIRING}, "model", "rollback", False),
        ({}, BAD, {"performance": "ok"}, "unclear", "wait", False),
        ({}, ESTIMATED, {"performance": FIRING}, "model", "freeze", False),
        # latency
        ({}, SLOW, {"latency": FIRING}, "latency", "rollback", False),
        ({}, SLOW, {}, "latency", "freeze", False),
        ({}, SLOW, {"latency": "ok"}, "unclear", "wait", False),
        (SLOW, SLOW, {"latency": FIRING}, "latency", "page", False),
        (SLOW, {}, {}, "latency", "page", False),
        ({"fairness": FIRING}, {}, {}, "unclear", "page", False),
    ],
)
def test_the_matrix(
    champion: dict[str, State],
    canary: dict[str, State],
    compared: dict[str, State],
    verdict: str,
    action: str,
    retrain: bool,
):
    found = judged(champion, canary, **compared)
    assert (found.verdict, found.action, found.retrain) == (verdict, action, retrain), found.sentence


@pytest.mark.parametrize(
    ("states", "verdict", "action", "retrain"),
    [
        ({}, "none", "none", False),
        (IN, "world", "page", False),
        ({**IN, **BAD}, "world", "page", True),
        (OUT, "unclear", "page", False),
        (BAD, "concept", "retrain", True),
        (SLOW, "latency", "page", False),
        ({**BAD, "input_drift": "unknown"}, "unclear", "wait", False),
    ],
)
def test_a_variant_alone(states: dict[str, State], verdict: str, action: str, retrain: bool):
    alone = attribute(arm(**states))
    assert (alone.verdict, alone.action, alone.retrain) == (verdict, action, retrain)
    unknown = Arm(variant="canary", states={"input_drift": "insufficient"})
    assert attribute(arm(**states), unknown) == alone


def test_sentences_of_a_changed_world():
    both = judged({**IN, **BAD}, {**IN, **BAD}).sentence
    assert both == (
        "The inputs have shifted for both variants alike: the world or its data source has changed, a rollback would "
        "not help; retraining may help."
    )
    broken: dict[str, State] = {"data_quality": FIRING}
    alone = attribute(arm(**broken)).sentence
    assert alone == "The input data are broken: the world or its data source has changed; ask who owns the data."
    assert judged({}, OUT, outputs="pending").sentence == (
        "The answers of canary alone have shifted, with the same inputs as stable, but canary does not yet surely "
        "differ from stable; wait."
    )


def test_one_host_that_is_off_hides_no_harm_of_the_canary():
    hosts: dict[str, State] = {"a": "ok", "b": FIRING, "c": "ok"}
    slow = judged(OUT, {"latency": FIRING}, hosts=hosts, latency=FIRING)
    assert (slow.verdict, slow.action) == ("latency", "rollback")
    assert "Only host b is off" in slow.sentence
    split = judged({"input_drift": FIRING}, {}, hosts=hosts, inputs=FIRING)
    assert (split.verdict, split.action) == ("split", "freeze")
    world = judged({"input_drift": FIRING}, {"input_drift": FIRING}, hosts=hosts)
    assert (world.verdict, world.action) == ("host", "eject")


def test_one_host_is_off():
    hosts: dict[str, State] = {"a": "ok", "b": FIRING, "c": "resolved"}
    found = judged(OUT, {}, hosts=hosts)
    assert (found.verdict, found.action) == ("host", "eject")
    assert "b" in found.sentence
    for others in ({"a": "ok", "b": FIRING}, {"a": "ok", "b": FIRING, "c": "unknown"}, {"b": FIRING, "c": FIRING}):
        assert judged(OUT, OUT, hosts=others).verdict == "shared_dependency"  # type: ignore[arg-type]


@given(arms, arms, comparisons)
@settings(max_examples=500, deadline=None)
def test_nothing_is_rolled_back_unless_the_canary_differs(
    first: dict[Signal, State], second: dict[Signal, State], compared: Compared
):
    found = attribute(Arm(variant="stable", states=first), Arm(variant="canary", states=second), compared)
    assert found.sentence.endswith(".")
    assert "\n" not in found.sentence
    if found.action == "rollback":
        assert FIRING in (compared.outputs, compared.performance, compared.latency)
        assert FIRING in second.values()
        assert not {"input_drift", "data_quality"} <= {
            signal for signal in first if first[signal] == second.get(signal) == FIRING
        }
    if found.retrain:
        assert any(first.get(signal) == FIRING for signal in SIGNALS if signal.startswith(("perf", "concept")))
        assert first.get("data_quality") != FIRING


def test_a_shift_of_both_arms_never_rolls_back():
    for outputs, compared in itertools.product(itertools.product(STATES, STATES), STATES):
        found = judged(
            {**IN, "prediction_drift": outputs[0]},
            {**IN, "prediction_drift": outputs[1]},
            outputs=compared,
            performance=compared,
            latency=compared,
        )
        assert found.action == "page"


@pytest.mark.parametrize("signal", ["input_drift", "prediction_drift", "data_quality"])
def test_drift_alone_trains_nothing(signal: str):
    for both in ({signal: FIRING}, {signal: FIRING, "latency": FIRING}):
        assert not judged(both, both).retrain
        assert not attribute(arm(**both)).retrain


@pytest.mark.parametrize(
    ("champion", "canary", "action", "sentence"),
    [
        ({}, None, "page", "latency, prediction_drift of treat: compared with no other variant; look at it."),
        ({}, {}, "wait", "latency, prediction_drift of treat: compared with no other variant; wait."),
        (IN, None, "page", "The inputs have shifted: the world or its data source has changed; ask who owns the data."),
        (
            {"fairness": FIRING},
            None,
            "page",
            "Groups are treated unequally; which variant does it, the windows do not tell. "
            "latency, prediction_drift of treat: compared with no other variant; look at it.",
        ),
    ],
)
def test_a_third_variant_that_fires_is_named(
    champion: dict[str, State], canary: dict[str, State] | None, action: str, sentence: str
):
    tried = arm("canary", **canary) if canary is not None else None
    found = attribute(arm(**champion), tried, others=[arm("quiet"), arm("treat", **OUT, **SLOW)])
    assert (found.verdict, found.action) == ("world" if champion == IN else "unclear", action)
    assert found.sentence == sentence
    assert attribute(arm(**champion), tried, others=[arm("quiet")]) == attribute(arm(**champion), tried)
