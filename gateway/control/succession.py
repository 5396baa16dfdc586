"""The record of a policy's next document: what a rollout under way keeps of the one before. Pure."""

from dataclasses import dataclass

import msgspec

from gateway.control.documents import Kept, next_ownership, weighed, with_gone
from gateway.control.messages import VariantPin
from gateway.control.plans import rollout_spec
from gateway.control.record import PolicyRecord
from gateway.control.steps import spec_of
from router import slots as tables
from router.policy import TrafficPolicy
from router.rollout.spec import identity
from router.rollout.status import RolloutStatus
from runtimes.errors import Conflict


@dataclass(frozen=True, slots=True)
class Applied:
    """Who applies a document, and when; `owner` is that of the watched folder."""

    actor: str
    owner: str
    now_ms: int


def next_record(
    kept: Kept | None,
    policy: TrafficPolicy,
    document: object,
    pins: tuple[VariantPin, ...],
    gone: tuple[int, int],
    by: Applied,
) -> PolicyRecord:
    """The record of a new document. A rollout that goes on keeps its shares; otherwise they are the document's.

    Args:
        gone: revision and generation of a deleted policy of this name.

    Raises:
        Conflict: it kills what was promoted.
    """
    assert isinstance(document, dict), "parsed"
    before = kept.record if kept else _nothing(*gone)
    spec = rollout_spec(policy, {pin.variant: pin.digest for pin in pins})
    was = spec_of(kept) if kept else None
    same = spec is not None and identity(spec) == before.status.identity
    # Not one that comes back over another document: its canary and its shares are not in that record.
    goes_on = same and was is not None and identity(was) == before.status.identity
    names = _renamed(before, pins)
    keeps = goes_on and kept is not None and tuple(map(names.get, kept.policy.names)) == policy.names
    ownership = next_ownership(kept, policy, goes_on=keeps)
    stable = names.get(before.stable, policy.spec.stable) if goes_on else policy.spec.stable
    if policy.spec.kill.get(stable):
        raise Conflict(f"spec.kill: {stable!r} has been promoted; `policy rollback` goes back to a former stable")
    shadow, rollout = policy.spec.shadow, policy.spec.rollout
    killed = {*before.killed, *map(names.get, before.killed)} - {stable}
    record = msgspec.structs.replace(
        before,
        document=document,
        revision=before.revision + 1,
        generation=before.generation + 1,
        applied_by=by.actor,
        applied_ms=by.now_ms,
        owner=by.owner,
        variants=pins,
        unloaded=(),
        slots=tables.to_text(ownership.owner, policy.names),
        before=tables.to_text(ownership.before, with_gone(policy.names)),
        stable=stable,
        killed=tuple(name for name in policy.names if name in killed),
        status=said_again(before, again=same and not keeps),
    )
    if goes_on:
        record = msgspec.structs.replace(record, canary=names.get(before.canary, ""))
    else:
        shadow_slots, canary = shadow.percent_slots if shadow else 0, rollout.to if rollout else ""
        record = msgspec.structs.replace(record, canary=canary, shadow_slots=shadow_slots, zeroed=False)
        record = msgspec.structs.replace(record, slow_ns=0, wait_ns=0, run_ns={})
    return weighed(record, policy)


def _nothing(revision: int, generation: int) -> PolicyRecord:
    """What a first document follows."""
    return PolicyRecord(
        document={},
        revision=revision,
        generation=generation,
        applied_by="",
        applied_ms=0,
        variants=(),
        slots="",
        before="",
        stable="",
    )


def _renamed(before: PolicyRecord, pins: tuple[VariantPin, ...]) -> dict[str, str]:
    """Names of variants before -> what the same files are called now."""
    now = {pin.digest: pin.variant for pin in pins}
    return {pin.variant: now[pin.digest] for pin in before.variants if pin.digest in now}


def said_again(before: PolicyRecord, *, again: bool) -> RolloutStatus:
    """The status in the next record: shares are written once more where that has others, or where they still are to be.

    Waiting for a revision above the record's own is how a rollout knows of a write that the store has lost.
    """
    status = before.status
    if again or status.awaits_revision > before.revision:
        return msgspec.structs.replace(status, awaits_revision=before.revision + 2)
    return status
