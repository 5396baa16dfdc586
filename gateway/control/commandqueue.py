"""Commands to rollouts on their way to the node that leads: from callers here, and from other nodes by a stream.

What was taken and could not be carried out is given back, so that a write that was lost loses no command.
"""

from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from gateway.control.entries import read_entry
from gateway.control.pending import COMMAND_LIVES_MS, recent
from gateway.control.record import encode
from gateway.store.base import Store
from router.rollout.observed import Command

WAITED_MS: Final = 30_000


class CommandQueue:
    """Args: now_ms: Unix time in ms."""

    def __init__(self, store: Store, node: str, now_ms: Callable[[], int]) -> None:
        self._store = store
        self._node = node
        self._now_ms = now_ms
        self._waiting: dict[str, list[Command]] = {}
        self._cursors: dict[str, int] = {}
        self._epoch = now_ms()
        self._sequence = 0

    def add(self, name: str, command: Command) -> None:
        """For this node, which leads, to carry out."""
        self._waiting.setdefault(name, []).append(msgspec.structs.replace(command, at_ms=self._now_ms()))

    def again(self, name: str, commands: Sequence[Command]) -> None:
        """They were taken, and not carried out: the next turn has them first."""
        self._waiting[name] = [*commands, *self._waiting.get(name, ())]

    def take(self, name: str) -> list[Command]:
        """All that wait here, but for those whose callers have left long ago."""
        return recent(self._waiting.pop(name, ()), self._now_ms())

    async def read(self, name: str) -> list[Command]:
        """What other nodes have given. Raises StoreAway."""
        stream, after = f"commands/{name}", self._cursors.get(name, 0)
        page, lives_ms = await self._store.stream_read(stream, after), COMMAND_LIVES_MS
        if page.cursor < after:
            # The store has lost entries and gives their numbers again: all are read, and who waits still is heard.
            page, lives_ms = await self._store.stream_read(stream, 0), WAITED_MS
        self._cursors[name] = page.cursor
        found = [read_entry(one, stream, lambda body: msgspec.json.decode(body, type=Command)) for one in page.entries]
        return recent((one for one in found if one is not None), self._now_ms(), lives_ms)

    async def give(self, name: str, command: Command) -> None:
        """To the node that leads. Raises StoreAway."""
        self._sequence += 1
        body = encode(msgspec.structs.replace(command, at_ms=command.at_ms or self._now_ms()))
        await self._store.stream_append(f"commands/{name}", self._node, self._epoch, self._sequence, body)

    async def hand_over(self, name: str) -> None:
        """This node leads no more: what waits here goes to who does. Raises StoreAway."""
        while waiting := self._waiting.get(name):
            await self.give(name, waiting[0])
            del waiting[0]
