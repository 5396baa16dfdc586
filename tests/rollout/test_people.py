"""Approvals and commands: who may, when it counts, and what is answered."""

from typing import Any

import pytest

from router.rollout.actions import Answer, Audit, ClearLocalZeros, Notify
from router.rollout.gates import may_approve
from router.rollout.machine import foreseen
from router.rollout.observed import Command, LocalZero
from router.rollout.spec import ALL_SLOTS, Approval, identity
from router.rollout.status import RolloutStatus
from tests.rollout.test_back import TRIP
from tests.rollout.tower import MINUTE, RELEASE, Tower, a_spec, change, command, of, step


def asked(tower: Tower, one: Command, **seen: Any) -> Answer:
    answers = of(tower.tick(one, **seen), Answer)
    assert [answer.command for answer in answers] == [one.id]
    found: Answer = answers[0]
    return found


MAY = [
    (("label:release",), "ann", ("release",), True),
    (("group:release",), "ann", ("release",), True),
    (("key:ann",), "ann", (), True),
    (("ann",), "ann", (), True),
    (("release",), "bob", ("release",), True),
    (("label:release",), "release", (), False),
    (("key:release",), "bob", ("release",), False),
    (("label:release",), "label:release", (), False),
    (("label:release",), "bob", ("label:release",), False),
    (("key:ann", "key:eve"), "bob", ("release",), False),
]


@pytest.mark.parametrize(("by", "actor", "labels", "may"), MAY)
def test_who_may_approve(by: tuple[str, ...], actor: str, labels: tuple[str, ...], may: bool) -> None:
    assert may_approve(Approval(by=by), actor, labels) is may


def test_a_step_with_an_approval_waits_for_it_for_ever_and_asks_once() -> None:
    tower = Tower(spec=a_spec(max_duration_ms=1_000_000 * MINUTE)).until("DECIDING", at=3)
    for _ in range(50):
        tower.tick(after_ms=100 * MINUTE)
    assert (tower.status.phase, tower.slots) == ("DECIDING", 5_000)
    assert tower.status.waits == ("approval by label:release missing",)
    assert [told.kind for told in of(tower.log, Notify)].count("approval") == 1
    answer = asked(tower, command("approve"))
    assert answer.ok
    assert tower.slots == ALL_SLOTS


def test_approval_is_the_last_gate() -> None:
    tower = Tower().until("DECIDING", at=3)
    tower.tick(command("approve"), fresh=False)
    assert tower.slots == 5_000
    tower.tick()
    assert tower.slots == ALL_SLOTS


def test_an_approval_expires() -> None:
    tower = Tower().until("DECIDING", at=3)
    tower.tick(command("approve"), window_open=False)
    tower.tick(after_ms=60 * MINUTE + 1)
    assert tower.status.waits == ("approval by label:release missing (that of ann expired after 1 h)",)
    tower.tick(command("approve", "bob"))
    assert tower.slots == ALL_SLOTS


REFUSED = [
    (command("approve", "mallory", labels=()), "mallory is none of them"),
    (command("approve", identity="another"), "another rollout has begun since; look again"),
    (command("approve", step=2), "the rollout is at step 4 by now; look again"),
    (command("resume"), "it is not paused"),
    (command("retry"), "only a rollout that is rolled back can be tried again"),
]


@pytest.mark.parametrize(("one", "text"), REFUSED)
def test_refusals_say_why_and_change_nothing(one: Command, text: str) -> None:
    tower = Tower().until("DECIDING", at=3)
    answer = asked(tower, one)
    assert (answer.ok, answer.text) == (False, text)
    assert (tower.slots, tower.status.approvals) == (5_000, ())


def test_a_step_without_approval_takes_none_in_advance() -> None:
    tower = Tower().until("BAKING", at=2)
    assert asked(tower, command("approve")).text == "step 3 asks for no approval"


def test_an_approval_is_for_one_step() -> None:
    steps = (step(1, approval=RELEASE), step(10, approval=RELEASE))
    tower = Tower(spec=a_spec(steps=steps)).until("DECIDING", at=0)
    tower.tick(command("approve"))
    for _ in range(20):
        tower.tick()
    assert (tower.status.phase, tower.status.step) == ("DECIDING", 1)


def test_an_approval_of_steps_that_are_being_edited_is_refused() -> None:
    tower = Tower().until("DECIDING", at=3)
    tower.spec = a_spec(steps=(step(1),))
    assert asked(tower, command("approve")).text == "the steps have just been edited; look again"


def test_four_eyes() -> None:
    tower = Tower(spec=a_spec(four_eyes=True)).until("DECIDING", at=3)
    refused = asked(tower, command("approve", "zoe"))
    assert refused.text == "zoe applied the policy, and fourEyes asks for somebody else"
    assert not asked(tower, command("promote", "zoe")).ok
    assert asked(tower, command("approve", "ann"), window_open=False).ok
    # Who agreed and then applies the policy no longer counts.
    tower.tick(applied_by="ann")
    assert tower.slots == 5_000
    tower.tick()
    assert tower.slots == ALL_SLOTS


