"""Specs that are refused, and what makes two of them one rollout."""

from typing import Any

import msgspec
import pytest

from router.rollout.actions import Action
from router.rollout.spec import Approval, Guardrail, Hold, RolloutSpec, Step, identity, plan_digest
from router.rollout.status import RolloutStatus, decode, encode
from router.rollout.words import duration, listed, share
from tests.rollout.tower import Tower, a_spec, shadow, step

BAD: list[tuple[dict[str, Any], str]] = [
    ({"steps": ()}, "at least one step"),
    ({"steps": (Step(),)}, "step 1 has either slots or shadow_slots"),
    ({"steps": (Step(slots=1, shadow_slots=1),)}, "step 1 has either slots or shadow_slots"),
    ({"steps": (Step(slots=0),)}, "step 1: expected 1 to 10,000 slots, got 0"),
    ({"steps": (step(1), Step(slots=10_001))}, "step 2: expected 1 to 10,000 slots, got 10001"),
    ({"steps": (step(10), step(10))}, "step 2: expected more than 1,000 slots, got 1,000"),
    ({"steps": (step(10), shadow(5), step(5))}, "step 3: expected more than 1,000 slots, got 500"),
    ({"steps": (step(1, min_units=-1),)}, "step 1: a hold is not negative"),
    ({"steps": (shadow(1, min_units=5), step(1))}, "step 1: a shadow compares requests"),
    ({"steps": (step(1, approval=Approval(by=())),)}, "step 1: an approval names who may give it"),
    ({"steps": (step(100),)}, "guardrails need a step below 100 %"),
    ({"steps": (shadow(5), step(100))}, "guardrail error_rate needs a step with less than 100 %"),
    ({"guardrails": (Guardrail(name="a"), Guardrail(name="a"))}, "guardrail names are distinct"),
    ({"alpha": 0.0}, "between 0 and 1"),
    ({"alpha": float("nan")}, "between 0 and 1"),
    ({"beta": 1.0}, "between 0 and 1"),
    ({"min_detect": 1.0}, "a ratio above 1"),
    ({"min_detect": float("inf")}, "a ratio above 1"),
    ({"max_duration_ms": 0}, "max_duration_ms is positive"),
    ({"rollback_window": -1}, "not negative"),
]


@pytest.mark.parametrize(("changes", "text"), BAD)
def test_bad_specs_are_refused(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        a_spec(**changes)


NEW: list[dict[str, Any]] = [
    {"salt": "other"},
    {"unit": "another"},
    {"stable_digest": "sha256:cc"},
    {"canary_digest": "sha256:cc"},
    {"alpha": 0.02},
    {"guardrails": (Guardrail(name="error_rate", margin="ratio=1.5"), Guardrail(name="latency", kind="latency"))},
    {"guardrails": (Guardrail(name="error_rate", margin="ratio=1.25"),)},
]
SAME: list[dict[str, Any]] = [
    {"steps": (step(5),)},
    {"beta": 0.1},
    {"min_detect": 2.0},
    {"signals": ()},
    {"max_duration_ms": 1},
    {"on_timeout": "promote"},
    {"four_eyes": True},
    {"rollback_window": 0},
    {"guardrails": tuple(reversed(a_spec().guardrails))},
]


@pytest.mark.parametrize("changes", NEW)
def test_what_begins_a_new_rollout(changes: dict[str, Any]) -> None:
    assert identity(a_spec(**changes)) != identity(a_spec())


@pytest.mark.parametrize("changes", SAME)
def test_what_keeps_the_rollout(changes: dict[str, Any]) -> None:
    assert identity(a_spec(**changes)) == identity(a_spec())


def test_digests_are_the_same_in_every_process() -> None:
    assert identity(a_spec()) == "6cd4d1bedad204541c8b105082684751"
    assert plan_digest(a_spec()) == "d9b23f356a9b2e4f6d1a17e8b1310e76"
    assert identity(None) == ""


def test_a_spec_comes_back_from_json() -> None:
    spec = a_spec(steps=(Step(slots=5, hold=Hold(approval=Approval(by=("ann",)))),))
    assert msgspec.json.decode(msgspec.json.encode(spec), type=RolloutSpec) == spec


def test_actions_come_back_from_json() -> None:
    log = Tower().until("PROMOTED").log
    assert msgspec.json.decode(msgspec.json.encode(log), type=list[Action]) == log


def test_a_status_of_a_newer_version_is_read_unless_it_means_something_unknown() -> None:
    data = encode(Tower().until("BAKING", at=2).status)
    assert encode(decode(data)) == data
    assert decode(data[:-1] + b',"mood":"good"}') == decode(data)
    with pytest.raises(msgspec.ValidationError, match="phase"):
        decode(encode(RolloutStatus()).replace(b'"IDLE"', b'"LOST"'))


@pytest.mark.parametrize(
    ("ms", "text"),
    [(0, "0 ms"), (999, "999 ms"), (1_000, "1 s"), (90_000, "1.5 min"), (3_600_000, "1 h"), (7 * 86_400_000, "7 d")],
)
def test_durations_in_words(ms: int, text: str) -> None:
    assert duration(ms) == text


def test_shares_and_names_in_words() -> None:
    assert [share(slots) for slots in (1, 50, 10_000)] == ["0.01 %", "0.5 %", "100 %"]
    assert listed(["a", "b", "c"], most=2) == "a, b and 1 more"
