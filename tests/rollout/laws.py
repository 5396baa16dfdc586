"""What must be true of every tick, whatever was seen. Written from the rules, not from the machine.

`Laws` watches one document: it is shown each tick that was written, in order.
"""

from dataclasses import dataclass, field

from router.rollout.actions import (
    WRITTEN,
    Action,
    Answer,
    Audit,
    Promote,
    SetShadow,
    SetWeight,
    Withhold,
    Zero,
    ZeroHere,
)
from router.rollout.machine import advance
from router.rollout.observed import Observed
from router.rollout.spec import ALL_SLOTS, RolloutSpec, identity
from router.rollout.status import (
    ACTIVE,
    MAX_DONE,
    MAX_HISTORY,
    MAX_LATCHES,
    MAX_STABLES,
    UNDER_WATCH,
    RolloutStatus,
    decode,
    encode,
)

NOTHING = {"IDLE", "DRAFT", "VALIDATED", "PREPARING", "ABORTING", "ROLLED_BACK", "SUPERSEDED"}
BACK = {"ABORTING", "SUPERSEDED"}
IN_STEP = {"APPLYING", "PROPAGATING", "SHADOWING", "BAKING", "DECIDING"}
NEXT = {
    "IDLE": {"DRAFT", "ABORTING"},
    "DRAFT": {"VALIDATED", "ROLLED_BACK", "PROMOTED"} | BACK,
    "VALIDATED": {"PREPARING"} | BACK,
    "PREPARING": {"APPLYING", "PROMOTING"} | BACK,
    "APPLYING": {"PROPAGATING", "PREPARING"} | BACK,
    "PROPAGATING": {"SHADOWING", "BAKING", "APPLYING", "PREPARING"} | BACK,
    "SHADOWING": {"DECIDING", "PROPAGATING", "APPLYING", "PREPARING"} | BACK,
    "BAKING": {"DECIDING", "PROPAGATING", "APPLYING", "PREPARING"} | BACK,
    "DECIDING": {"APPLYING", "PROPAGATING", "PROMOTING", "PREPARING"} | BACK,
    "PROMOTING": {"PROMOTED"} | BACK,
    "PROMOTED": {"DRAFT", "ABORTING", "IDLE"},
    "ABORTING": {"ROLLED_BACK"},
    "ROLLED_BACK": {"DRAFT", "ABORTING", "IDLE"},
    "SUPERSEDED": {"DRAFT", "IDLE"},
}
# A takeover puts the phase back to PROPAGATING, and the same tick may go on from there.
TAKEN_OVER = {"PROPAGATING", "SHADOWING", "BAKING"}


@dataclass
class Tick:
    spec: RolloutSpec | None
    before: RolloutStatus
    observed: Observed
    now_ms: int
    after: RolloutStatus
    actions: list[Action]

    @property
    def same(self) -> bool:
        """The rollout in hand is the one that the policy wants, before and after."""
        return identity(self.spec) == self.before.identity == self.after.identity


def tick(spec: RolloutSpec | None, before: RolloutStatus, observed: Observed, now_ms: int) -> Tick:
    """A tick, which must be the same from a status that went through JSON."""
    after, actions = advance(spec, before, observed, now_ms)
    assert advance(spec, decode(encode(before)), observed, now_ms) == (after, actions)
    assert decode(encode(after)) == after
    return Tick(spec, before, observed, now_ms, after, actions)


