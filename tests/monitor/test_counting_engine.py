"""Counts in, verdicts out: what is compared with what, and that a restart goes on where it was."""

import json
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.monitor.counting import Counter, Counts, empty
from gateway.monitor.engine import HISTORY, MAX_SERIES, Closed, Engine, rule_of
from gateway.monitor.families import SHARES, binomial_at_least
from gateway.monitor.plan import SKIPPED
from gateway.monitor.reference import Reference
from gateway.monitor.results import WindowResult
from gateway.monitor.settings import DAY_MS, Spec, parse
from gateway.monitor.windows import dense
from tests.monitor.counting_models import fitted

HOUR_MS = 3_600_000


def spec_of(**spec: Any) -> Spec:
    document = {"apiVersion": "tidegate/v1", "kind": "Monitor", "metadata": {"name": "m"}, "spec": spec}
    return parse(document).spec


def world(rng: np.random.Generator, rows: int, shift: float = 0.0, missing: float = 0.0) -> tuple[Any, Any, Any]:
    """x moves by `shift` and is the score's only cause; y never moves."""
    x = rng.normal(shift, 1, rows)
    scores = 1 / (1 + np.exp(-1.5 * x))
    x[rng.random(rows) < missing] = np.nan
    return x.astype(np.float32), rng.normal(0, 1, rows).astype(np.float32), scores.astype(np.float32).reshape(-1, 1)


def made() -> Reference:
    rng = np.random.default_rng(0)
    x, y, scores = world(rng, 20_000)
    labels = rng.random(20_000) < scores[:, 0]
    return fitted({"x": x, "y": y}, scores, labels).reference


REFERENCE = made()
COUNTER = Counter(REFERENCE.plan)


def counts(rng: np.random.Generator, rows: int, shift: float = 0.0, missing: float = 0.0) -> Counts:
    into = empty(REFERENCE.plan)
    x, y, scores = world(rng, rows, shift, missing)
    COUNTER.count([x, y], [scores], np.zeros(rows, np.int64), into)
    return into


def closed(engine: Engine, rng: np.random.Generator, windows: int, variant: str = "-", **change: float) -> list[Closed]:
    """Windows of 1,000 rows, one an hour."""
    found: list[Closed] = []
    start = max([0, *(result.closed_ms for result in engine.history(variant))])
    for number in range(10 * windows):
        now_ms = start + (number + 1) * HOUR_MS // 10
        found += engine.take(variant, counts(rng, 100, **change), now_ms)
    return found


def engine_of(**spec: Any) -> Engine:
    engine = Engine(REFERENCE, spec_of(window={"rows": 1000}, **spec))
    engine.take("-", empty(REFERENCE.plan), 0)
    return engine


def states(found: list[Closed], family: str) -> list[str]:
    return [one.result.family(family).state for one in found]  # type: ignore[union-attr]


def test_the_same_world_says_ok_and_another_fires_at_the_second_window_and_ends_after_two() -> None:
    rng, engine = np.random.default_rng(1), engine_of()
    calm = closed(engine, rng, 10)
    assert set(states(calm, "input")) | set(states(calm, "quality")) == {"ok"}
    assert [one.result.rows for one in calm] == [1000] * 10
    moved = closed(engine, rng, 3, shift=1.0)
    assert states(moved, "input") == ["pending", "firing", "firing"]
    assert [one.result.family("input").fired for one in moved] == [False, True, False]  # type: ignore[union-attr]
    assert moved[1].result.family("input").named == ("x",)  # type: ignore[union-attr]
    assert states(moved, "prediction")[1] == "firing"
    assert "input" in moved[2].result.firing
    after = closed(engine, rng, 3)
    assert states(after, "input") == ["firing", "resolved", "ok"]


def test_missing_values_are_quality_and_not_drift() -> None:
    rng, engine = np.random.default_rng(2), engine_of()
    found = closed(engine, rng, 3, missing=0.05)
    assert states(found, "quality")[-1] == "firing"
    assert found[-1].result.family("quality").named == ("x:missing",)  # type: ignore[union-attr]
    assert set(states(found, "input")) == {"ok"}
    assert found[-1].result.features[0].quality["missing"] > 30


