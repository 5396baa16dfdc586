"""The admin port's surface for the store: how it is, a look at everything in it, a copy of it."""

import asyncio
import dataclasses
from pathlib import Path

from starlette.requests import Request
from starlette.routing import Route

from gateway.control.traffic import Traffic
from gateway.http.body import object_of
from gateway.http.reply import Reply, json_reply
from runtimes.errors import Conflict, InvalidInput


class StoreEndpoints:
    """The endpoints.

    Args:
        most: bytes of a body.
    """

    def __init__(self, traffic: Traffic, most: int) -> None:
        self._store = traffic.store
        self._most = most

    async def status(self, request: Request) -> Reply:
        """Which store it is, and whether it answers."""
        return json_reply(dataclasses.asdict(self._store.status()))

    async def check(self, request: Request) -> Reply:
        """Read everything; `problems` is empty when it is sound."""
        return json_reply(dataclasses.asdict(await self._store.check()))

    async def backup(self, request: Request) -> Reply:
        """`{"path": "/backups/one"}`: a copy to a new file on this machine, while everything goes on."""
        given = (await object_of(request, self._most, ("path",))).get("path")
        if not isinstance(given, str) or not given.startswith("/") or "\0" in given or len(given) > 4096:
            raise InvalidInput("path: expected the full path of a file that is not there yet, on the server's machine")
        path = Path(given)
        await asyncio.to_thread(_check_free, path)
        try:
            await self._store.backup(path)
        except OSError as error:
            raise InvalidInput(f"path: cannot be written there: {error.strerror}") from error
        size = (await asyncio.to_thread(path.stat)).st_size
        return json_reply({"path": given, "bytes": size})


def _check_free(path: Path) -> None:
    """Blocking. Raises Conflict, InvalidInput."""
    if path.exists():
        raise Conflict("path: there is such a file already; a backup never replaces one")
    if not path.parent.is_dir():
        raise InvalidInput("path: the server does not find its folder")


def store_routes(traffic: Traffic, most: int) -> list[Route]:
    """Routes of the admin port."""
    endpoints = StoreEndpoints(traffic, most)
    return [
        Route("/admin/v1/store", endpoints.status),
        Route("/admin/v1/store/check", endpoints.check),
        Route("/admin/v1/store/backup", endpoints.backup, methods=["POST"]),
    ]
