"""Distances: what holds for any two vectors of counts, and how bins are joined."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.monitor import distances
from gateway.monitor.distances import Distances, grouped, regroup, smoothed
from router.evidence.special import chi_square_above

counts = st.lists(st.tuples(*[st.one_of(st.integers(0, 60), st.integers(0, 2**62))] * 2), min_size=1, max_size=25)
HUGE = np.iinfo(np.int64).max


def pair(values: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    array = np.array(values, np.int64)
    return array[:, 0], array[:, 1]


def numbers(found: Distances) -> list[float]:
    values = (getattr(found, name) for name in found.__slots__)
    return [value for value in values if value is not None]


@given(counts, st.booleans())
def test_all_is_finite_in_its_range_and_the_same_both_ways(values: list[tuple[int, int]], ordered: bool) -> None:
    reference, current = pair(values)
    edges = np.linspace(-1.0, 1.0, len(values) + 1)
    found = distances.distances(reference, current, ordered, edges)
    assert all(math.isfinite(value) and value >= 0.0 for value in numbers(found))
    assert found.js <= math.sqrt(math.log(2.0)) + 1e-12
    assert max(found.hellinger, found.tvd, found.linf, found.ks or 0.0) <= 1.0
    assert found.linf <= found.tvd + 1e-12
    assert numbers(distances.distances(current, reference, ordered, edges)) == pytest.approx(
        numbers(found), rel=1e-6, abs=1e-9
    )


@given(counts, st.booleans())
def test_what_is_alike_is_at_no_distance(values: list[tuple[int, int]], ordered: bool) -> None:
    reference, _ = pair(values)
    found = distances.distances(reference, reference, ordered, np.arange(len(values) + 1.0))
    assert numbers(found)[1:] == pytest.approx([0.0] * (len(numbers(found)) - 1), abs=1e-7)


@given(counts, st.booleans())
def test_groups_expect_enough_or_there_is_one(values: list[tuple[int, int]], ordered: bool) -> None:
    reference, current = pair(values)
    groups = regroup(reference, current, ordered)
    assert len(groups) == len(values)
    assert set(groups) == set(range(max(groups) + 1))
    if ordered:
        assert all(np.diff(groups) >= 0)
    m, n = grouped(reference, groups), grouped(current, groups)
    assert m.sum() == pytest.approx(float(sum(map(int, reference))))
    if len(m) > 1:
        expected = (m + n) / (m.sum() + n.sum()) * min(m.sum(), n.sum())
        assert expected.min() >= 5.0 * (1.0 - 1e-9)


def test_thin_bins_join_the_thinner_neighbour_or_the_thinnest_category() -> None:
    reference = np.array([900, 20, 60, 900, 40], np.int64)
    current = reference // 10
    assert list(regroup(reference, current, ordered=True)) == [0, 1, 1, 2, 2]
    assert list(regroup(reference, current, ordered=False)) == [0, 1, 2, 3, 1]
    assert list(regroup(reference * 10, current * 10, ordered=True)) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("vectors", [([0, 0], [0, 0]), ([0, 0], [3, 4]), ([5, 5], [0, 0]), ([], []), ([0, 9], [0, 2])])
def test_nothing_to_compare_is_one_group_at_no_distance(vectors: tuple[list[int], list[int]]) -> None:
    reference, current = (np.array(one, np.int64) for one in vectors)
    found = distances.distances(reference, current, ordered=True, edges=np.arange(len(reference) + 1.0))
    assert found.groups == min(1, len(reference))
    assert numbers(found)[1:] == pytest.approx([0.0] * 8, abs=0.2)


def test_a_broken_vector_is_refused() -> None:
    with pytest.raises(ValueError, match="one length"):
        regroup(np.array([1, 2]), np.array([1, 2, 3]), ordered=True)
    with pytest.raises(ValueError, match="below 0"):
        regroup(np.array([1, -2]), np.array([1, 2]), ordered=True)


def test_huge_counts_and_edges_do_not_wrap() -> None:
    reference, current = np.array([HUGE, HUGE, 0], np.int64), np.array([0, HUGE, HUGE], np.int64)
    most = np.finfo(np.float64).max
    found = distances.distances(reference, current, ordered=True, edges=np.array([-most, 0.0, 1.0, most]))
    assert found.tvd == pytest.approx(0.5)
    assert found.wasserstein == pytest.approx(most / 2.0)
    assert all(math.isfinite(value) for value in numbers(found))
    all_the_way = np.array([1.0, 0.0, 0.0]), np.array([0.0, 0.0, 1.0])
    assert distances.wasserstein(*all_the_way, np.array([-most, -most, most, most])) == most


def test_smoothing_gives_half_a_count_spread_like_both() -> None:
    p, q = smoothed(np.array([8.0, 0.0, 0.0]), np.array([0.0, 8.0, 0.0]))
    assert p == pytest.approx([8.25 / 8.5, 0.25 / 8.5, 0.0])
    assert q == pytest.approx([0.25 / 8.5, 8.25 / 8.5, 0.0])


def test_known_distances() -> None:
    p, q = np.array([0.5, 0.5, 0.0]), np.array([0.25, 0.25, 0.5])
    assert distances.tvd(p, q) == distances.linf(p, q) == distances.ks(p, q) == 0.5
    assert distances.hellinger(p, q) == pytest.approx(math.sqrt(1.0 - 2.0 * math.sqrt(0.125)))
    assert distances.psi(np.array([0.6, 0.4]), np.array([0.4, 0.6])) == pytest.approx(0.4 * math.log(1.5))
    one, other = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    assert distances.js(one, other) == pytest.approx(math.sqrt(math.log(2.0)))
    # From all of 0..1 to all of 1..3, evenly: means 0.5 and 2.
    assert distances.wasserstein(one, other, np.array([0.0, 1.0, 3.0])) == pytest.approx(1.5)


@given(st.lists(st.integers(1, 50), min_size=2, max_size=12), st.integers(0, 1000))
def test_wasserstein_is_the_area_between_distribution_functions(reference: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    p = np.array(reference) / sum(reference)
    q = rng.dirichlet(np.ones(len(p)))
    edges = np.cumsum(rng.uniform(0.1, 2.0, len(p) + 1))
    grid = np.linspace(edges[0], edges[-1], 20_001)
    apart = np.interp(grid, edges, np.append(0.0, np.cumsum(p))) - np.interp(grid, edges, np.append(0.0, np.cumsum(q)))
    area = float(np.trapezoid(np.abs(apart), grid))
    assert distances.wasserstein(p, q, edges) == pytest.approx(area, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("power", [1.0, 1e-7])
def test_power_divergence_is_pearson_at_one_and_g_at_none(power: float) -> None:
    reference, current = np.array([120.0, 80.0, 40.0, 0.0]), np.array([33.0, 10.0, 9.0, 4.0])
    other = distances.chi_square if power == 1.0 else distances.g_statistic
    assert distances.power_divergence(reference, current, power) == pytest.approx(other(reference, current), rel=1e-5)


def test_one_law_for_three_distances_without_drift() -> None:
    # PSI, 8 JS^2 and 8 Hellinger^2 over (1/n + 1/m) are chi-square: at 5 % they reject 5 %, within chance.
    rng, n, m, bins, runs = np.random.default_rng(5), 1_000, 50_000, 10, 2_000
    rejected = np.zeros(3)
    for _ in range(runs):
        p, q = smoothed(*(rng.multinomial(rows, [0.1] * bins).astype(float) for rows in (m, n)))
        scores = distances.psi(p, q), 8.0 * distances.js(p, q) ** 2, 8.0 * distances.hellinger(p, q) ** 2
        rejected += [chi_square_above(score / (1.0 / n + 1.0 / m), bins - 1) <= 0.05 for score in scores]
    assert rejected == pytest.approx(0.05 * runs, abs=4.0 * math.sqrt(0.05 * 0.95 * runs))
