"""The admin port's surface for the audit trail, the decision log, erasure and alerts."""

import asyncio
from typing import Any

from starlette.requests import Request
from starlette.routing import Route

from gateway.control.auditor import Wanted, in_full
from gateway.control.auditpage import page
from gateway.control.traffic import Traffic
from gateway.http.access import actor_of
from gateway.http.body import object_of
from gateway.http.reply import Reply, json_reply
from gateway.store.allowed import INTEGER_MAX
from runtimes.errors import InvalidInput


class AuditEndpoints:
    """The endpoints.

    Args:
        most: bytes of a body.
    """

    def __init__(self, traffic: Traffic, most: int) -> None:
        self._traffic = traffic
        self._most = most

    async def listed(self, request: Request) -> Reply:
        """Records in short, newest first."""
        given = request.query_params
        known = {"name", "actor", "what", "since", "until", "rollout", "prediction_id", "after", "limit", "order"}
        for key in given:
            if key not in known:
                raise InvalidInput(f"{key[:64]}: unknown parameter; there are {', '.join(sorted(known))}")
        auditor, name = self._traffic.auditor, given.get("name", "")
        fields = {key: given[key] for key in ("actor", "what") if key in given}
        if "rollout" in given:
            fields["identity"] = given["rollout"]
        if "prediction_id" in given:
            found, policy = auditor.predicted(given["prediction_id"])
            fields["revision_after"], name = str(found.revision), name or policy
        order = given.get("order", "newest")
        if order not in ("newest", "oldest"):
            raise InvalidInput(f"order: expected newest or oldest, got {order[:40]!r}")
        wanted = Wanted(
            name=name,
            fields=fields or None,
            since_ms=_number(given.get("since"), "since", 0, INTEGER_MAX, 0),
            until_ms=_number(given.get("until"), "until", INTEGER_MAX, INTEGER_MAX, 0),
            after=given.get("after"),
            limit=_number(given.get("limit"), "limit", 100, 1_000, 1),
            newest=order == "newest",
        )
        return json_reply(await auditor.page(wanted))

    async def one(self, request: Request) -> Reply:
        """A record with all its evidence."""
        return json_reply(in_full(await self._traffic.auditor.get(*_id(request))))

    async def verify(self, request: Request) -> Reply:
        """The whole chain."""
        return json_reply(await self._traffic.auditor.verify())

    async def replay(self, request: Request) -> Reply:
        """A record's verdicts, computed anew."""
        return json_reply(await self._traffic.auditor.replay(*_id(request)))

    async def export(self, request: Request) -> Reply:
        """All of one rollout, for an auditor: JSON, or one page that needs nothing else."""
        shape = request.query_params.get("format", "json")
        if shape not in ("json", "html"):
            raise InvalidInput(f"format: expected json or html, got {shape[:40]!r}")
        name, identity = request.path_params["name"], request.query_params.get("rollout", "")
        found = await self._traffic.auditor.rollout(name, identity)
        if shape == "json":
            return json_reply(found)
        body = await asyncio.to_thread(page, found)
        return Reply(200, body.encode(), content_type=b"text/html; charset=utf-8")

    async def find(self, request: Request) -> Reply:
        """`{"prediction_id": ...}` or `{"model": ..., "unit": ...}`: lines of the decision log."""
        body = await object_of(request, self._most, ("prediction_id", "unit", "model"))
        prediction, unit, model = (_text(body, key) for key in ("prediction_id", "unit", "model"))
        desk = self._traffic.data
        if prediction and not unit:
            return json_reply(await desk.find_prediction(prediction))
        if not unit or not model or prediction:
            raise InvalidInput("expected prediction_id, or model and unit")
        return json_reply(await desk.find_unit(model, unit))

    async def forget(self, request: Request) -> Reply:
        """`{"model": ..., "unit": ...}`: erase what this node and the store hold of a unit."""
        body = await object_of(request, self._most, ("unit", "model"))
        model, unit = _text(body, "model"), _text(body, "unit")
        if not model or not unit:
            raise InvalidInput("expected model and unit")
        return json_reply(await self._traffic.data.forget(model, unit, actor_of(request).name))

    async def alerts(self, request: Request) -> Reply:
        """How the webhook fares, with its dead letters, and those whom monitors tell."""
        webhook, monitoring = self._traffic.webhook, self._traffic.monitoring
        return json_reply(
            {
                "webhook": webhook.status() if webhook is not None else None,
                "monitors": monitoring.told.status() if monitoring is not None else [],
            }
        )


def _id(request: Request) -> tuple[str, int]:
    text = request.path_params["seq"]
    if not (text.isascii() and text.isdigit() and 0 < len(text) < 16 and int(text) > 0):
        raise InvalidInput(f"expected an id such as main/17, got .../{text[:40]}")
    return request.path_params["chain"], int(text)


def _number(text: str | None, what: str, otherwise: int, highest: int, lowest: int) -> int:
    if text is None:
        return otherwise
    if not (text.isascii() and text.isdigit() and len(text) <= 16 and lowest <= int(text) <= highest):
        raise InvalidInput(f"{what}: expected a whole number from {lowest} to {highest}, got {text[:40]!r}")
    return int(text)


def _text(body: dict[str, Any], key: str) -> str:
    value = body.get(key, "")
    if not isinstance(value, str) or len(value) > 4096:
        raise InvalidInput(f"{key}: expected text of at most 4,096 characters")
    return value


def audit_routes(traffic: Traffic, most: int) -> list[Route]:
    """Routes of the admin port."""
    endpoints = AuditEndpoints(traffic, most)
    return [
        Route("/admin/v1/audit", endpoints.listed),
        Route("/admin/v1/audit/verify", endpoints.verify),
        Route("/admin/v1/audit/find", endpoints.find, methods=["POST"]),
        Route("/admin/v1/audit/rollouts/{name}", endpoints.export),
        Route("/admin/v1/audit/replay/{chain}/{seq}", endpoints.replay, methods=["POST"]),
        Route("/admin/v1/audit/{chain}/{seq}", endpoints.one),
        Route("/admin/v1/data/forget", endpoints.forget, methods=["POST"]),
        Route("/admin/v1/alerts", endpoints.alerts),
    ]
