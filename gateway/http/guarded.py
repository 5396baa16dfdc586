"""The listening side of one connection, on any port: limits for every request before an application sees it.

A subclass of uvicorn's httptools protocol: head, body, time and number of connections are bounded here, refusals are
answered here, and requests go on to an ASGI application through uvicorn's own code. `tests/platform` states each
uvicorn internal that this leans on.

A request stands in `self.cycle` while it is read; `self._active` is the one being answered and `self.pipeline` holds
those that came after it, so answers leave in the order of the requests.
"""

import asyncio
import socket
from typing import Any, Final, cast

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from gateway.counters import WORKER_INDEX
from gateway.errors import HttpError, error_body
from gateway.http import heads
from gateway.http.answers import Rejection, whole
from gateway.http.door import Door
from gateway.http.heads import Headers

_SLOW: Final = WORKER_INDEX["slow_lane_total"]
_BAD_HTTP: Final = WORKER_INDEX["bad_http_total"]

IDLE, HEAD, BODY = range(3)  # phases of reading one message
LINGER_S: Final = 2
"""So long a peer that was answered before it had sent everything may pause; see `GuardedProtocol._end`."""
_SPARE: Final = 64
"""Connections above the limit that are told so; those above that are closed without a word."""


class _Answers:
    """What a cycle of uvicorn gets for its transport: it ends the connection as the protocol does."""

    __slots__ = ("close", "is_closing", "write")

    def __init__(self, protocol: "GuardedProtocol") -> None:
        self.write = protocol.transport.write
        self.close = protocol._end
        self.is_closing = protocol.ended


