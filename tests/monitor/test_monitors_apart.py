"""One model's monitor that fails does not end those of the others: rounds of the loop on a real store and files."""

import hashlib
import logging
import zlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import numpy as np
import pytest

from gateway.control.counts import Totals
from gateway.control.firstreferences import FirstReferences, Place
from gateway.control.messages import Route, WantedModel
from gateway.control.monitorheld import Held, MonitorRecord, encoded_state, restore_state
from gateway.control.monitors import KIND, STATE, Monitors
from gateway.control.monitortold import Told
from gateway.control.monitorviews import awaited, facts, view, worst_states
from gateway.control.monitorwords import headline
from gateway.counters import DRIFT, DRIFT_TAKEN, DRIFT_TAKEN_VALUES, CounterPage
from gateway.monitor.book import ModelMonitor
from gateway.monitor.counting import Counts
from gateway.monitor.facts import STATES
from gateway.monitor.reference import FILE_NAME, Binding, Reference, Tensor, dumped, identified
from gateway.monitor.settings import Spec, parse
from gateway.store.base import Lease
from gateway.store.sqlite import SqliteStore
from runtimes.registry.modelconfig import ModelConfig
from tests.control.test_feedback_desk import on_a_store
from tests.control.test_first_references import CONTENT, ROWS, SPEC, model_in, part_of
from tests.monitor.test_monitors_loop import PLAN, counts

NAMES = ("bad", "good")


class World:
    """A node that leads, and two models with references."""

    def __init__(self, store: SqliteStore, lease: Lease, folder: Path) -> None:
        self.lease = lease
        self.store, self.now_ms = store, 1_000_000
        self.rng = np.random.default_rng(3)
        self.page, self.finals = (CounterPage(memoryview(bytearray(1 << 20))) for _ in range(2))
        tensors = [(Tensor(name, "FP64", (-1, 1)),) for name in "xy"]
        binding = Binding(hashlib.sha256(CONTENT).hexdigest(), *tensors)
        self.reference = identified(Reference(PLAN, counts(self.rng, 50_000), binding))
        (folder / "model.onnx").write_bytes(CONTENT)
        (folder / FILE_NAME).write_bytes(dumped(self.reference))
        models = [WantedModel(name, 1, f"sha256:{name}", str(folder), "model.onnx", ModelConfig()) for name in NAMES]
        routes = {name: Route(1, (1,), {}) for name in NAMES}
        states = [SimpleNamespace(name=name, version=1) for name in NAMES]
        self.snapshot: Any = SimpleNamespace(models=models, routes=routes, states=states, policies=(), ready=True)
        self.source_problem, self.silent_ms = "", 0
        self.watched: tuple[Any, ...] = ()
        self.kept: dict[str, Any] = {}
        self.node()

    def node(self) -> None:
        """Control starts."""
        world: Any = self
        self.monitors = Monitors(
            self.store,
            world,
            world,
            node="n",
            run="r",
            pages=lambda: ({"w": self.page}, self.finals),
            served=lambda: Totals({}, np.zeros(0, np.int64), np.zeros(0, np.int64)),
            lease=lambda: self.lease,
            told=Told(None, b"", source="/test", now_s=lambda: self.now_ms / 1000),
            now_ms=lambda: self.now_ms,
            silent_ms=lambda: self.silent_ms,
        )

    async def in_thread(self, work: Any, *args: object) -> Any:
        return work(*args)

    def set_watched(self, watched: Any, collected: Any) -> None:
        self.watched = tuple(one.name for one in watched)

    def count(self, rows: int) -> None:
        """Workers count rows of both."""
        for name in NAMES:
            labels = (name, "1", "-", self.reference.id)
            vector: Counts = counts(self.rng, rows)
            np.frombuffer(self.page.block(DRIFT, labels, len(vector)), np.int64)[:] += vector
            self.page.block(DRIFT_TAKEN, labels, DRIFT_TAKEN_VALUES)[0] += rows

    async def write(self, name: str, spec: dict[str, Any]) -> None:
        """Somebody writes a Monitor document."""
        document = {"apiVersion": "tidegate/v1", "kind": "Monitor", "metadata": {"name": name}, "spec": spec}
        parse(document)
        record = MonitorRecord(document=document, generation=1, applied_by="ann", applied_ms=0)
        await self.store.put(KIND, name, msgspec.msgpack.encode(record), expected=None)

    async def rounds(self, number: int) -> None:
        for _ in range(number):
            self.now_ms += 1_000
            self.count(100)
            await self.monitors.tick()

    def rows(self, name: str) -> int:
        return sum(int(one[0]) for one in self.monitors.held[name].seen.values())

    def states(self, name: str) -> set[str]:
        """Of all signals, as views and the metrics page say alike."""
        held = self.monitors.held
        shown = facts(held, {}, {}, {}, dropped=0, overhead_s=0.0, leads=True, now_ms=self.now_ms).drift_state
        found = {STATES[int(one[-1])] for one in shown if one[0] == name}
        assert set(worst_states(held[name], self.now_ms).values()) == found
        return found

    def problems(self, name: str) -> dict[str, str]:
        held = self.monitors.held[name]
        found: dict[str, str] = view(name, held, leads=True, away="", now_ms=self.now_ms)["problems"]
        return found


