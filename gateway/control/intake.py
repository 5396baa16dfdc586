"""From reports of totals to what is new: exact however often a report comes, in whatever order nodes send theirs. Pure.

Per node and run the last totals and, per worker, the number of the next note are kept; they are stored with the
evidence that was made of them, so a controller that takes over neither misses nor repeats anything. Below the floor,
the oldest revision that is remembered, nothing is new: reports go on telling what is known no longer.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from gateway.control.record import REVISIONS_TOLD, NodeReport
from gateway.shadowfields import whole

MOST_WORKERS: Final = 1_000
"""Starts of workers whose place in the ring is remembered per node; the oldest are forgotten."""


@dataclass(slots=True)
class Delta:
    """What a report adds.

    Attributes:
        counts: (revision, stratum, variant) -> counts as `gateway.tally.FIELDS`.
        shadow: (revision, variant) -> counts as `gateway.shadow.FIELDS`.
        notes: (flags, revision, stratum index, variant index, unit), each once.
        missed: notes that were overwritten before they were read.
        lost: (revision, stratum, variant) -> requests that died with a worker.
        executions: (revision, variant) -> bucket of batch sizes -> executions in time, and slow.
    """

    counts: dict[tuple[int, str, str], tuple[int, ...]] = field(default_factory=dict)
    shadow: dict[tuple[int, str], tuple[int, ...]] = field(default_factory=dict)
    notes: list[tuple[int, int, int, int, int]] = field(default_factory=list)
    missed: int = 0
    lost: dict[tuple[int, str, str], int] = field(default_factory=dict)
    executions: dict[tuple[int, str], dict[int, tuple[int, int]]] = field(default_factory=dict)


class Intake:
    """Remembers what every node has reported. `state` goes through JSON unchanged."""

    def __init__(self, state: Mapping[str, Any] | None = None) -> None:
        self._nodes: dict[str, dict[str, Any]] = {node: _copied(kept) for node, kept in (state or {}).items()}

    def take(self, report: NodeReport) -> Delta:
        """What this report adds to those before it."""
        kept = self._nodes.get(report.node)
        if kept is None or kept["run"] != report.run:
            kept = {"run": report.run, "counts": {}, "shadow": {}, "cursors": {}, "lost": [], "floor": self._floor}
            self._nodes[report.node] = kept
        found = Delta()
        self._take_counts(kept, report, found)
        if report.executions:
            # A state of before there were any has none.
            kept["executions"] = _take_executions(kept.get("executions", {}), report, found)
        self._take_notes(kept["cursors"], report, found)
        for lost in report.lost:
            if (key := f"{lost.worker}|{lost.revision}|{lost.stratum}|{lost.variant}") not in kept["lost"]:
                kept["lost"] = [*kept["lost"][-MOST_WORKERS:], key]
                place = (lost.revision, lost.stratum, lost.variant)
                found.lost[place] = found.lost.get(place, 0) + lost.requests
        return found

    @property
    def _floor(self) -> int:
        return max((kept.get("floor", 0) for kept in self._nodes.values()), default=0)

    @staticmethod
    def _take_counts(kept: dict[str, Any], report: NodeReport, found: Delta) -> None:
        floor = kept.get("floor", 0)
        for revision, stratum, variant, totals in report.counts:
            added = _added(kept["counts"], f"{revision}|{stratum}|{variant}", totals) if revision >= floor else ()
            if any(added):
                found.counts[revision, stratum, variant] = added
        for revision, variant, totals in report.shadow:
            key = f"{revision}|{variant}"
            if key in kept["shadow"]:
                kept["shadow"][key] = whole(kept["shadow"][key])
            added = _added(kept["shadow"], key, tuple(whole(totals))) if revision >= floor else ()
            if any(added):
                found.shadow[revision, variant] = added

    @staticmethod
    def _take_notes(cursors: dict[str, int], report: NodeReport, found: Delta) -> None:
        for stretch in report.notes:
            known = cursors.pop(stretch.worker, 0)
            end = stretch.first + len(stretch.notes)
            found.missed += max(0, stretch.first - known)
            found.notes += stretch.notes[max(0, known - stretch.first) :]
            cursors[stretch.worker] = max(known, end)
        while len(cursors) > MOST_WORKERS:
            del cursors[next(iter(cursors))]

    def forget(self, revisions: Mapping[str, object]) -> None:
        """Drop totals of revisions older than these, so that the state stays small; what is told of them is not new."""
        floor = max(self._floor, min(map(int, revisions), default=0))
        for kept in self._nodes.values():
            kept["floor"] = floor
            for name in ("counts", "shadow"):
                kept[name] = {key: total for key, total in kept[name].items() if _revision_of(key) >= floor}

    def state(self) -> dict[str, Any]:
        """Everything."""
        return {node: _copied(kept) for node, kept in self._nodes.items()}


def _take_executions(known: Mapping[str, Any], report: NodeReport, found: Delta) -> dict[str, list[int]]:
    """Executions that are new; gives the totals to remember. A report that comes late, or again, adds nothing."""
    totals = dict(known)
    for revision, variant, by_size in report.executions:
        for size, (in_time, slow) in by_size.items():
            key = f"{revision}|{variant}|{size}"
            before = totals.get(key, [0, 0])
            now = [max(before[0], in_time), max(before[1], slow)]
            if now != before:
                totals[key] = now
                found.executions.setdefault((revision, variant), {})[size] = (now[0] - before[0], now[1] - before[1])
    newest = max(map(_revision_of, totals), default=0)
    return {key: total for key, total in totals.items() if _revision_of(key) > newest - REVISIONS_TOLD}


def _revision_of(key: str) -> int:
    return int(key.split("|", 1)[0])


def _added(known: dict[str, list[int]], key: str, totals: tuple[int, ...]) -> tuple[int, ...]:
    before = known.get(key)
    known[key] = list(totals)
    return totals if before is None else tuple([now - was for now, was in zip(totals, before, strict=True)])


def _copied(kept: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value.copy() if isinstance(value, dict | list) else value for name, value in kept.items()}
