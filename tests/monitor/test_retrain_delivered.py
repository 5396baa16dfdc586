"""A request for retraining is under way while its model's document changes: what comes of it is not lost."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.control.monitorheld import Held
from gateway.control.monitors import Monitors
from gateway.monitor.attribution import Attribution
from gateway.monitor.book import ModelMonitor, Roles
from gateway.monitor.incidents import turn
from gateway.monitor.retrain import RETRY_S, Asked, Facts, Requests, facts_of, offer
from gateway.monitor.settings import Retrain, Spec, Window
from gateway.monitor.words import Finding, Signal
from tests.audit.stage import Receiver
from tests.monitor.day_world import Node, World
from tests.monitor.test_monitors_loop import monitors_on

FACTS = Facts(model="m", version="1", incident="m/1", verdict="concept", sentence="Worse.")
SUFFERS = Attribution(verdict="concept", action="retrain", sentence="Worse.", retrain=True)


def spec(url: str, secret: Path, rows: int) -> Spec:
    return Spec(window=Window(rows=rows), retrain=Retrain(url=url, secret_file=str(secret)))


def sending(monitor: ModelMonitor) -> str:
    asked = Asked(key=FACTS.key, facts=FACTS, status="sending", at_s=1.0, counted_s=1.0, deliveries=1)
    monitor.requests = Requests(asked=(asked,))
    return asked.key


def under_way(tmp_path: Path, statuses: list[int], meanwhile: Any) -> Monitors:
    """A delivery whose answer comes after something has happened."""
    secret = tmp_path / "secret"
    secret.write_text("s" * 20)
    monitors = monitors_on(None)
    with Receiver(statuses) as target:
        target.gate.clear()
        before = spec(target.url, secret, 500)
        monitor = ModelMonitor("m", before)
        monitors.held["m"] = Held(before, monitor, revision=1)
        key = sending(monitor)

        async def scene() -> None:
            monitors.told.send(monitor, key, monitors.delivered)
            (delivery,) = monitors.told._tasks
            await asyncio.sleep(0)
            meanwhile(monitors, spec(target.url, secret, 505))
            target.gate.set()
            await asyncio.wait_for(asyncio.shield(delivery), 20)

        asyncio.run(scene())
    return monitors


def changed(monitors: Monitors, to: Spec) -> None:
    monitors._put("m", to, 2, None)
    assert monitors.held["m"].monitor.requests.asked[0].status == "sending", "the gateway has not ended"


@pytest.mark.parametrize(("answers", "status", "note"), [([], "sent", "HTTP 204"), ([404], "failed", "HTTP 404")])
def test_what_came_of_it_reaches_the_monitor_in_force(
    tmp_path: Path, answers: list[int], status: str, note: str
) -> None:
    held = under_way(tmp_path, answers, changed).held["m"]
    assert held.spec.window.rows == 505
    (asked,) = held.monitor.requests.asked
    assert (asked.status, asked.note, asked.deliveries) == (status, note, 1)
    assert (held.moved, held.saved_ms) == (True, 0), "it is saved with the next turn"


def test_whatever_a_delivery_meets_it_has_failed(caplog: pytest.LogCaptureFixture) -> None:
    """A time that no date has: the request was `sending` until control started anew."""
    monitors = monitors_on(None)
    before = Spec(retrain=Retrain(url="http://127.0.0.1:9", preset="airflow", target="dag"))
    monitor = ModelMonitor("m", before)
    monitors.held["m"] = Held(before, monitor, revision=1)
    facts = msgspec.structs.replace(FACTS, window_from_s=1e30)
    asked = Asked(key=facts.key, facts=facts, status="sending", at_s=1.0, counted_s=1.0, deliveries=1)
    monitor.requests = Requests(asked=(asked,))

    async def scene() -> None:
        monitors.told.send(monitor, facts.key, monitors.delivered)
        await asyncio.wait(set(monitors.told._tasks), timeout=20)

    asyncio.run(scene())
    (asked,) = monitor.requests.asked
    assert (asked.status, asked.note) == ("failed", "unexpected: OverflowError")
    assert [one.getMessage() for one in caplog.records] == ["retrain_delivery_failed"]


@pytest.mark.parametrize(
    ("signal", "later_s", "outcome"),
    [
        ("input_drift", RETRY_S, "retry"),
        ("input_drift", RETRY_S - 1, "duplicate"),
        ("data_quality", RETRY_S, ""),
    ],
)
def test_what_failed_is_repeated_while_the_incident_is_open(signal: Signal, later_s: float, outcome: str) -> None:
    """It was only while the verdict held, which lapses as soon as a window knows less."""
    monitor = ModelMonitor("m", Spec(retrain=Retrain(url="http://127.0.0.1:9")))
    fires = Finding(signal=signal, state="firing", version="1", variant="-", keys=("age",))
    monitor.ledger = turn(monitor.ledger, [fires], SUFFERS, 0.0).ledger
    settings, incident = monitor.retrain_settings(), monitor.ledger.open
    assert settings is not None
    assert incident is not None
    facts = facts_of(incident, "1")
    monitor.requests, _ = offer(monitor.requests, settings, SUFFERS, facts, 0.0)
    monitor.delivered(facts.key, ok=False, note="HTTP 503", now_s=0.0)
    roles = Roles(champion=("1", "-"), live=frozenset({("1", "-")}))
    found = monitor.turn([], roles, int(later_s * 1000))
    assert (monitor.attribution.retrain, found.retrain) == (False, outcome)
    assert monitor.requests.asked[0].deliveries == (2 if outcome == "retry" else 1)
    monitor.requests = Requests()
    assert monitor.turn([], roles, int(later_s * 1000)).retrain == "", "nobody asked"


def test_nobody_is_told_of_a_model_that_is_gone(tmp_path: Path) -> None:
    assert under_way(tmp_path, [], lambda monitors, _: monitors.held.clear()).held == {}


def test_only_who_takes_over_after_a_restart_tries_it_again(tmp_path: Path) -> None:
    world = World(tmp_path, 10)
    world.run(30)
    leader, follower = (node.monitors for node in world.nodes)
    sending(leader.held["m"].monitor)
    leader.moved("m")
    world.run(40)
    assert leader.held["m"].monitor.requests.asked[0].status == "sending"
    shown = asyncio.run(follower.shown("m"))
    assert shown.monitor.requests.asked[0].status == "sending", "who only looks has not taken over"
    again = Node(world, "a", "r1", leads=True).monitors
    asyncio.run(again.tick())
    (asked,) = again.held["m"].monitor.requests.asked
    assert (asked.status, asked.note) == ("failed", "the controller ended during the delivery")
