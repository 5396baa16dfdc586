"""What a store is: its values, its errors, its protocol. Two implementations keep the same contract suite.

All bodies are bytes that the store does not read. Nothing here is asked while a request is answered.

    StoreAway       store_away       cannot be reached, is full or busy: decide nothing, try again later
    Stale           stale            somebody else wrote first; carries what is there now
    Fenced          fenced           the writer's lease was taken over
    StoreUnusable   store_unusable   newer schema, damaged, not ours: a person has to look
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

from gateway.store.allowed import INTEGER_MAX
from gateway.store.lines import Lines
from runtimes.errors import ServingError


@dataclass(frozen=True, slots=True)
class Document:
    """One value with its compare-and-set number.

    Attributes:
        revision: grows with every write of this name and is never used twice, not even after a delete.
    """

    kind: str
    name: str
    revision: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Change:
    """A document is not what the watcher knew.

    Attributes:
        revision: the one that was seen; 0 = the document is gone.
    """

    kind: str
    name: str
    revision: int


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to decide, for a while.

    Attributes:
        token: fencing token; a later owner's is always higher.
        expires_ms: by the store's clock, since 1970.
    """

    name: str
    holder: str
    token: int
    expires_ms: int


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One link of a hash chain.

    Attributes:
        chain: which chain; "" is the only one of SQLite, Redis has one per name.
        seq: 1, 2, ... without gaps within the chain.
        time_ms: by the store's clock, since 1970; never falls within a chain.
        kind, name: the document that was written; kind "" for a record of its own.
        before, after: revisions around the write; 0 = absent.
        record: what the writer gave.
        body: the canonical JSON that is hashed; holds all of the above and the hash before.
        hash: hexadecimal sha256 of the 32 bytes of the hash before, then body.
    """

    chain: str
    seq: int
    time_ms: int
    kind: str
    name: str
    before: int
    after: int
    record: dict[str, Any]
    body: bytes
    hash: str


@dataclass(frozen=True, slots=True)
class AuditPage:
    """Some records, and where to go on.

    Attributes:
        cursor: give it as `after`; None = no more. A page with a filter may be short or empty and still have one.
    """

    records: tuple[AuditRecord, ...]
    cursor: str | None


@dataclass(frozen=True, slots=True)
class Verified:
    """What reading every chain from its start found.

    Attributes:
        records: how many were read and right.
        heads: chain -> hash of its last record; written down elsewhere they also show a chain rewritten as a whole.
        broken: the first wrong record, in words with chain and seq; None = all are right.
    """

    records: int
    heads: dict[str, str]
    broken: str | None


@dataclass(frozen=True, slots=True)
class StreamEntry:
    """One delta.

    Attributes:
        id: 1, 2, ... without gaps within the stream.
    """

    id: int
    replica: str
    epoch: int
    sequence: int
    body: bytes


@dataclass(frozen=True, slots=True)
class StreamPage:
    """Entries behind a cursor.

    Attributes:
        cursor: give it as `after` next time.
        missed: entries behind the given cursor that the bound dropped before they could be read.
        dropped: entries that the bound dropped since the stream began.
    """

    entries: tuple[StreamEntry, ...]
    cursor: int
    missed: int
    dropped: int


@dataclass(frozen=True, slots=True)
class Feedback:
    """What came back for one prediction.

    Attributes:
        slot_key: several values for one prediction stand side by side under different keys.
        unit: keyed hash of the unit, for erasure; "" = none.
        expires_ms: by the store's clock, since 1970.
        note: a line for the stream that is told when this row changes what is kept; not kept itself. b"" = none.
    """

    prediction_id: str
    slot_key: str
    unit: str
    body: bytes
    expires_ms: int
    note: bytes = b""


@dataclass(frozen=True, slots=True)
class FeedbackOutcome:
    """What became of one row.

    Attributes:
        kind: `duplicate`: the same body was there and nothing changed; `expired`: too late, not kept.
        previous: the body that was replaced.
    """

    kind: Literal["new", "duplicate", "replaced", "expired"]
    previous: bytes | None = None


@dataclass(frozen=True, slots=True)
class FeedbackCount:
    """Rows of one model.

    Attributes:
        rows: kept now; rows whose time is over may be among them until the next write.
        dropped: rows that the bound pushed out before their time, those that expire first before others.
    """

    rows: int
    dropped: int


@dataclass(frozen=True, slots=True)
class CheckUp:
    """A look at everything.

    Attributes:
        problems: in words; empty = sound.
        notes: what an operator should know though nothing is wrong, e.g. a Redis that forgets at a restart.
    """

    problems: tuple[str, ...]
    notes: tuple[str, ...]
    records: int


@dataclass(frozen=True, slots=True)
class StoreStatus:
    """For metrics and doctor.

    Attributes:
        address: without passwords.
        away: why the last call failed; None = the store answers.
        failures: calls that failed since the start.
    """

    backend: Literal["sqlite", "redis"]
    address: str
    away: str | None
    failures: int


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds. What is beyond one is refused with its name, or dropped and counted where it says so.

    Attributes:
        body_bytes: of a document. Policies are a few KiB.
        audit_bytes: of an audit record. Evidence of a decision is tens of KiB; pages of them must come in time.
        entry_bytes: of one stream entry or feedback row.
        stream_rows: kept per stream; the oldest are dropped. An hour of deltas of ten replicas each 4 s.
        stream_marks: (replica, epoch) pairs per stream, and senders of lines, whose sequences are remembered.
        feedback_rows: kept per model.
        batch_rows: rows of one feedback call.
        waiting: calls that wait for the store at once.
        file_bytes: of the SQLite file.
        busy_ms: how long the SQLite file may be held by another process.
    """

    body_bytes: int = 1024 * 1024
    audit_bytes: int = 128 * 1024
    entry_bytes: int = 64 * 1024
    stream_rows: int = 10_000
    stream_marks: int = 1_000
    feedback_rows: int = 1_000_000
    batch_rows: int = 1_000
    waiting: int = 1_000
    file_bytes: int = 16 * 1024**3
    busy_ms: int = 2_000


