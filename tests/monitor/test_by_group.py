"""Performance, coverage and delay of each declared group: by hand, never of few rows, never where untrusted."""

from typing import Any

import msgspec
import numpy as np
import pytest
from rich.console import Console

from gateway.cli.monitor_view import render
from gateway.control.monitortables import GROUP_COLUMNS, groups
from gateway.monitor.bygroup import HIDDEN, by_group
from gateway.monitor.counting import Counts, empty
from gateway.monitor.plan import ROWS, SCORE_BINS
from gateway.monitor.realised import Cohort, Cohorts, Labelled
from gateway.monitor.reference import Binding, Reference
from gateway.monitor.settings import Groups, Spec
from tests.monitor.page_world import NOW_MS, ROWS_OF, counts, held_of, page, plan_of, text_of

TWO = ("female", "male")
PLAN = plan_of(1, "f", TWO)
NO_ONE = np.zeros((3, 2, SCORE_BINS, 2), np.int64)


def window(female: int, male: int, outside: int = 0) -> Counts:
    """Half of each group is decided 1 with 0.9, half 0 with 0.1: an expected accuracy of 0.9."""
    vector = counts(PLAN, female + male, quality=outside)
    cells = np.zeros((PLAN.group_count, 2, SCORE_BINS), np.int64)
    for at, rows in enumerate((female, male)):
        cells[at, 0, 100], cells[at, 1, 900] = rows - rows // 2, rows // 2
    sums = (cells * np.array([0.1, 0.9])[None, :, None] * 2**32).astype(np.int64)
    at, many = PLAN.score_at, PLAN.score_values
    vector[at : at + many], vector[at + many : at + 2 * many] = cells.ravel(), sums.ravel()
    return vector


def cohort(*of: tuple[int, int, int]) -> Cohort:
    """Of each group: predictions of each decision, labels of each, and how many of those were right."""
    found = Cohort.empty(3)
    for at, (predictions, labels, right) in enumerate(of):
        found.predicted[at] = predictions
        for decision in (0, 1):
            found.labels[at, decision, 10, decision] = right
            found.labels[at, decision, 10, 1 - decision] = labels - right
    return found


def told(
    now: Counts | None = None, came: Cohort | None = None, min_size: int = 100, labels: Any = None
) -> dict[str, dict[str, Any]]:
    reference = Reference(PLAN, empty(PLAN), Binding("x", (), ()), labels=labels)
    found = by_group(reference, now, came, {}, min_size=min_size, min_coverage=0.6)
    return {one["group"]: one for one in msgspec.json.decode(msgspec.json.encode(found))}


def test_what_is_estimated_and_what_came_true_are_of_the_group_alone() -> None:
    labels = NO_ONE.copy()
    labels[0, 1, 900] = 100, 300
    found = told(window(400, 600), cohort((500, 400, 380), (500, 500, 250)), labels=labels)
    female, male = found["female"], found["male"]
    assert (female["rows"], female["predictions"], female["labels"], female["coverage"]) == (400, 1000, 800, [0.8] * 2)
    assert female["estimated"]["values"]["accuracy"] == pytest.approx(0.9)
    assert female["realised"]["values"]["accuracy"] == pytest.approx(380 / 400)
    assert male["realised"]["values"]["accuracy"] == pytest.approx(0.5)
    assert (male["rows"], male["coverage"]) == (600, [1.0, 1.0])
    assert female["reference"]["values"]["accuracy"] == pytest.approx(0.75)
    assert male["reference"]["state"] == "insufficient"


def test_a_group_that_is_too_small_has_no_number_and_one_under_thirty_is_not_counted_out() -> None:
    found = told(window(12, 90), cohort((10, 10, 9), (45, 45, 40)))
    small, under = found["female"], found["male"]
    assert (small["rows"], small["predictions"], small["labels"], small["coverage"]) == (HIDDEN, HIDDEN, HIDDEN, None)
    assert (small["estimated"]["rows"], small["realised"]["rows"]) == (0, 0)
    assert (under["rows"], under["predictions"], under["coverage"]) == (90, 90, [1.0, 1.0])
    for one in (small, under):
        assert not one["estimated"]["values"]
        assert not one["realised"]["values"]
        assert (one["estimated"]["reason"], one["realised"]["reason"]) == ("few_rows", "few_rows")
    assert told(window(12, 90), cohort((10, 10, 9), (45, 45, 40)), min_size=1)["female"]["realised"]["values"] == {}
    assert told(window(12, 90), cohort((10, 10, 9), (45, 45, 40)), min_size=1)["male"]["realised"]["values"]


