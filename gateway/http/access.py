"""Who may call what: the scope of every endpoint of both ports, and the two steps that ask for it.

First `Guard`, before any route is looked for: who is there, else 401. Then `guarded`, around each endpoint: may this
actor do this, to this model, else 403. An endpoint that no table names needs scope admin.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from starlette.requests import Request
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.errors import HttpError
from gateway.http.gate import Gate
from gateway.http.origin import Names
from gateway.http.reply import error_reply
from gateway.keys import LOCAL, Actor

OPEN: Final = frozenset({"/v2/health/live", "/v2/health/ready"})
"""Paths that nobody is asked a key for: a balancer has none."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What an endpoint asks of a key.

    Attributes:
        scopes: one of these is enough.
        model: a key that is limited to some models must cover the path parameter `name`.
        filters: the endpoint itself leaves out models that the key does not cover. Where neither holds, a limited key
            is refused: the answer would tell of, or change, what it is not for.
    """

    scopes: frozenset[str]
    model: bool = False
    filters: bool = False


NeedsOf = Callable[[str, str], Needs]
"""Path of a route, method -> what it needs."""


def _needs(*scopes: str, model: bool = False, filters: bool = False) -> Needs:
    return Needs(frozenset(scopes), model, filters)


_ADMIN: Final = _needs("admin")
_ANY: Final = _needs("infer", "feedback", "metrics", "view", "route", "admin", "audit", filters=True)
_DESCRIBED: Final = _needs("infer", "view", model=True)
_MODEL: Final = "/v2/models/{name}"
_VERSION: Final = f"{_MODEL}/versions/{{version}}"

DATA: Final[Mapping[str, Needs]] = {
    "/v2": _needs("infer", "view", filters=True),
    "/v2/models": _needs("infer", "view", filters=True),
    "/v2/models/stats": _needs("view"),
    "/metrics": _needs("metrics"),
    **{prefix + end: _DESCRIBED for prefix in (_MODEL, _VERSION) for end in ("", "/ready", "/config")},
    **{f"{prefix}/stats": _needs("view", model=True) for prefix in (_MODEL, _VERSION)},
    **{f"{prefix}/infer": _needs("infer", model=True) for prefix in (_MODEL, _VERSION)},
    "/v1/feedback": _needs("feedback", filters=True),
    "/v2/repository/index": _needs("view"),
    "/v2/repository/models/{name}/load": _needs("admin", model=True),
    "/v2/repository/models/{name}/unload": _needs("admin", model=True),
    "/v2/repository/{repository}/index": _needs("view"),
    "/v2/repository/{repository}/models/{name}/{verb}": _ADMIN,
    "/v2/systemsharedmemory/{rest:path}": _ANY,
    "/v2/cudasharedmemory/{rest:path}": _ANY,
    "/v2/trace/setting": _ANY,
    f"{_MODEL}/trace/setting": _ANY,
    "/v2/logging": _ANY,
}
"""Path of a route of the data port -> what it needs."""

_SECTIONS: Final[Mapping[str, tuple[str, str]]] = {
    "server": ("view", "admin"),
    "workers": ("view", "admin"),
    "models": ("view", "admin"),
    "policies": ("view", "route"),
    "rollouts": ("view", "route"),
    "folder": ("view", "admin"),
    "schemas": ("view", "admin"),
    "store": ("admin", "admin"),
    "experiments": ("view", "route"),
    "monitors": ("view", "admin"),
    "alerts": ("view", "admin"),
    "audit": ("audit", "audit"),
    "data": ("audit", "admin"),
    "keys": ("admin", "admin"),
}
"""Section of the admin API -> scope to read it, scope to change it."""
_BY_MODEL: Final = frozenset({"models", "policies", "rollouts", "experiments", "monitors"})
"""Sections where `{name}` is a model's."""
SAMPLES: Final = "/admin/v1/policies/{name}/shadow/samples"
"""What callers sent, so for those who may read the decision log."""
FILTERED: Final = frozenset(
    {f"/admin/v1/{section}" for section in ("models", "policies", "rollouts", "experiments", "monitors")}
)


def data_needs(path: str, method: str) -> Needs:
    """What a route of the data port needs."""
    return DATA.get(path, _ADMIN)


def admin_needs(path: str, method: str) -> Needs:
    """What a route of the admin port needs."""
    reads = method in ("GET", "HEAD")
    if path == "/metrics":
        return _needs("metrics")
    if path == SAMPLES:
        return _needs("audit", model=True)
    section = path.removeprefix("/admin/v1/").partition("/")[0] if path.startswith("/admin/v1/") else ""
    scopes = _SECTIONS.get(section)
    if scopes is None:
        return _ADMIN
    by_model = section in _BY_MODEL and "{name}" in path
    return _needs(scopes[0 if reads else 1], model=by_model, filters=reads and path in FILTERED)


def require(actor: Actor, needs: Needs, model_name: str) -> None:
    """Raises HttpError 403 when this actor may not do this."""
    if not needs.scopes & actor.scopes:
        wanted = " or ".join(sorted(needs.scopes))
        raise HttpError(403, "forbidden", f"key {actor.name!r} lacks scope {wanted}")
    if actor.models and not needs.filters and not (needs.model and actor.covers(model_name)):
        about = (
            f"is not for model {model_name[:128]!r}" if needs.model else "is limited to some models; this is about all"
        )
        raise HttpError(403, "forbidden", f"key {actor.name!r} {about}")


def actor_of(request: Request) -> Actor:
    """Who makes this request; `LOCAL` where nobody is asked for a key."""
    found: Actor = request.scope["state"].get("actor", LOCAL)
    return found


class Guard:
    """Middleware: everything behind it has an actor, or an open path.

    Args:
        gate: None = nobody is asked for a key.
        names: what the port answers to; None = to everything.
    """

    def __init__(self, app: ASGIApp, gate: Gate | None, names: Names | None = None) -> None:
        self._app = app
        self._gate = gate
        self._names = names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 400, 401 or 403, or go on."""
        try:
            self._judge(scope)
        except HttpError as error:
            await error_reply(error, scope["state"]["request_id"])(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _judge(self, scope: Scope) -> None:
        if self._names is not None:
            self._names.check(scope["headers"])
        if self._gate is None:
            scope["state"]["actor"] = LOCAL
        elif scope["path"] not in OPEN:
            values = [value for name, value in scope["headers"] if name == b"authorization"]
            grant = self._gate.authenticate(values)
            scope["state"]["actor"] = grant.actor
            scope["state"]["grant"] = grant


class _Endpoint:
    """A route's application behind its needs."""

    def __init__(self, app: ASGIApp, path: str, needs_of: NeedsOf) -> None:
        self._app = app
        self._path = path
        self._needs_of = needs_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises HttpError 403, or goes on."""
        actor = scope["state"].get("actor")
        if actor is not None:
            name = scope["path_params"].get("name", "")
            require(actor, self._needs_of(self._path, scope["method"]), name)
            if self._path.endswith("/infer"):
                scope["state"]["grant"].remember(name)
        await self._app(scope, receive, send)


def guarded(routes: Sequence[BaseRoute], needs_of: NeedsOf) -> None:
    """Put each route behind what it needs.

    Args:
        needs_of: `data_needs` or `admin_needs`.
    """
    for route in routes:
        assert isinstance(route, Route), "both ports have plain routes only"
        route.app = _Endpoint(route.app, route.path, needs_of)
