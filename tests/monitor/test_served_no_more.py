"""A model is taken away while its incident is open: the incident is closed and said to be, once that is known."""

import asyncio
import logging
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.control.messages import ModelState, PolicyState, Route, Snapshot, VariantPin
from gateway.control.monitors import KIND, Monitors
from gateway.control.monitorviews import facts
from gateway.monitor.incidents import Incident, Ledger, turn
from gateway.monitor.words import Finding
from tests.monitor.day_world import Node, World

NOTHING = Snapshot(2, (), {}, ready=True)
STARTING = Snapshot(1, (), {}, ready=False)
FIRES = Finding(signal="input_drift", state="firing", version="1", keys=("a",))


def alarmed(world: World, *, document: bool = True) -> Monitors:
    """The leader of a world in which an incident is open, and saved."""
    world.run(30)
    world.kept = {}
    monitors = world.nodes[0].monitors
    if not document:
        world.store._documents.pop((KIND, "m"))
        asyncio.run(monitors.tick())
    monitor = monitors.held["m"].monitor
    monitor.ledger = turn(Ledger(model="m"), [FIRES], monitor.attribution, world.now_s).ledger
    monitor.board = monitor.board.take([FIRES])
    monitors.held["m"].problems["3"] = "of another file"
    monitors.moved("m")
    asyncio.run(monitors.tick())
    assert monitor.ledger.open is not None
    return monitors


def closed(caplog: Any) -> list[dict[str, Any]]:
    alerts = [record.facts for record in caplog.records if record.msg == "monitor_alert"]
    return [alert for alert in alerts if alert["kind"] == "closed"]


def open_in(monitors: Monitors) -> Incident | None:
    return monitors.held["m"].monitor.ledger.open if "m" in monitors.held else None


def gauges(monitors: Monitors, world: World) -> set[str]:
    """Families that have a sample of the model itself, not of its past."""
    found = facts(monitors.held, {}, {}, {}, dropped=0, overhead_s=0.0, leads=True, now_ms=world.now_s * 1000)
    names = ("drift_state", "monitor_reference_missing", "monitor_lag_seconds", "monitor_blind")
    return {name for name in names if getattr(found, name)}


def test_it_is_closed_and_nothing_is_said_of_it_any_more(tmp_path: Path, caplog: Any) -> None:
    caplog.set_level(logging.INFO)
    world = World(tmp_path, 10)
    monitors = alarmed(world)
    assert {"drift_state", "monitor_reference_missing"} <= gauges(monitors, world)
    world.snapshot = NOTHING
    asyncio.run(monitors.tick())
    assert open_in(monitors) is None
    assert [alert["reason"] for alert in closed(caplog)] == ["version 1 is no longer served"]
    assert gauges(monitors, world) == set()


@pytest.mark.parametrize("document", [True, False])
def test_after_a_restart_it_is_closed_once_it_is_known_what_is_served(
    tmp_path: Path, caplog: Any, document: bool
) -> None:
    caplog.set_level(logging.INFO)
    world = World(tmp_path, 10)
    before = open_in(alarmed(world, document=document))
    world.snapshot = STARTING
    again = Node(world, "a", "r1", leads=True).monitors
    for _ in range(3):
        asyncio.run(again.tick())
        assert open_in(again) == before, "models are not known yet"
    world.snapshot = NOTHING
    asyncio.run(again.tick())
    assert open_in(again) is None
    assert [alert["reason"] for alert in closed(caplog)] == ["version 1 is no longer served"]
    for _ in range(2):  # that it was told is saved first
        world.now_s += 10
        asyncio.run(again.tick())
    assert ("m" in again.held) == document
    assert len(closed(caplog)) == 1
    third = Node(world, "a", "r2", leads=True).monitors
    asyncio.run(third.tick())
    asyncio.run(third.tick())
    assert (open_in(third), len(closed(caplog))) == (None, 1), "that it is closed was saved"


@pytest.mark.parametrize("why", ["it is loaded", "the repository is away", "its files are being written"])
def test_an_incident_is_not_closed_by_mistake(tmp_path: Path, why: str) -> None:
    world = World(tmp_path, 10)
    before, served = open_in(alarmed(world)), world.snapshot
    again = Node(world, "a", "r1", leads=True).monitors
    world.snapshot = STARTING
    asyncio.run(again.tick())
    nobody = {"m": Route(None, (), {}, "it is loading")}
    if why == "it is loaded":
        states = (ModelState("m", 1, "sha256:1", 0, "LOADING"),)
        world.snapshot = Snapshot(2, served.models, nobody, ready=True, states=states)
    elif why == "the repository is away":
        world.snapshot, world.source_problem = NOTHING, "no answer"
    else:
        world.snapshot = Snapshot(2, (), nobody, ready=True, states=(ModelState("m", 0, "", 0, "LOADING"),))
    asyncio.run(again.tick())
    assert open_in(again) == before


def test_while_a_document_waits_the_roles_of_the_one_before_hold(tmp_path: Path) -> None:
    """What answers everybody meanwhile is watched on; it was told to be no longer served."""
    world = World(tmp_path, 10)
    monitors = alarmed(world)
    world._people(60)
    record = world.kept["m"].record
    pins = tuple(VariantPin(one.variant, "m", one.version, "sha256:x") for one in record.variants)
    record.variants, record.status.phase = pins, "BAKING"
    state = PolicyState("m", 1, 1, {}, pins, bytes(10_000), 0)
    world.snapshot = msgspec.structs.replace(world.snapshot, policies=(state,))
    asyncio.run(monitors.tick())
    roles, before = monitors.held["m"].roles, open_in(monitors)
    assert (roles.canary, before is None) == (("2", "canary"), False)
    record.variants = tuple(msgspec.structs.replace(pin, version=9) for pin in pins)
    record.revision += 1
    asyncio.run(monitors.tick())
    assert monitors.held["m"].roles == msgspec.structs.replace(roles, canary=None)
    assert open_in(monitors) == before
