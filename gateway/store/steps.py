"""What the SQLite store does inside one transaction, each a function of its connection. Runs in the store's thread."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gateway.store import records
from gateway.store.base import (
    AuditPage,
    AuditRecord,
    Document,
    Feedback,
    FeedbackCount,
    FeedbackOutcome,
    Lease,
    Limits,
    StreamEntry,
    StreamPage,
    Verified,
)

if TYPE_CHECKING:
    from sqlite3 import Connection

_SCAN_ROWS = 10_000


def _one(db: "Connection", sql: str, *values: object) -> Any:
    return db.execute(sql, values).fetchone()


def _add(db: "Connection", name: str, amount: int) -> int:
    """Add to a number of the store; the sum."""
    sql = "INSERT INTO numbers VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = value + ? RETURNING value"
    return int(_one(db, sql, name, amount, amount)[0])


def _number(db: "Connection", name: str) -> int:
    row = _one(db, "SELECT value FROM numbers WHERE name = ?", name)
    return int(row[0]) if row else 0


# ---- the whole ----


def life(db: "Connection") -> int:
    """See `Store.life`."""
    return _number(db, "life")


def live_on(ready: "Connection", db: "Connection", now_ms: int) -> None:
    """What is `ready` to replace `db` has a later life, and revisions and tokens above all that were given.

    Who leads is fenced, and nobody leads for a while.
    """
    wanted = {
        "life": max(now_ms, life(db) + 1, life(ready) + 1),
        "revision": max(_number(db, "revision"), _number(ready, "revision")),
    }
    for name, value in wanted.items():
        _add(ready, name, value - _number(ready, name))
    rests = [(*row, now_ms + records.REST_MS) for row in db.execute("SELECT name, token + 1 FROM lease")]
    ready.executemany(
        "INSERT INTO lease VALUES (?, '', ?, ?) ON CONFLICT (name) DO UPDATE"
        " SET holder = '', token = max(token + 1, excluded.token), expires_ms = excluded.expires_ms",
        rests,
    )


# ---- documents ----


def get(db: "Connection", kind: str, name: str) -> Document | None:
    """The document, unless deleted."""
    row = _one(db, "SELECT revision, body FROM document WHERE kind = ? AND name = ?", kind, name)
    return Document(kind, name, row[0], row[1]) if row and row[1] is not None else None


def list_kind(db: "Connection", kind: str) -> tuple[Document, ...]:
    """All documents of a kind, by name."""
    sql = "SELECT name, revision, body FROM document WHERE kind = ? AND body IS NOT NULL ORDER BY name"
    return tuple(Document(kind, *row) for row in db.execute(sql, (kind,)))


def revisions(db: "Connection") -> list[tuple[str, str, int]]:
    """(kind, name, revision) of all documents."""
    return db.execute("SELECT kind, name, revision FROM document WHERE body IS NOT NULL").fetchall()


@dataclass(frozen=True, slots=True)
class Write:
    """A put, or a delete where `body` is None. See `Store.put`."""

    key: tuple[str, str]
    body: bytes | None
    expected: int | None
    audit: Mapping[str, Any] | None
    fence: Lease | None
    above: int


def write(db: "Connection", asked: Write, now_ms: int, limits: Limits) -> int:
    """The new revision; 0 = there was nothing to delete."""
    (kind, name), body, expected, audit = asked.key, asked.body, asked.expected, asked.audit
    _check_fence(db, asked.fence)
    current = get(db, kind, name)
    before = current.revision if current else 0
    if expected is not None and expected != before:
        raise records.stale(kind, name, expected, current)
    if body is None and not before:
        return 0
    after = _add(db, "revision", max(asked.above - _number(db, "revision"), 0) + 1)
    db.execute("INSERT OR REPLACE INTO document VALUES (?, ?, ?, ?)", (kind, name, after, body))
    if audit is not None:
        append_audit(db, kind, name, (before, 0 if body is None else after), audit, now_ms, limits)
    return after


def _check_fence(db: "Connection", fence: Lease | None) -> None:
    if fence is None:
        return
    row = _one(db, "SELECT token FROM lease WHERE name = ?", fence.name)
    if row and row[0] > fence.token:
        raise records.fenced(fence, row[0])


# ---- audit ----


def head(db: "Connection") -> records.Head:
    """End of the chain."""
    row = _one(db, "SELECT seq, hash FROM head")
    if not row:
        return records.Head()
    last = _one(db, "SELECT time_ms FROM audit WHERE seq = ?", row[0])
    return records.Head(row[0], row[1], last[0] if last else 0)


def append_audit(
    db: "Connection",
    kind: str,
    name: str,
    revisions: tuple[int, int],
    record: Mapping[str, Any],
    now_ms: int,
    limits: Limits,
) -> AuditRecord:
    """One more record."""
    made = records.link(head(db), "", kind, name, revisions, record, now_ms, limits)
    digest = bytes.fromhex(made.hash)
    db.execute("INSERT INTO audit VALUES (?, ?, ?, ?, ?)", (made.seq, made.time_ms, name, made.body, digest))
    db.execute("INSERT OR REPLACE INTO head VALUES (1, ?, ?)", (made.seq, digest))
    return made


def read_audit(
    db: "Connection",
    name: str | None,
    after: str | None,
    limit: int,
    newest: bool,
    span_ms: tuple[int, int],
    where: Mapping[str, str] | None,
) -> AuditPage:
    """A page; with a filter at most _SCAN_ROWS rows are looked at."""
    beyond, order = ("<", "DESC") if newest else (">", "ASC")
    cursor = int(after) if after else (2**62 if newest else 0)
    # Times grow with seq: the end of a span is the end of the reading.
    sql = f"SELECT seq, body, hash FROM audit WHERE seq {beyond} ? AND time_ms BETWEEN ? AND ?"
    values: list[object] = [cursor, *span_ms]
    if name is not None:
        sql, values = sql + " AND name = ?", [*values, name]
    found: list[AuditRecord] = []
    looked = 0
    for seq, body, digest in db.execute(f"{sql} ORDER BY seq {order} LIMIT {_SCAN_ROWS}", values):
        record = records.read_record(body, digest)
        looked += 1
        if records.matches(record, where):
            found.append(record)
        if len(found) == limit:
            return AuditPage(tuple(found), str(seq))
        cursor = seq
    return AuditPage(tuple(found), str(cursor) if looked == _SCAN_ROWS else None)


def verify_audit(db: "Connection") -> Verified:
    """The chain from its start, and that it ends where it should."""
    at, broken = records.Head(), None
    for body, digest in db.execute("SELECT body, hash FROM audit ORDER BY seq"):
        broken = records.wrong(at, "", body, digest)
        if broken:
            break
        at = records.Head(at.seq + 1, digest)
    noted = head(db)
    if not broken and (noted.seq, noted.hash) != (at.seq, at.hash):
        place = records.name_of_record("", at.seq + 1)
        broken = f"{place}: the chain should end at {noted.seq}, it ends at {at.seq}"
    return Verified(at.seq, {"": at.hash.hex()} if at.seq else {}, broken)


# ---- leases ----


def acquire(db: "Connection", name: str, holder: str, ttl_ms: int, now_ms: int) -> Lease | None:
    """Take it unless another's time runs."""
    row = _one(db, "SELECT holder, token, expires_ms FROM lease WHERE name = ?", name)
    if row and row[2] > now_ms and row[0] != holder:
        return None
    # The time as a floor: tokens go on growing even after the store was lost.
    taken = Lease(name, holder, max(row[1] + 1 if row else 1, now_ms), now_ms + ttl_ms)
    db.execute("INSERT OR REPLACE INTO lease VALUES (?, ?, ?, ?)", (name, holder, taken.token, taken.expires_ms))
    return taken


