"""Bounds and rules of a request's head, before any lane is chosen or body read. Pure."""

from collections.abc import Sequence

from gateway.errors import HttpError
from gateway.http.edge import REQUEST_ID, EdgeLimits

Headers = Sequence[tuple[bytes, bytes]]


def oversized(url: bytes, headers: Headers, limits: EdgeLimits) -> HttpError | None:
    """The error of a head that is larger than is read."""
    if len(url) > limits.url_bytes:
        return url_too_long(limits.url_bytes)
    if len(headers) > limits.header_count:
        return HttpError(431, "headers_too_large", f"{len(headers)} headers, at most {limits.header_count} are read")
    sizes = [len(name) + len(value) for name, value in headers]
    if sum(sizes) > limits.headers_total_bytes or max(sizes, default=0) > limits.header_bytes:
        return headers_too_large(limits.headers_total_bytes)
    return None


def refused(headers: Headers, http_version: str, limits: EdgeLimits) -> HttpError | None:
    """The error of framing that is refused before any lane reads the body."""
    named: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        named.setdefault(name.lower(), []).append(value)
    hosts = len(named.get(b"host", ()))
    if hosts > 1 or (hosts == 0 and http_version == "1.1"):
        return HttpError(400, "bad_http", f"expected one Host header, got {hosts}")
    codings = b",".join(named.get(b"transfer-encoding", ())).lower().strip()
    if codings not in (b"", b"chunked"):
        return HttpError(501, "unsupported", "of transfer encodings only chunked is supported")
    expected = b",".join(named.get(b"expect", ())).lower().strip()
    if expected not in (b"", b"100-continue"):
        return HttpError(417, "expectation_failed", "of expectations only 100-continue is supported")
    lengths = named.get(b"content-length", ())
    return _too_long(int(lengths[0]), limits, binary=b"inference-header-content-length" in named) if lengths else None


def client_request_id(headers: Headers) -> bytes:
    """The client's own id if it may be echoed, else nothing."""
    found = [value for name, value in headers if name.lower() == b"x-request-id"]
    return found[0] if len(found) == 1 and REQUEST_ID.fullmatch(found[0]) else b""


def url_too_long(limit: int) -> HttpError:
    """414."""
    return HttpError(414, "uri_too_long", f"the URL is longer than {limit} bytes")


def headers_too_large(limit: int) -> HttpError:
    """431."""
    return HttpError(431, "headers_too_large", f"the headers are larger than {limit} bytes in all or one is too large")


def _too_long(length: int, limits: EdgeLimits, *, binary: bool) -> HttpError | None:
    allowed = limits.binary_body_bytes if binary else limits.json_body_bytes
    if length <= allowed:
        return None
    hint = "" if binary else f"; the binary tensor format takes up to {limits.binary_body_bytes}"
    return HttpError(413, "payload_too_large", f"a body of {length} bytes, at most {allowed} are read{hint}")
