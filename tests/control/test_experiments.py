"""Reports of experiments: against published numbers, by simulation with every look taken, and what a page may hold."""

import math
import random
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from gateway.control.counts import Totals
from gateway.control.experimentpage import e_value, page_of
from gateway.control.experimentplots import ticks
from gateway.control.experiments import Live, Marks, compared, decided, feedback_ratio, report_of
from gateway.control.health import Health
from gateway.control.latency import shown_quantiles
from gateway.control.record import NodeReport, Notes
from gateway.control.rewards import Reward, Rewards
from gateway.control.skew import skew_of
from gateway.control.study import StudyGoal
from gateway.counters import MODEL_VALUES, REQUEST_DURATION
from gateway.tally import NOTE_BAD, NOTE_SEEN
from router.evidence.sequences import Estimate, Interval, Moments, asymptotic_interval, asymptotic_p
from tests.control.studies import GOAL, epoch, study


def arms(control: Moments, treatment: Moments) -> dict[tuple[str, int], dict[int, Moments]]:
    return {("e", 0): {0: control, 1: treatment}}


def test_a_relative_effect_is_growthbooks():
    # growthbook, packages/stats/tests/frequentist/test_tests.py (MIT): sequential, two-sided, N* = 1,000. It counts the
    # units of these nearly equal arms, 6,461, where our clock has 6,428.
    a, b = Moments.of_sums(3000, 1396.87, 52377.9767), Moments.of_sums(3461, 2422.7, 134698.29)
    found = compared(study(expected=500), GOAL, arms(a, b), 1)["relative"]
    assert found["value"] == pytest.approx(0.50336, abs=1e-5)
    assert found["low"] == pytest.approx(-0.55844, abs=3e-4)
    assert found["high"] == pytest.approx(1.56516, abs=3e-4)


@pytest.mark.parametrize("value", [0.01, 0.05, 0.2])
@pytest.mark.parametrize("n", [200, 5_000, 100_000])
def test_p_is_the_level_at_which_the_interval_touches_zero(value: float, n: int):
    estimate = Estimate(value, 1.2 / math.sqrt(n), n)
    interval = asymptotic_interval(estimate, 0.05, 5_000.0)
    assert (asymptotic_p(estimate, 0.05, 5_000.0) < 0.05) == (interval.low > 0.0)
    # An estimate at the edge of its interval has exactly alpha.
    edge = Estimate(interval.high - value, estimate.se, n)
    assert asymptotic_p(edge, 0.05, 5_000.0) == pytest.approx(0.05)


def test_a_comparison_has_the_e_value_of_this_look_beside_the_smallest_p():
    found = compared(study(), GOAL, arms(Moments(5_000, 1.0, 1.0), Moments(5_000, 1.07, 1.0)), 1)
    assert math.exp(-found["log_e"]) == pytest.approx(found["p"])
    none = compared(study(), GOAL, arms(Moments(5_000, 1.0, 1.0), Moments(5_000, 1.0, 1.0)), 1)
    assert none["p"] == 1.0
    assert none["log_e"] < 0.0, "an e-value goes below 1 where p stays at 1"


@pytest.mark.parametrize(("log", "shown"), [(0.0, "1"), (-2.0, "0.1353"), (699.0, "3.731e+303"), (1e6, "> e^700")])
def test_an_e_value_is_shown_however_large(log: float, shown: str):
    assert e_value(log) == shown


def test_no_spread_is_no_evidence():
    assert asymptotic_p(Estimate(0.5, 0.0, 100), 0.05) == 1.0
    same = Moments(1_000, 1.0, 0.0)
    assert compared(study(), GOAL, arms(same, same), 1)["decision"] == "undecided"


def test_few_units_are_no_evidence():
    few, many = Moments(99, 5.0, 1.0), Moments(10_000, 1.0, 1.0)
    found = compared(study(), GOAL, arms(many, few), 1)
    assert (found["decision"], found["absolute"]["low"], found["p"]) == ("undecided", None, 1.0)


