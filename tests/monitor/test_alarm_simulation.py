"""A thousand days in which both arms drift alike: nothing is rolled back. A broken canary is."""

from collections import Counter

import numpy as np
import pytest

from gateway.monitor.attribution import Compared, attribute
from gateway.monitor.leases import Ask, Leases, grant, level_of
from tests.monitor.alarm_world import WINDOWS_OF_A_DAY, windows

DAYS = 1_000
HOUR_S = 3600.0


def drifting(rng: np.random.Generator, days: int) -> np.ndarray:
    """Three days in ten are quiet; the others drift, each by its own strength; hours have a season."""
    strength = np.abs(rng.normal(0.0, 0.1, days)) * rng.choice([0.0, 1.0], days, p=[0.3, 0.7])
    season = 0.03 * np.sin(np.arange(days * WINDOWS_OF_A_DAY) * 2 * np.pi / WINDOWS_OF_A_DAY)
    return strength.repeat(WINDOWS_OF_A_DAY) + season


def lived(seed: int, rows: tuple[int, int]) -> tuple[Counter[str], int, list[str]]:
    """Verdicts, what one arm's quiet beside the other's alarm would have rolled back, and leases that were granted."""
    rng = np.random.default_rng(seed)
    inputs = drifting(rng, DAYS)
    verdicts: Counter[str] = Counter()
    blind = 0
    leases, levels = Leases(), []
    for at, window in enumerate(windows(rng, rows, inputs, (0.8 * inputs, 0.8 * inputs))):
        found = attribute(window.champion, window.canary, window.compared)
        verdicts[found.verdict] += 1
        blind += attribute(window.champion, window.canary, Compared(outputs="firing")).action == "rollback"
        ask = Ask(
            model="credit", version="2", variant="canary", role="canary", level=level_of(found.action, "rollback"),
            reason=found.sentence, evidence_id=f"credit/{at}", revision=1,
        )  # fmt: skip
        leases, lease, _ = grant(leases, ask, at * HOUR_S, token=1)
        levels += [lease.level] if lease is not None else []
    return verdicts, blind, levels


def test_a_thousand_days_of_equal_drift_roll_nothing_back():
    verdicts, blind, levels = lived(1, (1_800, 200))
    assert sum(verdicts.values()) == DAYS * WINDOWS_OF_A_DAY
    assert verdicts["world"] > 4_000
    assert "rollback" not in levels
    assert levels.count("freeze") < 20
    # The days are hard enough: without comparing the arms with each other, healthy canaries would have gone.
    assert blind > 0


@pytest.mark.sim
@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("rows", [(1_800, 200), (1_000, 1_000), (20_000, 400)])
def test_many_thousand_days_roll_nothing_back(seed: int, rows: tuple[int, int]):
    verdicts, _, levels = lived(seed, rows)
    assert verdicts["world"] > 3_000
    assert "rollback" not in levels


@pytest.mark.parametrize(("strength", "within"), [(0.3, 12), (0.6, 3)])
def test_a_canary_whose_answers_alone_shift_is_rolled_back(strength: float, within: int):
    found = []
    for seed in range(50):
        rng = np.random.default_rng(seed)
        length = 100
        nothing, broken = np.zeros(length), np.full(length, strength)
        actions = [
            attribute(window.champion, window.canary, window.compared).action
            for window in windows(rng, (1_800, 200), nothing, (nothing, broken))
        ]
        found.append(actions.index("rollback") + 1)
    assert np.median(found) <= within, found


def test_days_without_drift_are_quiet():
    rng = np.random.default_rng(7)
    nothing = np.zeros(DAYS * WINDOWS_OF_A_DAY)
    verdicts = Counter(
        attribute(window.champion, window.canary, window.compared).verdict
        for window in windows(rng, (1_800, 200), nothing, (nothing, nothing))
    )
    # Four series, each with the false alarms that its level allows: 4 x 3 alpha^2 of the windows.
    assert verdicts["none"] > 0.996 * len(nothing)
    assert verdicts["model"] == 0
