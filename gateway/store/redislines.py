"""Lines of all nodes in one Redis stream. See `gateway.store.lines`.

They are written on a connection of their own: a Redis that is too full for them must not be said to be away for it. One
search at a time takes one of the store's: what decides must not queue up behind them.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from gateway.store import scripts
from gateway.store.allowed import body_of, integer_of, name_of
from gateway.store.lines import LINE_BYTES, PART_LINES, Wanted
from gateway.store.redis import RedisLink

LOG_PARTS: Final = ("lines", "senders", "heard")
"""Parts of the name that no backup takes: a dump of a million lines would hold up Redis for seconds."""
# One look: so many lines are searched, so many bytes of them come back. 2 ms of Redis; a million lines take 10 s.
LOOK_ROWS: Final = 250
LOOK_BYTES: Final = 256 * 1024


class RedisLines:
    """On one event loop.

    Args:
        link: of the store.
        key: makes the key of a part.
        greet: makes sure that this is a store we know.
        senders: so many are remembered.
    """

    def __init__(
        self,
        link: RedisLink,
        key: Callable[[str], str],
        greet: Callable[[], Awaitable[None]],
        senders: int,
    ) -> None:
        self._link = link
        self._writer = link.another()
        self._keys = [key(part) for part in LOG_PARTS]
        self._greet = greet
        self._senders = senders
        self._writing = asyncio.Lock()
        self._searching = asyncio.Lock()

    async def append(self, sender: str, sequence: int, lines: Sequence[bytes], most: int) -> bool:
        """See `Lines.append`."""
        name_of(sender, "sender")
        integer_of(sequence, "sequence")
        integer_of(len(lines), "lines", 1, PART_LINES)
        words = [body_of(line, LINE_BYTES, "line") for line in lines]
        async with self._writing:
            await self._greet()
            bounds = (integer_of(most, "most", 1), self._senders)
            return bool(await self._writer.script(scripts.LINES, self._keys, [sender, sequence, *bounds, *words]))

    async def find(self, needle: bytes, wanted: Wanted, most: int) -> list[bytes]:
        """See `Lines.find`."""
        found: list[bytes] = []
        async with self._searching:
            start = b"+"
            while start and len(found) < most:
                start, looked = await self._look(start, needle)
                found += [line for _, line in looked if wanted(line)]
        return found[:most][::-1]

    async def remove(self, needle: bytes, wanted: Wanted) -> int:
        """See `Lines.remove`. Bytes go with their block, once all of its lines are gone."""
        gone = 0
        async with self._searching:
            start = b"+"
            while start:
                start, looked = await self._look(start, needle)
                if ids := [entry_id for entry_id, line in looked if wanted(line)]:
                    gone += int(await self._link.command("XDEL", self._keys[0], *ids))
        return gone

    async def close(self) -> None:
        """Close the connection. Twice is fine."""
        await self._writer.close()

    async def _look(self, start: bytes, needle: bytes) -> tuple[bytes, list[tuple[bytes, bytes]]]:
        """Where to go on, b"" = nowhere; and (id, line) of those with the needle, newest first."""
        await self._greet()
        words = (start, needle, LOOK_ROWS, LOOK_BYTES)
        last, *flat = await self._link.script(scripts.SEARCH, self._keys[:1], words)
        return b"(" + last if last else b"", list(zip(flat[::2], flat[1::2], strict=True))
