"""Triton's model repository extension: index for everybody, load and unload for whom the operator trusts.

Who may load: a key with scope admin where keys are asked for, a caller on this machine where they are not.
Source: Triton's extension_model_repository.md. Load and unload answer in mode explicit alone, which control checks.
"""

import ipaddress
from typing import Any

import orjson
from starlette.requests import Request

from gateway.errors import HttpError
from gateway.http.body import read_body
from gateway.http.origin import refuse_pages_of_others
from gateway.http.reply import Reply, json_reply
from gateway.http.surface import Surface
from runtimes.errors import Forbidden, InvalidInput, Unsupported

_BODY_BYTES = 65_536
_LOAD_S = 600.0


class Repository:
    """The endpoints."""

    def __init__(self, surface: Surface) -> None:
        self._surface = surface

    async def index(self, request: Request) -> Reply:
        """Every model and version with its state."""
        asked = (await self._parameters(request)).get("ready", False)
        if not isinstance(asked, bool):
            raise InvalidInput("ready: expected true or false")
        return json_reply(await self._surface.call("index", {"ready": asked}, 2.0))

    async def load(self, request: Request) -> Reply:
        """Load a model, or load it anew; answers when every worker has it."""
        self._require_trust(request)
        parameters = (await self._parameters(request)).get("parameters", {})
        if parameters:
            raise Unsupported("load takes no parameters here: models and their settings come from the repository")
        await self._surface.call("load", {"name": request.path_params["name"]}, _LOAD_S)
        return Reply(200)

    async def unload(self, request: Request) -> Reply:
        """Unload a model; answers when no worker has it."""
        self._require_trust(request)
        await self._parameters(request)
        await self._surface.call("unload", {"name": request.path_params["name"]}, _LOAD_S)
        return Reply(200)

    async def named(self, request: Request) -> Reply:
        """There is one repository, and it has no name."""
        raise Unsupported("a named repository is not supported; leave the name out")

    def _require_trust(self, request: Request) -> None:
        """Where keys are asked for, one with scope admin was shown already: nearness adds nothing to it."""
        if self._surface.gate is None:
            _require_loopback(request)
            headers = request.headers
            refuse_pages_of_others(headers.get("host", ""), headers.getlist("origin"), headers.getlist("referer"))

    async def _parameters(self, request: Request) -> dict[str, Any]:
        dataplane = self._surface.dataplane
        body, held = await read_body(request, _BODY_BYTES, dataplane)
        dataplane.release(held)
        if not body.strip():
            return {}
        try:
            found = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise InvalidInput("the body is not valid JSON") from error
        if not isinstance(found, dict):
            raise InvalidInput("the body must be a JSON object")
        return found


def _require_loopback(request: Request) -> None:
    client = request.client
    try:
        loopback = client is not None and ipaddress.ip_address(client.host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise Forbidden("load and unload are answered to this machine only; use the admin port")


def not_supported(what: str) -> Any:
    """An endpoint for what Triton has and this server has not."""

    async def refuse(request: Request) -> Reply:
        raise HttpError(501, "unsupported", f"{what} is not supported")

    return refuse
