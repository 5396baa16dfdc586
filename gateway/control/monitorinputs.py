"""What the monitor is fed with: totals of counts out of the workers' pages and other nodes' reports, and labels. Pure.

Nodes tell totals since the start of their process tree, so that telling again is harmless, and who takes them adds what
has grown since.
"""

from collections.abc import Iterable, Iterator, Sequence, Set
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from gateway.control.labelnotes import LabelNote
from gateway.control.messages import WantedModel, Watched
from gateway.counters import DRIFT, DRIFT_TAKEN, EXECUTION_DURATION, QUEUE_DURATION, REQUEST_DURATION, CounterPage
from gateway.monitor.counting import Counts
from gateway.monitor.labelwords import label_of
from gateway.monitor.plan import ROWS, SKIPPED, encoded
from gateway.monitor.realised import Labelled
from gateway.monitor.reference import Reference
from gateway.monitor.settings import Spec
from gateway.monitor.stages import BUCKETS

PLACES_PER_ENTRY: Final = 5_000
"""Of a vector, in one entry of the store's stream: at most 64 KiB."""
MOST_PLACES: Final = 8_000_000
"""A page of counts has no more."""
LOOKS: Final = 10_000
"""At a vector that is being changed: about 2 ms, then it waits for the next round."""


class Series(NamedTuple):
    """Whose counts these are; `plan` is the id of the reference."""

    model: str
    version: str
    variant: str
    plan: str


class Totals(msgspec.Struct, frozen=True, array_like=True):
    """Counts of one series on one node since its start: places of a vector and their values.

    Attributes:
        part, parts: a large vector comes in parts; they count together.
        slow, answered: of the series' answers.
    """

    node: str
    run: str
    version: str
    variant: str
    plan: str
    size: int
    part: int
    parts: int
    places: list[int]
    values: list[int]


class Answers(msgspec.Struct, frozen=True, array_like=True):
    """Answers of one series on one node since its start, by latency bucket of each stage (`buckets_of`)."""

    node: str
    run: str
    version: str
    variant: str
    buckets: list[int]


def watched(model: WantedModel, reference: Reference, spec: Spec) -> Watched:
    """What workers are to count of a version."""
    header = spec.groups.header.lower() if spec.groups is not None and reference.plan.groups else ""
    return Watched(model.name, model.version, model.digest, encoded(reference.plan), header, spec.labels.ids)


def totals_of(pages: Iterable[CounterPage], served: Set[tuple[str, ...]] | None = None) -> dict[Series, Counts]:
    """Sums over pages, by series. Args: served: as of `settled_totals`; None = all."""
    found: dict[Series, Counts] = {}
    for page in pages:
        for key, block in page.blocks():
            if key[0] == DRIFT and len(key) == 5 and (served is None or key[1:3] in served):
                series = Series(*key[1:])
                values = np.frombuffer(block, np.int64)
                known = found.get(series)
                found[series] = values.copy() if known is None or known.shape != values.shape else known + values
    return found


def settled_totals(
    living: Iterable[CounterPage], finals: CounterPage, served: Set[tuple[str, ...]]
) -> dict[Series, Counts]:
    """As `totals_of`, without a series that a worker does not cease to change: it is whole at the next look.

    Args:
        served: (model, version); pages keep others for as long as they are there, and they are not copied.
    """
    found = totals_of([finals], served)
    unsettled: set[Series] = set()
    for page in living:
        blocks = {key: block for key, block in page.blocks() if key[0] in (DRIFT, DRIFT_TAKEN) and len(key) == 5}
        for key, block in blocks.items():
            if key[0] != DRIFT or key[1:3] not in served:
                continue
            series, values = Series(*key[1:]), _settled(block, blocks.get((DRIFT_TAKEN, *key[1:])))
            if values is None:
                unsettled.add(series)
                continue
            known = found.get(series)
            found[series] = values if known is None or known.shape != values.shape else known + values
    return {series: counts for series, counts in found.items() if series not in unsettled}


def _settled(block: memoryview, taken: memoryview | None) -> Counts | None:
    """A copy that was not changed meanwhile. A worker adds a slice within microseconds."""
    for _ in range(LOOKS):
        before = taken[1] if taken is not None else 1
        if before & 1:
            continue
        values = np.frombuffer(block, np.int64).copy()
        if taken is not None and taken[1] == before:
            return values
    return None


def lost_of(page: CounterPage) -> dict[Series, int]:
    """Rows that workers had noted and not counted when they died, by series. Args: page, of the finals."""
    taken: dict[Series, int] = {}
    for key, block in page.blocks():
        if len(key) == 5 and key[0] in (DRIFT, DRIFT_TAKEN):
            series = Series(*key[1:])
            change = int(block[0]) if key[0] == DRIFT_TAKEN else -int(block[ROWS]) - int(block[SKIPPED])
            taken[series] = taken.get(series, 0) + change
    return taken


def split(node: str, run: str, series: Series, counts: Counts) -> Iterator[Totals]:
    """A vector as entries of a stream."""
    places = np.flatnonzero(counts)
    parts = max(1, -(-len(places) // PLACES_PER_ENTRY))
    for part in range(parts):
        mine = places[part * PLACES_PER_ENTRY : (part + 1) * PLACES_PER_ENTRY]
        yield Totals(
            node, run, *series[1:], len(counts), part, parts, mine.tolist(), counts[mine].tolist()
        )  # fmt: skip


def joined(parts: Sequence[Totals]) -> Counts:
    """What `split` was given. Raises ValueError: parts of another vector."""
    if not 0 < parts[0].size <= MOST_PLACES:
        raise ValueError("no vector is so large")
    counts = np.zeros(parts[0].size, np.int64)
    for one in parts:
        places = np.array(one.places, np.int64)
        if one.size != len(counts) or (len(places) and not 0 <= places.min() <= places.max() < len(counts)):
            raise ValueError("parts of another vector")
        counts[places] = one.values
    return counts


def buckets_of(values: Counts) -> list[int]:
    """Latency buckets of a "model" block: those of `gateway.monitor.stages.STAGES`, one after the other."""
    starts = (REQUEST_DURATION, QUEUE_DURATION, EXECUTION_DURATION)
    return [int(count) for start in starts for count in values[start : start + BUCKETS]]


def labelled(note: LabelNote, before: Any, positive: str, negative: str = "") -> Labelled:
    """A label as the monitor counts it; one that says nothing only takes back what stood there.

    Args:
        before: the value that it replaced; None = none.
        positive, negative: see `gateway.monitor.labelwords.label_of`.
    """
    return Labelled(
        predicted_s=note.predicted_s,
        observed_s=note.observed_s,
        variant=note.variant,
        group=-1 if note.group is None else note.group,
        decision=note.decision,
        bin=note.score_bin,
        label=label_of(note.value, positive, negative),
        before=label_of(before, positive, negative),
    )