@pytest.mark.parametrize("open_", [True, False])
def test_who_promotes_and_then_applies_has_promoted_nothing(open_: bool) -> None:
    tower = Tower(spec=a_spec(four_eyes=True)).until("BAKING", at=1)
    assert asked(tower, command("promote", "ann"), window_open=False).ok
    tower.tick(applied_by="ann", window_open=open_)
    for _ in range(5):
        tower.tick(applied_by="ann", fresh=False)
    assert (tower.status.force, tower.status.step) == (None, 1)
    assert "fourEyes asks for somebody else" in of(tower.log, Audit)[-1].reason
    # Another one's word counts.
    assert asked(tower, command("promote", "bob"), applied_by="ann").ok


def test_four_eyes_hold_until_the_end_of_a_rollout_that_had_them() -> None:
    tower = Tower(spec=a_spec(four_eyes=True)).until("BAKING", at=1)
    tower.spec = a_spec(four_eyes=False)
    assert not asked(tower, command("promote", "zoe")).ok
    tower.tick(command("abort", "zoe"))
    tower.until("ROLLED_BACK")
    assert asked(tower, command("retry", "zoe", reason="mended")).ok
    tower.until("BAKING", at=1)
    assert asked(tower, command("promote", "zoe", reason="again")).ok


def test_pause_stops_and_resume_goes_on() -> None:
    tower = Tower().until("BAKING", at=1)
    assert asked(tower, command("pause", reason="holiday")).ok
    held_ms = tower.status.held_ms
    for _ in range(20):
        tower.tick()
    assert (tower.status.state, tower.status.step, tower.status.held_ms) == ("PAUSED", 1, held_ms)
    assert tower.status.waits[0] == "paused by ann: holiday"
    assert asked(tower, command("pause", "bob", reason="me too")).ok
    assert tower.status.waits[0] == "paused by ann: holiday"
    assert asked(tower, command("resume")).ok
    tower.until("BAKING", at=2)


@pytest.mark.parametrize("phase", ["VALIDATED", "PREPARING", "SHADOWING", "DECIDING", "PROMOTING"])
def test_pause_stops_everything_that_gives_the_canary_more(phase: str) -> None:
    tower = Tower().until(phase)
    slots = tower.slots
    tower.tick(command("pause"), command("promote"))
    for _ in range(10):
        tower.tick()
    assert tower.slots == slots
    assert tower.status.phase != "PROMOTED"


def test_a_local_zero_holds_until_somebody_resumes() -> None:
    zeroed = (LocalZero("w1", "5 failures in a row"), LocalZero("w2", "runtime gone"))
    tower = Tower().until("BAKING", at=1)
    tower.tick(zeroed=zeroed)
    assert tower.status.state == "HOLDING"
    actions = tower.tick(command("resume"), zeroed=zeroed)
    assert of(actions, ClearLocalZeros) == [ClearLocalZeros(("w1", "w2"))]


def test_a_promotion_without_a_reason_ends_no_sentence_in_the_air() -> None:
    tower = Tower(spec=a_spec(steps=(step(1, min_units=10**9),)), changes={"verdicts": {}}).until("BAKING", at=0)
    assert asked(tower, command("promote", reason="")).ok
    tower.until("PROMOTED")
    assert "before all evidence was there" in [one.reason for one in of(tower.log, Audit)]


def test_promote_by_hand_skips_evidence_and_stops_at_approvals() -> None:
    steps = (step(1, min_units=10**9), step(10, approval=RELEASE), step(50, min_units=10**9))
    tower = Tower(spec=a_spec(steps=steps), changes={"verdicts": {}}).until("BAKING", at=0)
    assert asked(tower, command("promote", reason="we know it")).ok
    for _ in range(20):
        tower.tick()
    assert (tower.status.phase, tower.status.step, tower.slots) == ("DECIDING", 1, 1_000)
    tower.until("PROMOTED")
    assert not tower.status.cleared
    promoting = next(one for one in of(tower.log, Audit) if one.what == "promoting")
    assert (promoting.actor, promoting.reason) == ("ann", "before all evidence was there: we know it")


@pytest.mark.parametrize("seen", [{"fresh": False}, {"store": False}, {"window_open": False}, {"canary_ready": False}])
def test_promote_by_hand_needs_a_view_a_store_and_a_window(seen: dict[str, Any]) -> None:
    tower = Tower().until("BAKING", at=1)
    tower.tick(command("promote"))
    for _ in range(20):
        tower.tick(**seen)
    assert tower.slots == 100


def test_promote_by_hand_overrides_signals_and_counts_but_no_tripped_guardrail() -> None:
    tower = Tower(changes={"signals": ("queue_wait",), "srm_p": 0.0})
    tower.until("PREPARING")
    tower.tick(command("promote"))
    tower.until("DECIDING", at=3)
    tower.tick(**TRIP)
    assert tower.status.phase == "ABORTING"


