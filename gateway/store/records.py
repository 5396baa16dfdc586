"""What both stores decide alike, as pure functions: audit records and their chain, marks of streams, checks of rows."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from gateway.store.allowed import body_of, id_of, integer_of, name_of
from gateway.store.base import (
    AuditRecord,
    Document,
    Feedback,
    FeedbackOutcome,
    Fenced,
    Lease,
    Limits,
    Stale,
    StreamEntry,
    StreamPage,
)

MAIN: Final = "main"
"""What people call the chain of a store in a file."""
FIRST_HASH: Final = bytes(32)
REST_MS: Final = 5_000
"""So long nobody gets a lease after a restore: who led, and knows only the life before, has left by then."""
# Sequences of one (replica, epoch) that are remembered one by one below the highest.
WINDOW: Final = 64
_ENCODER: Final = msgspec.json.Encoder(order="deterministic")


class _Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    after: int
    before: int
    chain: str
    kind: str
    name: str
    prev: str
    record: dict[str, Any]
    seq: int
    time_ms: int


_DECODER: Final = msgspec.json.Decoder(_Body)


class Head(msgspec.Struct, frozen=True):
    """End of a chain: what the next record hangs on."""

    seq: int = 0
    hash: bytes = FIRST_HASH
    time_ms: int = 0


def link(
    head: Head,
    chain: str,
    kind: str,
    name: str,
    revisions: tuple[int, int],
    record: Mapping[str, Any],
    now_ms: int,
    limits: Limits,
) -> AuditRecord:
    """The next record of a chain. A clock that was set back is held at the last record's time.

    Args:
        revisions: before and after.

    Raises:
        ValueError: not JSON, or too large.
    """
    seq, time_ms = head.seq + 1, max(now_ms, head.time_ms)
    before, after = revisions
    try:
        body = _ENCODER.encode(_Body(after, before, chain, kind, name, head.hash.hex(), dict(record), seq, time_ms))
    except (TypeError, OverflowError, UnicodeEncodeError) as error:
        raise ValueError(f"audit record: expected JSON values: {error}") from error
    body_of(body, limits.audit_bytes, "audit record")
    # As it will be read: tuples are lists by then, and so on.
    return read_record(body, hash_of(head.hash, body))


def hash_of(previous: bytes, body: bytes) -> bytes:
    """sha256 of the hash before and the body, 32 bytes."""
    return hashlib.sha256(previous + body).digest()


def name_of_record(chain: str, seq: int) -> str:
    """A record as people name it; the one chain of a file has no name of its own."""
    return f"{chain or MAIN}/{seq}"


def read_record(body: bytes, digest: bytes) -> AuditRecord:
    """A stored record; its hash is not checked.

    Raises:
        ValueError: the body is not one of ours.
    """
    try:
        read = _DECODER.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"not an audit record: {error}") from error
    return AuditRecord(
        read.chain,
        read.seq,
        read.time_ms,
        read.kind,
        read.name,
        read.before,
        read.after,
        read.record,
        body,
        digest.hex(),
    )


def wrong(head: Head, chain: str, body: bytes, digest: bytes) -> str | None:
    """Why this cannot be the record after `head`, in words; None = it can."""
    place = name_of_record(chain, head.seq + 1)
    if hash_of(head.hash, body) != digest:
        return f"{place}: its hash does not fit its bytes and the record before"
    try:
        read = read_record(body, digest)
    except ValueError as error:
        return f"{place}: {error}"
    if (read.chain, read.seq) != (chain, head.seq + 1):
        return f"{place}: expected seq {head.seq + 1}, got {name_of_record(read.chain, read.seq)}"
    return None


def matches(record: AuditRecord, where: Mapping[str, str] | None) -> bool:
    """Whether all wanted fields have the wanted text."""
    if not where:
        return True
    for field, wanted in where.items():
        value = record.kind if field == "kind" else record.record.get(field)
        if value is None or (value if isinstance(value, str) else _ENCODER.encode(value).decode()) != wanted:
            return False
    return True


def admit(mark: str, sequence: int) -> str | None:
    """The mark after this sequence; None = seen before, or too old to know.

    A mark is `HIGHEST:BITS`, the first bit for the highest sequence, the next for the one below, WINDOW in all: the
    sliding window that IPsec uses against replays (RFC 4303, 3.4.3). "" = nothing seen. Redis does the same in Lua.
    """
    if not mark:
        return f"{sequence}:1"
    text, _, bits = mark.partition(":")
    highest = int(text)
    ahead = sequence - highest
    if ahead > 0:
        return f"{sequence}:{('1' + '0' * min(ahead - 1, WINDOW) + bits)[:WINDOW]}"
    if -ahead >= WINDOW:
        return None
    bits = bits.ljust(-ahead + 1, "0")
    return None if bits[-ahead] == "1" else f"{highest}:{bits[:-ahead]}1{bits[-ahead + 1 :]}"


def stream_page(found: Sequence[StreamEntry], after: int, first: int, appended: int) -> StreamPage:
    """What a reader gets.

    Args:
        first: lowest id that is kept, or 1 + appended.
        appended: highest id that was given.
    """
    cursor = found[-1].id if found else min(max(after, first - 1), appended)
    return StreamPage(tuple(found), cursor, max(0, first - 1 - min(after, appended)), first - 1)


def checked_rows(rows: Sequence[Feedback], limits: Limits) -> Sequence[Feedback]:
    """The rows as they came.

    Raises:
        ValueError: too many, too large, or a malformed id.
    """
    if len(rows) > limits.batch_rows:
        raise ValueError(f"rows: expected at most {limits.batch_rows}, got {len(rows)}")
    for row in rows:
        name_of(row.prediction_id, "prediction_id")
        id_of(row.slot_key, "slot_key")
        id_of(row.unit, "unit")
        body_of(row.body, limits.entry_bytes)
        integer_of(row.expires_ms, "expires_ms")
        body_of(row.note, limits.entry_bytes)
    return rows


def told(rows: Sequence[Feedback], outcomes: Sequence[FeedbackOutcome], most: int) -> list[bytes]:
    """Notes of the rows that changed something, as entries of a stream. Args: most: bytes of one, but for one line."""
    parts: list[list[bytes]] = []
    size = most
    for row, outcome in zip(rows, outcomes, strict=True):
        if row.note and outcome.kind in ("new", "replaced"):
            line = row.note if outcome.previous is None else row.note + b"\t" + outcome.previous
            size += len(line) + 1
            if size > most:
                parts.append([])
                size = len(line)
            parts[-1].append(line)
    return [b"\n".join(lines) for lines in parts]


def checked_entry(stream: str, replica: str, epoch: int, sequence: int, body: bytes, limits: Limits) -> None:
    """Raise ValueError for a stream entry that cannot be kept."""
    name_of(stream, "stream")
    name_of(replica, "replica")
    integer_of(epoch, "epoch")
    integer_of(sequence, "sequence")
    body_of(body, limits.entry_bytes)


def ttl_ms(ttl_s: float) -> int:
    """Length of a lease.

    Raises:
        ValueError: not within 1 ms to a day.
    """
    if not 0.001 <= ttl_s <= 86_400:
        raise ValueError(f"ttl_s: expected 0.001 to 86400, got {ttl_s}")
    return round(ttl_s * 1_000)


def fenced(fence: Lease, token: int) -> Fenced:
    """The error that names both tokens."""
    return Fenced(f"lease {fence.name}: token {fence.token} of {fence.holder} is outdated, {token} is recorded")


def stale(kind: str, name: str, expected: int, current: Document | None) -> Stale:
    """The error that names both revisions; "none" for a document that is not there."""
    found = f"revision {current.revision}" if current else "none"
    return Stale(f"{kind} {name}: expected {f'revision {expected}' if expected else 'none'}, found {found}", current)
