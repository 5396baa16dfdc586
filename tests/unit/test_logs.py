"""Logs: one JSON object a line, never blocking, never flooding."""

import io
import json
import logging
import threading

from gateway.logs import BURST, QUEUE_LINES, JsonHandler, Limited, line


def test_a_line_is_one_json_object() -> None:
    found = json.loads(line("info", "event\nwith a break", {"model": "m"}, 1700000000.5))
    assert found == {"time": "2023-11-14T22:13:20.500Z", "level": "info", "event": "event\nwith a break", "model": "m"}


def test_records_are_written_with_their_facts() -> None:
    stream = io.StringIO()
    handler = JsonHandler("worker", stream)
    logger = logging.Logger("test")
    logger.addHandler(handler)
    try:
        raise ValueError("no")
    except ValueError:
        logger.exception("it_broke", extra={"facts": {"slot": 3}})
    handler.drain()
    found = json.loads(stream.getvalue())
    assert (found["event"], found["role"], found["slot"]) == ("it_broke", "worker", 3)
    assert "ValueError: no" in found["exception"]


class Stuck(io.StringIO):
    """A stream whose reader does not read."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = threading.Event()

    def write(self, text: str) -> int:
        self.go_on.wait()
        return super().write(text)


def test_a_reader_that_does_not_read_blocks_nobody() -> None:
    stream = Stuck()
    handler = JsonHandler("worker", stream)
    logger = logging.Logger("test")
    logger.addHandler(handler)
    for number in range(QUEUE_LINES + 500):
        logger.info("n%d", number)
    stream.go_on.set()
    handler.drain(10)
    logger.info("last")
    handler.drain(10)
    lines = [json.loads(text) for text in stream.getvalue().splitlines()]
    dropped = sum(found.get("dropped_lines", 0) for found in lines)
    assert len(lines) + dropped == QUEUE_LINES + 501
    assert dropped >= 499


def test_what_repeats_is_limited_and_counted() -> None:
    now = [0.0]
    written: list[dict[str, object]] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            written.append(record.facts)  # type: ignore[attr-defined]

    logger = logging.Logger("test")
    logger.addHandler(Collect())
    limited = Limited(logger, lambda: now[0])
    for _ in range(1000):
        limited.log(logging.INFO, "bad_input", {})
    assert len(written) == BURST
    now[0] = 1.0
    limited.log(logging.INFO, "bad_input", {})
    assert written[-1] == {"suppressed": 990}
    limited.log(logging.INFO, "other", {})
    assert len(written) == BURST + 2
