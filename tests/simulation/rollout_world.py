"""A seeded world around the rollout machine: two controllers, a store with compare-and-set, workers that lag and die.

Events come in any order: a controller reads, and writes later; in between anybody else may have written. A controller
may lose its lease and not know, start anew, or go on from its own disk. The truth about the canary is hidden: its
guardrail trips or passes after so much time under traffic.
"""

import random
from dataclasses import dataclass, field, replace

import msgspec

from router.rollout.actions import (
    Action,
    Answer,
    Audit,
    ClearLocalZeros,
    Promote,
    SetShadow,
    SetWeight,
    Withhold,
    Zero,
    ZeroHere,
)
from router.rollout.observed import Command, CommandKind, LocalZero, MonitorLease, Observed, Verdict
from router.rollout.spec import RolloutSpec
from router.rollout.status import RolloutStatus, decode, encode, recover
from tests.rollout.laws import Laws, Tick, tick
from tests.rollout.tower import MINUTE, RELEASE, SECOND, a_spec, shadow, step

STEPS = (
    shadow(10, min_samples=5),
    step(1, min_units=3, min_duration_ms=3 * SECOND),
    step(20, min_units=3, min_duration_ms=2 * SECOND, approval=RELEASE),
    step(60, min_units=3),
)
DISTURBANCES = (
    "store",
    "lease",
    "restart",
    "worker",
    "zero",
    "clock",
    "signal",
    "window",
    "monitor",
    "person",
    "person",
)


@dataclass(frozen=True)
class Document:
    """What the store holds of one model name."""

    revision: int = 1
    status: bytes = field(default_factory=lambda: encode(RolloutStatus()))
    slots: int = 0
    shadow_slots: int = 0
    canary: str = ""
    stable: str = "sha256:aa"
    withheld: bool = False


class Stale(Exception):
    """Somebody else has written."""


@dataclass
class Store:
    """One document, its revisions and its audit."""

    document: Document = field(default_factory=Document)
    audit: list[Audit] = field(default_factory=list)
    writers: dict[int, str] = field(default_factory=dict)
    away: bool = False
    lost_races: int = 0

    def put(self, writer: str, expected: int, document: Document, records: list[Audit]) -> None:
        if expected != self.document.revision:
            self.lost_races += 1
            raise Stale
        assert document.revision not in self.writers, "two writers for one revision"
        self.document = document
        self.writers[document.revision] = writer
        self.audit += records


@dataclass
class Worker:
    """Routes by the last document that it has applied. Reports only while it lives."""

    name: str
    applied: Document
    alive: bool = True
    zeroed: bool = False


@dataclass
class Controller:
    """Reads, decides, and writes at a later event. `disk` is what it last applied or latched."""

    name: str
    token: int
    disk: RolloutStatus = field(default_factory=RolloutStatus)
    pending: tuple[Tick, Document] | None = None
    fresh: bool = True


