"""A store that has lost writes, as a Redis does in a failover: what goes back into it from what this node knew. Pure.

A node that is behind and a store that has lost something look alike, but for the order: when a read that began after a
revision was known gives an older one, or another document under the same number, only a loss explains it.
"""

import msgspec

from gateway.control.documents import Kept, weighed
from gateway.control.record import PolicyRecord, decode_record
from gateway.store.base import Document
from router.document import PolicyError
from router.policy import parse
from router.rollout.status import ACTIVE, is_latched


def is_lost(known: Kept | None, found: Document | None) -> bool:
    """Whether the store has lost what this node knew.

    Args:
        known: before the read began. None = nothing: then nothing of it is lost.
        found: None = the document is gone; whether it is lost or deleted, the audit trail says.
    """
    if known is None or found is None or found.revision > known.revision:
        return False
    if found.revision < known.revision:
        return True
    try:
        return _stored(decode_record(found.body)) != _stored(known.record)
    except msgspec.DecodeError:
        return False


def _stored(record: PolicyRecord) -> PolicyRecord:
    """Without what a node holds beside the store."""
    return msgspec.structs.replace(record, status=msgspec.structs.replace(record.status, pending_abort=None))


def restored(known: Kept, found: Document) -> PolicyRecord:
    """What this node knew, but for what somebody who did not know it has taken out since: that stays out.

    A rollback of the same rollout stands, and so does a killed variant. The routing gets a revision that no worker has
    seen, because two tables may have had the same.
    """
    try:
        other = decode_record(found.body)
        theirs = parse(other.document)
    except (msgspec.DecodeError, PolicyError):
        return known.record
    revision = max(known.record.revision, other.revision) + 1
    ours, policy = (other, theirs) if _rolled_back(other, known.record) else (known.record, known.policy)
    out = {*known.record.killed, *other.killed} & {*policy.names} - {ours.stable}
    status = msgspec.structs.replace(ours.status, awaits_revision=revision)
    record = msgspec.structs.replace(ours, revision=revision, killed=tuple(sorted(out)), status=status)
    return weighed(record, policy)


def _rolled_back(other: PolicyRecord, ours: PolicyRecord) -> bool:
    theirs, mine = other.status, ours.status
    if theirs.identity != mine.identity or mine.phase not in ACTIVE:
        return False
    return theirs.phase == "ABORTING" or is_latched(theirs, mine.identity)
