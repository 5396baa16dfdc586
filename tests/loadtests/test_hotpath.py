"""The hot path in one process answers as the server does."""

import asyncio
from pathlib import Path

from loadtests.hotpath import HotPath


def test_each_connection_gets_its_answer_and_the_batch_is_one(tmp_path: Path) -> None:
    async def scenario() -> None:
        path = HotPath(tmp_path, 3)
        try:
            path.turn(2)
            first, second, third = (one.answer for one in path.answers)
        finally:
            path.watchdog.stop()
        for answer in (first, second):
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
            assert b'"outputs":[{"name":"y","datatype":"FP32","shape":[1,1],"data":[0.3513' in answer
        assert third == b""

    asyncio.run(scenario())