def in_a_world(tmp_path: Path, work: Callable[[World], Awaitable[None]]) -> None:
    async def run(store: SqliteStore) -> None:
        lease = await store.lease_acquire("rollouts", "n", 3_600)
        assert lease is not None
        await work(World(store, lease, tmp_path))

    on_a_store(tmp_path, run)


def test_a_file_that_nothing_can_be_called_is_a_problem_of_its_own_monitor(tmp_path: Path):
    async def work(world: World) -> None:
        await world.write("bad", {"reference": {"file": "a\0b"}})
        await world.rounds(3)
        assert (world.watched, world.rows("good"), world.problems("good")) == (("good",), 300, {})
        assert "null byte" in world.problems("bad")["1"]

    in_a_world(tmp_path, work)


def test_a_saved_state_of_other_places_is_begun_anew_and_saved_over(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    async def work(world: World) -> None:
        await world.rounds(7)
        await world.store.put(
            STATE, "bad", damaged(world, "seen", [["n", "r", ["bad", "1", "-", "x"], 1, [[5], [1]]]]), expected=None
        )
        world.node()
        await world.rounds(7)
        assert [(name, world.rows(name), world.problems(name)) for name in NAMES] == [
            ("bad", 1_400, {}),
            ("good", 1_400, {}),
        ]
        saved = await world.store.get(STATE, "bad")
        assert saved is not None
        assert restore_state(world.monitors.held["bad"], saved.body) == ""

    in_a_world(tmp_path, work)
    (said,) = [one for one in caplog.records if one.message == "monitor_state_unreadable"]
    assert "IndexError" in said.facts["reason"]  # type: ignore[attr-defined]


def test_a_turn_that_fails_is_said_once_and_shown_until_it_succeeds(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    async def work(world: World) -> None:
        await world.write("bad", {})
        await world.rounds(7)
        await world.store.put(STATE, "bad", damaged(world, "over", 5), expected=None)
        world.node()
        with caplog.at_level(logging.ERROR):
            await world.rounds(3)
        assert world.rows("good") == 1_000
        assert (list(world.problems("bad")), world.problems("good")) == (["*"], {})
        said = [one.facts for one in caplog.records if one.message == "monitor_failed"]  # type: ignore[attr-defined]
        assert [(one["model"], one["reason"]) for one in said] == [("bad", world.problems("bad")["*"])]
        world.monitors.held["bad"].over = {}
        await world.rounds(1)
        assert (world.problems("bad"), world.rows("bad")) == ({}, 1_100)

    in_a_world(tmp_path, work)


def test_windows_kept_for_a_version_that_comes_later_are_its_own_problem(tmp_path: Path):
    async def work(world: World) -> None:
        await world.rounds(7)
        served, world.snapshot.models = world.snapshot.models, world.snapshot.models[1:]
        await world.write("bad", {})
        world.node()
        saved = await world.store.get(STATE, "bad")
        assert saved is not None
        state = msgspec.msgpack.decode(zlib.decompress(saved.body))
        for one in state["monitor"]["versions"]["1"]["state"]["engine"]["series"].values():
            one["windows"]["counts"] = [[10_000], [1]]
        await world.store.put(STATE, "bad", zlib.compress(msgspec.msgpack.encode(state)), expected=None)
        await world.rounds(1)
        world.snapshot.models = served
        await world.rounds(1)
        assert (world.watched, list(world.problems("bad"))) == (("good",), ["*"])
        await world.rounds(1)
        assert (world.watched, world.problems("bad")) == (NAMES, {})
        assert world.monitors.held["bad"].monitor.versions["1"].engine.variants == ("-",)

    in_a_world(tmp_path, work)


def test_of_a_version_whose_reference_is_gone_nothing_is_known_any_more(tmp_path: Path):
    async def work(world: World) -> None:
        await world.write("bad", {"window": {"rows": 200}})
        await world.rounds(5)
        assert world.states("bad") == {"ok", "unknown"}, "there are no labels to estimate by"
        await world.write("bad", {"window": {"rows": 200}, "reference": {"file": "gone.npz"}})
        await world.rounds(1)
        assert world.problems("bad") == {"1": "reference: gone.npz is not there"}
        assert world.states("bad") == {"unknown"}

    in_a_world(tmp_path, work)


def test_without_rows_nothing_is_known_any_more_wherever_it_is_asked(tmp_path: Path):
    async def work(world: World) -> None:
        await world.write("bad", {"window": {"rows": 200}})
        await world.rounds(5)
        assert "ok" in world.states("bad")
        world.now_ms += 25_000
        await world.monitors.tick()
        assert world.states("bad") == {"unknown"}
        seen = view("bad", world.monitors.held["bad"], leads=True, away="", now_ms=world.now_ms)
        signals = seen["versions"]["1"]["variants"]["-"]["signals"]
        assert {one["state"] for one in signals.values()} == {"unknown"}
        assert headline(seen).startswith("No incident, and nothing can be said now")

    in_a_world(tmp_path, work)


def test_while_a_node_is_silent_rows_of_the_others_make_nothing_ok(tmp_path: Path):
    async def work(world: World) -> None:
        await world.write("bad", {"window": {"rows": 200}})
        await world.rounds(5)
        assert "ok" in world.states("bad")
        world.silent_ms = 3_000
        for _ in range(5):
            await world.rounds(1)
            world.silent_ms += 1_000
        assert world.states("bad") == {"unknown"}
        seen = view("bad", world.monitors.held["bad"], leads=True, away="", now_ms=world.now_ms)
        assert seen["lag_ms"] == world.silent_ms - 1_000, "that of the last round, though its own rows are fresh"
        world.silent_ms = 0
        await world.rounds(1)
        assert "ok" in world.states("bad")
        assert view("bad", world.monitors.held["bad"], leads=True, away="", now_ms=world.now_ms)["lag_ms"] == 0

    in_a_world(tmp_path, work)


def lag_in(world: World, name: str) -> list[float]:
    held = world.monitors.held
    shown = facts(held, {}, {}, {}, dropped=0, overhead_s=0.0, leads=True, now_ms=world.now_ms).monitor_lag_seconds
    return [float(one[-1]) for one in shown if one[0] == name]


def test_counts_that_never_come_are_late_from_the_first_look_on(tmp_path: Path):
    async def silence(world: World, rounds: int) -> None:
        for _ in range(rounds):
            world.now_ms += 10_000
            await world.monitors.tick()

    async def work(world: World) -> None:
        await silence(world, 1)
        assert lag_in(world, "good") == [0.0]
        await silence(world, 31)
        assert lag_in(world, "good") == [310.0], "past what ModelMonitorStale asks for"
        assert view("good", world.monitors.held["good"], leads=True, away="", now_ms=world.now_ms)["rows"] == 0
        world.node()  # another control takes over, and waits as well
        await silence(world, 3)
        assert lag_in(world, "good") == [20.0]
        await world.rounds(1)
        assert lag_in(world, "good") == [0.0]

    in_a_world(tmp_path, work)


def blind_in(world: World, name: str) -> dict[str, float]:
    """Variant -> sample of the metrics page, which views have to agree with."""
    held = world.monitors.held
    shown = facts(held, {}, {}, {}, dropped=0, overhead_s=0.0, leads=True, now_ms=world.now_ms).monitor_blind
    found = {str(variant): float(value) for model, _, variant, value in shown if model == name}
    seen = view(name, held[name], leads=True, away="", now_ms=world.now_ms)
    assert seen["blind"] == [f"1/{variant}" for variant, value in found.items() if value]
    return found


def test_a_version_that_never_had_a_row_is_unknown_and_then_blind_also_after_a_restart(tmp_path: Path):
    async def work(world: World) -> None:
        await world.write("bad", {"window": {"time": "10s"}})
        await world.monitors.tick()
        assert (world.states("bad"), blind_in(world, "bad")) == ({"unknown"}, {"-": 0.0})
        world.now_ms += 10_000
        world.node()
        await world.monitors.tick()
        world.now_ms += 10_000
        await world.monitors.tick()
        assert blind_in(world, "bad") == {"-": 0.0}
        world.now_ms += 1
        assert blind_in(world, "bad") == {"-": 1.0}
        signals = view("bad", world.monitors.held["bad"], leads=True, away="", now_ms=world.now_ms)
        assert signals["versions"]["1"]["variants"]["-"]["signals"]["input_drift"]["state"] == "unknown"
        await world.rounds(3)
        assert blind_in(world, "bad") == {"-": 0.0}, "its first window is open"

    in_a_world(tmp_path, work)


def test_a_version_that_is_loaded_beside_one_that_is_asked_for_waits_for_nobody():
    asked, idle = (
        SimpleNamespace(version=version, engine=SimpleNamespace(variants=variants))
        for version, variants in (("1", ["-"]), ("2", []))
    )
    held: Any = SimpleNamespace(roles=SimpleNamespace(live=None), monitor=SimpleNamespace(versions={"2": idle}))
    assert awaited(held, cast(Any, idle)) == ["-"]
    held.monitor.versions["1"] = asked
    assert (awaited(held, cast(Any, idle)), awaited(held, cast(Any, asked))) == ([], [])
    held.roles.live = {("1", "stable"), ("2", "canary")}
    assert awaited(held, cast(Any, idle)) == ["canary"]


def damaged(world: World, part: str, value: Any) -> bytes:
    """The saved state of a monitor with another value."""
    state = msgspec.msgpack.decode(zlib.decompress(encoded_state(world.monitors.held["bad"])))
    return zlib.compress(msgspec.msgpack.encode(state | {part: value}))


def test_half_a_state_is_not_restored() -> None:
    held, other = (Held(Spec(), ModelMonitor("m", Spec())) for _ in range(2))
    other.cursor, other.missed = 7, 3
    state = msgspec.msgpack.decode(zlib.decompress(encoded_state(other)))
    state["monitor"]["canary"] = 5
    assert "TypeError" in restore_state(held, zlib.compress(msgspec.msgpack.encode(state)))
    assert (held.cursor, held.missed, held.monitor.state()) == (0, 0, other.monitor.state())


def test_first_rows_of_a_model_that_cannot_be_read_are_refused(tmp_path: Path):
    async def work(store: SqliteStore) -> None:
        firsts = FirstReferences(store, now_ms=lambda: 1_000)
        model = msgspec.structs.replace(model_in(tmp_path), file="a\0b")
        await firsts.find(model, SPEC)
        firsts.collected()
        firsts.take("m", 1, 1_000, part_of(ROWS))
        await firsts.find(model, SPEC)
        fitting = firsts._collecting[Place("m", 1, model.digest, ROWS)].fitting
        assert fitting is not None
        await fitting
        assert "null byte" in (await firsts.find(model, SPEC))[1]
        assert "null byte" in (await firsts.find(model, SPEC))[1]

    on_a_store(tmp_path, work)


def test_rows_of_a_turn_that_fails_are_a_gap_that_is_shown(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        await world.rounds(2)
        held = world.monitors.held["bad"]
        engine = held.monitor.versions["1"].engine

        def broken(*_: object) -> None:
            raise RuntimeError("no input does this")

        engine.take = broken  # type: ignore[method-assign, assignment]
        await world.rounds(1)
        del engine.take
        await world.rounds(2)
        shown = view("bad", held, leads=True, away="", now_ms=world.now_ms)["versions"]["1"]["variants"]["-"]
        assert (shown["rows"], shown["open_rows"], shown["skipped"]) == (500, 400, 100)
        assert world.rows("good") == 500

    in_a_world(tmp_path, work)
