"""The store of many nodes: Redis 7.0 or later, or Valkey; single, behind Sentinel, or in one slot of a Cluster.

Writes are Lua scripts (`scripts.py` says which keys there are), so each is one atomic step. The clock is Redis's.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from random import random
from typing import Any, Final

from gateway.store import merge, records, redisaudit, rediscopy, scripts
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
    StreamEntry,
    StreamPage,
    Verified,
)
from gateway.store.breaker import wait_s
from gateway.store.redis import TIMEOUT_S, RedisLink, ours
from gateway.store.redislines import RedisLines
from gateway.store.view import Key, View

VERSION: Final = 1
# Messages may be lost with their connection; this is how late a change is seen then.
POLL_S: Final = 1.0
# Others that write the same name at the same time: each round one of them wins.
ROUNDS: Final = 64
# Answers must come within the time-out: names of one look, documents or entries of one command.
NAMES_CHUNK: Final = 200
CHUNK: Final = 50


async def open_redis(
    url: str, *, limits: Limits | None = None, prefix: str = "tidegate", timeout_s: float = TIMEOUT_S
) -> "RedisStore":
    """The store behind a URL; it need not be there yet.

    Args:
        prefix: of all keys; two of them share a Redis without seeing each other.

    Raises:
        ConfigError: a malformed URL.
    """
    store = RedisStore(RedisLink(url, prefix, timeout_s=timeout_s), limits or Limits())
    store.start()
    return store


class RedisStore:
    """See `gateway.store.base.Store`. Made by `open_redis`, on one event loop."""

    def __init__(self, link: RedisLink, limits: Limits) -> None:
        self._link = link
        self._limits = limits
        self._prefix = link.prefix
        self._channel = f"{link.prefix}:changes"
        self.lines = RedisLines(link, lambda part: self._key("decisions", part), self._greet, limits.stream_marks)
        self._view = View()
        self._revisions: dict[str, bytes] = {}
        self._greeted = False
        self._trouble: str | None = None
        self._closing = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to follow what others write."""
        self._task = asyncio.create_task(self._follow(), name="store-follow")

    # ---- documents ----

    async def get(self, kind: str, name: str) -> Document | None:
        """See `Store.get`."""
        key_of(kind, name)
        await self._greet()
        return _document(kind, name, await self._link.command("HGET", self._key(name, "docs"), kind))

    async def list(self, kind: str) -> tuple[Document, ...]:
        """See `Store.list`."""
        await self._greet()
        names = await self._names()
        found: list[Document | None] = []
        for at in range(0, len(names), CHUNK):
            part = names[at : at + CHUNK]
            values = await self._link.commands([("HGET", self._key(name, "docs"), kind) for name in part])
            found += [_document(kind, name, value) for name, value in zip(part, values, strict=True)]
        return tuple(document for document in found if document)

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
        return Document(kind, name, await self._write(key_of(kind, name), body, expected, audit, fence, above), body)

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
        key: Key,
        body: bytes | None,
        expected: int | None,
        audit: Mapping[str, Any] | None,
        fence: Lease | None,
        above: int = 0,
    ) -> int:
        """The new revision; 0 = there was nothing to delete."""
        kind, name = key
        await self._greet()
        keys = [self._names_key, *(self._key(name, part) for part in ("head", "docs", "audit"))]
        keys.append(self._key(fence.name if fence else name, "lease"))
        wanted, token = "" if expected is None else expected, fence.token if fence else ""
        words: list[str | bytes | int] = [name, kind, wanted, token, "0" if body is None else "1", body or b""]
        words += [self._channel, above]
        for _ in range(ROUNDS):
            more = await self._audit_words(key, None if body is None else above, audit)
            answer = await self._change(scripts.WRITE, keys, [*words, *more])
            if answer[0] == b"ok":
                return int(answer[1])
            if answer[0] == b"stale":
                raise records.stale(kind, name, expected or 0, _document(kind, name, answer[1]))
            if answer[0] == b"fenced" and fence:
                raise records.fenced(fence, int(answer[1]))
        raise StoreAway(f"others write {name} all the time", retry_after_s=1)

    async def _audit_words(
        self, key: Key, above: int | None, audit: Mapping[str, Any] | None
    ) -> tuple[str | bytes | int, ...]:
        """The record for the chain as it is now, and what it was made for; the script refuses if that has moved."""
        if audit is None:
            return ("",) * 6
        kind, name = key
        end, current = await redisaudit.end_of(self._link, self._key(name, "head"), (self._key(name, "docs"), kind))
        document = _document(kind, name, current)
        revisions = (document.revision if document else 0, 0 if above is None else max(int(end.revision), above) + 1)
        made = records.link(end.head, name, kind, name, revisions, audit, end.now_ms, self._limits)
        return redisaudit.words(made, end)

    def watch(self, known: Mapping[Key, int] | None = None) -> AsyncIterator[Change]:
        """See `Store.watch`; messages bring a change at once, a look each second brings what they missed."""
        return self._view.follow(known)

    # ---- audit ----

    async def audit_append(self, name: str, record: Mapping[str, Any]) -> AuditRecord:
        """See `Store.audit_append`."""
        name_of(name)
        await self._greet()
        keys = [self._names_key, self._key(name, "head"), self._key(name, "audit")]
        for _ in range(ROUNDS):
            end, _document = await redisaudit.end_of(self._link, keys[1], None)
            made = records.link(end.head, name, "", name, (0, 0), record, end.now_ms, self._limits)
            answer = await self._change(scripts.AUDIT, keys, [name, *redisaudit.words(made, end)])
            if answer[0] == b"ok":
                return made
        raise StoreAway(f"others write {name} all the time", retry_after_s=1)

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
        place = merge.from_cursor(after) if after is not None else None
        await self._greet()
        chains = {one: self._key(one, "audit") for one in ([name] if name is not None else await self._names())}
        return await redisaudit.read(self._link, chains, place, limit, newest, (since_ms, until_ms), where)

    async def audit_verify(self) -> Verified:
        """See `Store.audit_verify`: each name's chain, and that no chain is there without its name."""
        await self._greet()
        listed = await self._names()
        strays = {tag for tag, part in await self._all_keys() if part == "audit"} - set(listed)
        chains = {name: (self._key(name, "head"), self._key(name, "audit")) for name in listed}
        found = await redisaudit.verify(self._link, chains)
        if strays and not found.broken:
            place = records.name_of_record(min(strays), 1)
            return Verified(found.records, found.heads, f"{place}: the name of its chain is not in the index")
        return found

    # ---- leases ----

    async def lease_acquire(self, name: str, holder: str, ttl_s: float) -> Lease | None:
        """See `Store.lease_acquire`."""
        key = self._key(name_of(name, "lease"), "lease")
        words = (name_of(holder, "holder"), records.ttl_ms(ttl_s))
        await self._greet()
        answer = await self._change(scripts.ACQUIRE, [key], words)
        return Lease(name, holder, *answer) if answer else None

    async def lease_renew(self, lease: Lease, ttl_s: float) -> Lease | None:
        """See `Store.lease_renew`."""
        return await self._renew(lease, records.ttl_ms(ttl_s))

    async def lease_release(self, lease: Lease) -> bool:
        """See `Store.lease_release`."""
        return await self._renew(lease, 0) is not None

    async def _renew(self, lease: Lease, ttl_ms: int) -> Lease | None:
        await self._greet()
        words = (lease.holder, lease.token, ttl_ms)
        answer = await self._change(scripts.RENEW, [self._key(lease.name, "lease")], words)
        return Lease(lease.name, lease.holder, *answer) if answer else None

    async def lease_get(self, name: str) -> Lease | None:
        """See `Store.lease_get`."""
        await self._greet()
        answer = await self._link.script(scripts.HELD, [self._key(name, "lease")])
        return Lease(name, answer[0].decode(), *answer[1:]) if answer else None

    # ---- streams ----

    async def stream_append(self, stream: str, replica: str, epoch: int, sequence: int, body: bytes) -> bool:
        """See `Store.stream_append`."""
        records.checked_entry(stream, replica, epoch, sequence, body, self._limits)
        await self._greet()
        keys = [self._key(stream, part) for part in ("stream", "marks", "used", "count")]
        bounds = (self._limits.stream_rows, self._limits.stream_marks, records.WINDOW)
        return bool(await self._change(scripts.APPEND, keys, [replica, epoch, sequence, body, *bounds]))

    async def stream_read(self, stream: str, after: int = 0, limit: int = 1_000) -> StreamPage:
        """See `Store.stream_read`."""
        integer_of(limit, "limit", 1, 10_000)
        integer_of(after, "after")
        name_of(stream, "stream")
        await self._greet()
        page = await self._stream_part(stream, after, min(limit, CHUNK))
        while len(page.entries) < limit:
            more = await self._stream_part(stream, page.cursor, min(limit - len(page.entries), CHUNK))
            if not more.entries:
                break
            missed = page.missed + more.missed
            page = StreamPage(page.entries + more.entries, more.cursor, missed, more.dropped)
        return page

    async def _stream_part(self, stream: str, after: int, limit: int) -> StreamPage:
        key = self._key(stream, "stream")
        words = ("XRANGE", key, f"({after}-0", "+", "COUNT", limit)
        count, length, rows = await self._link.commands(
            [("GET", self._key(stream, "count")), ("XLEN", key), words], atomic=True
        )
        appended = int(count or 0)
        with ours("stream"):
            entries = [_entry(*row) for row in rows]
        return records.stream_page(entries, after, appended - length + 1, appended)

    # ---- feedback ----

    async def feedback_put(
        self, model: str, rows: Sequence[Feedback], *, notes: str = ""
    ) -> tuple[FeedbackOutcome, ...]:
        """See `Store.feedback_put`."""
        records.checked_rows(rows, self._limits)
        keys = [self._key(name_of(model, "model"), part) for part in ("fb", "fbexpiry", "fbunits", "fbdropped")]
        keys += [self._key(name_of(notes or model, "notes"), part) for part in ("stream", "count")]
        limits = self._limits
        words: list[str | bytes | int] = [limits.feedback_rows, limits.stream_rows, limits.entry_bytes]
        for row in rows:
            field = _field(row.prediction_id, row.slot_key)
            words += [field, row.unit, row.body, row.expires_ms, row.note if notes else b""]
        await self._greet()
        answers = await self._change(scripts.FEEDBACK, keys, words)
        return tuple(FeedbackOutcome(answer[0].decode(), *answer[1:]) for answer in answers)

    async def feedback_get(self, model: str, prediction_id: str, slot_key: str) -> Feedback | None:
        """See `Store.feedback_get`."""
        await self._greet()
        key = self._key(name_of(model, "model"), "fb")
        value = await self._link.script(scripts.KEPT, [key], [_field(prediction_id, slot_key)])
        if value is None:
            return None
        head, _, body = value.partition(b"\n")
        expires, _, unit = head.partition(b" ")
        with ours("feedback"):
            return Feedback(prediction_id, slot_key, unit.decode(), body, int(expires))

    async def feedback_count(self, model: str) -> FeedbackCount:
        """See `Store.feedback_count`."""
        await self._greet()
        keys = [self._key(name_of(model, "model"), part) for part in ("fb", "fbdropped")]
        rows, dropped = await self._link.commands([("HLEN", keys[0]), ("GET", keys[1])])
        return FeedbackCount(rows, int(dropped or 0))

    async def feedback_erase(self, model: str, unit: str) -> int:
        """See `Store.feedback_erase`. Redis's own files forget it with their next rewrite; backups are yours."""
        await self._greet()
        keys = [self._key(name_of(model, "model"), part) for part in ("fb", "fbexpiry", "fbunits")]
        return int(await self._change(scripts.ERASE, keys, [name_of(unit, "unit")]))

    # ---- the whole ----

    async def backup(self, path: Path) -> None:
        """See `Store.backup`: what belongs to one name is of one moment. The decision log stays behind."""
        await self._greet()
        async with rediscopy.patient(self._link) as link:
            with rediscopy.local_files():
                await rediscopy.export(link, VERSION, await rediscopy.kept(link), path)

    async def restore(self, path: Path, *, aside: Path | None = None) -> None:
        """See `Store.restore`. If it breaks off, the store stays closed to all until it is done again."""
        await self._meet(restoring=True)
        async with rediscopy.patient(self._link) as link:
            with rediscopy.local_files():
                await rediscopy.restore(link, VERSION, path, aside)

    async def life(self) -> int:
        """See `Store.life`."""
        words = [("GET", f"{self._prefix}:{rediscopy.LIFE}"), ("EXISTS", f"{self._prefix}:{rediscopy.RESTORING}")]
        life, restoring = await self._link.commands(words)
        if restoring:
            raise StoreAway("a backup is being restored", retry_after_s=1)
        with ours("life"):
            return int(life or 0)

    async def check(self) -> CheckUp:
        """See `Store.check`."""
        await self._greet()
        verified, server = await self.audit_verify(), await self._link.server()
        notes = []
        if not server.persistent:
            notes.append(
                "Redis keeps no append-only file: if it dies, what it acknowledged since its last snapshot is lost"
            )
        if server.eviction != "noeviction":
            notes.append(f"Redis may remove our keys when its memory is full: maxmemory-policy is {server.eviction}")
        return CheckUp(tuple(filter(None, [verified.broken])), tuple(notes), verified.records)

    def status(self) -> StoreStatus:
        """See `Store.status`."""
        return StoreStatus("redis", self._link.address, self._link.away or self._trouble, self._link.failures)

    async def close(self) -> None:
        """See `Store.close`."""
        self._closing.set()
        self._view.close()
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        await asyncio.gather(self._link.close(), self.lines.close())

    # ---- following ----

    async def _follow(self) -> None:
        """Keep the view right for as long as the store is open, whatever happens to Redis."""
        attempt = 0
        while not self._closing.is_set():
            try:
                async with self._link.subscribed(self._channel) as subscription:
                    await self._poll()
                    attempt, polled_s = 0, time.monotonic()
                    while not self._closing.is_set():
                        left_s = polled_s + POLL_S - time.monotonic()
                        message = await subscription.next(left_s) if left_s > 0 else None
                        if message is not None:
                            await self._look_at([message.decode("utf-8", "replace")])
                        else:
                            await self._poll()
                            polled_s = time.monotonic()
            except Exception as error:
                # Whatever Redis holds or says must not end the watches of this process; `status` tells.
                if not isinstance(error, StoreAway):
                    self._trouble = (
                        error.message if isinstance(error, StoreUnusable) else f"{type(error).__name__}: {error}"
                    )
                delay_s, attempt = wait_s(attempt, random()), attempt + 1
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._closing.wait(), delay_s)

    async def _poll(self) -> None:
        """Look at the names whose last revision is not the one that was seen."""
        await self._greet(again=True)
        names = await self._names()
        self._view.keep_names(names)
        self._revisions = {name: seen for name, seen in self._revisions.items() if name in set(names)}
        for at in range(0, len(names), NAMES_CHUNK):
            part = names[at : at + NAMES_CHUNK]
            heads = await self._link.commands([("HGET", self._key(name, "head"), "rev") for name in part])
            pairs = zip(part, heads, strict=True)
            await self._look_at([name for name, head in pairs if self._revisions.get(name) != (head or b"0")])
        self._view.complete()

    async def _look_at(self, names: Sequence[str]) -> None:
        if not names:
            return
        keys = [self._key(name, part) for name in names for part in ("head", "docs")]
        for name, (last, *pairs) in zip(names, await self._link.script(scripts.VIEW, keys), strict=True):
            kinds = ((kind.decode(), int(revision)) for kind, revision in zip(pairs[::2], pairs[1::2], strict=True))
            self._view.set_name(name, {(kind, name): revision for kind, revision in kinds})
            self._revisions[name] = last

    # ---- small things ----

    async def _change(self, text: str, keys: Sequence[str], words: Sequence[str | bytes | int]) -> Any:
        """A script that writes, unless the store is being restored."""
        return await self._link.script(text, [*keys, f"{self._prefix}:{rediscopy.RESTORING}"], words)

    async def _greet(self, *, again: bool = False) -> None:
        """Make sure that this is a store we know, once, and with each poll."""
        if self._greeted and not again:
            return
        try:
            await self._meet()
        except (StoreUnusable, StoreAway) as error:
            self._greeted, self._trouble = False, error.message
            raise
        self._greeted, self._trouble = True, None

    async def _meet(self, *, restoring: bool = False) -> None:
        """Args: restoring: it may be a store that is being restored."""
        if not self._greeted:
            await self._link.server()
            await self._link.command("SET", f"{self._prefix}:schema", VERSION, "NX")
        schema, mark = await self._link.commands(
            [("GET", f"{self._prefix}:schema"), ("EXISTS", f"{self._prefix}:{rediscopy.RESTORING}")]
        )
        with ours("schema version"):
            found = int(schema or VERSION)
        if found > VERSION:
            raise StoreUnusable(f"the store has schema version {found}, this program knows {VERSION}")
        if mark and not restoring:
            # As any store that is away: who leads a rollout decides for its own node, and an abort is in force here.
            raise StoreAway("a restore is going on, or was broken off: restore again", retry_after_s=1)

    @property
    def _names_key(self) -> str:
        return f"{self._prefix}:names"

    def _key(self, name: str, part: str) -> str:
        return f"{self._prefix}:{{{name}}}:{part}"

    async def _names(self) -> tuple[str, ...]:
        found = await self._link.command("SMEMBERS", self._names_key)
        with ours("index of names"):
            return tuple(sorted(name_of(name.decode()) for name in found))

    async def _all_keys(self) -> tuple[tuple[str, str], ...]:
        """(name, part) of all keys that belong to a name."""
        return tuple(await rediscopy.keys(self._link))


def _document(kind: str, name: str, value: bytes | None) -> Document | None:
    """From its stored form; None = absent or deleted."""
    if not value:
        return None
    revision, newline, body = value.partition(b"\n")
    if not revision.isdigit():
        raise StoreUnusable(f"{kind} {name} is not a document of ours")
    return Document(kind, name, int(revision), body) if newline else None


def _entry(entry_id: bytes, fields: Mapping[bytes, bytes]) -> StreamEntry:
    number = int(entry_id.partition(b"-")[0])
    return StreamEntry(number, fields[b"r"].decode(), int(fields[b"e"]), int(fields[b"s"]), fields[b"b"])


def _field(prediction_id: str, slot_key: str) -> str:
    return f"{prediction_id}\n{slot_key}"
