"""All keys of a Redis store into a file, and back."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from itertools import groupby, islice
from pathlib import Path
from typing import Any, Final

from gateway.store import export as files
from gateway.store import scripts
from gateway.store.base import StoreAway, StoreUnusable
from gateway.store.records import REST_MS
from gateway.store.redis import PATIENT_TIMEOUT_S, RedisLink
from gateway.store.redislines import LOG_PARTS

RESTORING: Final = "restoring"
LIFE: Final = "life"
RESTORER: Final = "restorer"
TRIED: Final = "tried"
_ALONE_MS: Final = 60_000
"""Longer than any step takes, see PATIENT_TIMEOUT_S."""
LEASE: Final = "lease"
_CHUNK: Final = 200


@contextmanager
def local_files() -> Iterator[None]:
    """Errors of the backup's file as ours, without its path."""
    try:
        yield
    except OSError as error:
        raise StoreAway(f"the backup's file: {error.strerror}") from error


@asynccontextmanager
async def patient(link: RedisLink) -> AsyncIterator[RedisLink]:
    """A link to the same place that waits longer, for large keys."""
    other = link.another(PATIENT_TIMEOUT_S)
    try:
        yield other
    finally:
        await other.close()


async def keys(link: RedisLink) -> list[tuple[str, str]]:
    """(name, part) of all keys `PREFIX:{NAME}:PART`, sorted.

    Raises:
        StoreAway: half-way another server had the keys, or some of them are on their way to another.
    """
    prefix = link.prefix
    found: set[tuple[str, str]] = set()
    cursor = 0
    servers: set[object] = set()
    # The braces are no special characters of Redis's patterns; those that are may stand in the prefix.
    pattern = "".join(f"\\{letter}" if letter in "*?[]\\^" else letter for letter in prefix) + ":{*}:*"
    # SCAN has no key, so any node of a Cluster answers it. One that has lost our slot, or is giving it away, refuses to
    # look for a key that is not there. And a cursor means nothing to another server, or to the same one started anew.
    whole = [("EXISTS", f"{prefix}:absent"), ("INFO", "server")]
    while True:
        scan = ("SCAN", cursor, "MATCH", pattern, "COUNT", 1_000)
        (cursor, some), _, server = await link.commands([scan, *whole], atomic=True)
        servers.add(server.get("run_id"))
        if len(servers) > 1:
            raise StoreAway("another Redis has the keys now", retry_after_s=1)
        for key in some:
            name, _, part = key.decode()[len(prefix) + 2 :].rpartition("}:")
            found.add((name, part))
        if int(cursor) == 0:
            return sorted(found)


async def kept(link: RedisLink) -> list[tuple[str, str]]:
    """What a backup holds: all but the decision log. Errors as `keys`."""
    return [pair for pair in await keys(link) if pair[1] not in LOG_PARTS]


async def export(link: RedisLink, version: int, every: Sequence[tuple[str, str]], path: Path) -> None:
    """Write the backup; the keys of one name are read in one step.

    Raises:
        StoreUnusable: the file exists.
    """
    writer = await asyncio.to_thread(files.Writer, path)
    try:
        await asyncio.to_thread(writer.frame, {"schema": version})
        for name, group in groupby(every, key=lambda pair: pair[0]):
            parts = [part for _, part in group]
            dumps = await link.commands([("DUMP", f"{link.prefix}:{{{name}}}:{part}") for part in parts], atomic=True)
            kept = [(part, dump) for part, dump in zip(parts, dumps, strict=True) if dump is not None]
            await asyncio.to_thread(writer.frame, [name, kept])
        await asyncio.to_thread(writer.finish)
    finally:
        await asyncio.to_thread(writer.discard)


class Alone:
    """The right to restore, which one process has at a time; one that died gives it back by its time."""

    def __init__(self, link: RedisLink) -> None:
        self._link = link
        self._key = f"{link.prefix}:{RESTORER}"
        self._token = os.urandom(8).hex()

    async def begin(self) -> None:
        """Raises StoreAway: another has it."""
        if not await self._link.command("SET", self._key, self._token, "NX", "PX", _ALONE_MS):
            raise StoreAway(
                "another restore goes on, or broke off less than a minute ago", retry_after_s=_ALONE_MS // 1000
            )

    async def hold(self) -> None:
        """Before each step that takes something away. Raises StoreAway: this took too long, and another may have it."""
        if not await self._link.script(scripts.HOLD, [self._key], [self._token, _ALONE_MS]):
            raise StoreAway("the restore took too long between two steps; begin again")

    async def end(self) -> None:
        """Give it back, if it is still ours."""
        await self._link.script(scripts.HOLD, [self._key], [self._token, 1])


async def restore(link: RedisLink, version: int, path: Path, aside: Path | None) -> None:
    """Make the store what the backup says. The file is read twice: first whether it is sound.

    From the mark until its end nobody writes. Broken off after the first key has gone, the mark stays, and it has to be
    done again.

    Raises:
        StoreUnusable: the file is not a sound backup, or of a newer schema; the store is not empty and `aside` is None.
        StoreAway: another restore goes on.
    """
    await asyncio.to_thread(_check, path, version)
    if aside is None and await keys(link):
        raise StoreUnusable("the store is not empty")
    alone = Alone(link)
    await alone.begin()
    try:
        await _replace(link, version, path, aside, alone)
    finally:
        with suppress(StoreAway):
            await alone.end()