def test_estimated_performance_falls_before_any_label_where_scores_are_less_sure() -> None:
    rng, engine = np.random.default_rng(3), engine_of()
    found = [closed(engine, rng, 1)[0]]
    for hour in (2, 3):
        x = rng.normal(0, 0.4, 1000)
        delta = empty(REFERENCE.plan)
        scores = (1 / (1 + np.exp(-1.5 * x))).astype(np.float32).reshape(-1, 1)
        COUNTER.count([x.astype(np.float32), x.astype(np.float32)], [scores], np.zeros(1000, np.int64), delta)
        found += engine.take("-", delta, hour * HOUR_MS)
    values = [one.result.estimated.values["accuracy"] for one in found]  # type: ignore[union-attr]
    assert values[0] > 0.7 > 0.65 > max(values[1:])
    assert found[-1].result.performance is not None
    assert found[-1].result.performance.state == "firing"
    assert "performance" in found[-1].result.firing


def test_few_rows_are_not_judged_and_never_an_alarm() -> None:
    rng = np.random.default_rng(4)
    engine = Engine(REFERENCE, spec_of(window={"time": "1h"}, min_rows=200))
    found: list[Closed] = []
    for hour in range(6):
        found += engine.take("-", counts(rng, 100, shift=3.0), hour * HOUR_MS)
    assert [one.result.reason for one in found] == ["few_rows"] * 5
    assert set(states(found, "input")) == {"insufficient"}
    assert all(one.result.firing == () for one in found)
    assert engine.blind(2 * HOUR_MS + 1) == ["-"]


def test_windows_have_at_most_a_tenth_of_the_rows_of_the_reference() -> None:
    assert rule_of(REFERENCE, spec_of(window={"rows": 5000})).limit == 2000
    assert rule_of(REFERENCE, spec_of(window={"time": "1h"})).limit == 2000
    assert rule_of(REFERENCE, spec_of(window={"rows": 500})).limit == 500
    assert rule_of(REFERENCE, spec_of(window={"rows": 5000}, reference="champion")).limit == 5000


def test_levels_share_the_allowed_false_alarms_among_families_and_series() -> None:
    engine = engine_of(false_alarms={"at_most_one_per": "10d"})
    one = engine.alphas(HOUR_MS)
    for name, level in one.items():
        assert binomial_at_least(2, 3, level) == pytest.approx(SHARES[name] / 240)
    engine.take("canary", empty(REFERENCE.plan), 0)
    engine.others = 2
    assert binomial_at_least(2, 3, engine.alphas(HOUR_MS)["input"]) == pytest.approx(SHARES["input"] / 240 / 4)
    engine.forget("canary")
    assert engine.variants == ("-",)


def test_a_window_that_lasted_longer_is_held_to_a_larger_level() -> None:
    rng, engine = np.random.default_rng(5), engine_of()
    [fast] = engine.take("-", counts(rng, 1000), HOUR_MS)
    [slow] = engine.take("-", counts(rng, 1000), DAY_MS)
    fast_level, slow_level = (one.result.family("input").alpha for one in (fast, slow))  # type: ignore[union-attr]
    assert slow_level > 4 * fast_level


def test_variants_are_judged_apart() -> None:
    rng, engine = np.random.default_rng(6), engine_of()
    for _ in range(3):
        closed(engine, rng, 1, "stable")
        closed(engine, rng, 1, "canary", shift=1.0)
    assert engine.history("stable")[-1].firing == ()
    assert "input" in engine.history("canary")[-1].firing


def test_a_champion_in_the_same_window_cancels_what_the_world_does_to_both() -> None:
    rng = np.random.default_rng(7)
    engine = Engine(REFERENCE, spec_of(window={"rows": 1000}, reference="champion"), champion="stable")
    results: dict[str, list[WindowResult]] = {"stable": [], "canary": []}
    for minute in range(300):
        for variant in ("stable", "canary"):
            found = engine.take(variant, counts(rng, 50, shift=1.0), minute * 60_000)
            results[variant] += [one.result for one in found]
    assert "input" in results["stable"][-1].firing
    judged = [one for one in results["canary"] if not one.reason]
    assert len(judged) > 10
    assert {one.reference_origin for one in judged} == {"champion"}
    assert all(not one.firing for one in judged)
    assert all(800 <= one.reference_rows <= 1200 for one in judged)


def test_without_rows_of_the_champion_there_is_no_reference() -> None:
    rng = np.random.default_rng(8)
    engine = Engine(REFERENCE, spec_of(window={"rows": 1000}, reference="champion"), champion="stable")
    [one] = engine.take("canary", counts(rng, 1000, shift=1.0), HOUR_MS)
    assert one.result.reason == "no_reference"


