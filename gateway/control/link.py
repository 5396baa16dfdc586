"""The node link: frames of `gateway.control.messages` over one stream socket between control and each worker.

    frame = length u32, big-endian | msgpack

The supervisor makes a fresh socket pair for each pair of a control start and a worker start, so a link never comes
back to life: who loses it waits to be introduced to the next peer. Nothing is lost with a link but the calls that
waited on it: snapshots and statuses are whole truths, and counts live in shared pages.
"""

import asyncio
import logging
import socket
import struct
from collections.abc import Callable
from typing import Any, Final, Protocol, cast

import msgspec

from gateway.control.messages import Answer, Beat, Call, Hello, Hint, Snapshot, Status, ToControl, ToWorker
from runtimes.errors import DeadlineExceeded, QueueFull, ServingError

FRAME_BYTES_MAX: Final = 64 * 1024 * 1024
"""Largest frame; also the most that may wait for a peer that does not read."""
CALLS_MAX: Final = 256
"""Unanswered calls of one worker."""
_PATIENCE_S: Final = 0.5
"""A worker waits so much longer than control does: control's word on a missed deadline says more."""
_LENGTH: Final = struct.Struct(">I")
_encode: Final = msgspec.msgpack.Encoder().encode
_log: Final = logging.getLogger(__name__)


class ControlAway(ServingError):
    """The deciding process is restarting: what a worker cannot answer alone has to wait."""

    code = "control_away"

    def __init__(self, message: str = "the control process is away and will be back within seconds") -> None:
        super().__init__(message, retry_after_s=1.0)


class Refused(ServingError):
    """Control answered a call with an error; `code` is control's."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.message, retry_after_s=answer.retry_after_s)
        self.code = answer.code  # type: ignore[misc]  # the code of any class of ours, carried as data


class _Frames(asyncio.Protocol):
    """One end of a link: bytes in, messages out, and the way back.

    Args:
        decode: one frame's body -> a message. Raises msgspec.DecodeError.
        on_message: called with each message, in order.
        on_lost: called once, after the last message.
    """

    def __init__(
        self, decode: Callable[[bytes], Any], on_message: Callable[[Any], None], on_lost: Callable[[], None]
    ) -> None:
        self._decode = decode
        self._on_message = on_message
        self._on_lost = on_lost
        self._received = bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclass of asyncio's.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        try:
            for body in _take_frames(self._received):
                self._on_message(self._decode(body))
        except (ValueError, msgspec.DecodeError) as error:
            # Both ends are ours and of one version: only a bug comes here.
            _log.error("link dropped: %s", error)
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._on_lost()

    def send(self, message: ToWorker | ToControl) -> None:
        """Queue a message; to a link that is lost it goes nowhere. A peer that reads nothing loses the link."""
        if self._transport is None:
            return
        body = _encode(message)
        if self._transport.get_write_buffer_size() + len(body) > FRAME_BYTES_MAX:
            _log.error("link dropped: the other end does not read, or a frame of %d bytes is too large", len(body))
            self.abort()
            return
        self._transport.write(_LENGTH.pack(len(body)) + body)

    def close(self) -> None:
        """Flush and close."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()


def _take_frames(received: bytearray) -> list[bytes]:
    """Cut the complete frames off the front of a buffer. Raises ValueError when one is larger than allowed."""
    frames, at = [], 0
    while len(received) - at >= _LENGTH.size:
        (length,) = _LENGTH.unpack_from(received, at)
        if length > FRAME_BYTES_MAX:
            raise ValueError(f"a frame of {length} bytes, at most {FRAME_BYTES_MAX} are allowed")
        end = at + _LENGTH.size + length
        if len(received) < end:
            break
        frames.append(bytes(received[at + _LENGTH.size : end]))
        at = end
    del received[:at]
    return frames


async def _connect(sock: socket.socket, frames: _Frames) -> None:
    sock.setblocking(False)
    await asyncio.get_running_loop().create_connection(lambda: frames, sock=sock)


class ControlHandler(Protocol):
    """What control does with what workers send; every method runs on the loop.

    `start_id` names one start of a worker: it is never used again.
    """

    def on_hello(self, hello: Hello) -> None:
        """A worker is linked; first call for its start id. It acts on no snapshot of ours yet: send one."""

    def on_status(self, start_id: str, status: Status) -> None:
        """A worker acknowledged a revision, or the state of a model changed there."""

    def on_beat(self, start_id: str, beat: Beat) -> None:
        """Its heartbeat."""

    def on_lost(self, start_id: str) -> None:
        """Its link is gone, mostly because it died; last call for its start id."""

    async def call(self, name: str, args: dict[str, Any]) -> Any:
        """Answer a call with a value that msgpack can carry. Cancelled at its deadline or with its link.

        Raises:
            ServingError: sent to the worker as code, message and retry-after.
        """


class ControlEnd:
    """Control's end of the links to all workers of the node."""

    def __init__(self, handler: ControlHandler) -> None:
        self._handler = handler
        self._peers: dict[str, _Frames] = {}

    async def attach(self, sock: socket.socket) -> None:
        """Take over control's end of a link; the worker is known once its hello has come."""
        peer = _Peer(self._handler, self._peers)
        await _connect(sock, peer.frames)

    def send(self, start_id: str, message: ToWorker) -> None:
        """Send to one worker; one that is gone is no error, its respawn will say hello."""
        peer = self._peers.get(start_id)
        if peer is not None:
            peer.send(message)

    def broadcast(self, message: ToWorker) -> None:
        """Send to every linked worker."""
        for peer in list(self._peers.values()):
            peer.send(message)

    def close(self) -> None:
        """Close every link."""
        for peer in list(self._peers.values()):
            peer.close()


