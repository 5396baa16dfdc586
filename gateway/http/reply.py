"""Answers of the slow lane, in the very bytes that the fast lane would send: same headers, same order."""

from collections.abc import MutableMapping, Sequence
from typing import Any, Final

import orjson
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from gateway.errors import HttpError, error_body, refusal
from runtimes.errors import ServingError

JSON: Final = b"application/json"

Headers = Sequence[tuple[bytes, bytes]]


class Reply:
    """One whole answer; an ASGI application, as Starlette wants of a response."""

    __slots__ = ("body", "content_type", "headers", "status")

    def __init__(
        self, status: int = 200, body: bytes = b"", *, content_type: bytes = JSON, headers: Headers = ()
    ) -> None:
        self.status = status
        self.body = body
        self.content_type = content_type
        self.headers = headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        state: MutableMapping[str, Any] = scope["state"]
        headers = [(b"content-type", self.content_type), *self.headers]
        headers += [(b"x-request-id", state["request_id"]), (b"content-length", b"%d" % len(self.body))]
        if state.get("close"):
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        # A HEAD request gets the headers alone; uvicorn drops the body itself.
        await send({"type": "http.response.body", "body": self.body})


def json_reply(value: object, status: int = 200) -> Reply:
    """An answer in JSON."""
    return Reply(status, orjson.dumps(value))


def request_id_of(request: Request) -> bytes:
    """The id that this request's answer carries."""
    found: bytes = request.scope["state"]["request_id"]
    return found


def error_reply(error: Exception, request_id: bytes) -> Reply:
    """The answer to an expected failure."""
    if isinstance(error, HttpError):
        return Reply(error.status, error_body(error.message, error.code, request_id), headers=error.headers)
    assert isinstance(error, ServingError), "only expected failures are answered here"
    status, headers, body = refusal(error, request_id)
    return Reply(status, body, headers=headers)
