"""Slow executions by batch size: a canary is held against stable's executions of the same size and moment."""

import json
import math
import random

import numpy as np
import pytest

from router.evidence.eprocess import EventShare, log_threshold
from router.evidence.executions import ODDS_STEP, ExecutionShare, expected_of_canary, share_of
from tests.simulation.evidence.results import Rate

ALPHA = 0.01
SIZES = (1, 2, 4, 8)
CHANCES = {1: 0.01, 2: 0.03, 4: 0.1, 8: 0.3}
"""Large batches are slow far more often, whichever variant they are of."""


def run(seed: int, *, ratio: float, canary: dict[int, float], stable: dict[int, float], ticks: int = 120) -> float:
    """Largest log e of a rollout, from mean executions per tick by size; both are slowed down alike halfway."""
    rng = np.random.default_rng(seed)
    share, peak = ExecutionShare(1.0), 0.0
    for tick in range(ticks):
        slowdown = 1.0 if tick < ticks // 2 else 2.0
        arms = []
        for mean, factor in ((canary, ratio), (stable, 1.0)):
            arm = {}
            for size in SIZES:
                every = int(rng.poisson(mean[size]))
                slow = int(rng.binomial(every, min(1.0, factor * slowdown * CHANCES[size])))
                arm[size] = (every - slow, slow)
            arms.append(arm)
        share.tick(*arms)
        peak = max(peak, share.harm.log_e)
    return peak


FEW = {1: 12.0, 2: 2.0, 4: 0.5, 8: 0.1}
MANY = {1: 2.0, 2: 5.0, 4: 15.0, 8: 20.0}


@pytest.mark.parametrize(("canary", "stable"), [(FEW, MANY), (MANY, FEW)], ids=["smaller", "larger"])
def test_other_batch_sizes_are_no_reason_to_hold(canary: dict[int, float], stable: dict[int, float]) -> None:
    peaks = [run(seed, ratio=1.0, canary=canary, stable=stable) for seed in range(300)]
    accused = Rate("B3", "", "", sum(peak >= log_threshold(ALPHA) for peak in peaks), len(peaks), ALPHA)
    assert accused.kept, accused


def test_without_strata_the_same_traffic_would_accuse_the_larger_batches() -> None:
    """What the buckets are for: by its share of all executions nearly every healthy canary would be held."""
    accused = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        pooled = EventShare(1.0)
        for _ in range(120):
            slow = [
                sum(int(rng.binomial(rng.poisson(mean[size]), CHANCES[size])) for size in SIZES) for mean in (MANY, FEW)
            ]
            pooled.add(sum(MANY.values()) / (sum(MANY.values()) + sum(FEW.values())), slow[0], sum(slow))
        accused += pooled.crossed(ALPHA)
    assert accused == 20


def test_twice_as_many_slow_ones_are_found() -> None:
    found = [run(seed, ratio=2.0, canary=FEW, stable=MANY, ticks=800) for seed in range(20)]
    assert sum(peak >= log_threshold(ALPHA) for peak in found) == 20


def back_to_back(seed: int, ticks: int = 300) -> float:
    """Largest log e where both variants execute without a pause, so that a slow execution leaves room for fewer."""
    rng, share, peak, busy_ms = random.Random(seed), ExecutionShare(1.25), 0.0, [0.0, 0.0]
    for tick in range(1, ticks + 1):
        arms = [[0, 0], [0, 0]]
        for at, arm in enumerate(arms):
            while busy_ms[at] < 250.0 * tick:
                slow = rng.random() < 0.01
                busy_ms[at] += 100.0 if slow else rng.uniform(8.0, 12.0)
                arm[slow] += 1
        canary, stable = arms
        share.tick({1: (canary[0], canary[1])}, {1: (stable[0], stable[1])})
        peak = max(peak, share.harm.log_e)
    return peak


def test_variants_that_never_rest_are_not_held_at_the_default_margin() -> None:
    peaks = [back_to_back(seed) for seed in range(60)]
    accused = Rate("B3", "", "", sum(peak >= log_threshold(ALPHA) for peak in peaks), len(peaks), ALPHA)
    assert accused.kept, accused


def test_only_what_both_have_in_one_tick_is_compared() -> None:
    share = ExecutionShare(1.25)
    share.tick({1: (0, 50)}, {2: (50, 0)})
    share.tick({1: (0, 50)}, {})
    share.tick({1: (0, 50)}, {1: (0, 0)})
    assert (share.compared, share.harm.all_events, share.step) == (False, 0, [[0, 0], [0, 0]])
    share.tick({1: (9, 1), 4: (3, 0)}, {1: (30, 0), 4: (9, 3)})
    assert (share.compared, share.step) == (True, [[13, 1], [42, 3]])
    assert (share.harm.canary_events, share.harm.all_events) == (1, 4)
    assert sum(every for _, every in share.events.values()) == 4


def test_the_share_is_rounded_up_and_little() -> None:
    for canary in (1, 2, 7, 50, 999):
        for stable in (1, 3, 19, 400, 10_000):
            exact, found = canary / (canary + stable), share_of(canary, stable)
            assert exact <= found + 1e-12
            assert found / (1 - found) <= canary / stable * ODDS_STEP * (1 + 1e-4) + 1e-6 / (1 - found)
    assert len({share_of(canary, stable) for canary in range(1, 200) for stable in range(1, 200)}) < 600


def test_a_state_goes_on_through_json() -> None:
    straight, again = ExecutionShare(1.25), ExecutionShare(1.25)
    for tick in range(30):
        canary, stable = {1: (5, tick % 3), 8: (1, 1)}, {1: (40, 1), 8: (3, tick % 2)}
        straight.tick(canary, stable)
        again = ExecutionShare(1.25, json.loads(json.dumps(again.state())))
        again.tick(canary, stable)
    assert again.state() == straight.state()


def test_another_margin_begins_anew_and_a_step_does_not() -> None:
    share = ExecutionShare(1.25)
    share.tick({1: (5, 5)}, {1: (50, 0)})
    share.new_step()
    assert (share.compared, share.harm.all_events) == (False, 5)
    assert ExecutionShare(1.25, share.state()).harm.all_events == 5
    assert ExecutionShare(1.5, share.state()).harm.all_events == 0


def test_how_many_would_be_the_canarys() -> None:
    assert expected_of_canary({"0.5": [7, 10]}, 1.0) == 5.0
    assert math.isclose(expected_of_canary({"0.1": [7, 10], "0.5": [0, 4]}, 2.0), 10 * 0.2 / 1.1 + 4 * 2 / 3)
