"""Back: rollback at any time in one write, the latch, being superseded, life without store or controller."""

from typing import Any

import msgspec
import pytest

from router.rollout.actions import Answer, Audit, Notify, Promote, SetWeight, Unload, Zero, ZeroHere
from router.rollout.machine import STORE_AWAY, advance
from router.rollout.observed import Verdict
from router.rollout.spec import Guardrail, OnFailure, Signal, identity
from router.rollout.status import MAX_LATCHES, Latch, RolloutStatus, recover, wanted
from tests.rollout.tower import MINUTE, PASSES, SECOND, TRIPPED, Tower, a_spec, change, command, kinds, of, step

TRIP = {"verdicts": {"error_rate": TRIPPED, "latency": PASSES}}
PHASES = ["VALIDATED", "PREPARING", "APPLYING", "PROPAGATING", "SHADOWING", "BAKING", "DECIDING", "PROMOTING"]


@pytest.mark.parametrize("phase", PHASES)
def test_a_tripped_guardrail_rolls_back_from_any_phase_in_one_write(phase: str) -> None:
    tower = Tower().until(phase)
    actions = tower.tick(**TRIP)
    assert kinds(actions) == ["Zero", "Audit", "Notify"]
    assert (tower.status.phase, tower.slots, tower.shadow_slots) == ("ABORTING", 0, 0)
    record = of(actions, Audit)[0]
    assert (record.actor, record.what) == ("auto:guardrail:error_rate", "abort")
    assert record.marks["error_rate"].state == "tripped"
    assert "31 of 40 bad requests" in record.reason
    assert tower.status.latched
    # What tripped is shown so afterwards, too: nothing is judged any more.
    tower.tick()
    assert tower.status.marks["error_rate"].state == "tripped"


@pytest.mark.parametrize("blind", [{"fresh": False}, {"acked_revision": 0}, {"window_open": False}, {"srm_p": 0.0}])
def test_nothing_that_is_missing_keeps_it_from_rolling_back(blind: dict[str, Any]) -> None:
    tower = Tower().until("BAKING", at=1)
    tower.tick(command("pause"))
    tower.tick(**TRIP, **blind)
    assert tower.status.phase == "ABORTING"


CAUSES: list[tuple[dict[str, Any], str]] = [
    ({"canary_crashes": 3}, "auto:crashes"),
    ({"signals": ("output_drift",)}, "auto:signal:output_drift"),
]


@pytest.mark.parametrize(("seen", "actor"), CAUSES)
def test_other_causes_of_a_rollback(seen: dict[str, Any], actor: str) -> None:
    signals = (Signal(name="queue_wait"), Signal(name="output_drift", outside_alpha=True))
    tower = Tower(spec=a_spec(signals=signals)).until("BAKING", at=1)
    tower.tick(canary_crashes=2, signals=("unknown",))
    assert tower.status.phase == "BAKING"
    assert of(tower.tick(**seen), Audit)[0].actor == actor


def test_three_crashes_roll_back_whatever_the_policy_does_on_failure() -> None:
    tower = Tower(spec=a_spec(on_failure=OnFailure(do="warn"))).until("BAKING", at=1)
    tower.tick(canary_crashes=3)
    assert tower.status.phase == "ABORTING"


