"""The decision log as control has it: the files of this node, and the stream of all nodes where the store has one.

Both are searched and erased, wherever lines are written now: the setting may have been another yesterday.
"""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gateway.decisionfiles import FOLDER, MOST_FOUND, decoded, find, forget
from gateway.store.base import Store, StoreUnusable
from gateway.store.lines import Wanted as WantedBytes

Line = dict[str, Any]
Wanted = Callable[[Line], bool]


class DecisionLines:
    """For one node.

    Attributes:
        written: where lines go now: "files", "stream"; "off" = none are written.
    """

    def __init__(self, store: Store, data_dir: Path, written: str = "off") -> None:
        self.written = written
        self._lines = store.lines
        self._folder = data_dir / FOLDER

    async def take(self, sender: str, sequence: int, lines: Sequence[bytes], most: int) -> None:
        """Put a worker's part into the stream. See `gateway.store.lines.Lines.append`.

        Raises:
            StoreAway: it may be there or not; the same call again is harmless.
            StoreUnusable: there is no stream, or Redis refuses.
        """
        if self._lines is None:
            raise StoreUnusable("this store has no decision log")
        await self._lines.append(sender, sequence, lines, most)

    async def find(self, wanted: Wanted, needle: bytes) -> list[Line]:
        """The last lines that are wanted, oldest first; at most `MOST_FOUND`. Raises StoreAway.

        Args:
            needle: stands in each wanted line; other lines are not even decoded.
        """
        found = await asyncio.to_thread(find, self._folder, wanted, needle)
        if self._lines is not None:
            lines = await self._lines.find(needle, _of_bytes(wanted), MOST_FOUND)
            found += [line for line in map(decoded, lines) if line is not None]
            found.sort(key=lambda line: int(line.get("time_ms", 0)))
        return found[-MOST_FOUND:]

    async def forget(self, wanted: Wanted, needle: bytes) -> int:
        """Erase the lines that are wanted; how many there were. Raises StoreAway: not all of them, maybe."""
        erased = await asyncio.to_thread(forget, self._folder, wanted, needle)
        if self._lines is not None:
            erased += await self._lines.remove(needle, _of_bytes(wanted))
        return erased


def _of_bytes(wanted: Wanted) -> WantedBytes:
    def check(line: bytes) -> bool:
        found = decoded(line)
        return found is not None and wanted(found)

    return check
