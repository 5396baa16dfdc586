"""The rollout state machine: one pure function, called at each tick. Read this first.

    IDLE -> DRAFT -> VALIDATED -> PREPARING -> step 1 -> ... -> step n -> PROMOTING -> PROMOTED
    a step  = APPLYING -> PROPAGATING -> SHADOWING | BAKING -> DECIDING
    any of them -> ABORTING -> ROLLED_BACK (latched)         any of them -> SUPERSEDED -> DRAFT | IDLE

A tick moves one phase at most, so a controller that slept through three timers still walks the steps one by one.
HOLDING and PAUSED lie over a phase: nothing moves towards the canary, everything may still move back. A
fallback holds, too, and stable answers for the canary meanwhile.

More traffic for the canary needs all of: the store, counts from every live worker, every live worker on the revision in
force, an open window, no pause, nothing that speaks against it, nothing left to wait for. Less traffic needs none.

One tick is one compare-and-set. A controller whose write fails has decided nothing and reads again; one whose fencing
token is older than the status decides nothing at all.
"""

from typing import Final

import msgspec

from router.rollout.actions import Action, Promote, Unload, ZeroHere
from router.rollout.commands import obey
from router.rollout.findings import Finding, findings, marks_of
from router.rollout.gates import is_acknowledged, view_waits, waits_of
from router.rollout.observed import Observed
from router.rollout.phases import MAX_TICK_MS, MOVES, fall_back, look_again, lose_patience, replan, watch
from router.rollout.spec import ALL_SLOTS, RolloutSpec, identity, plan_digest
from router.rollout.status import ACTIVE, AT_REST, GOING_BACK, IN_STEP, UNDER_WATCH, Force, RolloutStatus, wanted
from router.rollout.turn import Turn

ASKED_FOR: Final = "the policy asks for it"
STORE_AWAY: Final = "the store is away: nothing is decided until it is back"


def advance(
    spec: RolloutSpec | None, status: RolloutStatus, observed: Observed, now_ms: int
) -> tuple[RolloutStatus, list[Action]]:
    """The next status and what is to be done, from what is wanted, where it stands and what was seen.

    Args:
        spec: None = the policy names no rollout.
        now_ms: the controller's wall clock; may jump, and then nothing happens that the watching does not carry.
    """
    if observed.token < status.token:
        return status, []
    turn = Turn(_strict(_wanted(spec, status), status), status, observed, now_ms)
    _take_over(turn)
    _remember(turn)
    _pass_over(turn)
    phase = turn.status.phase
    if observed.store:
        if _begins(turn.spec, turn.status):  # before anybody is obeyed: commands mean what the document asks for
            turn.begin(turn.wanted_spec(), ASKED_FOR, turn.applied_by)
        obey(turn)
        if turn.status.phase == phase:  # a command that moved it was this tick's move
            _decide(turn)
        _unload(turn)
    else:
        _freeze(turn)
    _note(turn)
    return turn.status, turn.actions


def foreseen(spec: RolloutSpec | None, status: RolloutStatus, revision: int, applied_by: str) -> RolloutStatus:
    """The status as people are shown it: what a document in force asks for is DRAFT before the next tick makes it so.

    Who applies a document and asks at once must not read the end of the rollout before it.
    """
    spec = _wanted(spec, status)
    turn = Turn(
        spec, status, Observed(token=status.token, revision=revision, applied_by=applied_by), status.ticked_at_ms
    )
    if spec is not None and _begins(spec, status):
        turn.begin(spec, ASKED_FOR, turn.applied_by)
    return turn.status


def _begins(spec: RolloutSpec | None, status: RolloutStatus) -> bool:
    return spec is not None and status.phase in AT_REST and not _is_same(spec, status)


def _wanted(spec: RolloutSpec | None, status: RolloutStatus) -> RolloutSpec | None:
    """None where the canary is the stable already: nothing to roll out."""
    same = spec is not None and spec.stable_digest == spec.canary_digest
    return None if same and not _just_promoted(spec, status) else spec


def _strict(spec: RolloutSpec | None, status: RolloutStatus) -> RolloutSpec | None:
    """`fourEyes` as the rollout has had it."""
    if spec is None or not status.four_eyes or identity(spec) != status.identity:
        return spec
    return msgspec.structs.replace(spec, four_eyes=True)


