"""Answers that no application writes: their bytes, and what stands in a connection's queue until one is due."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Final

from gateway.errors import HttpError

_STATUS: Final = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}


def whole(
    status: int,
    date: bytes,
    content_type: bytes,
    headers: Sequence[tuple[bytes, bytes]],
    request_id: bytes,
    body: bytes,
    *,
    keep_alive: bool,
) -> bytes:
    """One complete answer."""
    parts = [_STATUS[status], b"date: ", date, b"\r\ncontent-type: ", content_type, b"\r\n"]
    for name, value in headers:
        parts += (name, b": ", value, b"\r\n")
    parts += (b"x-request-id: ", request_id, b"\r\ncontent-length: %d\r\n" % len(body))
    parts += (b"\r\n" if keep_alive else b"connection: close\r\n\r\n", body)
    return b"".join(parts)


class NeverSet:
    """Stands where uvicorn's cycle has the event that wakes its ASGI task, for what has no task."""

    def set(self) -> None:
        """Nobody waits."""


NO_EVENT: Final = NeverSet()


class Rejection:
    """An answer that is fixed already and waits for its turn; the connection closes after it."""

    __slots__ = ("disconnected", "error", "keep_alive", "message_event", "request_id", "response_complete")

    def __init__(self, error: HttpError, request_id: bytes) -> None:
        self.error = error
        self.request_id = request_id
        self.disconnected = False
        self.response_complete = False
        self.keep_alive = False
        self.message_event = NO_EVENT
