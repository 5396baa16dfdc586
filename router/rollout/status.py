"""Where a rollout stands: all that a controller needs to go on after another died. Frozen; JSON keeps it exactly."""

from typing import Final, Literal

import msgspec
from msgspec import Struct, field

MAX_HISTORY: Final = 64  # moves that `rollout status` shows; the audit trail has all
MAX_DONE: Final = 256  # commands may come twice across a restart, not across so many others
MAX_LATCHES: Final = 256  # each a rolled back rollout; a latch is never dropped to make room
MAX_STABLES: Final = 32  # above any rollbackWindow
MAX_TEXT: Final = 500  # characters of a reason, an actor or a verdict in the status

Phase = Literal[
    "IDLE",
    "DRAFT",
    "VALIDATED",
    "PREPARING",
    "APPLYING",
    "PROPAGATING",
    "SHADOWING",
    "BAKING",
    "DECIDING",
    "PROMOTING",
    "PROMOTED",
    "ABORTING",
    "ROLLED_BACK",
    "SUPERSEDED",
]
MarkState = Literal["tripped", "saturated", "insufficient", "passes", "undecided"]
IN_STEP: Final = frozenset({"APPLYING", "PROPAGATING", "SHADOWING", "BAKING", "DECIDING"})
UNDER_WATCH: Final = frozenset({"SHADOWING", "BAKING", "DECIDING"})
ACTIVE: Final = IN_STEP | {"DRAFT", "VALIDATED", "PREPARING", "PROMOTING"}
GOING_BACK: Final = frozenset({"ABORTING", "SUPERSEDED"})
AT_REST: Final = frozenset({"IDLE", "PROMOTED", "ROLLED_BACK"})


class Said(Struct, frozen=True):
    """Something that a person, or `auto:...`, did."""

    actor: str
    at_ms: int
    reason: str


class Approved(Struct, frozen=True):
    """An agreement to leave a step."""

    step: int
    actor: str
    labels: tuple[str, ...]
    at_ms: int
    reason: str


class Force(Struct, frozen=True):
    """Somebody wants it promoted before its evidence is complete.

    Attributes:
        everything: holds, evidence and steps without approval are skipped; False = only evidence that is missing.
    """

    actor: str
    at_ms: int
    reason: str
    everything: bool


class Fallback(Struct, frozen=True):
    """Stable answers for the canary, which keeps its slots. Ends when the monitor's lease does, or by a person.

    Attributes:
        until_ms: end of the lease as it was last seen: a controller that starts anew keeps to it.
        ended_by: a person who did not wait for that.
    """

    at_ms: int
    until_ms: int
    reason: str
    ended_by: str = ""


class Latch(Struct, frozen=True):
    """This rollout never starts again by itself."""

    identity: str
    canary_digest: str
    actor: str
    at_ms: int
    reason: str


class Move(Struct, frozen=True):
    """One line of the history."""

    at_ms: int
    revision: int
    identity: str
    phase: Phase
    step: int
    actor: str
    reason: str


class Mark(Struct, frozen=True):
    """A guardrail in short; the worst that can be said of it."""

    state: MarkState
    detectable_ratio: float | None
    log_e: float
    text: str


class Unloading(Struct, frozen=True):
    """A model that may leave memory at a time."""

    digest: str
    at_ms: int


