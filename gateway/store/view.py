"""Revisions of all documents as last seen, and who waits for them to differ."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import TypeAlias

from gateway.store.base import Change

Key: TypeAlias = tuple[str, str]


class View:
    """On one event loop. Watchers compare against it, so a slow one costs nothing and misses no last state."""

    def __init__(self) -> None:
        self._revisions: dict[Key, int] = {}
        self._changed = asyncio.Event()
        self._known = asyncio.Event()
        self._closed = False

    def set(self, key: Key, revision: int) -> None:
        """A document as it is now; revision 0 = gone."""
        if self._revisions.get(key, 0) == revision:
            return
        if revision:
            self._revisions[key] = revision
        else:
            del self._revisions[key]
        self._wake()

    def set_name(self, name: str, found: Mapping[Key, int]) -> None:
        """All documents of one name."""
        for key in [key for key in self._revisions if key[1] == name and key not in found]:
            self.set(key, 0)
        for key, revision in found.items():
            self.set(key, revision)

    def keep_names(self, names: Iterable[str]) -> None:
        """Documents of any other name are gone."""
        kept = set(names)
        for key in [key for key in self._revisions if key[1] not in kept]:
            self.set(key, 0)

    def replace(self, found: Mapping[Key, int]) -> None:
        """All documents that there are."""
        for key in self._revisions.keys() - found.keys():
            self.set(key, 0)
        for key, revision in found.items():
            self.set(key, revision)

    def complete(self) -> None:
        """From here on the view is a whole one; watchers wait for this, or all that they know would look gone."""
        self._known.set()

    def close(self) -> None:
        """End all watches."""
        self._closed = True
        self._known.set()
        self._wake()

    def follow(self, known: Mapping[Key, int] | None) -> AsyncIterator[Change]:
        """See `Store.watch`."""
        return _Watch(self, dict(known or {}))

    async def differences(self, seen: dict[Key, int]) -> list[Change]:
        """At least one change against `seen`, which is brought up to date with it; [] = the view is closed.

        Cancelled: `seen` is as it was.
        """
        await self._known.wait()
        while not self._closed:
            if found := self._differences(seen):
                return found
            await self._changed.wait()
        return []

    def _differences(self, seen: dict[Key, int]) -> list[Change]:
        found = {key: revision for key, revision in self._revisions.items() if seen.get(key) != revision}
        gone = [key for key in seen if key not in self._revisions]
        seen.clear()
        seen.update(self._revisions)
        return [*(Change(*key, 0) for key in gone), *(Change(*key, revision) for key, revision in found.items())]

    def _wake(self) -> None:
        woken, self._changed = self._changed, asyncio.Event()
        woken.set()


class _Watch(AsyncIterator[Change]):
    """No generator: one that is cancelled while it waits would be at its end."""

    def __init__(self, view: View, seen: dict[Key, int]) -> None:
        self._view = view
        self._seen = seen
        self._found: deque[Change] = deque()

    async def __anext__(self) -> Change:
        if not self._found:
            self._found.extend(await self._view.differences(self._seen))
        if not self._found:
            raise StopAsyncIteration
        return self._found.popleft()
