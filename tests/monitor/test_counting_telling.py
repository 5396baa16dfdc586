"""Windows as findings: states, severities and words that incidents are made of."""

import numpy as np

from gateway.monitor.engine import Closed, Engine
from gateway.monitor.plan import TYPE_ERROR
from gateway.monitor.telling import findings
from gateway.monitor.words import Finding
from tests.monitor.test_counting_engine import HOUR_MS, REFERENCE, closed, counts, engine_of, spec_of


def by_signal(one: Closed) -> dict[str, Finding]:
    return {finding.signal: finding for finding in findings(one.result, "3")}


def test_a_calm_window_says_ok_of_each_signal() -> None:
    [one] = closed(engine_of(), np.random.default_rng(1), 1)
    found = by_signal(one)
    assert {signal: finding.state for signal, finding in found.items()} == {
        "input_drift": "ok",
        "prediction_drift": "ok",
        "data_quality": "ok",
        "performance_estimated": "ok",
    }
    assert all(finding.series == ("3", "-") for finding in found.values())
    assert {(finding.window_from_s, finding.window_to_s) for finding in found.values()} == {(0, HOUR_MS / 1000)}
    level = found["performance_estimated"].level
    assert one.result.performance is not None
    assert level == max(drop.drop / drop.limit for drop in one.result.performance.drops)
    assert "1,000 rows against 20,000" in found["input_drift"].text


def test_a_change_is_named_with_its_size_and_is_critical_far_over_the_floor() -> None:
    rng, engine = np.random.default_rng(2), engine_of()
    drift = by_signal(closed(engine, rng, 2, shift=1.0)[-1])["input_drift"]
    assert (drift.state, drift.keys, drift.severity) == ("firing", ("x",), "critical")
    assert drift.level is not None
    assert drift.level > 5
    assert drift.text.startswith("x PSI ")
    mild = by_signal(closed(engine_of(), rng, 2, shift=0.4)[-1])["input_drift"]
    assert (mild.state, mild.severity) == ("firing", "warning")


def test_rows_that_cannot_be_read_are_a_schema_break() -> None:
    engine, at = engine_of(), REFERENCE.plan.feature_at(0)
    feature = REFERENCE.plan.features[0]
    rng, found = np.random.default_rng(3), list[Closed]()
    for hour in (1, 2):
        delta = counts(rng, 1000)
        delta[at : at + feature.width] = 0
        delta[at + feature.bins + TYPE_ERROR] = 1000
        found += engine.take("-", delta, hour * HOUR_MS)
    quality = by_signal(found[-1])["data_quality"]
    assert (quality.state, quality.keys, quality.schema_break) == ("firing", ("x",), True)
    assert "x:type_error share rose by 1 (floor 0.005)" in quality.text


def test_values_that_are_missing_are_no_schema_break() -> None:
    quality = by_signal(closed(engine_of(), np.random.default_rng(5), 2, missing=0.9)[-1])["data_quality"]
    assert (quality.state, quality.keys, quality.schema_break) == ("firing", ("x",), False)
    assert quality.severity == "critical"


def test_what_was_not_judged_says_why() -> None:
    rng = np.random.default_rng(4)
    few = Engine(REFERENCE, spec_of(window={"time": "1h"}))
    few.take("-", counts(rng, 50), 0)
    [one] = few.tick(HOUR_MS)
    assert by_signal(one)["input_drift"].state == "insufficient"
    assert by_signal(one)["input_drift"].text == "not judged: few rows (50 rows)"
    alone = Engine(REFERENCE, spec_of(window={"rows": 1000}, reference="champion"), champion="stable")
    [one] = alone.take("canary", counts(rng, 1000), HOUR_MS)
    assert by_signal(one)["input_drift"].state == "unknown"
