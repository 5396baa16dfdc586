"""Bounds and rules of a request's head, before any lane is chosen or body read. Pure."""

from collections.abc import Sequence
from typing import Any, Final

from gateway.errors import HttpError
from gateway.http.door import REQUEST_ID
from gateway.http.limits import EdgeLimits

Headers = Sequence[tuple[bytes, bytes]]
DRAINING: Final = HttpError(503, "draining", "the server is stopping")
VERSIONS: Final = ("1.1", "1.0")
_OF_UPGRADES: Final = (b"upgrade", b"connection", b"http2-settings")


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
    if http_version not in VERSIONS:
        return HttpError(400, "bad_http", "of HTTP versions 1.1 and 1.0 are served")
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


def without_upgrade(start: bytes, headers: Headers, *, keep_alive: bool) -> bytes:
    """The bytes of a head without its wish for another protocol.

    Args:
        start: the request line.
    """
    kept = [(name, value) for name, value in headers if name.lower() not in _OF_UPGRADES]
    if not keep_alive:
        kept.append((b"connection", b"close"))
    return b"".join([start, b"\r\n", *[b"%s: %s\r\n" % pair for pair in kept], b"\r\n"])


def unfinished(url: bytes, head_bytes: int, limits: EdgeLimits) -> HttpError | None:
    """The error of a head that is not complete yet and already too large."""
    if len(url) > limits.url_bytes:
        return url_too_long(limits.url_bytes)
    if head_bytes > limits.headers_total_bytes + limits.url_bytes:
        return headers_too_large(limits.headers_total_bytes)
    return None


def framing_too_large(framing_bytes: int, chunks: int, limits: EdgeLimits) -> HttpError | None:
    """Chunk extensions and trailers, which nobody reads: bounded like a head, and 32 bytes more for each chunk."""
    if framing_bytes <= limits.headers_total_bytes + limits.url_bytes + 32 * chunks:
        return None
    return HttpError(400, "bad_http", "chunk extensions or trailers are too large")


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
    larger = limits.binary_body_bytes
    hint = f"; the binary tensor format takes up to {larger}" if larger > allowed else ""
    return HttpError(413, "payload_too_large", f"a body of {length} bytes, at most {allowed} are read{hint}")


def too_many_connections(limits: EdgeLimits) -> HttpError:
    """What the one too many is told."""
    return _overloaded(f"too many connections, at most {limits.connections} are served")


def sent_ahead(limits: EdgeLimits) -> HttpError:
    """More requests than may wait for the answers before theirs."""
    return _overloaded(f"too many requests were sent before their answers, at most {limits.pipelined} may wait")


def _overloaded(message: str) -> HttpError:
    return HttpError(503, "overloaded", message, ((b"retry-after", b"1"),))


def id_of(cycle: Any) -> bytes:
    """Id of the request that is being answered, in either lane; b"" = none is."""
    scope = getattr(cycle, "scope", None)
    return scope["state"]["request_id"] if scope else getattr(cycle, "request_id", b"")
