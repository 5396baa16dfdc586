"""False alarms of fairness are allowed to the model, not to each of its variants and versions."""

import math

import numpy as np
import pytest

from gateway.monitor.counting import Counter, Counts, empty
from gateway.monitor.families import binomial_at_least
from gateway.monitor.reference import Binding, Reference, identified
from gateway.monitor.settings import FalseAlarms, Floors, Groups, Spec, Window
from gateway.monitor.watching import Watching
from tests.monitor.test_tap import GROUPS, plan_of

HOUR_MS = 3_600_000
VARIANTS = ("a", "b", "c", "d")
DISTANCE, WINDOWS, ROWS = 20, 1_000, 400
"""Windows between two allowed alarms of fairness; windows of each variant, and rows of each."""
PLAN = plan_of(GROUPS)
SPEC = Spec(
    window=Window(rows=ROWS),
    groups=Groups(header="x-group", values=GROUPS),
    floors=Floors(disparate_impact=1.0),
    false_alarms=FalseAlarms(at_most_one_per_ms=DISTANCE * HOUR_MS),
)


def rows(rng: np.random.Generator) -> Counts:
    """A window in which both groups are decided alike."""
    vector = empty(PLAN)
    Counter(PLAN).count([rng.random((ROWS, 2))], [rng.random((ROWS, 1))], np.arange(ROWS) % 2, vector)
    return vector


def test_series_share_the_level_of_fairness() -> None:
    watching = Watching("1", identified(Reference(PLAN, empty(PLAN), Binding("x", (), ()))), SPEC)
    chances = []
    for variant, others in ((VARIANTS[0], 0), (VARIANTS[1], 0), (VARIANTS[1], 2)):
        watching.take(variant, empty(PLAN), 0)
        watching.engine.others = others
        chances.append(binomial_at_least(2, 3, watching._fairness_alpha(HOUR_MS)) * DISTANCE)
    assert chances == pytest.approx([1 / 2, 1 / 4, 1 / 8])


def test_a_model_of_several_variants_has_no_more_false_alarms_than_asked() -> None:
    """Decisions may alarm in half as many windows as fairness: 25 here. Their binomial's upper 99.9 % passes."""
    rng = np.random.default_rng(4)
    watching = Watching("1", identified(Reference(PLAN, rows(rng) * 1_000, Binding("x", (), ()))), SPEC)
    for variant in VARIANTS:
        watching.take(variant, empty(PLAN), 0)
    alarms, states = 0, dict.fromkeys(VARIANTS, "ok")
    for at in range(1, WINDOWS + 1):
        for variant in VARIANTS:
            closed = watching.take(variant, rows(rng), at * HOUR_MS)
            (said,) = [one for one in watching.findings(closed, at * HOUR_MS) if one.signal == "fairness"]
            alarms += said.state == "firing" and states[variant] != "firing"
            states[variant] = said.state
    expected = 0.5 * WINDOWS / DISTANCE
    print(f"allowed {expected:.0f} alarms, got {alarms}")
    assert 0 < alarms <= expected + 3.1 * math.sqrt(expected)
