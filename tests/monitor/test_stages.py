"""Where answers spend their time: quantiles and burn rates of each stage, from workers' buckets to what is shown."""

from typing import Any

import msgspec
import numpy as np
import pytest
from rich.console import Console

from gateway.cli.monitor_view import render
from gateway.cli.monitor_why import print_found
from gateway.control.monitorheard import hear_answers
from gateway.control.monitorheld import Held, encoded_state, restore_state
from gateway.control.monitorinputs import buckets_of
from gateway.control.monitortables import stages
from gateway.control.monitorviews import explanation
from gateway.counters import DURATION_BOUNDS_NS, EXECUTION_DURATION, MODEL_VALUES, QUEUE_DURATION, REQUEST_DURATION
from gateway.monitor.burnrate import LEAST_BAD, RULES
from gateway.monitor.explaining import explained
from gateway.monitor.settings import Latency, Spec
from gateway.monitor.stages import BUCKETS, LEAST, STAGES, Speed, by_stage
from tests.monitor.page_world import NOW_MS, ROWS_OF, held_of, page, plan_of, text_of

FAST, SLOW = DURATION_BOUNDS_NS.index(1_000_000), DURATION_BOUNDS_NS.index(100_000_000)
"""Buckets of answers within 1 ms, and within 100 ms."""
OBJECTIVE = Latency(slo_ms=50.0, objective=0.9)


def buckets(request: dict[int, int], queue: dict[int, int], execution: dict[int, int]) -> list[int]:
    """What a worker counted: of each stage the answers by bucket."""
    values = np.zeros(MODEL_VALUES, np.int64)
    for start, of in ((REQUEST_DURATION, request), (QUEUE_DURATION, queue), (EXECUTION_DURATION, execution)):
        for bucket, count in of.items():
            values[start + bucket] = count
        values[start + BUCKETS] = 10**12  # the sum that stands behind them is no bucket
    return buckets_of(values)


WAITS = buckets({FAST: 600, SLOW: 400}, {FAST: 600, SLOW: 400}, {FAST: 100})
"""Of 1,000 answers 400 are slow, all of them because they waited; there were 100 runs."""


def test_each_stage_has_its_own_quantiles_and_burn_rates() -> None:
    speed = Speed()
    speed.add(WAITS, 50.0, 1_000_000.0)
    request, queue, execution = speed.shown(1_000_000.0, 0.9)
    assert [one["stage"] for one in (request, queue, execution)] == list(STAGES)
    assert (request["counted"], execution["counted"], execution["of"]) == (1_000, 100, "runs")
    assert queue["within_ms"] == {"0.5": 1.0, "0.9": 100.0, "0.99": 100.0}
    assert execution["within_ms"] == {}, f"{LEAST} runs say something of a quantile"
    for one in (request, queue):
        assert [pair["limit"] for pair in one["burns"]] == [rule.factor for rule in RULES]
        assert all(pair["long_rate"] == pair["short_rate"] == pytest.approx(4.0) for pair in one["burns"])
        assert [pair["over"] for pair in one["burns"]] == [False, False, True, True]
    assert all(pair["long_rate"] == 0.0 and not pair["over"] for pair in execution["burns"])
    assert (request["burns"][0]["long"], request["burns"][0]["short"]) == ("1h", "5m")


def test_a_short_window_that_has_recovered_and_few_slow_ones_are_not_over() -> None:
    speed = Speed()
    speed.add(WAITS, 50.0, 1_000_000.0)
    speed.add(buckets({FAST: 100_000}, {FAST: 100_000}, {FAST: 1}), 50.0, 1_000_000.0 + 7 * 3_600)
    three_days = speed.shown(1_000_000.0 + 7 * 3_600, 0.999)[1]["burns"][3]
    assert three_days["long_rate"] > 1.0 > three_days["short_rate"]
    assert not three_days["over"]
    few = Speed()
    few.add(buckets({SLOW: LEAST_BAD - 1}, {SLOW: LEAST_BAD - 1}, {}), 50.0, 1_000_000.0)
    assert few.shown(1_000_000.0, 0.9)[0]["burns"][2]["long_rate"] == pytest.approx(10.0)
    assert not any(pair["over"] for pair in few.shown(1_000_000.0, 0.9)[0]["burns"])


