"""A day of some gateways whose monitors are the real ones; clock, store, pages and people are of this world.

Each half hour brings drift for a quarter of an hour, of all or of the canary alone, a new version as canary and its
end, and a new variant of an experiment. Labels come after minutes and after hours, workers die, the follower is started
anew. So whatever has a bound reaches it before noon.
"""

import asyncio
import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np

from gateway.control.counts import Finals, Totals
from gateway.control.labelnotes import LabelNote
from gateway.control.messages import ModelState, Route, Snapshot, WantedModel
from gateway.control.monitorheard import forget, hear_answers, taken
from gateway.control.monitorheld import Held, MonitorRecord
from gateway.control.monitorinputs import buckets_of, labelled, settled_totals
from gateway.control.monitorroles import known_versions, roles_of
from gateway.control.monitors import KIND, Monitors
from gateway.control.monitortold import Told
from gateway.counters import DRIFT, DRIFT_TAKEN, DRIFT_TAKEN_VALUES, MODEL_VALUES, REQUEST_DURATION, CounterPage
from gateway.monitor.book import ModelMonitor
from gateway.monitor.counting import Counter, Counts, empty
from gateway.monitor.fit import regrouped
from gateway.monitor.plan import LABEL_BINS, SCORE_BINS, CountPlan, FeaturePlan, ScorePlan
from gateway.monitor.reference import FILE_NAME, Binding, Reference, Tensor, dumped, identified
from gateway.monitor.settings import parse
from gateway.store.base import Document, StreamEntry, StreamPage
from runtimes.registry.modelconfig import ModelConfig

DAY_S, HOUR_S, MINUTE_S = 86_400, 3_600, 60
BEGIN_S = 1_795_000_000 // DAY_S * DAY_S
ROWS_S = {"stable": 0.5, "canary": 0.5, "arm": 0.5}
EDGES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
PLAN = CountPlan(
    "",
    tuple(FeaturePlan(name, "numeric", 0, at, EDGES) for at, name in enumerate("abc")),
    ScorePlan(0, -1, "probability", calibration=((0.0, 0.0), (1.0, 1.0))),
)
GROUPS = ("women", "men")
SPEC: dict[str, Any] = {
    "window": {"rows": 1_000, "time": "5m"},
    "labels": {"mature_after": "8m"},
    "latency": {"slo_ms": 50},
    "groups": {"header": "x-group", "values": list(GROUPS), "min_size": 100},
    "actions": {"on_drift_of_canary": "rollback", "cooldown": "10m"},
}
DOCUMENT = {"apiVersion": "tidegate/v1", "kind": "Monitor", "metadata": {"name": "m"}}
CALM, MOVED = 16, 16
"""Deltas that a tick may bring, made beforehand."""


class Memory:
    """A store that keeps documents, and of each stream as much as a real one is asked to."""

    def __init__(self, stream_rows: int = 500) -> None:
        self._documents: dict[tuple[str, str], Document] = {}
        self._streams: dict[str, tuple[int, list[StreamEntry]]] = {}
        self._rows = stream_rows
        self.largest = 0

    async def list(self, kind: str) -> list[Document]:
        return [one for (known, _), one in self._documents.items() if known == kind]

    async def get(self, kind: str, name: str) -> Document | None:
        return self._documents.get((kind, name))

    async def put(self, kind: str, name: str, body: bytes, *, expected: int = 0, **_: Any) -> Document:
        known = self._documents.get((kind, name))
        assert expected == (known.revision if known is not None else 0)
        found = self._documents[kind, name] = Document(kind, name, expected + 1, body)
        self.largest = max(self.largest, len(body))
        return found

    async def stream_append(self, stream: str, replica: str, epoch: int, sequence: int, body: bytes) -> bool:
        last, entries = self._streams.get(stream, (0, []))
        entries.append(StreamEntry(last + 1, replica, epoch, sequence, body))
        self._streams[stream] = (last + 1, entries[-self._rows :])
        return True

    async def stream_read(self, stream: str, after: int = 0, limit: int = 1_000) -> StreamPage:
        last, entries = self._streams.get(stream, (0, []))
        skip = max(0, after - (last - len(entries)))
        found = tuple(entries[skip : skip + limit])
        return StreamPage(found, found[-1].id if found else max(after, 0), 0, 0)


