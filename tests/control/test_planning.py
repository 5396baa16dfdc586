"""What a plan rests on: stable's own failures, and the units that there are."""

from typing import Any

import pytest

from gateway.control.documents import Kept
from gateway.control.intake import Delta
from gateway.control.judge import Judge
from gateway.control.live import ASSUMED_BAD_RATE, bad_rate, units
from gateway.control.messages import VariantPin
from gateway.control.outcomes import Counted
from gateway.control.planning import steps
from gateway.control.reads import unreadable
from gateway.control.record import PolicyRecord
from gateway.control.steps import identity_wanted
from gateway.tally import FIELDS, NOTE_SEEN
from router.evidence.planning import Guardrail, to_detect
from router.policy import TrafficPolicy
from tests.router.documents import read

PINS = (VariantPin("stable", "m", 1, "sha256:aa"), VariantPin("canary", "m", 2, "sha256:bb"))
STABLE = PINS[0].digest


def wanted(first: tuple[dict[str, Any], ...] = (), **parts: Any) -> TrafficPolicy:
    rollout = {
        "to": "canary",
        "steps": [*first, {"setWeight": "20%"}, {"setWeight": "100%"}],
        "analysis": {"guardrails": [{"metric": "error_rate"}]},
    }
    return read(split={"stable": 10_000}, rollout=rollout, **parts)


def kept(policy: TrafficPolicy, stable: tuple[int, int], canary: tuple[int, int], come: int = 0) -> Kept:
    """A rollout in its first step.

    Args:
        stable, canary: good and bad requests.
        come: distinct units that they came from.
    """
    record = PolicyRecord(
        document={}, revision=5, generation=1, applied_by="ann", applied_ms=0, variants=PINS, slots="stable*10000",
        before="stable*10000", stable="stable", canary="canary",
    )  # fmt: skip
    found = Kept(1, record, policy)
    rollout = policy.spec.rollout
    assert rollout is not None
    judge = Judge(
        identity_wanted(found), rollout.analysis, sticky=True, variants=policy.names, stable="stable", canary="canary"
    )
    counts = {
        (5, "", name): (ok + bad, ok, bad, *[0] * (len(FIELDS) - 3))
        for name, (ok, bad) in (("stable", stable), ("canary", canary))
    }
    counts[5, "-", "stable"] = (900, 0, 900, *[0] * (len(FIELDS) - 3))
    notes = [(NOTE_SEEN, 5, 0, int(unit % 5 == 0), unit * 2_654_435_761 % 2**63) for unit in range(come)]
    judge.take(Delta(counts=counts, notes=notes), {"5": {"": 0.2}})
    record.evidence["judge"] = judge.state()
    return found


def test_the_canarys_failures_are_not_stables() -> None:
    found = bad_rate(kept(wanted(), (9_990, 8), (0, 2_500)), STABLE)
    assert (found["bad_rate"], found["bad_rate_assumed"]) == (pytest.approx(9 / 10_000), False)
    assert (found["stable_bad"], found["stable_requests"]) == (8, 9_998)


def test_a_stable_that_never_failed_is_known_once_it_has_answered_enough() -> None:
    found = bad_rate(kept(wanted(), (90_156, 0), (20, 0)), STABLE)
    assert (found["bad_rate"], found["bad_rate_assumed"]) == (pytest.approx(1 / 90_158), False)
    few = bad_rate(kept(wanted(), (99, 0), (90_000, 0)), STABLE)
    assert (few["bad_rate"], few["bad_rate_assumed"], few["stable_requests"]) == (ASSUMED_BAD_RATE, True, 99)
    assert bad_rate(kept(wanted(), (100, 0), (0, 0)), STABLE)["bad_rate"] == pytest.approx(ASSUMED_BAD_RATE, rel=0.02)
    assert bad_rate(None, STABLE)["bad_rate_assumed"]


def test_counts_of_another_model_say_nothing() -> None:
    counted = kept(wanted(), (90_156, 0), (20, 0))
    assert bad_rate(counted, "sha256:cc")["bad_rate_assumed"]
    counted.record.evidence["judge"]["identity"] = "of an earlier rollout"
    assert bad_rate(counted, STABLE)["bad_rate_assumed"]


def test_who_has_counted_enough_is_asked_in_order() -> None:
    policy, every = Counted("policy", 90, 10), Counted("requests", 2_250, 250, 30.0)
    counted = kept(wanted(), (9_990, 8), (0, 0))
    assert bad_rate(counted, STABLE, [policy, every])["bad_rate_from"] == "rollout"
    found = bad_rate(counted, "sha256:cc", [policy, every])
    assert (found["bad_rate_from"], found["bad_rate"], found["bad_rate_seconds"]) == ("policy", 11 / 102, None)
    found = bad_rate(None, STABLE, [Counted("policy", 89, 10), every])
    assert (found["bad_rate_from"], found["bad_rate"], found["bad_rate_seconds"]) == ("requests", 251 / 2_502, 30.0)
    assert (found["stable_bad"], found["stable_requests"], found["bad_rate_assumed"]) == (250, 2_500, False)
    few = bad_rate(None, STABLE, [Counted("policy", 3, 1), Counted("requests", 98, 1)])
    assert (few["bad_rate_from"], few["bad_rate"], few["stable_requests"]) == ("assumed", ASSUMED_BAD_RATE, 99)


