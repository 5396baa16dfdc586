"""One call of `advance` while it works: the status as it grows, and what is to be done. Pure; lives no longer."""

from typing import Any, Final

import msgspec

from router.rollout.actions import (
    Action,
    Answer,
    Audit,
    Notify,
    NotifyKind,
    Promote,
    SetShadow,
    SetWeight,
    Withhold,
    Zero,
)
from router.rollout.findings import marks_of
from router.rollout.observed import Observed
from router.rollout.spec import ALL_SLOTS, DEFAULT_KEEP_LOADED_MS, RolloutSpec, identity, plan_digest, slots_at
from router.rollout.status import (
    MAX_DONE,
    MAX_HISTORY,
    MAX_LATCHES,
    MAX_STABLES,
    MAX_TEXT,
    Fallback,
    Latch,
    Move,
    Phase,
    RolloutStatus,
    Said,
    Unloading,
)
from router.rollout.words import listed, share

AUTO: Final = "auto:rollout"
CLEAR: Final = "nothing speaks against going on any more"
# A rollout that the policy no longer names says nothing of its own any more; drained and kept as by default.
NO_SPEC_KEEP_MS: Final = DEFAULT_KEEP_LOADED_MS


class Turn:
    """What one tick does.

    Attributes:
        status: as it will be.
        actions: in order.
    """

    def __init__(self, spec: RolloutSpec | None, status: RolloutStatus, observed: Observed, now_ms: int) -> None:
        self.spec = spec
        self.status = status
        self.observed = observed
        self.now_ms = now_ms
        self.actions: list[Action] = []

    @property
    def applied_by(self) -> str:
        """Who applied the policy in force."""
        return self.observed.applied_by or "auto:policy"

    def set(self, **changes: Any) -> None:
        """Change fields of the status."""
        self.status = msgspec.structs.replace(self.status, **changes)

    def move(self, phase: Phase, reason: str, actor: str = AUTO) -> None:
        """Enter a phase; one line of history."""
        reason, actor = reason[:MAX_TEXT], actor[:MAX_TEXT]
        status = self.status
        revision = self.observed.revision
        line = Move(self.now_ms, revision, status.identity, phase, status.step, actor, reason)
        history = (*status.history, line)[-MAX_HISTORY:]
        self.set(phase=phase, reason=reason, entered_at_ms=self.now_ms, history=history)

    def audit(self, actor: str, what: str, reason: str, slots_before: int) -> None:
        """A record of a change, with what it rests on."""
        spec = self.spec
        if spec is not None and identity(spec) == self.status.identity:
            # They stand beside the decision from then on: what was tripped does not look undecided afterwards.
            self.set(marks=marks_of(spec, self.status, self.observed))
        status = self.status
        record = Audit(
            at_ms=self.now_ms,
            actor=actor[:MAX_TEXT],
            what=what,
            reason=reason[:MAX_TEXT],
            identity=status.identity,
            canary_digest=status.canary_digest,
            phase=status.phase,
            step=status.step,
            slots_before=slots_before,
            slots_after=status.slots,
            revision=self.observed.revision,
            marks=status.marks,
            evidence=status.evidence,
        )
        self.actions.append(record)

    def notify(self, kind: NotifyKind, reason: str) -> None:
        """Tell people."""
        self.actions.append(Notify(kind, reason[:MAX_TEXT]))

    def notify_once(self, key: str, kind: NotifyKind, reason: str) -> None:
        """Tell people once in this rollout."""
        if key not in self.status.warned:
            self.set(warned=(*self.status.warned, key)[-MAX_DONE:])
            self.notify(kind, reason)

    def answer(self, command: str, *, ok: bool, text: str) -> None:
        """Answer a command; it is done."""
        self.set(done=(*self.status.done, command)[-MAX_DONE:])
        self.actions.append(Answer(command, ok, text))

    # ---- routing: what is written takes effect in the next revision ----

    def _written(self) -> None:
        self.set(awaits_revision=self.observed.revision + 1)

    def route(self, slots: int, shadow_slots: int) -> None:
        """Give the canary these shares. Said again when they are in force already: it is idempotent."""
        self.set(slots=slots, shadow_slots=shadow_slots)
        self.actions += [SetWeight(slots), SetShadow(shadow_slots)]
        self._written()

    def zero(self, reason: str) -> None:
        """All of the canary's traffic back to where it came from."""
        self.set(slots=0, shadow_slots=0)
        self.actions.append(Zero(self.status.canary_digest, reason[:MAX_TEXT]))
        self._written()

    def withhold(self, until_ms: int, reason: str, actor: str) -> None:
        """Stable answers for the canary, whose users keep their place for when it comes back."""
        slots = self.status.slots
        self.set(fallback=Fallback(self.now_ms, until_ms, reason[:MAX_TEXT]))
        self.actions.append(Withhold(self.status.canary_digest))
        self._written()
        self.audit(actor, "fallback", reason, slots)

    # ---- the life of a rollout ----

    def rest(self) -> None:
        """No rollout is wanted."""
        self.set(identity="", stable_digest="", canary_digest="", plan="", step=0, slots=0, **_CLEAN)
        self.move("IDLE", "the policy names no rollout")

    def begin(self, spec: RolloutSpec, reason: str, actor: str) -> None:
        """A new rollout, from nothing but latches, former stables, models in memory and the statistics' cursors."""
        now_ms = self.now_ms
        self.set(
            identity=identity(spec),
            stable_digest=spec.stable_digest,
            canary_digest=spec.canary_digest,
            plan=plan_digest(spec),
            step=0,
            visit=self.status.visit + 1,
            started_at_ms=now_ms,
            clock_from_ms=now_ms,
            slots=0,
            shadow_slots=0,
            **_CLEAN,
        )
        self.move("DRAFT", reason, actor)

    def enter_step(self, index: int, reason: str, actor: str = AUTO) -> None:
        """Give the canary what a step says; its own counts begin anew, the evidence does not."""
        spec = self.wanted_spec()
        before = self.status.slots
        self.set(step=index, visit=self.status.visit + 1, held_ms=0, lagging_since_ms=None)
        slots = slots_at(spec, index)
        if slots < ALL_SLOTS:
            self.set(cleared=False)
        self.move("APPLYING", reason, actor)
        self.route(slots, spec.steps[index].shadow_slots or 0)
        self.audit(actor, "step", reason, before)
        self.notify("step", f"step {index + 1} of {len(spec.steps)}: {self.described()}")

    def enter_promoting(self, reason: str, actor: str = AUTO) -> None:
        """All users to the canary; stable stays loaded, so that an abort is still one write."""
        before = self.status.slots
        self.set(held_ms=0, lagging_since_ms=None)
        self.move("PROMOTING", reason, actor)
        self.route(ALL_SLOTS, 0)
        self.audit(actor, "promoting", reason, before)

    def promoted(self, reason: str, actor: str = AUTO) -> None:
        """The canary is the stable."""
        status, before = self.status, self.status.slots
        stables = status.stables or (status.stable_digest,)
        if stables[-1] != status.canary_digest:
            stables = (*stables, status.canary_digest)[-MAX_STABLES:]
        self.set(stables=stables, slots=ALL_SLOTS, shadow_slots=0, holding={}, waits=())
        self.move("PROMOTED", reason, actor)
        self.actions.append(Promote(status.canary_digest))
        self._written()
        self.unload_later(status.stable_digest)
        self.audit(actor, "promoted", reason, before)
        self.notify("promoted", reason)

    def abort(self, actor: str, reason: str) -> None:
        """One write: the canary has nothing, and this rollout never starts again by itself."""
        status, before = self.status, self.status.slots
        if not status.latched:
            latch = Latch(status.identity, status.canary_digest, actor[:MAX_TEXT], self.now_ms, reason[:MAX_TEXT])
            self.set(latches=(*status.latches, latch))
        self.set(pending_abort=None, paused=None, fallback=None, force=None, holding={}, waits=())
        self.move("ABORTING", reason, actor)
        self.zero(reason)
        self.audit(actor, "abort", reason, before)
        self.notify("aborted", f"{reason}; by {actor}")

    def supersede(self, reason: str, actor: str) -> None:
        """The policy wants something else: first the old canary loses what it has."""
        before = self.status.slots
        self.set(pending_abort=None, paused=None, fallback=None, force=None, holding={}, waits=())
        self.move("SUPERSEDED", reason, actor)
        self.zero(reason)
        self.audit(actor, "superseded", reason, before)
        self.notify("superseded", reason)

    def unload_later(self, digest: str) -> None:
        """Out of memory after `keepLoaded`; drained before, for requests in flight still run there."""
        keep_ms = NO_SPEC_KEEP_MS if self.spec is None else self.spec.on_failure.keep_loaded_ms
        others = tuple(one for one in self.status.unloads if one.digest != digest)
        self.set(unloads=(*others, Unloading(digest, self.now_ms + keep_ms)))

    def wanted_spec(self) -> RolloutSpec:
        """The spec, where there must be one."""
        assert self.spec is not None, "a rollout in hand has a spec, or it is superseded first"
        return self.spec

    def latches_full(self) -> bool:
        """No room for one more, so nothing that might need one may start."""
        return len(self.status.latches) >= MAX_LATCHES

    def described(self) -> str:
        """What the canary has."""
        status = self.status
        shadow = f", answers {share(status.shadow_slots)} unseen" if status.shadow_slots else ""
        return f"the canary has {share(status.slots)} of the traffic{shadow}"

    def said(self, actor: str, reason: str) -> Said:
        """Somebody, now."""
        return Said(actor[:MAX_TEXT], self.now_ms, reason[:MAX_TEXT])

    def hold(self, holding: dict[str, str]) -> None:
        """What keeps the rollout from going on, by name; each is told when it begins, and the end of the last."""
        before = self.status.holding
        self.set(holding=holding)
        added = [text for name, text in holding.items() if name not in before]
        if added:
            self.audit(AUTO, "hold", listed(added), self.status.slots)
            self.notify("holding", listed(added))
        elif before and not holding:
            self.audit(AUTO, "go on", CLEAR, self.status.slots)
            self.notify("resumed", CLEAR)


# What a new rollout does not take over.
_CLEAN: Final[dict[str, Any]] = {
    "held_ms": 0,
    "lagging_since_ms": None,
    "cleared": False,
    "pending_abort": None,
    "paused": None,
    "fallback": None,
    "force": None,
    "four_eyes": False,
    "approvals": (),
    "holding": {},
    "waits": (),
    "warned": (),
    "marks": {},
    "unacknowledged": (),
    "evidence": "",
}
