"""The node's counts: the pages of living workers and the finals of dead ones, added together.

Counts live in shared memory that outlives both ends (ADR 2), so a killed worker loses none, and a control that was
killed finds everything again.
"""

import mmap
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from gateway.counters import (
    INFLIGHT,
    MODEL_VALUES,
    PAGE_BYTES,
    QUEUE_ROWS,
    RUNNING,
    WORKER_FIELDS,
    WORKER_INDEX,
    CounterPage,
    parts,
)

Values = npt.NDArray[np.int64]
ModelKey = tuple[str, str, str]
"""Model, version, variant."""

_ACTIVE: Final = struct.Struct("<Q")
_HEAD_BYTES: Final = 64
_GAUGES: Final = (INFLIGHT, QUEUE_ROWS)


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over every worker that ever was.

    Attributes:
        models: (model, version, variant) -> values, laid out as `gateway.counters` says.
        workers: values of the "worker" blocks.
        lost: counts that found no room in a page, without their labels.
    """

    models: dict[ModelKey, Values]
    workers: Values
    lost: Values


def total(pages: Iterable[CounterPage]) -> Totals:
    """Add pages up."""
    models: dict[ModelKey, Values] = {}
    workers = np.zeros(len(WORKER_FIELDS), np.int64)
    lost = np.zeros(MODEL_VALUES, np.int64)
    for page in pages:
        for key, block in page.blocks():
            values = np.frombuffer(block, np.int64)
            if key[0] == "model" and len(key) == 4:
                place = (key[1], key[2], key[3])
                models[place] = models[place] + values if place in models else values.copy()
            elif key[0] == "worker":
                workers[: len(values)] += values
            elif key[0] == "overflow":
                lost += values
    return Totals(models, workers, lost)


def mapped(descriptor: int) -> tuple[CounterPage, memoryview]:
    """The page behind a memfd and what follows it; the descriptor may be closed afterwards."""
    return parts(memoryview(mmap.mmap(descriptor, PAGE_BYTES)))


class Finals:
    """Counts of workers that are gone, in memory that the supervisor holds.

    Two halves: a dead worker's page is added to a copy in the idle half, and then one store makes that half the
    active one. Killed at any moment, control finds a worker's counts added wholly or not at all, and never twice.

    Args:
        buffer: PAGE_BYTES of shared memory, zeroed at first.
    """

    def __init__(self, buffer: memoryview) -> None:
        self._buffer = buffer.cast("B")
        half = (len(self._buffer) - _HEAD_BYTES) // 2 // 64 * 64
        self._halves = (slice(_HEAD_BYTES, _HEAD_BYTES + half), slice(_HEAD_BYTES + half, _HEAD_BYTES + 2 * half))

    @property
    def page(self) -> CounterPage:
        """What has been folded so far."""
        return CounterPage(self._buffer[self._halves[self._active]])

    @property
    def _active(self) -> int:
        return int(_ACTIVE.unpack_from(self._buffer)[0])

    def fold(self, start_id: str, dead: CounterPage) -> bool:
        """Add a dead worker's page; False when that was done before."""
        if any(key == ("folded", start_id) for key, _ in self.page.blocks()):
            return False
        active = self._active
        page = copied(self._buffer[self._halves[active]], self._buffer[self._halves[1 - active]])
        for key, block in dead.blocks():
            if key[0] in (RUNNING, "notes"):
                # What a worker did just now, and single requests: these do not add up.
                continue
            own = page.block(key[0], key[1:], len(block))
            mine, theirs = np.frombuffer(own, np.int64), np.frombuffer(block, np.int64).copy()
            if key[0] == "model":
                theirs[list(_GAUGES)] = 0
            elif key[0] == "worker":
                _close_books(theirs)
            mine += theirs[: len(mine)]
        page.block("folded", (start_id,), 0)
        _ACTIVE.pack_into(self._buffer, 0, 1 - active)
        return True


def copied(source: memoryview, target: memoryview) -> CounterPage:
    """A page over `target` with what the page in `source` holds; memory that no block uses is not touched."""
    used, before = CounterPage(source).used, CounterPage(target).used
    target[:used] = source[:used]
    if before > used:
        target[used:before] = bytes(before - used)
    return CounterPage(target)


def _close_books(values: Values) -> None:
    """A dead worker has no open connection and no bytes in flight; what it had not written of decisions is lost."""
    values[WORKER_INDEX["connections_closed_total"]] = values[WORKER_INDEX["connections_total"]]
    values[WORKER_INDEX["bytes_in_flight"]] = 0
    values[WORKER_INDEX["decisions_dropped_total"]] += values[WORKER_INDEX["decisions_waiting"]]
    values[WORKER_INDEX["decisions_waiting"]] = 0
