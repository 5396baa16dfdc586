"""The page of a monitor in states that are rare: it is always whole, and what came from outside is text on it."""

import math
import re
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from gateway.control.monitorbins import BARS, FEATURES, drawn
from gateway.control.monitorheld import Held, Progress
from gateway.control.monitorviews import view
from gateway.control.monitorwords import MEASURES, headline, measures, warnings_of, why
from gateway.monitor.book import ModelMonitor, Roles
from gateway.monitor.counting import empty
from gateway.monitor.leases import Lease
from gateway.monitor.plan import ROWS, SCORE_BINS, CountPlan, FeaturePlan
from gateway.monitor.reference import Binding, Reference, identified
from gateway.monitor.settings import Groups, Spec, Window
from tests.monitor.page_world import NASTY, NOW_MS, ROWS_OF, counts, held_of, page, plan_of, text_of

# ---- how much is known ----


def test_a_monitor_of_nothing_has_a_page() -> None:
    found, _ = page(Held(Spec(), ModelMonitor("loans", Spec())))
    assert "Nothing is watched: no version has a reference" in text_of(found)


def test_without_a_window_the_reference_alone_is_drawn() -> None:
    held = held_of(plan_of(3, "f"), [(50, 0.0)])
    found, _ = page(held)
    assert "Nothing can be said yet: no window was judged; 50 rows are in open windows." in text_of(found)
    assert "repeat(auto-fill" in found, "a plot that stands alone is no wider than two that stand side by side"
    assert 'class="reference"' in found
    assert 'class="window"' not in found.partition("</style>")[2].replace("key window", "")


def test_a_window_with_too_few_rows_says_so_and_gives_no_number() -> None:
    held = held_of(plan_of(3, "f"), [(50, 0.5)], Spec(window=Window(rows=None, time_ms=1_000), min_rows=200))
    held.monitor.turn([], held.roles, NOW_MS + 3_600_000)
    found, shown = page(held)
    assert shown["versions"]["1"]["variants"]["-"]["windows"][-1]["reason"] == "few_rows"
    assert "not judged: too few rows (50 rows)" in text_of(found)
    assert "PSI 0." not in text_of(found)


def test_a_drift_is_told_in_one_sentence_and_drawn() -> None:
    held = held_of(plan_of(3, "f"), [(ROWS_OF, 0.0), (ROWS_OF, 0.6), (ROWS_OF, 0.6), (ROWS_OF, 0.6)], quality=20)
    found, shown = page(held)
    told = headline(shown)
    assert told.startswith("Version 1: data are broken (f0, f1, f2)")
    assert told.endswith("the world or its data has changed, not the model.")
    text = text_of(found)
    assert told in text
    assert "missing: 20 rows, 0 in the reference" in text
    assert found.count('class="dot over"') >= 9
    assert "floor 0.1" in text


@pytest.mark.parametrize("state", ["untrusted", "insufficient"])
def test_an_estimate_that_is_not_trusted_is_no_number_anywhere(state: str) -> None:
    held = held_of(plan_of(2, "f"), [(ROWS_OF, 0.0), (ROWS_OF, 0.0)])
    _, shown = page(held)
    one = shown["versions"]["1"]["variants"]["-"]
    trusted = one["windows"][-1]["estimated"]["values"]["accuracy"]
    for window in one["windows"]:
        # Values stand beside the state on purpose: they must not be shown.
        window["estimated"] |= {"state": state, "reason": "outside_reference", "values": {"accuracy": 0.87654}}
    found, _ = page(held, versions=shown["versions"])
    assert 0.0 < trusted <= 1.0
    assert "0.8765" not in found
    assert 'class="estimated' not in found.partition("</style>")[2]
    assert "The last estimate is withheld: untrusted: too many rows are unlike the reference." in text_of(found)


def test_all_distances_and_tests_stand_with_each_feature_and_with_the_score() -> None:
    held = held_of(plan_of(3, "f"), [(ROWS_OF, 0.0), (ROWS_OF, 0.6)])
    found, shown = page(held)
    last = shown["versions"]["1"]["variants"]["-"]["windows"][-1]
    assert found.partition("Performance")[0].count('<div class="measures">') == 4
    for one in (*last["features"], last["score"]):
        cells = "".join(f"<td>{value}</td>" for value in measures(one))
        assert f"<tr>{cells}</tr>" in found
    assert all(f"<th>{column}</th>" in found for column in MEASURES)


# ---- bounds ----


