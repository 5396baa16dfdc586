"""The decision log of one worker: a line for each request that a policy routed. Off unless asked for.

On the loop a batch costs one tuple per request; a thread makes lines of them and writes. What finds no room in the
buffer or on the disk is dropped and counted: nobody waits for a log.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import orjson

from gateway.config import Decisions
from gateway.counters import WORKER_INDEX
from gateway.decisionfiles import FOLDER, append, keyed_prediction, keyed_unit
from gateway.exchange import Exchange, Placed
from gateway.predictions import ID_CHARS
from runtimes.tensors import Array

FLUSH_S: Final = 0.25
_CHUNK_LINES: Final = 2_000
_WRITTEN: Final = WORKER_INDEX["decisions_written_total"]
_DROPPED: Final = WORKER_INDEX["decisions_dropped_total"]
_log: Final = logging.getLogger(__name__)


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
        counts: the worker's, in its page.
        now_ns: the clock of requests; Unix time is asked for in the thread alone.
        now_ms: Unix time.

    Attributes:
        key: of the store, for hashes; without one nothing is written.
        outputs: names of outputs whose values are written.
    """

    def __init__(
        self,
        settings: Decisions,
        data_dir: Path,
        slot: int,
        counts: memoryview,
        *,
        now_ns: Callable[[], int],
        now_ms: Callable[[], int],
    ) -> None:
        self.key = b""
        self.outputs = settings.outputs
        self._settings = settings
        self._folder = data_dir / FOLDER
        self._slot = str(slot)
        self._counts = counts
        self._now_ns, self._now_ms = now_ns, now_ms
        self._most = settings.buffer
        self._waiting: deque[tuple[int, Facts, str, list[tuple[Any, ...]]]] = deque()
        self._taken = 0
        self._done = 0
        self._stop = threading.Event()
        self._troubled = False
        self._thread = threading.Thread(target=self._run, name="decisions", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self._thread.start()

    def close(self) -> None:
        """Write what waits, and end."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(5.0)

    # ---- on the loop ----

    def answered(
        self, facts: Facts, places: Sequence[int], jobs: Sequence[Exchange], outputs: Sequence[Array], now: int
    ) -> None:
        """Requests of one batch are answered, each named by its lead.

        Args:
            places: of the outputs that are written.
            now: by the clock of requests, ns.
        """
        count = len(jobs)
        if self._taken - self._done + count > self._most:
            self._counts[_DROPPED] += count
            return
        if places:
            lines = _with_values(jobs, [outputs[place] for place in places])
        else:
            lines = [(job.request_id, job.lead, job.placed, None) for job in jobs]
        self._taken += count
        self._waiting.append((now, facts, "ok", lines))

    def ended(self, facts: Facts, outcome: str, request_id: bytes, placed: Placed) -> None:
        """A request that got no answer from this variant: bad, neutral, left or fallback."""
        if self._taken - self._done >= self._most:
            self._counts[_DROPPED] += 1
            return
        self._taken += 1
        self._waiting.append((self._now_ns(), facts, outcome, [(request_id, b"", placed, None)]))

    # ---- in the thread ----

    def _run(self) -> None:
        while not self._stop.wait(FLUSH_S):
            self._flush()
        self._flush()

    def _flush(self) -> None:
        begun_ms = self._now_ms() - self._now_ns() // 1_000_000
        while self._waiting:
            lines: list[bytes] = []
            while self._waiting and len(lines) < _CHUNK_LINES:
                now, facts, outcome, jobs = self._waiting.popleft()
                lines += self._lines(begun_ms + now // 1_000_000, facts, outcome, jobs)
                self._done += len(jobs)
            self._write(lines)

    def _lines(self, at_ms: int, facts: Facts, outcome: str, jobs: list[tuple[Any, ...]]) -> list[bytes]:
        key, found = self.key, []
        for request_id, lead, placed, values in jobs:
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
                "unit": keyed_unit(key, facts.model, placed.unit),
                "outcome": outcome,
            }
            if lead:
                line["prediction"] = keyed_prediction(key, lead.partition(b"\r\n")[0][:ID_CHARS])
            if values is not None:
                line["outputs"] = dict(zip(facts.outputs, values, strict=True))
            found.append(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
        return found

    def _write(self, lines: list[bytes]) -> None:
        settings = self._settings
        try:
            if not self.key:
                raise OSError("the store has not given its key yet")
            append(self._folder, self._slot, b"".join(lines), settings.file_bytes, settings.files)
        except OSError as error:
            self._counts[_DROPPED] += len(lines)
            if not self._troubled:
                _log.error("decisions_not_written", extra={"facts": {"reason": error.strerror or str(error)}})
            self._troubled = True
        else:
            self._counts[_WRITTEN] += len(lines)
            self._troubled = False


def _with_values(jobs: Sequence[Exchange], outputs: Sequence[Array]) -> list[tuple[Any, ...]]:
    """With the value of each output, for requests of one row."""
    if len(outputs) == 1 and outputs[0].size == len(jobs) and all(job.rows == 1 for job in jobs):
        values_of_all = outputs[0].reshape(-1).tolist()
        return [
            (job.request_id, job.lead, job.placed, [_plain(value)])
            for job, value in zip(jobs, values_of_all, strict=True)
        ]
    found: list[tuple[Any, ...]] = []
    row = 0
    for job in jobs:
        values = [_first(array[row]) for array in outputs] if job.rows == 1 else None
        found.append((job.request_id, job.lead, job.placed, values))
        row += job.rows
    return found


def _first(row: Any) -> object:
    flat = row.reshape(-1) if hasattr(row, "reshape") else [row]
    value = flat[0] if len(flat) == 1 else None
    return _plain(value.item() if value is not None and hasattr(value, "item") else value)


def _plain(value: object) -> object:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
