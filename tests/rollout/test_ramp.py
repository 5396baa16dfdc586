"""Forward: what each phase and each step waits for, and that nothing is skipped."""

from typing import Any

import pytest

from router.rollout.actions import Audit, Notify, Promote, SetShadow, SetWeight, Unload
from router.rollout.observed import LocalZero, Verdict
from router.rollout.spec import ALL_SLOTS, Checks, Guardrail, OnFailure, OnTimeout
from router.rollout.status import wanted
from tests.rollout.tower import (
    MINUTE,
    PASSES,
    RELEASE,
    SECOND,
    TRIPPED,
    Tower,
    a_spec,
    change,
    command,
    kinds,
    of,
    step,
)


def test_a_healthy_canary_goes_through_every_step_to_promotion() -> None:
    tower = Tower().until("PROMOTED")
    assert [action.slots for action in of(tower.log, SetWeight)] == [0, 100, 1_000, 5_000, 10_000, 10_000]
    assert [action.slots for action in of(tower.log, SetShadow)] == [2_000, 0, 0, 0, 0, 0]
    assert of(tower.log, Promote) == [Promote("sha256:bb")]
    assert tower.status.stables == ("sha256:aa", "sha256:bb")
    assert tower.status.cleared
    assert tower.status.force is None
    phases = [move.phase for move in tower.status.history]
    assert phases[:8] == [
        "DRAFT", "VALIDATED", "PREPARING", "APPLYING", "PROPAGATING", "SHADOWING", "DECIDING", "APPLYING",
    ]  # fmt: skip


def test_the_former_stable_leaves_memory_after_keep_loaded() -> None:
    tower = Tower(spec=a_spec(on_failure=OnFailure(keep_loaded_ms=5 * MINUTE))).until("PROMOTED")
    assert wanted(tower.status) == {"sha256:aa", "sha256:bb"}
    tower.tick(after_ms=5 * MINUTE - SECOND)
    assert not of(tower.log, Unload)
    assert of(tower.tick(), Unload) == [Unload("sha256:aa")]
    assert wanted(tower.status) == {"sha256:bb"}
    assert not of(tower.tick(), Unload)


def test_no_user_sees_a_canary_that_is_not_loaded() -> None:
    tower = Tower(changes={"canary_ready": False}).until("PREPARING")
    tower.tick()
    assert tower.status.phase == "PREPARING"
    assert tower.status.waits == ("the canary is being loaded and warmed up",)
    assert "SetShadow" in kinds(tower.tick(canary_ready=True))


def test_a_canary_that_cannot_be_loaded_holds_and_goes_on_when_it_can() -> None:
    tower = Tower().until("PREPARING")
    tower.tick(canary_failed="model.onnx: bad magic", canary_ready=False)
    assert (tower.status.state, tower.status.slots) == ("HOLDING", 0)
    assert tower.status.waits[0] == "the canary cannot be loaded: model.onnx: bad magic"
    tower.tick()
    assert tower.status.phase == "APPLYING"


def test_a_step_is_not_watched_before_every_live_worker_has_it() -> None:
    tower = Tower().until("APPLYING", at=1)
    awaited = tower.status.awaits_revision
    for _ in range(5):
        tower.tick(acked_revision=awaited - 1, lagging=("w2",))
        assert tower.status.phase == "PROPAGATING"
    assert tower.status.waits[0] == f"w2 has not applied revision {awaited}"
    tower.tick(acked_revision=awaited)
    assert (tower.status.phase, tower.status.held_ms) == ("BAKING", 0)