def renew(db: "Connection", lease: Lease, ttl_ms: int, now_ms: int) -> Lease | None:
    """Move the end; an expired one that nobody took is still its holder's. `ttl_ms` 0 gives it back."""
    sql = "UPDATE lease SET expires_ms = ? WHERE name = ? AND token = ? AND holder = ?"
    ends = now_ms + ttl_ms if ttl_ms else 0
    changed = db.execute(sql, (ends, lease.name, lease.token, lease.holder)).rowcount
    return Lease(lease.name, lease.holder, lease.token, ends) if changed else None


def get_lease(db: "Connection", name: str, now_ms: int) -> Lease | None:
    """Who holds it."""
    row = _one(db, "SELECT holder, token, expires_ms FROM lease WHERE name = ? AND expires_ms > ?", name, now_ms)
    return Lease(name, *row) if row else None


# ---- streams ----


def append(db: "Connection", stream: str, replica: str, epoch: int, sequence: int, body: bytes, limits: Limits) -> bool:
    """Add once, drop what is beyond the bounds."""
    key = (stream, replica, epoch)
    row = _one(db, "SELECT mark FROM mark WHERE stream = ? AND replica = ? AND epoch = ?", *key)
    mark = records.admit(row[0] if row else "", sequence)
    if mark is None:
        return False
    number = _add(db, f"stream {stream}", 1)
    db.execute("INSERT OR REPLACE INTO mark VALUES (?, ?, ?, ?, ?)", (*key, mark, number))
    if not row:
        db.execute(
            "DELETE FROM mark WHERE stream = ?1 AND used <= "
            "(SELECT used FROM mark WHERE stream = ?1 ORDER BY used DESC LIMIT 1 OFFSET ?2)",
            (stream, limits.stream_marks),
        )
    _entry(db, StreamEntry(number, replica, epoch, sequence, body), stream, limits)
    return True


