"""All keys of a Redis store into a file, and back."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from gateway.store import export as files
from gateway.store.base import StoreAway, StoreUnusable
from gateway.store.redis import RedisLink

RESTORING: Final = "restoring"


@contextmanager
def local_files() -> Iterator[None]:
    """Errors of the backup's file as ours, without its path."""
    try:
        yield
    except OSError as error:
        raise StoreAway(f"the backup's file: {error.strerror}") from error


@asynccontextmanager
async def patient(url: str, timeout_s: float) -> AsyncIterator[RedisLink]:
    """A link that waits longer, for large keys."""
    link = RedisLink(url, timeout_s=timeout_s)
    try:
        yield link
    finally:
        await link.close()


async def keys(link: RedisLink, prefix: str) -> list[tuple[str, str]]:
    """(name, part) of all keys `PREFIX:{NAME}:PART`, sorted."""
    found: set[tuple[str, str]] = set()
    cursor = 0
    # The braces are no special characters of Redis's patterns; those that are may stand in the prefix.
    pattern = "".join(f"\\{letter}" if letter in "*?[]\\^" else letter for letter in prefix) + ":{*}:*"
    while True:
        cursor, some = await link.command("SCAN", cursor, "MATCH", pattern, "COUNT", 1_000)
        for key in some:
            name, _, part = key.decode()[len(prefix) + 2 :].rpartition("}:")
            found.add((name, part))
        if int(cursor) == 0:
            return sorted(found)


async def export(link: RedisLink, prefix: str, version: int, every: Sequence[tuple[str, str]], path: Path) -> None:
    """Write the backup; the keys of one name are read in one step.

    Raises:
        StoreUnusable: the file exists.
    """
    writer = await asyncio.to_thread(files.Writer, path)
    try:
        await asyncio.to_thread(writer.frame, {"schema": version})
        for name, group in groupby(every, key=lambda pair: pair[0]):
            parts = [part for _, part in group]
            dumps = await link.commands([("DUMP", f"{prefix}:{{{name}}}:{part}") for part in parts], atomic=True)
            kept = [(part, dump) for part, dump in zip(parts, dumps, strict=True) if dump is not None]
            await asyncio.to_thread(writer.frame, [name, kept])
        await asyncio.to_thread(writer.finish)
    finally:
        await asyncio.to_thread(writer.discard)


async def fill(link: RedisLink, prefix: str, version: int, path: Path) -> None:
    """Read the backup into a Redis without keys of ours. The file is read twice: first whether it is sound.

    Raises:
        StoreUnusable: the file is not a sound backup, or of a newer schema.
    """
    await asyncio.to_thread(files.checked, path)
    frames = files.read(path)
    head = await asyncio.to_thread(next, frames, None)
    if not isinstance(head, dict) or head.get("schema", version + 1) > version:
        raise StoreUnusable(f"the backup is of a newer schema, this program knows {version}")
    await link.command("SET", f"{prefix}:{RESTORING}", 1)
    while (frame := await asyncio.to_thread(next, frames, None)) is not None:
        await _fill_name(link, prefix, *frame)
    await link.command("DEL", f"{prefix}:{RESTORING}")


async def _fill_name(link: RedisLink, prefix: str, name: str, dumps: Sequence[tuple[str, Any]]) -> None:
    for part, dump in dumps:
        await link.command("RESTORE", f"{prefix}:{{{name}}}:{part}", 0, dump)
    if any(part in ("head", "docs", "audit") for part, _ in dumps):
        await link.command("SADD", f"{prefix}:names", name)