def test_the_time_before_is_a_reference_once_it_has_enough_rows() -> None:
    rng = np.random.default_rng(9)
    engine = Engine(REFERENCE, spec_of(window={"rows": 1000}, reference={"previous": "1d"}))
    found = closed(engine, rng, 14, shift=1.0)
    reasons = [one.result.reason for one in found]
    assert reasons == ["no_reference"] * 10 + [""] * 4
    last = found[-1].result
    assert (last.reference_origin, last.reference_rows) == ("previous", 13_000)
    assert last.firing == ()
    moved = closed(engine, rng, 2)
    assert "input" in moved[-1].result.firing


def test_the_time_before_is_no_longer_than_was_asked_for() -> None:
    rng = np.random.default_rng(14)
    engine = Engine(REFERENCE, spec_of(window={"rows": 300}, reference={"previous": "12h"}))
    for hour in range(30):
        [one] = engine.take("-", counts(rng, 300), hour * HOUR_MS)
    assert one.result.reference_rows == 12 * 300


def test_skipped_rows_are_told() -> None:
    engine = engine_of()
    delta = counts(np.random.default_rng(10), 1000)
    delta[SKIPPED] = 7
    [one] = engine.take("-", delta, HOUR_MS)
    assert one.result.skipped == 7
    assert np.array_equal(one.counts, delta)


def test_series_and_history_are_bounded() -> None:
    rng, engine = np.random.default_rng(11), engine_of()
    for number in range(MAX_SERIES + 5):
        engine.take(f"v{number}", empty(REFERENCE.plan), 0)
    assert len(engine.variants) == MAX_SERIES
    one = counts(rng, 1000)
    for number in range(HISTORY + 5):
        engine.take("-", one, number * HOUR_MS)
    assert len(engine.history("-")) == HISTORY
    assert engine.history("-")[-1].index == HISTORY + 4
    assert engine.history("nobody") == []


def test_tick_closes_windows_whose_time_is_over() -> None:
    rng = np.random.default_rng(12)
    engine = Engine(REFERENCE, spec_of(window={"time": "1h"}))
    engine.take("-", counts(rng, 500), 0)
    assert engine.tick(HOUR_MS - 1) == []
    [one] = engine.tick(HOUR_MS)
    assert (one.result.rows, one.result.reason) == (500, "")


@settings(max_examples=12, deadline=None)
@given(
    st.sampled_from(["model", "champion", {"previous": "3h"}]),
    st.lists(st.tuples(st.sampled_from(["stable", "canary"]), st.integers(0, 3)), min_size=5, max_size=40),
    st.data(),
)
def test_a_restart_goes_on_bit_for_bit(mode: Any, stream: list[tuple[str, int]], data: st.DataObject) -> None:
    spec = spec_of(window={"rows": 900, "time": "2h"}, reference=mode)
    cut = data.draw(st.integers(0, len(stream)))
    whole = Engine(REFERENCE, spec, champion="stable", others=1)
    begun = Engine(REFERENCE, spec, champion="stable", others=1)
    rngs = [np.random.default_rng(1), np.random.default_rng(1)]
    outs: list[list[Closed]] = [[], []]
    for step, (variant, shift) in enumerate(stream):
        if step == cut:
            state = begun.state()
            assert (
                json.loads(json.dumps(state)) == msgspec.msgpack.decode(msgspec.msgpack.encode(state)) == _listed(state)
            )
            begun = Engine.restored(REFERENCE, spec, json.loads(json.dumps(state)))
        for out, engine, rng in zip(outs, (whole, begun), rngs, strict=True):
            out += engine.take(variant, counts(rng, 400, shift=shift / 3), step * HOUR_MS // 3)
    assert [one.result for one in outs[0]] == [one.result for one in outs[1]]
    assert whole.state() == begun.state()


def test_without_its_history_a_state_is_small_and_decides_the_same() -> None:
    rng, engine = np.random.default_rng(13), engine_of()
    closed(engine, rng, 3, shift=1.0)
    small = json.dumps(engine.state(history=False))
    assert len(small) < len(json.dumps(engine.state())) / 4
    again = Engine.restored(REFERENCE, engine.spec, json.loads(small))
    delta = counts(rng, 1000, shift=1.0)
    [one], [other] = (each.take("-", delta, 9 * HOUR_MS) for each in (engine, again))
    assert one.result == other.result
    assert again.history("-") == [one.result]


def _listed(value: Any) -> Any:
    return json.loads(msgspec.json.encode(value))


def test_a_state_under_another_reference_is_refused() -> None:
    state = engine_of().state() | {"reference": "0" * 16}
    with pytest.raises(ValueError, match="expected a state under reference"):
        Engine.restored(REFERENCE, spec_of(), state)


def test_sparse_vectors_of_another_size_are_refused() -> None:
    with pytest.raises(IndexError):
        dense([[9], [1]], 3)
