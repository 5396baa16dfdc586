"""Pure decisions of the batcher."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtimes.batching import plan
from runtimes.batching.plan import Bounds, CostModel

BOUNDS = Bounds(max_batch_rows=32, max_queue_rows=1000, max_queue_bytes=1 << 20)


def test_fit_recovers_a_line() -> None:
    cost = CostModel.fit({rows: 2_000_000 + 500_000 * rows for rows in (1, 2, 4, 8, 16, 32)})
    assert cost.base_ns == pytest.approx(2_000_000, rel=1e-6)
    assert cost.per_row_ns == pytest.approx(500_000, rel=1e-6)


def test_fit_of_a_falling_line_is_flat_not_negative() -> None:
    cost = CostModel.fit({1: 1000.0, 8: 900.0, 64: 500.0})
    assert cost.per_row_ns == 0.0
    assert cost.predict_ns(64) > 0


@given(st.floats(1, 1e9), st.floats(0, 1e8), st.integers(1, 1 << 40))
def test_rows_within_is_the_most_that_fits(base: float, per_row: float, budget: int) -> None:
    cost = CostModel(base, per_row)
    rows = cost.rows_within(budget)
    if 0 < rows < 1 << 30:
        assert cost.base_ns + cost.per_row_ns * rows <= budget * (1 + 1e-9)
        assert cost.base_ns + cost.per_row_ns * (rows + 1) > budget * (1 - 1e-9)


def test_the_scale_settles_where_one_run_in_ten_is_slower() -> None:
    rng = np.random.default_rng(1)
    cost = CostModel(100_000.0, 0.0)
    slower = 0
    for i, actual in enumerate(rng.lognormal(np.log(300_000), 0.5, size=20_000)):
        if i >= 2_000:
            slower += actual > cost.predict_ns(1)
        cost.learn(1, int(actual))
    # Binomial bound: 18,000 runs at 10 % give 1,800 +- 4 sd of 40; the tracker's own wobble is within it.
    assert 0.08 < slower / 18_000 < 0.12


def test_estimated_wait_counts_what_runs_what_waits_and_the_row_itself() -> None:
    cost = CostModel(2_000_000, 500_000)
    assert plan.estimated_wait_ns(cost, BOUNDS, 32, 0) == int(1.2 * 18_000_000)
    assert plan.estimated_wait_ns(cost, BOUNDS, 33, 5) == int(1.2 * (18_000_000 + 2_500_000)) + 5
    assert plan.must_refuse(81, 100)
    assert not plan.must_refuse(80, 100)


def test_retry_after_is_whole_seconds_and_at_least_one() -> None:
    assert plan.retry_after_s(1) == 1.0
    assert plan.retry_after_s(1_200_000_000) == 2.0


@pytest.mark.parametrize(
    ("delay_ns", "rows", "waited_ns", "ripe"),
    [(0, 1, 0, True), (1000, 1, 999, False), (1000, 1, 1000, True), (1000, 32, 0, True)],
)
def test_ripe(delay_ns: int, rows: int, waited_ns: int, ripe: bool) -> None:
    bounds = Bounds(32, 1000, 1000, max_delay_ns=delay_ns)
    assert plan.is_ripe(bounds, rows, waited_ns) is ripe


@pytest.mark.parametrize(
    ("jobs", "rows", "recent", "delay_ns", "expected"),
    [
        (3, 3, 8, 0, True),
        (8, 8, 8, 0, False),  # all who came of late are here
        (1, 1, 1, 0, False),  # one caller alone never waits
        (0, 0, 8, 0, False),
        (3, 32, 8, 0, False),  # the batch is full
        (3, 3, 8, 1000, False),  # a queue delay waits already
    ],
)
def test_company(jobs: int, rows: int, recent: int, delay_ns: int, expected: bool) -> None:
    assert plan.expects_company(Bounds(32, 1000, 1000, max_delay_ns=delay_ns), jobs, rows, recent) is expected