@dataclass
class Laws:
    """Attributes:
    agreed: (identity, step, actor, labels, time) of every approval that was asked for while the step was in force.
    """

    agreed: list[tuple[str, int, str, tuple[str, ...], int]] = field(default_factory=list)

    def check(self, one: Tick) -> None:
        before, observed = one.before, one.observed
        self.agreed += [
            (before.identity, before.step, command.actor, command.labels, one.now_ms)
            for command in observed.commands
            if command.kind == "approve" and observed.store
        ]
        if observed.token < before.token:
            assert (one.after, one.actions) == (before, [])
            return
        for law in (
            _written,
            _phases,
            _nothing,
            _latches,
            _held,
            _harm,
            _away,
            _bounds,
            self._more,
            _promoted,
            _withheld,
        ):
            law(one)

    def _more(self, one: Tick) -> None:
        """More for the canary only from a full view, with nothing against it, and past no approval."""
        before, after, observed, spec = one.before, one.after, one.observed, one.spec
        edited = after.plan != before.plan  # may ask for a larger shadow, which no user sees
        if after.slots <= before.slots and (after.shadow_slots <= before.shadow_slots or edited):
            return
        if before.phase == "DRAFT":
            assert (after.phase, after.force and after.force.actor) == ("PROMOTED", "auto:stable")
            return
        assert spec is not None
        assert one.same
        assert before.phase in ("PREPARING", "DECIDING"), before.phase
        assert observed.store
        assert observed.fresh
        assert observed.acked_revision >= before.awaits_revision
        assert observed.canary_ready
        assert not observed.canary_failed
        assert not observed.zeroed
        assert after.paused is None
        comes_back = after.force is not None and after.force.actor == "auto:rollbackWindow"
        assert observed.window_open or comes_back
        tripped = [name for name, verdict in observed.verdicts.items() if verdict.tripped]
        assert not tripped or spec.on_failure.do == "warn" or observed.identity != before.identity
        if before.phase == "DECIDING":
            self._leaves(one, spec)
        passed_by = range(before.step + 1 if before.phase == "DECIDING" else 0, after.step)
        if after.phase == "PROMOTING" and not comes_back:
            passed_by = range(before.step + 1 if before.phase == "DECIDING" else 0, len(spec.steps))
        assert not [index for index in passed_by if spec.steps[index].hold.approval]
        assert len(passed_by) == 0 or (after.force is not None and after.force.everything)

    def _leaves(self, one: Tick, spec: RolloutSpec) -> None:
        before, observed = one.before, one.observed
        step = spec.steps[before.step]
        asked = step.hold.approval
        if asked is not None:
            assert any(
                (identity_, at) == (before.identity, before.step)
                and (actor in asked.by or any(f"label:{label}" in asked.by for label in labels))
                and not (spec.four_eyes and actor == observed.applied_by)
                and (asked.expires_ms == 0 or one.now_ms - at_ms <= asked.expires_ms)
                for identity_, at, actor, labels, at_ms in self.agreed
            )
        if spec.four_eyes and one.after.force is not None:
            assert one.after.force.actor != observed.applied_by
        if one.after.force is None:
            last_ms = min(10_000, max(0, one.now_ms - before.ticked_at_ms))
            assert before.held_ms + last_ms >= step.hold.min_duration_ms
            assert observed.visit == before.visit or not (step.hold.min_units or step.hold.min_samples)
            assert observed.canary_units >= step.hold.min_units
            assert observed.samples >= step.hold.min_samples
            assert not set(observed.signals) & {signal.name for signal in spec.signals}


def _written(one: Tick) -> None:
    """Routing follows the actions, each change of it is on record, and needs the store."""
    # Another rollout begins with nothing, whatever the one before it has come to.
    begins = one.before.phase == "PROMOTED" and one.after.phase in ("DRAFT", "ABORTING", "IDLE")
    before = (0, 0) if begins else (one.before.slots, one.before.shadow_slots)
    slots, shadow, digest = *before, None
    for action in one.actions:
        match action:
            case SetWeight(slots):
                pass
            case SetShadow(shadow):
                pass
            case Zero():
                slots = shadow = 0
            case Promote(digest):
                slots, shadow = ALL_SLOTS, 0
            case _:
                pass
    assert (slots, shadow) == (one.after.slots, one.after.shadow_slots)
    if slots != before[0]:
        records = [action for action in one.actions if isinstance(action, Audit)]
        assert (before[0], slots) in [(record.slots_before, record.slots_after) for record in records]
    if any(isinstance(action, SetWeight | Zero | Withhold | Promote) for action in one.actions):
        assert one.after.awaits_revision == one.observed.revision + 1
    zeroes = [isinstance(action, Zero) for action in one.actions]
    if any(zeroes):
        rest = one.actions[zeroes.index(True) :]
        assert not any(isinstance(action, SetWeight | SetShadow | Promote) for action in rest)
    assert digest in (None, one.after.canary_digest)


def _phases(one: Tick) -> None:
    before, after = one.before.phase, one.after.phase
    took = one.observed.token > one.before.token and before in IN_STEP
    allowed = NEXT[before] | {before} | (TAKEN_OVER | {"APPLYING", "PREPARING"} | BACK if took else set())
    assert after in allowed, f"{before} -> {after}"


def _nothing(one: Tick) -> None:
    after = one.after
    if after.phase in NOTHING and not (after.phase in ("PREPARING", "APPLYING") and after.shadow_slots):
        assert (after.slots, after.shadow_slots) == (0, 0), after.phase
    if after.phase in ("PROMOTING", "PROMOTED"):
        assert after.slots == ALL_SLOTS


def _latches(one: Tick) -> None:
    """A latched rollout has nothing; a latch goes by `retry` alone."""
    after = one.after
    if after.latched:
        assert after.slots == after.shadow_slots == 0
        assert after.phase in ("ABORTING", "ROLLED_BACK", "DRAFT", "SUPERSEDED")
    gone = set(one.before.latches) - set(after.latches)
    retried = {command.id for command in one.observed.commands if command.kind == "retry" and command.reason}
    done = {action.command for action in one.actions if isinstance(action, Answer) and action.ok}
    assert not gone or retried & done
    assert all(latch.identity == one.before.identity for latch in gone)
    if after.phase == "ABORTING":
        assert after.latched


