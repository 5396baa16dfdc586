"""What is learnt of a model before its first request: that it runs, how long, and whether rows are independent."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from runtimes.errors import LoadFailed, ServingError
from runtimes.tensors import DYNAMIC, Array, Signature, TensorSpec

Run = Callable[[Sequence[Array | None]], list[Array]]

_REPEATS: Final = 5
_BUDGET_NS: Final = 300_000_000
"""Time for repeated runs; each size runs at least once however long it takes."""
_RTOL: Final = 1e-3
_ATOL: Final = 1e-5
"""Kernels add in another order for another batch size; a model that looks at its batch mates differs far more."""


@dataclass(frozen=True, slots=True)
class Learnt:
    """Result of a warm-up.

    Attributes:
        run_ns: batch rows -> typical time of a run; empty when the model refuses every made-up input.
        independent: the answer for a row does not depend on its batch mates.
        note: why rows are not merged, or why nothing could be learnt; "" when all is well.
    """

    run_ns: dict[int, float]
    independent: bool
    note: str


def warm_up(signature: Signature, run: Run, *, batch_sizes: Sequence[int], dynamic_size: int) -> Learnt:
    """Run every batch size in use, then probe whether rows are independent.

    A model that refuses made-up values is not failed for that: it is served unmerged, with the reason told.

    Raises:
        LoadFailed: stage "warmup": the model fails for a reason that is not its input.
    """
    sizes = sorted(set(batch_sizes)) if signature.batched else [1]
    run_ns: dict[int, float] = {}
    left_ns = _BUDGET_NS
    try:
        for rows in sizes:
            inputs = [_made_up(spec, rows, 0, dynamic_size) for spec in signature.inputs]
            run_ns[rows], spent = _timed(run, inputs, left_ns)
            left_ns -= spent
    except ServingError as error:
        if error.code in ("model_rejected_input", "invalid_input"):
            return Learnt(run_ns, False, f"rows are not merged: warm-up could not run it ({error.message})")
        raise LoadFailed(error.message, stage="warmup") from error
    if not signature.batched:
        return Learnt(run_ns, False, "")
    note = _why_dependent(signature, run, dynamic_size)
    return Learnt(run_ns, not note, note)


def _timed(run: Run, inputs: Sequence[Array | None], left_ns: int) -> tuple[float, int]:
    """Median of up to five runs after the first, and the time all of them took."""
    times = []
    begun = time.perf_counter_ns()
    for _ in range(_REPEATS + 1):
        started = time.perf_counter_ns()
        run(inputs)
        times.append(time.perf_counter_ns() - started)
        if time.perf_counter_ns() - begun > left_ns // 2:
            break
    counted = times[1:] or times
    return float(np.median(counted)), time.perf_counter_ns() - begun


def _why_dependent(signature: Signature, run: Run, dynamic_size: int) -> str:
    """Compare f(a, b) with f(a), f(b); "" when equal, else why rows may not be merged."""
    for second in (1, 0):
        rows = [[_made_up(spec, 1, seed, dynamic_size) for spec in signature.inputs] for seed in (0, second)]
        both = [None if a is None or b is None else np.concatenate([a, b]) for a, b in zip(*rows, strict=True)]
        try:
            alone, merged = [run(row) for row in rows], run(both)
        except ServingError:
            # An index or a size made up with 1 may be out of range: ask again with zeros only.
            continue
        for i, spec in enumerate(signature.outputs):
            if not _equal([outputs[i] for outputs in alone], merged[i]):
                return f"rows are not merged: output {spec.name!r} depends on the other rows of its batch"
        return ""
    return "rows are not merged: the model refused the values made up to probe it"


def _equal(alone: Sequence[Array], merged: Array) -> bool:
    if any(part.shape[:1] != (1,) for part in alone) or merged.shape[:1] != (len(alone),):
        return False
    if any(part.shape[1:] != merged.shape[1:] for part in alone):
        return False
    joined = np.concatenate(list(alone))
    if joined.dtype.kind == "f":
        return bool(np.allclose(joined, merged, rtol=_RTOL, atol=_ATOL, equal_nan=True))
    return bool(np.array_equal(joined, merged))


def _made_up(spec: TensorSpec, rows: int, seed: int, dynamic_size: int) -> Array | None:
    """Values of the right kind: floats around 0, integers equal to `seed`, short strings; optional inputs left out."""
    if spec.optional:
        return None
    shape = [dynamic_size if size == DYNAMIC else size for size in spec.shape]
    if shape and spec.shape[0] == DYNAMIC:
        shape[0] = rows
    kind = spec.datatype.kind
    if kind == "bytes":
        text = np.empty(shape, dtype=object)
        text.fill(b"ab"[seed : seed + 1])
        return text
    if spec.datatype.name == "BF16":
        return np.full(shape, 0x3F80 if seed else 0x3F00, dtype=spec.datatype.dtype)
    if kind == "float":
        values = np.random.default_rng(seed).uniform(-1.0, 1.0, size=shape)
        return values.astype(spec.datatype.dtype)
    return np.full(shape, seed, dtype=spec.datatype.dtype)
