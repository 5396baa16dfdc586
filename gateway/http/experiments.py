"""The admin port's surface for experiments and shadows: reports, as JSON or as one page, and samples."""

import logging
from collections.abc import Mapping
from typing import Any, Final

from starlette.requests import Request
from starlette.routing import Route

from gateway.control.documents import UnknownPolicy
from gateway.control.experimentmodel import model_of
from gateway.control.experimentpage import page_of
from gateway.control.experimenttrail import began, begun_at, with_trail
from gateway.control.monitorheld import Held
from gateway.control.shadowreport import shadow_report
from gateway.control.study import Study
from gateway.control.traffic import Traffic
from gateway.http.access import actor_of
from gateway.http.reply import Reply, json_reply
from gateway.store.base import StoreAway
from runtimes.errors import InvalidInput

# The page brings all it needs; nothing it holds may fetch or run anything.
_LOCKED: Final = ((b"content-security-policy", b"default-src 'none'; style-src 'unsafe-inline'"),)
_log: Final = logging.getLogger(__name__)


class ExperimentEndpoints:
    """The endpoints."""

    def __init__(self, traffic: Traffic) -> None:
        self._traffic = traffic

    async def listed(self, request: Request) -> Reply:
        """Every experiment that the caller's key covers, in short."""
        covers, experiments = actor_of(request).covers, self._traffic.experiments
        found: list[dict[str, Any]] = []
        for name in experiments.names():
            study = experiments.study(name)
            if study is not None and covers(name):
                state = "ended" if study.ended_ms else "running"
                found.append({"name": name, "state": state, "began_ms": study.began_ms, "owner": study.owner})
        return json_reply(found)

    async def report(self, request: Request) -> Reply:
        """The report of one; `?format=html` is a page."""
        form = request.query_params.get("format", "json")
        if form not in ("json", "html"):
            raise InvalidInput(f"format: expected json or html, got {form[:40]!r}")
        name = request.path_params["name"]
        report = await self._told(name, await self._traffic.experiments.report(name))
        if form == "json":
            return json_reply(report)
        page = page_of(report).encode()
        return Reply(200, page, content_type=b"text/html; charset=utf-8", headers=_LOCKED)

    async def _told(self, name: str, report: dict[str, Any]) -> dict[str, Any]:
        """A report with what the audit trail says of it; without, while the store is away."""
        study = self._traffic.experiments.study(name)
        assert study is not None, "it has a report"
        report = {**report, "model": await self._model(study, report["as_of_ms"])}
        try:
            records = await self._traffic.auditor.since(name, lambda one: began(one, begun_at(study)))
        except StoreAway as error:
            _log.warning("report_without_trail", extra={"facts": {"policy": name, "reason": error.message}})
            return with_trail(report, study, None)
        return with_trail(report, study, records)

    async def _model(self, study: Study, now_ms: int) -> dict[str, Any]:
        """What the shadow and the monitor say of the variants."""
        shadow: Mapping[str, Any] | str
        held: Held | str
        try:
            shadow = shadow_report(study.name, self._traffic)
        except UnknownPolicy:
            shadow = "there is no policy any more"
        monitoring = self._traffic.monitoring
        assert monitoring is not None, "the port is served once there is a monitor"
        try:
            held = await monitoring.monitors.shown(study.name)
        except UnknownPolicy as error:
            held = error.message
        return model_of(study, shadow, held, now_ms)

    async def shadow(self, request: Request) -> Reply:
        """How a policy's shadow compares."""
        return json_reply(shadow_report(request.path_params["name"], self._traffic))

    async def samples(self, request: Request) -> Reply:
        """Requests that a shadow answered otherwise, with their inputs; who read them is logged."""
        name = request.path_params["name"]
        found = await self._traffic.samples.shown(name, variant=request.query_params.get("variant", ""))
        facts = {"policy": name, "by": actor_of(request).name, "samples": len(found["samples"])}
        _log.info("shadow_samples_read", extra={"facts": facts})
        return json_reply(found)


def experiment_routes(traffic: Traffic) -> list[Route]:
    """Routes of the admin port."""
    endpoints = ExperimentEndpoints(traffic)
    return [
        Route("/admin/v1/experiments", endpoints.listed),
        Route("/admin/v1/experiments/{name}", endpoints.report),
        Route("/admin/v1/policies/{name}/shadow", endpoints.shadow),
        Route("/admin/v1/policies/{name}/shadow/samples", endpoints.samples),
    ]
