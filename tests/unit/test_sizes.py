"""Bounds of dynamic sizes: where they come from, and which requests they refuse."""

from types import SimpleNamespace

import pytest

from runtimes.errors import InvalidInput, LoadFailed
from runtimes.sizes import check, largest, size_for
from runtimes.tensors import DATATYPES, DYNAMIC, Signature, TensorSpec

FP32 = DATATYPES["FP32"]


def signature(*shapes: tuple[int, ...], batched: bool = True) -> Signature:
    specs = tuple(TensorSpec(f"x{i}", FP32, shape) for i, shape in enumerate(shapes))
    return Signature(specs, specs, batched)


def refused(model: Signature, stated: dict[str, list[int]], *shapes: tuple[int, ...] | None) -> str:
    most = largest(model, stated, 100)
    try:
        if most is not None:
            check(model, most, [None if shape is None else SimpleNamespace(shape=shape) for shape in shapes])
    except InvalidInput as error:
        return error.message
    return ""


def test_a_square_of_the_largest_size_fits_a_quarter_of_the_memory() -> None:
    assert size_for(1 << 33) == 23170
    assert 4 * size_for(1 << 33) ** 2 <= (1 << 33) // 4
    assert size_for(0) == 1024


def test_rows_have_no_bound_of_their_own_and_fixed_sizes_need_none() -> None:
    assert largest(signature((DYNAMIC, 24)), {}, 100) is None
    assert refused(signature((DYNAMIC, DYNAMIC)), {}, (10_000, 100)) == ""
    assert "at most 100 in dimension 1, got shape [1, 101]" in refused(signature((DYNAMIC, DYNAMIC)), {}, (1, 101))
    assert "at most 100 in dimension 0" in refused(signature((DYNAMIC,), batched=False), {}, (101,))


def test_what_the_owner_states_wins() -> None:
    model = signature((DYNAMIC, DYNAMIC), (DYNAMIC, DYNAMIC))
    stated = {"x1": [2, 500]}
    assert refused(model, stated, (1, 100), (2, 500)) == ""
    assert refused(model, stated, (1, 100), None) == ""
    assert "'x1'" in refused(model, stated, (1, 100), (3, 500))
    assert "'x0'" in refused(model, stated, (1, 101), (1, 1))


@pytest.mark.parametrize(
    ("stated", "message"), [({"y": [1]}, "no input 'y', expected one of"), ({"x0": [1]}, "expected 2 sizes, got 1")]
)
def test_what_cannot_be_meant_fails_the_load(stated: dict[str, list[int]], message: str) -> None:
    with pytest.raises(LoadFailed, match=message.replace("[", r"\[")):
        largest(signature((DYNAMIC, DYNAMIC)), stated, 100)
