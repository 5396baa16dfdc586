"""Special functions against sums that need none."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.evidence import special


@given(st.integers(1, 60), st.integers(1, 60), st.floats(0.001, 0.999))
def test_the_incomplete_beta_is_a_binomial_tail(a: int, b: int, x: float) -> None:
    n = a + b - 1
    tail = math.fsum(math.comb(n, k) * x**k * (1 - x) ** (n - k) for k in range(a, n + 1))
    share = math.exp(special.log_beta_below(a, b, x) - special.log_beta(a, b))
    assert share == pytest.approx(tail, rel=1e-9, abs=1e-14)


def test_the_incomplete_beta_at_its_ends_and_far_out() -> None:
    assert special.log_beta_below(2.0, 3.0, 0.0) == -math.inf
    assert special.log_beta_below(2.0, 3.0, 1.0) == special.log_beta(2.0, 3.0)
    half = special.log_beta_below(1e6, 1e6, 0.5) - special.log_beta(1e6, 1e6)
    assert half == pytest.approx(math.log(0.5), abs=1e-6)


@pytest.mark.parametrize("degrees", [1, 3, 9])
def test_chi_square_is_continuous_where_its_series_gives_way(degrees: int) -> None:
    at = degrees + 2.0
    below, above = special.chi_square_above(at - 1e-9, degrees), special.chi_square_above(at + 1e-9, degrees)
    assert below == pytest.approx(above, rel=1e-8)
    one = special.chi_square_above(1.96**2, 1)
    assert one == pytest.approx(math.erfc(1.96 / math.sqrt(2)), rel=1e-12)


def test_the_normal_tail_is_continuous_where_its_series_begins() -> None:
    assert special.log_normal_below(0.0) == pytest.approx(math.log(0.5))
    assert special.log_normal_below(-30.0 - 1e-9) == pytest.approx(special.log_normal_below(-30.0 + 1e-9), rel=1e-6)
    assert math.isfinite(special.log_normal_below(-1e9))


def test_sums_of_logarithms() -> None:
    assert special.log_sum([]) == -math.inf
    assert special.log_sum([-math.inf, -math.inf]) == -math.inf
    assert special.log_sum([1000.0, 1000.0]) == pytest.approx(1000.0 + math.log(2))
    assert special.log_add(-5.0, 900.0) == pytest.approx(900.0)
    assert special.log_add(-math.inf, -math.inf) == -math.inf
    assert special.log_add(-math.inf, 1.0) == 1.0
