"""Evidence of one worker: how each variant of a policy fared, in the worker's shared page.

Kinds of blocks (`gateway.counters`), read by control also after the worker's death (ADR 2):

    evidence   labels (model name, policy revision, stratum, variant): counts of requests. Stratum "-" holds those
               that are no evidence: not randomised, forced, or overridden.
    notes      a ring of noteworthy single requests, two int64 each: what happened, and the unit's hash. Control
               finds erring units in it (a unit errs once per rollout, however often) and a sample of all units.

The ring is bounded: what control did not read in time is overwritten, and control counts the gap. A gap thins both
variants alike, since one ring holds both.
"""

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gateway.counters import (
    BATCH_BOUNDS,
    BATCH_BUCKETS,
    EXECUTIONS_JUDGED,
    RUN_BOUNDS_NS,
    RUN_BUCKETS,
    RUN_TIMES,
    CounterPage,
)

if TYPE_CHECKING:
    from mypy_extensions import i64

FIELDS: Final = ("routed", "ok", "bad", "slow", "neutral", "fallback")
ROUTED: Final = 0
OK: Final = 1
BAD: Final = 2
SLOW: Final = 3
NEUTRAL: Final = 4
FALLBACK: Final = 5
"""routed = ok + bad + neutral once all are finished; slow are some of the ok, fallback some of the bad."""

NOTE_BAD, NOTE_SLOW, NOTE_SEEN = 1, 2, 4
"""What happened to the request: flags. The five bits above them hold one more than the bin of its score; 0 = none."""
NOTE_WAITED: Final = 31 << 3
"""A note of its own, which no bin of a score looks like: the request waited long before its execution began. Who knows
nothing of it finds no flag in it."""
NOTE_SCORES: Final = 16
"""Equal bins of a probability that notes tell."""
_SCORE_SHIFT: Final = 3

RING_NOTES: Final = 16_384
"""256 KiB. At 250 ms between reads: 65,000 erring requests per second."""
UNCOUNTED: Final = "-"
NOTED_UNIT: Final = (1 << 63) - 1
"""What notes and experiments keep of a unit's keyed hash of 64 bits: it fits the page's int64."""
REVISION_MASK: Final = (1 << 24) - 1


@dataclass(frozen=True, slots=True)
class Note:
    """One noteworthy request.

    Attributes:
        flags: NOTE_*.
        number, revision: of the policy that routed it; the revision's lower 24 bits.
        stratum, variant: indices in that policy.
        unit: keyed hash of its unit, 63 bits.
    """

    flags: int
    number: int
    revision: int
    stratum: int
    variant: int
    unit: int


class NoteRing:
    """The ring of one worker: written by the worker, read by control."""

    def __init__(self, page: CounterPage) -> None:
        self._values = page.block("notes", (), 1 + 2 * RING_NOTES)

    @property
    def written(self) -> int:
        """Notes ever written."""
        return int(self._values[0])

    def write(self, flags: int, place: int, unit: int) -> None:
        """Add a note; `place` as `place_of` makes it."""
        values = self._values
        written = values[0]
        at = 1 + 2 * (written % RING_NOTES)
        values[at] = place | flags
        values[at + 1] = unit & NOTED_UNIT
        # Last: a reader never sees half a note.
        values[0] = written + 1

    def read(self, start: int) -> tuple[list[Note], int, int]:
        """Notes from number `start` on: they, where to read on, and how many were overwritten before."""
        end = self.written
        first = max(start, end - RING_NOTES)
        notes = [_note(*self._pair(number)) for number in range(first, end)]
        # What the worker has overwritten while this was read is no note of its number any more.
        spoilt = max(0, min(self.written - RING_NOTES, end) - first)
        return notes[spoilt:], end, first - start + spoilt

    def _pair(self, number: int) -> tuple[int, int]:
        at = 1 + 2 * (number % RING_NOTES)
        return int(self._values[at]), int(self._values[at + 1])


def place_of(number: int, revision: int, stratum: int, variant: int) -> int:
    """Where a request was routed, as one number that leaves room for the flags; never 0.

    Args:
        number: of the policy on this node, from 1 to 65,535.
        stratum, variant: indices below 128.
    """
    assert 0 < number < 1 << 16, "control gives out small numbers"
    assert max(stratum, variant) < 128, "a policy has fewer strata and variants"
    return number << 46 | (revision & REVISION_MASK) << 22 | stratum << 15 | variant << 8


