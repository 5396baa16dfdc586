"""concat then split is identity; narrowing a batch is narrowing each."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtimes.batching.gather import gather, rejoin, slices
from runtimes.batching.job import Job
from runtimes.errors import InvalidInput
from runtimes.tensors import DATATYPES, DYNAMIC, Signature, TensorSpec
from runtimes.wide import Wide, narrow


def signature(datatype: str) -> Signature:
    spec = TensorSpec("x", DATATYPES[datatype], (DYNAMIC, 2))
    return Signature((spec,), (spec,), True)


def wide_job(values: list[float], kind: str = "d") -> Job:
    job = Job()
    code = {"d": "<f8", "q": "<i8", "Q": "<u8"}[kind]
    job.rows = len(values) // 2
    job.inputs = [Wide(np.array(values, dtype=code).tobytes(), kind, (job.rows, 2))]
    return job


def test_wide_buffers_of_many_requests_are_joined_in_order() -> None:
    (array,) = gather([wide_job([1, 2]), wide_job([3, 4, 5, 6])], signature("FP32"))
    assert array is not None
    assert array.dtype == np.float32
    assert array.tolist() == [[1, 2], [3, 4], [5, 6]]


def test_arrays_and_wide_buffers_mix() -> None:
    exact = Job()
    exact.inputs = [np.array([[7, 8]], dtype=np.float32)]
    (array,) = gather([wide_job([1, 2]), exact], signature("FP32"))
    assert array is not None
    assert array.tolist() == [[1, 2], [7, 8]]


@pytest.mark.parametrize(
    ("datatype", "kind", "bad"),
    [("FP32", "d", 1e39), ("FP16", "d", 70000.0), ("BF16", "d", 1e39), ("UINT8", "Q", 300), ("INT8", "q", -129)],
)
def test_a_number_that_does_not_fit_is_refused_with_its_place(datatype: str, kind: str, bad: float) -> None:
    with pytest.raises(InvalidInput, match=f"index 1 does not fit {datatype}"):
        gather([wide_job([0, bad], kind)], signature(datatype))


@given(st.lists(st.floats(width=64, allow_nan=False, allow_infinity=False), min_size=2, max_size=8))
def test_narrow_rounds_like_numpy_or_refuses(values: list[float]) -> None:
    wide = Wide(np.array(values).tobytes(), "d", (len(values),))
    with np.errstate(over="ignore"):
        expected = np.array(values).astype(np.float32)
    if np.isinf(expected).any():
        with pytest.raises(InvalidInput):
            narrow(wide, signature("FP32").inputs[0])
    else:
        assert narrow(wide, signature("FP32").inputs[0]).tobytes() == expected.tobytes()


@given(st.integers(1, 40), st.integers(1, 9))
def test_slices_rejoin_to_the_whole(rows: int, most: int) -> None:
    job = Job()
    values = np.arange(rows * 2, dtype=np.float32).reshape(rows, 2)
    job.rows, job.inputs = rows, [values]
    pieces = slices(job, signature("FP32"), most)
    assert [count for _, count in pieces] == [len(inputs[0]) for inputs, _ in pieces if inputs[0] is not None]
    (joined,) = rejoin([[array for array in inputs if array is not None] for inputs, _ in pieces])
    assert np.array_equal(joined, values)


def test_two_threads_narrow_at_the_same_time() -> None:
    jobs = [wide_job([float(at) for at in range(65_536)]) for _ in range(8)]

    def narrowed(_: int) -> float:
        (array,) = gather(jobs, signature("FP32"))
        assert array is not None
        return float(array[-1, -1])

    with ThreadPoolExecutor(4) as threads:
        assert set(threads.map(narrowed, range(200))) == {65_535.0}
