"""Reading a request's body in the slow lane: bounded while it arrives, inflated in a thread."""

import asyncio
from collections.abc import Collection
from concurrent.futures import Executor
from typing import Any

import orjson
from starlette.requests import ClientDisconnect, Request

from gateway.dataplane import Dataplane
from gateway.errors import HttpError
from gateway.http.compression import CODINGS, Damaged, Oversized, inflate
from runtimes.errors import InvalidInput
from runtimes.registry.strictyaml import suggestion

_ACCEPTED = ((b"accept-encoding", b"gzip, deflate"),)


async def read_body(request: Request, limit_bytes: int, dataplane: Dataplane) -> tuple[bytes, int]:
    """The body as sent, and the bytes reserved for it, which the caller has to release.

    Raises:
        HttpError: 413 as soon as it is longer than `limit_bytes`.
        QueueFull: the worker holds too many bytes already.
        ClientDisconnect: the peer left.
    """
    parts: list[bytes] = []
    held = 0
    try:
        while True:
            message = await request.receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            part = message.get("body", b"")
            if held + len(part) > limit_bytes:
                raise too_large(limit_bytes)
            if not dataplane.reserve(len(part)):
                raise dataplane.bytes_refused(len(part))
            held += len(part)
            parts.append(part)
            if not message.get("more_body", False):
                return b"".join(parts), held
    except BaseException:
        dataplane.release(held)
        raise


async def decoded_body(body: bytes, coding: bytes, limit_bytes: int, executor: Executor) -> bytes:
    """The body without its content coding.

    Raises:
        HttpError: 415 unknown coding, 413 too long, 400 damaged.
    """
    coding = coding.strip().lower()
    if coding in (b"", b"identity"):
        return body
    if coding not in CODINGS:
        message = f"content-encoding: expected gzip, deflate or none, got {coding[:40].decode('latin-1')!r}"
        raise HttpError(415, "unsupported_media_type", message, _ACCEPTED)
    try:
        return await asyncio.get_running_loop().run_in_executor(executor, inflate, body, coding, limit_bytes)
    except Oversized as error:
        raise HttpError(413, "payload_too_large", str(error)) from error
    except Damaged as error:
        raise HttpError(400, "invalid_input", str(error)) from error


def too_large(limit_bytes: int) -> HttpError:
    """A body that grew beyond what is read."""
    return HttpError(
        413,
        "payload_too_large",
        f"the body is longer than the {limit_bytes} bytes that are read",
        ((b"connection", b"close"),),
    )


async def text_of(request: Request, most: int) -> str:
    """A body as UTF-8 text, for ports without a dataplane.

    Raises:
        HttpError: 413 as soon as it is longer than `most` bytes.
        InvalidInput: it is not UTF-8.
    """
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > most:
            raise HttpError(413, "payload_too_large", f"a body of more than the {most} bytes that are read")
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise InvalidInput("the body is not UTF-8") from error


async def object_of(request: Request, most: int, fields: Collection[str] = ()) -> dict[str, Any]:
    """A body as a JSON object; an empty one is {}. Raises HttpError, InvalidInput.

    Args:
        fields: all that it may have, for a guard that is misspelt would guard nothing; () = its reader looks.
    """
    text = await text_of(request, most)
    if not text:
        return {}
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidInput("the body is not valid JSON") from error
    if not isinstance(found, dict):
        raise InvalidInput(f"expected a JSON object, got {type(found).__name__}")
    if fields and (unknown := next((name for name in found if name not in fields), None)) is not None:
        raise InvalidInput(f"unknown field {unknown[:64]!r}; {suggestion(unknown, fields)}")
    return found
