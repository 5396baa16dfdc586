"""All monitors of this node: fed by workers, other nodes and feedback, kept in the store, acted on by who leads.

every second   documents and references -> what workers count -> totals of this node
who leads      + totals of other nodes + labels -> a turn of each model's monitor -> saved -> told
the others     send their totals through the store's stream `drift/MODEL`

document monitor MODEL         what a person wrote
document monitor-first MODEL   references from first rows: see `gateway.control.firstreferences`
document monitor-state MODEL   windows, incidents, leases, and the totals that are in them: one compare-and-set,
                               so that a control that is killed counts nothing twice and nothing not at all
"""

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from typing import Final

import msgspec

from gateway.control import monitorheard as heard
from gateway.control.counts import Totals as Served
from gateway.control.documents import UnknownPolicy
from gateway.control.firstreferences import FirstReferences
from gateway.control.messages import WantedModel, Watched
from gateway.control.monitordead import UNREADABLE
from gateway.control.monitorheld import Held, MonitorRecord, encoded_state, in_words, restore_state
from gateway.control.monitorinputs import Answers, Series, buckets_of, settled_totals, split, watched
from gateway.control.monitorroles import drift_of, known_versions, roles_of
from gateway.control.monitortold import Told
from gateway.control.plans import NOTHING_KNOWN, Drift
from gateway.control.policies import Policies
from gateway.control.references import References
from gateway.control.service import Service
from gateway.counters import CounterPage
from gateway.monitor.book import ModelMonitor, Roles
from gateway.monitor.counting import Counts
from gateway.monitor.leases import Lease as Granted
from gateway.monitor.reference import Reference
from gateway.monitor.settings import Spec, parse
from gateway.store.base import Fenced, Lease, Stale, Store, StoreAway
from runtimes.errors import ServingError

KIND: Final = "monitor"
STATE: Final = "monitor-state"
TICK_S: Final = 1.0
START_S: Final = 0.05
"""Until there are models, a while: labels of what is served wait for the first look."""
EARLY: Final = 100
SAVE_MS: Final = 5_000
FINISH_S: Final = 2.0
PAGE: Final = 200
_log: Final = logging.getLogger(__name__)


