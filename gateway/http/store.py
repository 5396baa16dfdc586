"""The admin port's surface for the store: how it is, a look at everything in it, a copy of it, and back from one."""

import asyncio
import dataclasses
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from starlette.requests import Request
from starlette.routing import Route

from gateway.control.traffic import Traffic
from gateway.http.access import actor_of
from gateway.http.body import object_of
from gateway.http.reply import Reply, json_reply
from gateway.store.base import StoreUnusable
from runtimes.errors import Conflict, InvalidInput, ServingError

_log: Final = logging.getLogger(__name__)


class StoreEndpoints:
    """The endpoints.

    Args:
        most: bytes of a body.
        facts: of the process tree; what a restore replaces is kept in its `data_dir`.
    """

    def __init__(self, traffic: Traffic, most: int, facts: Mapping[str, Any]) -> None:
        self._traffic = traffic
        self._store = traffic.store
        self._facts = facts
        self._restoring: asyncio.Task[None] | None = None
        self._most = most

    async def status(self, request: Request) -> Reply:
        """Which store it is, and whether it answers."""
        return json_reply(dataclasses.asdict(self._store.status()))

    async def check(self, request: Request) -> Reply:
        """Read everything; `problems` is empty when it is sound."""
        return json_reply(dataclasses.asdict(await self._store.check()))

    async def backup(self, request: Request) -> Reply:
        """`{"path": "/backups/one"}`: a copy to a new file on this machine, while everything goes on."""
        path = _path_of((await object_of(request, self._most, ("path",))).get("path"))
        await asyncio.to_thread(_check_free, path)
        try:
            await self._store.backup(path)
        except OSError as error:
            raise InvalidInput(f"path: cannot be written there: {error.strerror}") from error
        size = (await asyncio.to_thread(path.stat)).st_size
        return json_reply({"path": str(path), "bytes": size})

    async def restore(self, request: Request) -> Reply:
        """`{"path": "/backups/one", "reason": "..."}`: the store becomes what a backup on this machine says.

        Control ends on every node within seconds and begins anew with that; workers answer on. A caller who leaves
        breaks nothing off.
        """
        asked = await object_of(request, self._most, ("path", "reason"))
        path, reason = _path_of(asked.get("path")), asked.get("reason", "")
        if not isinstance(reason, str):
            raise InvalidInput("reason: expected a text")
        if not await asyncio.to_thread(path.is_file):
            raise InvalidInput("path: there is no such file on the server's machine")
        if self._restoring is not None:
            raise Conflict("a restore is going on already")
        aside = Path(self._facts["data_dir"]) / f"before-restore-{time.time_ns() // 1_000_000}"
        self._restoring = asyncio.create_task(self._restore(path, aside, actor_of(request).name, reason[:500]))
        self._restoring.add_done_callback(self._restored)
        await asyncio.shield(self._restoring)
        return json_reply({"restored": str(path), "aside": str(aside)})

    async def _restore(self, path: Path, aside: Path, actor: str, reason: str) -> None:
        monitoring = self._traffic.monitoring
        given = await monitoring.desk.generations() if monitoring is not None else {}
        try:
            await self._store.restore(path, aside=aside)
        except StoreUnusable as error:
            raise InvalidInput(f"path: {error.message}") from error
        audit = {"actor": actor, "what": "restore store", "reason": reason, "backup": str(path), "aside": str(aside)}
        # An ETag is not given twice: policies are known to their nodes, documents of monitors to the store alone.
        try:
            await self._store.audit_append("store", {**audit, "generations": given})
        except ServingError as error:  # it is restored all the same
            _log.error("restore_not_audited", extra={"facts": {"reason": error.message}})
        _log.warning("store_replaced", extra={"facts": audit})

    def _restored(self, task: "asyncio.Task[None]") -> None:
        self._restoring = None
        if not task.cancelled():
            task.exception()  # the caller was told, unless he left


def _path_of(given: object) -> Path:
    """Raises InvalidInput."""
    if not isinstance(given, str) or not given.startswith("/") or "\0" in given or len(given) > 4096:
        raise InvalidInput("path: expected the full path of a file on the server's machine")
    return Path(given)


def _check_free(path: Path) -> None:
    """Blocking. Raises Conflict, InvalidInput."""
    if path.exists():
        raise Conflict("path: there is such a file already; a backup never replaces one")
    if not path.parent.is_dir():
        raise InvalidInput("path: the server does not find its folder")


def store_routes(traffic: Traffic, most: int, facts: Mapping[str, Any]) -> list[Route]:
    """Routes of the admin port."""
    endpoints = StoreEndpoints(traffic, most, facts)
    return [
        Route("/admin/v1/store", endpoints.status),
        Route("/admin/v1/store/check", endpoints.check),
        Route("/admin/v1/store/backup", endpoints.backup, methods=["POST"]),
        Route("/admin/v1/store/restore", endpoints.restore, methods=["POST"]),
    ]
