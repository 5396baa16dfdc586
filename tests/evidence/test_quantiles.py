"""The quantile test against confseq's numbers, and its form on histograms."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.evidence import quantiles
from router.evidence.sequences import bernoulli_interval

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


@given(st.lists(st.integers(0, 400), min_size=1, max_size=8), st.sampled_from([0.1, 0.5, 0.9, 0.99]))
def test_an_edge_is_a_limit_where_the_interval_of_its_share_does_not_hold_q(counts: list[int], q: float) -> None:
    found = quantiles.quantile_interval(counts, [float(at) for at in range(len(counts))], q, 0.05)
    n, low, high = sum(counts), -math.inf, math.inf
    for edge in range(len(counts)):
        share = bernoulli_interval(sum(counts[: edge + 1]), n, 0.05)
        low = float(edge) if share.high < q else low
        high = min(high, float(edge)) if share.low > q else high
    assert (found.low, found.high) == (low, high)


def test_without_values_nothing_is_known_of_a_quantile() -> None:
    found = quantiles.quantile_interval([0, 0], [1.0, math.inf], 0.5, 0.05)
    assert (found.low, found.high) == (-math.inf, math.inf)


@pytest.mark.parametrize("q", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("tied", [False, True])
def test_a_quantile_is_seldom_ever_outside_its_interval(q: float, tied: bool) -> None:
    """Every look taken, at edges that surround the quantile as closely as they can: alpha is not divided among them."""
    rng, replicas, alpha = np.random.default_rng(7), 400, 0.1
    # Shares of values up to each edge; the quantile lies at the first that reaches q.
    upto = np.array([q / 2, q - 1e-3, q, q + (1 - q) / 9, 1.0] if tied else [q / 2, q - 1e-9, q + 1e-9, 1.0])
    edges = [float(at) for at in range(len(upto))]
    truth = float(np.argmax(upto >= q))
    missed = sum(ever_outside(rng, upto, edges, q, alpha, truth) for _ in range(replicas))
    assert missed <= replicas * alpha + 3.1 * math.sqrt(replicas * alpha * (1 - alpha))


def ever_outside(rng: Any, upto: Any, edges: list[float], q: float, alpha: float, truth: float) -> bool:
    counts = np.zeros(len(edges), np.int64)
    for _ in range(40):
        counts += np.bincount(np.searchsorted(upto, rng.random(50)), minlength=len(edges))
        found = quantiles.quantile_interval(counts.tolist(), edges, q, alpha, 100.0 if q < 0.95 else 2_000.0)
        if not found.low < truth <= found.high:
            return True
    return False


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
        lambda: quantiles.quantile_interval([1], [1.0, 2.0], 0.5, 0.05),
        lambda: quantiles.quantile_interval([-1, 3], [1.0, 2.0], 0.5, 0.05),
        lambda: quantiles.quantile_interval([1], [1.0], 1.0, 0.05),
        lambda: quantiles.quantile_interval([1], [1.0], 0.5, 0.0),
        lambda: quantiles.log_edges(2.0, 1.0),
        lambda: quantiles.log_edges(1.0, 2.0, 1.0),
    ],
)
def test_what_makes_no_sense_is_refused(make: Any) -> None:
    with pytest.raises(ValueError, match="expected"):
        make()
