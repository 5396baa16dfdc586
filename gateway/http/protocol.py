"""The listening side of one connection: limits for every request, and the fast lane for plain ones.

A subclass of uvicorn's httptools protocol. `POST .../infer` in its plain form is answered here: no ASGI scope, no
task, no future. Everything else goes on to Starlette through uvicorn's own code. Both lanes end in the same
`Dataplane` and send the same bytes. `tests/platform` states each uvicorn internal that this leans on.

A request of either lane stands in `self.cycle` while it is read; `self._active` is the one being answered and
`self.pipeline` holds those that came after it, so answers leave in the order of the requests.
"""

import asyncio
import socket
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, Final, cast

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from gateway.counters import WORKER_INDEX
from gateway.errors import HttpError, error_body
from gateway.http.compression import COMPRESS_BYTES, choose, compress
from gateway.http.edge import REQUEST_ID, Edge
from gateway.served import Exchange, ServedVersion
from runtimes.errors import ServingError

_STATUS: Final = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
_FAST: Final = WORKER_INDEX["fast_lane_total"]
_SLOW: Final = WORKER_INDEX["slow_lane_total"]
_BAD_HTTP: Final = WORKER_INDEX["bad_http_total"]

# What a header means to the lane decision. Names are kept as clients write them, also those that mean nothing.
_NOTHING, _LENGTH, _HOST, _ID, _JSON_LENGTH, _TIMEOUT, _TRACE, _SLOWS, _ENCODING, _CONNECTION = range(10)
_NAMES_KEPT: Final = 4096
_MEANING: Final = {
    b"content-length": _LENGTH,
    b"host": _HOST,
    b"x-request-id": _ID,
    b"inference-header-content-length": _JSON_LENGTH,
    b"x-request-timeout-ms": _TIMEOUT,
    b"traceparent": _TRACE,
    b"transfer-encoding": _SLOWS,
    b"content-encoding": _SLOWS,
    b"expect": _SLOWS,
    b"accept-encoding": _ENCODING,
    b"authorization": _SLOWS,
    b"connection": _CONNECTION,
}

# Phases of reading one message.
_IDLE, _HEAD, _BODY = range(3)


def _meaning(name: bytes) -> int:
    """The meaning of a name in a spelling that is new; kept, within a bound, for the next time."""
    meaning = _MEANING.get(name.lower(), _NOTHING)
    if len(_MEANING) < _NAMES_KEPT:
        _MEANING[name] = meaning
    return meaning


