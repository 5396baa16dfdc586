"""What crosses the node link between control and workers: frozen, typed, made once, msgpack on the wire.

Control sends `Snapshot`, `Answer` and `Hint`; a worker sends `Hello`, `Status`, `Beat` and `Call`.
Counts never cross the link: they live in shared pages (`gateway.counters`).
"""

from typing import Any

from msgspec import Struct

from gateway.keys import KeyFacts
from runtimes.registry.modelconfig import ModelConfig


class WantedModel(Struct, frozen=True, array_like=True):
    """One version that every worker should hold READY.

    Attributes:
        directory: private copy of the version in the content-addressed cache.
        file: model file below `directory`.
        digest: "sha256:HEX" over every file of the version.
        generation: raised when the same version must be loaded anew (explicit reload).
    """

    name: str
    version: int
    digest: str
    directory: str
    file: str
    config: ModelConfig
    generation: int = 0


class Route(Struct, frozen=True, array_like=True):
    """How a model name answers.

    Attributes:
        default: the version served when the caller names none; None = nothing ready.
        versions: versions that may be named explicitly.
        aliases: alias -> version.
        reason: why nothing is ready, for the 503.
    """

    default: int | None
    versions: tuple[int, ...]
    aliases: dict[str, int]
    reason: str = ""


class ModelState(Struct, frozen=True, array_like=True):
    """State of one version: on a worker, or (in a snapshot) on the node.

    Attributes:
        state: LOADING, WARMING, READY, DRAINING, UNAVAILABLE.
        reason: why it is UNAVAILABLE; "" otherwise.
        load_ns: how long the load took; 0 until it ended.
    """

    name: str
    version: int
    digest: str
    generation: int
    state: str
    reason: str = ""
    load_ns: int = 0


class VariantPin(Struct, frozen=True, array_like=True):
    """A variant of a policy, pinned to content.

    Attributes:
        variant: its name in the policy.
        digest: "sha256:HEX" of the version's files.
    """

    variant: str
    name: str
    version: int
    digest: str


class PolicyState(Struct, frozen=True, array_like=True):
    """A traffic policy as workers act on it.

    Attributes:
        name: of the policy and its model.
        number: of the policy on this node, for the evidence of single requests.
        revision: grows with every change of routing.
        document: as applied, plain values.
        variants: in the order of the document.
        slots: owner of each of the 10,000 slots of the default split, as index into `variants`.
        stable, canary: indices; canary -1 = no rollout is under way.
        rollout: identity of the rollout; "" = none. What a worker zeroed by itself holds for that rollout.
        slow_ns: requests that take longer are slow; 0 = not judged.
        shadow_slots: of 10,000 requests so many are copied to the shadow.
        zeroed: the canary gets nothing.
        doublings: units of a share of 1/2^doublings are noted one by one; -1 = none.
        killed: variants that get nothing.
        run_ns: executions that take longer are slow, by batch size (`gateway.counters.BATCH_BOUNDS`), 0 = not known
            yet; () = not judged.
        wait_ns: requests that wait longer for their execution wait long; 0 = not judged.
    """

    name: str
    number: int
    revision: int
    document: dict[str, Any]
    variants: tuple[VariantPin, ...]
    slots: bytes
    stable: int
    canary: int = -1
    rollout: str = ""
    slow_ns: int = 0
    shadow_slots: int = 0
    zeroed: bool = False
    doublings: int = 0
    killed: tuple[str, ...] = ()
    run_ns: tuple[int, ...] = ()
    wait_ns: int = 0


class Watched(Struct, frozen=True, array_like=True):
    """A version whose requests are counted for the monitor.

    Attributes:
        digest: "sha256:HEX" of the version's files.
        plan: `gateway.monitor.plan.CountPlan`, encoded.
        header: lower-case name of the header that names a row's group; "" = none.
        ids: its answers name their prediction also where no policy decides.
    """

    name: str
    version: int
    digest: str
    plan: bytes
    header: str = ""
    ids: bool = True


class Collected(Struct, frozen=True, array_like=True):
    """A version whose first rows control wants, to make a provisional reference of them.

    Attributes:
        digest: "sha256:HEX" of the version's files.
        rows: so many.
        since_ms: when control began; it begins anew with another time, and wants everything again.
    """

    name: str
    version: int
    digest: str
    rows: int
    since_ms: int


class SigningKey(Struct, frozen=True, array_like=True):
    """A key of `x-prediction-id`."""

    id: int
    secret: bytes


class Snapshot(Struct, frozen=True, tag="snapshot"):
    """The one immutable truth a worker acts on; a higher revision replaces the whole of a lower one.

    Attributes:
        routes: model name -> route; names without any version known are absent (404).
        ready: every model wanted at start has a READY version (or degraded start is allowed). Latches.
        states: node-wide view, for the index and for reasons in errors.
        policies: in force, by name.
        signing: keys of prediction ids, newest first.
        cleared: rollouts whose canary workers may give traffic again, whatever they decided by themselves.
        keys: those in force, where keys are asked for.
        unit_key: keys the hashes of units, see `gateway.unitkeys`; b"" = no policy is in force yet.
        watched: versions that the monitor counts.
        collected: versions whose first rows it wants.
    """

    revision: int
    models: tuple[WantedModel, ...]
    routes: dict[str, Route]
    ready: bool
    states: tuple[ModelState, ...] = ()
    policies: tuple[PolicyState, ...] = ()
    signing: tuple[SigningKey, ...] = ()
    cleared: tuple[str, ...] = ()
    keys: tuple[KeyFacts, ...] = ()
    unit_key: bytes = b""
    watched: tuple[Watched, ...] = ()
    collected: tuple[Collected, ...] = ()


class Answer(Struct, frozen=True, tag="answer"):
    """Control's answer to a `Call`: a value, or an error with its stable code."""

    id: int
    value: Any = None
    code: str = ""
    message: str = ""
    retry_after_s: float | None = None


class Hint(Struct, frozen=True, tag="hint"):
    """Mean number of connections per listening worker of the node."""

    mean_connections: float


class Hello(Struct, frozen=True, tag="hello"):
    """First message of a worker on a new link."""

    slot: int
    pid: int
    start_id: str


class Status(Struct, frozen=True, tag="status"):
    """A worker's acknowledgement: the revision it acts on and the state of each model it holds.

    Attributes:
        revision: routes of this revision are in force here.
        settled: every wanted model of that revision is READY or has failed here.
        listening: it answers requests.
        policies: revision in force here, by policy.
        zeroed: (policy, rollout, reason) of each canary that this worker gives nothing, by its own decision.
        failing: (policy, rollout, last requests that failed on the canary) as `gateway.failing` has them.
    """

    revision: int
    settled: bool
    models: tuple[ModelState, ...]
    listening: bool = False
    policies: dict[str, int] = {}
    zeroed: tuple[tuple[str, str, str], ...] = ()
    failing: tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...] = ()


class Beat(Struct, frozen=True, tag="beat"):
    """Heartbeat, every 250 ms: numbers for `GET /admin/v1/workers`."""

    connections: int
    loop_lag_ns: int
    rss_bytes: int
    inflight: int
    listening: bool


class Call(Struct, frozen=True, tag="call"):
    """What a worker cannot answer alone: metrics, statistics, index, load, unload, workers."""

    id: int
    name: str
    args: dict[str, Any]
    deadline_ms: int


ToWorker = Snapshot | Answer | Hint
ToControl = Hello | Status | Beat | Call