def test_of_300_features_some_are_drawn_and_all_are_listed() -> None:
    held = held_of(plan_of(300, "feature_"), [(ROWS_OF, 0.0), (ROWS_OF, 0.4), (ROWS_OF, 0.4)])
    found, _ = page(held)
    assert len(found) < 1_000_000
    assert found.count('<section class="feature') == FEATURES
    assert f"{300 - FEATURES} more features differ less" in text_of(found)
    assert all(f">feature_{at}<" in found for at in range(300))


def test_many_categories_become_few_bars_and_new_ones_are_among_them() -> None:
    values = tuple(f"c{at}" for at in range(500))
    plan = CountPlan("", (FeaturePlan("city", "categorical", 0, 0, values=values),))
    before, after = empty(plan), empty(plan)
    before[ROWS], before[2:402] = 20_000, 50
    after[ROWS], after[2:402], after[500] = 2_000, 2, 1_200
    reference = identified(Reference(plan, before, Binding("0" * 64, (), ())))
    monitor = ModelMonitor("loans", Spec(window=Window(rows=2_000)))
    monitor.watch({"1": reference})
    held = Held(monitor.spec, monitor, roles=Roles(champion=("1", "-")))
    monitor.turn([("1", "-", after)], held.roles, NOW_MS)
    _, shown = page(held)
    (one,) = drawn(held, shown)["1", "-"]["features"]
    assert len(one["bars"]) == BARS
    assert {bar["name"] for bar in one["bars"]} >= {"c498"}
    assert math.isclose(sum(bar["reference"] for bar in one["bars"]), 1.0)
    assert math.isclose(sum(bar["window"] for bar in one["bars"]), 1.0)


def test_values_that_are_no_numbers_are_drawn_nowhere() -> None:
    held = held_of(plan_of(3, "f"), [(ROWS_OF, 0.0), (ROWS_OF, 0.3)])
    _, shown = page(held)
    for window in shown["versions"]["1"]["variants"]["-"]["windows"]:
        for feature in window["features"]:
            feature["psi"] = math.nan
        window["score"]["psi"] = math.inf
        window["estimated"]["values"] = dict.fromkeys(window["estimated"]["values"], math.nan)
    found, _ = page(held, versions=shown["versions"])
    assert not re.search(r"\b(nan|inf)\b", text_of(found))


# ---- people ----


def test_names_are_text() -> None:
    spec = Spec(window=Window(rows=ROWS_OF), groups=Groups(header="x-group", values=(NASTY, "other")))
    held = held_of(plan_of(3, NASTY, (NASTY, "other")), [(ROWS_OF, 0.0), (ROWS_OF, 0.6), (ROWS_OF, 0.6)], spec)
    lease = Lease(
        model="loans", version="1", variant=NASTY, level="freeze", reason=NASTY, evidence_id="x", revision=1, fence=1,
        granted_s=0.0, expires_at=1.0,
    )  # fmt: skip
    held.problems = {"2": NASTY}
    found, shown = page(held, name=NASTY, applied_by=NASTY, generation=3, leases=[msgspec.to_builtins(lease)])
    assert NASTY in headline(shown)
    assert "<script" not in found
    assert "alert(" in found
    assert text_of(found).count(NASTY) > 10


def test_small_groups_are_not_shown() -> None:
    plan = plan_of(2, "f", ("many", "more", "few"))
    held = held_of(
        plan, [], Spec(window=Window(rows=ROWS_OF), groups=Groups(header="g", values=("many", "more", "few")))
    )
    monitor = held.monitor
    delta = counts(monitor.versions["1"].reference.plan, ROWS_OF)
    cells = delta[plan.score_at : plan.score_at + plan.score_values].reshape(plan.group_count, 2, SCORE_BINS)
    cells[:] = 0
    cells[0, 0, 100], cells[0, 1, 900], cells[1, 0, 100], cells[1, 1, 900] = 500, 500, 700, 275
    cells[2, 1, 900] = 25
    monitor.turn([("1", "-", delta)], held.roles, NOW_MS)
    found, _ = page(held)
    text = text_of(found)
    assert "fewer than 30 rows: not shown" in text
    assert "disparate impact per group" in found
    row = re.search(r"<tr><td>few</td>.*?</tr>", found)
    assert row is not None
    assert not re.search(r"25|100\.0%", row[0])


# ---- sentences ----


def window_of(**more: Any) -> dict[str, Any]:
    key = {"name": "age", "p_value": 0.5, "effect": 0.02, "floor": 0.1}
    family = {"family": "input", "state": "ok", "fired": False, "p_value": 0.5, "alpha": 0.01, "selected": [],
              "named": [], "keys": [key]}  # fmt: skip
    effect = more.pop("effect", 0.02)
    family["keys"] = [key | {"effect": effect}]
    return {"reason": "", "rows": 10, "families": [family | more], "performance": None, "score": {}}


