"""No change, floors 0: false alarms come as rarely as was predicted, through rows, counts and the whole engine.

Rows come from a generator, not from a shuffle of the reference, which would be too much like it.
"""

from collections import Counter as Tally

import numpy as np
import pytest

from gateway.monitor.counting import Counter, Counts, empty
from gateway.monitor.engine import Engine
from gateway.monitor.families import SHARES
from gateway.monitor.reference import Reference
from gateway.monitor.settings import Spec, parse
from tests.monitor.counting_models import fitted
from tests.monitor.families_world import exact_distance, mean_limits

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


def alarms(features: int, worlds: int, windows: int, floor: float | None) -> Tally[str]:
    """Alarms that began, by family, over so many references with so many windows. Performance has no labels here."""
    found: Tally[str] = Tally()
    for seed in range(worlds):
        rng = np.random.default_rng([features, seed])
        reference = made(rng, features)
        engine, counter = Engine(reference, spec_of(floor)), Counter(reference.plan)
        engine.take("-", empty(reference.plan), 0)
        for number in range(windows):
            delta = window(rng, counter, features)
            for closed in engine.take("-", delta, (number + 1) * HOUR_MS):
                found.update(family.family for family in closed.result.families if family.fired)
    return found


def test_with_the_default_floors_there_are_no_alarms_at_all() -> None:
    assert alarms(7, worlds=4, windows=50, floor=None).total() == 0


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("features", "worlds"),
    [(7, 8), pytest.param(7, 60, marks=pytest.mark.sim), pytest.param(30, 60, marks=pytest.mark.sim)],
)
def test_the_whole_engine_alarms_as_often_as_predicted(features: int, worlds: int) -> None:
    """What even p-values predict, against the exact Poisson interval (99 %) of what came: not more, nor below half."""
    windows, found = 60, alarms(features, worlds, 60, floor=0.0)
    days = worlds * windows / 24
    # Asked for is one alarm a day of the model, in the families' shares; performance has no labels here.
    rates = {family: SHARES[family] * 24 / PERIOD_HOURS for family in ("input", "prediction", "quality")}
    even = {family: rate / exact_distance(rate / 24) for family, rate in rates.items()}
    for families in (("input",), ("prediction",), ("quality",), ("input", "prediction"), tuple(rates)):
        predicted, count = days * sum(even[family] for family in families), sum(found[family] for family in families)
        low, high = mean_limits(count)
        print(
            f"{features} features, {'+'.join(families)}: asked {sum(rates[one] for one in families):.2f} a day, "
            f"predicted {predicted:.1f} in {days:.0f} days, got {count} (99 %: {low:.1f} to {high:.1f})"
        )
        assert low <= predicted, f"{families}: alarms come more often than predicted"
        if "quality" not in families:  # exact tests of small counts reject less often than they say
            assert high >= predicted / 2, f"{families}: alarms come too rarely, so drift is found late"
