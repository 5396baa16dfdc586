"""Errors that endpoints raise, as answers: the same on both ports."""

from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from gateway.errors import HttpError, error_body
from gateway.http.reply import Reply, error_reply, request_id_of
from runtimes.errors import ServingError


def exception_handlers() -> dict[Any, Any]:
    """Errors to answers, the same for both ports."""
    return {
        HttpError: _expected,
        ServingError: _expected,
        HTTPException: _routing,
        ClientDisconnect: _gone,
        Exception: _unexpected,
    }


async def _expected(request: Request, error: Exception) -> Reply:
    return error_reply(error, request_id_of(request))


async def _routing(request: Request, error: Exception) -> Reply:
    assert isinstance(error, HTTPException), "registered for it"
    status = error.status_code
    code, message = {404: ("not_found", "Not Found"), 405: ("method_not_allowed", "Method Not Allowed")}.get(
        status, ("bad_http", str(error.detail))
    )
    headers = [(name.lower().encode(), value.encode()) for name, value in (error.headers or {}).items()]
    return Reply(status, error_body(message, code, request_id_of(request)), headers=headers)


async def _gone(request: Request, error: Exception) -> Reply:
    # Nobody reads it: uvicorn drops what is sent to a peer that has left.
    return Reply(499)


async def _unexpected(request: Request, error: Exception) -> Reply:
    body = error_body("the server failed for a reason of its own", "internal", request_id_of(request))
    return Reply(500, body)
