"""A store that has lost writes, as a Redis does in a failover: what goes back into it from what this node knew. Pure.

Each write that somebody decided adds a mark to the record's lineage. A document descends from what a node knew if the
newest mark that it knew is in it; one that does not, and was not made anew after a delete, is of a line that parted.
Parted lines are joined carefully: nobody's document, kill, pause or rollback of after the loss is undone, and none of
before it, as far as both can hold; where the two had come to different shares, the canary has the smaller one.
"""

from typing import Final

import msgspec

from gateway.control.documents import Kept, weighed
from gateway.control.record import PolicyRecord, decode_record
from gateway.store.base import Document
from router.document import PolicyError
from router.policy import TrafficPolicy, parse
from router.rollout.status import ACTIVE, MAX_LATCHES, RolloutStatus, Said, is_latched

LINEAGE: Final = 32
"""Marks that are kept. Lines that have parted share older ones; who has missed more than that shares none."""


def marked(record: PolicyRecord, mark: str) -> PolicyRecord:
    """The record of one more decision."""
    return msgspec.structs.replace(record, lineage=(*record.lineage, mark)[-LINEAGE:])


def descends(one: PolicyRecord, other: PolicyRecord) -> bool:
    """Whether the first was made in knowledge of all that the second holds, or so long after that nobody can say."""
    if not other.lineage or other.lineage[-1] in one.lineage:
        return True
    return len(one.lineage) == LINEAGE and not {*one.lineage} & {*other.lineage}


def has_parted(known: Kept, found: Document) -> bool:
    """Whether the store has lost something of what this node knew; where it has a higher number, or it was deleted.

    Args:
        known: before the read of `found` began.
    """
    if found.revision < known.revision:
        return True
    try:
        record = decode_record(found.body)
    except msgspec.DecodeError:
        return False
    if found.revision == known.revision:
        return _stored(record) != _stored(known.record)
    return not descends(record, known.record)


def _stored(record: PolicyRecord) -> PolicyRecord:
    """Without what a node holds beside the store."""
    return msgspec.structs.replace(record, status=msgspec.structs.replace(record.status, pending_abort=None))


def restored(known: Kept, found: Document) -> PolicyRecord:
    """What the two lines come to.

    The routing gets a revision that no worker has seen, because two tables may have had the same.
    """
    try:
        other = decode_record(found.body)
        theirs = parse(other.document)
    except (msgspec.DecodeError, PolicyError):
        return known.record
    ours = known.record
    if descends(ours, other):
        record, policy = ours, known.policy
    elif descends(other, ours):
        record, policy = other, theirs
    else:
        record, policy = _joined(ours, other, known.policy, theirs)
    revision = max(ours.revision, other.revision) + 1
    status = msgspec.structs.replace(record.status, awaits_revision=revision)
    return weighed(msgspec.structs.replace(record, revision=revision, status=status), policy)


def ahead(known: PolicyRecord, found: Kept) -> PolicyRecord | None:
    """What a restored backup says, under numbers that nobody has seen; None = it has those already.

    What stopped harm since the backup stays: kills, pauses and rollbacks, as far as they are of what is in force again.
    """
    ours, theirs = _stored(found.record), _stored(known)
    if ours.revision > theirs.revision or ours == theirs:
        return None
    out = {*ours.killed, *theirs.killed} & {*found.policy.names} - {ours.stable}
    record = msgspec.structs.replace(
        ours,
        revision=theirs.revision + 1,
        generation=max(ours.generation, theirs.generation + 1),
        killed=tuple(sorted(out)),
        status=msgspec.structs.replace(_careful(ours.status, theirs.status), awaits_revision=theirs.revision + 1),
    )
    return weighed(record, found.policy)


def _joined(
    ours: PolicyRecord, other: PolicyRecord, policy: TrafficPolicy, theirs: TrafficPolicy
) -> tuple[PolicyRecord, TrafficPolicy]:
    take_theirs = _is_later(other, ours) if other.generation != ours.generation else _is_careful(other, ours)
    (record, left), policy = ((other, ours), theirs) if take_theirs else ((ours, other), policy)
    out = {*ours.killed, *other.killed} & {*policy.names} - {record.stable}
    changes = {"killed": tuple(sorted(out)), "status": _careful(record.status, left.status)}
    lineage = (*left.lineage[-LINEAGE // 2 :], *record.lineage[-LINEAGE // 2 :])
    return msgspec.structs.replace(record, lineage=lineage, **changes), policy


def _is_later(one: PolicyRecord, other: PolicyRecord) -> bool:
    return (one.applied_ms, one.generation) > (other.applied_ms, other.generation)


def _is_careful(one: PolicyRecord, other: PolicyRecord) -> bool:
    """The canary has no more than in the other."""
    return one.status.slots <= other.status.slots


def _careful(status: RolloutStatus, left: RolloutStatus) -> RolloutStatus:
    """A status with the latches of both, the pause of either, and rolled back where the other line was."""
    known = {latch.identity for latch in status.latches}
    latches = (*status.latches, *(latch for latch in left.latches if latch.identity not in known))[:MAX_LATCHES]
    found = msgspec.structs.replace(status, latches=latches)
    if found.identity == left.identity and found.paused is None:
        found = msgspec.structs.replace(found, paused=left.paused)
    if found.phase in ACTIVE and is_latched(found, found.identity) and found.pending_abort is None:
        latch = next(one for one in latches if one.identity == found.identity)
        found = msgspec.structs.replace(found, pending_abort=Said(latch.actor, latch.at_ms, latch.reason))
    return found
