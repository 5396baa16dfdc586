"""What is to be done. The controller writes status, routing and audit of a tick in ONE compare-and-set, and does the
rest only after it has succeeded; when it fails, nothing of the tick has happened.

Every action may come twice (a controller that died in between) and must then change nothing.
"""

from typing import Literal

from msgspec import Struct

from router.rollout.status import Mark

NotifyKind = Literal[
    "started", "step", "holding", "resumed", "approval", "warning", "aborted", "rolled_back", "promoted", "superseded"
]


class SetWeight(Struct, frozen=True, tag="set_weight"):
    """The canary has so many of the 10,000 slots. Written."""

    slots: int


class SetShadow(Struct, frozen=True, tag="set_shadow"):
    """The canary answers so many of 10,000 requests unseen; 0 = none. Written."""

    slots: int


class Zero(Struct, frozen=True, tag="zero"):
    """Canary slots go back to whom each was taken from, rules that name the canary are off, shadow is off. Written, as
    one change."""

    digest: str
    reason: str


class Withhold(Struct, frozen=True, tag="withhold"):
    """Stable answers for the canary, which keeps its slots, until a weight is set again. Written."""

    digest: str


class Promote(Struct, frozen=True, tag="promote"):
    """This model is the stable from now on: all slots, no rollout. Written."""

    digest: str


class Audit(Struct, frozen=True, kw_only=True, tag="audit"):
    """For the audit trail. Written, with the change that it tells of.

    Attributes:
        revision: before the change; the write itself gives the one after it.
        marks: the guardrails as they stood.
        evidence: state of the statistics that the decision rests on, opaque.
    """

    at_ms: int
    actor: str
    what: str
    reason: str
    identity: str
    canary_digest: str
    phase: str
    step: int
    slots_before: int
    slots_after: int
    revision: int
    marks: dict[str, Mark]
    evidence: str


class ZeroHere(Struct, frozen=True, tag="zero_here"):
    """The store is away: set the canary to zero on this node, at once, until the store is back. Only towards stable."""

    digest: str
    reason: str


class ClearLocalZeros(Struct, frozen=True, tag="clear_local_zeros"):
    """A person let these workers give the canary traffic again."""

    workers: tuple[str, ...]


class Unload(Struct, frozen=True, tag="unload"):
    """Nothing refers to this model any more: drain it, then drop it from memory."""

    digest: str


class Notify(Struct, frozen=True, tag="notify"):
    """Tell people."""

    kind: NotifyKind
    reason: str


class Answer(Struct, frozen=True, tag="answer"):
    """The answer to a command. `text` says why when it was refused."""

    command: str
    ok: bool
    text: str


Action = (
    SetWeight | SetShadow | Zero | Withhold | Promote | Audit | ZeroHere | ClearLocalZeros | Unload | Notify | Answer
)
WRITTEN = (SetWeight, SetShadow, Zero, Withhold, Promote, Audit)
