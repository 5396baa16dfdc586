"""The quantile test against confseq's numbers, and its form on histograms."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.evidence import quantiles

# Source: confseq, test/uniform_boundaries_unittest.cpp, QuantileABTest (Howard, MIT licence).
CONFSEQ = [(0.5, 70, 0.814704), (0.5, 85, 0.0838055), (0.5, 100, 0.0054947), (0.9, 55, 0.0340463)]


@pytest.mark.parametrize(("q", "offset", "p"), CONFSEQ)
def test_values_as_confseq(q: float, offset: int, p: float) -> None:
    a = [float(i) for i in range(1, 1001)]
    found = quantiles.quantile_p_of_values(a, [x + offset for x in a], q)
    assert found == pytest.approx(p, rel=2e-6)


@given(
    st.lists(st.integers(0, 30), max_size=60), st.lists(st.integers(0, 30), max_size=60), st.sampled_from([0.5, 0.9])
)
def test_a_histogram_never_says_more_than_its_values(a: list[int], b: list[int], q: float) -> None:
    exact = quantiles.quantile_p_of_values([float(x) for x in a], [float(x) for x in b], q)
    fine = [np.bincount(x, minlength=31).tolist() if x else [0] * 31 for x in (a, b)]
    coarse = [[sum(x[i : i + 5]) for i in range(0, 31, 5)] for x in fine]
    assert quantiles.quantile_p_of_histograms(*fine, q) == pytest.approx(exact)
    assert quantiles.quantile_p_of_histograms(*coarse, q) >= exact - 1e-12


def test_a_slower_tail_is_seen_on_log_buckets() -> None:
    rng = np.random.default_rng(3)
    edges = quantiles.log_edges(0.01, 100.0)
    a, b = rng.lognormal(0, 0.5, 20_000), rng.lognormal(0, 0.5, 4_000) * 1.3
    counts = [np.bincount(np.searchsorted(edges, x), minlength=len(edges)).tolist() for x in (a, b, b / 1.3)]
    assert quantiles.quantile_p_of_histograms(counts[0], counts[1], 0.95) < 0.001
    assert quantiles.quantile_p_of_histograms(counts[0], counts[2], 0.95) > 0.1
    p95 = quantiles.quantile_of_histogram(counts[0], edges, 0.95)
    assert p95 == pytest.approx(np.quantile(a, 0.95), rel=0.011)


def test_nothing_seen_says_nothing() -> None:
    assert quantiles.quantile_p_of_values([], [1.0], 0.5) == 1.0
    assert quantiles.quantile_p_of_histograms([0, 0], [5, 5], 0.5) == 1.0
    assert math.isnan(quantiles.quantile_of_histogram([0, 0], [1.0, 2.0], 0.5))


def test_edges_cover_the_range_and_grow_by_the_step() -> None:
    edges = quantiles.log_edges(1.0, 8.0, 2.0)
    assert edges == (1.0, 2.0, 4.0, 8.0)


@pytest.mark.parametrize(
    "make",
    [
        lambda: quantiles.quantile_p_of_values([1.0], [2.0], 1.0),
        lambda: quantiles.quantile_p_of_values([math.nan], [2.0], 0.5),
        lambda: quantiles.quantile_p_of_histograms([1], [1, 2], 0.5),
        lambda: quantiles.quantile_p_of_histograms([1], [-1], 0.5),
        lambda: quantiles.quantile_of_histogram([1], [1.0, 2.0], 0.5),
        lambda: quantiles.log_edges(2.0, 1.0),
        lambda: quantiles.log_edges(1.0, 2.0, 1.0),
    ],
)
def test_what_makes_no_sense_is_refused(make: Any) -> None:
    with pytest.raises(ValueError, match="expected"):
        make()