class Node:
    """One start of a gateway: the pages of its worker and of dead ones, its totals of answers, its monitors."""

    def __init__(self, world: "World", name: str, run: str, *, leads: bool) -> None:
        self.finals = Finals(memoryview(bytearray(32 * 1024 * 1024)))
        self.name, self.run = name, run
        self.answers: dict[tuple[str, str, str], Any] = {}
        self.worker = 0
        self._page()
        service: Any = world
        policies: Any = world
        token: Any = SimpleNamespace(token=1)
        self.monitors = Monitors(
            world.store,  # type: ignore[arg-type]
            service,
            policies,
            node=name,
            run=run,
            pages=lambda: ({"w": self.page}, self.finals.page),
            served=lambda: Totals(self.answers, np.zeros(0, np.int64), np.zeros(0, np.int64)),
            lease=lambda: token if leads else None,
            told=Told(None, b"", source="/day", now_s=lambda: world.now_s),
            now_ms=lambda: world.now_s * 1000,
        )

    def _page(self) -> None:
        self.page = CounterPage(memoryview(bytearray(16 * 1024 * 1024)))
        self.worker += 1

    def kill_worker(self) -> None:
        """Its counts go to the finals."""
        self.finals.fold(f"w{self.worker}", self.page)
        self._page()

    def count(self, version: str, variant: str, plan: str, delta: Counts, slow: int) -> None:
        """Rows that a worker counted, and how fast they were answered."""
        labels = ("m", version, variant, plan)
        np.frombuffer(self.page.block(DRIFT, labels, len(delta)), np.int64)[:] += delta
        taken = self.page.block(DRIFT_TAKEN, labels, DRIFT_TAKEN_VALUES)
        taken[0] += int(delta[0])
        known = self.answers.setdefault(labels[:3], np.zeros(MODEL_VALUES, np.int64))
        known[REQUEST_DURATION + 6] += int(delta[0]) - slow
        known[REQUEST_DURATION + 12] += slow


