"""Two arms against each other: the level, scipy-free numbers, joined bins, 2 of 3."""

import numpy as np
import pytest

from gateway.monitor.apart import Apart, p_value


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        # scipy.stats.chi2_contingency([first, second], correction=False).pvalue, scipy 1.17.1
        ([100, 200, 300], [110, 190, 310], 0.6656621215508921),
        ([900, 100], [80, 20], 0.0022253071840488475),
        ([500, 500, 500, 500], [50, 60, 70, 20], 9.040625437080793e-06),
    ],
)
def test_p_values(first: list[int], second: list[int], expected: float):
    assert p_value(first, second) == pytest.approx(expected, rel=1e-9)
    assert p_value(second, first) == pytest.approx(p_value(first, second))


@pytest.mark.parametrize("rows", [(500, 500), (1_800, 200), (20_000, 200)])
def test_equal_arms_are_rarely_told_apart(rows: tuple[int, int]):
    rng = np.random.default_rng(3)
    shares = np.array([0.001, 0.002, 0.05, 0.1, 0.2, 0.3, 0.2, 0.1, 0.04, 0.007])
    rounds = 4_000
    samples = [rng.multinomial(count, shares, rounds) for count in rows]
    low = sum(p_value(a.tolist(), b.tolist()) <= 0.01 for a, b in zip(*samples, strict=True))
    assert low <= 0.01 * rounds + 3 * (0.01 * rounds) ** 0.5


def test_nothing_to_compare():
    assert p_value([0, 0], [1, 2]) == 1.0
    assert p_value([3, 0], [4, 0]) == 1.0
    assert p_value([1_000], [10]) == 1.0


def test_what_remains_goes_to_the_last_bin():
    assert p_value([50, 50, 1], [50, 50, 1]) == pytest.approx(1.0)
    assert p_value([50, 50, 1], [90, 10, 1]) == pytest.approx(p_value([50, 51], [90, 11]))


def test_the_fewest_rows():
    assert Apart().close([100, 100], [100, 99]).state == "insufficient"
    assert Apart().close([100, 100], [100, 100]).state == "ok"


def test_two_of_three():
    same, other, few = ([500, 500], [500, 500]), ([500, 500], [900, 100]), ([500, 500], [5, 5])
    apart = Apart()
    assert apart.state == "insufficient"
    states = []
    for first, second in (same, other, same, other, few, other, same, same, same):
        apart = apart.close(first, second)
        states.append(apart.state)
    assert states == ["ok", "pending", "pending", "firing", "insufficient", "firing", "pending", "pending", "ok"]
    assert len(apart.windows) == 3
