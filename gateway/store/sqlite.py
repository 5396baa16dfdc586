"""The store of one node: a file, one thread that writes it and one that reads long.

Nothing of SQLite runs on the event loop. WAL with synchronous FULL: what was acknowledged is on the disk
(https://www.sqlite.org/wal.html, https://www.sqlite.org/pragma.html#pragma_synchronous).
With sqlitefile.py the only importer of sqlite3.
"""

import asyncio
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from gateway.store import records, sqlitefile, steps
from gateway.store.allowed import INTEGER_MAX, body_of, integer_of, key_of, name_of
from gateway.store.base import (
    AuditPage,
    AuditRecord,
    Change,
    CheckUp,
    Document,
    Feedback,
    FeedbackCount,
    FeedbackOutcome,
    Lease,
    Limits,
    StoreAway,
    StoreStatus,
    StoreUnusable,
    StreamPage,
    Verified,
)
from gateway.store.view import View

T = TypeVar("T")
Step = Callable[[sqlite3.Connection], T]

# What may pass by itself or by an operator's hand; all else is damage or a bug.
_PASSING: Final = frozenset(
    {
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_INTERRUPT,
    }
)


def wall_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


async def open_sqlite(
    path: Path, *, clock_ms: Callable[[], int] = wall_ms, limits: Limits | None = None
) -> "SqliteStore":
    """Open or make the file; an older schema is migrated after a copy beside it.

    Raises:
        StoreAway: the file cannot be opened or written.
        StoreUnusable: newer schema, damaged, or not a store.
    """
    store = SqliteStore(path, clock_ms, limits or Limits())
    try:
        await store.start()
    except BaseException:
        await store.close()
        raise
    return store