class FastExchange(Exchange):
    """A request of the fast lane, in the shape of uvicorn's RequestResponseCycle."""

    complete = False
    keep_alive = True
    disconnected = False
    response_complete = False
    error: ServingError | None = None
    trace = b""
    coding = b""

    def __init__(self, protocol: "EdgeProtocol", name: str, selector: str, size: int) -> None:
        self.protocol = protocol
        self.model_name = name
        self.selector = selector
        self.size = size
        self.chunks: list[bytes] = []

    @property
    def message_event(self) -> "_NeverSet":
        """uvicorn wakes its ASGI task with it; here is none."""
        return _NO_EVENT

    def respond_ok(self, served: ServedVersion, body: bytes) -> None:
        """The plain answer, joined once."""
        protocol = self.protocol
        edge = protocol.edge
        if not self.keep_alive or self.trace or self.coding or edge.shed or edge.dataplane.draining:
            self.respond(200, b"application/json", served.headers, body)
            return
        self.response_complete = True
        protocol.transport.write(
            b"".join(
                (
                    edge.head_ok,
                    served.head,
                    self.request_id,
                    b"\r\ncontent-length: %d\r\n\r\n" % len(body),
                    body,
                )
            )
        )
        protocol.finished(self)

    def respond(self, status: int, content_type: bytes, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> None:
        """Any answer."""
        protocol = self.protocol
        if self.coding and len(body) >= COMPRESS_BYTES and status == 200:
            self._compress(status, content_type, headers, body)
            return
        self.response_complete = True
        if self.trace:
            headers = [*headers, (b"traceparent", self.trace)]
        protocol.decide_keep_alive(self)
        protocol.write_answer(status, content_type, headers, self.request_id, body, keep_alive=self.keep_alive)
        protocol.finished(self)

    def _compress(self, status: int, content_type: bytes, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> None:
        """Compress in a thread, then answer, if the peer is still there."""
        protocol, coding = self.protocol, self.coding
        self.coding = b""

        def back(compressed: bytes) -> None:
            if not self.response_complete:
                self.respond(status, content_type, [*headers, (b"content-encoding", coding)], compressed)

        def work() -> None:
            protocol.loop.call_soon_threadsafe(back, compress(body, coding))

        protocol.edge.executor.submit(work)


class _NeverSet:
    """Stands where uvicorn's cycle has the event that wakes its ASGI task; the fast lane has no task."""

    def set(self) -> None:
        """Nobody waits."""


_NO_EVENT: Final = _NeverSet()


class Rejection:
    """An answer that is fixed already and waits for its turn; the connection closes after it."""

    __slots__ = ("disconnected", "error", "keep_alive", "message_event", "response_complete")

    def __init__(self, error: HttpError) -> None:
        self.error = error
        self.disconnected = False
        self.response_complete = False
        self.keep_alive = False
        self.message_event = _NO_EVENT


class EdgeProtocol(HttpToolsProtocol):
    """One connection. uvicorn makes it; `edge` is what it shares with the others of its worker."""

    cycle: Any  # uvicorn's or ours: see the top of this file

    def __init__(
        self,
        edge: Edge,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.edge = edge
        self.access_log = False
        self._active: Any = None
        self._phase = _IDLE
        self._since = edge.tick
        self._head_bytes = 0
        self._body_bytes = 0
        self._chunks = 0
        self._rejected = False
        self._write_paused_at: int | None = None
        self._close_after = False
        self._peer_closed = False

    # ---- connection ----

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Count it; one too many is told so and closed."""
        super().connection_made(transport)
        if not self.edge.opened(self):
            self._reject(HttpError(503, "overloaded", "too many connections", ((b"retry-after", b"1"),)))

    def connection_lost(self, exc: Exception | None) -> None:
        """The peer has gone, or we closed: whatever it asked for is cancelled."""
        self.edge.closed(self)
        waiting = [self._active, *[cycle for cycle, _ in self.pipeline]]
        self.pipeline.clear()
        for cycle in waiting:
            if cycle is None or cycle.response_complete:
                continue
            if type(cycle) is FastExchange:
                self._abandon(cycle)
            elif type(cycle) is not Rejection:
                cycle.disconnected = True
                cycle.message_event.set()
        if type(self.cycle) is FastExchange and self.cycle not in waiting and not self.cycle.response_complete:
            self._abandon(self.cycle)
        super().connection_lost(exc)

    def _abandon(self, exchange: FastExchange) -> None:
        exchange.disconnected = exchange.response_complete = True
        if exchange.complete and exchange.error is None:
            self.edge.dataplane.cancel(exchange)
        self.edge.dataplane.release(exchange.size)

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """The peer ended its side. A request that is complete is still answered, if the peer still listens."""
        cycle = self._active
        if cycle is None or cycle.response_complete or self._phase != _IDLE or self._rejected:
            return None
        self._peer_closed = True
        self._close_after = True
        raw = self.transport.get_extra_info("socket")
        if isinstance(raw, socket.socket) or hasattr(raw, "getsockopt"):
            self.loop.call_later(0.02, self._probe_peer, raw)
        return True

    def _probe_peer(self, raw: socket.socket) -> None:
        """Still unanswered: an interim response makes a peer that is gone reset the connection."""
        if self._active is None or self._active.response_complete or self.transport.is_closing():
            return
        self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self.edge.watch_half_closed(self, raw)

    def peer_is_gone(self) -> None:
        """It was not half-closed, it was closed."""
        self.transport.abort()

    # ---- reading ----

    def data_received(self, data: bytes) -> None:
        """Feed the parser; nothing it says is trusted before the limits were looked at."""
        if self._rejected:
            return
        self._head_bytes += len(data)
        try:
            while True:
                try:
                    self.parser.feed_data(data)
                except httptools.HttpParserUpgrade as upgrade:
                    # Nobody upgrades here: the request was served as it is, what follows it is the next one.
                    data = data[upgrade.args[0] :]
                    if data and not self._rejected:
                        continue
                break
        except httptools.HttpParserError:
            if not self._rejected:
                self._reject(HttpError(400, "bad_http", "the request is not valid HTTP/1.1"))
            return
        if self._phase == _HEAD:
            self._check_unfinished_head()

    def _check_unfinished_head(self) -> None:
        limits = self.edge.limits
        if len(self.url) > limits.url_bytes:
            self._reject(_url_too_long(limits.url_bytes))
        elif self._head_bytes > limits.headers_total_bytes + limits.url_bytes:
            self._reject(_headers_too_large(limits.headers_total_bytes))

    def on_message_begin(self) -> None:
        """A request line has begun; the ASGI scope is made later, and only for the slow lane."""
        self.url = b""
        self.headers = []
        self._phase = _HEAD
        self._since = self.edge.tick
        self._chunks = self._body_bytes = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header as it came; trailers (after the body began) are ignored."""
        if self._phase == _HEAD:
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Check the head, then choose the lane."""
        if self._rejected:
            return
        self._phase = _BODY
        edge = self.edge
        if self._head_bytes > 8192 or len(self.headers) > edge.limits.header_count:
            error = self._oversized_head()
            if error is not None:
                self._reject(error)
                return
        route = edge.dataplane.paths.get(self.url)
        exchange = None
        if route is not None and self.parser.get_method() == b"POST" and not edge.slow_lane_only:
            exchange = self._fast_exchange(route)
        if exchange is None:
            self._take_slow_lane()
            return
        edge.counts[_FAST] += 1
        self.cycle = exchange
        if self._active is None:
            self._active = exchange
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((cast(Any, exchange), self.app))

    def _fast_exchange(self, route: tuple[str, str]) -> FastExchange | None:
        """The exchange of a plain request; None for any other, which the slow lane then judges."""
        length = -1
        host = close = False
        request_id = trace = coding = b""
        json_length: int | None = None
        timeout_ms = 0
        for name, value in self.headers:
            meaning = _MEANING.get(name)
            if meaning is None:
                meaning = _meaning(name)
            if meaning == _NOTHING:
                continue
            if meaning == _LENGTH and length < 0 and value.isdigit():
                length = int(value)
            elif meaning == _HOST and not host:
                host = True
            elif meaning == _ID and not request_id and REQUEST_ID.fullmatch(value):
                request_id = value
            elif meaning == _JSON_LENGTH and json_length is None and value.isdigit() and len(value) < 10:
                json_length = int(value)
            elif meaning == _TIMEOUT and not timeout_ms and value.isdigit() and len(value) < 10:
                timeout_ms = int(value)
            elif meaning == _TRACE and not trace and len(value) < 256:
                trace = value
            elif meaning == _ENCODING and not coding:
                coding = choose(value)
            elif meaning == _CONNECTION:
                # HTTP/1.0 that asks to be kept: it is not.
                close = close or self.parser.get_http_version() == "1.0"
            else:
                return None
        edge = self.edge
        if not 0 <= length <= edge.limits.fast_body_bytes or not (host or self.parser.get_http_version() == "1.0"):
            return None
        exchange = FastExchange(self, route[0], route[1], length)
        exchange.request_id = request_id or edge.new_request_id()
        if json_length is not None:
            exchange.json_length = json_length
        if trace or coding or timeout_ms:
            exchange.trace = trace
            exchange.coding = coding
            exchange.timeout_ms = timeout_ms
        if close or not self.parser.should_keep_alive():
            exchange.keep_alive = False
        if not edge.dataplane.reserve(length):
            exchange.error = edge.dataplane.bytes_refused(length)
            exchange.size = 0
        return exchange

    def _take_slow_lane(self) -> None:
        error = self._refused_head()
        if error is not None:
            self._reject(error)
            return
        self.edge.counts[_SLOW] += 1
        received = self.headers
        url = self.url
        super().on_message_begin()
        self.url = url
        self.headers += [(name.lower(), value) for name, value in received]
        self.expect_100_continue = any(
            name == b"expect" and value.lower() == b"100-continue" for name, value in self.headers
        )
        self.scope["state"]["request_id"] = self._client_request_id() or self.edge.new_request_id()
        super().on_headers_complete()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        # uvicorn asks this when no cycle of its own is unfinished; a fast exchange may be.
        if self._active is None:
            self._active = cycle
            self.decide_keep_alive(cycle)
            cycle.scope["state"]["close"] = not cycle.keep_alive
            super()._start_asgi_task(cycle, app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, app))

    def on_body(self, body: bytes) -> None:
        """Collect, or hand on to the slow lane."""
        if self._rejected:
            return
        self._body_bytes += len(body)
        cycle = self.cycle
        if type(cycle) is FastExchange:
            if cycle.error is None:
                cycle.chunks.append(body)
        else:
            super().on_body(body)

    def on_chunk_header(self) -> None:
        """Bound the number of chunks: a million of one byte each cost more than their content."""
        self._chunks += 1
        limits = self.edge.limits
        thin = self._chunks > 1024 and self._body_bytes < 64 * (self._chunks - 1024)
        if (self._chunks > limits.body_chunks or thin) and not self._rejected:
            self._reject(HttpError(400, "invalid_input", "the body comes in too many small chunks"))

    def on_message_complete(self) -> None:
        """The request is whole: answer it, unless others came before it."""
        if self._rejected:
            return
        self._phase = _IDLE
        self._head_bytes = 0
        self._since = self.edge.tick
        cycle = self.cycle
        if type(cycle) is not FastExchange:
            super().on_message_complete()
            return
        chunks = cycle.chunks
        cycle.body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        cycle.chunks = []
        cycle.complete = True
        cycle.started_ns = self.edge.dataplane.now_ns()
        if cycle is self._active:
            self._start_exchange(cycle)

    def _start_exchange(self, exchange: FastExchange) -> None:
        if exchange.error is None:
            self.edge.dataplane.infer(exchange)
        else:
            self.edge.dataplane.refuse_unread(exchange, exchange.error)

    # ---- answering ----

    def finished(self, exchange: FastExchange) -> None:
        """A fast exchange was answered: go on with what came after it."""
        self.edge.dataplane.release(exchange.size)
        if not exchange.keep_alive:
            self.transport.close()
        self.on_response_complete()

    def on_response_complete(self) -> None:
        """An answer of either lane has left; without uvicorn's timer per response."""
        self.server_state.total_requests += 1
        self._active = None
        self._since = self.edge.tick
        if self.transport.is_closing():
            return
        if self._close_after and not self.pipeline and self._phase == _IDLE:
            self.transport.close()
            return
        if self.pipeline:
            self._start_next()
        elif self._write_paused_at is None:
            self.flow.resume_reading()

    def _start_next(self) -> None:
        cycle: Any
        cycle, app = self.pipeline.pop()
        if type(cycle) is Rejection:
            self._send_rejection(cycle)
            return
        if type(cycle) is FastExchange:
            self._active = cycle
            if cycle.complete:
                self._start_exchange(cycle)
            else:
                self.flow.resume_reading()
            return
        self._start_asgi_task(cycle, app)

    def decide_keep_alive(self, cycle: Any) -> None:
        """Whether the connection stays open after this answer."""
        edge = self.edge
        if edge.shed > 0 and cycle.keep_alive:
            edge.shed -= 1
            cycle.keep_alive = False
        if edge.draining or (self._close_after and not self.pipeline):
            cycle.keep_alive = False

    def write_answer(
        self,
        status: int,
        content_type: bytes,
        headers: Sequence[tuple[bytes, bytes]],
        request_id: bytes,
        body: bytes,
        *,
        keep_alive: bool,
    ) -> None:
        """One complete answer in one write."""
        parts = [_STATUS[status], b"date: ", self.edge.date, b"\r\ncontent-type: ", content_type, b"\r\n"]
        for name, value in headers:
            parts += (name, b": ", value, b"\r\n")
        parts += (b"x-request-id: ", request_id, b"\r\ncontent-length: %d\r\n" % len(body))
        parts += (b"\r\n" if keep_alive else b"connection: close\r\n\r\n", body)
        self.transport.write(b"".join(parts))

    # ---- refusing ----

    def _reject(self, error: HttpError) -> None:
        """Answer with an error after what is still due, then close; nothing more is read."""
        self._rejected = True
        self._phase = _IDLE
        self.edge.counts[_BAD_HTTP] += 1
        unfinished = self.cycle
        if self._active is not None and self._active is unfinished and not self._message_is_complete():
            # The request that is refused had begun: its answer is this error.
            if type(unfinished) is FastExchange:
                self._abandon(unfinished)
            else:
                unfinished.disconnected = True
                unfinished.message_event.set()
            self._active = None
        rejection = Rejection(error)
        if self._active is None:
            self._send_rejection(rejection)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((cast(Any, rejection), self.app))

    def _message_is_complete(self) -> bool:
        cycle = self.cycle
        return cycle.complete if type(cycle) is FastExchange else not cycle.more_body

    def _send_rejection(self, rejection: Rejection) -> None:
        rejection.response_complete = True
        error = rejection.error
        request_id = self._client_request_id() or self.edge.new_request_id()
        body = error_body(error.message, error.code, request_id)
        self.edge.dataplane.log.refused(error.status, error.code, request_id, "", error)
        self.write_answer(error.status, b"application/json", error.headers, request_id, body, keep_alive=False)
        self.transport.close()

    def _client_request_id(self) -> bytes:
        """The client's own id if it may be echoed, else nothing."""
        found = [value for name, value in self.headers or () if name.lower() == b"x-request-id"]
        return found[0] if len(found) == 1 and REQUEST_ID.fullmatch(found[0]) else b""

    def _oversized_head(self) -> HttpError | None:
        limits = self.edge.limits
        if len(self.url) > limits.url_bytes:
            return _url_too_long(limits.url_bytes)
        if len(self.headers) > limits.header_count:
            return HttpError(
                431, "headers_too_large", f"{len(self.headers)} headers, at most {limits.header_count} are read"
            )
        sizes = [len(name) + len(value) for name, value in self.headers]
        if sum(sizes) > limits.headers_total_bytes or max(sizes, default=0) > limits.header_bytes:
            return _headers_too_large(limits.headers_total_bytes)
        return None

    def _refused_head(self) -> HttpError | None:
        """Framing that is refused before any lane reads the body."""
        named: dict[bytes, list[bytes]] = {}
        for name, value in self.headers:
            named.setdefault(name.lower(), []).append(value)
        hosts = len(named.get(b"host", ()))
        if hosts > 1 or (hosts == 0 and self.parser.get_http_version() == "1.1"):
            return HttpError(400, "bad_http", f"expected one Host header, got {hosts}")
        codings = b",".join(named.get(b"transfer-encoding", ())).lower().strip()
        if codings not in (b"", b"chunked"):
            return HttpError(501, "unsupported", "of transfer encodings only chunked is supported")
        expected = b",".join(named.get(b"expect", ())).lower().strip()
        if expected not in (b"", b"100-continue"):
            return HttpError(417, "expectation_failed", "of expectations only 100-continue is supported")
        lengths = named.get(b"content-length", ())
        return self._too_long(int(lengths[0]), b"inference-header-content-length" in named) if lengths else None

    def _too_long(self, length: int, binary: bool) -> HttpError | None:
        limits = self.edge.limits
        allowed = limits.binary_body_bytes if binary else limits.json_body_bytes
        if length <= allowed:
            return None
        hint = "" if binary else f"; the binary tensor format takes up to {limits.binary_body_bytes}"
        return HttpError(413, "payload_too_large", f"a body of {length} bytes, at most {allowed} are read{hint}")

    # ---- flow control and time ----

    def pause_writing(self) -> None:
        """The peer reads slowly: read nothing more from it until it has caught up."""
        super().pause_writing()
        self._write_paused_at = self.edge.tick
        self.flow.pause_reading()

    def resume_writing(self) -> None:
        """It has caught up."""
        super().resume_writing()
        self._write_paused_at = None
        if not self.pipeline and not self._rejected:
            self.flow.resume_reading()

    def sweep(self, tick: int) -> None:
        """Close a connection that has been silent, slow to send or slow to read for too long."""
        limits = self.edge.limits
        waited = tick - self._since
        if self._write_paused_at is not None and tick - self._write_paused_at > limits.write_timeout_s:
            self.transport.abort()
        elif self._phase == _HEAD:
            if waited > limits.header_timeout_s:
                self._reject(HttpError(408, "request_timeout", "the head of the request took too long"))
        elif self._phase == _BODY:
            slow = waited > 10 and self._body_bytes < limits.body_min_bytes_per_s * (waited - 10)
            if waited > limits.body_timeout_s or slow:
                self._reject(HttpError(408, "request_timeout", "the body of the request took too long"))
        elif self._active is None and waited > limits.keep_alive_s:
            self.transport.close()

    def timeout_keep_alive_handler(self) -> None:
        """uvicorn's timer is not used; the sweep closes idle connections."""

    # ---- drain ----

    def idle(self) -> bool:
        """Nothing is being read or answered."""
        return self._active is None and self._phase == _IDLE

    def close_if_idle(self) -> None:
        """Close now if nothing is due."""
        if self.idle():
            self.transport.close()

    def finish_then_close(self) -> None:
        """Answer what was begun with `connection: close`, then close."""
        self._close_after = True
        if self._active is not None and not self.pipeline:
            self._active.keep_alive = False
        self.close_if_idle()

    def abort_with_503(self) -> None:
        """The grace is over: what is still due gets a 503."""
        if self.transport.is_closing():
            return
        active = self._active
        if type(active) is FastExchange and active.complete:
            self.edge.dataplane.give_up(active)
        elif self._phase != _IDLE or active is not None:
            started = getattr(active, "response_started", False)
            if not started:
                self._active = None
                self._send_rejection(Rejection(HttpError(503, "draining", "the server is stopping")))
        self.transport.abort() if self._write_paused_at is not None else self.transport.close()

    def shutdown(self) -> None:
        """uvicorn's word for it."""
        self.finish_then_close()


def _url_too_long(limit: int) -> HttpError:
    return HttpError(414, "uri_too_long", f"the URL is longer than {limit} bytes")


def _headers_too_large(limit: int) -> HttpError:
    return HttpError(431, "headers_too_large", f"the headers are larger than {limit} bytes in all or one is too large")
