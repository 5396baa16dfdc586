"""Stable answers for the canary while the monitor's lease holds: no step, no clean time, and everything comes back."""

from typing import Any

import msgspec
import pytest

from router.rollout.actions import Audit, SetWeight, Withhold, Zero
from router.rollout.observed import MonitorLease
from tests.rollout.tower import MINUTE, TRIPPED, Tower, command, of

LAST = 5 * MINUTE


def lease(tower: Tower, do: Any = "fallback", granted_ms: int | None = None) -> MonitorLease:
    granted = tower.now_ms if granted_ms is None else granted_ms
    until_ms = tower.now_ms + LAST
    return MonitorLease(do=do, reason="canary is slow.", evidence="m/1/2", granted_ms=granted, until_ms=until_ms)


def falling_back(phase: str = "BAKING", at: int | None = 2) -> Tower:
    tower = Tower().until(phase, at=at)
    slots = tower.status.slots
    actions = tower.tick(monitor=lease(tower))
    assert [action.digest for action in of(actions, Withhold)] == ["sha256:bb"]
    assert of(actions, Zero) == of(actions, SetWeight) == []
    assert tower.status.fallback is not None
    assert (tower.status.state, tower.status.slots) == ("HOLDING", slots)
    (record,) = [one for one in of(actions, Audit) if one.what == "fallback"]
    assert (record.actor, record.slots_before, record.slots_after) == ("auto:monitor", slots, slots)
    assert "m/1/2" in record.reason
    return tower


@pytest.mark.parametrize(("phase", "at"), [("PROPAGATING", 1), ("BAKING", 2), ("DECIDING", 2), ("PROMOTING", None)])
def test_nothing_goes_on_while_it_holds_and_time_is_not_clean(phase: str, at: int | None) -> None:
    tower = falling_back(phase, at)
    step, held_ms, slots = tower.status.step, tower.status.held_ms, tower.status.slots
    for _ in range(30):
        tower.tick(monitor=lease(tower, granted_ms=1_000_000))
    status = tower.status
    assert (status.step, status.held_ms, status.slots) == (step, held_ms, slots)
    assert status.phase not in ("PROMOTED", "ROLLED_BACK")
    assert [one for one in tower.log if isinstance(one, Withhold)] == [Withhold("sha256:bb")], "said once"
    assert any("Stable answers for the canary" in one for one in status.waits)


def test_it_comes_back_with_its_users_and_begins_the_step_anew_when_the_lease_is_over() -> None:
    tower = falling_back()
    visit, slots = tower.status.visit, tower.status.slots
    assert tower.status.fallback is not None
    while tower.now_ms + 1_000 < tower.status.fallback.until_ms:
        tower.tick()
        assert tower.status.fallback is not None, "a controller that knows of no lease keeps to the one it has seen"
    tower.tick()
    assert tower.status.fallback is None
    assert of(tower.log, SetWeight)[-1] == SetWeight(slots)
    assert (tower.status.phase, tower.status.step) == ("APPLYING", 2)
    assert (tower.status.visit, tower.status.held_ms) == (visit + 1, 0)
    tower.until("DECIDING", at=3)


def test_a_person_lets_it_back_at_once_and_the_lease_counts_no_more() -> None:
    tower = falling_back()
    held = lease(tower)
    actions = tower.tick(command("resume"), monitor=held)
    assert tower.status.fallback is None
    (record,) = [one for one in of(actions, Audit) if one.what == "step"]
    assert record.actor == "ann"
    for _ in range(3):
        tower.tick(monitor=msgspec.structs.replace(held, until_ms=tower.now_ms + LAST))
        assert tower.status.fallback is None
    tower.tick(monitor=lease(tower))
    assert tower.status.fallback is not None, "another lease is another matter"


def test_it_does_not_come_back_while_something_else_holds_or_it_is_paused() -> None:
    for against in ({"signals": ("queue_wait",)}, {"fresh": False}, {"acked_revision": 0}):
        tower = falling_back()
        tower.tick(after_ms=LAST + 1_000, **against)
        assert tower.status.fallback is not None
        tower.tick()
        assert tower.status.fallback is None
    tower = falling_back()
    tower.tick(command("pause"))
    tower.tick(after_ms=LAST + 1_000)
    assert tower.status.fallback is not None
    tower.tick(command("resume"))
    assert tower.status.fallback is None


def test_a_guardrail_and_a_person_still_roll_back() -> None:
    for command_, changes in (((), {"verdicts": {"error_rate": TRIPPED}}), ((command("abort"),), {})):
        tower = falling_back()
        actions = tower.tick(*command_, monitor=lease(tower), **changes)  # type: ignore[arg-type]
        assert tower.status.phase == "ABORTING"
        assert tower.status.fallback is None
        assert len(of(actions, Zero)) == 1


def test_a_promotion_by_hand_overrules_it() -> None:
    tower = falling_back()
    held = lease(tower)
    tower.tick(command("promote"), monitor=held)
    assert tower.status.fallback is None
    tower.tick(monitor=lease(tower))
    assert tower.status.fallback is None, "who promotes in spite of everything has decided on this, too"


def test_a_canary_without_users_is_held_and_has_nothing_to_withhold() -> None:
    tower = Tower().until("SHADOWING")
    actions = tower.tick(monitor=lease(tower))
    assert of(actions, Withhold) == []
    assert tower.status.state == "HOLDING"
    tower.tick(command("resume"), monitor=lease(tower))
    assert tower.status.state == "DECIDING"