class GuardedProtocol(HttpToolsProtocol):
    """One connection. uvicorn makes it; `edge` is what it shares with the others of its port."""

    cycle: Any  # uvicorn's or a subclass's: see the top of this file

    def __init__(
        self,
        edge: Door,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.edge = edge
        self.access_log = False
        self._active: Any = None
        self._phase = IDLE
        self._since = edge.tick
        self._head_bytes = 0
        self._body_bytes = 0
        self._chunks = 0
        self._follows = False
        self._again = b""
        self._rejected = False
        self._starting = False
        self._write_paused_at: int | None = None
        self._unsent_bytes = 0
        self._close_after = False
        self._lingers_from: int | None = None
        self._dropped_bytes = 0

    # ---- connection ----

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Count it; one too many is told so and closed."""
        super().connection_made(transport)
        if not self.edge.opened(self):
            self._reject(heads.too_many_connections(self.edge.limits))
            if len(self.edge.connections) > self.edge.limits.connections + _SPARE:
                self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """The peer has gone, or we closed: whatever it asked for is cancelled."""
        self.edge.closed(self)
        waiting = [self._active, *[cycle for cycle, _ in self.pipeline]]
        self.pipeline.clear()
        for cycle in waiting:
            if cycle is None or cycle.response_complete:
                continue
            self._abandon(cycle)
        if self.cycle is not None and self.cycle not in waiting and not self.cycle.response_complete:
            self._abandon(self.cycle)
        super().connection_lost(exc)

    def _abandon(self, cycle: Any) -> None:
        """Nobody waits for this answer any more."""
        cycle.disconnected = True
        cycle.message_event.set()

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """The peer ended its side. A request that is complete is still answered, if the peer still listens."""
        cycle = self._active
        if cycle is None or cycle.response_complete or self._phase != IDLE or self._rejected:
            return None
        self._close_after = True
        if self.parser.get_http_version() == "1.0":
            # Interim responses are not for HTTP/1.0 (RFC 9110, 15.2): whether it still reads is found out at the end.
            return True
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
            self._drop(len(data))
            return
        self._head_bytes += len(data)
        self._follows = False
        try:
            while True:
                try:
                    self.parser.feed_data(data)
                except httptools.HttpParserUpgrade as upgrade:
                    if not self._rejected:
                        # The same request again, now without the wish; see `_take_upgrade`.
                        data = self._again + data[upgrade.args[0] :]
                        self._again = b""
                        continue
                break
        except httptools.HttpParserError:
            if not self._rejected:
                self._reject(HttpError(400, "bad_http", "the request is not valid HTTP/1.1"))
            return
        error = None
        if self._phase == HEAD:
            error = heads.unfinished(self.url, self._head_bytes, self.edge.limits)
        elif self._phase == BODY and self._head_bytes - self._body_bytes > 8192:
            error = heads.framing_too_large(self._head_bytes - self._body_bytes, self._chunks, self.edge.limits)
        if error is not None:
            self._reject(error)

    def on_message_begin(self) -> None:
        """A request line has begun; the ASGI scope is made later, and only for the slow lane."""
        if self._rejected:
            return
        self.url = b""
        self.headers = []
        self._phase = HEAD
        self._since = self.edge.tick
        self._chunks = self._body_bytes = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header as it came; trailers (after the body began) are ignored."""
        if self._phase == HEAD:
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Check the head, then choose the lane."""
        if self._rejected:
            return
        if self._follows and self.ended():
            # An answer said `connection: close`; what the client sent behind that request is not served.
            self._rejected = True
            return
        if self.parser.should_upgrade():
            self._take_upgrade()
            return
        edge = self.edge
        if len(self.pipeline) >= edge.limits.pipelined:
            self._reject(heads.sent_ahead(edge.limits))
            return
        if self._head_bytes > 8192 or self._follows or len(self.headers) > edge.limits.header_count:
            error = heads.oversized(self.url, self.headers, edge.limits)
            if error is not None:
                self._reject(error)
                return
        if not self._take_fast_lane():
            self._take_slow_lane()

    def _take_fast_lane(self) -> bool:
        """Whether the request was taken by a lane of a subclass."""
        return False

    def _take_upgrade(self) -> None:
        """Nobody upgrades here, but the parser gives no body to a request that wants to: its head is read again.

        A tunnel is refused.
        """
        parser = self.parser
        method = parser.get_method()
        if method == b"CONNECT":
            self._reject(HttpError(405, "method_not_allowed", "Method Not Allowed", ((b"allow", b"GET, POST"),)))
            return
        start = b"%s %s HTTP/%s" % (method, self.url, parser.get_http_version().encode())
        self._again = heads.without_upgrade(start, self.headers, keep_alive=parser.should_keep_alive())

    def _take_slow_lane(self) -> None:
        error = heads.refused(self.headers, self.parser.get_http_version(), self.edge.limits)
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
        self.scope["state"]["request_id"] = self._request_id()
        super().on_headers_complete()
        self._phase = BODY

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        # uvicorn asks this when no cycle of its own is unfinished; a fast exchange may be.
        if self._active is None:
            self._active = cycle
            self.decide_keep_alive(cycle)
            cycle.scope["state"]["close"] = not cycle.keep_alive
            cycle.transport = _Answers(self)
            super()._start_asgi_task(cycle, app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, app))

    def on_body(self, body: bytes) -> None:
        """Hand on to the application."""
        if not self._rejected:
            self._body_bytes += len(body)
            super().on_body(body)

    def on_chunk_header(self) -> None:
        """Bound the number of chunks: a million of one byte each cost more than their content."""
        self._chunks += 1
        thin = self._chunks > 1024 and self._body_bytes < 64 * (self._chunks - 1024)
        if (self._chunks > self.edge.limits.body_chunks or thin) and not self._rejected:
            self._reject(HttpError(400, "invalid_input", "the body comes in too many small chunks"))

    def on_message_complete(self) -> None:
        """The request is whole: answer it, unless others came before it."""
        if self._rejected or self._again:
            return
        self._phase = IDLE
        self._head_bytes = 0
        self._follows = True
        self._since = self.edge.tick
        super().on_message_complete()

    # ---- answering ----

    def ended(self) -> bool:
        """Whether nothing more is answered here."""
        return self._lingers_from is not None or self.transport.is_closing()

    def _end(self) -> None:
        """The last answer has been written: close, but hear a peer out that has not sent everything yet.

        Closing with unread bytes makes TCP send a reset, and the peer, still sending, never reads its answer
        (RFC 9112, 9.6). So our side is closed after the answer, and what still comes is dropped: until the peer closes
        or pauses for LINGER_S, for as many bytes and as long as the largest body may have.
        """
        if self._phase == IDLE and not self._rejected:
            self.transport.close()
        elif not self.ended():
            self._rejected = True
            self._lingers_from = self._since = self.edge.tick
            self.transport.write_eof()
            self.flow.resume_reading()

    def _drop(self, size: int) -> None:
        self._since = self.edge.tick
        self._dropped_bytes += size
        if self._dropped_bytes > self.edge.limits.linger_bytes:
            self.transport.close()

    def on_response_complete(self) -> None:
        """An answer of either lane has left; without uvicorn's timer per response."""
        self._active = None
        self._since = self.edge.tick
        if not (self.pipeline or self._close_after or self.flow.read_paused) or self.ended():
            return
        if self._close_after and not self.pipeline and self._phase == IDLE:
            self.transport.close()
            return
        if self.pipeline:
            self._go_on()
        elif self._write_paused_at is None:
            self.flow.resume_reading()

    def _go_on(self) -> None:
        """Start what waits, or read on; neither while the peer does not read what it has been sent.

        A loop, because an answer that is given at once ends here again: a thousand of them would nest.
        """
        if self._starting:
            return
        self._starting = True
        try:
            while self._active is None and self._write_paused_at is None and not self.ended():
                if not self.pipeline:
                    self.flow.resume_reading()
                    return
                self._start_next()
        finally:
            self._starting = False

    def _start_next(self) -> None:
        cycle: Any
        cycle, app = self.pipeline.pop()
        if type(cycle) is Rejection:
            self._send_rejection(cycle)
        else:
            self._start_cycle(cycle, app)

    def _start_cycle(self, cycle: Any, app: Any) -> None:
        """Begin to answer what has waited for its turn."""
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
        self, status: int, content_type: bytes, headers: Headers, request_id: bytes, body: bytes, *, keep_alive: bool
    ) -> None:
        """One complete answer in one write."""
        head = (self.edge.date, content_type, headers, request_id)
        self.transport.write(whole(status, *head, body, keep_alive=keep_alive))

    # ---- refusing ----

    def _reject(self, error: HttpError) -> None:
        """Answer with an error after what is still due, then close; nothing more is read."""
        self._rejected = True
        began = self._phase == BODY
        self._phase = IDLE
        self.edge.counts[_BAD_HTTP] += 1
        if began and self._drop_begun():
            self._end()
            return
        rejection = Rejection(error, self._request_id())
        if self._active is None:
            self._send_rejection(rejection)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((cast(Any, rejection), self.app))

    def _drop_begun(self) -> bool:
        """Forget the request whose body was being read; True when it has its answer already."""
        cycle = self.cycle
        if cycle.response_complete or getattr(cycle, "response_started", False):
            return True
        self._abandon(cycle)
        if cycle is self._active:
            self._active = None
        else:
            dropped, _ = self.pipeline.popleft()
            assert dropped is cycle, "the request that is read came last"
        return False

    def _request_id(self) -> bytes:
        return heads.client_request_id(self.headers or ()) or self.edge.new_request_id()

    def _send_rejection(self, rejection: Rejection) -> None:
        rejection.response_complete = True
        error, request_id = rejection.error, rejection.request_id
        body = error_body(error.message, error.code, request_id)
        self.edge.log.refused(error.status, error.code, request_id, "", error)
        self.write_answer(error.status, b"application/json", error.headers, request_id, body, keep_alive=False)
        self._end()

    # ---- flow control and time ----

    def pause_writing(self) -> None:
        """The peer reads slowly: read nothing more from it until it has caught up."""
        super().pause_writing()
        self._write_paused_at = self.edge.tick
        self._unsent_bytes = self.transport.get_write_buffer_size()
        self.flow.pause_reading()

    def resume_writing(self) -> None:
        """It has caught up."""
        super().resume_writing()
        self._write_paused_at = None
        if self._lingers_from is not None:
            self.flow.resume_reading()
        elif self._active is None:
            self._go_on()
        elif not self.pipeline and not self._rejected:
            self.flow.resume_reading()

    def sweep(self, tick: int) -> None:
        """Close a connection that has been silent, slow to send or slow to read for too long."""
        limits = self.edge.limits
        waited = tick - self._since
        if self._write_paused_at is not None:
            self._sweep_unsent(self._write_paused_at, tick)
        elif self.transport.is_closing():
            # It closes when the peer has read the last answers, which are too few to have paused us.
            self._write_paused_at, self._unsent_bytes = tick, self.transport.get_write_buffer_size()
        elif self._lingers_from is not None:
            most_s = LINGER_S if self.edge.draining else limits.body_timeout_s
            if waited >= LINGER_S or tick - self._lingers_from > most_s:
                self.transport.close()
        elif self._active is not None and self.flow.read_paused:
            # We do not read: what the peer has begun to send behind its other requests is not late.
            self._since = tick
        elif self._phase == HEAD:
            if waited > limits.header_timeout_s:
                self._reject(HttpError(408, "request_timeout", "the head of the request took too long"))
        elif self._phase == BODY:
            slow = waited > 10 and self._body_bytes < limits.body_min_bytes_per_s * (waited - 10)
            if waited > limits.body_timeout_s or slow:
                self._reject(HttpError(408, "request_timeout", "the body of the request took too long"))
        elif self._active is None and waited > limits.keep_alive_s:
            self.transport.close()

    def _sweep_unsent(self, paused_at: int, tick: int) -> None:
        """A peer that reads at the least rate may take as long as it needs; one that does not is cut off."""
        limits = self.edge.limits
        unsent = self.transport.get_write_buffer_size()
        if self._unsent_bytes - unsent >= limits.body_min_bytes_per_s:
            self._write_paused_at = tick
        elif tick - paused_at > limits.write_timeout_s:
            self.transport.abort()
        self._unsent_bytes = unsent

    def timeout_keep_alive_handler(self) -> None:
        """uvicorn's timer is not used; the sweep closes idle connections."""

    # ---- drain ----

    def idle(self) -> bool:
        """Nothing is being read or answered."""
        return self._active is None and self._phase == IDLE

    def close_if_idle(self) -> None:
        """Close now if nothing is due."""
        if self.idle():
            self.transport.close()

    def finish_then_close(self) -> None:
        """Answer what was begun with `connection: close`, then close."""
        if self._lingers_from is not None:
            return
        self._close_after = True
        if self._active is not None and not self.pipeline:
            self._active.keep_alive = False
        self.close_if_idle()

    def abort_with_503(self) -> None:
        """The grace is over: what is still due gets a 503."""
        if self._write_paused_at is not None:
            self.transport.abort()
        elif self.transport.is_closing():
            return  # its last answer may be on its way; the sweep finds who does not read it
        elif not self._refuse_due() and self._lingers_from is None:
            self.transport.close()

    def _refuse_due(self) -> bool:
        """Answer 503 to what is being read or answered; False when there is no such thing or it has an answer."""
        active = self._active
        if self._rejected or (self._phase == IDLE and active is None) or getattr(active, "response_started", False):
            return False
        self._active = None
        self._send_rejection(Rejection(heads.DRAINING, heads.id_of(active) or self._request_id()))
        return True

    def shutdown(self) -> None:
        """uvicorn's word for it."""
        self.finish_then_close()