class Monitors:
    """The monitors.

    Args:
        node, run: this node, and this start of its process tree.
        lease: that of the rollouts; None = another node leads.
        told: those who are told of incidents.
        silent_ms: for how long a node that lives has told nothing; 0 = all are heard.
        served: the node's totals of answers.

    Attributes:
        loaded: documents have been read: what people want is known.
        firsts: references from first rows.
    """

    def __init__(
        self,
        store: Store,
        service: Service,
        policies: Policies,
        *,
        node: str,
        run: str,
        pages: Callable[[], tuple[Mapping[str, CounterPage], CounterPage]],
        served: Callable[[], Served],
        lease: Callable[[], Lease | None],
        told: Told,
        now_ms: Callable[[], int],
        silent_ms: Callable[[], int] = lambda: 0,
    ) -> None:
        self.held: dict[str, Held] = {}
        self.loaded = False
        self.away = ""
        self.told = told
        self.firsts = FirstReferences(store, now_ms=now_ms)
        self._store = store
        self._service = service
        self._policies = policies
        self._node, self._run = node, run
        self._pages = pages
        self._served = served
        self._lease = lease
        self._now_ms, self._silent_ms = now_ms, silent_ms
        self._references = References()
        self._sequence = 0
        self._epoch = now_ms()
        self._led = self._speaks = False
        self._seen: set[str] = set()
        self._failed: dict[str, str] = {}
        self._failed_before: Mapping[str, str] = {}
        self._sent: dict[Series, int] = {}
        self._sent_answers: dict[tuple[str, str, str], list[int]] = {}
        self._busy = asyncio.Lock()

    # ---- the loop ----

    async def run(self) -> None:
        """Tick for ever. Cancel: what was not saved is counted again."""
        early = 0
        while True:
            try:
                await self.tick()
            except ServingError as error:
                _log.warning("monitors_wait", extra={"facts": {"reason": error.message}})
            early += 1
            await asyncio.sleep(START_S if not self._seen and early < EARLY else TICK_S)

    async def finish(self) -> None:
        """The last round of this process tree, whose counts go with it: everything is saved. Never raises."""
        for held in self.held.values():
            held.saved_ms = 0
        try:
            async with asyncio.timeout(FINISH_S):
                await self.tick()
        except (ServingError, TimeoutError) as error:
            _log.warning("monitors_not_saved", extra={"facts": {"reason": str(error)[:200]}})

    async def tick(self) -> None:
        """One round."""
        async with self._busy:
            self._failed, self._failed_before = {}, self._failed
            await self._documents()
            if not self.loaded:
                return  # By the defaults workers might count other groups: they go on as the last control told them.
            living, finals = self._pages()
            # Before workers count a version that has come back: what was forgotten of it goes on from here.
            served = {(one.name, str(one.version)) for one in self._service.snapshot.models}
            totals = settled_totals(living.values(), finals, served)
            await self._watch()
            leads = self._lease() is not None
            if leads and not self._led:
                await self._take_over()
            if self._speaks and not leads:
                self.told.fall_silent()
            self._led = self._speaks = leads
            answers = {place: buckets_of(values) for place, values in self._served().models.items()}
            for name, held in list(self.held.items()):
                mine = {series: counts for series, counts in totals.items() if series.model == name}
                spoken = {place[1:]: buckets for place, buckets in answers.items() if place[0] == name}
                spoken = {place: buckets for place, buckets in spoken.items() if place[0] in held.monitor.versions}
                held.monitor.silent_s = self._silent_ms() / 1000
                with self._apart(name):
                    await (self._lead(name, held, mine, spoken) if leads else self._send(name, held, mine, spoken))
            for name, held in self.held.items():
                held.failed = self._failed.get(name, "")

    @contextmanager
    def _apart(self, name: str) -> Iterator[None]:
        """One model's monitor must not end that of the others, nor control with its rollouts."""
        try:
            yield
        except ServingError:
            raise
        except Exception as error:
            why = self._failed[name] = in_words(error)
            if self._failed_before.get(name) != why:
                _log.exception("monitor_failed", extra={"facts": {"model": name, "reason": why}})

    # ---- documents and references ----

    async def _documents(self) -> None:
        """What people wrote; while the store is away, what is known goes on."""
        try:
            found = {document.name: document for document in await self._store.list(KIND)}
        except StoreAway as error:
            self.away = error.message
            return
        self.away, self.loaded = "", True
        for name, document in found.items():
            held = self.held.get(name)
            if held is not None and held.revision == document.revision:
                continue
            try:
                record = msgspec.msgpack.decode(document.body, type=MonitorRecord)
                spec = parse(record.document).spec
            except (msgspec.MsgspecError, ValueError) as error:
                _log.error("monitor_unreadable", extra={"facts": {"name": name, "reason": str(error)[:200]}})
                continue
            with self._apart(name):
                self._put(name, spec, document.revision, record)
        for name, held in self.held.items():
            if held.revision and name not in found:
                self._put(name, Spec(), 0, None)

    def _put(self, name: str, spec: Spec, revision: int, record: MonitorRecord | None) -> None:
        """Other settings for a model: what was seen stays, and is judged by them from now on."""
        held = self.held.get(name)
        generation = record.generation if record is not None else 0
        if held is None:
            self.held[name] = Held(spec, ModelMonitor(name, spec), revision, generation, record)
            return
        held.revision, held.generation, held.record = revision, generation, record
        if spec == held.spec:
            return
        before = held.monitor
        held.spec, held.monitor = spec, ModelMonitor(name, spec)
        held.monitor.watch({version: one.reference for version, one in before.versions.items()})
        held.monitor.restore(before.state())
        held.moved, held.saved_ms = True, 0

    async def _watch(self) -> None:
        """Find references; let workers count what has one."""
        wanted: list[Watched] = []
        by_name: dict[str, list[WantedModel]] = {}
        for model in self._service.snapshot.models:
            if model.digest:
                by_name.setdefault(model.name, []).append(model)
        for name, mine in by_name.items():
            with self._apart(name):
                wanted += await self._watch_one(name, mine)
        self._references.settle()
        for name in set(self.held) - set(by_name):
            self._let_go(name, self.held[name])
        self._seen |= set(by_name)
        wanted.sort(key=lambda one: (one.name, one.version))
        self._service.set_watched(tuple(wanted), self.firsts.collected())

    async def _watch_one(self, name: str, mine: Sequence[WantedModel]) -> list[Watched]:
        """The same of one model. Args: mine: its versions."""
        held = self.held.get(name)
        spec = held.spec if held is not None else Spec()
        found = {one.version: await self._reference(one, spec) for one in mine}
        references = {str(version): one for version, (one, _) in found.items() if one is not None}
        if held is None and not references and not any(problem for _, problem in found.values()):
            return []
        if held is None:
            held = self.held[name] = Held(spec, ModelMonitor(name, spec))
            held.monitor.watch(references)
            if self._led:
                await self._restore(name, held)
                held.monitor.restarted()
        held.monitor.watch(references)
        held.first = self.firsts.progress(name)
        self._note_problems(name, held, {str(version): problem for version, (_, problem) in found.items()})
        return [watched(one, references[str(one.version)], spec) for one in mine if str(one.version) in references]

    def _let_go(self, name: str, held: Held) -> None:
        """A model is not served: it is forgotten, once saved, if nobody wrote it a document and nothing alarms."""
        held.monitor.watch({})
        held.problems, held.first, held.fresh_ms = {}, {}, 0
        if held.revision or (self._led and (held.moved or held.monitor.ledger.open is not None)):
            return
        del self.held[name]
        self.told.forget(name)
        self._sent = {series: rows for series, rows in self._sent.items() if series.model != name}
        self._sent_answers = {key: buckets for key, buckets in self._sent_answers.items() if key[0] != name}

    async def _reference(self, model: WantedModel, spec: Spec) -> tuple[Reference | None, str]:
        """A version's own, or else, where that is asked for, one from the first rows. See `References.find`."""
        found: tuple[Reference | None, str] = await self._service.in_thread(self._references.find, model, spec)
        if found != (None, "") or spec.reference.first is None:
            return found
        return await self.firsts.find(model, spec)

    @staticmethod
    def _note_problems(name: str, held: Held, found: dict[str, str]) -> None:
        for version, problem in found.items():
            if problem and held.problems.get(version) != problem:
                facts = {"model": name, "version": version, "reason": problem}
                _log.error("monitor_reference_refused", extra={"facts": facts})
        held.problems = found

    # ---- leading ----

    async def _take_over(self) -> None:
        """This node begins to lead: go on where the one before was."""
        for document in await self._store.list(STATE):
            # A model that is served no more may have an incident that is to be closed.
            self.held.setdefault(document.name, Held(Spec(), ModelMonitor(document.name, Spec())))
        for name, held in self.held.items():
            with self._apart(name):
                await self._restore(name, held)
                held.monitor.restarted()
                held.fresh_ms = 0

    async def _restore(self, name: str, held: Held) -> None:
        document = await self._store.get(STATE, name)
        if document is None:
            held.state_revision = 0
            return
        held.state_revision = document.revision
        problem = restore_state(held, document.body)
        if problem:
            # Counting anew is better than not counting; the incident, if there was one, opens again.
            _log.error("monitor_state_unreadable", extra={"facts": {"name": name, "reason": problem}})

    async def _lead(
        self,
        name: str,
        held: Held,
        mine: Mapping[Series, Counts],
        spoken: Mapping[tuple[str, str], list[int]],
    ) -> None:
        now_ms = self._now_ms()
        lease = self._lease()
        held.roles = self._roles(name, held, now_ms)
        vectors = {(self._node, self._run, series): counts for series, counts in mine.items()}
        answers = {(self._node, self._run, *place): buckets for place, buckets in spoken.items()}
        try:
            await self._others(name, held, vectors, answers)
            await self._labels(name, held, now_ms)
        except StoreAway as error:
            self.away = error.message
        heard.forget(held, (*(key[0] for key in vectors), *(key[0] for key in answers)), self._node, now_ms)
        deltas = heard.taken(held, vectors, self._node)
        heard.hear_answers(held, answers, now_ms)
        outcome = held.turn(deltas, now_ms, lease.token if lease else 0)
        held.moved = held.monitor.begin(now_ms) or held.moved or bool(deltas) or bool(outcome.findings)
        if deltas or (held.monitor.versions and not held.fresh_ms):
            held.fresh_ms = now_ms  # the clock runs from the first look on: counts that never come are late, too
        held.notes.take(outcome.events, held.monitor)
        granted = outcome.lease if outcome.lease is not None and outcome.lease.granted_s == now_ms / 1000 else None
        due = bool(outcome.closed or outcome.events or granted or held.notes.unwritten)
        due = due or (held.moved and now_ms - held.saved_ms >= SAVE_MS)
        if due and not await self._save(name, held, granted, lease):
            return
        if granted is not None:
            held.acted(granted)
        self.told.tell(held, outcome)
        self.told.retrain(held.monitor, outcome, self.delivered)

    def delivered(self, name: str, key: str, ok: bool, note: str) -> None:
        """What came of a delivery, told to the monitor in force: a document may have come meanwhile."""
        held = self.held.get(name)
        if held is not None:
            held.monitor.delivered(key, ok=ok, note=note, now_s=self._now_ms() / 1000)
            self.moved(name)

    def moved(self, name: str) -> None:
        """Something was decided between turns: it is saved with the next one."""
        held = self.held.get(name)
        if held is not None:
            held.moved, held.saved_ms = True, 0

    def _roles(self, name: str, held: Held, now_ms: int) -> Roles:
        kept = self._policies.kept.get(name)
        state = next((one for one in self._service.snapshot.policies if one.name == name), None)
        if kept is not None and state is not None and state.variants != kept.record.variants and held.routing >= 0:
            # The document waits for its stable version; what answered before goes on, without a canary.
            return msgspec.structs.replace(held.roles, canary=None)
        routing = kept.record.revision if kept is not None else 0
        changed_s = held.roles.changed_s if routing == held.routing else now_ms / 1000
        held.routing = routing
        snapshot = self._service.snapshot
        # A repository that cannot be read takes no model away.
        versions = None if self._service.source_problem else known_versions(snapshot, name)
        return roles_of(kept, snapshot.routes.get(name), changed_s, versions)

    async def _others(
        self,
        name: str,
        held: Held,
        vectors: dict[tuple[str, str, Series], Counts],
        answers: dict[tuple[str, str, str, str], list[int]],
    ) -> None:
        """What other nodes say, added to what is to be taken."""
        while True:
            page = await self._store.stream_read(f"drift/{name}", held.cursor, PAGE)
            held.cursor, held.missed = page.cursor, held.missed + page.missed
            for entry in page.entries:
                if entry.replica == self._node:
                    continue
                try:
                    heard.hear(name, held, entry.body, vectors, answers)
                except UNREADABLE as error:
                    heard.unreadable(held, name, "drift", entry, error, self._now_ms())
            if len(page.entries) < PAGE:
                return

    async def _save(self, name: str, held: Held, granted: Granted | None, lease: Lease | None) -> bool:
        """Write everything in one step; False = another node leads by now. Args: granted: in this turn."""
        audit, notes = held.notes.written(granted, held.monitor)
        try:
            document = await self._store.put(
                STATE, name, encoded_state(held, notes), expected=held.state_revision, audit=audit, fence=lease
            )
        except (Stale, Fenced) as error:
            _log.warning("monitor_write_lost", extra={"facts": {"model": name, "reason": error.message}})
            self._led = False  # what the other wrote is read before anything more is counted
            return False
        except StoreAway as error:
            self.away = error.message
            if granted is not None:
                held.notes.wait(granted, held.monitor)
            return True
        except ValueError as error:
            _log.error("monitor_state_too_large", extra={"facts": {"model": name, "reason": str(error)[:200]}})
            await held.audit_alone(self._store, audit, notes)
            return True
        held.state_revision, held.saved_ms, held.moved = document.revision, self._now_ms(), False
        held.notes = notes
        return True

    # ---- following ----

    async def _append(self, stream: str, body: bytes) -> None:
        self._sequence += 1
        await self._store.stream_append(stream, self._node, self._epoch, self._sequence, body)

    async def _send(
        self, name: str, held: Held, mine: Mapping[Series, Counts], spoken: Mapping[tuple[str, str], list[int]]
    ) -> None:
        """Tell who leads what has grown here."""
        known = {series: counts for series, counts in mine.items() if held.knows(series)}
        # One that comes back is told of at once, so that who leads knows where it goes on from.
        self._sent = {series: rows for series, rows in self._sent.items() if series.model != name or series in known}
        for series, counts in known.items():
            if self._sent.get(series) == heard.told_rows(counts):
                continue
            for part in split(self._node, self._run, series, counts):
                await self._append(f"drift/{name}", msgspec.msgpack.encode(part))
            self._sent[series] = heard.told_rows(counts)
        sent = self._sent_answers
        self._sent_answers = {key: buckets for key, buckets in sent.items() if key[0] != name or key[1:] in spoken}
        for (version, variant), buckets in spoken.items():
            if self._sent_answers.get((name, version, variant)) != buckets:
                body = msgspec.msgpack.encode(Answers(self._node, self._run, version, variant, buckets))
                await self._append(f"drift/{name}", body)
                self._sent_answers[name, version, variant] = buckets

    # ---- labels ----

    def watches(self, name: str) -> bool | None:
        """Whether labels of this model's predictions are wanted; None = it is served and was not looked at yet."""
        if name in self.held or name in self._seen:
            return name in self.held
        return None if any(model.name == name for model in self._service.snapshot.models) else False

    async def _labels(self, name: str, held: Held, now_ms: int) -> None:
        served = [model for model in self._service.snapshot.models if model.name == name]
        versions = {model.digest.removeprefix("sha256:"): str(model.version) for model in served}
        while versions:  # before models are known nobody's labels are passed over
            page = await self._store.stream_read(f"labels/{name}", held.labels_cursor, PAGE)
            heard.hear_labels(name, held, page, versions, now_ms)
            if len(page.entries) < PAGE:
                return

    # ---- for others ----

    def get(self, name: str) -> Held:
        """One model's. Raises UnknownPolicy."""
        held = self.held.get(name)
        if held is None:
            raise UnknownPolicy(f"no monitor of {name[:128]!r}: no version of it has a reference, and nobody wrote one")
        return held

    async def shown(self, name: str) -> Held:
        """One model's as people see it: where another node judges, as that one has saved it, `SAVE_MS` ago at most.

        Raises UnknownPolicy.
        """
        held = self.get(name)
        if self._led:
            return held
        shown = copy(held)
        try:
            await self._restore(name, shown)
        except StoreAway:
            return held
        shown.roles = self._roles(name, shown, self._now_ms())
        shown.monitor.silent_s = self._silent_ms() / 1000
        return shown

    def drift(self, name: str) -> Drift:
        """What this monitor says of a rollout's canary, to who carries the rollout on."""
        held = self.held.get(name)
        if held is None or not self._led:
            return NOTHING_KNOWN
        return drift_of(held.monitor, held.roles, self._now_ms() / 1000)

    def features(self) -> dict[str, list[str]]:
        """Names of each model's features, in the order of its newest plan: those that get series of their own."""
        return {
            name: [feature.name for feature in list(held.monitor.versions.values())[-1].reference.plan.features]
            for name, held in self.held.items()
            if held.monitor.versions
        }

    @property
    def leads(self) -> bool:
        """Whether this node judges."""
        return self._led
