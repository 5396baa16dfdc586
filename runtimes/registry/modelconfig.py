"""What a model's owner may say in `model.yaml`: one frozen struct per section, unknown keys refused.

The loader (YAML and `config.pbtxt`) is `runtimes.registry.configfile`; this file only declares.
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct

Positive = Annotated[int, Meta(ge=1)]
NonNegative = Annotated[int, Meta(ge=0)]


class VersionPolicy(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which versions in the directory are served: latest n (default 1), all, or a list."""

    latest: Positive | None = None
    all: bool = False
    specific: tuple[Positive, ...] = ()


class Batching(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How rows of different requests are merged.

    Attributes:
        enabled: False = every request runs alone.
        max_batch_size: rows one execution may hold.
        max_queue_delay_us: how long the oldest row may wait for company; 0 = end of this loop turn.
        max_queue_rows: bound of the queue in rows, per worker.
        max_queue_bytes: bound of the queue in input bytes, per worker.
        priority_levels: number of levels; 1 is served first.
        default_priority: level of a request that names none.
    """

    enabled: bool = True
    max_batch_size: Annotated[int, Meta(ge=1, le=65536)] = 64
    max_queue_delay_us: Annotated[int, Meta(ge=0, le=10_000_000)] = 0
    max_queue_rows: Positive = 8192
    max_queue_bytes: Positive = 64 * 1024 * 1024
    priority_levels: Annotated[int, Meta(ge=1, le=16)] = 1
    default_priority: Positive | None = None


class Execution(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where and with how many threads the model runs.

    Attributes:
        mode: auto and inline run in the worker (on its loop or in its pool); shared is not built yet.
        intra_op_threads: ONNX Runtime threads per execution; None = the node's thread plan decides.
        watchdog_ms: longest run before it is terminated; None = min(20 x p90, 1 s).
    """

    mode: Literal["auto", "inline", "shared"] = "auto"
    intra_op_threads: Annotated[int, Meta(ge=1, le=256)] | None = None
    watchdog_ms: Positive | None = None


class Warmup(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which batch sizes run before the version is READY; empty = 1, 2, 4 ... max_batch_size.

    Attributes:
        dynamic_size: size given to dynamic dimensions other than the rows.
    """

    batch_sizes: tuple[Positive, ...] = ()
    dynamic_size: Positive = 8


class ModelConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole of `model.yaml`.

    Attributes:
        aliases: alias -> version, e.g. {"stable": 3}.
        feature_names: input name -> names of its columns.
        deadline_ms: for requests that give none; None = max(10 s, 20 x warm-up p90).
        max_dims: input name -> largest size of each of its dimensions, rows included.
        max_dynamic_size: largest size of every other dynamic dimension but the rows; None = from the memory.
        finite: outputs must be finite; NaN or infinity fails the request that caused it.
    """

    aliases: dict[str, Positive] = {}
    version_policy: VersionPolicy = VersionPolicy()
    batching: Batching = Batching()
    execution: Execution = Execution()
    warmup: Warmup = Warmup()
    feature_names: dict[str, tuple[str, ...]] = {}
    deadline_ms: Positive | None = None
    max_dims: dict[str, tuple[Positive, ...]] = {}
    max_dynamic_size: Positive | None = None
    finite: bool = False
