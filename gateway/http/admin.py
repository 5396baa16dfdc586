"""The admin port: workers, models, aliases, load and unload, metrics. Runs in control.

Whoever reaches this port may do everything: it is bound to this machine unless the operator said otherwise.
"""

from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route

from gateway.control.service import Service
from gateway.control.traffic import Traffic
from gateway.http.body import object_of
from gateway.http.failures import exception_handlers
from gateway.http.policies import policy_routes
from gateway.http.reply import Reply, json_reply
from runtimes.errors import InvalidInput, UnknownModel


class Admin:
    """The endpoints."""

    def __init__(self, service: Service, facts: dict[str, Any], body_bytes: int) -> None:
        self._service = service
        self._facts = facts
        self._body_bytes = body_bytes

    async def server(self, request: Request) -> Reply:
        """What this node is: version, data folder, mode, plan."""
        snapshot = self._service.snapshot
        return json_reply(
            {
                **self._facts,
                "revision": snapshot.revision,
                "ready": snapshot.ready,
                "waits_for": self._service.waits_for(),
                "passed_over": list(self._service.catalogue.problems),
            }
        )

    async def workers(self, request: Request) -> Reply:
        """Every worker."""
        return json_reply(self._service.call_workers())

    async def models(self, request: Request) -> Reply:
        """Every model."""
        return json_reply(self._service.call_models())

    async def model(self, request: Request) -> Reply:
        """One model."""
        name = request.path_params["name"]
        for model in self._service.call_models():
            if model["name"] == name:
                return json_reply(model)
        raise UnknownModel(f"no model {name[:128]!r}")

    async def load(self, request: Request) -> Reply:
        """Load a model and wait for every worker."""
        await self._service.call_load(request.path_params["name"])
        return await self.model(request)

    async def unload(self, request: Request) -> Reply:
        """Unload a model and wait for every worker."""
        await self._service.call_unload(request.path_params["name"])
        return json_reply({})

    async def set_alias(self, request: Request) -> Reply:
        """`{"version": 3}`: point the alias there."""
        version = (await object_of(request, self._body_bytes)).get("version")
        if type(version) is not int or version < 1:
            raise InvalidInput(f"version: expected a whole number from 1, got {_shown(version)}")
        await self._service.call_alias(request.path_params["name"], request.path_params["alias"], version)
        return await self.model(request)

    async def remove_alias(self, request: Request) -> Reply:
        """Take the alias away."""
        await self._service.call_alias(request.path_params["name"], request.path_params["alias"], None)
        return await self.model(request)

    async def metrics(self, request: Request) -> Reply:
        """The node's metrics page."""
        page = self._service.call_metrics()
        return Reply(200, page, content_type=b"text/plain; version=0.0.4; charset=utf-8")

    async def live(self, request: Request) -> Reply:
        """Control answers."""
        return json_reply({"live": True})


def build_admin(service: Service, traffic: Traffic, facts: dict[str, Any], body_bytes: int) -> Starlette:
    """The application of the admin port.

    Args:
        facts: shown at `/admin/v1/server`.
        body_bytes: bound of a body without a length; one with a length was judged before it comes here.
    """
    admin = Admin(service, facts, body_bytes)
    model = "/admin/v1/models/{name}"
    routes = [
        Route("/admin/v1/server", admin.server),
        Route("/admin/v1/workers", admin.workers),
        Route("/admin/v1/models", admin.models),
        Route(model, admin.model),
        Route(f"{model}/load", admin.load, methods=["POST"]),
        Route(f"{model}/unload", admin.unload, methods=["POST"]),
        Route(f"{model}/aliases/{{alias}}", admin.set_alias, methods=["PUT"]),
        Route(f"{model}/aliases/{{alias}}", admin.remove_alias, methods=["DELETE"]),
        *policy_routes(service, traffic, body_bytes),
        Route("/metrics", admin.metrics),
        Route("/v2/health/live", admin.live),
    ]
    app = Starlette(routes=routes, exception_handlers=exception_handlers())
    app.router.redirect_slashes = False
    return app


def _shown(value: object) -> str:
    return "none" if value is None else repr(value)[:80] if isinstance(value, int | float | str) else "a list or object"