def _note(what: int, unit: int) -> Note:
    return Note(what & 0xFF, what >> 46, what >> 22 & REVISION_MASK, what >> 15 & 0x7F, what >> 8 & 0x7F, unit)


def score_flags(score: float) -> int:
    """The bin of a score in [0, 1], as flags of a note."""
    return (min(int(score * NOTE_SCORES), NOTE_SCORES - 1) + 1) << _SCORE_SHIFT


def score_of(flags: int) -> int | None:
    """Bin of the score; None = it is not known."""
    return (flags >> _SCORE_SHIFT) - 1 if flags >> _SCORE_SHIFT else None


class Executions:
    """How long the executions of one variant of a policy took, by batch size: one add each, or two.

    Args:
        version: of the variant, whose run times are those of every revision.
        limits_ns: per bucket of batch sizes; longer is slow, 0 = not known yet.
        strata: how many the policy has. Rules may send long executions to other shares, so each is compared in itself.
    """

    def __init__(
        self,
        page: CounterPage,
        model: str,
        revision: int,
        variant: str,
        version: str,
        limits_ns: tuple[int, ...],
        strata: int = 1,
    ) -> None:
        assert len(limits_ns) == BATCH_BUCKETS, "one for each bucket"
        self._judged = _block(page, EXECUTIONS_JUDGED, (model, str(revision), variant), 2 * BATCH_BUCKETS * strata)
        self._times = _block(page, RUN_TIMES, (model, version), BATCH_BUCKETS * RUN_BUCKETS)
        self._limits_ns = limits_ns

    def add(self, rows: int, run_ns: int, stratum: int) -> None:
        """One execution of so many rows.

        Args:
            stratum: what randomised the request that began it; -1 = nothing did, and it is no evidence.
        """
        bucket = bisect_left(BATCH_BOUNDS, rows)
        self._times[bucket * RUN_BUCKETS + bisect_left(RUN_BOUNDS_NS, run_ns)] += 1
        limit_ns = self._limits_ns[bucket]
        if limit_ns and stratum >= 0:
            # In time and slow, not all and slow: no reader sees a slow one that is not among all.
            self._judged[2 * (stratum * BATCH_BUCKETS + bucket) + (1 if run_ns > limit_ns else 0)] += 1


def happened(flags: int) -> int:
    """What a note says beside the score: NOTE_* alone."""
    return flags if flags == NOTE_WAITED else flags & (NOTE_BAD | NOTE_SLOW | NOTE_SEEN)


class Tally:
    """How requests of one variant fared, in one stratum of one revision.

    Attributes:
        counts: as `FIELDS`, in the page.
        routed: requests that are not in the page yet: adding there costs as much as deciding.
    """

    __slots__ = ("counts", "routed")

    def __init__(self, counts: memoryview) -> None:
        self.counts = counts
        self.routed: i64 = 0


class Routings:
    """Requests that were routed and are not in the page yet. They get there before any of them is executed, so that
    a worker that dies of one leaves them in its page, and before one of them is counted as failed."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: list[Tally] = []

    def add(self, tally: Tally) -> None:
        """One more."""
        if not tally.routed:
            self._waiting.append(tally)
        tally.routed += 1

    def write(self) -> None:
        """Into the page."""
        if not self._waiting:
            return
        for tally in self._waiting:
            tally.counts[ROUTED] += tally.routed
            tally.routed = 0
        self._waiting.clear()


def tally_block(page: CounterPage, model: str, revision: int, stratum: str, variant: str) -> memoryview:
    """The counts of one variant in one stratum of one revision; nobody sees those that find no room in the page."""
    return _block(page, "evidence", (model, str(revision), stratum, variant), len(FIELDS))


def stratum_of(place: int) -> int:
    """Index of what randomised a request, by its place; -1 = nothing did."""
    return place >> 15 & 0x7F if place else -1


def _block(page: CounterPage, kind: str, labels: tuple[str, ...], values: int) -> memoryview:
    """A block of the page; private memory when it has no room."""
    block = page.block(kind, labels, values)
    return block if len(block) == values else memoryview(bytearray(8 * values)).cast("q")


def tallies(page: CounterPage) -> Iterator[tuple[tuple[str, int, str, str], memoryview]]:
    """Every such block of a page: (model, revision, stratum, variant) and its counts."""
    for key, block in page.blocks():
        if key[0] == "evidence":
            yield (key[1], int(key[2]), key[3], key[4]), block
