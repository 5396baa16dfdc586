"""The admin port's surface for the drift monitor: documents, what it says, and why."""

import asyncio
import time
from typing import Any, Final

from starlette.requests import Request
from starlette.routing import Route

from gateway.control.documents import Seen
from gateway.control.folder import MONITOR
from gateway.control.monitorbins import drawn
from gateway.control.monitordesk import MonitorDesk
from gateway.control.monitorheld import Held
from gateway.control.monitorpage import page_of
from gateway.control.monitors import Monitors
from gateway.control.monitorviews import explanation, in_short, since_s, view
from gateway.control.reading import name_in
from gateway.control.traffic import Traffic
from gateway.http.access import actor_of
from gateway.http.body import object_of, text_of
from gateway.http.preconditions import generation_seen
from gateway.http.reply import Reply, json_reply
from gateway.monitor.explaining import explained
from gateway.monitor.settings import schema
from runtimes.errors import InvalidInput
from runtimes.registry.strictyaml import DocumentError, load

# The page brings all it needs; nothing it holds may fetch or run anything.
_LOCKED: Final = ((b"content-security-policy", b"default-src 'none'; style-src 'unsafe-inline'"),)


class MonitorEndpoints:
    """The endpoints.

    Args:
        most: bytes of a body.
    """

    def __init__(self, traffic: Traffic, most: int) -> None:
        self._traffic = traffic
        self._most = most

    @property
    def _desk(self) -> MonitorDesk:
        assert self._traffic.monitoring is not None, "the port is served once there is a monitor"
        return self._traffic.monitoring.desk

    @property
    def _monitors(self) -> Monitors:
        return self._desk.monitors

    async def listed(self, request: Request) -> Reply:
        """Every monitor that the caller's key covers, in short."""
        covers, now_ms = actor_of(request).covers, _now_ms()
        held = [(name, await self._monitors.shown(name)) for name in sorted(filter(covers, self._monitors.held))]
        return json_reply([in_short(name, one, now_ms, self._file_problem(name)) for name, one in held])

    def _file_problem(self, name: str) -> str:
        folder = self._traffic.folder
        return folder.problem_of(MONITOR, name) if folder is not None else ""

    async def one(self, request: Request) -> Reply:
        """One monitor: states, windows, performance, incident; its generation as ETag. `?format=html` is a page."""
        form = request.query_params.get("format", "json")
        if form not in ("json", "html"):
            raise InvalidInput(f"format: expected json or html, got {form[:40]!r}")
        name = request.path_params["name"]
        held = await self._monitors.shown(name)
        about = await _explained(held) if form == "html" else {}
        # Without a pause from here on, so that all of it is of one moment.
        found = view(
            name,
            held,
            leads=self._monitors.leads,
            away=self._monitors.away,
            now_ms=_now_ms(),
            file_problem=self._file_problem(name),
        )
        if form == "html":
            page = await asyncio.to_thread(page_of, found, about, drawn(held, found), time.time())
            return Reply(200, page.encode(), content_type=b"text/html; charset=utf-8", headers=_LOCKED)
        reply = json_reply(found)
        reply.headers = [(b"etag", b'"%d"' % held.generation)]
        return reply

    async def explain(self, request: Request) -> Reply:
        """Every setting in force, what can be seen with it, and why the last windows said what they said."""
        name = request.path_params["name"]
        held = await self._monitors.shown(name)
        return json_reply(explanation(name, held, await _explained(held), _now_ms()))

    async def schema(self, request: Request) -> Reply:
        """JSON schema of the document, for editors."""
        return json_reply(schema())

    async def apply(self, request: Request) -> Reply:
        """Put a document in force."""
        name = request.path_params["name"]
        text = await text_of(request, self._most)
        try:
            document = load(text, "the monitor")
        except DocumentError as error:
            raise InvalidInput(str(error)) from error
        named = name_in(document)
        if named and named != name:
            raise InvalidInput(f"metadata.name: expected {name!r}, as in the URL, got {named!r}")
        reason = request.headers.get("x-reason", "")[:500] or request.query_params.get("reason", "")[:500]
        seen = self._generation(request, name)
        record, changed = await self._desk.apply(document, actor=actor_of(request).name, generation=seen, reason=reason)
        warnings = await asyncio.to_thread(self._desk.warnings, document)
        done = {"name": name, "generation": record.generation, "changed": changed, "warnings": warnings}
        reply = json_reply(done)
        reply.headers = [(b"etag", b'"%d"' % record.generation)]
        return reply

    def _generation(self, request: Request, name: str) -> Seen:
        """That the caller has seen; where the defaults are in force, `one` has given "0" as their ETag."""
        return generation_seen(request, 0 if name in self._monitors.held else 1)

    async def delete(self, request: Request) -> Reply:
        """Remove a document, the one that the caller has seen if that is said: defaults are in force from then on."""
        name, reason = request.path_params["name"], request.query_params.get("reason", "")[:500]
        generation = self._generation(request, name)
        await self._desk.delete(name, actor=actor_of(request).name, generation=generation, reason=reason)
        return json_reply({})

    async def approve(self, request: Request) -> Reply:
        """`{"request": KEY}`: let a request for retraining go."""
        return json_reply(await self._desk.approve(*await self._asked(request), actor=actor_of(request).name))

    async def reject(self, request: Request) -> Reply:
        """`{"request": KEY}`: no retraining."""
        return json_reply(await self._desk.reject(*await self._asked(request), actor=actor_of(request).name))

    async def _asked(self, request: Request) -> tuple[str, str]:
        key = (await object_of(request, self._most, ("request",))).get("request")
        if not isinstance(key, str):
            raise InvalidInput("request: expected the key of a request for retraining")
        return request.path_params["name"], key


async def _explained(held: Held) -> dict[str, dict[str, Any]]:
    """What can be seen of each version; beside the loop, for it is work."""
    versions = held.monitor.versions.items()
    watched = {version: (one.reference, one.spec, since_s(held, version)) for version, one in versions}
    return {version: await asyncio.to_thread(explained, *place) for version, place in watched.items()}


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def monitor_routes(traffic: Traffic, most: int) -> list[Route]:
    """Routes of the admin port."""
    endpoints = MonitorEndpoints(traffic, most)
    one = "/admin/v1/monitors/{name}"
    return [
        Route("/admin/v1/monitors", endpoints.listed),
        Route("/admin/v1/schemas/monitor", endpoints.schema),
        Route(one, endpoints.one),
        Route(one, endpoints.apply, methods=["PUT"]),
        Route(one, endpoints.delete, methods=["DELETE"]),
        Route(f"{one}/explain", endpoints.explain),
        Route(f"{one}/retraining/approve", endpoints.approve, methods=["POST"]),
        Route(f"{one}/retraining/reject", endpoints.reject, methods=["POST"]),
    ]