def test_max_duration_may_roll_back() -> None:
    tower = Tower(spec=a_spec(on_timeout="rollback", max_duration_ms=60 * MINUTE)).until("BAKING", at=1)
    while tower.status.phase == "BAKING":
        tower.watch(MINUTE // 6, canary_units=0)
    assert 59 * MINUTE < tower.now_ms - tower.status.started_at_ms <= 61 * MINUTE
    assert (tower.status.phase, tower.status.reason) == ("ABORTING", "maxDuration of 1 h is over")


def test_a_verdict_about_another_rollout_rolls_nothing_back() -> None:
    tower = Tower().until("BAKING", at=1)
    tower.tick(**TRIP, identity="the one before")
    assert tower.status.phase == "BAKING"


def test_a_rollback_is_done_when_every_live_worker_has_it() -> None:
    tower = Tower().until("BAKING", at=1)
    tower.tick(**TRIP)
    awaited = tower.status.awaits_revision
    for _ in range(3):
        tower.tick(acked_revision=awaited - 1, lagging=("w2",), unreachable=("node-c",))
        assert tower.status.phase == "ABORTING"
    assert tower.status.waits == (f"w2 has not applied revision {awaited}",)
    assert tower.status.unacknowledged == ("node-c", "w2")
    tower.tick(unreachable=("node-c",))
    assert (tower.status.phase, tower.status.unacknowledged) == ("ROLLED_BACK", ("node-c",))
    tower.tick()
    assert tower.status.unacknowledged == ()


def test_the_canary_leaves_memory_after_routers_and_keep_loaded() -> None:
    tower = Tower().until("BAKING", at=1)
    tower.tick(**TRIP)
    assert "sha256:bb" in wanted(tower.status)
    tower.tick()
    tower.tick(after_ms=30 * MINUTE - SECOND)
    assert not of(tower.log, Unload)
    assert of(tower.tick(after_ms=SECOND), Unload) == [Unload("sha256:bb")]
    assert "sha256:bb" not in wanted(tower.status)


def rolled_back() -> Tower:
    tower = Tower().until("BAKING", at=2)
    tower.tick(command("abort", reason="looks odd"))
    tower.tick()
    assert tower.status.phase == "ROLLED_BACK"
    tower.log.clear()
    return tower


def test_the_same_spec_never_starts_again_by_itself() -> None:
    tower = rolled_back()
    for token in (1, 2, 3):
        tower.token = token
        tower.tick(after_ms=100 * MINUTE)
    assert (tower.status.phase, tower.slots) == ("ROLLED_BACK", 0)
    assert not of(tower.log, SetWeight)


def test_the_latch_survives_being_taken_away_and_applied_again() -> None:
    tower = rolled_back()
    again, tower.spec = tower.spec, None
    tower.tick()
    assert tower.status.phase == "IDLE"
    tower.spec = again
    for _ in range(5):
        tower.tick()
    assert tower.status.phase == "ROLLED_BACK"
    assert tower.status.reason == "rolled back before by ann: looks odd; `retry` starts it again"
    assert not of(tower.log, SetWeight)


def test_the_latch_survives_other_rollouts_and_edits_that_keep_the_rollout() -> None:
    tower = rolled_back()
    tower.spec = a_spec(canary_digest="sha256:cc")
    tower.tick()
    tower.until("PROMOTED")
    tower.log.clear()
    tower.spec = a_spec(steps=(step(5), step(20)), four_eyes=True)
    for _ in range(5):
        tower.tick()
    assert tower.status.phase == "ROLLED_BACK"
    assert not of(tower.log, SetWeight)


def test_another_canary_or_other_guardrails_are_another_rollout() -> None:
    tower = rolled_back()
    tower.spec = a_spec(guardrails=(Guardrail(name="error_rate", margin="ratio=1.5"),))
    tower.tick()
    tower.until("BAKING", at=1)
    assert len(tower.status.latches) == 1


def test_aborting_what_is_latched_already_keeps_one_latch() -> None:
    tower = rolled_back()
    again, tower.spec = tower.spec, None
    tower.tick()
    tower.spec = again
    tower.tick()
    assert tower.status.phase == "DRAFT"
    tower.tick(command("abort", id="again"))
    assert [latch.reason for latch in tower.status.latches] == ["looks odd"]


def test_what_is_tried_again_is_not_unloaded() -> None:
    tower = rolled_back()
    tower.tick(command("retry"))
    for _ in range(40):
        tower.tick(after_ms=MINUTE, fresh=False)
    assert tower.status.phase == "PREPARING"
    assert not of(tower.log, Unload)
    assert "sha256:bb" in wanted(tower.status)


def test_a_new_rollout_takes_nothing_over() -> None:
    tower = Tower(changes={"evidence": "7"}).until("BAKING", at=3)
    tower.tick(command("promote"), command("approve"))
    assert tower.status.force is not None
    assert tower.status.approvals
    tower.spec = a_spec(canary_digest="sha256:cc")
    tower.tick()
    old = tower.status.identity
    tower.tick(identity=old)
    assert tower.status.phase == "DRAFT"
    assert (tower.status.force, tower.status.approvals, tower.status.evidence) == (None, (), "")
    tower.tick(identity=old)
    assert tower.status.evidence == ""
    tower.tick()
    assert tower.status.evidence == "7"


def test_after_a_promotion_by_hand_the_next_rollout_is_not_forced() -> None:
    tower = Tower().until("BAKING", at=3)
    tower.tick(command("promote"))
    tower.until("PROMOTED")
    tower.spec = a_spec(stable_digest="sha256:bb", canary_digest="sha256:cc")
    tower.tick()
    assert (tower.status.phase, tower.status.force, tower.status.approvals) == ("DRAFT", None, ())


def test_retry_clears_the_latch_and_begins_at_the_first_step() -> None:
    tower = rolled_back()
    tower.tick(command("retry", reason=""))
    assert tower.status.phase == "ROLLED_BACK"
    tower.tick(command("retry", reason="the feature table is mended"))
    assert (tower.status.phase, tower.status.latches, tower.status.held_ms) == ("DRAFT", (), 0)
    tower.until("PROMOTED")


def test_abort_again_changes_nothing() -> None:
    tower = Tower().until("BAKING", at=1)
    tower.tick(command("abort", id="1"))
    actions = tower.tick(command("abort", id="2"))
    assert kinds(actions)[0] == "Answer"
    assert not of(actions, Zero)
    actions = tower.tick(command("abort", id="3"))
    assert [action.ok for action in of(actions, Answer)] == [True]
    assert len(tower.status.latches) == 1


def test_an_abort_wins_over_what_else_is_asked_for_in_the_same_tick() -> None:
    tower = Tower().until("DECIDING", at=3)
    actions = tower.tick(command("promote"), command("approve"), command("abort"))
    assert of(actions, Answer)[0].command == command("abort").id
    assert (tower.status.phase, tower.slots) == ("ABORTING", 0)
    assert not of(actions, SetWeight)


def test_latches_are_never_dropped_to_make_room() -> None:
    latches = tuple(Latch(f"{n:032x}", "sha256:dd", "ann", n, "bad") for n in range(MAX_LATCHES))
    tower = Tower(status=RolloutStatus(latches=latches))
    for _ in range(5):
        tower.tick()
    assert (tower.status.phase, tower.status.latches) == ("DRAFT", latches)
    assert tower.status.waits == ("256 rolled back rollouts are latched; `retry` takes one away",)
    tower.tick(command("abort"))
    assert tower.status.latches == latches


# ---- superseded ----


@pytest.mark.parametrize("phase", PHASES)
def test_a_new_spec_takes_everything_from_the_old_canary_before_the_new_one_gets_anything(phase: str) -> None:
    tower = Tower().until(phase)
    tower.spec = a_spec(canary_digest="sha256:cc")
    actions = tower.tick()
    assert of(actions, Zero) == [Zero("sha256:bb", "the policy wants another rollout")]
    assert (tower.status.phase, tower.slots, tower.shadow_slots) == ("SUPERSEDED", 0, 0)
    tower.tick(acked_revision=tower.status.awaits_revision - 1)
    assert tower.status.phase == "SUPERSEDED"
    tower.tick()
    assert (tower.status.phase, tower.status.identity) == ("DRAFT", identity(tower.spec))
    assert (tower.status.latches, tower.status.evidence, tower.status.marks["error_rate"].state) == (
        (),
        "",
        "insufficient",
    )
    assert {"sha256:aa", "sha256:bb", "sha256:cc"} == wanted(tower.status)
    tower.until("PROMOTED")
    assert tower.stable == "sha256:cc"


def test_a_rollout_that_the_policy_no_longer_names_is_zeroed() -> None:
    tower = Tower().until("BAKING", at=2)
    tower.spec = None
    tower.tick()
    assert (tower.status.phase, tower.slots) == ("SUPERSEDED", 0)
    tower.tick()
    assert tower.status.phase == "IDLE"
    assert tower.tick() == []


def test_an_edit_that_keeps_the_rollout_keeps_its_evidence() -> None:
    tower = Tower(changes={"evidence": '{"log_e":1.5}'}).until("BAKING", at=2)
    assert tower.spec is not None
    tower.spec = change(tower.spec, max_duration_ms=MINUTE * 10_000, beta=0.01)
    tower.tick()
    assert (tower.status.phase, tower.status.evidence) == ("BAKING", '{"log_e":1.5}')


def test_a_rollback_that_is_on_its_way_ends_before_a_new_rollout_begins() -> None:
    tower = Tower().until("BAKING", at=1)
    tower.tick(**TRIP)
    old = tower.status.identity
    tower.spec = a_spec(canary_digest="sha256:cc")
    tower.tick(acked_revision=0)
    assert tower.status.phase == "ABORTING"
    tower.until("BAKING", at=1)
    assert [latch.identity for latch in tower.status.latches] == [old]


# ---- the store is away, controllers come and go ----


def test_without_the_store_nothing_is_decided() -> None:
    tower = Tower().until("DECIDING", at=1)
    before = tower.status
    for _ in range(10):
        assert tower.tick(store=False) == []
    assert tower.status.waits[0] == STORE_AWAY
    assert (tower.status.phase, tower.status.step, tower.status.history) == ("DECIDING", 1, before.history)
    tower.tick()
    assert tower.status.step == 2


def test_without_the_store_harm_zeroes_this_node_and_is_written_later() -> None:
    tower = Tower().until("BAKING", at=2)
    actions = tower.tick(**TRIP, store=False)
    assert kinds(actions) == ["ZeroHere"]
    assert kinds(tower.tick(store=False)) == ["ZeroHere"]
    assert tower.status.phase == "BAKING"
    actions = tower.tick()
    assert tower.status.phase == "ABORTING"
    assert of(actions, Audit)[0].actor == "auto:guardrail:error_rate"


def test_without_the_store_a_person_may_still_abort_and_nothing_else() -> None:
    tower = Tower().until("DECIDING", at=3)
    actions = tower.tick(command("promote"), command("approve"), command("abort", "bob", reason="fire"), store=False)
    assert [action.ok for action in of(actions, Answer)] == [False, False, True]
    assert of(actions, ZeroHere) == [ZeroHere("sha256:bb", "fire")]
    assert of(tower.tick(), Audit)[0].actor == "bob"


def test_a_rollback_decided_without_the_store_survives_the_controller() -> None:
    tower = Tower().until("BAKING", at=2)
    stored = tower.status
    tower.tick(**TRIP, store=False)
    tower.status, tower.token = recover(stored, tower.status), 2
    tower.tick()
    assert tower.status.phase == "ABORTING"


def test_a_rollback_decided_without_the_store_is_not_carried_to_another_rollout() -> None:
    tower = Tower().until("BAKING", at=2)
    tower.tick(**TRIP, store=False)
    other = Tower(spec=a_spec(canary_digest="sha256:cc"), revision=50).until("BAKING", at=2)
    assert recover(other.status, tower.status) == other.status


def test_a_newer_status_on_disk_wins_over_a_store_that_lost_writes() -> None:
    tower = Tower().until("BAKING", at=1)
    older = tower.status
    tower.until("BAKING", at=2)
    assert recover(older, tower.status) == tower.status
    assert recover(tower.status, older) == tower.status


def test_a_rollback_decided_without_the_store_is_over_when_it_is_rolled_back() -> None:
    tower = Tower().until("BAKING", at=2)
    tower.tick(**TRIP, store=False)
    local = tower.status
    tower.tick()
    tower.tick()
    assert recover(tower.status, msgspec.structs.replace(local, revision=0)).pending_abort is None


@pytest.mark.parametrize(("phase", "about"), [("DRAFT", ""), ("BAKING", "another")])
def test_without_the_store_an_abort_needs_something_to_abort(phase: str, about: str) -> None:
    tower = Tower().until(phase)
    actions = tower.tick(command("abort", identity=about), store=False)
    assert [action.ok for action in of(actions, Answer)] == [False]
    assert not of(actions, ZeroHere)


def test_a_rollback_decided_without_the_store_comes_before_a_new_spec() -> None:
    tower = Tower().until("BAKING", at=2)
    old = tower.status.identity
    tower.tick(**TRIP, store=False)
    tower.spec = a_spec(canary_digest="sha256:cc")
    tower.tick()
    assert [latch.identity for latch in tower.status.latches] == [old]


@pytest.mark.parametrize("phase", ["APPLYING", "PROPAGATING", "SHADOWING", "BAKING", "DECIDING"])
def test_a_new_controller_propagates_the_same_step_again(phase: str) -> None:
    tower = Tower().until(phase)
    before = tower.status
    tower.token = 2
    tower.tick(acked_revision=0, after_ms=40 * MINUTE)
    assert (tower.status.phase, tower.status.step) == ("PROPAGATING", before.step)
    assert (tower.status.held_ms, tower.status.visit) == (before.held_ms, before.visit)
    tower.until("PROMOTED")


def test_a_controller_whose_lease_was_taken_decides_nothing() -> None:
    tower = Tower().until("DECIDING", at=1)
    tower.token = 5
    tower.tick()
    late = tower.seen(token=4, commands=(command("abort"),), **TRIP)
    assert advance(tower.spec, tower.status, late, tower.now_ms + SECOND) == (tower.status, [])


@pytest.mark.parametrize("phase", [*PHASES, "ABORTING", "SUPERSEDED", "ROLLED_BACK", "PROMOTED"])
def test_what_a_store_has_lost_is_said_again(phase: str) -> None:
    tower = Tower()
    if phase in ("ABORTING", "ROLLED_BACK"):
        tower.until("BAKING", at=1).tick(**TRIP)
    if phase == "SUPERSEDED":
        tower.until("BAKING", at=1)
        tower.spec = a_spec(canary_digest="sha256:cc")
        tower.tick()
    tower.until(phase)
    slots = tower.status.slots
    tower.status = msgspec.structs.replace(tower.status, awaits_revision=tower.revision + 30)
    actions = tower.tick()
    assert tower.status.awaits_revision == tower.revision
    assert tower.status.slots == slots
    written = of(actions, SetWeight) + of(actions, Zero) + of(actions, Promote)
    assert len(written) == 1
    assert tower.status.phase == ("APPLYING" if phase in ("PROPAGATING", "SHADOWING", "BAKING", "DECIDING") else phase)


def test_people_are_told_of_a_rollback_and_of_its_end() -> None:
    tower = Tower().until("BAKING", at=1)
    tower.log.clear()
    tower.tick(**TRIP)
    tower.tick()
    assert [told.kind for told in of(tower.log, Notify)] == ["aborted", "rolled_back"]


def test_numbers_that_json_cannot_hold_do_not_reach_the_status() -> None:
    tower = Tower().until("BAKING", at=1)
    odd = Verdict(log_e=float("inf"), detectable_ratio=float("inf"))
    tower.tick(verdicts={"error_rate": odd, "latency": Verdict(log_e=float("nan"), detectable_ratio=float("nan"))})
    assert tower.status.phase == "BAKING"
    assert tower.status.marks["error_rate"].log_e == 0.0
