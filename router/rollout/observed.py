"""What the controller saw in this tick. Values at the border: statistics, workers and people fill them in.

A default is what nobody said, and never speaks for the canary: not fresh, not acknowledged, no verdict.
"""

from typing import Literal

from msgspec import Struct, field

CommandKind = Literal["approve", "pause", "resume", "abort", "promote", "retry"]


class Verdict(Struct, frozen=True, kw_only=True):
    """What the statistics say of one guardrail, over the whole rollout unless said otherwise.

    Attributes:
        tripped: harm is proved at this guardrail's share of alpha. Stays so.
        passes: non-inferiority is proved at beta, on the data of the last analysed step.
        detectable_ratio: smallest harm that would have been found since the step began; None = none would.
        insufficient: too few data to say anything.
        saturated: the record of erring units is half full.
        log_e: running maximum of the log e-value, for people.
        text: counts, estimate and threshold in words, for people.
    """

    tripped: bool = False
    passes: bool = False
    detectable_ratio: float | None = None
    insufficient: bool = False
    saturated: bool = False
    log_e: float = 0.0
    text: str = ""


class Command(Struct, frozen=True, kw_only=True):
    """What a person asks for.

    Attributes:
        id: unique; the same id is done once.
        identity: the rollout that they saw; "" = whichever runs.
        step: the step that they saw, counted from 0; None = whichever is in force.
        labels: of the actor's key.
        at_ms: Unix time at which they asked; 0 = not known.
    """

    id: str
    kind: CommandKind
    actor: str
    labels: tuple[str, ...] = ()
    reason: str = ""
    identity: str = ""
    step: int | None = None
    at_ms: int = 0


class LocalZero(Struct, frozen=True):
    """A worker gives the canary nothing, by its own decision, until it is told otherwise."""

    worker: str
    reason: str


class MonitorLease(Struct, frozen=True, kw_only=True):
    """What the drift monitor may do to this canary for a while, because its owner allowed it.

    Attributes:
        do: hold while it lasts, hold with stable answering for the canary, or roll back.
        granted_ms, until_ms: Unix time.
    """

    do: Literal["hold", "fallback", "rollback"]
    reason: str
    evidence: str
    granted_ms: int
    until_ms: int


class Observed(Struct, frozen=True, kw_only=True):
    """One tick's view.

    Attributes:
        token: fencing token of this controller's lease. Every start of a controller takes a new, higher one.
        revision: of the document that the status was read with. What this tick writes gets a higher one, or nothing is
            written at all (compare-and-set).
        store: it can be written.
        fresh: every live worker sent its counts since the last tick.
        acked_revision: highest revision that every live worker has applied.
        lagging: live workers that are behind, by name.
        unreachable: nodes that have not been heard of for so long that they do not count as live.
        blind: why the statistics cannot be computed; "" = they can. Without them there are no verdicts.
        identity: the rollout that `verdicts` are about.
        visit: the stay in a step (`RolloutStatus.visit`) that units, samples, requests and `srm_p` are about.
        canary_units, stable_units: distinct units with randomised requests in this step.
        samples: the canary's requests in this step; in a shadow step compared pairs.
        srm_p: running p-value of the sample ratio.
        expected_canary, seen_canary: requests that the weights in force promised the canary, and those that came.
        signals: names of the policy's signals that speak against the canary now.
        said: what they say, by name, for people.
        scarce: names of those that have too little data to say anything.
        unknown: names of those on which the drift monitor has no verdict now.
        monitor: the drift monitor's own lease.
        canary_ready: the status's `canary_digest` is READY in every live worker, warmed up.
        canary_failed: why it cannot be loaded; "" = it can, or is on its way.
        killed: somebody has taken the canary out, whatever the rollout says.
        canary_crashes: workers lost within 60 s while they ran the canary's digest.
        zeroed: workers that set the canary to zero by themselves.
        window_open: the policy's window is open and no freeze is on.
        closed_by: why not, for people.
        applied_by: who applied the policy revision in force.
        cursors: position in each worker's stream of counts, by worker and epoch; kept with the status.
        evidence: state of the statistics, opaque; kept with the status.
    """

    token: int
    revision: int
    store: bool = True
    fresh: bool = False
    acked_revision: int = 0
    lagging: tuple[str, ...] = ()
    unreachable: tuple[str, ...] = ()
    blind: str = ""
    identity: str = ""
    visit: int = 0
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    canary_units: int = 0
    stable_units: int = 0
    samples: int = 0
    srm_p: float = 1.0
    expected_canary: int = 0
    seen_canary: int = 0
    signals: tuple[str, ...] = ()
    said: dict[str, str] = field(default_factory=dict)
    scarce: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    monitor: MonitorLease | None = None
    canary_ready: bool = False
    canary_failed: str = ""
    killed: bool = False
    canary_crashes: int = 0
    zeroed: tuple[LocalZero, ...] = ()
    window_open: bool = True
    closed_by: str = "the release window is closed, or a freeze is on"
    applied_by: str = ""
    commands: tuple[Command, ...] = ()
    cursors: dict[str, int] = field(default_factory=dict)
    evidence: str = ""