async def _replace(link: RedisLink, version: int, path: Path, aside: Path | None, alone: Alone) -> None:
    await _try_one(link, path)
    again = await link.command("EXISTS", _key(link, RESTORING))
    await link.command("HSET", _key(link, RESTORING), "", 0)
    try:
        await _note_revisions(link)
        if aside is not None:
            await export(link, version, await kept(link), aside)
    except BaseException:
        if not again:
            await link.command("DEL", _key(link, RESTORING))
        raise
    await alone.hold()
    await _begin_life(link)
    await _clear(link, alone)
    frames = files.read(path)
    await asyncio.to_thread(next, frames)
    while (frame := await asyncio.to_thread(next, frames, None)) is not None:
        await alone.hold()
        await _fill_name(link, *frame)
    await _keep_growing(link)
    if aside is not None:
        await _rest(link)
    await link.command("DEL", _key(link, RESTORING))


def _key(link: RedisLink, part: str) -> str:
    return f"{link.prefix}:{part}"


def _check(path: Path, version: int) -> None:
    files.checked(path)
    head = next(files.read(path), None)
    if not isinstance(head, dict) or head.get("schema", version + 1) > version:
        raise StoreUnusable(f"the backup is of a newer schema, this program knows {version}")


async def _try_one(link: RedisLink, path: Path) -> None:
    """A dump of a newer Redis is refused before anything has gone. Raises StoreUnusable."""
    dumps = (dump for _, parts in islice(files.read(path), 1, None) for _, dump in parts)
    dump = await asyncio.to_thread(next, dumps, None)
    if dump is not None:
        await link.command("RESTORE", _key(link, TRIED), 0, dump, "REPLACE")
        await link.command("DEL", _key(link, TRIED))


async def _note_revisions(link: RedisLink) -> None:
    """Beside the mark, where they stay if this breaks off: what was given last of every name."""
    names = [name for name, part in await keys(link) if part == "head"]
    noted = await link.command("HGETALL", _key(link, RESTORING))
    for at in range(0, len(names), _CHUNK):
        chunk = names[at : at + _CHUNK]
        values = await link.commands([("HGET", f"{link.prefix}:{{{name}}}:head", "rev") for name in chunk])
        given = {name: int(value or 0) for name, value in zip(chunk, values, strict=True)}
        higher = [(name, last) for name, last in given.items() if last > int(noted.get(name.encode(), 0))]
        if higher:
            await link.commands([("HSET", _key(link, RESTORING), name, last) for name, last in higher])


async def _begin_life(link: RedisLink) -> None:
    """Before the first key goes: who finds one missing must know why."""
    (seconds, micros), before = await link.commands([("TIME",), ("GET", _key(link, LIFE))])
    now_ms = int(seconds) * 1000 + int(micros) // 1000
    await link.command("SET", _key(link, LIFE), max(now_ms, int(before or 0) + 1))


async def _clear(link: RedisLink, alone: Alone) -> None:
    """All but leases: who had one has to be fenced."""
    gone = [(name, part) for name, part in await kept(link) if part != LEASE]
    every = [f"{link.prefix}:{{{name}}}:{part}" for name, part in gone] + [_key(link, "names")]
    for at in range(0, len(every), _CHUNK):
        await alone.hold()
        await link.command("UNLINK", *every[at : at + _CHUNK])


async def _keep_growing(link: RedisLink) -> None:
    """A revision that was given once does not come again. One more, so that who follows looks at the name anew."""
    for name, revision in (await link.command("HGETALL", _key(link, RESTORING))).items():
        key = f"{link.prefix}:{{{name.decode()}}}:head"
        if name and int(await link.command("HGET", key, "rev") or 0) < int(revision):
            await link.command("HSET", key, "rev", int(revision) + 1)


async def _rest(link: RedisLink) -> None:
    """Who leads is fenced, and nobody leads for a while."""
    seconds, _ = await link.command("TIME")
    until_ms = (int(seconds) + 1) * 1000 + REST_MS
    for key in [f"{link.prefix}:{{{name}}}:{part}" for name, part in await keys(link) if part == LEASE]:
        await link.commands([("HINCRBY", key, "token", 1), ("HSET", key, "holder", "", "expires", until_ms)])


async def _fill_name(link: RedisLink, name: str, dumps: Sequence[tuple[str, Any]]) -> None:
    for part, dump in dumps:
        if part == LEASE and await link.command("EXISTS", f"{link.prefix}:{{{name}}}:{part}"):
            continue
        await link.command("RESTORE", f"{link.prefix}:{{{name}}}:{part}", 0, dump)
    if any(part in ("head", "docs", "audit") for part, _ in dumps):
        await link.command("SADD", f"{link.prefix}:names", name)
