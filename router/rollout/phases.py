"""What each phase waits for before the next; what an edit of the steps and the end of patience do. Pure.

Called when nothing rolls back and what was written last is in the store.
"""

from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from router.rollout.findings import fallback_asked, fallback_text, is_over
from router.rollout.gates import comes_back, is_acknowledged, is_watched, preparing_waits, step_waits, view_waits
from router.rollout.spec import ALL_SLOTS, RolloutSpec, plan_digest, slots_at
from router.rollout.status import IN_STEP, UNDER_WATCH, Force, RolloutStatus
from router.rollout.turn import AUTO, Turn

# A tick comes each second. What lies beyond this was no watching, whatever the clock says.
MAX_TICK_MS: Final = 10_000


def replan(turn: Turn) -> None:
    """The steps were edited. Nobody comes to the canary by that, and agreements were to other steps."""
    spec, status = turn.wanted_spec(), turn.status
    # Whose word gave it all users already stays beside that.
    force = status.force if status.slots == ALL_SLOTS else None
    turn.set(plan=plan_digest(spec), approvals=(), force=force)
    if status.phase in IN_STEP and not _still_there(spec, status):
        below = [slots_at(spec, index) for index in range(len(spec.steps)) if slots_at(spec, index) <= status.slots]
        if below:
            places = [slots_at(spec, index) for index in range(len(spec.steps))]
            turn.enter_step(places.index(max(below)), "the steps were edited", turn.applied_by)
            return
        turn.set(step=0, held_ms=0)
        turn.move("PREPARING", "the steps were edited", turn.applied_by)
        turn.route(0, 0)
    turn.audit(turn.applied_by, "plan", "the steps were edited", status.slots)


def _still_there(spec: RolloutSpec, status: RolloutStatus) -> bool:
    """The step in force gives the canary the same in the new plan."""
    if status.step >= len(spec.steps):
        return False
    shadow = spec.steps[status.step].shadow_slots or 0
    return (slots_at(spec, status.step), shadow) == (status.slots, status.shadow_slots)


def look_again(turn: Turn) -> None:
    """`fourEyes`: who forced it has applied the policy since, so nobody else has agreed to what is in force."""
    force = turn.status.force
    if force is None or turn.status.slots == ALL_SLOTS:
        return
    if turn.wanted_spec().four_eyes and force.actor == turn.applied_by:
        turn.set(force=None)
        text = f"{force.actor} promoted it and has applied the policy since; fourEyes asks for somebody else"
        turn.audit(AUTO, "hold", text, turn.status.slots)
        turn.notify("holding", text)


def lose_patience(turn: Turn) -> None:
    """`onTimeout: promote` no longer asks for evidence that would be found; it never takes missing data for clean."""
    spec = turn.wanted_spec()
    if spec.on_timeout == "promote" and turn.status.force is None and is_over(spec, turn.status, turn.now_ms):
        turn.set(force=Force("auto:timeout", turn.now_ms, "maxDuration is over", False))
        turn.audit("auto:timeout", "promote", "maxDuration is over", turn.status.slots)


def watch(turn: Turn) -> None:
    """Time counts while all live workers report from the revision in force and nothing speaks against going on."""
    status = turn.status
    quiet = status.paused is None and not status.holding and not turn.observed.lagging
    if status.phase in UNDER_WATCH and quiet and is_watched(status, turn.observed):
        passed_ms = max(0, turn.now_ms - status.ticked_at_ms)
        turn.set(held_ms=status.held_ms + min(passed_ms, MAX_TICK_MS))


def fall_back(turn: Turn) -> bool:
    """Begin, prolong or end that stable answers for the canary, as the monitor's lease says; whether routing changed.

    What was counted before says nothing of what comes after, so the step begins anew when the canary comes back.
    """
    status, lease = turn.status, fallback_asked(turn.status, turn.observed)
    if lease is not None and status.fallback is not None:
        turn.set(fallback=msgspec.structs.replace(status.fallback, until_ms=lease.until_ms))
    elif lease is not None and status.slots:
        turn.withhold(lease.until_ms, fallback_text(lease), "auto:monitor")
        return True
    elif status.fallback is not None and _may_move(turn) and not view_waits(status, turn.observed):
        actor = status.fallback.ended_by or AUTO
        turn.set(fallback=None)
        if status.phase == "PROMOTING":
            turn.enter_promoting("the canary answers again", actor)
        elif status.phase in IN_STEP:
            turn.enter_step(status.step, "the canary answers again; the step begins anew", actor)
        return True
    return False


