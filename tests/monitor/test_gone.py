"""Variants and versions that are gone: nothing is left of them, and nobody who is served pays for them."""

import numpy as np

from gateway.monitor.book import LINGERS_MS, ModelMonitor, Roles
from gateway.monitor.counting import Counter, Counts, empty
from gateway.monitor.engine import MAX_SERIES
from gateway.monitor.plan import CountPlan, FeaturePlan, ScorePlan
from gateway.monitor.realised import Labelled
from gateway.monitor.reference import Binding, Reference, identified
from gateway.monitor.settings import Labels, Latency, Spec, Window

PLAN = CountPlan("", (FeaturePlan("a", "numeric", 0, 0, (0.0, 0.5, 1.0)),), ScorePlan(0, -1, "probability"))
STABLE = ("1", "stable")
HOUR_MS = 3_600_000
SPEC = Spec(
    window=Window(rows=200),
    min_rows=20,
    latency=Latency(slo_ms=100.0, objective=0.99),
    labels=Labels(mature_after_ms=HOUR_MS),
)


def counts(rows: int) -> Counts:
    vector, values = empty(PLAN), (np.arange(rows) % 10 / 10).reshape(-1, 1)
    Counter(PLAN).count([values], [values], np.zeros(rows, np.int64), vector)
    return vector


def monitor() -> ModelMonitor:
    found = ModelMonitor("m", SPEC)
    found.watch({"1": identified(Reference(PLAN, counts(50_000), Binding("x", (), ())))})
    return found


def roles(*others: str) -> Roles:
    return Roles(champion=STABLE, live=frozenset({STABLE, *(("1", name) for name in others)}))


def test_a_variant_that_gets_no_rows_any_more_is_forgotten_after_an_hour() -> None:
    model = monitor()
    engine = model.versions["1"].engine
    model.turn([("1", "b", counts(50))], roles("b"), 0)
    model.turn([(*STABLE, counts(50))], roles("b"), 1_000)
    shared = engine.alphas(HOUR_MS)["input"]
    model.turn([], roles(), 2_000)
    model.turn([], roles(), 2_000 + LINGERS_MS - 1)
    assert engine.open_rows("b") == 50
    model.turn([], roles("b"), 2_000 + LINGERS_MS)
    model.turn([], roles(), 3_000 + LINGERS_MS)
    assert engine.open_rows("b") == 50, "it was live again meanwhile"
    model.turn([], roles(), 3_000 + 2 * LINGERS_MS)
    assert engine.variants == ("stable",)
    assert engine.alphas(HOUR_MS)["input"] > shared, "the share of what is gone goes to who is there"


def test_while_nobody_knows_who_is_live_nothing_is_forgotten() -> None:
    model = monitor()
    for hours in range(3):
        model.turn([(*STABLE, counts(5)), ("1", "b", counts(5))], Roles(champion=STABLE), hours * HOUR_MS)
    assert set(model.versions["1"].engine.variants) == {"stable", "b"}


def test_experiments_that_follow_each_other_are_all_judged() -> None:
    model = monitor()
    for at in range(MAX_SERIES + 10):
        name = f"arm-{at}"
        for half in range(2):
            outcome = model.turn([("1", name, counts(100))], roles(name), (3 * at + half) * HOUR_MS)
        assert [one.result.variant for _, one in outcome.closed] == [name]
    assert len(model.versions["1"].engine.variants) <= 2


def test_what_labels_say_of_a_variant_goes_with_its_last_cohort() -> None:
    model = monitor()
    watching = model.versions["1"]
    span_ms = watching.cohorts.span_s * 1000
    model.turn([("1", "b", counts(400))], roles("b"), 0)
    for at in range(400):
        model.label("1", Labelled(0.0, 1.0, "b", 0, int(at % 10 >= 5), 9, int(at % 10 >= 5)), 0)
    model.answered(("1", "b"), "n", [1, *[0] * 17], roles("b"), 0)
    model.turn([], roles(), 3 * HOUR_MS)
    assert watching.judged.keys() == {"b"}
    model.turn([], roles(), 5 * HOUR_MS)
    assert (watching.engine.variants, watching.speeds) == ((), {})
    assert watching.judged.keys() == {"b"}
    model.turn([(*STABLE, counts(5))], roles(), 300 * span_ms)
    assert watching.variants == {"stable"}