class StoreAway(ServingError):
    """The store cannot be asked now. A write that ends so may or may not have happened."""

    code: ClassVar[str] = "store_away"


class Stale(ServingError):
    """The document is not at the expected revision.

    Attributes:
        current: what is there; None = nothing.
    """

    code: ClassVar[str] = "stale"

    def __init__(self, message: str, current: Document | None) -> None:
        super().__init__(message)
        self.current = current


class Fenced(ServingError):
    """A higher fencing token is recorded for the lease: its holder is another by now."""

    code: ClassVar[str] = "fenced"


class StoreUnusable(ServingError):
    """Trying again will not help: newer schema, damage, not a store of ours, or not empty when it must be."""

    code: ClassVar[str] = "store_unusable"


class Store(Protocol):
    """Shared state. Every method may raise StoreAway and StoreUnusable, and ValueError for what no caller should send.

    A cancelled write may still happen; a cancelled read has no effect.
    """

    @property
    def lines(self) -> Lines | None:
        """The decision log of all nodes; None = this store is of one node, which has files for it."""

    async def get(self, kind: str, name: str) -> Document | None:
        """The document, or None."""

    async def list(self, kind: str) -> tuple[Document, ...]:
        """All documents of a kind, by name. Each is whole; together they need not be of one moment."""

    async def put(
        self,
        kind: str,
        name: str,
        body: bytes,
        *,
        expected: int | None,
        audit: Mapping[str, Any] | None = None,
        fence: Lease | None = None,
        above: int = 0,
    ) -> Document:
        """Write if the revision is the expected one, with its audit record, in one step.

        Args:
            expected: 0 = must not exist; None = whatever is there.
            audit: JSON values; kind, name, time and the revisions before and after are added.
            fence: the writer's lease.
            above: the new revision is above this one, too: it was seen, and the store has lost it since.

        Raises:
            Stale: another revision is there.
            Fenced: a higher token is recorded for the lease.
        """

    async def delete(
        self,
        kind: str,
        name: str,
        *,
        expected: int | None,
        audit: Mapping[str, Any] | None = None,
        fence: Lease | None = None,
    ) -> bool:
        """Remove; False if there was nothing and nothing was expected. Arguments and errors as `put`."""

    def watch(self, known: Mapping[tuple[str, str], int] | None = None) -> AsyncIterator[Change]:
        """Changes against what the caller knows, first those that are there already, then those that come.

        At least once, latest state only: of several writes the last is sure to be seen. It lives through the loss of
        the store and ends when the store is closed. A cancelled step loses nothing.

        Args:
            known: (kind, name) -> revision from an earlier watch; what is gone by now comes with revision 0.
        """

    async def audit_append(self, name: str, record: Mapping[str, Any]) -> AuditRecord:
        """A record without a document."""

    async def audit_read(
        self,
        name: str | None = None,
        *,
        after: str | None = None,
        limit: int = 100,
        newest: bool = False,
        since_ms: int = 0,
        until_ms: int = INTEGER_MAX,
        where: Mapping[str, str] | None = None,
    ) -> AuditPage:
        """A page of records by time.

        Args:
            after: cursor of the page before; keep the other arguments as they were.
            limit: 1 to 1,000 records.
            newest: last first.
            where: top-level fields of the writer's record, compared as text; `kind` is the document's.
        """

    async def audit_verify(self) -> Verified:
        """Read every chain from its start."""

    async def lease_acquire(self, name: str, holder: str, ttl_s: float) -> Lease | None:
        """Take the lease if it is free, expired or the holder's own; always with a new, higher token. None = held."""

    async def lease_renew(self, lease: Lease, ttl_s: float) -> Lease | None:
        """Keep it; None = it is somebody else's by now."""

    async def lease_release(self, lease: Lease) -> bool:
        """Give it back; False = it was somebody else's already."""

    async def lease_get(self, name: str) -> Lease | None:
        """Who holds it; None = nobody."""

    async def stream_append(self, stream: str, replica: str, epoch: int, sequence: int, body: bytes) -> bool:
        """Add a delta once; False = this (replica, epoch, sequence) was there before.

        Sequences may come late by 64 at most; older ones count as seen.
        """

    async def stream_read(self, stream: str, after: int = 0, limit: int = 1_000) -> StreamPage:
        """Entries with a higher id than `after`, oldest first."""

    async def feedback_put(
        self, model: str, rows: Sequence[Feedback], *, notes: str = ""
    ) -> tuple[FeedbackOutcome, ...]:
        """Keep rows, all in one step; sending them again changes nothing.

        Args:
            notes: a stream that in the same step gets the notes of rows that were new or replaced, several to an entry:
                lines of the note, or of note, tab and the body that was there.
        """

    async def feedback_get(self, model: str, prediction_id: str, slot_key: str) -> Feedback | None:
        """One row whose time is not over."""

    async def feedback_count(self, model: str) -> FeedbackCount:
        """How many are kept and were pushed out."""

    async def feedback_erase(self, model: str, unit: str) -> int:
        """Forget all rows of a unit; how many there were."""

    async def backup(self, path: Path) -> None:
        """Write all to a new file while others go on writing.

        Raises:
            StoreUnusable: the file exists.
        """

    async def restore(self, path: Path, *, aside: Path | None = None) -> None:
        """Fill this store from a backup of the same backend, and begin another life. Revisions go on from the highest.

        Args:
            aside: a new file for a backup of what is there and goes; None = the store must be empty.

        Raises:
            StoreUnusable: the store is not empty, or the file is not a sound backup; nothing was changed.
        """

    async def life(self) -> int:
        """When a backup was last restored into it, Unix ms; 0 = never. It only grows.

        Who knows of an earlier life must not give back what the store lacks: somebody wanted it so. While a backup is
        being restored this raises StoreAway.
        """

    async def check(self) -> CheckUp:
        """Integrity of the medium, and every audit chain."""

    def status(self) -> StoreStatus:
        """How it went of late; does not ask the store."""

    async def close(self) -> None:
        """Finish what was begun, end all watches. Twice is fine."""
