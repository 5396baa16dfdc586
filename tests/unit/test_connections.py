"""Bounds of one connection that no client over a socket reaches the same way twice."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.http.limits import EdgeLimits
from loadtests.hotpath import HotPath

PIPELINED = EdgeLimits().pipelined


class Transport:
    """Of a peer that may stop reading: what is written then stays unsent."""

    def __init__(self) -> None:
        self.answers: list[bytes] = []
        self.unsent = 0
        self.state = "open"

    def write(self, data: bytes) -> None:
        self.answers.append(data)

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def is_closing(self) -> bool:
        return self.state != "open"

    def close(self) -> None:
        self.state = "closing" if self.unsent else "closed"

    def abort(self) -> None:
        self.state = "aborted"

    def write_eof(self) -> None:
        """Our side is closed."""

    def pause_reading(self) -> None:
        """Nothing more comes."""

    def resume_reading(self) -> None:
        """It may come again."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name in ("sockname", "peername") else default


def connected(folder: Path, scenario: Callable[[HotPath, Any, Transport], None]) -> None:
    async def story() -> None:
        path = HotPath(folder, 1)
        try:
            transport = Transport()
            connection = path._connection(path.connections[0].edge, transport)  # type: ignore[arg-type]
            scenario(path, connection, transport)
        finally:
            path.watchdog.stop()

    asyncio.run(story())


def test_requests_that_are_sent_ahead_of_their_answers_are_bounded(tmp_path: Path) -> None:
    def scenario(path: HotPath, connection: Any, transport: Transport) -> None:
        connection.data_received(path.request * (PIPELINED + 500))
        assert len(connection.pipeline) == PIPELINED + 1
        path.loop.run()
        statuses = [answer[9:12] for answer in transport.answers]
        assert statuses == [b"200"] * (PIPELINED + 1) + [b"503"]
        assert b"connection: close" in transport.answers[-1]

    connected(tmp_path, scenario)


def test_who_does_not_read_its_last_answers_is_cut_off(tmp_path: Path) -> None:
    def scenario(path: HotPath, connection: Any, transport: Transport) -> None:
        limits = connection.edge.limits
        connection.data_received(path.request)
        path.loop.run()
        transport.unsent = 5_000
        at = int(limits.keep_alive_s) + 1
        connection.sweep(at)
        assert transport.state == "closing"
        connection.sweep(at + 1)
        connection.sweep(at + 1 + int(limits.write_timeout_s))
        assert transport.state == "closing"
        connection.sweep(at + 2 + int(limits.write_timeout_s))
        assert transport.state == "aborted"

    connected(tmp_path, scenario)


@pytest.mark.parametrize(("swept", "state"), [(False, "closing"), (True, "aborted")])
def test_the_end_of_a_drain_waits_for_nobody_who_does_not_read(tmp_path: Path, swept: bool, state: str) -> None:
    """An answer that was written a moment ago is not thrown away."""

    def scenario(path: HotPath, connection: Any, transport: Transport) -> None:
        connection.data_received(path.request)
        path.loop.run()
        transport.unsent = 5_000
        connection.finish_then_close()
        if swept:
            connection.sweep(1)
        connection.abort_with_503()
        assert transport.state == state

    connected(tmp_path, scenario)
