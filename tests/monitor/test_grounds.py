"""What a word was made of gives that word again, to the last bit: windows, labels, groups, speed, both arms."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec
import numpy as np
import pytest

from gateway.control.monitornotes import lease_record
from gateway.control.monitorreplay import monitor_checks
from gateway.monitor.book import ModelMonitor
from gateway.monitor.grounds import ALL, grounds_of
from gateway.monitor.mistakes import Mistakes
from gateway.monitor.regrounded import found_again
from gateway.monitor.words import Signal
from gateway.store.base import Document
from tests.monitor.day_world import HOUR_S, Memory, World
from tests.monitor.mistakes_world import cohorts
from tests.monitor.replay_world import edited, read_back, replayed
from tests.monitor.test_fairness_by_labels import cohort, watching
from tests.monitor.test_labels_stop import World as LabelsWorld
from tests.monitor.test_latency_story import Story
from tests.store.test_incident_records import LEASE


class Trail(Memory):
    """A store that keeps what goes into the audit trail."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[dict[str, Any]] = []

    async def put(self, kind: str, name: str, body: bytes, *, expected: int = 0, **more: Any) -> Document:
        if more.get("audit") is not None:
            self.records.append(read_back(more["audit"]))
        return await super().put(kind, name, body, expected=expected)


def every(monitor: ModelMonitor) -> Iterator[dict[str, Any]]:
    """All grounds that are known, as a record has them."""
    signals = [
        (signal, version, variant)
        for version, one in monitor.versions.items()
        for variant in sorted(one.variants)
        for signal in get_args(Signal)
    ]
    for ground in grounds_of(monitor, signals):
        yield read_back(ground(ALL))


def again(ground: dict[str, Any]) -> dict[str, Any]:
    return read_back(found_again(ground)[0])


def test_hours_of_drift_labels_and_slow_answers_is_computed_again(tmp_path: Path) -> None:
    trail = Trail()
    world = World(tmp_path, step_s=20, store=trail)
    seen: Counter[str] = Counter()
    for part in range(1, 9):
        world.run(part * HOUR_S // 6)
        for ground in every(world.nodes[0].monitors.held["m"].monitor):
            assert again(ground) == ground["found"], ground["test"]
            seen[ground["test"]] += 1
    assert set(seen) >= {"input", "prediction", "quality", "estimated", "fairness", "concept", "budget"}
    kinds = Counter(record["what"] for record in trail.records)
    assert kinds["incident opened"] >= 2, kinds
    assert [replayed(record).text for record in trail.records] == ["same verdict"] * len(trail.records)


def test_a_canary_that_is_slower_beside_stable() -> None:
    story = Story()
    story.go_on(3, canary=2.0)
    grounds = {one["test"]: one for one in every(story.held.monitor)}
    ground = grounds["latency"]
    assert (ground["found"]["state"], again(ground)) == ("firing", ground["found"])
    for at in range(len(ground["found"]["edges"])):
        more = edited(ground, ("sums", "shares", "canary", at), lambda share: share * 0.9)
        assert again(more) != ground["found"], at
    assert again(grounds["budget"]) == grounds["budget"]["found"]


def test_a_comparison_of_speed_that_is_ahead_of_the_word_on_it_contradicts_nothing() -> None:
    story = Story()
    story.now_ms = 25_000
    story.go_on(2)
    ahead = 0
    for _ in range(330):
        story.go_on(1, canary=2.0, seconds=2)
        monitor = story.held.monitor
        asked, last = monitor.asked, monitor.pair.latency.last
        assert asked is not None
        assert asked.canary is not None
        if last is not None and last.state == "firing" and asked.canary.states["latency"] != "firing":
            ahead += 1
            checks = monitor_checks(read_back(lease_record(LEASE, monitor)), [])
            assert [one for one in checks if one.what.startswith("latency") and not one.ok] == []
    assert ahead > 10


def test_a_canary_that_is_wrong_more_often() -> None:
    mistakes, rng = Mistakes(floor=0.0, distance_ms=30 * 86_400_000), np.random.default_rng(3)
    for hour in range(3):
        mistakes.close(*cohorts(rng, rows=20_000), (hour * HOUR_S, (hour + 1) * HOUR_S), 0.0)
    assert mistakes.ground is not None
    assert mistakes.ground.judged() == mistakes.verdict
    plain = read_back(msgspec.to_builtins(mistakes.ground))
    assert msgspec.convert(plain, type(mistakes.ground)).judged() == mistakes.verdict
    more = edited(plain, ("canary", "errors", 7, 1, 1), lambda count: count + 1)
    assert msgspec.convert(more, type(mistakes.ground)).judged() != mistakes.verdict


def test_a_version_that_is_worse_by_its_labels() -> None:
    world = LabelsWorld()
    for right in (0.8, 0.8, 0.4, 0.4):
        world.cohort(right)
    grounds = {one["test"]: one for one in every(world.monitor)}
    for name in ("realised", "concept"):
        ground = grounds[name]
        assert (again(ground), found_again(ground)[1]) == (ground["found"], [])
    realised, concept = grounds["realised"], grounds["concept"]
    assert (realised["found"]["verdict"]["state"], concept["found"]["state"]) == ("firing", "firing")
    for name in ("cohort", "reference"):
        more = edited(realised, ("labels", name, 1, 0), lambda count: count + 1)
        assert again(more) != realised["found"]
    assert again(edited(realised, ("predicted", 0), lambda count: count + 400)) != realised["found"]
    assert again({**concept, "wrong": [0] * len(concept["wrong"])}) != concept["found"]
    assert again({**concept, "floor": 0.9})["state"] == "ok"


@pytest.mark.parametrize("late", [False, True])
def test_groups_by_labels_and_labels_that_come_late(late: bool) -> None:
    watched = watching()
    for hour, share in enumerate((0.8, 0.4, 0.4)):
        cohort(watched, hour, (0.8, share))
    if late:
        found = watched.cohorts.find(2 * HOUR_S, "stable")
        assert found is not None
        found.labels[0, 1, 10, 0] += 1
    monitor = ModelMonitor("m", watched.spec)
    monitor.versions["1"] = watched
    grounds = {one["test"]: one for one in every(monitor)}
    gaps = grounds["gaps"]
    assert (gaps["found"]["state"], "labels" in gaps, "labels" in grounds["realised"]) == ("firing", not late, not late)
    for ground in grounds.values():
        assert again(ground) == ground["found"]
        assert bool(found_again(ground)[1]) == (late and ground["test"] in ("gaps", "realised"))