class SqliteStore:
    """See `gateway.store.base.Store`. Made by `open_sqlite`, on one event loop."""

    lines: Final = None

    def __init__(self, path: Path, clock_ms: Callable[[], int], limits: Limits) -> None:
        self._path = path
        self._clock_ms = clock_ms
        self._limits = limits
        self._view = View()
        # One thread each: SQLite has one writer anyway, and long reading must not stand in its way.
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="store-write")
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="store-read")
        self._connections: list[sqlite3.Connection] = []
        self._loop = asyncio.get_running_loop()
        self._waiting = 0
        self._failures = 0
        self._away: str | None = None
        self._closed = False

    async def start(self) -> None:
        """Open the connections. Errors as `open_sqlite`."""
        await self._run(self._writer, self._open)
        self._view.complete()

    # ---- documents ----

    async def get(self, kind: str, name: str) -> Document | None:
        """See `Store.get`."""
        return await self._peek(steps.get, *key_of(kind, name))

    async def list(self, kind: str) -> tuple[Document, ...]:
        """See `Store.list`."""
        return await self._peek(steps.list_kind, kind)

    async def put(
        self,
        kind: str,
        name: str,
        body: bytes,
        *,
        expected: int | None,
        audit: Mapping[str, Any] | None = None,
        fence: Lease | None = None,
        above: int = 0,
    ) -> Document:
        """See `Store.put`."""
        body_of(body, self._limits.body_bytes)
        revision = await self._write(key_of(kind, name), body, expected, audit, fence, above)
        return Document(kind, name, revision, body)

    async def delete(
        self,
        kind: str,
        name: str,
        *,
        expected: int | None,
        audit: Mapping[str, Any] | None = None,
        fence: Lease | None = None,
    ) -> bool:
        """See `Store.delete`."""
        return await self._write(key_of(kind, name), None, expected, audit, fence) > 0

    async def _write(
        self,
        key: tuple[str, str],
        body: bytes | None,
        expected: int | None,
        audit: Mapping[str, Any] | None,
        fence: Lease | None,
        above: int = 0,
    ) -> int:
        def work() -> int:
            write = steps.Write(key, body, expected, audit, fence, above)
            now_ms = self._clock_ms()
            revision = self._within(lambda db: steps.write(db, write, now_ms, self._limits))
            if revision:
                # From here, not after the await: watchers must see a write whose caller has left.
                self._loop.call_soon_threadsafe(self._view.set, key, 0 if body is None else revision)
            return revision

        return await self._run(self._writer, work)

    def watch(self, known: Mapping[tuple[str, str], int] | None = None) -> AsyncIterator[Change]:
        """See `Store.watch`; sees what this process writes."""
        return self._view.follow(known)

    # ---- audit ----

    async def audit_append(self, name: str, record: Mapping[str, Any]) -> AuditRecord:
        """See `Store.audit_append`."""
        name_of(name)
        return await self._do(
            lambda db: steps.append_audit(db, "", name, (0, 0), record, self._clock_ms(), self._limits)
        )

    async def audit_read(
        self,
        name: str | None = None,
        *,
        after: str | None = None,
        limit: int = 100,
        newest: bool = False,
        since_ms: int = 0,
        until_ms: int = INTEGER_MAX,
        where: Mapping[str, str] | None = None,
    ) -> AuditPage:
        """See `Store.audit_read`."""
        integer_of(limit, "limit", 1, 1_000)
        if after is not None and not after.isdecimal():
            raise ValueError(f"after: expected the cursor of a page, got {after!r:.80}")
        span_ms = (since_ms, until_ms)
        return await self._look(steps.read_audit, name, after, limit, newest, span_ms, where)

    async def audit_verify(self) -> Verified:
        """See `Store.audit_verify`."""
        return await self._look(steps.verify_audit)

    # ---- leases ----

    async def lease_acquire(self, name: str, holder: str, ttl_s: float) -> Lease | None:
        """See `Store.lease_acquire`."""
        ttl_ms = records.ttl_ms(ttl_s)
        key, who = name_of(name, "lease"), name_of(holder, "holder")
        return await self._do(lambda db: steps.acquire(db, key, who, ttl_ms, self._clock_ms()))

    async def lease_renew(self, lease: Lease, ttl_s: float) -> Lease | None:
        """See `Store.lease_renew`."""
        ttl_ms = records.ttl_ms(ttl_s)
        return await self._do(lambda db: steps.renew(db, lease, ttl_ms, self._clock_ms()))

    async def lease_release(self, lease: Lease) -> bool:
        """See `Store.lease_release`."""
        return await self._do(lambda db: steps.renew(db, lease, 0, self._clock_ms())) is not None

    async def lease_get(self, name: str) -> Lease | None:
        """See `Store.lease_get`."""
        return await self._peek(lambda db: steps.get_lease(db, name, self._clock_ms()))

    # ---- streams ----

    async def stream_append(self, stream: str, replica: str, epoch: int, sequence: int, body: bytes) -> bool:
        """See `Store.stream_append`."""
        records.checked_entry(stream, replica, epoch, sequence, body, self._limits)
        return await self._do(steps.append, stream, replica, epoch, sequence, body, self._limits)

    async def stream_read(self, stream: str, after: int = 0, limit: int = 1_000) -> StreamPage:
        """See `Store.stream_read`."""
        integer_of(limit, "limit", 1, 10_000)
        return await self._peek(steps.read_stream, name_of(stream, "stream"), integer_of(after, "after"), limit)

    # ---- feedback ----

    async def feedback_put(
        self, model: str, rows: Sequence[Feedback], *, notes: str = ""
    ) -> tuple[FeedbackOutcome, ...]:
        """See `Store.feedback_put`."""
        records.checked_rows(rows, self._limits)
        key = name_of(model, "model")
        return await self._do(lambda db: steps.put_feedback(db, key, rows, notes, self._clock_ms(), self._limits))

    async def feedback_get(self, model: str, prediction_id: str, slot_key: str) -> Feedback | None:
        """See `Store.feedback_get`."""
        return await self._peek(lambda db: steps.get_feedback(db, model, prediction_id, slot_key, self._clock_ms()))

    async def feedback_count(self, model: str) -> FeedbackCount:
        """See `Store.feedback_count`."""
        return await self._peek(steps.count_feedback, name_of(model, "model"))

    async def feedback_erase(self, model: str, unit: str) -> int:
        """See `Store.feedback_erase`. Freed bytes are overwritten; backups are yours to keep or not."""
        return await self._do(steps.erase_feedback, name_of(model, "model"), name_of(unit, "unit"))

    # ---- the whole ----

    async def backup(self, path: Path) -> None:
        """See `Store.backup`: one file that SQLite itself can read."""
        await self._look(sqlitefile.copy, path, keep=True)

    async def restore(self, path: Path, *, aside: Path | None = None) -> None:
        """See `Store.restore`; a backup of an older schema is migrated."""
        await self._run(self._writer, partial(self._restore, path, aside))

    async def life(self) -> int:
        """See `Store.life`."""
        return await self._peek(steps.life)

    async def check(self) -> CheckUp:
        """See `Store.check`."""
        found, verified = await self._look(lambda db: (sqlitefile.integrity(db), steps.verify_audit(db)))
        problems = [*found, *filter(None, [verified.broken])]
        return CheckUp(tuple(problems), (), verified.records)

    def status(self) -> StoreStatus:
        """See `Store.status`."""
        return StoreStatus("sqlite", str(self._path), self._away, self._failures)

    async def close(self) -> None:
        """See `Store.close`."""
        if self._closed:
            return
        self._closed = True
        self._view.close()
        if len(self._connections) > 1:
            self._connections[1].interrupt()  # a long verification
        await self._loop.run_in_executor(self._reader, lambda: None)
        await self._loop.run_in_executor(self._writer, self._close)
        self._reader.shutdown(wait=False)
        self._writer.shutdown(wait=False)

    # ---- threads ----

    async def _do(self, step: Callable[..., T], *arguments: Any) -> T:
        """A step as one transaction of the writer."""
        return await self._run(self._writer, partial(self._within, lambda db: step(db, *arguments)))

    async def _peek(self, step: Callable[..., T], *arguments: Any) -> T:
        """A short step that only reads, without waiting for another process that writes."""
        return await self._run(self._writer, lambda: self._snapshot(0, lambda db: step(db, *arguments)))

    async def _look(self, step: Callable[..., T], *arguments: Any, **named: Any) -> T:
        """A step on the reading connection, on one snapshot, while others write."""
        return await self._run(self._reader, lambda: self._snapshot(1, lambda db: step(db, *arguments, **named)))

    async def _run(self, pool: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        if self._closed:
            raise StoreAway("the store is closed")
        if self._waiting >= self._limits.waiting:
            raise StoreAway(f"{self._waiting} calls wait for the store, which is its bound", retry_after_s=1)
        self._waiting += 1
        try:
            result = await self._loop.run_in_executor(pool, partial(_translated, work))
        except StoreAway as error:
            self._failures += 1
            self._away = error.message
            raise
        finally:
            self._waiting -= 1
        self._away = None
        return result

    def _within(self, step: Step[T]) -> T:
        db = self._connections[0]
        db.execute("BEGIN IMMEDIATE")
        try:
            result = step(db)
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
        return result

    def _snapshot(self, which: int, step: Step[T]) -> T:
        db = self._connections[which]
        db.execute("BEGIN")
        try:
            return step(db)
        finally:
            if db.in_transaction:
                db.execute("ROLLBACK")

    def _open(self) -> None:
        with suppress(FileExistsError):
            # SQLite gives its side files the mode of the file.
            os.close(os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
        db = _connect(self._path, self._limits.busy_ms)
        self._connections.append(db)
        page_bytes = db.execute("PRAGMA page_size").fetchone()[0]
        sqlitefile.migrate(db, self._path)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA secure_delete = ON")
        db.execute(f"PRAGMA max_page_count = {self._limits.file_bytes // page_bytes}")
        reader = _connect(self._path, self._limits.busy_ms)
        self._connections.append(reader)
        self._load_view()

    def _load_view(self) -> None:
        found = {(kind, name): revision for kind, name, revision in steps.revisions(self._connections[0])}
        self._loop.call_soon_threadsafe(self._view.replace, found)

    def _restore(self, path: Path, aside: Path | None) -> None:
        """In the thread that writes, so that nobody writes between the copy of what is there and its end."""
        db = self._connections[0]
        full = [table for table in sqlitefile.names(db) if db.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone()]
        if full and aside is None:
            raise StoreUnusable(f"the store is not empty: {', '.join(sorted(full))}")
        with sqlitefile.made_ready(path, self._path) as ready:
            steps.live_on(ready, db, self._clock_ms())
            if aside is not None:
                sqlitefile.copy(db, aside, keep=True)
            ready.backup(db)
        self._load_view()

    def _close(self) -> None:
        for connection in reversed(self._connections):
            connection.close()


def _connect(path: Path, busy_ms: int) -> sqlite3.Connection:
    # No transactions behind our back; the pool keeps each connection to its thread, `close` comes after the last call.
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    db.execute(f"PRAGMA busy_timeout = {busy_ms}")
    return db


def _translated(work: Callable[[], T]) -> T:
    with _errors():
        return work()


@contextmanager
def _errors() -> Iterator[None]:
    """SQLite's errors as ours; paths stay out of the words."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        if code in _PASSING:
            raise StoreAway(f"the store's file: {error}", retry_after_s=1) from error
        raise StoreUnusable(f"the store's file: {error}") from error
    except OSError as error:
        raise StoreAway(f"the store's file: {error.strerror}", retry_after_s=1) from error
