"""Keys in control: follows the file, tells who has to know, and changes it for the admin port.

The command line changes the file without asking; a look four times a second finds that out. A file that cannot be used
changes nothing: the keys that were in force stay so, and the log says why.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any, Final

import msgspec
from msgspec import Struct

from gateway.keyfile import KeyFile, KeysUnusable, Stamp
from gateway.keys import Key, KeyFacts, Wish, expiry, facts_of, shown
from runtimes.errors import InvalidInput

LOOK_S: Final = 0.25
_log: Final = logging.getLogger(__name__)


class _Asked(Struct, forbid_unknown_fields=True):
    name: str
    scopes: tuple[str, ...]
    models: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    expires: str | None = None


class KeyDesk:
    """The keys of the node, as control sees them. Files are touched in threads.

    Args:
        on_keys: told the keys in force, at once and whenever they change; called on the loop.
        wall_s: seconds since 1970.
    """

    def __init__(
        self, file: KeyFile, on_keys: Callable[[tuple[KeyFacts, ...]], None], *, wall_s: Callable[[], float] = time.time
    ) -> None:
        self._file = file
        self._on_keys = on_keys
        self._wall_s = wall_s
        self._stamp: Stamp | None = None
        self._names: frozenset[str] | None = None
        self._looking = asyncio.Lock()
        self._problem = ""

    async def run(self) -> None:
        """Follow the file for ever. Cancel: a look ends in its thread."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """Read the file if it has changed since the last look."""
        async with self._looking:
            try:
                found = await asyncio.to_thread(self._changed)
            except KeysUnusable as error:
                self._say_problem(error.message)
                return
            self._problem = ""
            if found is not None:
                self._tell(found)

    def look_first(self) -> None:
        """The first look, before there is a loop to hold up."""
        try:
            self._tell(self._changed() or ())
        except KeysUnusable as error:
            self._say_problem(error.message)

    def _changed(self) -> tuple[Key, ...] | None:
        """Every key; None when the file is the one that was read last. Raises KeysUnusable."""
        stamp = self._file.stamp()
        if stamp == self._stamp:
            return None
        keys = self._file.read()
        self._stamp = stamp
        return keys

    def _tell(self, keys: tuple[Key, ...]) -> None:
        facts = facts_of(keys, self._wall_s())
        names = frozenset(fact.name for fact in facts)
        if self._names is not None and names != self._names:
            changes = {"new": sorted(names - self._names), "gone": sorted(self._names - names)}
            _log.info("keys_changed", extra={"facts": changes})
        self._names = names
        self._on_keys(facts)

    def _say_problem(self, problem: str) -> None:
        if problem != self._problem:
            _log.error("keys_unusable", extra={"facts": {"reason": problem}})
        self._problem = problem

    # ---- for the admin port ----

    async def list(self) -> list[dict[str, Any]]:
        """Every key, oldest first, without what lets in. Raises KeysUnusable."""
        now_s = self._wall_s()
        return [shown(key, now_s) for key in await asyncio.to_thread(self._file.read)]

    async def create(self, asked: dict[str, Any], actor: str) -> dict[str, Any]:
        """Make a key; `key` of the answer is the only time that it is told.

        Args:
            asked: name, scopes, models, labels, expires (see `gateway.keys.expiry`).
            actor: who asks, for the log.

        Raises:
            InvalidInput, Conflict, KeysUnusable
        """
        try:
            form = msgspec.convert(asked, _Asked)
        except msgspec.ValidationError as error:
            raise InvalidInput(f"a key: {error}") from error
        now_s = self._wall_s()
        expires_s = None if form.expires is None else expiry(form.expires, now_s)
        wish = Wish(form.name, form.scopes, form.models, form.labels, expires_s)
        text, key = await asyncio.to_thread(self._file.create, wish)
        _log.info("key_created", extra={"facts": {"key": key.name, "scopes": list(key.scopes), "actor": actor}})
        await self.look()
        return {"key": text, **shown(key, now_s)}

    async def revoke(self, name: str, actor: str) -> dict[str, Any]:
        """Revoke a key; the answer comes when every worker has been told. Raises UnknownKey, KeysUnusable."""
        key = await asyncio.to_thread(self._file.revoke, name)
        _log.info("key_revoked", extra={"facts": {"key": key.name, "actor": actor}})
        await self.look()
        return shown(key, self._wall_s())
