"""Rows of a table through the engine: every row once, in windows that close where the rows say."""

import numpy as np
import pytest

from gateway.monitor.fit import Rows, fit
from gateway.monitor.reference import Reference, without_score
from gateway.monitor.replaying import replay
from gateway.monitor.settings import Spec, parse
from runtimes.tensors import DATATYPES, DYNAMIC, Signature, TensorSpec
from tests.monitor.counting_models import DIGEST, spec

CLASSIFIER = Signature(
    (spec("x"),), (TensorSpec("label", DATATYPES["INT64"], (DYNAMIC,)), spec("probabilities", "FP32", 2)), batched=True
)
"""As scikit-learn's converter writes one: a label, then the probabilities of two classes."""


def rows_of(seed: int, count: int) -> Rows:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=count).astype(np.float32)
    p = 1 / (1 + np.exp(-x))
    labels = (rng.random(count) < p).astype(float)
    return Rows([x], [None, np.column_stack([1 - p, p]).astype(np.float32)], labels=labels)


def made() -> Reference:
    return fit(CLASSIFIER, DIGEST, rows_of(0, 20_000)).reference


def spec_of(**window: object) -> Spec:
    return parse(
        {"apiVersion": "tidegate/v1", "kind": "Monitor", "metadata": {"name": "m"}, "spec": {"window": window}}
    ).spec


@pytest.mark.parametrize("rows", [1000, 777, 997])
def test_windows_of_rows_close_exactly_and_hold_each_row_once(rows: int) -> None:
    found = replay(made(), spec_of(rows=rows), rows_of(1, 5000), np.arange(5000, dtype=np.int64) * 1000)
    assert [(one.first, one.last) for one in found] == [(at * rows, (at + 1) * rows) for at in range(5000 // rows)]
    assert all(one.result.rows == rows for one in found)


def test_metrics_of_labels_are_those_of_the_windows_own_rows() -> None:
    rows = rows_of(2, 4000)
    assert rows.labels is not None
    found = replay(made(), spec_of(rows=2000), rows, np.arange(4000, dtype=np.int64) * 1000)
    scores = rows.outputs[1]
    assert scores is not None
    hits = (scores[:, 1] >= 0.5) == rows.labels
    assert [one.realised["accuracy"] for one in found] == pytest.approx([hits[:2000].mean(), hits[2000:].mean()])


def test_without_answers_only_the_inputs_are_judged() -> None:
    rows = Rows(rows_of(3, 3000).inputs, [None, None])
    found = replay(without_score(made()), spec_of(rows=1000), rows, np.arange(3000, dtype=np.int64) * 1000)
    assert len(found) == 3
    assert all(one.realised == {} for one in found)
    assert all(one.result.score is None and one.result.performance is None for one in found)
    assert all(not one.result.firing for one in found)


def test_windows_of_time_close_by_the_times_of_the_rows() -> None:
    times = np.repeat(np.arange(10, dtype=np.int64) * 3_600_000, 500)
    found = replay(made(), spec_of(time="1h"), rows_of(4, 5000), times)
    assert [one.result.rows for one in found] == [500] * 9
    assert found[-1].last == 4500


def test_windows_of_time_hold_the_rows_of_their_time_alone() -> None:
    """Whatever rows are counted together: 7 a second are no divisor of anything here."""
    times = np.arange(7000, dtype=np.int64) // 7 * 1000
    found = replay(made(), spec_of(time="90s"), rows_of(4, 7000), times)
    assert [(one.first, one.last) for one in found] == [(at * 630, (at + 1) * 630) for at in range(11)]


def test_the_largest_window_bounds_one_of_time_exactly() -> None:
    """The reference of 20,000 rows serves windows of 2,000."""
    times = np.arange(7000, dtype=np.int64) // 7 * 1000
    found = replay(made(), spec_of(time="5m"), rows_of(4, 7000), times)
    assert [one.result.rows for one in found] == [2000] * 3


def test_a_window_whose_time_is_over_closes_with_the_row_that_is_enough() -> None:
    times = np.arange(3000, dtype=np.int64) * 1000
    window = spec_of(rows=1000, time="2m")
    found = replay(made(), window, rows_of(4, 3000), times)
    assert {one.result.rows for one in found} == {window.min_rows}


def test_windows_of_one_second_are_cohorts_of_their_own() -> None:
    rows = rows_of(5, 4000)
    found = replay(made(), spec_of(rows=1000), rows, np.zeros(4000, np.int64))
    assert [one.said["concept_drift"].state for one in found] == 4 * ["ok"]
    assert {one.said["performance_realised"].state for one in found} <= {"ok", "pending"}