HOLDS: list[tuple[dict[str, Any], str]] = [
    ({"canary_units": 412}, "waits for 1,588 of 2,000 canary units"),
    ({"stable_units": 1_999}, "waits for 1 of 2,000 stable units"),
    ({"visit": 0}, "waits for 2,000 of 2,000 canary units"),
    ({"fresh": False}, "no fresh counts from every live worker"),
    (
        {"window_open": False, "closed_by": "the release window is closed; it opens Mon"},
        "the release window is closed; it opens Mon",
    ),
    ({"verdicts": {"error_rate": PASSES}}, "guardrail latency has too little data"),
    ({"identity": "another rollout"}, "guardrail error_rate has too little data"),
    (
        {"verdicts": {"error_rate": PASSES, "latency": Verdict(insufficient=True)}},
        "guardrail latency has too little data",
    ),
    (
        {"verdicts": {"error_rate": PASSES, "latency": Verdict(detectable_ratio=4.2)}},
        "guardrail latency would have found harm of 4.2x in this step; minDetect is 3x",
    ),
    (
        {"verdicts": {"error_rate": Verdict(), "latency": PASSES}},
        "guardrail error_rate would have found no harm at all in this step; minDetect is 3x",
    ),
    (
        {"blind": "KeyError: 'harm'", "identity": ""},
        "the evidence cannot be computed, so no guardrail can roll back: KeyError: 'harm'",
    ),
    ({"signals": ("queue_wait",)}, "signal queue_wait"),
    ({"signals": ("queue_wait",), "said": {"queue_wait": "they wait"}}, "signal queue_wait: they wait"),
    ({"scarce": ("queue_wait",)}, "signal queue_wait has too little data"),
    ({"unknown": ("queue_wait",)}, "signal queue_wait: the monitor has no verdict on the canary yet"),
    ({"srm_p": 0.0009}, "srm: the arms do not have the units that the weights promise (p = 0.0009)"),
    ({"srm_p": float("nan")}, "srm: the arms do not have the units that the weights promise (p = nan)"),
    ({"expected_canary": 10, "seen_canary": 0}, "noTraffic: 10 canary requests were expected and none came"),
    ({"canary_ready": False}, "the canary is not ready in every worker"),
    (
        {"zeroed": (LocalZero("w1", "5 failures in a row"),)},
        "worker w1 gives the canary no traffic: 5 failures in a row; `resume` lets it again",
    ),
    (
        {"verdicts": {"error_rate": PASSES, "latency": Verdict(passes=True, detectable_ratio=2.0, saturated=True)}},
        "evidence_saturated: the record of erring units of latency is half full",
    ),
]


@pytest.mark.parametrize(("missing", "reason"), HOLDS)
def test_a_step_is_held_while_something_is_missing_and_left_when_it_comes(missing: dict[str, Any], reason: str) -> None:
    tower = Tower().until("BAKING", at=2)
    for _ in range(30):
        tower.tick(**missing)
    assert tower.status.step == 2
    assert tower.slots == 1_000
    assert reason in tower.status.waits
    tower.until("APPLYING", at=3)


@pytest.mark.parametrize(("missing", "reason"), [hold for hold in HOLDS if "verdicts" not in hold[0]])
def test_what_is_missing_is_not_told_when_it_is_there(missing: dict[str, Any], reason: str) -> None:
    tower = Tower().until("BAKING", at=2)
    tower.tick()
    assert reason not in tower.status.waits


def test_a_step_lasts_its_time_under_watch() -> None:
    tower = Tower().until("BAKING", at=1)
    for seconds in range(1, 5):
        tower.tick()
        assert (tower.status.phase, tower.status.held_ms) == ("BAKING", seconds * SECOND)
    assert "waits for 1 s of 5 s under watch" in tower.status.waits
    tower.tick()
    assert tower.status.phase == "DECIDING"


@pytest.mark.parametrize(
    "blind",
    [
        {"fresh": False},
        {"acked_revision": 0, "lagging": ("w1",)},
        {"lagging": ("w1",)},
        {"signals": ("queue_wait",)},
        {"store": False},
    ],
)
def test_time_counts_only_under_watch(blind: dict[str, Any]) -> None:
    tower = Tower().until("BAKING", at=1)
    tower.tick()
    for _ in range(20):
        tower.tick(**blind)
    assert tower.status.held_ms == SECOND
    tower.tick()
    assert tower.status.held_ms == 2 * SECOND


def test_a_clock_that_jumps_gives_no_time() -> None:
    tower = Tower().until("BAKING", at=1)
    tower.tick(after_ms=-40 * MINUTE)
    assert tower.status.held_ms == 0
    tower.tick(after_ms=50 * MINUTE)
    assert tower.status.held_ms == 10 * SECOND


def test_three_overdue_timers_are_one_advance() -> None:
    tower = Tower(spec=a_spec(max_duration_ms=1_000 * MINUTE)).until("BAKING", at=1)
    tower.tick(after_ms=300 * MINUTE)
    assert (tower.status.phase, tower.status.step) == ("DECIDING", 1)
    tower.tick(after_ms=300 * MINUTE)
    assert (tower.status.phase, tower.status.step, tower.slots) == ("APPLYING", 2, 1_000)


