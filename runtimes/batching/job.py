"""What waits in a queue: the rows of one caller, or a slice of them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from runtimes.tensors import Array

if TYPE_CHECKING:
    from runtimes.wide import Wide

NEW: Final = 0
QUEUED: Final = 1
RUNNING: Final = 2
DONE: Final = 3
"""Answered, failed or cancelled: whoever sees this leaves the job alone."""
BEHIND: Final = 1 << 20
"""Priority of a job that nobody waits for; no caller can ask for it."""


class Job:
    """Rows that one caller wants executed; the gateway derives its request from it.

    Attributes:
        inputs: one array per input of the signature, in its order, all with `rows` in dim 0 where the model
            is batched; `Wide` where JSON numbers are still 64-bit; None for an optional input left out.
        rows: dim 0; 1 where the model is not batched.
        size_bytes: of the inputs, for the queue's bound.
        bucket: shape signature; only jobs of equal buckets share an execution.
        deadline_ns: on the batcher's clock; 0 = none.
        priority: 1 is served first.
        enqueued_ns, sequence: set at admission.
        parts: slices of a job larger than one execution; () otherwise.
    """

    # Class attributes, not an __init__: a request then sets only what differs from its default (1 us less each).
    inputs: Sequence["Array | Wide | None"] = ()
    rows: int = 1
    size_bytes: int = 0
    bucket: object = None
    deadline_ns: int = 0
    priority: int = 1
    enqueued_ns: int = 0
    sequence: int = 0
    state: int = NEW
    parts: "tuple[Part, ...]" = ()

    def __repr__(self) -> str:
        names = ("new", "queued", "running", "done")
        return f"<{type(self).__name__} #{self.sequence} {self.rows} rows, {names[self.state]}>"


class Part(Job):
    """A slice of a job that is larger than one execution may be.

    Attributes:
        whole: the job it was cut from.
        outputs: its share of the answer, once executed.
    """

    def __init__(self, whole: Job, inputs: Sequence[Array | None], rows: int, size_bytes: int) -> None:
        self.inputs = inputs
        self.rows = rows
        self.size_bytes = size_bytes
        self.bucket = whole.bucket
        self.deadline_ns = whole.deadline_ns
        self.priority = whole.priority
        self.whole = whole
        self.outputs: list[Array] | None = None
