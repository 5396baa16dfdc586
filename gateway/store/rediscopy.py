"""All keys of a Redis store into a file, and back."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from gateway.store import export as files
from gateway.store.base import StoreAway, StoreUnusable
from gateway.store.redis import PATIENT_TIMEOUT_S, RedisLink

RESTORING: Final = "restoring"


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


async def fill(link: RedisLink, version: int, path: Path) -> None:
    """Read the backup into a Redis without keys of ours. The file is read twice: first whether it is sound.

    Raises:
        StoreUnusable: the file is not a sound backup, or of a newer schema.
    """
    await asyncio.to_thread(files.checked, path)
    frames = files.read(path)
    head = await asyncio.to_thread(next, frames, None)
    if not isinstance(head, dict) or head.get("schema", version + 1) > version:
        raise StoreUnusable(f"the backup is of a newer schema, this program knows {version}")
    await link.command("SET", f"{link.prefix}:{RESTORING}", 1)
    while (frame := await asyncio.to_thread(next, frames, None)) is not None:
        await _fill_name(link, *frame)
    await link.command("DEL", f"{link.prefix}:{RESTORING}")


async def _fill_name(link: RedisLink, name: str, dumps: Sequence[tuple[str, Any]]) -> None:
    for part, dump in dumps:
        await link.command("RESTORE", f"{link.prefix}:{{{name}}}:{part}", 0, dump)
    if any(part in ("head", "docs", "audit") for part, _ in dumps):
        await link.command("SADD", f"{link.prefix}:names", name)