def test_all_users_need_every_guardrail_to_pass() -> None:
    spec = a_spec(steps=(step(10), step(100)))
    tower = Tower(spec=spec).until("DECIDING", at=0)
    undecided = Verdict(detectable_ratio=1.5)
    for _ in range(20):
        tower.tick(verdicts={"error_rate": PASSES, "latency": undecided})
    assert tower.slots == 1_000
    assert "guardrail latency has not shown yet that the canary is not worse than stable by its margin" in (
        tower.status.waits
    )
    tower.tick()
    assert (tower.slots, tower.status.cleared) == (ALL_SLOTS, True)
    # With all users on the canary there is nothing to compare: what was shown before counts.
    tower.changes["verdicts"] = {"error_rate": undecided, "latency": undecided}
    tower.until("PROMOTED")


def test_a_shadow_step_is_left_when_the_shadow_guardrail_passes() -> None:
    rails = (Guardrail(name="disagreement", kind="shadow"), Guardrail(name="error_rate"))
    tower = Tower(spec=a_spec(guardrails=rails)).until("DECIDING", at=0)
    tower.tick(verdicts={"disagreement": Verdict()})
    assert tower.status.waits == ("guardrail disagreement has not shown yet that the canary is within its limit",)
    tower.tick(samples=0, verdicts={"disagreement": PASSES})
    assert "waits for 500 of 500 compared requests" in tower.status.waits
    tower.tick(verdicts={"disagreement": PASSES})
    assert (tower.slots, tower.shadow_slots, tower.status.step) == (100, 0, 1)


def test_holding_is_told_once_and_so_is_its_end() -> None:
    tower = Tower().until("BAKING", at=1)
    told = [
        action.kind
        for seen in [{}, {"signals": ("queue_wait",)}, {"signals": ("queue_wait",)}, {}, {}]
        for action in of(tower.tick(**seen), Notify)
    ]
    assert told == ["holding", "resumed"]


def test_a_failure_that_only_warns_is_told_once_and_never_promotes() -> None:
    spec = a_spec(on_failure=OnFailure(do="warn"), max_duration_ms=100_000 * MINUTE)
    tripped = Verdict(tripped=True, passes=True, detectable_ratio=1.5)
    tower = Tower(spec=spec, changes={"verdicts": {"error_rate": tripped, "latency": PASSES}})
    tower.until("DECIDING", at=3)
    for _ in range(10):
        tower.tick(command("approve", id=str(tower.now_ms)))
    assert (tower.status.step, tower.slots) == (3, 5_000)
    assert [told.kind for told in of(tower.log, Notify)].count("warning") == 1


def test_a_failure_that_holds_stays_and_cannot_be_resumed_away() -> None:
    tower = Tower(spec=a_spec(on_failure=OnFailure(do="hold"))).until("BAKING", at=2)
    tower.tick(command("resume"), verdicts={"error_rate": TRIPPED, "latency": PASSES})
    assert (tower.status.state, tower.slots) == ("HOLDING", 1_000)
    assert tower.status.waits[0].startswith("guardrail error_rate has tripped")


@pytest.mark.parametrize("name", ["srm", "no_traffic"])
@pytest.mark.parametrize("do", ["rollback", "warn"])
def test_checks_do_what_the_policy_says(name: str, do: Any) -> None:
    tower = Tower(spec=a_spec(checks=Checks(**{name: do}))).until("BAKING", at=1)
    tower.tick(srm_p=0.0001, expected_canary=500, seen_canary=0)
    others = "HOLDING" if do == "warn" else "ABORTING"
    assert tower.status.state == others
    assert (tower.slots == 0) == (do == "rollback")


def test_no_traffic_waits_its_time() -> None:
    tower = Tower(spec=a_spec(checks=Checks(no_traffic_after_ms=3 * SECOND))).until("BAKING", at=1)
    states = []
    for _ in range(4):
        tower.tick(expected_canary=500, seen_canary=0)
        states.append(tower.status.state)
    assert states == ["BAKING", "BAKING", "BAKING", "HOLDING"]