def _may_move(turn: Turn) -> bool:
    return turn.status.paused is None and not turn.status.holding


def _draft(turn: Turn) -> None:
    spec, status = turn.wanted_spec(), turn.status
    latch = next((one for one in status.latches if one.identity == status.identity), None)
    if latch is not None:
        turn.move("ROLLED_BACK", f"rolled back before by {latch.actor}: {latch.reason}; `retry` starts it again")
    elif status.stables and spec.canary_digest == status.stables[-1] and not turn.observed.killed:
        turn.set(force=Force("auto:stable", turn.now_ms, "it is the stable already", True))
        turn.promoted("it is the stable already", "auto:stable")
    elif not turn.latches_full():
        turn.move("VALIDATED", "the policy is valid")


def _validated(turn: Turn) -> None:
    if turn.status.paused is None:
        turn.move("PREPARING", "the canary is loaded, warmed up and compared with stable")
        turn.notify("started", f"rollout of {turn.status.canary_digest}")


def _preparing(turn: Turn) -> None:
    spec, status = turn.wanted_spec(), turn.status
    if not _may_move(turn) or preparing_waits(spec, status, turn.observed):
        return
    if comes_back(spec, status):
        turn.set(force=Force("auto:rollbackWindow", turn.now_ms, "a stable of late comes back", True))
        turn.enter_promoting("a stable of late comes back: no steps", "auto:rollbackWindow")
    else:
        _enter(turn, -1, "the canary is ready")


def _applying(turn: Turn) -> None:
    turn.move("PROPAGATING", f"revision {turn.status.awaits_revision} is written")


def _propagating(turn: Turn) -> None:
    if is_acknowledged(turn.status, turn.observed):
        shadow = turn.wanted_spec().steps[turn.status.step].is_shadow
        turn.move("SHADOWING" if shadow else "BAKING", "every live worker has it")


def _baking(turn: Turn) -> None:
    waits = step_waits(turn.wanted_spec(), turn.status, turn.observed, turn.now_ms)
    if not waits.bake and _may_move(turn):
        turn.move("DECIDING", "traffic and time of this step are there")


def _deciding(turn: Turn) -> None:
    status = turn.status
    waits = step_waits(turn.wanted_spec(), status, turn.observed, turn.now_ms)
    if not _may_move(turn):
        return
    if not waits.every:
        _enter(turn, status.step, "nothing is waited for")
    elif waits.every == waits.approval:
        turn.notify_once(f"approval:{status.visit}", "approval", waits.approval[0])


def _enter(turn: Turn, step: int, reason: str) -> None:
    """Leave a step (-1 = none) for the next. Who forces it skips steps, but none that a person has to agree to."""
    spec, force = turn.wanted_spec(), turn.status.force
    actor = AUTO
    if force is not None:
        actor, reason = force.actor, "before all evidence was there" + (f": {force.reason}" if force.reason else "")
    after = step + 1
    if force is not None and force.everything:
        asking = [index for index in range(after, len(spec.steps)) if spec.steps[index].hold.approval]
        after = asking[0] if asking else len(spec.steps)
    if step >= 0 and force is None and (after >= len(spec.steps) or slots_at(spec, after) == ALL_SLOTS):
        turn.set(cleared=True)
    if after >= len(spec.steps):
        turn.enter_promoting(reason, actor)
    else:
        turn.enter_step(after, reason, actor)


def _promoting(turn: Turn) -> None:
    if _may_move(turn) and not view_waits(turn.status, turn.observed):
        turn.promoted("every live worker gives it all users")


MOVES: Final[Mapping[str, Callable[[Turn], None]]] = {
    "DRAFT": _draft,
    "VALIDATED": _validated,
    "PREPARING": _preparing,
    "APPLYING": _applying,
    "PROPAGATING": _propagating,
    "SHADOWING": _baking,
    "BAKING": _baking,
    "DECIDING": _deciding,
    "PROMOTING": _promoting,
}