def _just_promoted(spec: RolloutSpec | None, status: RolloutStatus) -> bool:
    """The policy's stable is the canary of this rollout already: its own doing, no new rollout."""
    promoted = status.phase in ("PROMOTING", "PROMOTED")
    return spec is not None and promoted and spec.canary_digest == status.canary_digest


def _is_same(spec: RolloutSpec | None, status: RolloutStatus) -> bool:
    return identity(spec) == status.identity or (
        spec is not None and spec.stable_digest == spec.canary_digest and _just_promoted(spec, status)
    )


def _take_over(turn: Turn) -> None:
    """Another controller, or a new start of this one: every worker says again that it has the revision in force."""
    status, token = turn.status, turn.observed.token
    if token > status.token:
        turn.set(token=token)
        if status.phase in IN_STEP and status.phase != "PROPAGATING":
            turn.move("PROPAGATING", "a controller took over")


def _remember(turn: Turn) -> None:
    """What the statistics want kept goes into the same write as what was decided on it."""
    observed, status = turn.observed, turn.status
    if observed.cursors:
        turn.set(cursors=observed.cursors)
    if observed.identity == status.identity and observed.evidence:
        turn.set(evidence=observed.evidence)
    elif observed.blind:
        turn.set(evidence="")  # what was known before is not what is decided on now
    if status.phase not in IN_STEP or (is_acknowledged(status, observed) and not observed.lagging):
        turn.set(lagging_since_ms=None)
    elif status.phase in UNDER_WATCH and status.lagging_since_ms is None:
        turn.set(lagging_since_ms=turn.now_ms)


def _pass_over(turn: Turn) -> None:
    """Time that nobody watched, whether the clock has jumped or nobody was there, does not count for `maxDuration`."""
    status = turn.status
    passed_ms = turn.now_ms - status.ticked_at_ms
    jumped_ms = passed_ms - min(max(0, passed_ms), MAX_TICK_MS)
    if status.phase in ACTIVE and status.ticked_at_ms and jumped_ms:
        turn.set(clock_from_ms=status.clock_from_ms + jumped_ms)


# ---- with the store ----


def _decide(turn: Turn) -> None:
    status, spec = turn.status, turn.spec
    if status.phase in GOING_BACK:
        _go_back(turn)
    elif status.phase in ACTIVE and status.pending_abort is not None:
        turn.abort(status.pending_abort.actor, status.pending_abort.reason)
    elif _is_same(spec, status):
        if status.phase in ACTIVE:
            _go_on(turn)
        else:
            _stay(turn)
    elif status.phase in ACTIVE:
        turn.supersede(
            "the policy wants another rollout" if spec else "the policy names no rollout any more", turn.applied_by
        )
    else:
        turn.rest()


def _is_lost(turn: Turn) -> bool:
    """The store has an older document than the one that this status was written with."""
    return turn.status.awaits_revision > turn.observed.revision


def _go_back(turn: Turn) -> None:
    """ABORTING or SUPERSEDED: done when every live worker has it. Who cannot be reached is named."""
    status, observed = turn.status, turn.observed
    away = tuple(sorted({*observed.unreachable, *observed.lagging}))
    if _is_lost(turn):
        turn.zero(status.reason)
    elif not is_acknowledged(status, observed):
        turn.set(unacknowledged=away)
    else:
        turn.set(unacknowledged=tuple(sorted(observed.unreachable)))
        turn.unload_later(status.canary_digest)
        if status.phase == "ABORTING":
            turn.move("ROLLED_BACK", status.reason)
            turn.notify("rolled_back", f"{status.reason}; every live worker has it")
        elif turn.spec is None:
            turn.rest()
        else:
            turn.begin(turn.spec, "the rollout before it is out of the way", turn.applied_by)


def _stay(turn: Turn) -> None:
    """At rest: say again what a store has lost, and strike out nodes that have come back."""
    status, observed = turn.status, turn.observed
    assert status.phase in AT_REST, f"{status.phase} is no phase to rest in"
    if _is_lost(turn) and status.phase == "ROLLED_BACK":
        turn.zero(status.reason)
    elif _is_lost(turn) and status.phase == "PROMOTED":
        turn.actions.append(Promote(status.canary_digest))
        turn.set(awaits_revision=observed.revision + 1)
    still = tuple(name for name in status.unacknowledged if name in observed.unreachable)
    turn.set(unacknowledged=still)


