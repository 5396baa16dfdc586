"""What this node can say about its policies: read from the pages of its workers, living and dead."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt

from gateway.control.messages import PolicyState, Status
from gateway.control.record import REVISIONS_TOLD, Lost, NodeReport, Notes
from gateway.counters import BATCH_BOUNDS, EXECUTIONS_JUDGED, RUN_TIMES, CounterPage
from gateway.failing import MOST
from gateway.tally import BAD, NEUTRAL, OK, REVISION_MASK, ROUTED, Note, NoteRing, tallies

Counts = npt.NDArray[np.int64]
K = TypeVar("K")
_NOTES_PER_REPORT: Final = 16_384
KEEP_LOST: Final = 64
"""Deaths of workers that go on being reported."""
_BATCHES: Final = (*BATCH_BOUNDS, 0)


@dataclass(slots=True)
class Reading:
    """All pages, read once.

    Attributes:
        counts: (policy, revision, stratum, variant) -> totals.
        shadow: (policy, revision, variant) -> totals.
        notes: worker -> number of the first note, and the notes.
        executions: (policy, revision, variant) -> totals by batch size.
        run_times: (model, version) -> histograms by batch size.
    """

    counts: dict[tuple[str, int, str, str], Counts] = field(default_factory=dict)
    shadow: dict[tuple[str, int, str], Counts] = field(default_factory=dict)
    notes: dict[str, tuple[int, list[Note]]] = field(default_factory=dict)
    executions: dict[tuple[str, int, str], Counts] = field(default_factory=dict)
    run_times: dict[tuple[str, str], Counts] = field(default_factory=dict)


class Reporter:
    """Reads pages and makes reports of them.

    Args:
        node, run: as in `NodeReport`.
    """

    def __init__(self, node: str, run: str) -> None:
        self._node = node
        self._run = run
        self._cursors: dict[str, int] = {}
        self._last_notes: dict[str, tuple[int, list[Note]]] = {}
        self._lost: list[tuple[str, str, Lost]] = []

    def read(self, living: Mapping[str, CounterPage], finals: CounterPage) -> Reading:
        """Everything now; each note comes in one reading only, those of the dead once more."""
        found = Reading(notes=self._last_notes)
        self._last_notes = {}
        for page in (finals, *living.values()):
            _add_counts(page, found)
        for worker, page in living.items():
            self._read_notes(worker, page, found.notes)
        self._cursors = {worker: at for worker, at in self._cursors.items() if worker in living}
        return found

    def rewind(self) -> None:
        """Read all notes once more that are still there: who took them has lost them. `Intake` drops what it knows."""
        self._cursors.clear()

    def _read_notes(self, worker: str, page: CounterPage, into: dict[str, tuple[int, list[Note]]]) -> None:
        start = self._cursors.get(worker, 0)
        notes, end, _ = NoteRing(page).read(start)
        self._cursors[worker] = end
        if notes:
            into[worker] = (end - len(notes), notes)

    def died(self, worker: str, page: CounterPage, blamed_digest: str) -> None:
        """A worker is gone, its page soon too: keep its last notes, and what it was executing for whom."""
        self._read_notes(worker, page, self._last_notes)
        for (model, revision, stratum, variant), block in tallies(page):
            requests = int(block[ROUTED] - block[OK] - block[BAD] - block[NEUTRAL])
            if requests > 0 and blamed_digest:
                self._lost.append((model, blamed_digest, Lost(worker, revision, stratum, variant, requests)))
        self._lost = self._lost[-KEEP_LOST:]

    def report(
        self, state: PolicyState, reading: Reading, statuses: Mapping[str, Status], crashes: Mapping[str, int]
    ) -> NodeReport:
        """About one policy.

        Args:
            statuses: of the live workers, by start id.
            crashes: digest -> workers lost within 60 s while they executed it.
        """
        revisions = {worker: status.policies.get(state.name, 0) for worker, status in statuses.items()}
        digests = {pin.digest for pin in state.variants}
        holds = [_ready(status) for status in statuses.values()]
        return NodeReport(
            node=self._node,
            run=self._run,
            acked=min(revisions.values(), default=0),
            fresh=bool(statuses),
            lagging=tuple(worker for worker, revision in revisions.items() if revision < state.revision),
            ready=tuple(sorted(digests & set[str].intersection(*holds))) if holds else (),
            failed=_failures(statuses.values(), digests),
            counts=tuple(
                (revision, stratum, variant, tuple(counts.tolist()))
                for (name, revision, stratum, variant), counts in reading.counts.items()
                if name == state.name
            ),
            shadow=tuple(
                (revision, variant, tuple(counts.tolist()))
                for (name, revision, variant), counts in reading.shadow.items()
                if name == state.name
            ),
            notes=tuple(_notes_of(state.number, worker, *read) for worker, read in reading.notes.items()),
            lost=tuple(lost for name, digest, lost in self._lost if name == state.name and _is(state, lost, digest)),
            zeroed=tuple(
                (worker, reason)
                for worker, status in statuses.items()
                for name, rollout, reason in status.zeroed
                if name == state.name and rollout == state.rollout
            ),
            crashes={digest: count for digest, count in crashes.items() if digest in digests},
            failing=tuple(
                request
                for status in statuses.values()
                for name, rollout, requests in status.failing
                if name == state.name and rollout == state.rollout
                for request in requests
            )[-MOST:],
            executions=tuple(
                (revision, variant, _by_size(counts))
                for (name, revision, variant), counts in reading.executions.items()
                if name == state.name and state.run_ns and revision > state.revision - REVISIONS_TOLD
            ),
        )


def _add_counts(page: CounterPage, found: Reading) -> None:
    for place, block in tallies(page):
        _add(found.counts, place, block)
    for key, block in page.blocks():
        if key[0] == "shadow":
            _add(found.shadow, (key[1], int(key[2]), key[3]), block)
        elif key[0] == EXECUTIONS_JUDGED:
            _add(found.executions, (key[1], int(key[2]), key[3]), block)
        elif key[0] == RUN_TIMES:
            _add(found.run_times, (key[1], key[2]), block)


def _add(sums: dict[K, Counts], place: K, block: memoryview) -> None:
    values = np.frombuffer(block, np.int64)
    sums[place] = sums[place] + values if place in sums else values.copy()


def _by_size(counts: Counts) -> dict[int, tuple[int, int]]:
    """Executions in time, and slow, of the strata and buckets that have any."""
    strata = len(counts) // (2 * len(_BATCHES))
    keys = (stratum << 16 | size for stratum in range(strata) for size in _BATCHES)
    pairs = zip(keys, counts[::2].tolist(), counts[1::2].tolist(), strict=True)
    return {key: (in_time, slow) for key, in_time, slow in pairs if in_time or slow}


def _notes_of(number: int, worker: str, first: int, notes: list[Note]) -> Notes:
    """A worker's notes as one policy's report has them: those of other policies keep their place, empty."""
    kept = [
        (note.flags, note.revision & REVISION_MASK, note.stratum, note.variant, note.unit)
        if note.number == number
        else (0, 0, 0, 0, 0)
        for note in notes[-_NOTES_PER_REPORT:]
    ]
    return Notes(worker, first + len(notes) - len(kept), tuple(kept))


def _is(state: PolicyState, lost: Lost, digest: str) -> bool:
    """Whether a lost request was on the version that brought its worker down: the others are nobody's fault."""
    return any(pin.variant == lost.variant and pin.digest == digest for pin in state.variants)


def _ready(status: Status) -> set[str]:
    return {model.digest for model in status.models if model.state == "READY"}


def _failures(statuses: Iterable[Status], digests: set[str]) -> dict[str, str]:
    return {
        model.digest: model.reason
        for status in statuses
        for model in status.models
        if model.digest in digests and model.state == "UNAVAILABLE" and model.reason
    }