def test_a_worker_that_stays_behind_is_skew() -> None:
    tower = Tower().until("BAKING", at=1)
    states = []
    for _ in range(13):
        tower.tick(lagging=("w2",))
        states.append(tower.status.state)
    assert states == ["BAKING"] * 11 + ["HOLDING"] * 2
    assert tower.status.waits[0].startswith("revisionSkew: w2 has been behind revision")
    tower.tick()
    assert tower.status.state == "BAKING"


def test_max_duration_holds_until_somebody_resumes() -> None:
    tower = Tower(spec=a_spec(max_duration_ms=60 * MINUTE)).until("BAKING", at=1)
    tower.watch(60 * MINUTE, canary_units=0)
    assert tower.status.waits[0] == "maxDuration of 1 h is over; `resume` gives it as long again"
    tower.tick(command("resume"))
    assert tower.status.holding == {}
    tower.until("PROMOTED")


def test_max_duration_no_longer_matters_when_all_users_have_it() -> None:
    tower = Tower(spec=a_spec(max_duration_ms=60 * MINUTE, on_timeout="rollback")).until("PROMOTING")
    tower.watch(60 * MINUTE, fresh=False)
    assert tower.status.phase == "PROMOTING"
    tower.until("PROMOTED")


@pytest.mark.parametrize("on_timeout", ["hold", "promote", "rollback"])
@pytest.mark.parametrize("jump_ms", [100 * 24 * 60 * MINUTE, -90 * MINUTE])
def test_a_clock_that_jumps_ends_no_patience_and_gives_none(on_timeout: OnTimeout, jump_ms: int) -> None:
    weak = {"error_rate": Verdict(), "latency": Verdict()}
    spec = a_spec(max_duration_ms=60 * MINUTE, on_timeout=on_timeout)
    tower = Tower(spec=spec, changes={"verdicts": weak}).until("DECIDING", at=1)
    tower.watch(30 * MINUTE)
    tower.tick(after_ms=jump_ms)
    assert (tower.status.phase, tower.status.force, tower.status.holding) == ("DECIDING", None, {})
    tower.watch(31 * MINUTE)
    assert tower.status.phase == "ROLLED_BACK" or tower.status.force or "timeout" in tower.status.holding


def test_with_all_users_on_the_canary_only_its_own_units_count() -> None:
    steps = (step(10), step(100, min_units=50))
    tower = Tower(spec=a_spec(steps=steps)).until("BAKING", at=1)
    tower.tick(stable_units=0)
    assert tower.status.phase == "DECIDING"


def test_max_duration_may_promote_without_the_last_proof_but_not_without_data() -> None:
    weak = {"error_rate": Verdict(), "latency": Verdict()}
    spec = a_spec(max_duration_ms=60 * MINUTE, on_timeout="promote")
    tower = Tower(spec=spec, changes={"verdicts": weak, "fresh": True}).until("DECIDING", at=1)
    tower.watch(60 * MINUTE, verdicts={"error_rate": Verdict()})
    assert tower.status.force is not None
    assert tower.status.waits == ("guardrail latency has too little data",)
    tower.until("DECIDING", at=3)
    assert tower.status.step == 3
    tower.until("PROMOTED")
    assert not tower.status.cleared


def test_a_stable_of_late_comes_back_in_one_step_and_outside_the_window() -> None:
    tower = Tower().until("PROMOTED")
    tower.log.clear()
    tower.spec = a_spec(stable_digest="sha256:bb", canary_digest="sha256:aa")
    tower.changes["window_open"] = False
    for _ in range(6):
        tower.tick()
    assert (tower.status.phase, tower.stable) == ("PROMOTED", "sha256:aa")
    assert [action.slots for action in of(tower.log, SetWeight)] == [ALL_SLOTS]
    assert tower.status.stables == ("sha256:aa", "sha256:bb", "sha256:aa")


def test_the_rollback_window_counts_former_stables() -> None:
    tower = Tower(spec=a_spec(rollback_window=1)).until("PROMOTED")
    for canary, stable, direct in [("cc", "bb", False), ("bb", "cc", True), ("aa", "bb", False)]:
        tower.log.clear()
        tower.spec = a_spec(stable_digest=f"sha256:{stable}", canary_digest=f"sha256:{canary}", rollback_window=1)
        tower.tick()
        tower.until("PROMOTED")
        assert (len(of(tower.log, SetWeight)) == 1) is direct


