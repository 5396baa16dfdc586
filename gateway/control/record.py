"""What the store keeps of a policy, and what nodes tell each other about it. Plain values; JSON keeps them exactly."""

from typing import Any, Final

import msgspec
from msgspec import Struct, field

from gateway.control.exposure import Exposure
from gateway.control.messages import VariantPin
from router.rollout.status import RolloutStatus

KIND: Final = "policy"
MOST_REVISIONS: Final = 256
"""Revisions whose weights are remembered: evidence of an older one is dropped and counted."""
REVISIONS_TOLD: Final = 16
"""Newest revisions whose executions are reported: 20 KB at most."""
MOST_ANSWERS: Final = 64
NOTES_PER_PART: Final = 800
"""Of 60 bytes at most,"""
COUNTS_PER_PART: Final = 100
"""and so many counts beside them, of about 100 bytes: an entry of a stream has room for 64 KiB."""


class Told(Struct, frozen=True, array_like=True):
    """What became of a command."""

    ok: bool
    text: str


class PolicyRecord(Struct, frozen=True, kw_only=True):
    """A policy in the store.

    Attributes:
        document: as applied.
        revision: of its routing; grows with each change that workers have to act on.
        generation: of the document; grows with each one that is applied.
        applied_by, applied_ms: who applied the document, and when (Unix time).
        owner: "file:NAME" of the watched folder that the policy belongs to; "" = it belongs to nobody.
        variants: pinned, in the order of the document.
        slots, before: run-length texts of the default split: who owns each slot, and who owned it before.
        stable: name of the variant in this role; a promotion changes it.
        canary: name of the other one; "" = no rollout is under way.
        shadow_slots: of 10,000 requests so many are copied.
        zeroed: the canary gets nothing, rules that name it included.
        killed: variants that a person has taken out, beside those that the document kills.
        unloaded: digests that were let go of after they had lost their traffic.
        slow_ns: the threshold of the guardrail on slow requests, frozen for the step; 0 = none yet.
        wait_ns: the same of the wait for an execution.
        run_ns: largest batch of a bucket (0 = larger than all) -> what an execution may take there, frozen for the
            step; a bucket that is absent is not known yet.
        weights: routing revision -> stratum -> the canary's share of the slots that randomise there.
        status: of the rollout.
        evidence: state of its statistics.
        answers: to commands, by their id.
        exposures: slots that the present or last canary ever had.
        lineage: marks of the last decisions that made it what it is; see `gateway.control.losses`.
    """

    document: dict[str, Any]
    revision: int
    generation: int
    applied_by: str
    applied_ms: int
    variants: tuple[VariantPin, ...]
    slots: str
    before: str
    stable: str
    owner: str = ""
    canary: str = ""
    shadow_slots: int = 0
    zeroed: bool = False
    killed: tuple[str, ...] = ()
    unloaded: tuple[str, ...] = ()
    slow_ns: int = 0
    wait_ns: int = 0
    run_ns: dict[int, int] = field(default_factory=dict)
    weights: dict[str, dict[str, float]] = field(default_factory=dict)
    status: RolloutStatus = field(default_factory=RolloutStatus)
    evidence: dict[str, Any] = field(default_factory=dict)
    answers: dict[str, Told] = field(default_factory=dict)
    exposures: tuple[Exposure, ...] = ()
    lineage: tuple[str, ...] = ()

    @property
    def withheld(self) -> bool:
        """The canary gets nothing now: for good, or while stable answers for it."""
        return self.zeroed or self.status.fallback is not None


class Notes(Struct, frozen=True, array_like=True):
    """A stretch of one worker's ring.

    Attributes:
        worker: start id.
        first: number of the first note.
        notes: (flags, revision, stratum index, variant index, unit), without gaps.
    """

    worker: str
    first: int
    notes: tuple[tuple[int, int, int, int, int], ...]


class Lost(Struct, frozen=True, array_like=True):
    """Requests that died with a worker while it executed their variant's digest."""

    worker: str
    revision: int
    stratum: str
    variant: str
    requests: int


class NodeReport(Struct, frozen=True, kw_only=True):
    """What one node knows about one policy. Counts are totals since the node's start, so a report may come twice.

    Attributes:
        node, run: its name, and the start of its process tree that the totals are of.
        acked: lowest routing revision that a live worker of it acts on; 0 = none of this policy.
        fresh: every live worker was read, and there is one.
        lagging: workers behind the newest revision.
        ready: digests of variants that are READY in every live worker.
        failed: digest -> why it cannot be loaded.
        counts: (revision, stratum, variant, totals as `gateway.tally.FIELDS`).
        shadow: (revision, variant, totals as `gateway.shadow.FIELDS`).
        notes: read since the report before.
        lost: of workers that died of late.
        zeroed: (worker, reason) of those that give the canary nothing by their own decision.
        crashes: digest -> workers lost within 60 s while they executed it.
        failing: (request id, trace id) of the last that failed on the canary.
        executions: (revision, variant, stratum << 16 | largest batch of a bucket -> executions in time, and slow),
            totals of the newest revisions, while somebody judges them. Nodes whose buckets differ are not misread: each
            is compared with itself alone.
    """

    node: str
    run: str
    acked: int = 0
    fresh: bool = False
    lagging: tuple[str, ...] = ()
    ready: tuple[str, ...] = ()
    failed: dict[str, str] = field(default_factory=dict)
    counts: tuple[tuple[int, str, str, tuple[int, ...]], ...] = ()
    shadow: tuple[tuple[int, str, tuple[int, ...]], ...] = ()
    notes: tuple[Notes, ...] = ()
    lost: tuple[Lost, ...] = ()
    zeroed: tuple[tuple[str, str], ...] = ()
    crashes: dict[str, int] = field(default_factory=dict)
    failing: tuple[tuple[str, str], ...] = ()
    executions: tuple[tuple[int, str, dict[int, tuple[int, int]]], ...] = ()


def parts_of(report: NodeReport) -> list[NodeReport]:
    """The same as reports that each fit into an entry of a stream, to be taken in this order."""
    notes = [
        Notes(stretch.worker, stretch.first + at, stretch.notes[at : at + NOTES_PER_PART])
        for stretch in report.notes
        for at in range(0, len(stretch.notes), NOTES_PER_PART)
    ]
    counts = [report.counts[at : at + COUNTS_PER_PART] for at in range(0, len(report.counts), COUNTS_PER_PART)]
    parts = [
        msgspec.structs.replace(
            report,
            counts=counts[at] if at < len(counts) else (),
            notes=tuple(notes[at : at + 1]),
            shadow=report.shadow if at == 0 else (),
            executions=(),
        )
        for at in range(max(1, len(counts), len(notes)))
    ]
    if report.executions:
        # Together, because both variants of one tick are compared; in a part of their own, because of their size.
        parts.append(msgspec.structs.replace(report, counts=(), notes=(), shadow=()))
    return parts


def encode(value: Struct) -> bytes:
    """As JSON."""
    return msgspec.json.encode(value)


def decode_record(body: bytes) -> PolicyRecord:
    """A record from the store.

    Raises:
        msgspec.ValidationError, msgspec.DecodeError: not a record of this version.
    """
    return msgspec.json.decode(body, type=PolicyRecord)