def _held(one: Tick) -> None:
    before, after, observed = one.before, one.after, one.observed
    if after.visit != before.visit or after.identity != before.identity:
        assert after.visit > before.visit or after.phase == "IDLE"
        return
    grown_ms = after.held_ms - before.held_ms
    if grown_ms > 0:
        assert before.phase in UNDER_WATCH
        assert observed.token == before.token
        assert observed.fresh
        assert observed.store
        assert observed.acked_revision >= before.awaits_revision
        assert after.paused is None
        assert grown_ms <= min(one.now_ms - before.ticked_at_ms, 10_000)
    elif grown_ms < 0:
        assert after.phase in ("PROMOTING", "PREPARING", "ROLLED_BACK", "ABORTING", "IDLE")


def _harm(one: Tick) -> None:
    """A tripped guardrail rolls back at once, whatever else there is to say."""
    before, observed, spec = one.before, one.observed, one.spec
    if spec is None or not observed.store or before.phase not in ACTIVE - {"DRAFT"}:
        return
    names = {guardrail.name for guardrail in spec.guardrails}
    tripped = any(verdict.tripped for name, verdict in observed.verdicts.items() if name in names)
    if identity(spec) == before.identity == observed.identity and tripped and spec.on_failure.do == "rollback":
        assert one.after.phase == "ABORTING"
        assert one.after.latched
        assert any(isinstance(action, Zero) for action in one.actions)


def _away(one: Tick) -> None:
    if one.observed.store:
        assert not any(isinstance(action, ZeroHere) for action in one.actions)
        return
    before, after = one.before, one.after
    assert not any(isinstance(action, WRITTEN) for action in one.actions)
    assert (after.slots, after.shadow_slots, after.step) == (before.slots, before.shadow_slots, before.step)
    assert after.phase in (before.phase, "PROPAGATING")


def _bounds(one: Tick) -> None:
    after = one.after
    assert len(after.history) <= MAX_HISTORY
    assert len(after.done) <= MAX_DONE
    assert len(after.warned) <= MAX_DONE
    assert len(after.latches) <= MAX_LATCHES
    assert len(after.stables) <= MAX_STABLES
    assert len(after.approvals) <= 16
    if after.state == "HOLDING":
        assert after.waits


def _promoted(one: Tick) -> None:
    """All users only when every guardrail passes, or when a name stands beside it."""
    before, after, spec, observed = one.before, one.after, one.spec, one.observed
    if after.slots == ALL_SLOTS:
        assert after.cleared or after.force is not None or before.phase == "PROMOTED"
    if after.cleared and not before.cleared:
        assert spec is not None
        for guardrail in spec.guardrails:
            verdict = observed.verdicts[guardrail.name]
            assert observed.identity == before.identity
            assert verdict.passes
            assert not verdict.tripped
            assert not verdict.insufficient


def _withheld(one: Tick) -> None:
    """Stable answers for the canary only while a lease says so, on record, and no step is left meanwhile."""
    before, after, observed = one.before, one.after, one.observed
    lease = observed.monitor
    forced = before.force is not None and before.force.everything
    if after.fallback is not None:
        assert after.phase in IN_STEP | {"PREPARING", "PROMOTING"}
        assert after.step <= before.step
        assert after.held_ms <= before.held_ms
    if before.fallback is None and after.fallback is not None:
        assert lease is not None
        assert lease.do == "fallback"
        assert lease.granted_ms > before.overruled_ms
        assert not forced
        assert any(isinstance(action, Withhold) for action in one.actions)
        assert [action.actor for action in one.actions if isinstance(action, Audit) and action.what == "fallback"] == [
            "auto:monitor"
        ]
        assert after.slots == before.slots > 0
    if before.fallback is not None and after.fallback is None and after.phase not in NOTHING - {"PREPARING"}:
        by_a_person = after.overruled_ms == one.now_ms or before.fallback.ended_by
        asked = lease is not None and lease.do == "fallback" and lease.granted_ms > before.overruled_ms and not forced
        assert by_a_person or (not asked and one.now_ms >= before.fallback.until_ms)
        assert observed.fresh
        assert observed.acked_revision >= before.awaits_revision
        assert after.paused is None
        assert after.slots == before.slots
        assert after.visit > before.visit or after.phase in ("PREPARING", "PROMOTING")
        assert after.phase == "PREPARING" or any(isinstance(action, SetWeight) for action in one.actions)
