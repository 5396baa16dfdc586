"""The loop of monitors: labels go out once however the store fails; where there is no verdict, it says so."""

from typing import Any

import numpy as np
import pytest

from gateway.control.counts import Totals
from gateway.control.monitorheld import ACTIONS, Held
from gateway.control.monitors import Monitors
from gateway.control.monitortold import Told
from gateway.monitor.book import ModelMonitor, Roles
from gateway.monitor.counting import Counter, Counts, empty
from gateway.monitor.incidents import Incident, Ledger
from gateway.monitor.leases import Lease
from gateway.monitor.plan import CountPlan, FeaturePlan, ScorePlan
from gateway.monitor.realised import Labelled
from gateway.monitor.reference import Binding, Reference, identified
from gateway.monitor.settings import Spec, Window
from gateway.store.base import StoreAway

PLAN = CountPlan("", (FeaturePlan("a", "numeric", 0, 0, (0.0, 0.25, 0.5, 0.75, 1.0)),), ScorePlan(0, -1, "probability"))
LABEL = Labelled(0.0, 1.0, "-", 0, 1, 9, 1)
STABLE, CANARY = ("1", "stable"), ("2", "canary")


class Torn:
    """A real store whose answer to an append is lost, after it was done."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.losses = 2

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def stream_append(self, *entry: Any) -> bool:
        found: bool = await self._store.stream_append(*entry)
        if self.losses:
            self.losses -= 1
            raise StoreAway("the answer was lost")
        return found


def monitors_on(store: Any) -> Monitors:
    nothing: Any = None
    return Monitors(
        store,
        nothing,
        nothing,
        node="n",
        run="r",
        pages=lambda: ({}, nothing),
        served=lambda: Totals({}, np.zeros(0, np.int64), np.zeros(0, np.int64)),
        lease=lambda: None,
        told=Told(None, b"", source="/test", now_s=lambda: 1.0),
        now_ms=lambda: 1_000,
    )


# ---- what is not known ----


def counts(rng: np.random.Generator, rows: int) -> Counts:
    vector = empty(PLAN)
    Counter(PLAN).count([rng.random((rows, 1))], [rng.random((rows, 1))], np.zeros(rows, np.int64), vector)
    return vector


def references(rng: np.random.Generator) -> dict[str, Reference]:
    held_out = counts(rng, 50_000)
    return {version: identified(Reference(PLAN, held_out, Binding(version, (), ()))) for version in ("1", "2")}


def test_a_canary_without_enough_rows_has_no_verdict_and_gets_one_with_them() -> None:
    rng = np.random.default_rng(7)
    monitor = ModelMonitor("m", Spec(window=Window(rows=1_000)))
    monitor.watch(references(rng))
    roles = Roles(champion=STABLE, canary=CANARY, live=frozenset({STABLE, CANARY}))
    every = frozenset({"input_drift", "output_drift"})
    assert monitor.unknown(0.0) == every
    now_ms = 0
    for _ in range(3):
        now_ms += 60_000
        monitor.turn([(*STABLE, counts(rng, 1_000)), (*CANARY, counts(rng, 50))], roles, now_ms)
    assert monitor.unknown(now_ms / 1000) == every, "stable has its verdicts, the canary has few rows"
    for _ in range(2):
        now_ms += 60_000
        monitor.turn([(*STABLE, counts(rng, 1_000)), (*CANARY, counts(rng, 1_000))], roles, now_ms)
    assert monitor.unknown(now_ms / 1000) == frozenset()
    now_ms += 3_600_000
    monitor.turn([], roles, now_ms)
    assert monitor.unknown(now_ms / 1000) == every, "an old verdict is none"


def test_without_a_monitor_nothing_is_known() -> None:
    monitors = monitors_on(None)
    assert monitors.drift("m").unknown == {"input_drift", "output_drift"}
    monitors.held["m"] = Held(Spec(), ModelMonitor("m", Spec()))
    assert monitors.drift("m").unknown == {"input_drift", "output_drift"}, "another node leads"


# ---- what is gone ----


@pytest.mark.parametrize("why", ["document", "incident", "unsaved", ""])
def test_a_model_that_is_not_served_is_forgotten_unless_there_is_something_to_say_of_it(why: str) -> None:
    monitors = monitors_on(None)
    held = monitors.held["m"] = Held(Spec(), ModelMonitor("m", Spec()))
    monitors._led = True
    held.revision, held.moved = int(why == "document"), why == "unsaved"
    if why == "incident":
        attribution = held.monitor.attribution
        incident = Incident(
            id="m/1", model="m", opened_s=1.0, alarms=(), families=(), severity="warning", attribution=attribution
        )
        held.monitor.ledger = Ledger(model="m", open=incident)
    monitors._let_go("m", held)
    assert ("m" in monitors.held) == bool(why)


def test_kinds_of_leases_that_are_counted_are_bounded() -> None:
    held = Held(Spec(), ModelMonitor("m", Spec()))
    for version in range(3 * ACTIONS):
        held.acted(
            Lease(
                model="m",
                version=str(version),
                variant="canary",
                level="freeze",
                reason="",
                evidence_id="",
                revision=1,
                fence=1,
                granted_s=0.0,
                expires_at=1.0,
            )
        )
    assert [key[0] for key in held.actions] == [str(version) for version in range(2 * ACTIONS, 3 * ACTIONS)]
