"""The decision log of one worker: a line for each request that a policy routed. Off unless asked for.

On the loop a batch costs one tuple per request; a thread makes lines of them and gives them to a sink, part by part.
What finds no room in the buffer, or what the sink cannot keep, is dropped and counted: nobody waits for a log.

    buffer   tuples -> lines -> part -> sink        a line has left the buffer once it is written, or dropped
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import orjson

from gateway.config import Decisions
from gateway.counters import WORKER_INDEX
from gateway.decisionfiles import keyed_prediction
from gateway.exchange import Exchange, Placed
from gateway.predictions import ID_CHARS
from gateway.unitkeys import unit_text
from runtimes.tensors import Array

FLUSH_S: Final = 0.25
LAST_NS: Final = 2_000_000_000
"""At the end a sink that keeps nothing is asked for so long."""
_WRITTEN: Final = WORKER_INDEX["decisions_written_total"]
_DROPPED: Final = WORKER_INDEX["decisions_dropped_total"]
_WAITING: Final = WORKER_INDEX["decisions_waiting"]
_log: Final = logging.getLogger(__name__)


class NotNow(Exception):
    """A part could not be written, or nobody knows whether it was: the same part may be given again later."""


class Sink(Protocol):
    """Where lines go.

    Attributes:
        part_lines, part_bytes: of one part at most, a line beyond the bytes alone excepted.
        line_bytes: a longer line cannot be kept.
    """

    part_lines: int
    part_bytes: int
    line_bytes: int

    def open(self) -> None:
        """Make ready for the first part; may raise OSError."""

    def write(self, lines: Sequence[bytes]) -> None:
        """Keep all of these lines, or none. Called in the log's thread, and may block it.

        Raises:
            NotNow: the next part is the same lines again.
            OSError: they cannot be kept.
        """


class Facts:
    """What the lines of one variant of one revision have in common."""

    __slots__ = ("digest", "model", "outputs", "revision", "variant")

    def __init__(self, model: str, revision: int, variant: str, digest: str, outputs: Sequence[str]) -> None:
        self.model = model
        self.revision = revision
        self.variant = variant
        self.digest = digest
        self.outputs = tuple(outputs)


class DecisionLog:
    """Buffer and thread.

    Args:
        sink: used by this log alone.
        counts: the worker's, in its page.
        now_ns: the clock of requests; Unix time is asked for in the thread alone.
        now_ms: Unix time.

    Attributes:
        key: of the store, for hashes of ids; without one nothing is written.
        outputs: names of outputs whose values are written.
    """

    def __init__(
        self,
        settings: Decisions,
        sink: Sink,
        counts: memoryview,
        *,
        now_ns: Callable[[], int],
        now_ms: Callable[[], int],
    ) -> None:
        self.key = b""
        self.outputs = settings.outputs
        self._sink = sink
        self._counts = counts
        self._now_ns, self._now_ms = now_ns, now_ms
        self._most = settings.buffer
        self._waiting: deque[tuple[int, Facts, str, list[tuple[Any, ...]]]] = deque()
        self._made: deque[bytes] = deque()
        self._part: list[bytes] = []
        self._taken = 0
        self._done = 0
        self._counting = threading.Lock()
        self._stop = threading.Event()
        self._troubled = False
        self._thread = threading.Thread(target=self._run, name="decisions", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._sink.open()
        self._thread.start()

    def close(self) -> None:
        """Write what waits, and end. Blocks, and a sink may need the loop: for a thread."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(5.0)

    # ---- on the loop ----

    def answered(
        self, facts: Facts, places: Sequence[int], jobs: Sequence[Exchange], outputs: Sequence[Array], now: int
    ) -> None:
        """Requests of one batch are answered, each by the name of its prediction.

        Args:
            places: of the outputs that are written.
            now: by the clock of requests, ns.
        """
        count = len(jobs)
        if self._taken - self._done + count > self._most:
            self._drop(count)
            return
        if places:
            lines = _with_values(jobs, [outputs[place] for place in places])
        else:
            lines = [(job.request_id, job.prediction, job.placed, None) for job in jobs]
        self._taken += count
        self._counts[_WAITING] = self._taken - self._done
        self._waiting.append((now, facts, "ok", lines))

    def ended(self, facts: Facts, outcome: str, request_id: bytes, placed: Placed) -> None:
        """A request that got no answer from this variant: bad, neutral, left or fallback."""
        if self._taken - self._done >= self._most:
            self._drop(1)
            return
        self._taken += 1
        self._counts[_WAITING] = self._taken - self._done
        self._waiting.append((self._now_ns(), facts, outcome, [(request_id, b"", placed, None)]))

    # ---- in the thread ----

    def _run(self) -> None:
        while not self._stop.wait(FLUSH_S):
            self._flush()
        self._flush(self._now_ns() + LAST_NS)
        left = [len(self._part), len(self._made)]
        left += [sum(job[2] is not None for job in jobs) for _, _, _, jobs in self._waiting]
        self._drop(sum(left))
        self._counts[_WAITING] = 0

    def _flush(self, until_ns: int | None = None) -> None:
        """Write part by part until nothing waits, the sink cannot, or the time is over."""
        begun_ms = self._now_ms() - self._now_ns() // 1_000_000
        while self._part or self._made or self._waiting:
            if not self._part:
                self._make(begun_ms)
                self._part = self._next_part()
            if self._part and not self._written():
                return
            if until_ns is not None and self._now_ns() >= until_ns:
                return

    def _make(self, begun_ms: int) -> None:
        """Lines for one part at least, if so many wait."""
        while self._waiting and len(self._made) < self._sink.part_lines:
            now, facts, outcome, jobs = self._waiting.popleft()
            lines = self._lines(begun_ms + now // 1_000_000, facts, outcome, jobs)
            fitting = [line for line in lines if len(line) <= self._sink.line_bytes]
            self._drop(len(lines) - len(fitting))
            self._done += len(jobs) - len(fitting)
            self._made += fitting

    def _next_part(self) -> list[bytes]:
        part: list[bytes] = []
        size = 0
        while self._made and len(part) < self._sink.part_lines:
            size += len(self._made[0])
            if part and size > self._sink.part_bytes:
                break
            part.append(self._made.popleft())
        return part

    def _written(self) -> bool:
        """Give the part to the sink; False = it has to be given again."""
        lines = len(self._part)
        try:
            if not self.key:
                raise OSError("the store has not given its key yet")
            self._sink.write(self._part)
        except NotNow as error:
            self._trouble(str(error))
            return False
        except OSError as error:
            self._trouble(error.strerror or str(error))
            self._drop(lines)
        else:
            self._troubled = False
            self._counts[_WRITTEN] += lines
        self._done += lines
        self._counts[_WAITING] = self._taken - self._done
        self._part = []
        return True

    def _drop(self, lines: int) -> None:
        # Counted on the loop and in the thread.
        with self._counting:
            self._counts[_DROPPED] += lines

    def _trouble(self, reason: str) -> None:
        if not self._troubled:
            _log.error("decisions_not_written", extra={"facts": {"reason": reason}})
        self._troubled = True

    def _lines(self, at_ms: int, facts: Facts, outcome: str, jobs: list[tuple[Any, ...]]) -> list[bytes]:
        key, found = self.key, []
        for request_id, prediction, placed, values in jobs:
            if placed is None:
                continue
            line = {
                "time_ms": at_ms,
                "request": request_id.decode("ascii", "replace"),
                "model": facts.model,
                "digest": facts.digest,
                "revision": facts.revision,
                "variant": facts.variant,
                "rule": placed.rule,
                "unit": unit_text(placed.unit),
                "outcome": outcome,
            }
            if prediction:
                line["prediction"] = keyed_prediction(key, prediction[:ID_CHARS])
            if values is not None:
                line["outputs"] = dict(zip(facts.outputs, values, strict=True))
            found.append(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
        return found


def _with_values(jobs: Sequence[Exchange], outputs: Sequence[Array]) -> list[tuple[Any, ...]]:
    """With the value of each output, for requests of one row."""
    if len(outputs) == 1 and outputs[0].size == len(jobs) and all(job.rows == 1 for job in jobs):
        values_of_all = outputs[0].reshape(-1).tolist()
        return [
            (job.request_id, job.prediction, job.placed, [_plain(value)])
            for job, value in zip(jobs, values_of_all, strict=True)
        ]
    found: list[tuple[Any, ...]] = []
    row = 0
    for job in jobs:
        values = [_first(array[row]) for array in outputs] if job.rows == 1 else None
        found.append((job.request_id, job.prediction, job.placed, values))
        row += job.rows
    return found


def _first(row: Any) -> object:
    flat = row.reshape(-1) if hasattr(row, "reshape") else [row]
    value = flat[0] if len(flat) == 1 else None
    return _plain(value.item() if value is not None and hasattr(value, "item") else value)


def _plain(value: object) -> object:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
