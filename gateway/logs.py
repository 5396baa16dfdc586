"""Logs: one JSON object per line on standard error, written by a thread that the loop never waits for.

No payloads, nothing on success. What repeats (bad input) is limited per kind; how many lines were left out is said
in the next one.
"""

import json
import logging
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any, Final, TextIO

QUEUE_LINES: Final = 10_000
"""Lines that may wait for a slow reader; more are dropped and counted."""
BURST: Final = 10
"""Lines of one kind in a row; then one a second."""


def line(level: str, event: str, facts: dict[str, Any], wall_s: float | None = None) -> str:
    """One log line."""
    now = time.time() if wall_s is None else wall_s
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now * 1000) % 1000:03d}Z"
    return json.dumps({"time": stamp, "level": level, "event": event, **facts}, default=str)


def write(level: str, event: str, facts: dict[str, Any], stream: TextIO | None = None) -> None:
    """Write a line now; for the supervisor, which has no loop to hold up."""
    try:
        print(line(level, event, facts), file=stream or sys.stderr, flush=True)
    except (OSError, ValueError):
        return


class JsonHandler(logging.Handler):
    """Hands records to a writer thread; never blocks, drops and counts when the reader is too slow."""

    def __init__(self, role: str, stream: TextIO | None = None) -> None:
        super().__init__()
        self._role = role
        self._stream = stream or sys.stderr
        self._lines: queue.Queue[str] = queue.Queue(QUEUE_LINES)
        self._dropped = 0
        threading.Thread(target=self._run, name="logs", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue one record; facts are taken from `extra={"facts": {...}}`."""
        facts: dict[str, Any] = {"role": self._role, **getattr(record, "facts", {})}
        if record.exc_info and record.exc_info[1] is not None:
            facts["exception"] = "".join(traceback.format_exception(record.exc_info[1]))[-4000:]
        if self._dropped:
            facts["dropped_lines"] = self._dropped
        try:
            self._lines.put_nowait(line(record.levelname.lower(), record.getMessage()[:2000], facts, record.created))
            self._dropped = 0
        except queue.Full:
            self._dropped += 1

    def drain(self, timeout_s: float = 1.0) -> None:
        """Wait until what is queued is written, but not for ever."""
        deadline = time.monotonic() + timeout_s
        with self._lines.all_tasks_done:
            while self._lines.unfinished_tasks and (left := deadline - time.monotonic()) > 0:
                self._lines.all_tasks_done.wait(left)

    def _run(self) -> None:
        while True:
            text = self._lines.get()
            try:
                self._stream.write(text + "\n")
                self._stream.flush()
            except (OSError, ValueError):
                pass
            self._lines.task_done()


def configure(role: str, level: str) -> JsonHandler:
    """Send everything that uses `logging` in this process through one JsonHandler."""
    handler = JsonHandler(role)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for noisy in ("uvicorn", "uvicorn.error", "uvicorn.access", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    return handler


class Limited:
    """A logger of things that callers can repeat at will: BURST lines of a kind, then one a second.

    Args:
        now_s: a monotonic clock.
    """

    def __init__(self, logger: logging.Logger, now_s: Callable[[], float] = time.monotonic) -> None:
        self._logger = logger
        self._now_s = now_s
        self._kinds: dict[str, list[float]] = {}

    def log(self, level: int, kind: str, facts: dict[str, Any], error: BaseException | None = None) -> bool:
        """Write a line unless its kind was written too often; gives whether it was written.

        Kinds are ours (error codes), never a caller's text: they are kept for ever.
        """
        if not self._logger.isEnabledFor(level):
            return False
        now = self._now_s()
        state = self._kinds.setdefault(kind, [float(BURST), now, 0.0])
        state[0] = min(float(BURST), state[0] + (now - state[1]))
        state[1] = now
        if state[0] < 1:
            state[2] += 1
            return False
        state[0] -= 1
        if state[2]:
            facts = {**facts, "suppressed": int(state[2])}
            state[2] = 0.0
        self._logger.log(level, kind, extra={"facts": facts}, exc_info=error)
        return True


class RequestLog:
    """One line for each request that was refused or failed, limited per error code; none for a success.

    No payload: a message may quote a value, so only failures of ours, which quote none, are written with theirs.
    """

    def __init__(self, limited: Limited) -> None:
        self._limited = limited

    def refused(self, status: int, code: str, request_id: bytes, model: str, error: BaseException) -> None:
        """Note an answer that is an error."""
        facts: dict[str, Any] = {"status": status, "code": code, "request_id": request_id.decode("ascii", "replace")}
        if model:
            facts["model"] = model
        ours = status == 500
        if ours:
            facts["message"] = str(error)
        self._limited.log(logging.ERROR if ours else logging.INFO, f"request_{code}", facts, error if ours else None)

    def untold(self, model: str, error: BaseException) -> None:
        """Note a mistake of ours in what answers are evidence for; the answers went out."""
        facts = {"model": model, "message": str(error)}
        self._limited.log(logging.ERROR, "answers_not_counted_as_evidence", facts, error)


def request_log(now_s: Callable[[], float] = time.monotonic) -> RequestLog:
    """The log of this process's requests."""
    return RequestLog(Limited(logging.getLogger("tidegate.requests"), now_s))
