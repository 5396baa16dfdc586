"""One table from error codes to HTTP statuses, and the body that every error has. Nothing else decides a status."""

from collections.abc import Sequence
from typing import Final

import orjson

from runtimes.errors import ServingError

STATUS: Final[dict[str, int]] = {
    # runtimes.errors
    "invalid_input": 400,
    "model_rejected_input": 400,
    "unknown_model": 404,
    "model_not_ready": 503,
    "overloaded": 429,
    "deadline_exceeded": 504,
    "draining": 503,
    "execution_failed": 500,
    "non_finite_output": 500,
    "load_failed": 400,
    "conflict": 409,
    "unsupported": 501,
    "out_of_memory": 507,
    "internal": 500,
    # the node link
    "control_away": 503,
    "unknown_experiment": 404,
    # keys
    "unauthorized": 401,
    "unknown_key": 404,
    "keys_unusable": 503,
    # policies
    "unknown_policy": 404,
    "unknown_record": 404,
    # gateway.store
    "store_away": 503,
    "store_unusable": 503,
    "stale": 412,
    "fenced": 409,
    # HTTP itself
    "bad_http": 400,
    "not_found": 404,
    "method_not_allowed": 405,
    "request_timeout": 408,
    "payload_too_large": 413,
    "uri_too_long": 414,
    "unsupported_media_type": 415,
    "expectation_failed": 417,
    "precondition_required": 428,
    "headers_too_large": 431,
    "forbidden": 403,
}


class HttpError(Exception):
    """A request refused for its framing or its place, before any model is involved.

    Attributes:
        headers: sent beside the usual ones, e.g. `allow`.
    """

    def __init__(self, status: int, code: str, message: str, headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = tuple(headers)


def status_of(code: str) -> int:
    """HTTP status of an error code; 500 for one that nobody listed."""
    return STATUS.get(code, 500)


def error_body(message: str, code: str, request_id: bytes) -> bytes:
    """`{"error": message, "code": code, "request_id": id}`; whatever the text holds, it is valid JSON."""
    text = message.encode("utf-8", "replace").decode()
    return orjson.dumps({"error": text, "code": code, "request_id": request_id.decode("ascii", "replace")})


def refusal(error: ServingError, request_id: bytes) -> tuple[int, tuple[tuple[bytes, bytes], ...], bytes]:
    """Status, headers and body of an expected failure: `retry-after` where a retry may help."""
    headers: tuple[tuple[bytes, bytes], ...] = ()
    if error.retry_after_s is not None:
        headers = ((b"retry-after", b"%d" % max(1, round(error.retry_after_s))),)
    return status_of(error.code), headers, error_body(error.message, error.code, request_id)