@pytest.mark.parametrize(
    ("window", "told"),
    [
        (window_of(), "no alarm: the largest is age with PSI 0.02, floor 0.1; p 0.5, level 0.01"),
        (window_of(p_value=0.001), "more than chance (p 0.001, level 0.01), and too small to matter"),
        (window_of(effect=0.3), "PSI 0.3, floor 0.1, which chance alone gives, too"),
        (window_of(effect=0.0), "no alarm: nothing differs"),
        (window_of(state="pending", p_value=0.001, effect=0.3), "suspected: p 0.001, level 0.01; an alarm needs 2 of"),
        (window_of(state="firing", fired=True, p_value=0.0, effect=0.3, named=["age"]),
         "an alarm began: age (PSI 0.3), at least 0.1 in 2 of the last 3 windows; p below 1e-300"),
        (window_of(state="firing", p_value=0.0, effect=0.3, named=["age"]), "the alarm goes on: age"),
        (window_of(state="resolved"), "the alarm is over after 2 clean windows"),
    ],
)  # fmt: skip
def test_why_says_what_was_decisive(window: dict[str, Any], told: str) -> None:
    assert told in why(window)[0]


def test_a_share_that_rose_is_told_from_what_to_what() -> None:
    key = {"name": "age:missing", "p_value": 0.0, "effect": 0.2, "floor": 0.005}
    family = {"family": "quality", "named": ["age:missing"], "state": "firing", "fired": True, "p_value": 0.0}
    window = window_of(**family) | {"features": [{"name": "age", "quality": {"missing": 3}}], "score": None}
    window["families"][0]["keys"] = [key]
    told = "an alarm began: age:missing (a share that rose by 0.2, from 0.1000 to 0.3000), at least 0.005"
    assert told in why(window)[0]
    window["families"][0] |= {"keys": [key | {"effect": 0.0}], "state": "ok", "p_value": 1.0}
    assert "no alarm: nothing has risen" in why(window)[0]


def test_the_headline_names_two_series_and_counts_the_rest() -> None:
    held = held_of(plan_of(3, "f"), [(ROWS_OF, 0.6), (ROWS_OF, 0.6)])
    _, shown = page(held)
    (alarm, *_) = shown["incident"]["alarms"]
    shown["incident"]["alarms"] = [
        alarm | {"variant": variant, "signal": signal}
        for variant in ("blue", "green", "crimson")
        for signal in ("input_drift", "latency", "fairness", "prediction_drift")
    ]
    told = headline(shown)
    assert "Blue (version 1): inputs have drifted" in told
    assert "and 2 more signals; green (version 1): " in told
    assert "crimson" not in told
    assert "and 1 more series; since " in told


def test_a_reference_of_another_time_is_what_the_bars_show() -> None:
    """Where windows are compared with rows before them, these are drawn, and not the file's."""
    plan = plan_of(1, "f")
    held = held_of(plan, [(ROWS_OF, 0.0)])
    watching = held.monitor.versions["1"]
    closed = watching.last["-"]
    before = closed.reference.with_counts(counts(plan, 1_000, shift=0.5), "previous")
    watching.last["-"] = replace(closed, reference=before)
    _, shown = page(held)
    (one,) = drawn(held, shown)["1", "-"]["features"]
    assert one["bars"][0]["reference"] == pytest.approx(0.6, abs=0.01)


def test_a_version_that_waits_for_its_first_rows_says_how_many_are_there() -> None:
    held = Held(Spec(), ModelMonitor("m", Spec()), first={"1": Progress(500, 2_000, 1_795_500_000.0)})
    shown = view("m", held, leads=True, away="", now_ms=NOW_MS)
    assert headline(shown) == (
        "Nothing is watched yet: version 1: collecting 500 of 2,000 rows for a provisional reference, "
        "since 2026-11-24 06:00:00 UTC."
    )
    assert list(warnings_of(shown)) == []
    plan = plan_of(3, "f")
    made = Reference(plan, counts(plan, 2_000), Binding("0" * 64, (), ()), origin="first")
    held.monitor.watch({"2": identified(made)})
    held.first["2"] = Progress(2_000, 2_000, 1_795_500_000.0)
    shown = view("m", held, leads=True, away="", now_ms=NOW_MS)
    first, second = warnings_of(shown)
    assert first.startswith("version 1: collecting 500 of 2,000 rows")
    assert second.startswith("the reference of version 2 is provisional, from the first 2,000 rows ")
    assert second.endswith("since 2026-11-24 06:00:00 UTC: what it calls normal may not be")