class _Peer:
    """One worker as control sees it: nameless until its hello."""

    def __init__(self, handler: ControlHandler, peers: dict[str, _Frames]) -> None:
        self._handler = handler
        self._peers = peers
        self._start_id = ""
        self._calls: set[asyncio.Task[None]] = set()
        self.frames = _Frames(msgspec.msgpack.Decoder(ToControl).decode, self._received, self._lost)

    def _received(self, message: ToControl) -> None:
        match message:
            case Hello():
                self._start_id = message.start_id
                self._peers[message.start_id] = self.frames
                self._handler.on_hello(message)
            case Status():
                self._handler.on_status(self._start_id, message)
            case Beat():
                self._handler.on_beat(self._start_id, message)
            case Call():
                self._start(message)

    def _start(self, call: Call) -> None:
        if len(self._calls) >= CALLS_MAX:
            self.frames.send(_failure(call.id, QueueFull(f"{CALLS_MAX} calls of this worker wait for an answer")))
            return
        task = asyncio.get_running_loop().create_task(self._answer(call))
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)

    async def _answer(self, call: Call) -> None:
        try:
            async with asyncio.timeout(call.deadline_ms / 1000):
                answer = Answer(call.id, await self._handler.call(call.name, call.args))
        except ServingError as error:
            answer = _failure(call.id, error)
        except TimeoutError:
            answer = _failure(call.id, DeadlineExceeded(f"{call.name} took longer than {call.deadline_ms} ms"))
        except Exception:
            _log.exception("call %s failed", call.name)
            answer = _failure(call.id, ServingError("the control process failed for a reason of its own"))
        self.frames.send(answer)

    def _lost(self) -> None:
        for task in self._calls:
            task.cancel()
        if self._start_id and self._peers.get(self._start_id) is self.frames:
            del self._peers[self._start_id]
            self._handler.on_lost(self._start_id)


def _failure(call_id: int, error: ServingError) -> Answer:
    return Answer(call_id, code=error.code, message=error.message, retry_after_s=error.retry_after_s)


class WorkerEnd:
    """A worker's end: the link to the living control, or none.

    Args:
        hello: first message on every link.
        on_attached: a link stands and hello is sent; time to send the status.
        on_snapshot, on_hint: what control sends on its own.
    """

    def __init__(
        self,
        hello: Hello,
        *,
        on_attached: Callable[[], None],
        on_snapshot: Callable[[Snapshot], None],
        on_hint: Callable[[Hint], None],
    ) -> None:
        self._hello = hello
        self._on_attached = on_attached
        self._on_snapshot = on_snapshot
        self._on_hint = on_hint
        self._frames: _Frames | None = None
        self._last_id = 0
        self._waiting: dict[int, asyncio.Future[Answer]] = {}

    async def attach(self, sock: socket.socket) -> None:
        """Take over a worker's end of a new link; one that was there is closed."""
        self.close()
        frames = _Frames(msgspec.msgpack.Decoder(ToWorker).decode, self._received, lambda: self._lost(frames))
        self._frames = frames
        await _connect(sock, frames)
        if self._frames is frames:
            frames.send(self._hello)
            self._on_attached()

    def send(self, message: Status | Beat) -> None:
        """Send; while control is away it goes nowhere, and `on_attached` is the time to say it again."""
        if self._frames is not None:
            self._frames.send(message)

    async def call(self, name: str, args: dict[str, Any], timeout_s: float) -> Any:
        """Ask control and wait for its value.

        Cancel: control still acts, its answer is dropped.

        Raises:
            ControlAway: there is no control, it was lost while it worked, or it did not answer in time.
            Refused: with control's code and message.
        """
        if self._frames is None:
            raise ControlAway
        self._last_id += 1
        call_id = self._last_id
        waiting = self._waiting[call_id] = asyncio.get_running_loop().create_future()
        self._frames.send(Call(call_id, name, args, int(timeout_s * 1000)))
        try:
            async with asyncio.timeout(timeout_s + _PATIENCE_S):
                answer = await waiting
        except TimeoutError as error:
            raise ControlAway(f"the control process did not answer {name} within {timeout_s:g} s") from error
        finally:
            self._waiting.pop(call_id, None)
        if answer.code:
            raise Refused(answer)
        return answer.value

    def close(self) -> None:
        """Let go of the current link, if any; calls that wait on it fail."""
        if self._frames is not None:
            frames = self._frames
            frames.close()
            self._lost(frames)

    def _received(self, message: ToWorker) -> None:
        match message:
            case Snapshot():
                self._on_snapshot(message)
            case Hint():
                self._on_hint(message)
            case Answer():
                waiting = self._waiting.get(message.id)
                if waiting is not None and not waiting.done():
                    waiting.set_result(message)

    def _lost(self, frames: _Frames) -> None:
        if self._frames is not frames:
            return
        self._frames = None
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(ControlAway())
