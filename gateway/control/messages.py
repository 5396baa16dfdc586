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


class Snapshot(Struct, frozen=True, tag="snapshot"):
    """The one immutable truth a worker acts on; a higher revision replaces the whole of a lower one.

    Attributes:
        routes: model name -> route; names without any version known are absent (404).
        ready: every model wanted at start has a READY version (or degraded start is allowed). Latches.
        states: node-wide view, for the index and for reasons in errors.
        keys: those in force, where keys are asked for.
    """

    revision: int
    models: tuple[WantedModel, ...]
    routes: dict[str, Route]
    ready: bool
    states: tuple[ModelState, ...] = ()
    keys: tuple[KeyFacts, ...] = ()


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
    """

    revision: int
    settled: bool
    models: tuple[ModelState, ...]
    listening: bool = False


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