def test_without_a_rollback_window_going_back_is_a_rollout_like_any_other() -> None:
    tower = Tower(spec=a_spec(rollback_window=0)).until("PROMOTED")
    tower.spec = a_spec(stable_digest="sha256:bb", canary_digest="sha256:aa", rollback_window=0)
    tower.tick()
    tower.until("BAKING", at=1)
    assert tower.slots == 100


def test_what_is_the_stable_already_needs_no_rollout() -> None:
    tower = Tower().until("PROMOTED")
    tower.spec = a_spec(canary_digest="sha256:cc", stable_digest="sha256:bb")
    tower.tick()
    tower.until("BAKING", at=1)
    tower.spec = a_spec()
    tower.tick()
    assert tower.status.phase == "SUPERSEDED"
    tower.until("PROMOTED", most=4)
    assert tower.stable == "sha256:bb"


def test_promotion_itself_is_no_new_rollout_when_the_policy_follows_it() -> None:
    tower = Tower().until("PROMOTING")
    tower.spec = a_spec(stable_digest="sha256:bb")
    for _ in range(5):
        tower.tick()
    assert tower.status.phase == "PROMOTED"


def test_two_names_for_one_model_are_no_rollout() -> None:
    tower = Tower(spec=a_spec(canary_digest="sha256:aa"))
    for _ in range(5):
        assert tower.tick() == []
    assert tower.status.phase == "IDLE"


EDITED = [
    # edited steps, from BAKING of step 2 (10 %): step and slots after
    ((step(1), step(5), step(10), step(50)), 2, 1_000),
    ((step(1), step(5), step(20)), 1, 500),
    ((step(20), step(50)), 0, 0),
    ((step(1), step(2)), 1, 200),
    ((step(1), step(9), step(11), step(12)), 1, 900),
]


@pytest.mark.parametrize(("steps", "at", "slots"), EDITED)
def test_an_edited_ramp_never_gives_the_canary_more(steps: Any, at: int, slots: int) -> None:
    tower = Tower().until("BAKING", at=2)
    begun = tower.status.identity
    assert tower.spec is not None
    tower.spec = change(tower.spec, steps=steps)
    tower.tick()
    assert (tower.status.step, tower.slots) == (at, slots)
    assert tower.status.identity == begun
    tower.until("PROMOTED")


def test_an_edit_while_it_is_promoted_by_name_keeps_the_name() -> None:
    tower = Tower().until("PROMOTED")
    tower.spec = a_spec(stable_digest="sha256:bb", canary_digest="sha256:aa")
    tower.tick()
    tower.until("PROMOTING")
    tower.spec = change(tower.spec, steps=(step(5), step(50)))
    tower.tick()
    assert tower.status.force is not None
    assert tower.status.force.actor == "auto:rollbackWindow"
    tower.until("PROMOTED")


def test_an_edit_to_less_than_everybody_asks_for_proof_again() -> None:
    tower = Tower(spec=a_spec(steps=(step(10), step(100)))).until("BAKING", at=1)
    assert tower.status.cleared
    tower.spec = a_spec(steps=(step(10), step(50)))
    tower.tick()
    assert (tower.slots, tower.status.cleared) == (5_000, False)
    for _ in range(20):
        tower.tick(verdicts={"error_rate": PASSES, "latency": Verdict(detectable_ratio=1.5)})
    assert tower.slots == 5_000


def test_an_edit_takes_agreements_away() -> None:
    tower = Tower().until("BAKING", at=3)
    tower.tick(command("approve"), fresh=False)
    assert len(tower.status.approvals) == 1
    assert tower.spec is not None
    tower.spec = change(tower.spec, steps=(*tower.spec.steps[:3], step(50, min_units=1, approval=RELEASE)))
    for _ in range(10):
        tower.tick()
    assert (tower.status.step, tower.status.approvals) == (3, ())
    assert tower.status.waits == ("approval by label:release missing",)


def test_every_change_of_routing_has_a_record() -> None:
    tower = Tower().until("PROMOTED")
    records = of(tower.log, Audit)
    assert [(one.slots_before, one.slots_after) for one in records if one.what != "approve"] == [
        (0, 0), (0, 100), (100, 1_000), (1_000, 5_000), (5_000, 10_000), (10_000, 10_000), (10_000, 10_000),
    ]  # fmt: skip
    assert all(one.actor and one.reason and one.identity for one in records)
    assert set(records[-1].marks) == {"error_rate", "latency"}