class RolloutStatus(Struct, frozen=True, kw_only=True):
    """The whole status. Times are ms of the controller's clock.

    While nodes are replaced one by one, an older one reads what a newer one wrote: fields that it does not know are
    passed over, for refusing them would keep it from following an abort, and from rolling back where it leads. What it
    writes then is without them, as a status of before: so a new field's default must be safe. A phase that it does not
    know is refused.

    Attributes:
        identity: of the rollout in hand (`spec.identity`), with its two digests; "" = none.
        plan: digest of the steps that `step` counts in.
        visit: grows with each entry of a step; counts of a step carry it.
        reason: why it is in this phase.
        slots, shadow_slots: what the document gives the canary, of 10,000.
        token: highest fencing token that wrote; a lower one decides nothing.
        revision: of the document that this was decided on.
        awaits_revision: the last change of routing is in this revision and all later ones.
        started_at_ms: begin of the rollout; clock_from_ms: begin of `maxDuration`, which a resume sets anew, later by
            the time that nobody watched.
        entered_at_ms: begin of the phase.
        held_ms: time under watch in this step; grows only in ticks with counts from all live workers.
        ticked_at_ms: the tick before.
        lagging_since_ms: since when a live worker is behind in a step; None = none is.
        cleared: every guardrail had passed before the canary got all users.
        pending_abort: cause of a rollback that waits for the store.
        fallback: stable answers for the canary now; `slots` are what it gets back.
        overruled_ms: leases of the monitor that were granted until then count no more: a person has decided.
        four_eyes: its document has asked for it, and that holds until the end of the rollout.
        holding: what keeps it from going on, by name, in words; it goes on when this is empty.
        waits: everything that is waited for, in plain words, `holding` included.
        warned: what people were told once in this rollout.
        latches: grow only; `retry` takes one away.
        stables: former stables and the present one, oldest first.
        unloads: models that leave memory later.
        unacknowledged: nodes that could not be told.
        done: ids of commands that were dealt with.
    """

    identity: str = ""
    stable_digest: str = ""
    canary_digest: str = ""
    plan: str = ""
    phase: Phase = "IDLE"
    step: int = 0
    visit: int = 0
    reason: str = ""
    slots: int = 0
    shadow_slots: int = 0
    token: int = 0
    revision: int = 0
    awaits_revision: int = 0
    started_at_ms: int = 0
    clock_from_ms: int = 0
    entered_at_ms: int = 0
    held_ms: int = 0
    ticked_at_ms: int = 0
    lagging_since_ms: int | None = None
    cleared: bool = False
    pending_abort: Said | None = None
    paused: Said | None = None
    fallback: Fallback | None = None
    overruled_ms: int = 0
    force: Force | None = None
    four_eyes: bool = False
    approvals: tuple[Approved, ...] = ()
    holding: dict[str, str] = field(default_factory=dict)
    waits: tuple[str, ...] = ()
    warned: tuple[str, ...] = ()
    marks: dict[str, Mark] = field(default_factory=dict)
    latches: tuple[Latch, ...] = ()
    stables: tuple[str, ...] = ()
    unloads: tuple[Unloading, ...] = ()
    unacknowledged: tuple[str, ...] = ()
    done: tuple[str, ...] = ()
    history: tuple[Move, ...] = ()
    cursors: dict[str, int] = field(default_factory=dict)
    evidence: str = ""

    @property
    def state(self) -> str:
        """The phase as people see it: PAUSED and HOLDING stand before what goes on beneath them."""
        if self.phase not in ACTIVE:
            return self.phase
        if self.paused is not None:
            return "PAUSED"
        return "HOLDING" if self.holding else self.phase

    @property
    def latched(self) -> bool:
        """The rollout in hand must not start by itself."""
        return is_latched(self, self.identity)


def is_latched(status: RolloutStatus, identity: str) -> bool:
    """This rollout was rolled back, and nobody asked to try it again."""
    return any(latch.identity == identity for latch in status.latches)


def encode(status: RolloutStatus) -> bytes:
    """As JSON."""
    return msgspec.json.encode(status)


def decode(data: bytes) -> RolloutStatus:
    """From JSON.

    Raises:
        msgspec.ValidationError: not a status, or with values that this version does not know.
    """
    return msgspec.json.decode(data, type=RolloutStatus)


def wanted(status: RolloutStatus) -> frozenset[str]:
    """Digests that must stay in memory for this rollout, whatever else refers to them."""
    held = {unloading.digest for unloading in status.unloads}
    if status.phase in ACTIVE or status.phase in GOING_BACK:
        held |= {status.stable_digest, status.canary_digest}
    held |= {status.stables[-1]} if status.stables else set()
    return frozenset(held - {""})


def recover(stored: RolloutStatus, local: RolloutStatus) -> RolloutStatus:
    """What a controller starts from when both the store and its own disk have a status.

    A store that lost its last writes must not undo them, so the newer one wins. A rollback that was decided while the
    store was away is carried over, when it is about the same rollout.
    """
    base = local if local.revision > stored.revision else stored
    same = local.identity == base.identity and base.phase in ACTIVE
    if base.pending_abort is None and local.pending_abort is not None and same:
        return msgspec.structs.replace(base, pending_abort=local.pending_abort)
    return base
