"""A canary that is slower than stable: from buckets of answers to whose fault it is, what is done and shown."""

from typing import Any

import msgspec
import numpy as np
import pytest

from gateway.control.monitorheard import hear_answers
from gateway.control.monitorheld import Held, encoded_state, restore_state
from gateway.control.monitorviews import explanation, facts, view
from gateway.control.monitorwords import latency_beside
from gateway.monitor.attribution import Attribution
from gateway.monitor.book import ModelMonitor, Roles
from gateway.monitor.latencies import LEAST_SLOTS, SLOT_MS
from gateway.monitor.leases import Level
from gateway.monitor.settings import Actions, Latency, Spec
from tests.monitor.latencies_world import World, arm
from tests.monitor.test_monitors_loop import CANARY, STABLE, references

ROLES = Roles(champion=STABLE, canary=CANARY, revision=4, live=frozenset({STABLE, CANARY}))
LIMIT = Latency(slo_ms=500.0)
TICK_MS = 1_000
WINDOW_S = LEAST_SLOTS * SLOT_MS // TICK_MS


class Story:
    """A model's monitor that hears totals of two nodes each second."""

    def __init__(self, latency: Latency | None = LIMIT, level: Level = "rollback") -> None:
        self.rng = np.random.default_rng(1)
        self.spec = Spec(latency=latency, actions=Actions(on_drift_of_canary=level))
        self.held = Held(self.spec, ModelMonitor("m", self.spec), roles=ROLES)
        self.held.monitor.watch(references(self.rng))
        self.totals: dict[tuple[str, str, str, str], list[int]] = {}
        self.now_ms = 0
        self.told: list[str] = []

    def go_on(
        self, windows: int, champion: float = 1.0, canary: float = 1.0, answers: int = 10, seconds: int = WINDOW_S
    ) -> Attribution:
        """So many windows of time, at these latencies over the usual ones. Args: answers, of the canary a second."""
        world = World(answers=100, batch=2)
        for _ in range(windows * seconds):
            self.now_ms += TICK_MS
            for node in ("a", "b"):
                for series, count, scale in ((STABLE, 90, champion), (CANARY, answers, canary)):
                    key = (node, "run", *series)
                    grown = arm(world, self.rng, count, scale).tolist()
                    known = self.totals.get(key, [0] * len(grown))
                    self.totals[key] = [before + more for before, more in zip(known, grown, strict=True)]
            hear_answers(self.held, self.totals, self.now_ms)
            outcome = self.held.monitor.turn([], ROLES, self.now_ms, token=1)
            self.told += [event.reason for event in outcome.events]
        return self.held.monitor.attribution

    def shown(self) -> dict[str, Any]:
        found = view("m", self.held, leads=True, away="", now_ms=self.now_ms)
        return msgspec.json.decode(msgspec.json.encode(found))  # type: ignore[no-any-return]


def test_a_canary_that_is_slower_is_rolled_back_where_its_owners_allow_it() -> None:
    story = Story()
    assert story.go_on(2).verdict == "none"
    found = story.go_on(3, canary=2.0)
    assert (found.verdict, found.action) == ("latency", "rollback")
    assert "canary" in found.sentence
    (lease,) = story.held.monitor.leases.held
    assert (lease.level, lease.variant, lease.version, lease.revision) == ("rollback", "canary", "2", 4)
    assert [one for one in story.told if "latency of canary" in one], story.told


@pytest.mark.parametrize(("latency", "level"), [(LIMIT, "observe"), (None, "rollback")])
def test_nothing_is_done_where_it_is_only_observed_or_not_asked_for(latency: Latency | None, level: Level) -> None:
    story = Story(latency, level)
    verdict = story.go_on(5, canary=2.0).verdict
    assert verdict == ("none" if latency is None else "latency")
    assert story.held.monitor.leases.held == ()


def test_without_the_comparison_a_canary_within_its_objective_is_nobodys_fault() -> None:
    assert Story(Latency(slo_ms=500.0, arms_compare=False)).go_on(5, canary=2.0).verdict == "none"


def test_both_slower_alike_is_no_fault_of_the_canary_and_a_page_only_past_the_objective() -> None:
    story = Story()
    story.go_on(1)
    assert story.go_on(4, champion=3.0, canary=3.0).verdict == "none"
    found = story.go_on(4, champion=200.0, canary=200.0)
    assert (found.verdict, found.action) == ("latency", "page")
    assert story.held.monitor.leases.held == ()


def test_a_fallback_goes_on_without_traffic_for_the_cool_down_and_then_the_canary_is_tried_again() -> None:
    story = Story(level="fallback")
    story.go_on(1)
    while not story.held.monitor.leases.held:
        story.go_on(1, canary=2.0)
    (lease,) = story.held.monitor.leases.held
    assert lease.level == "fallback"
    cooldown_s = story.spec.actions.cooldown_ms / 1000
    while story.now_ms / 1000 < lease.granted_s + cooldown_s:
        assert story.held.monitor.lease(ROLES, story.now_ms / 1000) is not None
        story.go_on(1, answers=0)
    assert story.held.monitor.ledger.open is not None, "silence is not clean"
    story.go_on(2, answers=0)
    assert story.held.monitor.lease(ROLES, story.now_ms / 1000) is None
    story.go_on(4, canary=2.0)
    again = story.held.monitor.lease(ROLES, story.now_ms / 1000)
    assert again is not None, "it is no better"
    assert again.granted_s > lease.granted_s + cooldown_s
    story.go_on(8, answers=0)
    story.go_on(4)
    assert story.held.monitor.lease(ROLES, story.now_ms / 1000) is None, "its traffic is clean: the incident is over"
    assert story.held.monitor.ledger.open is None


def test_it_goes_on_after_a_restart() -> None:
    story = Story()
    story.go_on(4, canary=2.0)
    body = encoded_state(story.held)
    again = Story()
    assert restore_state(again.held, body) == ""
    assert again.held.monitor.compared_latency(CANARY) == story.held.monitor.compared_latency(CANARY)
    assert again.held.monitor.state()["pair"] == story.held.monitor.state()["pair"]


def test_the_comparison_is_shown_with_the_canary_and_nowhere_else() -> None:
    story = Story()
    for version, variant in (STABLE, CANARY):
        watching = story.held.monitor.versions[version]
        watching.take(variant, np.zeros(watching.reference.plan.size, np.int64), 0)
    story.go_on(4, canary=2.0)
    series = {place: story.shown()["versions"][place[0]]["variants"][place[1]] for place in (STABLE, CANARY)}
    assert series[STABLE]["beside_champion"] is None
    beside = series[CANARY]["beside_champion"]
    assert beside["state"] == "firing"
    assert latency_beside(beside).startswith("firing: ")
    assert f"of answers are slower than {beside['named'][0]}, of the champion's" in latency_beside(beside)
    assert series[CANARY]["signals"]["latency"]["state"] == "firing"
    explained = explanation("m", story.held, {"1": {}, "2": {}}, story.now_ms)["versions"]
    assert explained["1"]["beside_champion"] == {}
    assert explained["2"]["beside_champion"].keys() == {"canary"}
    page = facts({"m": story.held}, {}, {}, {}, dropped=0, overhead_s=0.0, leads=True, now_ms=story.now_ms)
    ((*place, shift),) = page.latency_shift
    assert place == ["m", *CANARY]
    assert isinstance(shift, float)
    assert shift > 0.2