def test_a_proportion_needs_some_of_either_value():
    goal = StudyGoal(name="paid", type="proportion", direction="up", primary=True)
    rare = Moments.of_sums(1_000, 5, 5)
    assert compared(study(goal), goal, arms(rare, Moments.of_sums(1_000, 4, 4)), 1)["absolute"]["low"] is None
    assert compared(study(goal), goal, arms(rare, Moments.of_sums(1_000, 5, 5)), 1)["absolute"]["low"] is not None


@pytest.mark.parametrize(
    ("direction", "low", "high", "wanted"),
    [
        ("up", 0.1, 0.2, "better"), ("up", -0.2, -0.1, "worse"), ("down", 0.1, 0.2, "worse"),
        ("down", -0.2, -0.1, "better"), ("up", -0.01, 0.02, "equivalent"), ("up", -0.03, 0.02, "undecided"),
        ("up", 0.01, 0.02, "better"), ("up", -math.inf, math.inf, "undecided"),
    ],
)  # fmt: skip
def test_decisions(direction: str, low: float, high: float, wanted: str):
    goal = StudyGoal(name="g", type="mean", direction=direction, mde=0.025, primary=True)
    assert decided(goal, Interval(low, high))[0] == wanted


def test_epochs_are_weighted_and_never_pooled():
    # Both arms alike in each epoch, but the later, better days have the larger canary: pooled, it looks better by far.
    early, late = epoch("e", (9_000, 1_000)), epoch("f", (1_000, 9_000), revision=2)
    groups = {
        ("e", 0): {0: Moments(9_000, 1.0, 0.5), 1: Moments(1_000, 1.0, 0.5)},
        ("f", 0): {0: Moments(1_000, 3.0, 0.5), 1: Moments(9_000, 3.0, 0.5)},
    }
    found = compared(study(epochs=(early, late)), GOAL, groups, 1)
    assert found["absolute"]["value"] == pytest.approx(0.0)
    assert found["decision"] == "undecided"


def test_feedback_of_other_shares_than_the_split_is_noticed():
    rewards = Rewards()
    for unit in range(2_000):
        arm = unit % 2
        if arm == 0 or unit % 4 == 1:  # half of the canary's never comes
            rewards.take(Reward("paid", "e", 0, arm, unit, 0, 1.0, 0))
    assert feedback_ratio(study(), rewards, "paid").mismatch
    report = report_of(study(), Health(), rewards, Marks(), now_ms=2_000)
    assert not report["decision"]["trusted"]
    assert any("Feedback came for other shares" in one for one in report["health"]["warnings"])


# ---- by simulation: every look taken, units come back, rewards of a unit resemble each other ----


