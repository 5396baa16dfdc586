"""Puts back into a store what it has lost of policies. What that is, `gateway.control.losses` says."""

import logging
from typing import Any, Final

from gateway.control.documents import Kept, change_of
from gateway.control.losses import ahead, has_parted, restored
from gateway.control.record import KIND, PolicyRecord, encode
from gateway.store.base import Document, Stale, Store
from runtimes.errors import Conflict

_log: Final = logging.getLogger(__name__)


async def was_deleted(store: Store, name: str, known: int = 0) -> bool:
    """Whether somebody deleted a policy. Raises StoreAway.

    Args:
        known: of one that is there again: whether what a node knew under this revision was deleted before that.
            0 = the last that was written of it is a delete.
    """
    cursor: str | None = None
    while True:
        page = await store.audit_read(name, after=cursor, newest=True, where={"kind": KIND})
        for record in page.records:
            deleted = record.record.get("what") == "delete"
            if known == 0 or deleted or 0 < record.before < known:
                return deleted and record.before >= known
        cursor = page.cursor
        if cursor is None:
            return False


async def deleted_at(store: Store, name: str) -> tuple[int, int]:
    """Routing revision and generation at which a policy of this name was deleted last; 0 = never. Raises StoreAway."""
    cursor: str | None = None
    while True:
        page = await store.audit_read(name, after=cursor, newest=True, where={"kind": KIND, "what": "delete"})
        for record in page.records:
            return int(record.record.get("revision_before", 0)), int(record.record.get("generation_before", 0))
        cursor = page.cursor
        if cursor is None:
            return 0, 0


async def generations_replaced(store: Store) -> dict[str, int]:
    """By name the highest generation of Monitor documents that restores have replaced. Raises StoreAway."""
    found: dict[str, int] = {}
    cursor: str | None = None
    while True:
        page = await store.audit_read("store", after=cursor, where={"what": "restore store"})
        for record in page.records:
            for name, generation in record.record.get("generations", {}).items():
                found[name] = max(generation, found.get(name, 0))
        cursor = page.cursor
        if cursor is None:
            return found


async def generation_written(store: Store, kind: str, name: str) -> int:
    """The newest generation that the trail names of a document; 0 = none. Raises StoreAway."""
    cursor: str | None = None
    while True:
        page = await store.audit_read(name, after=cursor, newest=True, where={"kind": kind})
        for record in page.records:
            if "generation" in record.record:
                return int(record.record["generation"])
        cursor = page.cursor
        if cursor is None:
            return 0


async def applied_last(store: Store, kind: str, name: str, actor: str) -> object:
    """The document that an actor put in force last, as the trail says; None = it says of none. Raises StoreAway."""
    cursor: str | None = None
    while True:
        where = {"kind": kind, "what": "apply", "actor": actor}
        page = await store.audit_read(name, after=cursor, newest=True, limit=1, where=where)
        for record in page.records:
            return record.record.get("document")
        cursor = page.cursor
        if cursor is None:
            return None


async def document_of(store: Store, name: str, generation: int, *, deleted: bool) -> dict[str, Any]:
    """An earlier document, from the audit trail. Raises Conflict: it is not there; StoreAway.

    Args:
        deleted: it may be that of a policy of this name that was deleted since.
    """
    missing = Conflict(f"no document of generation {generation} is in the audit trail of {name!r}")
    cursor: str | None = None
    while True:
        page = await store.audit_read(name, after=cursor, newest=True, limit=200, where={"kind": KIND})
        for record in page.records:
            if record.record.get("what") == "delete" and not deleted:
                raise missing
            if record.record.get("generation") == generation and "document" in record.record:
                found: dict[str, Any] = record.record["document"]
                return found
        cursor = page.cursor
        if cursor is None:
            raise missing


async def is_lost(store: Store, known: Kept, found: Document) -> bool:
    """Whether the store has lost something of what a node knew before it read. Raises StoreAway."""
    if not has_parted(known, found):
        return False
    # With a higher number it may also be another policy of that name.
    return found.revision <= known.revision or not await was_deleted(store, found.name, known.revision)


async def put_back(store: Store, known: Kept, found: Document | None) -> Document | None:
    """Write what was lost over what is there; gives what is there then. Raises StoreAway: it is lost still.

    Args:
        found: in the store now; None = nothing.
    """
    record = known.record if found is None else restored(known, found)
    return await put(store, known.policy.metadata.name, record, known.revision, found.revision if found else 0)


async def rejoined(store: Store, name: str, kept: Kept | None, revision: int, known: PolicyRecord) -> Document | None:
    """What is to be in force of a policy that a node knew when it ended; None = what the store has. Raises StoreAway.

    Args:
        kept: what a restored backup says; None = the store lacks it, and nobody restored one.
        revision: of the record that the node knew.
    """
    if kept is not None:
        return await _put_ahead(store, kept, known)
    return None if await was_deleted(store, name) else await put(store, name, known, revision, 0)


async def _put_ahead(store: Store, kept: Kept, known: PolicyRecord) -> Document | None:
    """Give a policy of a restored backup numbers that no worker has seen; None = it has those. Raises StoreAway.

    Args:
        kept: what the backup says.
        known: by this node, of the life before.
    """
    record = ahead(known, kept)
    if record is None:
        return None
    audit = {"actor": "auto:policies", "what": "restore", "reason": "a backup was restored", **change_of(kept, record)}
    name = kept.policy.metadata.name
    try:
        return await store.put(KIND, name, encode(record), expected=kept.revision, audit=audit)
    except Stale as error:  # another node was quicker
        return error.current


async def put(store: Store, name: str, record: PolicyRecord, known: int, expected: int) -> Document | None:
    """Write a record again. Args: known: its revision, as a node has seen it. Raises StoreAway."""
    audit = {"actor": "auto:policies", "what": "restore", "reason": "the store had lost it"}
    document: Document | None
    try:
        document = await store.put(KIND, name, encode(record), expected=expected, audit=audit, above=known)
    except Stale as error:
        document = error.current
    if document is not None:
        _log.warning("policy_put_back", extra={"facts": {"policy": name}})
    return document
