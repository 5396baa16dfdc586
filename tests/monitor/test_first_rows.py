"""First rows: what workers answered reaches the reference, value by value; what waits and what is held is bounded."""

from typing import Any

import numpy as np
import pytest

from gateway.monitor.firstrows import FirstRows
from gateway.monitor.firsttap import PART_BYTES, PART_ROWS, WAITING_BYTES, FirstTap, read
from gateway.monitor.fit import Choices, Rows, fit
from gateway.monitor.reference import ReferenceRefused
from runtimes.batching.job import Job
from runtimes.tensors import DATATYPES, Signature, TensorSpec
from tests.monitor.counting_models import DIGEST, signature, spec, texts


def answered(tap: FirstTap, inputs: list[Any], scores: Any) -> None:
    """One request of some rows, executed alone."""
    tap.take([Job()], inputs, [np.asarray(scores, np.float32)])


def moved(tap: FirstTap, rows: FirstRows) -> int:
    """All that waits is sent; in how many parts."""
    parts = 0
    while (part := tap.part()) is not None:
        rows.take(read(part))
        tap.wants(rows.missing)
        parts += 1
    return parts


def test_the_first_rows_of_all_workers_are_fitted_as_rows_of_a_file_are() -> None:
    model = signature(spec("x"), spec("word", "BYTES"), spec("n", "INT64", 2))
    rng = np.random.default_rng(6)
    x, n = rng.normal(size=5_000).astype(np.float32), rng.integers(0, 9, (5_000, 2))
    word, scores = texts(rng.choice(["a", "b", "ü"], 5_000)), rng.random((5_000, 1)).astype(np.float32)
    taps, rows = [FirstTap(model, 3_000) for _ in range(2)], FirstRows(3_000)
    for number, start in enumerate(range(0, 5_000, 70)):
        part = slice(start, start + 70)
        answered(taps[number % 2], [x[part], word[part], n[part]], scores[part])
        moved(taps[number % 2], rows)
    assert (rows.rows, rows.missing, [tap.rows for tap in taps]) == (3_000, 0, [0, 0])
    found = rows.fitted(DIGEST, Choices()).reference
    expected = fit(model, DIGEST, Rows([x[:3_000], word[:3_000], n[:3_000]], [scores[:3_000]])).reference
    assert np.array_equal(found.counts, expected.counts)
    assert found.plan.features == expected.plan.features
    assert (found.provisional, expected.provisional, found.labels, found.plan.groups) == (True, False, None, ())
    with pytest.raises(ReferenceRefused, match="no rows yet"):
        FirstRows(10).fitted(DIGEST, Choices())


def test_small_batches_are_sent_together_and_large_ones_in_parts() -> None:
    model, rows = signature(spec("x")), FirstRows(10**6)
    tap = FirstTap(model, 10**6)
    for _ in range(100):
        answered(tap, [np.zeros(1, np.float32)], [[0.5]])
    assert moved(tap, rows) == 1
    many = PART_BYTES // 4
    answered(tap, [np.arange(many, dtype=np.float32)], np.zeros((many, 1)))
    assert moved(tap, rows) > 1
    assert rows.rows == min(10**6, 100 + many)


def test_what_finds_no_room_is_passed_over_and_control_says_when_it_is_enough() -> None:
    model = signature(spec("x", "FP32", 1_000))
    tap = FirstTap(model, 10**6)
    for _ in range(100):
        answered(tap, [np.zeros((100, 1_000), np.float32)], np.zeros((100, 1)))
    assert tap.rows * 4_000 <= WAITING_BYTES + 100 * 4_004
    held, part = tap.rows, tap.part()
    assert part is not None
    assert tap.rows == held - len(read(part).columns[0].data) // 4_000  # type: ignore[union-attr]
    tap.wants(0)
    answered(tap, [np.zeros((1, 1_000), np.float32)], [[0.5]])
    assert (tap.rows, tap.part()) == (0, None)


def test_rows_for_which_there_is_no_room_are_refused_at_once() -> None:
    model, rows = signature(spec("image", "FP32", 3_072)), FirstRows(50_000)
    tap = FirstTap(model, 50_000)
    answered(tap, [np.zeros((1, 3_072), np.float32)], [[0.5]])
    with pytest.raises(ReferenceRefused, match=r"50,000 rows of 12,292 bytes each take 586\.1 MiB, and at most 64 MiB"):
        moved(tap, rows)


def test_texts_count_as_long_as_they_are() -> None:
    model, rows = signature(spec("word", "BYTES")), FirstRows(1_000, max_bytes=100_000)
    tap = FirstTap(model, 1_000)
    answered(tap, [texts(["a" * 1_000] * 200)], np.zeros((200, 1)))
    with pytest.raises(ReferenceRefused, match="200 of 1,000 rows with their texts"):
        moved(tap, rows)


def test_a_row_that_is_too_large_for_a_part_is_never_sent() -> None:
    model = signature(spec("word", "BYTES"))
    tap, rows = FirstTap(model, 10), FirstRows(10)
    answered(tap, [texts(["b", "a" * (PART_BYTES + 1)])], np.zeros((2, 1)))
    part = tap.part()
    assert part is not None
    assert len(part) < 1_000
    rows.take(read(part))
    with pytest.raises(ReferenceRefused, match="expected rows of at most 4,194,304 bytes"):
        moved(tap, rows)


@pytest.mark.parametrize(
    ("model", "inputs", "message"),
    [
        (signature(spec("x", "FP32", -1)), [[[1.0, 2.0]], [[1.0, 2.0, 3.0]]], "rows of 'x' have the shape"),
        (
            Signature((TensorSpec("x", DATATYPES["FP32"], (2,)),), (spec("y", "FP32", 1),), batched=False),
            [[1.0, 2.0]],
            "no row dimension",
        ),
        (
            Signature((TensorSpec("x", DATATYPES["FP32"], (-1,), optional=True),), (spec("y", "INT64", 1),), True),
            [[1.0]],
            "nothing to count",
        ),
    ],
)
def test_rows_of_which_no_reference_can_be_made_are_refused(model: Signature, inputs: Any, message: str) -> None:
    tap, rows = FirstTap(model, 10), FirstRows(10)
    for one in inputs:
        answered(tap, [np.array(one, np.float32)], [[0.5]])
    with pytest.raises(ReferenceRefused, match=message):
        moved(tap, rows)


def test_only_inputs_and_what_may_be_a_score_are_sent() -> None:
    outputs = (spec("label", "INT64"), spec("embedding", "FP32", -1), spec("probabilities", "FP32", 2))
    tap = FirstTap(Signature((spec("x"),), outputs, True), 10)
    values = [np.zeros(3, np.int64), np.zeros((3, 64), np.float32), np.zeros((3, 2), np.float32)]
    tap.take([Job()], [np.zeros(3, np.float32)], values)
    part = tap.part()
    assert part is not None
    assert [column is not None for column in read(part).columns] == [True, False, False, True]
    assert PART_ROWS > 3