class World:
    """The day.

    Args:
        step_s: between two rounds of the monitors, which are a second apart in a gateway.
        nodes: a letter each; the first one leads.
    """

    def __init__(self, folder: Path, step_s: int, store: Memory | None = None, nodes: str = "ab") -> None:
        self.step_s = step_s
        self.now_s = BEGIN_S
        self.store = store or Memory()
        self.kept: dict[str, Any] = {}
        self.snapshot: Any = None
        self.source_problem = ""
        self._rng = np.random.default_rng(5)
        self._folder = folder
        (folder / "model.onnx").write_bytes(b"a model")
        first = _reference(self._rng, hashlib.sha256(b"a model").hexdigest())
        (folder / FILE_NAME).write_bytes(dumped(first))
        self.reference = regrouped(first, GROUPS)
        self._deltas = {
            variant: [
                _vector(self._rng, self.reference.plan, int(rows * step_s), shift=0.15 * (at >= CALM))
                for at in range(CALM + MOVED)
            ]
            for variant, rows in ROWS_S.items()
        }
        self.nodes = [Node(self, name, "r0", leads=name == nodes[0]) for name in nodes]
        self.events: dict[str, int] = {}
        self.late: list[tuple[LabelNote, int | None]] = []

    # ---- what monitors ask of control ----

    async def in_thread(self, work: Any, *args: object) -> Any:
        return work(*args)

    def set_watched(self, watched: Any, collected: Any) -> None:
        """Workers are told; those of this world know already."""

    # ---- the day ----

    async def begin(self) -> None:
        """Somebody writes a Monitor document."""
        record = MonitorRecord(document={**DOCUMENT, "spec": SPEC}, generation=1, applied_by="day", applied_ms=0)
        await self.store.put(KIND, "m", msgspec.msgpack.encode(record))

    def run(self, until_s: int) -> None:
        """Go on until so many seconds after midnight."""

        async def rounds() -> None:
            if self.now_s == BEGIN_S:
                await self.begin()
            while self.now_s < BEGIN_S + until_s:
                await self._round()
            pending = [one for one in asyncio.all_tasks() if one is not asyncio.current_task()]
            assert not pending

        asyncio.run(rounds())

    async def _round(self) -> None:
        self.now_s += self.step_s
        at = self.now_s - BEGIN_S
        variants = self._people(at)
        for node in self.nodes:
            for variant, version in variants.items():
                self._ask(node, version, variant, at)
        if at % (20 * MINUTE_S) < self.step_s:
            self.nodes[at // (20 * MINUTE_S) % len(self.nodes)].kill_worker()
        if at % (2 * HOUR_S) < self.step_s:
            self.nodes[1] = Node(self, "b", f"r{at}", leads=False)
        await self._labels()
        before = self._open()
        for node in reversed(self.nodes):
            await self._tick(node)
        after = self._open()
        if after != before:
            what = "opened" if after else "closed"
            self.events[what] = self.events.get(what, 0) + 1

    async def _tick(self, node: Node) -> None:
        if self.late:
            lines = [msgspec.json.encode(note) + _tail(before) for note, before in self.late]
            await self.store.stream_append("labels/m", "a", 0, 0, b"\n".join(lines))
            self.late = []
        await node.monitors.tick()

    def _open(self) -> str:
        held = self.nodes[0].monitors.held.get("m")
        incident = held.monitor.ledger.open if held is not None else None
        return incident.id if incident is not None else ""

    def _people(self, at: int) -> dict[str, str]:
        """Who serves what: (variant -> version). A version of each half hour is a canary for twenty minutes of it."""
        half, minute = at // (30 * MINUTE_S), at // MINUTE_S % 30
        version, tried = 2 + half, minute < 20
        variants = {"stable": "1", f"arm-{half % 100}": "1"} | ({"canary": str(version)} if tried else {})
        served = [1, *([version] if minute < 25 else [])]
        models = [
            WantedModel("m", one, f"sha256:{one}", str(self._folder), "model.onnx", ModelConfig()) for one in served
        ]
        self.snapshot = Snapshot(
            1,
            tuple(models),
            {"m": Route(1, tuple(served), {})},
            ready=True,
            states=tuple(ModelState("m", one.version, one.digest, 0, "READY") for one in models),
        )
        record = SimpleNamespace(
            revision=2 * half + tried,
            generation=2 * half + tried,
            variants=[SimpleNamespace(variant=name, version=int(of)) for name, of in variants.items()],
            killed=(),
            stable="stable",
            canary="canary",
            zeroed=False,
            status=SimpleNamespace(phase="RAMPING"),
        )
        policy = SimpleNamespace(spec=SimpleNamespace(kill={}))
        self.kept = {"m": SimpleNamespace(record=record, policy=policy)}
        return variants

    def _ask(self, node: Node, version: str, variant: str, at: int) -> None:
        moved = at // MINUTE_S % 30 < 15 and (variant == "canary" or at // (30 * MINUTE_S) % 10 != 9)
        known = self._deltas[variant.partition("-")[0]]
        delta = known[int(self._rng.integers(CALM)) + CALM * moved]
        node.count(version, variant, self.reference.id, delta, slow=int(delta[0]) // 500)

    async def _labels(self) -> None:
        """Of what stable answered some minutes ago, and some hours: some of them in place of others."""
        self.late = []
        for delay_s, share in ((5 * MINUTE_S, 1.3), (3 * HOUR_S, 0.2)):
            for _ in range(int(share * self.step_s * ROWS_S["stable"] + self._rng.random())):
                place = int(self._rng.integers(LABEL_BINS))
                decision = int(place >= LABEL_BINS // 2)
                label = decision if self._rng.random() < 0.9 else 1 - decision
                before = 1 - label if self._rng.random() < 0.05 else None
                when = self.now_s - delay_s
                group = int(self._rng.integers(len(GROUPS) + 1))
                self.late.append((LabelNote("1", "stable", when, self.now_s, group, decision, place, label), before))


def _tail(before: int | None) -> bytes:
    return b"" if before is None else b"\t" + msgspec.json.encode({"value": before})


def _reference(rng: np.random.Generator, digest: str) -> Reference:
    binding = Binding(digest, (Tensor("x", "FP64", (-1, 3)),), (Tensor("y", "FP64", (-1, 1)),))
    labels = np.zeros((1, 2, SCORE_BINS, 2), np.int64)
    labels[0, 0, : SCORE_BINS // 2], labels[0, 1, SCORE_BINS // 2 :] = (90, 10), (10, 90)
    return identified(Reference(PLAN, _vector(rng, PLAN, 50_000), binding, labels=labels))


def _vector(rng: np.random.Generator, plan: CountPlan, rows: int, *, shift: float = 0.0) -> Counts:
    vector = empty(plan)
    values = np.clip(rng.random((rows, 3)) * (1.0 - shift), 0.0, 1.0)
    scores = rng.random((rows, 1)) ** (1.0 + 2 * shift)
    Counter(plan).count([values], [scores], rng.integers(0, plan.group_count, rows), vector)
    return vector


class Bare(World):
    """The same day without a store: what is saved and sent is left out, as it is most of a round's time."""

    async def begin(self) -> None:
        spec = parse({**DOCUMENT, "spec": SPEC}).spec
        for node in self.nodes[:1]:
            node.monitors.held["m"] = Held(spec, ModelMonitor("m", spec), revision=1)

    async def _tick(self, node: Node) -> None:
        if node is not self.nodes[0]:
            return
        held, now_ms = node.monitors.held["m"], self.now_s * 1000
        held.monitor.watch({str(model.version): self.reference for model in self.snapshot.models})
        held.roles = roles_of(self.kept["m"], self.snapshot.routes["m"], 0.0, known_versions(self.snapshot, "m"))
        served = {("m", version) for version in held.monitor.versions}
        vectors = {
            (one.name, one.run, series): counts
            for one in self.nodes
            for series, counts in settled_totals([one.page], one.finals.page, served).items()
        }
        answers = {
            (one.name, one.run, *place[1:]): buckets_of(values)
            for one in self.nodes
            for place, values in one.answers.items()
        }
        forget(held, [one.name for one in self.nodes], "a", now_ms)
        deltas = taken(held, vectors, "a")
        hear_answers(held, {key: one for key, one in answers.items() if key[2] in held.monitor.versions}, now_ms)
        for note, before in self.late:
            held.monitor.label("1", labelled(note, before, "1"), now_ms)
        outcome = held.monitor.turn(deltas, held.roles, now_ms, token=1)
        if outcome.lease is not None:
            held.acted(outcome.lease)