def test_units_are_known_where_they_come_again() -> None:
    policy = wanted()
    assert units(kept(policy, (32_000, 0), (8_000, 0), 2_000), policy)["come"] == pytest.approx(2_000, rel=0.1)
    assert units(kept(policy, (3_200, 0), (800, 0), 2_000), policy)["come"] is None
    assert units(kept(policy, (32_000, 0), (8_000, 0), 2_000), wanted(unit={"from": [{"cookie": "u"}]}))["come"] is None
    assert "not known" in units(None, policy)["text"]
    assert not units(None, wanted(unit={}))["sticky"]


def test_too_few_units_never_promote() -> None:
    (open_end,) = steps(wanted(), 100.0, 1e-5)
    (few,) = steps(wanted(), 100.0, 1e-5, 2_000)
    (many,) = steps(wanted(), 100.0, 1e-5, 100_000)
    assert open_end["promote_units"] == {"canary": 868, "stable": 3_474, "enough": None}
    assert open_end["promote_seconds"] == pytest.approx(43.5, abs=0.5)
    assert (few["promote_units"]["enough"], few["promote_seconds"]) == (False, None)
    assert many["promote_units"]["enough"]
    assert many["promote_seconds"] > open_end["promote_seconds"]
    (barely,) = steps(wanted(), 100.0, 1e-5, 4_400)
    assert barely["promote_seconds"] > 3 * open_end["promote_seconds"]


def test_few_units_find_harm_where_each_comes_often_enough() -> None:
    (open_end,) = steps(wanted(), 100.0, 1e-3)
    (few,) = steps(wanted(), 100.0, 1e-3, 2_000)
    # 40 of 2,000 erring units are not many: it takes hardly longer. 50 units give out.
    assert open_end["detect_units"]["5x"] == {"erring": few["detect_units"]["5x"]["erring"], "enough": None}
    assert few["detect_units"]["5x"]["enough"]
    assert 1.0 < few["detect_seconds"]["5x"] / open_end["detect_seconds"]["5x"] < 1.1
    (fifty,) = steps(wanted(), 100.0, 1e-3, 50)
    assert (fifty["detect_units"]["5x"]["enough"], fifty["detect_seconds"]["5x"]) == (False, None)


def test_a_fault_that_begins_with_a_later_step_takes_longer_the_more_has_erred_before() -> None:
    (alone,) = steps(wanted(), 100.0, 0.01)
    short, after = steps(wanted(({"setWeight": "10%"},)), 100.0, 0.01)
    assert short["detect_seconds"]["3x"] == pytest.approx(95.7, abs=0.1), "the first step's is that of the table"
    assert alone["detect_seconds"]["3x"] < after["detect_seconds"]["3x"] < 2 * alone["detect_seconds"]["3x"]
    _, long = steps(wanted(({"setWeight": "10%", "hold": {"minDuration": "24h"}},)), 100.0, 0.01)
    starts = 1 + 24 * 3600 * 100 * 0.01 // 50
    planned = to_detect(3.0, 0.2, 0.01, Guardrail(starts=int(starts)))
    assert planned is not None
    assert long["detect_seconds"]["3x"] == pytest.approx(planned.total / 100, abs=0.1)
    assert long["promote_seconds"] == alone["promote_seconds"], "promotion rests on its step alone"
    _, few = steps(wanted(({"setWeight": "10%", "hold": {"minDuration": "24h"}},)), 100.0, 0.01, 10_000)
    assert few["detect_seconds"]["3x"] < long["detect_seconds"]["3x"], "10,000 users err 10,000 times at most"


def test_what_the_model_does_not_have_is_warned_of() -> None:
    match = [{"input": {"age": {"gt": 18}, "x": {"present": True}}}, {"input": {"n": {"exact": 1}, "age": {"lt": 9}}}]
    policy = read(
        unit={"from": [{"header": "x-user-id"}, {"input": "user"}]},
        rules=[{"name": "r", "match": match, "route": {"variant": "canary"}}],
    )
    inputs = ["x FP32 [-1,24]", "n INT64 [-1,1]", "user BYTES [-1]"]
    found = list(unreadable(policy, inputs, {}))
    assert [one.partition(",")[0] for one in found] == ["rule r reads the input 'age'", "rule r reads the input 'x'"]
    assert found[0].endswith("what can be read: n, user")
    assert list(unreadable(policy, inputs, {"x": ["age", "x"]})) == []
    assert list(unreadable(policy, inputs[:2], {"x": ["age", "x"]})) == [
        "the unit reads the input 'user', which no request can have; what can be read: age, x, n"
    ]