def _go_on(turn: Turn) -> None:
    """The rollout that is wanted runs: back if anything says so, else on if nothing says no."""
    spec = turn.wanted_spec()
    # Nothing has begun in DRAFT, so nothing can speak against it; and a latch may find no room.
    found = () if turn.status.phase == "DRAFT" else findings(spec, turn.status, turn.observed, turn.now_ms)
    back = next((one for one in found if one.do == "rollback"), None)
    if back is not None:
        turn.abort(back.actor, back.text)
        return
    if _is_lost(turn):
        _say_again(turn)
        return
    if plan_digest(spec) != turn.status.plan:
        replan(turn)
        return
    for one in found:
        if one.do == "warn":
            turn.notify_once(one.name, "warning", one.text)
    turn.set(four_eyes=spec.four_eyes)
    look_again(turn)
    if turn.observed.killed and turn.status.slots != ALL_SLOTS:
        turn.set(force=None)  # who let it go on has not seen what it was killed for
    else:
        lose_patience(turn)
    turn.hold(_held_by(found, turn.status.force))
    watch(turn)
    if not fall_back(turn):
        MOVES[turn.status.phase](turn)


def _held_by(found: tuple[Finding, ...], force: Force | None) -> dict[str, str]:
    everything = force is not None and force.everything
    return {one.name: one.text for one in found if one.do == "hold" and not (everything and one.waivable)}


def _say_again(turn: Turn) -> None:
    status = turn.status
    if status.phase in IN_STEP:
        turn.move("APPLYING", "the store had lost the write")
    if status.phase in IN_STEP or status.phase == "PROMOTING":
        turn.route(status.slots, status.shadow_slots)
    else:
        turn.zero("the store had lost the write")


# ---- without the store, and after everything ----


def _freeze(turn: Turn) -> None:
    """Nothing is decided. Harm, and a person's abort, set the canary to zero on this node and are written later."""
    status, spec = turn.status, turn.spec
    runs = status.phase in ACTIVE and status.phase != "DRAFT"
    for command in turn.observed.commands:
        if command.id in turn.status.done:
            continue
        abort = command.kind == "abort" and runs and command.identity in ("", status.identity)
        if abort:
            turn.set(pending_abort=turn.said(command.actor, command.reason or "aborted by hand"))
        text = "zero on this node; it is written when the store is back" if abort else STORE_AWAY
        turn.answer(command.id, ok=abort, text=text)
    if runs and spec is not None and _is_same(spec, status) and turn.status.pending_abort is None:
        found = findings(spec, status, turn.observed, turn.now_ms)
        back = next((one for one in found if one.do == "rollback"), None)
        if back is not None:
            turn.set(pending_abort=turn.said(back.actor, back.text))
    if turn.status.pending_abort is not None:
        turn.actions.append(ZeroHere(status.canary_digest, turn.status.pending_abort.reason))


def _unload(turn: Turn) -> None:
    """Models whose time in memory is over, unless something needs them again."""
    due = [one for one in turn.status.unloads if one.at_ms <= turn.now_ms]
    if not due:
        return
    turn.set(unloads=tuple(one for one in turn.status.unloads if one not in due))
    needed = wanted(turn.status)
    turn.actions += [Unload(one.digest) for one in due if one.digest not in needed]


def _note(turn: Turn) -> None:
    """What people read: why it waits, and the guardrails in short."""
    status, spec, observed = turn.status, turn.spec, turn.observed
    waits: tuple[str, ...] = () if observed.store else (STORE_AWAY,)
    if status.paused is not None:
        waits += (f"paused by {status.paused.actor}" + (f": {status.paused.reason}" if status.paused.reason else ""),)
    waits += tuple(status.holding.values())
    if status.phase in GOING_BACK:
        waits += view_waits(status, observed)[:1] if not is_acknowledged(status, observed) else ()
    elif spec is not None and _is_same(spec, status) and status.phase in ACTIVE:
        if status.phase == "DRAFT" and turn.latches_full():
            waits += (f"{len(status.latches)} rolled back rollouts are latched; `retry` takes one away",)
        waits += waits_of(spec, status, observed, turn.now_ms) if plan_digest(spec) == status.plan else ()
        turn.set(marks=marks_of(spec, status, observed))
    turn.set(waits=waits, revision=observed.revision, ticked_at_ms=turn.now_ms)