def test_quantiles_are_of_the_last_hour_and_longer_than_all_edges_is_no_number() -> None:
    speed = Speed()
    speed.add(buckets({BUCKETS - 1: 300}, {}, {}), None, 0.0)
    assert speed.shown(0.0, None)[0]["within_ms"] == {"0.5": None, "0.9": None, "0.99": None}
    speed.add(buckets({FAST: 300}, {}, {}), None, 3_600.0)
    assert speed.shown(3_600.0, None)[0]["within_ms"]["0.99"] == 1.0
    assert speed.shown(3_600.0, None)[0]["burns"] == []


def test_a_node_that_tells_of_the_whole_alone_has_no_other_stage() -> None:
    assert [name for name, _ in by_stage([1] * BUCKETS)] == ["request"]
    speed = Speed()
    speed.add([1] * BUCKETS, 50.0, 0.0)
    assert [one["counted"] for one in speed.shown(0.0, 0.9)] == [BUCKETS, 0, 0]


def world(latency: Latency | None = OBJECTIVE) -> Held:
    """A model that was calm, and whose node has told of answers that waited for a minute."""
    spec = Spec(latency=latency)
    held = held_of(plan_of(2, "f"), [(ROWS_OF, 0.0)], spec)
    held.monitor.turn([("1", "-", held.monitor.versions["1"].reference.counts // 10)], held.roles, NOW_MS)
    for second in range(60):
        totals = [second * count for count in WAITS]
        hear_answers(held, {("a", "run", "1", "-"): totals}, NOW_MS + 1_000 * second)
    held.monitor.turn([], held.roles, NOW_MS + 60_000)
    return held


def test_what_the_workers_counted_is_on_the_page_in_the_terminal_and_explained(
    capsys: pytest.CaptureFixture[str],
) -> None:
    held = world()
    found, view = page(held)
    one = view["versions"]["1"]["variants"]["-"]
    columns, rows = stages(one["stages"])
    assert columns[-4:] == ["1h / 5m max 14.4", "6h / 30m max 6", "1d / 2h max 3", "3d / 6h max 1"]
    assert rows[1][:5] == ["queue", "59,000 answers", "1 ms", "100 ms", "100 ms"]
    assert rows[1][-2:] == ["4 / 4 over", "4 / 4 over"]
    assert rows[2][-1] == "0 / 0"
    console = Console(width=220, color_system=None, highlight=False)
    with console.capture() as got:
        console.print(render(view, NOW_MS / 1000))
    about = {"1": explained(held.monitor.versions["1"].reference, held.spec)}
    print_found("loans", msgspec.json.decode(msgspec.json.encode(explanation("loans", held, about, NOW_MS + 60_000))))
    out = capsys.readouterr().out
    assert "time by stage" in out
    for text in (text_of(found), got.get()):
        assert all(cell in text for row in (columns, *rows) for cell in row)
    assert all(word in out for row in rows for cell in row for word in cell.split())
    assert one["signals"]["latency"]["state"] == "firing"


def test_without_an_objective_times_are_shown_and_nothing_alarms() -> None:
    found, view = page(world(latency=None))
    one: dict[str, Any] = view["versions"]["1"]["variants"]["-"]
    assert (one["burn_rates"], one["signals"].get("latency")) == ({}, None)
    columns, rows = stages(one["stages"])
    assert (len(columns), len(rows)) == (5, 3)
    assert "59,000 answers" in text_of(found)
    assert "objective" not in text_of(found).partition("Latency")[2].partition("What can be seen")[0]


def test_stages_go_on_after_a_restart() -> None:
    held = world()
    again = held_of(plan_of(2, "f"), [], held.spec)
    assert restore_state(again, encoded_state(held)) == ""
    at_ms = NOW_MS + 60_000
    assert again.monitor.versions["1"].stages("-", at_ms) == held.monitor.versions["1"].stages("-", at_ms)


def test_totals_of_an_earlier_build_are_taken_as_a_beginning() -> None:
    held = world()
    held.answers["a", "run", "1", "-"] = [1] * BUCKETS
    before = held.monitor.versions["1"].stages("-", NOW_MS + 60_000)[0]["counted"]
    for second, grown in ((61, 0), (62, 1_000)):
        totals = [(second - 1) * count for count in WAITS]
        hear_answers(held, {("a", "run", "1", "-"): totals}, NOW_MS + 1_000 * second)
        assert held.monitor.versions["1"].stages("-", NOW_MS + 62_000)[0]["counted"] == before + grown