class World:
    """Everything of one seed."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.store = Store()
        self.now_ms = 1_000_000
        self.next_token = 1
        self.workers = [Worker(f"w{n}", self.store.document) for n in range(3)]
        self.controllers = [Controller("a", 1), Controller("b", 0)]
        self.holder = 0
        self.next_token = 2
        self.spec: RolloutSpec | None = self._a_spec("sha256:bb")
        self.bad = {digest: self.rng.random() < 0.5 for digest in ("sha256:bb", "sha256:cc", "sha256:dd")}
        self.exposed_ms = dict.fromkeys(self.bad, 0)
        self.laws = Laws()
        self.commands: list[Command] = []
        self.number = 0
        self.signal = False
        self.accused = False
        self.monitor: MonitorLease | None = None
        self.window_open = True
        self.committed = 0

    def _a_spec(self, canary: str) -> RolloutSpec:
        return a_spec(
            canary_digest=canary,
            stable_digest=self.store.document.stable,
            steps=STEPS,
            four_eyes=True,
            max_duration_ms=self.rng.choice([5, 10_000]) * MINUTE,
            on_timeout=self.rng.choice(["hold", "promote", "rollback"]),
        )

    @property
    def status(self) -> RolloutStatus:
        """As it is stored."""
        return decode(self.store.document.status)

    # ---- one turn of the world ----

    def run(self, turns: int, trouble: float) -> "World":
        for _ in range(turns):
            self.now_ms += self.rng.randrange(100, 1_500)
            self._monitor()
            self._workers(trouble)
            if self.rng.random() < trouble:
                self._disturb()
            for controller in self.rng.sample(self.controllers, 2):
                self._control(controller, trouble)
            self.check()
        return self

    def calm(self) -> "World":
        """No more trouble, a person who agrees, until nothing moves any more."""
        self.store.away, self.signal, self.accused, self.window_open = False, False, False, True
        for worker in self.workers:
            worker.alive = True
        for _ in range(200):
            status = self.status
            held = status.paused or "timeout" in status.holding or any(worker.zeroed for worker in self.workers)
            if not self.commands and (held or status.phase == "DECIDING"):
                self._say("resume" if held else "approve")
            self.run(1, 0.0)
        return self

    def _monitor(self) -> None:
        """Its lease is extended while it accuses the canary, and ends by itself."""
        until_ms = self.now_ms + 10 * SECOND
        if self.monitor is not None and self.now_ms >= self.monitor.until_ms:
            self.monitor = None
        if self.accused and self.monitor is None:
            self.monitor = MonitorLease(
                do="fallback", reason="slow.", evidence="e/1", granted_ms=self.now_ms, until_ms=until_ms
            )
        elif self.accused and self.monitor is not None:
            self.monitor = msgspec.structs.replace(self.monitor, until_ms=until_ms)

    def _workers(self, trouble: float) -> None:
        newest = self.store.document
        for worker in self.workers:
            if not worker.alive and self.rng.random() < 0.3:
                worker.alive, worker.applied, worker.zeroed = True, newest, False
            if worker.alive and self.rng.random() > trouble * 2:
                worker.applied = newest
            canary = worker.applied.canary
            answers = worker.alive and not worker.zeroed and not worker.applied.withheld
            if answers and canary in self.exposed_ms and worker.applied.slots:
                self.exposed_ms[canary] += 400

    def _disturb(self) -> None:
        match self.rng.choice(DISTURBANCES):
            case "store":
                self.store.away = not self.store.away
            case "lease":
                self._lease(1 - self.holder)
            case "restart":
                self._restart(self.controllers[self.holder])
            case "worker":
                self.rng.choice(self.workers).alive = False
            case "zero":
                self.rng.choice(self.workers).zeroed = True
            case "clock":
                self.now_ms += self.rng.choice([-60, 30, 600]) * SECOND
            case "signal":
                self.signal = not self.signal
            case "monitor":
                self.accused = not self.accused
            case "window":
                self.window_open = not self.window_open
            case _:
                self._person()

    def _person(self) -> None:
        if self.rng.random() < 0.25:
            self.spec = self.rng.choice([self._a_spec("sha256:bb"), self._a_spec("sha256:cc"), None])
            return
        kinds: list[CommandKind] = ["approve", "approve", "approve", "pause", "resume", "resume", "abort", "retry"]
        self._say(self.rng.choice(kinds))

    def _say(self, kind: CommandKind) -> None:
        self.number += 1
        actor = "ann" if self.rng.random() < 0.8 or not self.commands else "zoe"
        self.commands.append(
            Command(id=str(self.number), kind=kind, actor=actor, labels=("release",), reason="because")
        )

    def _lease(self, to: int) -> None:
        """The old holder is not told."""
        self.holder = to
        self._restart(self.controllers[to])

    def _restart(self, controller: Controller) -> None:
        controller.token, controller.pending = self.next_token, None
        self.next_token += 1

    # ---- controllers ----

    def _control(self, controller: Controller, trouble: float) -> None:
        """A read, or the write that belongs to the read before; the one without the lease wakes up seldom."""
        if controller.token == 0 or (controller is not self.controllers[self.holder] and self.rng.random() > 0.3):
            return
        if controller.pending is None:
            self._read(controller, trouble)
        if self.rng.random() > trouble:
            self._write(controller)

    def _read(self, controller: Controller, trouble: float) -> None:
        document = self.store.document
        status = decode(document.status)
        if self.store.away and controller.disk.revision >= status.revision:
            status = controller.disk
        else:
            status = recover(status, controller.disk)
        one = tick(self.spec, status, self._seen(controller, status, document, trouble), self.now_ms)
        controller.pending = (one, document)

    def _seen(self, controller: Controller, status: RolloutStatus, document: Document, trouble: float) -> Observed:
        live = [worker for worker in self.workers if worker.alive]
        digest = status.canary_digest
        exposed_ms = self.exposed_ms.get(digest, 0)
        bad = self.bad.get(digest, False)
        verdict = Verdict(
            tripped=bad and exposed_ms > 6_000,
            passes=not bad and exposed_ms > 6_000,
            detectable_ratio=2.0,
            insufficient=status.phase == "PREPARING",
        )
        names = [one.name for one in self.spec.guardrails] if self.spec else []
        return Observed(
            token=controller.token,
            revision=document.revision,
            store=not self.store.away,
            fresh=len(live) == len(self.workers) and self.rng.random() > trouble / 2,
            acked_revision=min((worker.applied.revision for worker in live), default=0),
            lagging=tuple(one.name for one in live if one.applied.revision < status.awaits_revision),
            identity=status.identity,
            visit=status.visit,
            verdicts=dict.fromkeys(names, verdict),
            canary_units=10,
            stable_units=10,
            samples=10,
            expected_canary=20,
            seen_canary=20,
            signals=("queue_wait",) if self.signal else (),
            monitor=self.monitor,
            canary_ready=bool(live),
            zeroed=tuple(LocalZero(one.name, "failures") for one in live if one.zeroed),
            window_open=self.window_open,
            applied_by="zoe",
            commands=tuple(self.commands),
            cursors={f"{one.name}/1": one.applied.revision for one in live},
            evidence=str(exposed_ms),
        )

    def _write(self, controller: Controller) -> None:
        assert controller.pending is not None
        one, document = controller.pending
        controller.pending = None
        if not one.observed.store:
            # Nothing to write to: what was decided stays on this node's disk.
            self.laws.check(one)
            controller.disk = one.after
            self._act(one.actions)
            return
        if self.store.away or one.observed.token < one.before.token:
            assert self.store.away or one.actions == []
            return
        try:
            self.store.put(controller.name, document.revision, _routed(document, one), _records(one.actions))
        except Stale:
            return
        self.committed += 1
        self.laws.check(one)
        controller.disk = one.after
        self._act(one.actions)

    def _act(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Answer):
                self.commands = [one for one in self.commands if one.id != action.command]
            if isinstance(action, ClearLocalZeros):
                for worker in self.workers:
                    worker.zeroed = worker.zeroed and worker.name not in action.workers
            if isinstance(action, ZeroHere):
                for worker in self.workers:
                    worker.zeroed = True

    # ---- what must be true of the whole ----

    def check(self) -> None:
        document, status = self.store.document, self.status
        assert document.slots == (0 if status.phase == "IDLE" else status.slots)
        assert document.withheld == (status.fallback is not None)
        if status.latched:
            assert document.slots == document.shadow_slots == 0
        live = [worker for worker in self.workers if worker.alive]
        if status.phase == "ROLLED_BACK":
            for worker in live:
                assert worker.applied.slots == worker.applied.shadow_slots == 0, f"{worker.name} still routes to it"
        latched = {latch.canary_digest for latch in status.latches if latch.identity == status.identity}
        assert not (document.slots and document.canary in latched)

    def check_audit(self) -> None:
        """The records tell of each weight there ever was, without a gap."""
        slots = 0
        for record in self.store.audit:
            if record.what == "step" and record.slots_before == 0:
                slots = 0
            assert record.slots_before == slots or record.what in ("superseded", "retry"), record
            slots = record.slots_after if record.what != "promoted" else 0


def _routed(document: Document, one: Tick) -> Document:
    slots, shadow_slots, stable = one.after.slots, one.after.shadow_slots, document.stable
    written = [
        action for action in one.actions if isinstance(action, SetWeight | SetShadow | Zero | Withhold | Promote)
    ]
    withheld = one.after.fallback is not None
    if withheld != document.withheld:
        assert written or not slots, "routing changed without an action"
    if (slots, shadow_slots) != (document.slots, document.shadow_slots):
        begins = one.before.phase == "PROMOTED" and slots == 0
        assert written or begins, "routing changed without an action"
    for action in written:
        if isinstance(action, Promote):
            stable = action.digest
    slots = 0 if one.after.phase == "IDLE" else slots
    return replace(
        document,
        revision=document.revision + 1,
        status=encode(one.after),
        slots=slots,
        shadow_slots=shadow_slots,
        canary=one.after.canary_digest,
        stable=stable,
        withheld=withheld,
    )


def _records(actions: list[Action]) -> list[Audit]:
    return [action for action in actions if isinstance(action, Audit)]