def _entry(db: "Connection", entry: StreamEntry, stream: str, limits: Limits) -> None:
    row = (stream, entry.id, entry.replica, entry.epoch, entry.sequence, entry.body)
    db.execute("INSERT INTO stream VALUES (?, ?, ?, ?, ?, ?)", row)
    db.execute("DELETE FROM stream WHERE stream = ? AND id <= ?", (stream, entry.id - limits.stream_rows))


def read_stream(db: "Connection", stream: str, after: int, limit: int) -> StreamPage:
    """Entries behind the cursor."""
    sql = "SELECT id, replica, epoch, sequence, body FROM stream WHERE stream = ? AND id > ? ORDER BY id LIMIT ?"
    found = [StreamEntry(*row) for row in db.execute(sql, (stream, after, limit))]
    appended = _number(db, f"stream {stream}")
    first = _one(db, "SELECT min(id) FROM stream WHERE stream = ?", stream)[0]
    return records.stream_page(found, after, first or appended + 1, appended)


# ---- feedback ----


def put_feedback(
    db: "Connection", model: str, rows: Sequence[Feedback], notes: str, now_ms: int, limits: Limits
) -> tuple[FeedbackOutcome, ...]:
    """Rows in, expired and surplus ones out, notes told."""
    _forget(db, model, "expires_ms <= ?", now_ms)
    outcomes = tuple(_put_row(db, model, row, now_ms) for row in rows)
    for body in records.told(rows, outcomes, limits.entry_bytes) if notes else ():
        _entry(db, StreamEntry(_add(db, f"stream {notes}", 1), "", 0, 0, body), notes, limits)
    surplus = _number(db, f"feedback {model}") - limits.feedback_rows
    if surplus > 0:
        oldest = "rowid IN (SELECT rowid FROM feedback WHERE model = ? ORDER BY expires_ms, rowid LIMIT ?)"
        _add(db, f"feedback dropped {model}", _forget(db, model, oldest, model, surplus))
    return outcomes


def _put_row(db: "Connection", model: str, row: Feedback, now_ms: int) -> FeedbackOutcome:
    if row.expires_ms <= now_ms:
        return FeedbackOutcome("expired")
    key = (model, row.prediction_id, row.slot_key)
    old = _one(db, "SELECT body FROM feedback WHERE model = ? AND prediction_id = ? AND slot_key = ?", *key)
    if old and old[0] == row.body:
        return FeedbackOutcome("duplicate")
    db.execute("INSERT OR REPLACE INTO feedback VALUES (?, ?, ?, ?, ?, ?)", (*key, row.unit, row.body, row.expires_ms))
    if old:
        return FeedbackOutcome("replaced", old[0])
    _add(db, f"feedback {model}", 1)
    return FeedbackOutcome("new")


def _forget(db: "Connection", model: str, condition: str, *values: object) -> int:
    count = db.execute(f"DELETE FROM feedback WHERE model = ? AND {condition}", (model, *values)).rowcount
    if count:
        _add(db, f"feedback {model}", -count)
    return count


def get_feedback(db: "Connection", model: str, prediction_id: str, slot_key: str, now_ms: int) -> Feedback | None:
    """One row."""
    sql = (
        "SELECT unit, body, expires_ms FROM feedback"
        " WHERE model = ? AND prediction_id = ? AND slot_key = ? AND expires_ms > ?"
    )
    row = _one(db, sql, model, prediction_id, slot_key, now_ms)
    return Feedback(prediction_id, slot_key, *row) if row else None


def count_feedback(db: "Connection", model: str) -> FeedbackCount:
    """Kept and pushed out."""
    return FeedbackCount(_number(db, f"feedback {model}"), _number(db, f"feedback dropped {model}"))


def erase_feedback(db: "Connection", model: str, unit: str) -> int:
    """All rows of a unit."""
    return _forget(db, model, "unit = ?", unit)
