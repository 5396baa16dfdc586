"""The node link over a real socket pair: order, calls, loss, bounds."""

import asyncio
import socket
import struct
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from gateway.control.link import FRAME_BYTES_MAX, ControlAway, ControlEnd, Refused, WorkerEnd
from gateway.control.messages import Beat, Hello, Hint, Snapshot, Status
from runtimes.errors import UnknownModel

opened: list[ControlEnd | WorkerEnd] = []


class Control:
    """A handler that remembers, and answers a few calls."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, Any]] = []
        self.lost = asyncio.Event()
        self.entered = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.beaten = asyncio.Event()
        self.end = ControlEnd(self)
        opened.append(self.end)

    def on_hello(self, hello: Hello) -> None:
        self.seen.append(("hello", hello))
        self.end.send(hello.start_id, Snapshot(1, (), {}, True))

    def on_status(self, start_id: str, status: Status) -> None:
        self.seen.append((start_id, status))

    def on_beat(self, start_id: str, beat: Beat) -> None:
        self.seen.append((start_id, beat))
        self.beaten.set()

    def on_lost(self, start_id: str) -> None:
        self.seen.append(("lost", start_id))
        self.lost.set()

    async def call(self, name: str, args: dict[str, Any]) -> Any:
        if name == "echo":
            return args
        if name == "unknown":
            raise UnknownModel("no such model", retry_after_s=2.5)
        if name == "bug":
            raise ZeroDivisionError
        self.entered.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


class Worker:
    """A worker's end that remembers."""

    def __init__(self, start_id: str = "w1") -> None:
        self.snapshots: list[Snapshot] = []
        self.hints: list[Hint] = []
        self.attached = 0
        self.got = asyncio.Event()
        self.end = WorkerEnd(
            Hello(0, 123, start_id), on_attached=self._attached, on_snapshot=self._snapshot, on_hint=self._hint
        )
        opened.append(self.end)

    def _attached(self) -> None:
        self.attached += 1
        self.end.send(Status(0, False, ()))

    def _snapshot(self, snapshot: Snapshot) -> None:
        self.snapshots.append(snapshot)
        self.got.set()

    def _hint(self, hint: Hint) -> None:
        self.hints.append(hint)
        self.got.set()

    async def next(self) -> None:
        await asyncio.wait_for(self.got.wait(), 5)
        self.got.clear()


async def linked() -> tuple[Control, Worker]:
    control, worker = Control(), Worker()
    await introduce(control, worker)
    await worker.next()
    return control, worker


async def introduce(control: Control, worker: Worker) -> None:
    ours, theirs = socket.socketpair()
    await control.end.attach(ours)
    await worker.end.attach(theirs)


Scenario = Callable[[], Coroutine[Any, Any, None]]


def run(scenario: Scenario) -> None:
    """Run it, then close what it has opened and let the transports end."""

    async def whole() -> None:
        opened.clear()
        try:
            await scenario()
        finally:
            for end in opened:
                end.close()
            for _ in range(5):
                await asyncio.sleep(0)

    asyncio.run(whole())


def test_hello_comes_first_then_status_and_a_snapshot_goes_back() -> None:
    async def scenario() -> None:
        control, worker = await linked()
        worker.end.send(Beat(3, 0, 0, 0, True))
        await asyncio.wait_for(control.beaten.wait(), 5)
        assert [who for who, _ in control.seen] == ["hello", "w1", "w1"]
        assert worker.snapshots == [Snapshot(1, (), {}, True)]
        control.end.broadcast(Hint(4.5))
        await worker.next()
        assert worker.hints == [Hint(4.5)]

    run(scenario)


