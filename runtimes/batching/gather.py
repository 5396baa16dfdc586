"""Rows of several jobs into the arrays of one execution, and outputs back into rows. Pure."""

from collections.abc import Sequence
from typing import Final

import numpy as np

from runtimes.batching.job import Job
from runtimes.tensors import Array, Signature, TensorSpec
from runtimes.wide import Wide, narrow

_ALL_WIDE: Final = {Wide}


def gather(jobs: Sequence[Job], signature: Signature) -> list[Array | None]:
    """Concatenate the inputs of jobs of one bucket along dim 0.

    Raises:
        InvalidInput: a JSON number does not fit its datatype; which job it was, bisecting tells.
    """
    # Loops, not comprehensions: each of those is a call, and most batches are of few jobs with one input.
    found: list[Array | None] = []
    for i, spec in enumerate(signature.inputs):
        first = jobs[0].inputs[i]
        if first is None:
            found.append(None)
        elif len(jobs) == 1 or spec.optional:
            # An optional input belongs to no row: those who give one share an execution with nobody.
            found.append(narrow(first, spec) if isinstance(first, Wide) else first)
        else:
            found.append(_column([job.inputs[i] for job in jobs], spec))
    return found


def _column(values: Sequence[Array | Wide | None], spec: TensorSpec) -> Array:
    if set(map(type, values)) == _ALL_WIDE:
        return narrow(_join(values), spec)  # type: ignore[arg-type]  # every one is Wide
    return np.concatenate([narrow(v, spec) if isinstance(v, Wide) else v for v in values])


def _join(values: Sequence[Wide]) -> Wide:
    """One buffer of the 64-bit numbers of many requests: joined once, narrowed once."""
    first = values[0]
    rows = sum([value.shape[0] for value in values])
    return Wide(b"".join([value.buffer for value in values]), first.kind, (rows, *first.shape[1:]))


def slices(job: Job, signature: Signature, max_rows: int) -> list[tuple[list[Array | None], int]]:
    """Cut a job into pieces of at most `max_rows`; views, no copies.

    Raises:
        InvalidInput: a JSON number does not fit its datatype.
    """
    inputs = [
        narrow(value, spec) if isinstance(value, Wide) else value
        for value, spec in zip(job.inputs, signature.inputs, strict=True)
    ]
    named = list(zip(inputs, signature.inputs, strict=True))
    return [
        (
            [a if a is None or spec.optional else a[at : at + max_rows] for a, spec in named],
            min(max_rows, job.rows - at),
        )
        for at in range(0, job.rows, max_rows)
    ]


def rejoin(parts: Sequence[Sequence[Array]]) -> list[Array]:
    """Outputs of the slices of one job, in order, as if it had run whole."""
    return [np.concatenate(column) for column in zip(*parts, strict=True)]