def test_labels_of_few_or_of_one_decision_are_no_performance_of_the_group() -> None:
    few = told(None, cohort((500, 20, 20), (500, 400, 400)))
    assert (few["female"]["realised"]["reason"], few["female"]["coverage"]) == ("few_labels", [0.04, 0.04])
    one_sided = cohort((500, 400, 300), (500, 400, 400))
    one_sided.labels[0, 0] = 0
    found = told(None, one_sided)["female"]["realised"]
    assert found["state"] == "selective_labels"
    assert found["values"] == {"precision": 0.75}


def test_an_estimate_of_a_window_unlike_the_reference_is_withheld_from_each_group() -> None:
    for one in told(window(400, 600, outside=0)).values():
        assert one["estimated"]["state"] == "ok"
    strange = window(400, 600)
    at = PLAN.feature_at(0) + PLAN.features[0].bins
    strange[at + 1] = 0.2 * strange[ROWS]
    for one in told(strange).values():
        assert (one["estimated"]["state"], one["estimated"]["values"]) == ("untrusted", {})


def test_delay_is_of_the_group() -> None:
    cohorts = Cohorts(groups=3)
    cohorts.advance(1.0)
    for group, delay in ((0, 10.0), (1, 1_000.0)):
        for _ in range(40):
            cohorts.label(Labelled(1.0, 1.0 + delay, "a", group, 1, 10, 1))
    fast, slow, both = (cohorts.delay_quantiles("a", group) for group in (0, 1, None))
    assert fast[0.99] < 15 < 900 < slow[0.5]
    assert (both[0.5], both[0.99]) == (fast[0.5], slow[0.5])
    assert cohorts.delay_quantiles("a", 2) == cohorts.delay_quantiles("a", 0, least=41) == {}
    again = Cohorts.from_plain(msgspec.msgpack.decode(msgspec.msgpack.encode(cohorts.plain())))
    assert again.delay_quantiles("a", 1) == slow


def shown() -> tuple[str, dict[str, Any]]:
    """The page and the view of a model with two groups, one of them small, whose labels have come."""
    spec = Spec(groups=Groups(header="x-group", values=TWO))
    held = held_of(PLAN, [], spec)
    watching = held.monitor.versions["1"]
    watching.take("-", empty(PLAN), NOW_MS - 6 * 3_600_000)
    at_s = NOW_MS / 1000 - 5 * 3_600
    watching.cohorts.advance(at_s)
    predicted = np.array([[300, 300], [40, 40], [0, 0]])
    watching.cohorts.predict(at_s, "-", predicted)
    for group, rows in ((0, 300), (1, 40)):
        for decision in (0, 1):
            for k in range(rows):
                label = decision if k < 0.9 * rows else 1 - decision
                watching.label(Labelled(at_s, at_s + 60, "-", group, decision, 10, label), NOW_MS - 5 * 3_600_000)
    held.monitor.turn([("1", "-", window(ROWS_OF - 60, 60))] * 3, held.roles, NOW_MS)
    return page(held)


def test_the_page_the_terminal_and_the_view_show_them() -> None:
    found, view = shown()
    one = view["versions"]["1"]["variants"]["-"]
    rows = list(groups(one))
    assert [row[:2] for row in rows] == [
        [name, what] if what.startswith("reference") else ["", what]
        for name in TWO
        for what in ("reference", "estimated", "came true")
    ]
    assert rows[2][2:6] == ["600 of 600", "100% / 100%", "1.2 min", "0.9000 ± 0.0367"]
    assert (rows[5][2], rows[5][5:]) == ("80 of 80", ["not enough rows", "-", "-", "-"])
    assert rows[4][5:] == ["not enough rows", "-", "-", "-"]
    assert rows[0][5] == "not enough labels"
    told_there = text_of(found)
    assert "Performance of each group" in told_there
    assert all(cell in told_there for row in rows for cell in row)
    console = Console(width=200, color_system=None, highlight=False)
    with console.capture() as got:
        console.print(render(view, NOW_MS / 1000))
    assert all(cell in got.get() for row in rows for cell in row)
    assert all(column in got.get() for column in GROUP_COLUMNS[2:])


def test_without_groups_nothing_is_shown_of_any() -> None:
    found, view = page(held_of(plan_of(1, "f"), [(ROWS_OF, 0.0)]))
    assert view["versions"]["1"]["variants"]["-"]["groups"] == []
    assert "Performance of each group" not in text_of(found)
