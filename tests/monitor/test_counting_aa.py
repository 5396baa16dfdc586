"""No change, floors 0: false alarms come as rarely as was asked for, through rows, counts and the whole engine.

Rows come from a generator, not from a shuffle of the reference, which would be too much like it.
"""

import numpy as np
import pytest

from gateway.monitor.counting import Counter, Counts, empty
from gateway.monitor.engine import Engine
from gateway.monitor.reference import Reference
from gateway.monitor.settings import Spec, parse
from tests.monitor.counting_models import fitted

HOUR_MS = 3_600_000
ROWS, REFERENCE_ROWS = 500, 10_000
PERIOD_HOURS = 24
"""Requested: one false alarm in so many windows."""


def spec_of(floor: float | None) -> Spec:
    floors = {} if floor is None else {"floors": {"psi": floor, "quality": floor}}
    spec = {"window": {"rows": ROWS}, "false_alarms": {"at_most_one_per": f"{PERIOD_HOURS}h"}, **floors}
    return parse({"apiVersion": "tidegate/v1", "kind": "Monitor", "metadata": {"name": "m"}, "spec": spec}).spec


def rows(rng: np.random.Generator, count: int, features: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Numbers with missing values, skewed categories with rare ones, and a score of the first feature."""
    columns = []
    for at in range(features):
        if at % 3 == 2:
            columns.append(np.minimum(rng.geometric(0.35, count), 45).astype(np.float32))
        else:
            values = rng.normal(size=count).astype(np.float32)
            values[rng.random(count) < 0.02] = np.nan
            columns.append(values)
    base = np.nan_to_num(columns[0])
    return columns, (1 / (1 + np.exp(-base - rng.normal(size=count)))).astype(np.float32).reshape(-1, 1)


def made(rng: np.random.Generator, features: int) -> Reference:
    columns, scores = rows(rng, REFERENCE_ROWS, features)
    return fitted({f"f{at}": column for at, column in enumerate(columns)}, scores).reference


def window(rng: np.random.Generator, counter: Counter, features: int) -> Counts:
    into = empty(counter.plan)
    columns, scores = rows(rng, ROWS, features)
    counter.count(columns, [scores], np.zeros(ROWS, np.int64), into)
    return into


def alarms(features: int, worlds: int, windows: int, floor: float | None) -> int:
    """Alarms that began, over so many references with so many windows each. Performance has no labels here."""
    found = 0
    for seed in range(worlds):
        rng = np.random.default_rng([features, seed])
        reference = made(rng, features)
        engine, counter = Engine(reference, spec_of(floor)), Counter(reference.plan)
        engine.take("-", empty(reference.plan), 0)
        for number in range(windows):
            delta = window(rng, counter, features)
            for closed in engine.take("-", delta, (number + 1) * HOUR_MS):
                found += sum(family.fired for family in closed.result.families)
    return found


def test_with_the_default_floors_there_are_no_alarms_at_all() -> None:
    assert alarms(7, worlds=4, windows=50, floor=None) == 0


@pytest.mark.sim
@pytest.mark.timeout(600)
@pytest.mark.parametrize("features", [7, 30])
def test_the_distance_between_false_alarms_is_that_requested_up_to_twice_it(features: int) -> None:
    worlds, windows = 30, 60
    # Three of four families can alarm: 0.8 of the allowed ones.
    expected = 0.8 * worlds * windows / PERIOD_HOURS
    assert expected >= 30
    found = alarms(features, worlds, windows, floor=0.0)
    interval = 3 * np.sqrt(expected)
    assert expected / 2 - interval <= found <= expected + interval
    print(f"{features} features: expected at most {expected:.0f} alarms, got {found}")
