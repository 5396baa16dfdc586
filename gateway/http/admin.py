"""The admin port: workers, models, aliases, load and unload, keys, metrics. Runs in control.

Where nobody is asked for a key, whoever reaches this port may do everything; pages of other hosts may nothing.
"""

from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.routing import Route

from gateway.control.keys import KeyDesk
from gateway.control.nodes import TWIN
from gateway.control.service import Service
from gateway.control.traffic import Traffic
from gateway.http.access import Guard, actor_of, admin_needs, guarded
from gateway.http.audit import audit_routes
from gateway.http.body import object_of
from gateway.http.experiments import experiment_routes
from gateway.http.failures import exception_handlers
from gateway.http.gate import Gate
from gateway.http.monitors import monitor_routes
from gateway.http.origin import Names
from gateway.http.policies import policy_routes
from gateway.http.reply import Reply, json_reply
from gateway.http.store import store_routes
from runtimes.errors import InvalidInput, UnknownModel


class Admin:
    """The endpoints."""

    def __init__(
        self, service: Service, traffic: Traffic, keys: KeyDesk, facts: dict[str, Any], body_bytes: int
    ) -> None:
        self._service = service
        self._traffic = traffic
        self._keys = keys
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
                "warnings": [TWIN] if self._traffic.rollouts.nodes.has_twin else [],
            }
        )

    async def workers(self, request: Request) -> Reply:
        """Every worker."""
        return json_reply(self._service.call_workers())

    async def models(self, request: Request) -> Reply:
        """Every model that the caller's key covers."""
        covers = actor_of(request).covers
        return json_reply([model for model in self._service.call_models() if covers(model["name"])])

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
        version = (await object_of(request, self._body_bytes, ("version",))).get("version")
        if type(version) is not int or version < 1:
            raise InvalidInput(f"version: expected a whole number from 1, got {_shown(version)}")
        await self._service.call_alias(request.path_params["name"], request.path_params["alias"], version)
        return await self.model(request)

    async def remove_alias(self, request: Request) -> Reply:
        """Take the alias away."""
        await self._service.call_alias(request.path_params["name"], request.path_params["alias"], None)
        return await self.model(request)

    async def keys(self, request: Request) -> Reply:
        """Every key that was ever made, without what lets in."""
        return json_reply(await self._keys.list())

    async def create_key(self, request: Request) -> Reply:
        """`{"name": ..., "scopes": [...], "models": [...], "labels": [...], "expires": "90d"}`; told once."""
        asked = await object_of(request, self._body_bytes)
        return json_reply(await self._keys.create(asked, actor_of(request).name), 201)

    async def revoke_key(self, request: Request) -> Reply:
        """Revoke a key for good."""
        return json_reply(await self._keys.revoke(request.path_params["name"], actor_of(request).name))

    async def metrics(self, request: Request) -> Reply:
        """The node's metrics page."""
        page = self._service.call_metrics()
        return Reply(200, page, content_type=b"text/plain; version=0.0.4; charset=utf-8")

    async def live(self, request: Request) -> Reply:
        """Control answers."""
        return json_reply({"live": True})


def build_admin(
    service: Service,
    traffic: Traffic,
    keys: KeyDesk,
    facts: dict[str, Any],
    body_bytes: int,
    *,
    gate: Gate | None,
    names: Names,
) -> Starlette:
    """The application of the admin port.

    Args:
        gate: the keys in force; None = nobody is asked for one.
        names: what the port answers to.
        facts: shown at `/admin/v1/server`.
        body_bytes: bound of a body without a length; one with a length was judged before it comes here.
    """
    admin = Admin(service, traffic, keys, facts, body_bytes)
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
        *store_routes(traffic, body_bytes, facts),
        *experiment_routes(traffic),
        *monitor_routes(traffic, body_bytes),
        *audit_routes(traffic, body_bytes),
        Route("/admin/v1/keys", admin.keys),
        Route("/admin/v1/keys", admin.create_key, methods=["POST"]),
        Route("/admin/v1/keys/{name}", admin.revoke_key, methods=["DELETE"]),
        Route("/metrics", admin.metrics),
        Route("/v2/health/live", admin.live),
    ]
    guarded(routes, admin_needs)
    guard = Middleware(Guard, gate, names)
    app = Starlette(routes=routes, middleware=[guard], exception_handlers=exception_handlers())
    app.router.redirect_slashes = False
    return app


def _shown(value: object) -> str:
    return "none" if value is None else repr(value)[:80] if isinstance(value, int | float | str) else "a list or object"
