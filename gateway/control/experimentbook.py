"""All experiments of this node: kept in the store, fed by reports and rewards, read as reports.

Rewards come through the store's stream `rewards/NAME`, so that every node has those of all; who leads also has what
nodes count, and saves both, by its lease: first the shards that have changed, then the main document with the cursor. A
reward stands under its prediction, so what a crash in between leaves to be read again changes nothing. Who leads no
longer, and has not noticed, writes neither.

An erasure is an entry of the same stream, so that every node applies it after the rewards that came before it, also one
that reads from an old cursor. It is acknowledged once the document of who leads says that it was saved with it.

    document experiment NAME        the study, health, marks, cursor; by compare-and-set
    document rewards NAME/0..15     the rewards of every sixteenth unit
"""

import asyncio
import logging
import os
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from gateway.control.entries import read_entry
from gateway.control.experiments import Live, Marks, report_of
from gateway.control.health import Health
from gateway.control.record import NodeReport, PolicyRecord
from gateway.control.resets import ExperimentData
from gateway.control.rewards import SHARDS, Reward, Rewards
from gateway.control.study import Study, study_of
from gateway.store.base import Fenced, Lease, Stale, Store, StoreAway
from gateway.tally import NOTED_UNIT, ROUTED
from router.policy import TrafficPolicy
from runtimes.errors import ServingError

KIND: Final = "experiment"
REWARDS: Final = "rewards"
TICK_S: Final = 1.0
SAVE_MS: Final = 5_000
"""A crash costs so much of what nodes noted; counts and rewards are read again."""
PER_ENTRY: Final = 300
"""Rewards in one entry of the stream, of at most 64 KiB."""
PATIENCE_S: Final = 10.0
"""For an erasure: whoever leads reads it within a second, another leads after five."""
MOST_ERASED: Final = 1_000
"""Erasures that are remembered; each is saved at once."""
_PAGE: Final = 200
_WAITING: Final = 256
_log: Final = logging.getLogger(__name__)


class UnknownExperiment(ServingError):
    """No policy of this name has or had an experiment."""

    code = "unknown_experiment"


class Erasure(msgspec.Struct, frozen=True):
    """An entry of the stream: nothing of this unit is kept. `mark` is its name."""

    unit: int
    mark: str


class Erased(msgspec.Struct, frozen=True):
    """Of the main document: the marks of the last erasures that it was saved with."""

    erased: tuple[str, ...] = ()


class Saved(msgspec.Struct, frozen=True, kw_only=True):
    """The main document."""

    study: Study
    health: dict[str, Any]
    cursor: int
    missed: int
    doublings: int
    overfull: int
    delays: dict[int, list[int]]
    min_p: dict[str, float]
    history: dict[str, list[list[float]]]
    erased: tuple[str, ...] = ()


class Shard(msgspec.Struct, frozen=True):
    """A sixteenth of the rewards."""

    identity: str
    rows: list[Any]


@dataclass(slots=True)
class Held:
    """One experiment in memory.

    Attributes:
        revision: of the main document, for the next compare-and-set.
        cursor: in the stream; missed: entries that the store dropped before they were read.
        moved: something is to be saved.
        erased: marks of the last erasures.
        whole: no reward was passed over, for the store had dropped it or its epoch was not known here yet.
    """

    study: Study
    rewards: Rewards
    health: Health = field(default_factory=Health)
    marks: Marks = field(default_factory=Marks)
    revision: int = 0
    cursor: int = 0
    missed: int = 0
    moved: bool = True
    erased: tuple[str, ...] = ()
    whole: bool = True
    saved_ms: int = 0

    def holds(self, unit: int) -> bool:
        """Whether there is anything of a unit."""
        return self.rewards.holds(unit) or any(unit in units for units in self.health.seen.values())

    def data(self) -> ExperimentData | None:
        """How much there is; None = nothing."""
        rewards, health = self.rewards, self.health
        requests = sum(counts[ROUTED] for counts in health.counts.values())
        met = len({unit for units in health.seen.values() for unit in units}) << health.doublings
        units = max(met, len(rewards.units()) << rewards.doublings)
        if not (requests or units):
            return None
        return ExperimentData(identity=self.study.identity, rewards=rewards.kept, units=units, requests=requests)

    def take(self, rewards: Sequence[Reward]) -> None:
        """Rewards from the stream."""
        for reward in rewards:
            if reward.epoch in self.study.epochs:
                self.moved |= self.rewards.take(reward)
            else:
                self.whole = False

    def erase(self, erasure: Erasure) -> None:
        """Keep nothing of a unit; that is saved with the next round."""
        self.rewards.forget(erasure.unit)
        for units in self.health.seen.values():
            units.pop(erasure.unit, None)
        self.erased = (*self.erased, erasure.mark)[-MOST_ERASED:]
        self.moved, self.saved_ms = True, 0


