"""When windows close, and that nothing is lost or counted twice between them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.monitor.plan import ROWS
from gateway.monitor.windows import Rule, Span, Windows, dense, sparse

deltas = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 400)), max_size=60)
"""Rows, and time since the one before."""
rules = st.builds(
    Rule,
    rows=st.one_of(st.none(), st.integers(20, 200)),
    time_ms=st.integers(1, 2000),
    min_rows=st.integers(1, 20),
    most_rows=st.sampled_from([0, 50, 500]),
)


def delta(rows: int) -> np.ndarray:
    return np.array([rows, 0, 3 * rows], np.int64)


def run(rule: Rule, stream: list[tuple[int, int]]) -> tuple[Windows, list[Span], int]:
    windows, found, now = Windows(rule, 3, 0), [], 0
    for rows, later in stream:
        now += later
        found += windows.take(delta(rows), now)
    return windows, found, now


@given(rules, deltas)
def test_windows_follow_each_other_and_hold_every_row_once(rule: Rule, stream: list[tuple[int, int]]) -> None:
    windows, found, _ = run(rule, stream)
    assert sum(span.rows for span in found) + windows.counts[ROWS] == sum(rows for rows, _ in stream)
    opened = [0, *(span.closed_ms for span in found)]
    assert [span.opened_ms for span in found] == opened[:-1]
    assert windows.opened_ms == opened[-1]
    assert opened == sorted(opened)


@given(rules, deltas)
def test_a_window_closes_as_its_rule_says(rule: Rule, stream: list[tuple[int, int]]) -> None:
    assert rule.time_ms is not None
    windows, found, now = run(rule, stream)
    largest = max((rows for rows, _ in stream), default=0)
    for span in found:
        by_rows = bool(rule.limit) and span.rows >= rule.limit
        by_time = span.closed_ms - span.opened_ms >= rule.time_ms
        assert by_rows or by_time
        assert not rule.limit or span.rows < rule.limit + largest
        assert by_rows or rule.rows is None or span.rows >= rule.min_rows
    over = now - windows.opened_ms >= rule.time_ms and windows.counts[ROWS] >= rule.min_rows
    assert not (rule.rows is not None and over)
    assert not rule.limit or windows.counts[ROWS] < rule.limit


@given(rules, deltas, st.integers(0, 60))
def test_a_restart_changes_nothing(rule: Rule, stream: list[tuple[int, int]], cut: int) -> None:
    _, whole, _ = run(rule, stream)
    windows, found, now = run(rule, stream[:cut])
    again = Windows(rule, 3, 0)
    again.restore(windows.plain())
    for rows, later in stream[cut:]:
        now += later
        found += again.take(delta(rows), now)
    key = [(span.opened_ms, span.closed_ms, span.counts.tolist()) for span in found]
    assert key == [(span.opened_ms, span.closed_ms, span.counts.tolist()) for span in whole]


def test_rows_close_at_the_first_delta_that_reaches_them() -> None:
    windows = Windows(Rule(100, None, 10), 3, 0)
    assert windows.take(delta(99), 5) == []
    [span] = windows.take(delta(60), 9)
    assert (span.rows, span.opened_ms, span.closed_ms) == (159, 0, 9)


def test_time_closes_before_what_comes_later_and_hours_of_silence_are_one_window() -> None:
    windows = Windows(Rule(None, 1000, 10), 3, 0)
    windows.take(delta(30), 500)
    [span] = windows.take(delta(7), 5300)
    assert (span.rows, span.closed_ms) == (30, 5000)
    assert windows.opened_ms == 5000
    [later] = windows.tick(6000)
    assert (later.rows, later.closed_ms) == (7, 6000)


def test_both_close_at_the_rows_or_after_the_time_with_enough_rows() -> None:
    windows = Windows(Rule(100, 1000, 50), 3, 0)
    assert [span.rows for span in windows.take(delta(100), 10)] == [100]
    assert windows.take(delta(30), 1500) == []
    assert windows.tick(2500) == []
    assert [span.rows for span in windows.take(delta(25), 2600)] == [55]
    windows.take(delta(50), 3000)
    assert [span.rows for span in windows.tick(3600)] == [50]
    assert [span.rows for span in windows.take(delta(100), 3600)] == [100]


def test_a_window_of_no_time_lasts_a_millisecond_for_its_level() -> None:
    [span] = Windows(Rule(100, None, 50), 3, 0).take(delta(100), 0)
    assert (span.closed_ms - span.opened_ms, span.duration_ms) == (0, 1)


@pytest.mark.parametrize(("time_ms", "longest"), [(1000, 1000), (None, 86_400_000)])
def test_blind_is_no_verdict_for_two_of_the_longest_windows(time_ms: int | None, longest: int) -> None:
    windows = Windows(Rule(100, time_ms, 50), 3, 0)
    assert not windows.blind(2 * longest)
    assert windows.blind(2 * longest + 1)
    [span] = windows.take(delta(100), 3 * longest)
    windows.judged(span)
    assert not windows.blind(5 * longest)
    assert windows.blind(5 * longest + 1)


@given(st.lists(st.integers(-(2**62), 2**62) | st.just(0), max_size=30))
def test_vectors_are_kept_exactly(values: list[int]) -> None:
    vector = np.array(values, np.int64)
    assert np.array_equal(dense(sparse(vector), len(vector)), vector)