def test_nothing_is_promoted_once_a_guardrail_has_tripped() -> None:
    tower = Tower().until("BAKING", at=1)
    actions = tower.tick(command("promote"), **TRIP)
    assert of(actions, Answer)[0].text == "guardrail error_rate has tripped; abort it"


def test_a_command_that_comes_twice_is_done_once() -> None:
    tower = Tower().until("BAKING", at=1)
    pause, resume = command("pause", id="1"), command("resume", id="2")
    tower.tick(pause)
    tower.tick(resume)
    assert of(tower.tick(pause), Answer) == []
    assert tower.status.paused is None


def test_after_promotion_abort_names_the_way_back() -> None:
    tower = Tower().until("PROMOTED")
    answer = asked(tower, command("abort"))
    assert not answer.ok
    assert "policy rollback" in answer.text


@pytest.mark.parametrize("kind", ["approve", "pause", "resume", "abort", "promote", "retry"])
def test_without_a_rollout_every_command_is_refused_in_words(kind: Any) -> None:
    tower = Tower(spec=None)
    answer = asked(tower, command(kind))
    assert not answer.ok
    assert answer.text


def test_a_document_in_force_shows_its_rollout_before_the_controller_has_looked() -> None:
    spec, fresh = a_spec(), RolloutStatus()
    assert foreseen(None, fresh, 1, "ann") is fresh
    first = foreseen(spec, fresh, 1, "ann")
    assert (first.state, first.identity, first.history[-1].actor) == ("DRAFT", identity(spec), "ann")


@pytest.mark.parametrize("end", ["PROMOTED", "ROLLED_BACK"])
def test_the_end_of_a_rollout_is_not_shown_as_the_end_of_the_next(end: str) -> None:
    tower = Tower().until("DECIDING", at=3)
    tower.tick(command("approve" if end == "PROMOTED" else "abort"))
    tower.until(end)
    assert foreseen(tower.spec, tower.status, 9, "ann") is tower.status
    wanted = change(tower.spec, salt="another")
    if end == "PROMOTED":
        wanted = change(wanted, stable_digest=tower.spec.canary_digest, canary_digest="sha256:third")
    seen = foreseen(wanted, tower.status, 9, "ann")
    tower.spec = wanted
    tower.tick()
    for field in ("phase", "identity", "step", "slots", "reason", "stable_digest", "canary_digest", "plan"):
        assert getattr(seen, field) == getattr(tower.status, field), field
    assert seen.state == "DRAFT"
    assert foreseen(wanted, tower.status, 9, "ann") is tower.status


@pytest.mark.parametrize("end", ["PROMOTED", "ROLLED_BACK"])
def test_an_abort_right_after_a_document_means_what_the_document_asks_for(end: str) -> None:
    tower = Tower().until("DECIDING", at=3)
    tower.tick(command("approve" if end == "PROMOTED" else "abort"))
    tower.until(end)
    tower.spec = change(tower.spec, salt="another")
    if end == "PROMOTED":
        tower.spec = change(tower.spec, stable_digest=tower.spec.canary_digest, canary_digest="sha256:third")
    answer = asked(tower, command("abort", reason="a mistake"))
    assert (answer.ok, answer.text) == (True, "aborted: stable answers everything again")
    tower.until("ROLLED_BACK")
    assert tower.status.identity == identity(tower.spec)
    for _ in range(20):
        tower.tick()
    assert (tower.status.phase, tower.slots) == ("ROLLED_BACK", 0)


@pytest.mark.parametrize("at", [1, 3])
def test_nothing_promotes_a_canary_that_somebody_has_killed(at: int) -> None:
    """It gets no request, whatever else is said; a rollback would have to be asked for."""
    tower = Tower().until("DECIDING", at=at)
    slots = tower.slots
    for _ in range(3):
        tower.tick(command("approve"), killed=True)
    assert (tower.status.phase, tower.slots) == ("DECIDING", slots)
    assert "the canary is killed; whoever lets it in again lets this go on" in tower.status.waits
    answer = asked(tower, command("promote", "bob"), killed=True)
    assert (answer.ok, answer.text) == (False, "the canary is killed; let it in again first")
    tower.tick(command("approve"))
    tower.tick()
    assert tower.slots > slots


def test_a_canary_killed_at_all_users_is_not_promoted() -> None:
    tower = Tower().until("PROMOTING")
    for _ in range(5):
        tower.tick(killed=True)
    assert tower.status.phase == "PROMOTING"
    tower.tick()
    tower.tick()
    assert tower.status.phase == "PROMOTED"


def test_a_promotion_asked_for_before_a_kill_is_not_carried_out_after_it() -> None:
    """Whoever asked for it had not seen what it was killed for."""
    tower = Tower().until("BAKING", at=1)
    tower.tick(command("promote", "bob"), window_open=False)
    assert tower.status.force is not None
    tower.tick(killed=True)
    assert tower.status.force is None
    for _ in range(3):
        tower.tick()
    assert tower.status.phase != "PROMOTED"
    assert tower.slots < ALL_SLOTS
