"""An incident that opened or closed is in the audit trail, once, on each store: it is written with the state."""

from typing import Any

import msgspec

from gateway.control.auditor import id_of
from gateway.control.monitorheld import Held, encoded_state, restore_state
from gateway.control.monitornotes import UNWRITTEN
from gateway.control.monitors import Monitors
from gateway.control.replay import replay
from gateway.monitor.attribution import Attribution
from gateway.monitor.book import ModelMonitor, Roles
from gateway.monitor.incidents import turn
from gateway.monitor.leases import Lease
from gateway.monitor.settings import Spec, Window
from gateway.monitor.words import Finding
from gateway.store.base import AuditRecord, Store, StoreAway
from tests.monitor.page_world import NOW_MS, counts, held_of, plan_of
from tests.monitor.test_monitors_loop import monitors_on
from tests.store.places import Place, on_a_store

WORLD = Attribution(verdict="world", action="page", sentence="The inputs have shifted.")
LEASE = Lease(
    model="m", version="2", variant="canary", level="freeze", reason="r", evidence_id="m/1/1", revision=1, fence=1,
    granted_s=0.0, expires_at=1.0,
)  # fmt: skip


class Away:
    """A real store that cannot be reached for some writes, or does not take them."""

    def __init__(self, store: Store, writes: int, error: Exception | None = None) -> None:
        self._store = store
        self.writes = writes
        self._error = error or StoreAway("away")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def put(self, *args: Any, **named: Any) -> Any:
        if self.writes:
            self.writes -= 1
            raise self._error
        return await self._store.put(*args, **named)


def said(held: Held, state: Any, at_s: float) -> None:
    """A turn with one word on the inputs."""
    finding = Finding(signal="input_drift", state=state, version="1", variant="-", keys=("a",), text="PSI 0.3")
    found = turn(held.monitor.ledger, [finding], WORLD, at_s)
    held.monitor.ledger = found.ledger
    held.notes.take(found.events, held.monitor)


async def saved(monitors: Monitors, held: Held, lease: Lease | None = None) -> None:
    assert await monitors._save("m", held, lease, None)


async def trail(store: Store) -> list[AuditRecord]:
    return list((await store.audit_read("m")).records)


@on_a_store()
async def test_an_incident_is_written_once_with_the_state(store: Store, place: Place) -> None:
    monitors, held = monitors_on(store), Held(Spec(), ModelMonitor("m", Spec()))
    said(held, "firing", 100.0)
    await saved(monitors, held, LEASE)
    assert [one.record["what"] for one in await trail(store)] == ["lease freeze"], "one record goes with a write"
    before = await store.get("monitor-state", "m")
    assert before is not None
    # Control ends here: what is to be written is in what it saved.
    held = Held(Spec(), ModelMonitor("m", Spec()), state_revision=before.revision)
    assert restore_state(held, before.body) == ""
    for at in range(3):
        said(held, "ok", 200.0 + at)
        await saved(monitors, held)
    records = await trail(store)
    assert [one.record["what"] for one in records] == ["lease freeze", "incident opened", "incident closed"]
    assert {one.record["actor"] for one in records} == {"auto:monitor"}
    opened = records[1].record
    assert (opened["incident"], opened["severity"], opened["verdict"]) == ("m/100", "warning", "world")
    assert opened["signals"][0] | {"since": ""} == {
        "signal": "input_drift", "version": "1", "variant": "-", "severity": "warning", "keys": ["a"],
        "text": "PSI 0.3", "since": "", "words": 1,
    }  # fmt: skip
    assert [replay(one, None).text for one in records] == ["same verdict"] * 3
    assert len({id_of(one) for one in records}) == 3


@on_a_store()
async def test_a_lease_that_is_granted_while_the_store_is_away_is_written_when_it_is_back(
    store: Store, place: Place
) -> None:
    away: Any = Away(store, writes=2)
    monitors, held = monitors_on(away), Held(Spec(), ModelMonitor("m", Spec()))
    said(held, "firing", 100.0)
    await saved(monitors, held, LEASE)
    for _ in range(4):
        await saved(monitors, held)
    records = await trail(store)
    assert [one.record["what"] for one in records] == ["lease freeze", "incident opened"]
    assert records[0].record["evidence"] == LEASE.evidence_id


@on_a_store()
async def test_what_is_decided_is_in_the_trail_also_where_the_state_finds_no_room(store: Store, place: Place) -> None:
    full: Any = Away(store, writes=2, error=ValueError("body: expected at most 1048576 bytes"))
    monitors, held = monitors_on(full), Held(Spec(), ModelMonitor("m", Spec()))
    said(held, "firing", 100.0)
    await saved(monitors, held, LEASE)
    await saved(monitors, held)
    assert [one.record["what"] for one in await trail(store)] == ["lease freeze", "incident opened"]
    await saved(monitors, held)
    assert len(await trail(store)) == 2, "each once"


@on_a_store()
async def test_while_the_store_is_away_records_wait_and_what_finds_no_room_is_counted(
    store: Store, place: Place
) -> None:
    over = 3
    away: Any = Away(store, writes=1)
    monitors, held = monitors_on(away), Held(Spec(), ModelMonitor("m", Spec()))
    for at in range(UNWRITTEN + over):
        held.monitor.ledger = ModelMonitor("m", Spec()).ledger
        said(held, "firing", 100.0 + at)
    await saved(monitors, held)
    assert (monitors.away, await trail(store)) == ("away", [])
    await saved(monitors, held)
    await saved(monitors, held)
    first, second = [one.record for one in await trail(store)]
    assert (first["incident"], first["left_out"]) == (f"m/{100 + over}", over)
    assert (second["incident"], second["left_out"]) == (f"m/{101 + over}", 0)


def test_the_numbers_of_the_window_are_in_the_record() -> None:
    spec = Spec(window=Window(rows=500))
    held = held_of(plan_of(3, "f"), [(500, 0.0), (500, 0.9)], spec)
    plan = held.monitor.versions["1"].reference.plan
    roles = Roles(champion=("1", "-"), live=frozenset({("1", "-")}))
    outcome = held.monitor.turn([("1", "-", counts(plan, 500, shift=0.9))], roles, NOW_MS + 180_000)
    held.notes.take(outcome.events, held.monitor)
    record, _ = held.notes.written(None, held.monitor)
    assert record is not None
    inputs = next(one for one in record["grounds"] if one["test"] == "input")
    found = inputs["found"]
    assert (inputs["version"], inputs["variant"], inputs["rows"], found["state"]) == ("1", "-", 500, "firing")
    assert set(found["compared"]) == {key for one in record["signals"] for key in one["keys"]}
    assert all(one["psi"] > 0.1 and one["p_value"] < 1e-6 for one in found["compared"].values())
    assert all(sum(one["window"]) == 500 for one in inputs["bins"])
    again = Held(spec, ModelMonitor("loans", spec))
    assert restore_state(again, encoded_state(held)) == ""
    assert again.notes.written(None, again.monitor)[0] == msgspec.json.decode(msgspec.json.encode(record))
