"""`POST /v1/feedback`: rewards and labels for predictions that were made here.

The worker reads the body and checks every signature; control knows whose predictions they are and keeps them. The
answer is 200 when all that could be kept is in the store: then nothing of it is lost.
"""

import asyncio
from typing import Any, Final

import orjson
from starlette.requests import Request

from gateway.feedback import BODY_BYTES, OUTCOMES, facts_of, item_of, listed
from gateway.http.access import actor_of
from gateway.http.body import read_body
from gateway.http.reply import Reply, json_reply
from gateway.http.surface import Surface
from runtimes.errors import InvalidInput

_PATIENCE_S: Final = 10.0
_AT_ONCE: Final = 32
"""Items between two looks at the sockets: about 0.3 ms."""


class FeedbackEndpoint:
    """The endpoint."""

    def __init__(self, surface: Surface) -> None:
        self._surface = surface

    async def take(self, request: Request) -> Reply:
        """One item or a list; how each fared, in the same order.

        Cancel: what control was given by then is kept.

        Raises:
            InvalidInput: the body is malformed; nothing of it was kept.
            HttpError, ControlAway, Refused: 413; control or the store is away, and the same body may be sent again.
        """
        dataplane = self._surface.dataplane
        body, held = await read_body(request, BODY_BYTES, dataplane)
        try:
            try:
                document = orjson.loads(body)
            except orjson.JSONDecodeError as error:
                raise InvalidInput("the body is not valid JSON") from error
            facts = await self._facts(document)
        finally:
            dataplane.release(held)
        actor = actor_of(request)
        outcomes = ["forged"] * len(facts)
        genuine = [(at, one) for at, one in enumerate(facts) if one is not None]
        if genuine:
            told = await self._surface.call(
                "feedback",
                {"items": [one for _, one in genuine], "actor": actor.name, "models": list(actor.models)},
                _PATIENCE_S,
            )
            for (at, _), outcome in zip(genuine, told, strict=True):
                outcomes[at] = outcome
        counts = {kind: outcomes.count(kind) for kind in OUTCOMES if kind in outcomes}
        return json_reply({"counts": counts, "outcomes": outcomes})

    async def _facts(self, document: object) -> list[dict[str, Any] | None]:
        """Each item checked. Inferences wait on the same loop: it is theirs again after every few items."""
        keys = {key.id: key.secret for key in self._surface.snapshot().signing}
        found = []
        for at, (path, value) in enumerate(listed(document)):
            if at % _AT_ONCE == _AT_ONCE - 1:
                await asyncio.sleep(0)
            found.append(facts_of(item_of(value, path), keys))
        return found
