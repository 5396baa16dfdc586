"""Leases: once per cool-down, on trials only, fenced, and over by themselves."""

import json
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.monitor.attribution import Action
from gateway.monitor.leases import (
    COOLDOWN_S,
    LEASES,
    TTL_S,
    Ask,
    Lease,
    Leases,
    Level,
    Limits,
    Role,
    give_back,
    goes_on,
    grant,
    in_force,
    leases_of,
    level_of,
)

NOW_S = 1_000_000.0


def ask(**more: Any) -> Ask:
    plain: dict[str, Any] = {
        "model": "credit", "version": "2", "variant": "canary", "role": "canary", "level": "rollback",
        "reason": "The answers of canary alone have shifted.", "evidence_id": "credit/1/1", "revision": 7,
    }  # fmt: skip
    return Ask(**{**plain, **more})


def read(leases: Leases, now_s: float, **more: Any) -> Lease | None:
    place: dict[str, Any] = {"model": "credit", "version": "2", "variant": "canary", "revision": 7}
    return in_force(leases.held, now_s, **{**place, **more})


@pytest.mark.parametrize(
    ("action", "allowed", "level"),
    [
        ("rollback", "rollback", "rollback"),
        ("rollback", "fallback", "fallback"),
        ("rollback", "freeze", "freeze"),
        ("rollback", "observe", "observe"),
        ("freeze", "rollback", "freeze"),
        ("freeze", "observe", "observe"),
        *((action, "rollback", "observe") for action in ("none", "wait", "page", "eject", "retrain")),
    ],
)
def test_levels(action: Action, allowed: Level, level: Level):
    assert level_of(action, allowed) == level


def test_a_lease_is_read_until_it_ends():
    leases, lease, why = grant(Leases(), ask(), NOW_S, token=3)
    assert lease is not None
    assert (why, lease.level, lease.fence, lease.expires_at) == ("granted", "rollback", 3, NOW_S + TTL_S)
    assert read(leases, NOW_S) == lease
    assert read(leases, NOW_S, fence=3) == lease
    assert read(leases, NOW_S + TTL_S - 0.001) == lease
    assert read(leases, NOW_S + TTL_S) is None


@pytest.mark.parametrize(
    "other", [{"model": "m"}, {"version": "3"}, {"variant": "stable"}, {"revision": 8}, {"fence": 4}]
)
def test_a_lease_on_something_else_is_not_obeyed(other: dict[str, Any]):
    leases, _, _ = grant(Leases(), ask(), NOW_S, token=3)
    assert read(leases, NOW_S, **other) is None


def test_one_action_per_cooldown_and_the_same_one_only_goes_on():
    leases, first, _ = grant(Leases(), ask(level="freeze"), NOW_S, token=1)
    later_s = NOW_S
    for _ in range(20):
        later_s += TTL_S - 1
        leases, longer, why = grant(leases, ask(level="freeze", evidence_id="credit/1/9"), later_s, token=1)
        assert first is not None
        assert longer is not None
        assert (why, longer.granted_s, longer.evidence_id) == ("extended", NOW_S, "credit/1/1")
        assert longer.expires_at == later_s + TTL_S
    leases = give_back(leases, "credit", token=1)
    assert read(leases, later_s) is None
    leases, lease, _ = grant(leases, ask(), later_s, token=1)
    assert lease is not None, "the cool-down counts from the grant"
    leases = give_back(leases, "credit", token=1)
    _, lease, why = grant(leases, ask(variant="shadow", role="shadow"), later_s + COOLDOWN_S - 1, token=1)
    assert (lease, why) == (None, "the last automatic action is less than 1800 s ago")
    _, lease, _ = grant(leases, ask(), later_s + COOLDOWN_S, token=1)
    assert lease is not None


def test_an_escalation_waits_for_the_cooldown():
    leases, _, _ = grant(Leases(), ask(level="freeze"), NOW_S, token=1)
    _, lease, why = grant(leases, ask(), NOW_S + 10, token=1)
    assert lease is None
    assert "less than" in why


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        (ask(level="observe"), "only observed"),
        (ask(role="stable"), "the monitor acts on canary and shadow only, this is stable"),
        (ask(role="none"), "the monitor acts on canary and shadow only, this is none"),
    ],
)
def test_refusals_cost_no_cooldown(asked: Ask, why: str):
    leases, lease, reason = grant(Leases(), asked, NOW_S, token=1)
    assert (lease, reason, leases) == (None, why, Leases())


