"""What is held of one model's monitor, and how it is saved: totals and windows together, in one document. Pure."""

import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from gateway.control.monitordead import DeadLetters, dead_letters_of
from gateway.control.monitorinputs import Series, Totals
from gateway.control.monitornotes import Notes
from gateway.monitor.book import ModelMonitor, Outcome, Roles
from gateway.monitor.counting import Counts
from gateway.monitor.leases import Lease
from gateway.monitor.plan import ROWS
from gateway.monitor.settings import Spec
from gateway.monitor.windows import dense, sparse
from gateway.store.base import Store, StoreAway

ACTIONS: Final = 100
"""Kinds of leases that are counted; the oldest go first."""
_PLAIN: Final = ("cursor", "labels_cursor", "missed", "duplicated", "over")


class MonitorRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A Monitor document in the store.

    Attributes:
        owner: "file:NAME" of the watched folder that it belongs to; "" = it belongs to nobody.
    """

    document: dict[str, Any]
    generation: int
    applied_by: str
    applied_ms: int
    owner: str = ""


@dataclass(frozen=True, slots=True)
class Progress:
    """What there is to say of a version's first rows.

    Attributes:
        rows: that were collected.
        since_s: Unix time.
    """

    rows: int
    wanted: int
    since_s: float


@dataclass(slots=True)
class Held:
    """One model.

    Attributes:
        revision, generation: of the document; 0 = nobody wrote one, and defaults are in force.
        seen: totals that are in the windows, by (node, run, series); answers: the same of latency buckets.
        untaken: rows that may be in no window, by version and variant: their turn ended with an error.
        gone: (node, run) -> series that it told of and that were forgotten; None = too many to tell them apart.
        heard: node -> when it told something last. Not kept across restarts.
        problems: version -> why it is not watched.
        failed: what its last turn ended with; "" = it went well.
        first: version -> how far its reference from the first rows is, or was made.
        state_revision: of the saved state, for the next compare-and-set.
        parts: of vectors that have not come whole.
        missed: entries that the store dropped; duplicated: those that added nothing; dead: those nobody can read.
        over: node -> starts of it before its last one.
        fresh_ms: when counts last came to this node, or since when it waits for the first; 0 = nothing is watched.
        actions: leases that were granted here, by version, variant, level and verdict.
        notes: what is still to be told and to be written down of incidents.
    """

    spec: Spec
    monitor: ModelMonitor
    revision: int = 0
    generation: int = 0
    record: MonitorRecord | None = None
    problems: dict[str, str] = field(default_factory=dict)
    failed: str = ""
    first: dict[str, Progress] = field(default_factory=dict)
    seen: dict[tuple[str, str, Series], Counts] = field(default_factory=dict)
    answers: dict[tuple[str, str, str, str], list[int]] = field(default_factory=dict)
    untaken: Counter[tuple[str, str]] = field(default_factory=Counter)
    gone: dict[tuple[str, str], set[Series] | None] = field(default_factory=dict)
    heard: dict[str, int] = field(default_factory=dict)
    cursor: int = 0
    labels_cursor: int = 0
    missed: int = 0
    duplicated: int = 0
    dead: DeadLetters = field(default_factory=DeadLetters)
    over: dict[str, list[str]] = field(default_factory=dict)
    state_revision: int = 0
    saved_ms: int = 0
    moved: bool = False
    parts: dict[tuple[str, str, Series], list[Totals]] = field(default_factory=dict)
    roles: Roles = field(default_factory=lambda: Roles(champion=("", "-")))
    routing: int = -1
    fresh_ms: int = 0
    actions: Counter[tuple[str, str, str, str]] = field(default_factory=Counter)
    notes: Notes = field(default_factory=Notes)

    def knows(self, series: Series) -> bool:
        """Whether a series has windows, or may have them: others are nobody's, or gone."""
        watching, live = self.monitor.versions.get(series.version), self.roles.live
        if watching is None:
            return self.monitor.awaits(series.version)
        if watching.reference.id != series.plan:
            return False
        return live is None or series[1:3] in live or series.variant in watching.engine.variants

    def turn(self, deltas: Sequence[tuple[str, str, Counts]], now_ms: int, token: int) -> Outcome:
        """A turn of the monitor. Raises what it raises; its rows are then counted as `untaken`."""
        try:
            return self.monitor.turn(deltas, self.roles, now_ms, token=token)
        except Exception:
            for version, variant, counts in deltas:
                self.untaken[version, variant] += int(counts[ROWS])
            raise

    async def audit_alone(self, store: Store, audit: Mapping[str, Any] | None, notes: Notes) -> None:
        """Write a record without the state, which has no room: what was decided is acted on.

        Args:
            notes: as they are once it is written.
        """
        with suppress(StoreAway, ValueError):
            if audit is not None:
                await store.audit_append(self.monitor.name, audit)
            self.notes = notes

    def acted(self, lease: Lease) -> None:
        """A lease was granted: count it under what it allows and whose fault it is."""
        self.actions[lease.version, lease.variant, lease.level, self.monitor.attribution.verdict] += 1
        for kind in list(self.actions)[:-ACTIONS]:
            del self.actions[kind]


def encoded_state(held: Held, notes: Notes | None = None) -> bytes:
    """Everything that the next leader needs. Args: notes: as they are once this is saved; None = as they are."""
    state = {
        "monitor": held.monitor.state(),
        "seen": [[n, r, list(s), len(counts), sparse(counts)] for (n, r, s), counts in held.seen.items()],
        "gone": [[*start, None if gone is None else list(gone)] for start, gone in held.gone.items()],
        "answers": [[*key, buckets] for key, buckets in held.answers.items()],
        "dead": held.dead.plain(),
        "notes": held.notes if notes is None else notes,
        **{name: getattr(held, name) for name in _PLAIN},
    }
    return zlib.compress(msgspec.msgpack.encode(state), 1)


def restore_state(held: Held, body: bytes) -> str:
    """Begin anew, and go on where `encoded_state` was taken; why that cannot be, or ""."""
    held.monitor = monitor = _anew(held)
    try:
        state = msgspec.msgpack.decode(zlib.decompress(body))
        plain = {name: state[name] for name in _PLAIN}
        seen = {(n, r, Series(*s)): dense(pairs, size) for n, r, s, size, pairs in state["seen"]}
        gone = {(n, r): None if gone is None else {Series(*s) for s in gone} for n, r, gone in state["gone"]}
        answers = {(n, r, v, w): list(buckets) for n, r, v, w, buckets in state["answers"]}
        dead = dead_letters_of(state["dead"]) if "dead" in state else DeadLetters()
        told = msgspec.convert(state.get("notes", {}), Notes)
        monitor.restore(state["monitor"])
    except Exception as error:  # a damaged state, or one of another build, may raise anything
        held.monitor = _anew(held)
        return in_words(error)
    held.seen, held.gone, held.answers, held.notes, held.dead = seen, gone, answers, told, dead
    for name, value in plain.items():
        setattr(held, name, value)
    return ""


def _anew(held: Held) -> ModelMonitor:
    """A monitor of the same versions that has seen nothing."""
    monitor = ModelMonitor(held.monitor.name, held.spec)
    monitor.watch({version: one.reference for version, one in held.monitor.versions.items()})
    return monitor


def in_words(error: Exception) -> str:
    """An error that nobody expected."""
    return f"{type(error).__name__}: {error}"[:200]
