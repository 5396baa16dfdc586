"""What people ask for: approve, pause, resume, abort, promote, retry. Pure.

A command is answered in words, once. It may be refused; an abort of a rollout that runs never is.
"""

from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from router.rollout.actions import ClearLocalZeros
from router.rollout.findings import fallback_asked, is_over, verdicts_of
from router.rollout.gates import objection
from router.rollout.observed import Command
from router.rollout.spec import identity, plan_digest
from router.rollout.status import ACTIVE, IN_STEP, MAX_TEXT, Approved, Force, RolloutStatus, is_latched
from router.rollout.turn import Turn

MAX_LABELS: Final = 16
Result = tuple[bool, str]


def obey(turn: Turn) -> None:
    """Deal with all commands of the tick; an abort comes before the others, whoever was first."""
    waiting = [one for one in turn.observed.commands if one.id not in turn.status.done]
    for command in sorted(waiting, key=lambda one: one.kind != "abort"):
        ok, text = _refused_for_place(turn.status, command) or _DO[command.kind](turn, command)
        turn.answer(command.id, ok=ok, text=text)


def _refused_for_place(status: RolloutStatus, command: Command) -> Result | None:
    if command.identity and command.identity != status.identity:
        return False, "another rollout has begun since; look again"
    if command.step is not None and command.step != status.step:
        return False, f"the rollout is at step {status.step + 1} by now; look again"
    return None


def _abort(turn: Turn, command: Command) -> Result:
    status = turn.status
    if status.phase == "DRAFT" and turn.latches_full():
        return False, "nothing runs, and there is no room for another latch"
    if status.phase in ACTIVE:
        turn.abort(command.actor, command.reason or "aborted by hand")
        return True, "aborted: stable answers everything again"
    if status.phase in ("ABORTING", "ROLLED_BACK"):
        return True, "it is rolled back already"
    if status.phase == "SUPERSEDED":
        return True, "superseded: stable answers everything again"
    if status.phase == "PROMOTED":
        return False, "it is promoted; `policy rollback` goes back to a former stable in one step"
    return False, "no rollout runs"


def _pause(turn: Turn, command: Command) -> Result:
    if turn.status.phase not in ACTIVE:
        return False, "no rollout runs"
    if turn.status.paused is None:
        turn.set(paused=turn.said(command.actor, command.reason))
        turn.audit(command.actor, "pause", command.reason, turn.status.slots)
    return True, "paused: weights stay as they are; guardrails still roll back"


def _resume(turn: Turn, command: Command) -> Result:
    status, zeroed = turn.status, turn.observed.zeroed
    if status.phase not in ACTIVE:
        return False, "no rollout runs"
    spec = turn.spec
    over = spec is not None and spec.on_timeout == "hold" and is_over(spec, status, turn.now_ms)
    falls_back = status.fallback is not None or fallback_asked(status, turn.observed) is not None
    if status.paused is None and not falls_back and not zeroed and not over:
        return False, "it is not paused; what holds it ends by itself" if status.holding else "it is not paused"
    turn.set(paused=None)
    if falls_back:
        _overrule(turn, command)
    if over:
        turn.set(clock_from_ms=turn.now_ms)
    if zeroed:
        turn.actions.append(ClearLocalZeros(tuple(zero.worker for zero in zeroed)))
    turn.audit(command.actor, "resume", command.reason, status.slots)
    return True, "resumed"


def _overrule(turn: Turn, command: Command) -> None:
    """Whatever the monitor's lease says, a person lets the canary have its users back."""
    turn.set(overruled_ms=turn.now_ms)
    fallback = turn.status.fallback
    if fallback is not None:
        actor = command.actor[:MAX_TEXT]
        turn.set(fallback=msgspec.structs.replace(fallback, until_ms=turn.now_ms, ended_by=actor))


def _approve(turn: Turn, command: Command) -> Result:
    spec, status = turn.spec, turn.status
    if spec is None or status.phase not in IN_STEP or identity(spec) != status.identity:
        return False, "no step waits for an approval"
    if plan_digest(spec) != status.plan:
        return False, "the steps have just been edited; look again"
    asked = spec.steps[status.step].hold.approval
    if asked is None:
        return False, f"step {status.step + 1} asks for no approval"
    labels = command.labels[:MAX_LABELS]
    given = Approved(status.step, command.actor[:MAX_TEXT], labels, turn.now_ms, command.reason[:MAX_TEXT])
    complaint = objection(spec, asked, given, turn.observed.applied_by, turn.now_ms)
    if complaint:
        return False, complaint
    others = tuple(one for one in status.approvals if (one.step, one.actor) != (given.step, given.actor))
    turn.set(approvals=(*others, given)[-MAX_LABELS:])
    turn.audit(command.actor, "approve", command.reason, status.slots)
    return True, f"approved: step {status.step + 1}"


def _promote(turn: Turn, command: Command) -> Result:
    spec, status = turn.spec, turn.status
    if status.phase == "PROMOTED":
        return True, "it is promoted already"
    if spec is None or status.phase not in ACTIVE or identity(spec) != status.identity:
        return False, "no rollout runs"
    if spec.four_eyes and command.actor == turn.observed.applied_by:
        return False, f"{command.actor} applied the policy, and fourEyes asks for somebody else"
    if turn.observed.killed:
        return False, "the canary is killed; let it in again first"
    tripped = [name for name, verdict in verdicts_of(status, turn.observed).items() if verdict.tripped]
    if tripped and spec.on_failure.do != "warn":
        return False, f"guardrail {tripped[0]} has tripped; abort it"
    turn.set(force=Force(command.actor[:MAX_TEXT], turn.now_ms, command.reason[:MAX_TEXT], True))
    _overrule(turn, command)
    turn.audit(command.actor, "promote", command.reason, status.slots)
    return True, "promotes without waiting for evidence; approvals are still asked for"


def _retry(turn: Turn, command: Command) -> Result:
    spec, status = turn.spec, turn.status
    if spec is None or status.phase != "ROLLED_BACK" or identity(spec) != status.identity:
        return False, "only a rollout that is rolled back can be tried again"
    if not command.reason:
        return False, "say why it should be tried again"
    if not is_latched(status, status.identity):
        return False, "it is not latched"
    turn.set(latches=tuple(latch for latch in status.latches if latch.identity != status.identity))
    turn.audit(command.actor, "retry", command.reason, status.slots)
    turn.begin(spec, command.reason, command.actor)
    return True, "it starts from the first step"


_DO: Final[Mapping[str, Callable[[Turn, Command], Result]]] = {
    "abort": _abort,
    "pause": _pause,
    "resume": _resume,
    "approve": _approve,
    "promote": _promote,
    "retry": _retry,
}
