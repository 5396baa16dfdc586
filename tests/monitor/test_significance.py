"""Significance: published figures, exact sums, and that tests reject as often as they say."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.monitor import significance
from gateway.monitor.significance import binomial_rise, binomial_two_sample, homogeneity

counts = st.lists(st.tuples(*[st.one_of(st.integers(0, 60), st.integers(0, 2**62))] * 2), min_size=1, max_size=25)


@given(counts, st.booleans())
def test_a_p_value_is_one(values: list[tuple[int, int]], ordered: bool) -> None:
    reference, current = np.array(values, np.int64).T
    tested = homogeneity(reference, current, ordered)
    assert 0.0 <= tested.p_value <= 1.0
    assert tested.degrees < len(values)


@pytest.mark.parametrize(("n", "psi"), [(200, 0.139), (500, 0.056), (1_000, 0.028), (2_000, 0.014), (10_000, 0.0028)])
def test_the_smallest_psi_in_sight(n: int, psi: float) -> None:
    # Published for ten bins, a reference without end and 1/720 per window.
    found = significance.smallest_psi(n, 10**12, 10, 0.0014)
    assert found == pytest.approx(psi, rel=0.01)
    assert significance.smallest_psi(n, 10 * n, 10, 0.0014) == pytest.approx(1.1 * found)


@pytest.mark.parametrize("wrong", [(0, 1, 2, 0.1), (1, 0, 2, 0.1), (1, 1, 1, 0.1), (1, 1, 2, 0.0), (1, 1, 2, 0.9)])
def test_what_has_no_smallest_psi(wrong: tuple[int, int, int, float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        significance.smallest_psi(*wrong)


def test_the_smallest_psi_is_found_as_often_as_its_power_says() -> None:
    rng, n, m, alpha, runs = np.random.default_rng(2), 2_000, 20_000, 0.01, 1_500
    target, even = significance.smallest_psi(n, m, 10, alpha), np.full(10, 0.1)
    tilt = np.array([1.0, -1.0] * 5)
    size = math.sqrt(target * 0.1 / 10)  # PSI of shares 0.1 +- size is about 10 size^2 / 0.1
    found = sum(
        homogeneity(rng.multinomial(m, even), rng.multinomial(n, even + size * tilt), ordered=True).p_value <= alpha
        for _ in range(runs)
    )
    assert found / runs == pytest.approx(0.8, abs=0.05)


# ---- quality bins ----


def exactly(k: int, n: int, k_ref: int, m: int) -> float:
    """The same tails as integers: draws of n from n + m + 1 balls."""
    masses = [math.comb(j + k_ref, j) * math.comb(n - j + m - k_ref, n - j) for j in range(n + 1)]
    tail = min(sum(masses[k:]), sum(masses[: k + 1]))
    return float(min(Fraction(1), 2 * Fraction(tail, math.comb(n + m + 1, n))))


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 300), st.integers(0, 300))
def test_the_two_sample_binomial_is_exact(k: int, more: int, k_ref: int, more_ref: int) -> None:
    n, m = k + more, k_ref + more_ref
    assert binomial_two_sample(k, n, k_ref, m) == pytest.approx(exactly(k, n, k_ref, m), rel=1e-9)


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 300), st.integers(0, 300))
def test_a_rise_is_the_upper_tail_alone(k: int, more: int, k_ref: int, more_ref: int) -> None:
    n, m = k + more, k_ref + more_ref
    masses = [math.comb(j + k_ref, j) * math.comb(n - j + m - k_ref, n - j) for j in range(k, n + 1)]
    expected = float(Fraction(sum(masses), math.comb(n + m + 1, n)))
    assert binomial_rise(k, n, k_ref, m) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("alpha", [0.2, 0.05, 0.01, 0.001])
def test_a_rise_rejects_no_more_often_than_its_level_says(alpha: float) -> None:
    """Exact, for whatever the reference has: the law of k is known, and p <= alpha is a tail of it."""
    n, m = 200, 2_000
    for k_ref in (0, 1, 20, 400):
        a, b = k_ref + 1, m - k_ref + 1
        masses = [math.exp(significance._log_mass(k, n, a, b)) for k in range(n + 1)]
        rejected = math.fsum(mass for k, mass in enumerate(masses) if binomial_rise(k, n, k_ref, m) <= alpha)
        assert rejected <= alpha * (1 + 1e-6)
        assert rejected > 0.4 * alpha or k_ref < 20, "and where counts are not few, nearly as often"


def test_quality_against_a_reference_that_had_none() -> None:
    # One bad row in 5,000, never seen in 50,000: twice 1/11. Three are rare, and 50 are an alarm.
    assert binomial_two_sample(1, 5_000, 0, 50_000) == pytest.approx(2 / 11, rel=1e-3)
    assert binomial_two_sample(3, 5_000, 0, 50_000) == pytest.approx(2 / 11**3, rel=0.02)
    assert binomial_two_sample(50, 5_000, 0, 50_000) < 1e-50
    assert binomial_two_sample(0, 5_000, 0, 50_000) == 1.0
    assert binomial_two_sample(0, 5_000, 2_500, 50_000) < 1e-50
    assert significance.rate_rise(50, 5_000, 0, 50_000) == 0.01
    assert significance.rate_rise(0, 5_000, 50, 50_000) == 0.0
    assert significance.rate_rise(0, 0, 3, 10) == 0.0


def test_a_large_total_is_no_trouble() -> None:
    found = binomial_two_sample(50_009_000, 10**8, 4 * 10**8, 8 * 10**8)
    z = 9_000 / math.sqrt(10**8 * 0.25 * 1.125)
    assert found == pytest.approx(math.erfc(z / math.sqrt(2.0)), rel=0.01)
    assert binomial_two_sample(10**17, 10**18, 10**17, 10**18) == pytest.approx(1.0, abs=1e-3)


def test_counts_that_contradict_their_totals() -> None:
    with pytest.raises(ValueError, match="within their totals"):
        binomial_two_sample(3, 2, 0, 10)


# ---- bins ----


def test_a_window_in_one_rare_category_is_seen() -> None:
    # The rare category expects 0.02 of 200 rows, so both are one group, and chi-square has nothing to compare.
    reference = np.array([999_900, 100], np.int64)
    tested = homogeneity(reference, np.array([0, 200], np.int64), ordered=False)
    assert tested.degrees == 0
    assert tested.p_value < 1e-100
    assert homogeneity(reference, np.array([200, 0], np.int64), ordered=False).p_value == 1.0


@pytest.mark.parametrize("vectors", [([5], [7]), ([0, 0], [3, 4]), ([3, 4], [0, 0])])
def test_nothing_to_compare(vectors: tuple[list[int], list[int]]) -> None:
    reference, current = (np.array(one, np.int64) for one in vectors)
    assert homogeneity(reference, current, ordered=True) == significance.Tested(1.0, 0.0, 0)


@pytest.mark.parametrize(
    ("n", "m", "shares"),
    [
        (200, 10_000, [0.1] * 10),
        (640, 64_000, [2.0**-i for i in range(1, 8)]),
        (500, 50_000, [0.485, 0.485, 0.01, 0.01, 0.01]),
        (500, 500, [0.3, 0.3, 0.2, 0.1, 0.1]),
    ],
)
def test_a_test_of_one_percent_rejects_one_percent(n: int, m: int, shares: list[float]) -> None:
    rng, runs, share = np.random.default_rng(8), 4_000, np.array(shares) / sum(shares)
    rejected = sum(
        homogeneity(rng.multinomial(m, share), rng.multinomial(n, share), ordered=False).p_value <= 0.01
        for _ in range(runs)
    )
    # 40 expected, and three standard deviations of chance.
    assert 20 <= rejected <= 60


def test_how_large_a_reference_must_be() -> None:
    assert significance.largest_window(50_000) == 5_000
    assert significance.largest_window(9) == 0


# ---- overdispersion ----


def windows(rng: np.random.Generator, copies: int, count: int) -> list[np.ndarray]:
    """Windows of 1,000 rows, each row served `copies` times."""
    return [copies * rng.multinomial(1_000 // copies, [0.1] * 10) for _ in range(count)]


@pytest.mark.parametrize("copies", [1, 4])
def test_overdispersion_is_how_often_each_row_comes(copies: int) -> None:
    parts = windows(np.random.default_rng(4), copies, 200)
    assert significance.overdispersion_of(parts, ordered=True) == pytest.approx(copies, rel=0.12)


def test_overdispersion_divides_the_statistic_and_never_raises_it() -> None:
    reference, current = np.array([500, 500]), np.array([60, 40])
    alone, halved = homogeneity(reference, current, True), homogeneity(reference, current, True, phi=2.0)
    assert halved.statistic == pytest.approx(alone.statistic / 2.0)
    assert homogeneity(reference, current, True, phi=0.5) == alone
    assert significance.overdispersion([], []) == 1.0
    assert significance.overdispersion([1.0], [10]) == 1.0
    assert significance.overdispersion_of([np.array([5]), np.array([7])], True) == 1.0
