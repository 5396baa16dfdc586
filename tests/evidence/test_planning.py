"""Plans: the published table, what is never reached, and that more traffic never shows less."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.evidence import planning
from router.evidence.planning import Guardrail, Requests
from router.evidence.promotion import Margin

# The design's own figures, in canary requests: alpha 1 %, base rate 1 %, no margin, eight ratios, one start. They take
# the fault itself as the ratio looked for.
TABLE = [
    (0.01, 2, 1_753),
    (0.01, 10, 49),
    (0.05, 1.5, 6_554),
    (0.1, 2, 1_978),
    (0.1, 3, 603),
    (0.1, 5, 200),
    (0.1, 10, 62),
    (0.5, 1.5, 13_279),
    (0.5, 10, 156),
]


@pytest.mark.parametrize(("weight", "ratio", "canary"), TABLE)
def test_the_table(weight: float, ratio: float, canary: float) -> None:
    # 8 guardrails cost as much as a grid of 8 ratios. The mixture over starts costs ln 2 more than one start.
    found = planning.to_detect(ratio, weight, 0.01, Guardrail(1.0, guardrails=8, multiples=[ratio]))
    assert found is not None
    needed = math.log(100) + math.log(8)
    assert found.canary * needed / (needed + math.log(2)) == pytest.approx(canary, rel=0.01)
    assert found.total == pytest.approx(found.canary / weight)


@pytest.mark.parametrize(
    ("ratio", "weight", "base"), [(1.25, 0.1, 0.01), (1.0, 0.1, 0.01), (3, 0.0, 0.01), (3, 1.0, 0.01), (3, 0.1, 0.0)]
)
def test_never(ratio: float, weight: float, base: float) -> None:
    assert planning.to_detect(ratio, weight, base) is None
    assert not planning.would_detect(1e12, ratio, weight, base)


def test_promotion_never() -> None:
    assert planning.to_promote(1.25, 0.1, 0.1) is None
    assert planning.to_promote(1.0, 0.0, 0.01) is None
    assert planning.to_promote(1.0, 0.1, 0.0, Margin(1.25, None)) is None
    assert planning.to_promote(1.0, 1.0, 0.001) is None


def test_without_errors_the_absolute_margin_promotes() -> None:
    found = planning.to_promote(1.0, 0.1, 0.0)
    assert found is not None
    assert found.canary == pytest.approx(864, abs=1)


def test_where_errors_are_common_the_ratio_promotes() -> None:
    both, ratio_only = planning.to_promote(1.0, 0.5, 0.05), planning.to_promote(1.0, 0.5, 0.05, Margin(1.25, None))
    assert both is not None
    assert ratio_only is not None
    assert both.total > ratio_only.total  # half of the mixture was spent on the absolute margin
    assert both.total < 2 * ratio_only.total


@given(
    st.floats(1.3, 50), st.floats(0.001, 0.999), st.floats(1e-5, 0.05), st.integers(1, 5), st.sampled_from([0.0, 0.84])
)
def test_worse_is_found_sooner_and_more_guardrails_later(
    ratio: float, weight: float, base: float, guardrails: int, z: float
) -> None:
    one = planning.to_detect(ratio, weight, base, Guardrail(guardrails=guardrails), z)
    more = planning.to_detect(ratio, weight, base, Guardrail(guardrails=guardrails + 1), z)
    worse = planning.to_detect(ratio * 1.5, weight, base, Guardrail(guardrails=guardrails), z)
    if one is None:
        return
    assert worse is not None
    assert worse.total <= one.total * (1 + 1e-9)
    assert more is None or more.total > one.total


def test_the_grid_finds_what_lies_between_its_ratios_nearly_as_fast() -> None:
    for ratio in (1.7, 2.5, 4.0, 7.0, 20.0):
        grid, exact = (
            planning.to_detect(ratio, 0.1, 0.01),
            planning.to_detect(ratio, 0.1, 0.01, Guardrail(multiples=[ratio / 1.25])),
        )
        assert grid is not None
        assert exact is not None
        assert grid.total < 1.4 * exact.total


def test_four_of_five_takes_more_than_the_average_and_a_late_start_more_than_the_first() -> None:
    average, most = planning.to_detect(3, 0.1, 0.01), planning.to_detect(3, 0.1, 0.01, z=planning.POWER_80)
    late = planning.to_detect(3, 0.1, 0.01, Guardrail(starts=20))
    assert average is not None
    assert most is not None
    assert late is not None
    assert average.total < most.total
    assert average.total < late.total


def test_the_smallest_fault_in_sight_is_where_80_percent_are_reached() -> None:
    smallest = planning.smallest_detectable(20_000, 0.1, 0.01)
    assert smallest is not None
    assert planning.would_detect(20_000, smallest, 0.1, 0.01)
    assert not planning.would_detect(20_000, smallest * 0.995, 0.1, 0.01)
    assert planning.smallest_detectable(1, 0.1, 0.01) is None


def test_seconds() -> None:
    assert Requests(3_000, 30).seconds(100) == 30
    assert Requests(3_000, 30).seconds(0) is None


@pytest.mark.parametrize(
    "make",
    [
        lambda: planning.to_detect(0.0, 0.1, 0.01),
        lambda: planning.to_detect(2.0, 1.1, 0.01),
        lambda: planning.to_detect(2.0, 0.1, -0.01),
        lambda: planning.to_detect(2.0, 0.1, 0.01, Guardrail(alpha=1.0)),
        lambda: planning.to_promote(1.0, 0.1, 0.01, beta=0.0),
        lambda: planning.to_promote(-1.0, 0.1, 0.01),
        lambda: Requests(1, 1).seconds(-1),
    ],
)
def test_what_makes_no_sense_is_refused(make: Any) -> None:
    with pytest.raises(ValueError, match="expected"):
        make()


@pytest.mark.parametrize(("ratio", "weight", "base"), [(2, 0.1, 0.01), (5, 0.5, 0.001), (1.5, 0.3, 0.05)])
def test_units_that_come_again_err_once(ratio: float, weight: float, base: float) -> None:
    every = planning.to_detect(ratio, weight, base)
    many = planning.to_detect_among(10**9, ratio, weight, base)
    assert every is not None
    assert many is not None
    assert many.total == pytest.approx(every.total, rel=1e-3)
    erring = every.total * base * (1 - weight + weight * ratio)
    some = planning.to_detect_among(round(20 * erring), ratio, weight, base)
    assert some is not None
    assert every.total < some.total < 1.5 * every.total
    assert planning.to_detect_among(round(erring), ratio, weight, base) is None