def looked_at(seed: int, effect: float, requests: int, kind: str = "mean") -> tuple[bool, bool]:
    """Whether any interval missed the truth, and whether the effect was found."""
    rng = random.Random(seed)
    goal = StudyGoal(name="paid", type=kind, direction="up", primary=True)
    asked = study(goal, expected=requests // 4)
    rewards = Rewards(frozenset({"paid"}) if kind == "proportion" else frozenset())
    habits: dict[int, float] = {}
    missed = found = False
    for row in range(requests):
        unit = rng.randrange(requests // 2)
        rate = habits.setdefault(unit, rng.betavariate(1, 4)) + effect * (unit % 2)
        rewards.take(Reward("paid", "e", 0, unit % 2, unit, row, float(rng.random() < rate), 0))
        if row % 100 == 99:
            one = compared(asked, goal, rewards.groups("paid"), 1)["absolute"]
            if one["low"] is not None:
                missed |= not one["low"] <= effect <= one["high"]
                found |= one["low"] > 0.0
    return missed, found


def most_of(replicas: int, rate: float) -> int:
    """So many of so many are exceeded with a chance below 0.1 % when each happens at this rate."""
    return math.ceil(replicas * rate + 3.1 * math.sqrt(replicas * rate * (1 - rate)))


@pytest.mark.parametrize("kind", ["mean", "proportion"])
def test_arms_that_are_alike_are_told_apart_no_more_often_than_alpha(kind: str):
    missed = [looked_at(seed, 0.0, 3_000, kind)[0] for seed in range(60)]
    assert sum(missed) <= most_of(60, 0.05)


def test_an_effect_is_found_and_its_size_is_inside():
    looks = [looked_at(1_000 + seed, 0.12, 3_000) for seed in range(40)]
    assert sum(missed for missed, _ in looks) <= most_of(40, 0.05)
    assert sum(found for _, found in looks) >= 36


@pytest.mark.sim
@pytest.mark.parametrize(("kind", "effect"), [("mean", 0.0), ("mean", 0.05), ("proportion", 0.0)])
def test_intervals_hold_over_all_looks(kind: str, effect: float):
    missed = [looked_at(seed, effect, 8_000, kind)[0] for seed in range(1_000)]
    assert sum(missed) <= most_of(1_000, 0.05)


# ---- the page ----


def full_report() -> dict[str, Any]:
    rng = random.Random(3)
    goals = (GOAL, StudyGoal(name="profit", type="mean", direction="down", mde=0.5))
    asked = study(*goals, epochs=(epoch(), epoch("f", (9_000, 1_000), revision=2)))
    rewards, marks = Rewards(), Marks()
    for unit in range(3_000):
        for goal in ("paid", "profit"):
            place = ("e", "f")[unit % 3 == 0]
            rewards.take(Reward(goal, place, 0, unit % 2, unit, 0, rng.gauss(unit % 2, 1), 10 ** (unit % 7)))
        if unit % 500 == 499:
            marks.look(report_of(asked, Health(), rewards, marks, now_ms=1_000 * unit))
    skew = skew_of("n1", 7, {"w1": 7, "w2": 6}, {"n2": 7, "n3": 0})
    live = Live([timed("old", 500), timed("new", 500)], [timed("old", 60), timed("new", 0)], skew)
    return report_of(asked, Health(), rewards, marks, live=live, now_ms=3_000_000)


def timed(variant: str, requests: int) -> dict[str, Any]:
    """As `gateway.control.latency.shown_quantiles` has them."""
    counts = np.zeros(MODEL_VALUES, np.int64)
    counts[REQUEST_DURATION + 4] = requests
    totals = Totals({("fraud", "1", variant): counts}, counts, counts)
    (found,) = shown_quantiles(totals, "fraud", [variant], [1], alpha=0.05)
    return found


class Strict(HTMLParser):
    """Every element is closed in order, and none runs or fetches anything."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.seen.add(tag)
        assert tag not in ("script", "img", "iframe", "object", "link", "embed")
        for name, value in attrs:
            assert not name.startswith("on")
            assert name not in ("src", "href", "style"), (name, value)
            assert "NaN" not in value
            assert "nan" not in value.split()
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_is_whole_and_brings_all_it_needs():
    report = full_report()
    page = page_of(report)
    parser = Strict()
    parser.feed(page)
    assert parser.open == []
    assert {"svg", "table", "details", "polygon"} <= parser.seen
    assert "http" not in page
    for word in ("Health", "better than the control", "Per epoch", "Latency", "Raw counts"):
        assert word in parser.text


def test_the_head_says_what_is_compared_and_how():
    report = full_report()
    assert (report["expected_units"], report["n_star"], report["revisions"]) == (500, 1_000.0, [1, 2])
    parser = Strict()
    parser.feed(page_of(report))
    for words in (
        "in forcesince 1970-01-01 00:00 UTC", "variant newversion 2, sha256:b2b2", "salt fraud",
        "policy revisions1 to 2", "expected units500 per variant", "N* = 1,000",
    ):  # fmt: skip
        assert words in parser.text


def test_nodes_that_are_behind_are_a_warning():
    report = full_report()
    skew = report["health"]["revision_skew"]
    assert (skew["newest"], skew["nodes"], skew["workers_behind"]) == (7, 3, 1)
    assert skew["nodes_behind"] == [{"node": "n1", "acked": 6}, {"node": "n3", "acked": 0}]
    page = page_of(report)
    assert "Behind the newest revision of the policy, 7, and sharing out by an older one: n1, n3." in page
    assert "<b>2 of 3</b>" in page
    gone = report_of(study(), Health(), Rewards(), Marks(), now_ms=1)["health"]
    assert gone["revision_skew"] is None
    assert not any("Behind" in one for one in gone["warnings"])


def test_latency_and_waits_have_limits_and_an_arm_without_requests_has_none():
    report = full_report()
    old, new = report["batch_wait"]
    assert (old["p50_ms"], old["p50_low_ms"], old["p50_high_ms"], new["p99_high_ms"]) == (None, 0.5, 1.0, None)
    page = page_of(report)
    assert "<td>- (0.5 to 1)</td>" in page, "limits come before the quantile: it wants 200 requests"
    assert "<td>0.7071 (0.5 to 1)</td>" in page
    assert "wait for an execution" in page
    assert "<td>new</td><td>0</td><td>-</td><td>-</td><td>-</td>" in page
    bare = report_of(study(), Health(), Rewards(), Marks(), live=Live([timed("old", 0)]), now_ms=1)
    assert "Latency" not in page_of(bare)


def test_what_people_wrote_is_text_on_the_page():
    page = page_of(full_report())
    assert "&lt;b&gt;new&lt;/b&gt; is better" in page
    assert "<b>new" not in page


def test_an_experiment_without_anything_has_a_page_too():
    report = report_of(study(), Health(), Rewards(), Marks(), now_ms=2_000)
    parser = Strict()
    parser.feed(page_of(report))
    assert "No feedback has come" in parser.text
    assert report["decision"]["variants"] == {"new": "undecided"}


def test_the_guardrail_tells_requests_from_units():
    asked, health = study(), Health()
    notes = tuple((NOTE_SEEN | NOTE_BAD * (unit < 4), 1, 0, unit % 2, unit << 32 | unit) for unit in range(40)) * 3
    counts = ((1, "", "old", (900, 891, 9, 0, 0, 0)), (1, "", "new", (900, 891, 9, 0, 0, 0)))
    health.take(NodeReport(node="n", run="r", counts=counts, notes=(Notes("w", 0, notes),)), asked)
    report = report_of(asked, health, Rewards(), Marks(), now_ms=2_000)
    old = report["guardrails"][0]["arms"][0]
    assert (old["requests"], old["bad"], old["rate"]) == (900, 9, 0.01)
    assert (old["units"], old["mean"]) == (20, pytest.approx(0.1))
    assert "<th>units</th>" in page_of(report).partition("Guardrail: failed requests")[2]


def test_the_raw_counts_are_enough_to_compute_the_effect_anew():
    report = full_report()
    rows = report["raw"]["goals"]["paid"]
    groups: dict[tuple[str, int], dict[int, Moments]] = {}
    for row in rows:
        arm = ("old", "new").index(row["variant"])
        groups.setdefault((row["epoch"], row["stratum"]), {})[arm] = Moments(row["units"], row["mean"], row["variance"])
    assert compared(study(), GOAL, groups, 1)["absolute"] == report["goals"][0]["comparisons"][0]["absolute"]


def test_the_smallest_p_is_remembered_and_points_stay_few():
    marks = Marks()
    asked = {
        "name": "paid",
        "comparisons": [{"variant": "new", "p": 0.02, "absolute": {"value": 1, "low": 0, "high": 2}}],
    }
    for at in range(1_000):
        asked["comparisons"][0]["p"] = 0.5 if at else 0.02  # type: ignore[index]
        marks.look({"as_of_ms": at, "goals": [asked]})
    assert marks.min_p == {"paid|new": 0.02}
    points = marks.history["paid|new"]
    assert len(points) <= 200
    assert (points[0][0], points[-1][0]) == (0, 999)


@pytest.mark.parametrize(("low", "high"), [(-0.3, 1.2), (0, 1e-9), (1e6, 3e6), (-5, -4.9)])
def test_ticks_are_round_and_few(low: float, high: float):
    found = ticks(low, high)
    assert 2 <= len(found) <= 7
    assert low - 1e-9 * abs(low) <= found[0] < found[-1] <= high + 1e-9 * abs(high)