def test_calls_give_values_and_errors_with_their_code() -> None:
    async def scenario() -> None:
        _, worker = await linked()
        big = {"body": b"x" * 3_000_000, "none": None}
        values = await asyncio.gather(*(worker.end.call("echo", {"n": n}, 5) for n in range(20)))
        assert values == [{"n": n} for n in range(20)]
        assert await worker.end.call("echo", big, 5) == big
        with pytest.raises(Refused) as refused:
            await worker.end.call("unknown", {}, 5)
        assert (refused.value.code, refused.value.message, refused.value.retry_after_s) == (
            "unknown_model",
            "no such model",
            2.5,
        )
        with pytest.raises(Refused) as refused:
            await worker.end.call("bug", {}, 5)
        assert refused.value.code == "internal"
        assert "ZeroDivision" not in refused.value.message

    run(scenario)


def test_a_call_past_its_deadline_is_cancelled_in_control_and_says_so() -> None:
    async def scenario() -> None:
        control, worker = await linked()
        with pytest.raises(Refused, match="took longer than 50 ms") as refused:
            await worker.end.call("forever", {}, 0.05)
        assert refused.value.code == "deadline_exceeded"
        assert control.cancelled.is_set()

    run(scenario)


def test_losing_control_fails_waiting_calls_at_once_and_a_new_introduction_heals() -> None:
    async def scenario() -> None:
        control, worker = await linked()
        call = asyncio.ensure_future(worker.end.call("forever", {}, 60))
        await asyncio.wait_for(control.entered.wait(), 5)
        control.end.close()
        with pytest.raises(ControlAway):
            await asyncio.wait_for(call, 5)
        with pytest.raises(ControlAway):
            await worker.end.call("echo", {}, 5)
        successor = Control()
        await introduce(successor, worker)
        assert await worker.end.call("echo", {"again": 1}, 5) == {"again": 1}
        assert worker.attached == 2

    run(scenario)


def test_losing_a_worker_is_told_once_and_cancels_its_calls() -> None:
    async def scenario() -> None:
        control, worker = await linked()
        call = asyncio.ensure_future(worker.end.call("forever", {}, 60))
        await asyncio.wait_for(control.entered.wait(), 5)
        worker.end.close()
        await asyncio.wait_for(control.lost.wait(), 5)
        with pytest.raises(ControlAway):
            await call
        await asyncio.wait_for(control.cancelled.wait(), 5)
        assert control.seen.count(("lost", "w1")) == 1

    run(scenario)


def test_a_second_introduction_replaces_the_first() -> None:
    async def scenario() -> None:
        control, worker = await linked()
        successor = Control()
        await introduce(successor, worker)
        await asyncio.wait_for(control.lost.wait(), 5)
        assert await worker.end.call("echo", {"n": 1}, 5) == {"n": 1}

    run(scenario)


@pytest.mark.parametrize("frame", [struct.pack(">I", FRAME_BYTES_MAX + 1), struct.pack(">I", 3) + b"\xc1\xc1\xc1"])
def test_a_frame_that_is_no_message_ends_the_link(frame: bytes) -> None:
    async def scenario() -> None:
        control = Control()
        ours, theirs = socket.socketpair()
        await control.end.attach(ours)
        reader, writer = await asyncio.open_connection(sock=theirs)
        writer.write(frame)
        assert await asyncio.wait_for(_until_closed(reader), 5) == b""
        writer.close()

    run(scenario)


async def _until_closed(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionResetError:
        return b""


def test_a_peer_that_never_reads_loses_the_link_instead_of_filling_memory() -> None:
    async def scenario() -> None:
        control = Control()
        ours, theirs = socket.socketpair()
        await control.end.attach(ours)
        worker = Worker()
        await worker.end.attach(theirs)
        await worker.next()
        transport = worker.end._frames._transport  # type: ignore[union-attr]
        assert transport is not None
        transport.pause_reading()  # type: ignore[attr-defined]
        answer = Snapshot(2, (), {}, True, ())
        for _ in range(3):
            control.end.send("w1", Snapshot(2, (), {"x" * (FRAME_BYTES_MAX // 2): _route()}, True))
        await asyncio.wait_for(control.lost.wait(), 5)
        control.end.send("w1", answer)
        worker.end.close()

    run(scenario)


def _route() -> Any:
    from gateway.control.messages import Route

    return Route(None, (), {})