def test_stable_where_settings_say_so():
    _, lease, _ = grant(Leases(), ask(role="stable"), NOW_S, token=1, limits=Limits(roles=frozenset(get_args(Role))))
    assert lease is not None


def test_a_fallback_lasts_as_long_as_the_cool_down_unless_somebody_else_is_to_blame():
    _, lease, _ = grant(Leases(), ask(level="fallback"), NOW_S, token=1)
    for action in ("none", "wait", "freeze", "rollback"):
        assert goes_on(lease, action, NOW_S + COOLDOWN_S - 1, COOLDOWN_S), "nothing is learned without traffic"
        assert not goes_on(lease, action, NOW_S + COOLDOWN_S, COOLDOWN_S)
    for action in ("page", "retrain", "eject"):
        assert not goes_on(lease, action, NOW_S + 1, COOLDOWN_S)
    _, other, _ = grant(Leases(), ask(level="rollback"), NOW_S, token=1)
    assert not goes_on(other, "wait", NOW_S + 1, COOLDOWN_S)
    assert not goes_on(None, "wait", NOW_S + 1, COOLDOWN_S)


def test_an_old_controller_writes_nothing():
    leases, _, _ = grant(Leases(), ask(), NOW_S, token=5)
    after, lease, why = grant(leases, ask(model="other"), NOW_S, token=4)
    assert (after, lease, why) == (leases, None, "another controller has taken over")
    assert give_back(leases, "credit", token=4) == leases
    after, lease, why = grant(leases, ask(), NOW_S + 1, token=6)
    assert lease is not None
    assert (after.fence, lease.fence, why) == (6, 6, "extended")


def test_the_strongest_counts():
    leases = [
        Lease(
            model="m", version="1", variant="c", level=level, reason="", evidence_id="", revision=1, fence=1,
            granted_s=0.0, expires_at=10.0,
        )
        for level in ("freeze", "rollback", "fallback", "observe")
    ]  # fmt: skip
    found = in_force(leases, 5.0, model="m", version="1", variant="c", revision=1)
    assert found is not None
    assert found.level == "rollback"


def test_bounded():
    leases = Leases()
    for number in range(LEASES):
        leases, lease, _ = grant(leases, ask(model=f"m{number}"), NOW_S, token=1)
        assert lease is not None
    _, lease, why = grant(leases, ask(model="one more"), NOW_S, token=1)
    assert lease is None
    assert "1000 leases" in why
    leases, lease, _ = grant(leases, ask(model="one more"), NOW_S + COOLDOWN_S, token=1)
    assert len(leases.held) == len(leases.acted_s) == 1, "what has ended is forgotten"


steps = st.tuples(
    st.builds(
        ask,
        model=st.sampled_from(["a", "b"]),
        variant=st.sampled_from(["canary", "shadow"]),
        role=st.sampled_from(get_args(Role)),
        level=st.sampled_from(get_args(Level)),
        revision=st.integers(1, 2),
    ),
    st.floats(0, COOLDOWN_S),
    st.integers(1, 3),
    st.booleans(),
)


@given(st.lists(steps, max_size=40))
@settings(max_examples=200, deadline=None)
def test_laws(script: list[tuple[Ask, float, int, bool]]):
    leases, now_s, granted, fence = Leases(), 0.0, {}, 0
    for asked, later_s, token, back in script:
        now_s += later_s
        leases, lease, why = grant(leases, asked, now_s, token=token)
        assert leases_of(json.loads(json.dumps(leases.plain()))) == leases
        assert leases.fence >= fence
        fence = leases.fence
        if lease is not None:
            assert token == fence
            assert asked.role in ("canary", "shadow")
            assert asked.level != "observe"
            assert lease.expires_at == now_s + TTL_S
            if why == "granted":
                assert now_s - granted.get(asked.model, -COOLDOWN_S) >= COOLDOWN_S
                granted[asked.model] = now_s
        if back:
            leases = give_back(leases, asked.model, token=token)
        models = [one.model for one in leases.held]
        assert len(models) == len(set(models))


@pytest.mark.parametrize("value", [None, [], {"held": [{}]}, {"fence": "1"}])
def test_what_is_no_state_is_refused(value: object):
    with pytest.raises(msgspec.ValidationError):
        leases_of(value)