def _read_in(body: bytes) -> tuple[Reward, ...] | Erasure:
    return msgspec.msgpack.decode(body, type=tuple[Reward, ...] | Erasure)


class Experiments:
    """The experiments.

    Args:
        lease: by which this node decides, and saves; None = another node leads.
        live: what is known of the traffic of a study now, for display.
        deleted: whether the policy of a name, of which there was one, is not there any more.

    Attributes:
        loaded: the store has been read.
    """

    def __init__(
        self,
        store: Store,
        *,
        now_ms: Callable[[], int],
        lease: Callable[[], Lease | None],
        live: Callable[[Study], Live],
        deleted: Callable[[str], bool],
    ) -> None:
        self.loaded = False
        self._store = store
        self._now_ms = now_ms
        self._lease = lease
        self._live = live
        self._deleted = deleted
        self._held: dict[str, Held] = {}
        self._early: dict[str, tuple[PolicyRecord, TrafficPolicy]] = {}
        self._led_by: Lease | None = None
        self._waiting: deque[tuple[str, NodeReport]] = deque(maxlen=_WAITING)
        self._busy = asyncio.Lock()
        self._ticked = asyncio.Event()

    def study(self, name: str) -> Study | None:
        """The experiment of a policy, also one that has ended."""
        held = self._held.get(name)
        return held.study if held else None

    def names(self) -> list[str]:
        """Policies that have or had one."""
        self._end_deleted()
        return sorted(self._held)

    # ---- what happens ----

    def taken(self, name: str, record: PolicyRecord, policy: TrafficPolicy) -> None:
        """A policy has changed, here or elsewhere."""
        if not self.loaded:
            self._early[name] = (record, policy)
            return
        held = self._held.get(name)
        study = study_of(record, policy, held.study if held else None, self._now_ms())
        if study is None or (held is not None and study is held.study):
            return
        if held is None or held.study.identity != study.identity:
            fresh = Held(study, Rewards(_proportions(study)), revision=held.revision if held else 0)
            fresh.rewards.changed = set(range(SHARDS))
            if held is not None:
                fresh.cursor, fresh.erased = held.cursor, held.erased
            self._held[name] = fresh
        else:
            held.study, held.moved, held.saved_ms = study, True, 0

    def _end_deleted(self) -> None:
        """A policy that is gone names no experiment: also one that went while this node was away."""
        for name, held in self._held.items():
            if not held.study.ended_ms and self._deleted(name):
                held.study = msgspec.structs.replace(held.study, ended_ms=self._now_ms())
                held.moved, held.saved_ms = True, 0

    def heard(self, name: str, report: NodeReport) -> None:
        """The leader hears what a node has counted; what it hears before it has read the store waits for that."""
        if self._led_by is None:
            self._waiting.append((name, report))
            return
        held = self._held.get(name)
        if held is not None and held.health.take(report, held.study):
            held.moved = True

    # ---- the loop ----

    async def run(self) -> None:
        """Read and save for ever. Cancel: what was not saved is read again."""
        while True:
            try:
                await self.tick()
            except ServingError as error:
                _log.warning("experiments_wait", extra={"facts": {"reason": error.message}})
            await asyncio.sleep(TICK_S)

    async def tick(self) -> None:
        """One round: load what there is, read new rewards, save what has changed."""
        async with self._busy:
            if not self.loaded or _token(self._lease()) != _token(self._led_by):
                await self._load()
            self._end_deleted()
            for name, held in list(self._held.items()):
                await self._read(name, held)
                if self._led_by is not None and held.moved and self._now_ms() - held.saved_ms >= SAVE_MS:
                    await self._save(name, held)
        self._ticked.set()
        self._ticked = asyncio.Event()

    async def close(self) -> None:
        """Save once more, where that can be done."""
        try:
            async with self._busy:
                for name, held in self._held.items():
                    if self._led_by is not None and held.moved:
                        await self._save(name, held)
        except ServingError as error:
            _log.warning("experiments_not_saved", extra={"facts": {"reason": error.message}})

    async def _load(self) -> None:
        """Everything from the store; who begins to lead goes on where the leader before was."""
        lease = self._lease()
        for document in await self._store.list(KIND):
            try:
                saved = msgspec.msgpack.decode(document.body, type=Saved)
            except msgspec.DecodeError as error:
                _log.error(
                    "experiment_unreadable", extra={"facts": {"name": document.name, "reason": str(error)[:200]}}
                )
                continue
            await self._restore(document.name, document.revision, saved)
        self.loaded, self._led_by = True, lease
        early, self._early = self._early, {}
        for name, (record, policy) in early.items():
            self.taken(name, record, policy)
        waiting, self._waiting = self._waiting, deque(maxlen=_WAITING)
        for name, report in waiting if lease is not None else ():
            self.heard(name, report)

    async def _restore(self, name: str, revision: int, saved: Saved) -> None:
        held, study = self._held.get(name), saved.study
        if held is not None and held.study.identity != study.identity:
            held.revision = revision
            return
        if held is not None:
            study = msgspec.structs.replace(
                held.study,
                epochs={**study.epochs, **held.study.epochs},
                revisions={**study.revisions, **held.study.revisions},
            )
        if held is None or not held.whole or held.cursor < saved.cursor:
            held = self._held[name] = await self._restored(name, saved)
        # Else what is here in memory is at least as new, but for what only the leader knows.
        held.study, held.revision, held.health = study, revision, Health(saved.health)
        held.marks = Marks(dict(saved.min_p), dict(saved.history))

    async def _restored(self, name: str, saved: Saved) -> Held:
        """What was saved, with its rewards."""
        rewards = Rewards(_proportions(saved.study))
        shards = []
        for number in range(SHARDS):
            document = await self._store.get(REWARDS, f"{name}/{number}")
            shard = msgspec.msgpack.decode(document.body, type=Shard) if document else None
            if shard is not None and shard.identity == saved.study.identity:
                shards.append(shard.rows)
        rewards.restore(shards, saved.doublings, saved.overfull, saved.delays)
        return Held(saved.study, rewards, cursor=saved.cursor, missed=saved.missed, moved=False, erased=saved.erased)

    async def _read(self, name: str, held: Held) -> None:
        """New rewards."""
        while True:
            stream = f"rewards/{name}"
            page = await self._store.stream_read(stream, held.cursor, _PAGE)
            held.missed += page.missed
            held.whole &= not page.missed
            for entry in page.entries:
                found = read_entry(entry, stream, _read_in)
                if isinstance(found, Erasure):
                    held.erase(found)
                else:
                    held.take(found or ())
            held.moved |= bool(page.entries)
            held.cursor = page.cursor
            if len(page.entries) < _PAGE:
                return

    async def _save(self, name: str, held: Held) -> None:
        """Write what has changed; where another node leads by now, what it wrote is read at the next round."""
        held.marks.look(self._report(held))
        changed, held.rewards.changed = held.rewards.changed, set()
        held.moved, held.saved_ms = False, self._now_ms()
        try:
            for number in sorted(changed):
                body = msgspec.msgpack.encode(Shard(held.study.identity, held.rewards.shard(number)))
                await self._store.put(REWARDS, f"{name}/{number}", body, expected=None, fence=self._led_by)
            body = self._encoded(held)
            document = await self._store.put(KIND, name, body, expected=held.revision, fence=self._led_by)
        except (StoreAway, Stale, Fenced) as error:
            held.rewards.changed |= changed
            held.moved, held.saved_ms = True, 0
            if isinstance(error, StoreAway):
                raise
            self._led_by = None
            return
        held.revision = document.revision

    @staticmethod
    def _encoded(held: Held) -> bytes:
        rewards = held.rewards
        saved = Saved(
            study=held.study,
            health=held.health.state(),
            cursor=held.cursor,
            missed=held.missed,
            doublings=rewards.doublings,
            overfull=rewards.overfull,
            delays=rewards.delays,
            min_p=held.marks.min_p,
            history=held.marks.history,
            erased=held.erased,
        )
        return msgspec.msgpack.encode(saved)

    # ---- for others ----

    async def put(self, name: str, rewards: Sequence[Reward], append: Callable[[str, bytes], Any]) -> None:
        """Hand rewards to every node.

        Args:
            append: (stream, body), until it is there.
        """
        for at in range(0, len(rewards), PER_ENTRY):
            await append(f"rewards/{name}", msgspec.msgpack.encode(tuple(rewards[at : at + PER_ENTRY])))

    async def data(self, name: str) -> ExperimentData | None:
        """How much there is of an experiment, as far as nodes have told; None = nothing. Raises StoreAway."""
        async with self._busy:
            if self._led_by is None:
                await self._load()
            held = self._held.get(name)
            if held is None:
                return None
            await self._read(name, held)
            return held.data()

    async def report(self, name: str) -> dict[str, Any]:
        """The report as of now. Raises UnknownExperiment."""
        if name not in self._held:
            raise UnknownExperiment(f"no experiment {name[:128]!r}: no policy of this name has spec.experiment")
        try:
            async with self._busy:
                if self._led_by is None:
                    await self._load()
                await self._read(name, self._held[name])
        except StoreAway as error:
            _log.warning("report_without_store", extra={"facts": {"reason": error.message}})
        self._end_deleted()
        return self._report(self._held[name])

    def _report(self, held: Held) -> dict[str, Any]:
        return report_of(
            held.study,
            held.health,
            held.rewards,
            held.marks,
            live=self._live(held.study),
            missed=held.missed,
            now_ms=self._now_ms(),
        )

    async def forget(
        self, name: str, unit: int, append: Callable[[str, bytes], Any], patience_s: float = PATIENCE_S
    ) -> bool:
        """Erase a unit's rewards and requests, on every node and in what is saved; whether any were known here.

        Args:
            unit: all 64 bits of its keyed hash.
            append: as in `put`.

        Raises:
            StoreAway: nobody has saved it in time. It is in the stream, or nowhere; asking again is harmless.
        """
        erasure = Erasure(unit & NOTED_UNIT, os.urandom(8).hex())
        async with self._busy:
            if self._led_by is None or name not in self._held:
                await self._load()  # another node may have begun it
            held = self._held.get(name)
            if held is None:
                await self._check_unknown(name)
                return False
            await self._read(name, held)
            known = held.holds(erasure.unit)
            await append(f"rewards/{name}", msgspec.msgpack.encode(erasure))
            await self._read(name, held)
            if self._led_by is not None:
                await self._save(name, held)
        await self._until_saved(name, erasure, patience_s)
        return known

    async def _check_unknown(self, name: str) -> None:
        """Raises StoreAway: there is something that this node cannot read."""
        if await self._store.get(KIND, name) is not None:
            raise StoreAway("this node cannot read what is saved of the experiment: ask another")

    async def _until_saved(self, name: str, erasure: Erasure, patience_s: float) -> None:
        try:
            async with asyncio.timeout(patience_s):
                while True:
                    document = await self._store.get(KIND, name)
                    if document and erasure.mark in msgspec.msgpack.decode(document.body, type=Erased).erased:
                        return
                    await self._ticked.wait()
        except TimeoutError as error:
            raise StoreAway("no node that leads has saved the erasure yet: ask again") from error


def _token(lease: Lease | None) -> int:
    return 0 if lease is None else lease.token


def _proportions(study: Study) -> frozenset[str]:
    return frozenset(goal.name for goal in study.goals if goal.type == "proportion")
