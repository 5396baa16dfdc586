"""Confidence sequences against the numbers of others, and by themselves."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.evidence import sequences
from router.evidence.sequences import BetaBinomial, Estimate, Moments

# Source: confseq, test/uniform_boundaries_unittest.cpp (Howard, MIT licence); its numbers come from R.
CONFSEQ_RATES = [
    (700, 1000, 100, 0.651629, 0.745949),
    (15, 50, 50, 0.129556, 0.511896),
    (5, 50, 50, 0.013021, 0.269264),
]


@pytest.mark.parametrize(("bad", "total", "t_opt", "low", "high"), CONFSEQ_RATES)
def test_rates_as_confseq(bad: int, total: int, t_opt: float, low: float, high: float) -> None:
    interval = sequences.bernoulli_interval(bad, total, 0.05, t_opt)
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=1e-6)


def test_mixtures_as_confseq() -> None:
    one, two = BetaBinomial(100, 0.2, 0.8, one_sided=True), BetaBinomial(100, 0.2, 0.8)
    assert one.log_e(10, 100) == pytest.approx(-0.07134019, abs=1e-8)
    assert two.log_e(10, 100) == pytest.approx(-0.6941012, abs=1e-7)
    assert one.bound(100, 0.05) == pytest.approx(28.41238, abs=1e-5)
    assert sequences.normal_bound(100, 0.05, 100) == pytest.approx(30.35209, abs=1e-5)


# Source: GrowthBook, packages/stats/tests/frequentist/test_tests.py (MIT licence).
A = Moments.of_sums(3000, 1396.87, 52377.9767)
B = Moments.of_sums(3461, 2422.7, 134698.29)


def test_means_as_growthbook() -> None:
    relative, absolute = sequences.relative_difference(A, B), sequences.difference(A, B)
    assert (relative.value, relative.se) == pytest.approx((0.50336, 0.33341), abs=1e-5)
    assert (absolute.value, absolute.se) == pytest.approx((0.23437666, 0.12983081), abs=1e-8)
    both = sequences.asymptotic_interval(relative, 0.05, 1000)
    assert (both.low, both.high) == pytest.approx((-0.55844, 1.56516), abs=1e-5)
    lower = sequences.asymptotic_interval(relative, 0.05, 5000, "lower")
    assert (lower.low, lower.high) == pytest.approx((-0.42356454602790883, math.inf), rel=1e-12)
    lower = sequences.asymptotic_interval(absolute, 0.05, 5000, "lower")
    assert lower.low == pytest.approx(-0.12656844172804982, rel=1e-12)


def test_upper_is_the_mirror_of_lower() -> None:
    estimate = Estimate(0.2, 0.1, 500)
    lower = sequences.asymptotic_interval(estimate, 0.05, side="lower")
    upper = sequences.asymptotic_interval(estimate, 0.05, side="upper")
    assert upper.low == -math.inf
    assert upper.high - 0.2 == pytest.approx(0.2 - lower.low)


@given(st.integers(0, 3000), st.integers(0, 3000), st.sampled_from([0.01, 0.05, 0.5]))
def test_an_interval_holds_what_was_seen_and_stays_within_0_and_1(x: int, y: int, alpha: float) -> None:
    bad, total = min(x, y), max(x, y)
    interval = sequences.bernoulli_interval(bad, total, alpha)
    assert 0.0 <= interval.low <= (bad / total if total else 0.5) <= interval.high <= 1.0
    mirrored = sequences.bernoulli_interval(total - bad, total, alpha)
    assert (1 - mirrored.high, 1 - mirrored.low) == pytest.approx((interval.low, interval.high), abs=1e-9)


def test_edges_of_rates() -> None:
    assert sequences.bernoulli_interval(0, 0, 0.05) == sequences.Interval(0.0, 1.0)
    assert sequences.bernoulli_interval(0, 10**6, 0.05).low == 0.0
    assert sequences.bernoulli_interval(0, 10**6, 0.05).high < 1e-4
    assert sequences.bernoulli_interval(10**6, 10**6, 0.05).high == 1.0
    wide = sequences.bernoulli_interval(10**10, 10**12, 0.05)
    assert 0.0099 < wide.low < 0.01 < wide.high < 0.0101


def test_the_mixture_has_mean_one() -> None:
    """Over all outcomes of 40 trials at the rate itself."""
    rate, trials = 0.2, 40
    mixture = BetaBinomial(100 * rate * (1 - rate), rate, 1 - rate)
    one_sided = BetaBinomial(100 * rate * (1 - rate), rate, 1 - rate, one_sided=True)
    variance = rate * (1 - rate) * trials
    chances = [math.comb(trials, k) * rate**k * (1 - rate) ** (trials - k) for k in range(trials + 1)]
    mean = sum(p * math.exp(mixture.log_e(k - rate * trials, variance)) for k, p in enumerate(chances))
    below = sum(p * math.exp(one_sided.log_e(k - rate * trials, variance)) for k, p in enumerate(chances))
    assert mean == pytest.approx(1.0)
    assert below == pytest.approx(1.0)


def test_no_possible_sum_is_too_large_at_first() -> None:
    mixture = BetaBinomial(100, 0.2, 0.8)
    assert mixture.bound(0.0, 0.05) == math.inf
    assert mixture.bound(0.16, 0.05) == math.inf


def test_strata_are_weighted_by_what_they_know() -> None:
    joined = sequences.stratified([Estimate(1.0, 0.1, 100), Estimate(2.0, 0.2, 50), Estimate(9.0, math.inf, 1)])
    assert joined.value == pytest.approx((1.0 * 100 + 2.0 * 25) / 125)
    assert joined.se == pytest.approx(125**-0.5)
    assert joined.n == 150
    assert sequences.stratified([]).se == math.inf


def test_moments() -> None:
    assert Moments.of_sums(4, 10.0, 30.0) == Moments(4, 2.5, pytest.approx(5 / 3))
    assert Moments.of_sums(0, 0.0, 0.0) == Moments(0, 0.0, 0.0)
    assert Moments.of_sums(1, 3.0, 9.0) == Moments(1, 3.0, 0.0)
    assert Moments.of_sums(3, 0.3, 0.03).variance == pytest.approx(0.0, abs=1e-15)


def test_nothing_seen_says_nothing() -> None:
    none = Moments(0, 0.0, 0.0)
    for estimate in (sequences.difference(none, A), sequences.relative_difference(none, A)):
        assert sequences.asymptotic_interval(estimate, 0.05) == sequences.Interval(-math.inf, math.inf)
    assert sequences.unit_ratio_log_e(Moments(99, 0.0, 1.0), Moments(10_000, 1.0, 1.0), 1.25) == 0.0
    assert sequences.unit_ratio_log_e(Moments(500, 0.0, 0.0), Moments(500, 0.0, 0.0), 1.25) == 0.0


def test_the_unit_ratio_speaks_for_the_better_only() -> None:
    stable = Moments(5_000, 0.04, 0.03)
    better, worse = Moments(5_000, 0.02, 0.015), Moments(5_000, 0.08, 0.05)
    assert sequences.unit_ratio_log_e(better, stable, 1.25) > math.log(20)
    assert sequences.unit_ratio_log_e(worse, stable, 1.25) < 0
    assert math.isfinite(sequences.unit_ratio_log_e(Moments(10**9, 9.0, 1.0), Moments(10**9, 0.0, 1.0), 1.25))


def test_the_unit_ratio_crosses_where_the_one_sided_sequence_does() -> None:
    """Both are the same mixture up to an approximation of the normal tail."""
    stable, alpha, n_star = Moments(4_000, 0.10, 0.05), 0.05, 1000.0
    for mean in (0.085, 0.09, 0.095, 0.1, 0.11):
        canary = Moments(4_000, mean, 0.05)
        scaled = Moments(stable.n, 1.25 * stable.mean, 1.25**2 * stable.variance)
        high = sequences.asymptotic_interval(sequences.difference(scaled, canary), alpha, n_star, "upper").high
        crossed = sequences.unit_ratio_log_e(canary, stable, 1.25, n_star) >= -math.log(alpha)
        if abs(high) > 0.001:
            assert crossed == (high < 0.0)


@pytest.mark.parametrize(
    "make",
    [
        lambda: sequences.bernoulli_interval(2, 1, 0.05),
        lambda: sequences.bernoulli_interval(1, 2, 0.0),
        lambda: sequences.bernoulli_interval(1, 2, 0.05, 5),
        lambda: sequences.asymptotic_interval(Estimate(0, 1, 9), 0.6, side="lower"),
        lambda: sequences.asymptotic_interval(Estimate(0, 1, 9), 0.05, 0),
        lambda: Moments.of_sums(-1, 0, 0),
        lambda: Moments.of_sums(4, 10.0, 20.0),
        lambda: BetaBinomial(1.0, 0.0, 1.0),
        lambda: sequences.normal_bound(1.0, 1.0, 1.0),
        lambda: sequences.unit_ratio_log_e(A, B, 0.0),
    ],
)
def test_what_makes_no_sense_is_refused(make: Any) -> None:
    with pytest.raises(ValueError, match="expected"):
        make()


def test_one_side_of_an_interval_may_have_half() -> None:
    assert sequences.of_one_side(0.05) == 0.1
    found = sequences.bernoulli_interval(30, 100, sequences.of_one_side(0.5))
    assert 0.0 < found.low <= 0.3 <= found.high < 1.0


def test_an_e_value_reaches_1_by_alpha_where_the_interval_leaves_0() -> None:
    """Source of the limits: GrowthBook, as above; half of the width is the smallest effect that leaves 0."""
    half = (1.56516 + 0.55844) / 2
    found = sequences.asymptotic_log_e(Estimate(half, 0.33341, 6461), 0.05, 1000)
    assert found == pytest.approx(math.log(20), abs=1e-4)
    assert sequences.asymptotic_p(Estimate(half, 0.33341, 6461), 0.05, 1000) == pytest.approx(0.05, abs=1e-5)


@pytest.mark.parametrize("n", [200, 5_000, 1_000_000])
def test_an_e_value_has_mean_one_without_a_difference(n: int) -> None:
    """Over z, a standard normal one, by the trapezoidal rule: of exp(log e) times the density."""
    step = 0.05
    of_z = (step * at for at in range(-10_000, 10_001))
    density = 1 / math.sqrt(2 * math.pi)
    mean = sum(
        density * math.exp(sequences.asymptotic_log_e(Estimate(z, 1.0, n), 0.05, 5_000.0) - z * z / 2) for z in of_z
    )
    assert mean * step == pytest.approx(1.0, abs=2e-3)


def test_e_values_of_arms_that_are_alike_seldom_pass_1_by_alpha() -> None:
    """Every look taken: a share of at most alpha ever reaches 1 / alpha. Units come in hundreds, half of each arm."""
    rng, replicas, alpha, reached = np.random.default_rng(11), 2_000, 0.05, 0
    looks = np.arange(1, 201) * 100
    for _ in range(replicas):
        ends = rng.exponential(1.0, (2, 200, 50))
        sums, squares = ends.sum(axis=2).cumsum(axis=1), (ends**2).sum(axis=2).cumsum(axis=1)
        reached += any(
            sequences.asymptotic_log_e(difference_at(sums, squares, at, int(n)), alpha, 5_000.0) >= math.log(1 / alpha)
            for at, n in enumerate(looks)
            if n >= 2 * sequences.MIN_UNITS
        )
    assert reached <= replicas * alpha + 3.1 * math.sqrt(replicas * alpha * (1 - alpha))


def difference_at(sums: Any, squares: Any, at: int, n: int) -> Estimate:
    arms = [Moments.of_sums(n // 2, float(sums[arm, at]), float(squares[arm, at])) for arm in (0, 1)]
    return sequences.difference(*arms)


@pytest.mark.parametrize("estimate", [Estimate(0.5, 0.0, 100), Estimate(0.5, math.inf, 100), Estimate(0.5, 1.0, 0)])
def test_without_units_or_spread_an_e_value_is_one(estimate: Estimate) -> None:
    assert sequences.asymptotic_log_e(estimate, 0.05) == 0.0
    assert sequences.asymptotic_p(estimate, 0.05) == 1.0


EARLY = [(at // 100, at - at // 100) for at in (12_000, 16_000, 20_000)]
LATE = [(at // 2, at // 2) for at in (400, 1_000, 4_000, 20_000, 60_000, 180_000)]


def test_a_share_that_jumps_makes_no_more_false_alarms_than_alpha() -> None:
    """1 % for 20,000 units, then 50 %, no difference, looked at often: the interval leaves 0 in at most alpha."""
    rng, runs, alpha = np.random.default_rng(20), 4_000, 0.05
    crossed = sum(ever_beyond(drawn(rng, EARLY), drawn(rng, LATE), alpha) for _ in range(runs))
    assert crossed <= runs * alpha + 3.1 * math.sqrt(runs * alpha * (1 - alpha))


def drawn(rng: np.random.Generator, looks: list[tuple[int, int]]) -> list[tuple[Moments, Moments]]:
    """Both arms of one step at each look: means of so many normal values that only grow in number."""
    sizes = np.array(looks)
    grown = np.diff(sizes, axis=0, prepend=np.zeros((1, 2), dtype=int))
    sums = np.cumsum(rng.normal(size=sizes.shape) * np.sqrt(grown), axis=0)
    return [
        (Moments(int(n[0]), s[0] / n[0], 1.0), Moments(int(n[1]), s[1] / n[1], 1.0))
        for n, s in zip(sizes, sums, strict=True)
    ]


def ever_beyond(early: list[tuple[Moments, Moments]], late: list[tuple[Moments, Moments]], alpha: float) -> bool:
    looks = [[one] for one in early] + [[early[-1], one] for one in late]
    for pairs in looks:
        whole = sequences.stratified([sequences.difference(*pair) for pair in pairs])
        interval = sequences.asymptotic_interval(sequences.clocked(whole, pairs), alpha, 5_000.0)
        if not interval.low <= 0.0 <= interval.high:
            return True
    return False


def test_a_clock_counts_units_of_equal_arms() -> None:
    half, rare = (Moments(500, 0.0, 1.0), Moments(500, 0.0, 1.0)), (Moments(10, 0.0, 1.0), Moments(990, 0.0, 1.0))
    estimate = Estimate(0.1, 0.2, 7)
    assert sequences.clocked(estimate, [half]) == Estimate(0.1, 0.2, 1_000)
    assert sequences.clocked(estimate, [half, rare, (Moments(0, 0.0, 0.0), half[0])]) == Estimate(0.1, 0.2, 1_040)
