"""The fast lane's requests: which ones are plain, and how they answer.

`POST .../infer` with a length, without anything that asks for more than an answer. A request object stands in the
protocol's `cycle` in the shape of uvicorn's RequestResponseCycle, so that ordering, drain and disconnect hold across
lanes.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from gateway.exchange import Exchange
from gateway.http.answers import NO_EVENT, NeverSet
from gateway.http.compression import COMPRESS_BYTES, choose, compress
from gateway.http.door import REQUEST_ID
from gateway.http.heads import VERSIONS
from gateway.http.meanings import (
    CONNECTION,
    ENCODING,
    HOST,
    ID,
    JSON_LENGTH,
    KEY,
    LENGTH,
    NOTHING,
    PLACE_BITS,
    READ,
    TIMEOUT,
    TRACE,
    Meanings,
    without_blanks,
)
from gateway.served import ServedVersion
from runtimes.errors import ServingError

if TYPE_CHECKING:
    from gateway.http.protocol import EdgeProtocol

_PREDICTION: Final = b"\r\nx-prediction-id: "
_REQUEST_ID: Final = b"\r\nx-request-id: "
_END: Final = b"\r\ncontent-length: %d\r\n\r\n"
_ENDS_KEPT: Final = 2048
_ENDS: Final = [_END % size for size in range(_ENDS_KEPT)]
"""The end of a head for short answers, which most are."""


_NOT_SEEN: Final[tuple[int | None, int | None, bytes | None, bytes | None]] = (None, None, None, None)


class FastExchange(Exchange):
    """A request of the fast lane, in the shape of uvicorn's RequestResponseCycle.

    Attributes:
        key: header to judge once more, because others are answered before this one; b"" = it was judged just now.
    """

    complete = False
    keep_alive = True
    disconnected = False
    response_complete = False
    error: ServingError | None = None
    coding = b""
    key = b""
    chunks: list[bytes] | None = None

    def __init__(self, protocol: "EdgeProtocol", name: str, selector: str, size: int) -> None:
        self.protocol = protocol
        self.model_name = name
        self.selector = selector
        self.size = size

    @property
    def message_event(self) -> NeverSet:
        """uvicorn wakes its ASGI task with it; here is none."""
        return NO_EVENT

    def collect(self, part: bytes) -> None:
        """Take a further part of the body; mostly there is but one."""
        if self.chunks is None:
            self.chunks = [self.body, part]
        else:
            self.chunks.append(part)

    def respond_ok(self, served: ServedVersion, body: bytes) -> None:
        """The plain answer, joined once."""
        protocol = self.protocol
        edge = protocol.edge
        if not self.keep_alive or self.trace or self.coding or edge.shed or edge.dataplane.draining:
            self.respond(200, b"application/json", served.headers_of(self), body)
            return
        self.response_complete = True
        protocol.transport.write(
            b"".join(
                (
                    edge.head_ok,
                    served.head,
                    _PREDICTION if self.prediction else b"",
                    self.prediction,
                    _REQUEST_ID,
                    self.request_id,
                    _ENDS[len(body)] if len(body) < _ENDS_KEPT else _END % len(body),
                    body,
                )
            )
        )
        protocol.finished(self)

    def respond(self, status: int, content_type: bytes, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> None:
        """Any answer."""
        protocol = self.protocol
        if self.trace:
            headers = [*headers, (b"traceparent", self.trace)]
            self.trace = b""
        if self.coding and len(body) >= COMPRESS_BYTES and status == 200:
            self._compress(status, content_type, headers, body)
            return
        self.response_complete = True
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


def plain_exchange(protocol: "EdgeProtocol", route: tuple[str, str]) -> FastExchange | None:
    """The exchange of a plain request; None for any other, which the slow lane then judges."""
    host = close = False
    request_id = trace = only_value = b""
    json_length, timeout_ms, coding, key = _NOT_SEEN
    length = -1
    edge = protocol.edge
    meanings = edge.meanings
    if meanings.names is not edge.dataplane.header_names:
        meanings = edge.meanings = Meanings(edge.dataplane.header_names)
    known = meanings.known
    only_name: bytes | None = None
    read: dict[bytes, bytes] | None = None
    for name, value in protocol.headers:
        found = known.get(name)
        meaning = meanings.learn(name) if found is None else found
        if meaning == NOTHING:
            continue
        if meaning & READ:
            lower = meanings.read[meaning >> PLACE_BITS]
            if only_name is None:
                only_name, only_value = lower, without_blanks(value)
            elif (read := _and(lower, value, read or {only_name: only_value})) is None:
                return None
            meaning &= READ - 1
            if meaning == NOTHING:
                continue
        if meaning == LENGTH and length < 0 and value.isdigit():
            length = int(value)
        elif meaning == HOST and not host:
            host = True
        elif meaning == ID and not request_id and REQUEST_ID.fullmatch(value):
            request_id = value
        elif meaning == JSON_LENGTH and json_length is None and value.isdigit() and len(value) < 10:
            json_length = int(value)
        elif meaning == TIMEOUT and timeout_ms is None and value.isdigit() and len(value) < 10:
            timeout_ms = int(value)
        elif meaning == TRACE and not trace and len(value) < 256:
            trace = value
        elif meaning == ENCODING and coding is None:
            coding = choose(value)
        elif meaning == CONNECTION:
            # HTTP/1.0 that asks to be kept: it is not.
            close = close or protocol.parser.get_http_version() != "1.1"
        elif meaning == KEY and key is None:
            key = value
        else:
            return None
    if edge.gate is not None and not edge.gate.passes(key or b"", route[0]):
        return None
    if not 0 <= length <= edge.limits.fast_body_bytes or not (host or protocol.parser.get_http_version() == "1.0"):
        return None
    close = close or not protocol.parser.should_keep_alive()
    if close and protocol.parser.get_http_version() not in VERSIONS:
        return None
    exchange = FastExchange(protocol, route[0], route[1], length)
    exchange.request_id = request_id or edge.new_request_id()
    exchange.json_length = json_length
    if trace or coding or timeout_ms:
        exchange.trace = trace
        exchange.coding = coding or b""
        exchange.timeout_ms = timeout_ms or 0
    exchange.only_name, exchange.only_value = only_name, only_value
    if read is not None:
        exchange.headers = read
    if close:
        exchange.keep_alive = False
    if not edge.dataplane.reserve(length):
        exchange.error, exchange.size = edge.dataplane.bytes_refused(length), 0
    return exchange


def _and(name: bytes, value: bytes, read: dict[bytes, bytes]) -> dict[bytes, bytes] | None:
    """One more header that is read; None = it stands twice."""
    if name in read:
        return None
    read[name] = without_blanks(value)
    return read
