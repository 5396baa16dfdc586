"""How far apart false alarms are: windows without drift, judged by the code that judges real ones.

Asked for is one alarm in 1/target windows. With two of three, and alarms in a row being one, alarms come about 1.5
times as rarely. Each row is judged by its exact Poisson interval (99 %), which must reach into 1..2.
"""

import zlib

import pytest

from tests.monitor.families_world import World, alarms, distance_limits, even, exact_distance, skewed

HOURLY = 0.4 / (24 * 30)
"""The input family's share of one alarm in 30 days, per hourly window."""


def check(name: str, world: World, target: float, references: int, windows: int) -> None:
    count = alarms(world, target, references, windows, seed=zlib.crc32(name.encode()))
    asked = references * windows * target
    low, found, high = distance_limits(asked, count)
    print(f"{name}: asked {asked:.0f} alarms, got {count}: distance x{found:.2f} (99 %: {low:.2f}..{high:.2f})")
    assert high >= 1.0, f"{name}: alarms come more often than asked"
    assert low <= 2.0, f"{name}: alarms come too rarely, so drift is found late"


@pytest.mark.parametrize(("target", "distance"), [(1 / 50, 1.762), (1 / 200, 1.621), (1 / 1_800, 1.538)])
def test_the_exact_distance_where_p_values_are_even(target: float, distance: float) -> None:
    assert exact_distance(target) == pytest.approx(distance, rel=1e-3)


QUICK = {
    "7 even features of 10 bins": (World(even(7, 10), 10_000, 1_000), 0.01, 40, 80),
    "7 skewed features of 12 categories": (World(skewed(7, 12), 20_000, 400, ordered=False), 0.01, 40, 80),
    "30 even features of 10 bins": (World(even(30, 10), 10_000, 1_000), 0.02, 15, 80),
}


@pytest.mark.parametrize("name", QUICK)
def test_distance_in_brief(name: str) -> None:
    check(name, *QUICK[name])


LONG = {
    f"{features} {kind} features, n {n}, m {m}, {bins} bins, 1 in {round(1 / target)} windows": (
        World((even if kind == "even" else skewed)(features, bins), m, n, ordered=kind == "even"), target, features
    )
    for features in (7, 30)
    for kind, bins, n, m in (
        ("even", 10, 200, 10_000),
        ("even", 10, 1_000, 10_000),
        ("even", 20, 5_000, 50_000),
        ("skewed", 12, 400, 50_000),
        ("skewed", 4, 5_000, 50_000),
    )
    for target in (1 / 200,)
} | {
    "7 even features, n 1000, m 10000, hourly": (World(even(7, 10), 10_000, 1_000), HOURLY, 7),
}  # fmt: skip


@pytest.mark.sim
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", LONG)
def test_distance(name: str) -> None:
    world, target, _ = LONG[name]
    references = round((100 if target == HOURLY else 200) / target / 100)  # 200 alarms asked for: about 125 come
    check(name, world, target, references, 100)


QUALITY = World(even(7, 10), 50_000, 5_000)


def test_quality_alarms_never_come_more_often_than_asked() -> None:
    # Counts are small and whole, so exact tests reject less often than they say: distances are longer than asked.
    count = alarms(QUALITY, 0.02, 15, 100, seed=3, family="quality")
    low, _, high = distance_limits(15 * 100 * 0.02, count)
    assert high >= 1.0
    assert low > 1.0


@pytest.mark.parametrize(
    "world",
    [
        World(even(7, 10), 10_000, 1_000, floor=0.1),
        World(even(30, 10), 20_000, 2_000, floor=0.1),
        World(skewed(7, 12), 20_000, 400, ordered=False, floor=0.1),
    ],
)
def test_with_default_floors_there_is_no_alarm(world: World) -> None:
    # At alpha of 1 in 10 windows, which hits all the time.
    assert alarms(world, 0.1, 6, 50, seed=5) == 0


def test_with_the_default_floor_quality_gives_no_alarm() -> None:
    assert alarms(QUALITY, 0.1, 4, 50, seed=5, family="quality", floor=0.005) == 0
