"""Largest sizes of dynamic dimensions: what `model.yaml` says, and a bound from memory where it says nothing. Pure.

A model may need memory or time that grows with the square of a dimension (attention over a sequence), so one small
request can ask for more than the machine has. ONNX says nothing of it; the owner of the model can.
"""

from collections.abc import Mapping, Sequence
from math import isqrt
from typing import Final, Protocol

from runtimes.errors import InvalidInput, LoadFailed
from runtimes.tensors import DYNAMIC, Signature, TensorSpec

_ELEMENT_BYTES: Final = 4
_SHARE: Final = 4
"""A square of float32 may take a quarter of the memory."""
_LEAST: Final = 1024
_NO_BOUND: Final = 1 << 62

Sizes = tuple[tuple[int, ...], ...]
"""For each input the largest size of each dimension."""


class Shaped(Protocol):
    """An array, or numbers that will become one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its sizes."""


def size_for(memory_bytes: int) -> int:
    """Largest dynamic size where nobody says another: a square of so many float32 fits a quarter of the memory."""
    return max(_LEAST, isqrt(memory_bytes // _SHARE // _ELEMENT_BYTES))


def largest(signature: Signature, stated: Mapping[str, Sequence[int]], otherwise: int) -> Sizes | None:
    """The bounds of a model's inputs; None when every size is fixed, or is that of the rows.

    Args:
        stated: `max_dims` of `model.yaml`: input -> largest size of each dimension, rows included.
        otherwise: for dynamic dimensions that are not the rows', of inputs that are not stated.

    Raises:
        LoadFailed: an input that the model does not have, or another number of dimensions.
    """
    known = {spec.name: spec for spec in signature.inputs}
    for name, sizes in stated.items():
        if name not in known:
            raise LoadFailed(f"max_dims: no input {name[:80]!r}, expected one of {sorted(known)}", stage="check")
        if len(sizes) != len(known[name].shape):
            rank = len(known[name].shape)
            raise LoadFailed(f"max_dims.{name}: expected {rank} sizes, got {len(sizes)}", stage="check")
    found = tuple(_of(spec, stated.get(spec.name), otherwise, rows=signature.batched) for spec in signature.inputs)
    return found if any(size != _NO_BOUND for sizes in found for size in sizes) else None


def _of(spec: TensorSpec, stated: Sequence[int] | None, otherwise: int, *, rows: bool) -> tuple[int, ...]:
    if stated is not None:
        return tuple(size if dim == DYNAMIC else _NO_BOUND for size, dim in zip(stated, spec.shape, strict=True))
    free = [dim == DYNAMIC and not (rows and axis == 0) for axis, dim in enumerate(spec.shape)]
    return tuple(otherwise if dynamic else _NO_BOUND for dynamic in free)


def check(signature: Signature, most: Sizes, inputs: Sequence[Shaped | None]) -> None:
    """Refuse a request that is larger than a bound. Raises InvalidInput."""
    for spec, sizes, given in zip(signature.inputs, most, inputs, strict=True):
        if given is None:
            continue
        for axis, (size, bound) in enumerate(zip(given.shape, sizes, strict=True)):
            if size > bound:
                raise InvalidInput(
                    f"input {spec.name!r}: expected a size of at most {bound} in dimension {axis}, "
                    f"got shape {list(given.shape)}"
                )
