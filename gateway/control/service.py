"""The deciding process: hears workers, looks at the repository, publishes snapshots, answers calls.

A thin async shell: `reconcile` decides, `catalogue` knows the repository. Calls a worker may make are the methods
named `call_*`; each answers what no worker can answer alone.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from gateway.control import reconcile
from gateway.control.catalogue import EVERYTHING, Catalogue
from gateway.control.counts import Totals
from gateway.control.facts import Worker, dangling, index_facts, state_facts, worker_facts
from gateway.control.link import ControlAway, ControlEnd
from gateway.control.messages import Beat, Collected, Hello, Hint, Snapshot, Status, WantedModel, Watched
from gateway.control.policies import Policies
from gateway.control.quarantine import Quarantine, withhold
from gateway.control.statistics import statistics
from gateway.keys import KeyFacts
from runtimes.errors import Conflict, Forbidden, LoadFailed, UnknownModel
from runtimes.registry.aliases import write_alias
from runtimes.registry.directory import SeenModel, SourceAway
from runtimes.registry.names import ALIAS_RULE, is_alias, is_name

LOAD_TIMEOUT_S: Final = 600.0
"""A load, from the call to the last worker's word."""
_log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Settings:
    """What control has to know of the configuration."""

    control_mode: str
    repository: str
    poll_interval_s: float
    quiet_period_s: float
    allow_degraded_start: bool
    workers: int


class Service:
    """Control's state and what happens to it. Every method runs on the loop.

    Args:
        totals: reads the node's counts now.
        metrics_page: the metrics page of these totals, states and workers.
        remember: keeps what a control that comes after this one must know.
        quarantine: of versions that kill workers.
        restored: the snapshot of the control before this one; None at the first start.
    """

    def __init__(
        self,
        settings: Settings,
        catalogue: Catalogue,
        *,
        totals: Callable[[], Totals],
        metrics_page: Callable[["Service"], bytes],
        remember: Callable[["Service"], None],
        quarantine: Quarantine,
        restored: Snapshot | None = None,
    ) -> None:
        self.settings = settings
        self.catalogue = catalogue
        self.snapshot = restored or Snapshot(0, (), {}, False)
        self.workers: dict[str, Worker] = {}
        self.totals = totals
        self.source_problem = ""
        self.quarantine = quarantine
        self.withheld: list[WantedModel] = []
        self._release: asyncio.TimerHandle | None = None
        self._metrics_page = metrics_page
        self._remember = remember
        self._link = ControlEnd(self)
        self._restored = restored is not None
        self._waits_for_workers = self._restored
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="repository")
        self._looking = asyncio.Lock()
        self._changed = asyncio.Condition()
        self._start_names: list[str] | None = None
        self._looked = False
        self._introductions: dict[str, tuple[int, str]] = {}
        self.policies: Policies | None = None
        self.calls: dict[str, Callable[..., Any]] = {}
        self.request_rates: dict[str, float] = {}

    @property
    def link(self) -> ControlEnd:
        """Control's end of the links to the workers."""
        return self._link

    # ---- workers ----

    def introduce(self, start_id: str, restarts: int, reason: str) -> None:
        """The supervisor tells of a worker before its link says hello."""
        self._introductions[start_id] = (restarts, reason)

    def on_hello(self, hello: Hello) -> None:
        """A worker is linked: give it the snapshot."""
        restarts, reason = self._introductions.pop(hello.start_id, (0, ""))
        self.workers[hello.start_id] = Worker(hello.slot, hello.pid, hello.start_id, restarts, reason)
        if self.snapshot.revision:
            self._link.send(hello.start_id, self.snapshot)

    def on_status(self, start_id: str, status: Status) -> None:
        """A worker says what it holds."""
        self.workers[start_id].status = status
        self._waits_for_workers = True
        self.publish()

    def on_beat(self, start_id: str, beat: Beat) -> None:
        """Its numbers; the mean goes back, so that one with too many connections can shed some."""
        self.workers[start_id].beat = beat
        beats = [worker.beat for worker in self.workers.values() if worker.beat is not None and worker.beat.listening]
        if len(beats) > 1:
            self._link.send(start_id, Hint(sum(beat.connections for beat in beats) / len(beats)))

    def on_lost(self, start_id: str) -> None:
        """A worker is gone."""
        self.workers.pop(start_id, None)
        self.publish()

    async def call(self, name: str, args: dict[str, Any]) -> Any:
        """Answer a call. See `gateway.control.link.ControlHandler.call`."""
        method = getattr(self, f"call_{name}", None) or self.calls.get(name)
        if method is None:
            raise ControlAway(f"the control process does not answer {name} yet")
        answer = method(**args)
        return await answer if asyncio.iscoroutine(answer) else answer

    # ---- deciding ----

    def view(self) -> reconcile.NodeView:
        """What the workers hold."""
        return reconcile.view_of([worker.status for worker in self.workers.values() if worker.status is not None])

    def publish(self) -> None:
        """Decide anew and tell the workers, if anything has changed."""
        if self._start_names is None or (self._waits_for_workers and not self._hears_someone()):
            return
        if self.policies is not None and not self.policies.loaded:
            # Without knowing the policies, the newest version would answer everybody.
            return
        self.catalogue.pins = self.policies.pins() if self.policies is not None else {}
        desired, view = self._withhold(time.monotonic()), self.view()
        traffic = self._traffic()
        stables, degraded = reconcile.stables_of(traffic.policies), self.settings.allow_degraded_start
        ready = self.snapshot.ready or reconcile.is_ready(desired, self._start_names, view, stables, degraded=degraded)
        after = reconcile.decide(desired, self.snapshot, view, ready=ready, traffic=traffic)
        if after is not self.snapshot:
            self._log_changes(self.snapshot, after)
            self._put(after)
        _soon(self._notify())

    def _traffic(self) -> reconcile.Traffic:
        if self.policies is None:
            return reconcile.Traffic()
        return reconcile.Traffic(
            self.policies.states(), self.policies.signing, self.policies.cleared, self.policies.unit_key
        )

    def policies_changed(self) -> None:
        """A policy has changed: what it pins is fetched, and workers hear of it."""
        self.publish()
        if any(True for _ in self.catalogue.to_fetch()):
            _soon(self._fetch_pinned())

    async def _fetch_pinned(self) -> None:
        async with self._looking:
            await self._fetch_all()

    async def fetched_now(self, name: str, version: int) -> tuple[str, str]:
        """Copy and probe a version that is in the repository: its digest, or why there is none.

        Raises:
            LoadFailed: the repository is away.
        """
        async with self._looking:
            self.catalogue.pins.setdefault(name, set()).add(version)
            await self._fetch_all()
            return self.catalogue.copy_of(name, version)

    async def look_at(self, name: str) -> SeenModel | None:
        """Scan one model now. Raises LoadFailed: the repository is away."""
        async with self._looking:
            return await self._look_at(name)

    async def everywhere(self, name: str, revision: int, patience_s: float) -> bool:
        """Wait until every worker acts on all that is said now, and this revision of a policy; False = not yet."""
        said = self.snapshot.revision

        def acts() -> bool:
            told = [one.status for one in self.workers.values() if one.status and one.status.revision >= said]
            return len(self.workers) == sum(status.policies.get(name, 0) >= revision for status in told) > 0

        try:
            async with asyncio.timeout(patience_s), self._changed:
                await self._changed.wait_for(acts)
        except TimeoutError:
            return False
        return True

    def crashed(self, digest: str, now_s: float) -> None:
        """A worker died while it executed this: after some of these, no worker gets it for a while."""
        self.quarantine.crashed(digest, now_s)
        self._remember(self)
        self.publish()

    def _withhold(self, now_s: float) -> dict[str, reconcile.Desired]:
        """What is wanted without what is in quarantine; asks to decide anew when the next of it is let go."""
        held = self.quarantine.held(now_s)
        desired, self.withheld = withhold(self.catalogue.desired(), held)
        if self._release is not None:
            self._release.cancel()
        if held:
            wait_s = min(held.values()) - now_s + 0.1
            self._release = asyncio.get_running_loop().call_later(wait_s, self.publish)
        return desired

    def _put(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self._remember(self)
        self._link.broadcast(snapshot)

    def set_keys(self, keys: tuple[KeyFacts, ...]) -> None:
        """Put these keys in force on every worker; waits for nothing else that is to be decided."""
        if keys == self.snapshot.keys:
            return
        after = msgspec.structs.replace(self.snapshot, keys=keys)
        if after.revision:
            self._put(msgspec.structs.replace(after, revision=after.revision + 1))
        else:
            # Nothing was decided yet: the first snapshot will carry them.
            self.snapshot = after

    def set_watched(self, watched: tuple[Watched, ...], collected: tuple[Collected, ...]) -> None:
        """Have every worker count these versions for the monitor, and send it the first rows of those."""
        before = self.snapshot
        if (watched, collected) != (before.watched, before.collected) and before.revision:
            self._put(
                msgspec.structs.replace(before, watched=watched, collected=collected, revision=before.revision + 1)
            )

    def _hears_someone(self) -> bool:
        """Whether any worker says what it holds: once one has spoken, silence is no reason to change."""
        return any(worker.status is not None for worker in self.workers.values())

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    @staticmethod
    def _log_changes(before: Snapshot, after: Snapshot) -> None:
        known = {(state.name, state.version): (state.state, state.reason) for state in before.states}
        for state in after.states:
            if known.get((state.name, state.version)) != (state.state, state.reason):
                facts = {"model": state.name, "version": state.version, "state": state.state, "reason": state.reason}
                level = logging.WARNING if state.reason else logging.INFO
                _log.log(level, "model_state", extra={"facts": facts})
        for name, version in known.keys() - {(state.name, state.version) for state in after.states}:
            if version == 0:
                continue  # It stood for a name whose versions were not known yet.
            _log.info("model_unloaded", extra={"facts": {"model": name, "version": version}})

    # ---- the repository ----

    async def run(self) -> None:
        """Look at the repository at start and, in mode poll, for ever. Cancel: a look ends in its thread."""
        if self._restored and self.settings.control_mode == "none":
            # What was there at start: a look now could see other files.
            self.catalogue.freeze(self.snapshot)
            self._start_names = self.catalogue.wanted_names
            self._looked = True
            self.publish()
            return
        await self._look()
        self._looked = True
        while True:
            waiting = not self.catalogue.settled or bool(self.source_problem)
            if self.settings.control_mode != "poll" and not waiting:
                return
            pause = self.settings.poll_interval_s
            await asyncio.sleep(min(pause, max(0.05, self.settings.quiet_period_s / 4)) if waiting else pause)
            await self._look()

    async def _look(self) -> None:
        """Scan, fetch what is new, and publish after each step."""
        async with self._looking:
            # At a start nothing has been published, so nobody else has told the catalogue.
            for name, versions in (self.policies.pins() if self.policies is not None else {}).items():
                self.catalogue.pins.setdefault(name, set()).update(versions)
            try:
                passed_over = self.catalogue.problems
                self.catalogue.observed(await self.in_thread(self.catalogue.look))
                for problem in set(self.catalogue.problems) - set(passed_over):
                    _log.warning("passed_over", extra={"facts": {"reason": problem}})
                self.source_problem = ""
            except SourceAway as error:
                if str(error) != self.source_problem:
                    _log.error("repository_away", extra={"facts": {"reason": str(error)}})
                self.source_problem = str(error)
            if self._start_names is None:
                self._start_names = self.catalogue.wanted_names
            await self._fetch_all()

    async def _fetch_all(self) -> None:
        for seen in list(self.catalogue.to_fetch()):
            self.publish()
            self.catalogue.fetched(seen, await self.in_thread(self.catalogue.fetch, seen))
        self.publish()
        keep = {model.digest for model in self.snapshot.models}
        keep |= self.policies.digests() if self.policies is not None else set()
        await self.in_thread(self.catalogue.evict, keep)

    async def in_thread(self, work: Callable[..., Any], *args: object) -> Any:
        """What `work` gives, done in the thread that reads the repository and the policy folder."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *args)

    # ---- calls ----

    def call_settled(self, revision: int) -> bool:
        """Whether a worker that has settled on this revision may listen: nothing newer is on its way to it."""
        self.publish()
        return self._looked and revision == self.snapshot.revision

    def call_index(self, ready: bool = False) -> list[dict[str, str]]:
        """The repository index: every version that is wanted, every name that is not."""
        return index_facts(self.snapshot.states, self.catalogue.names, ready=ready)

    def call_statistics(self, name: str = "", version: int | None = None) -> dict[str, Any]:
        """Triton's statistics of the versions that are READY."""
        versions = [
            (state.name, state.version)
            for state in self.snapshot.states
            if state.state == reconcile.READY and name in ("", state.name) and version in (None, state.version)
        ]
        return statistics(self.totals(), versions)

    def waits_for(self) -> list[str]:
        """What was wanted at the start and keeps the node from being ready, each with its reason."""
        if self._start_names is None:
            return ["the first look at the repository"]
        if self.snapshot.ready:
            return []
        found = reconcile.waits_for(self._start_names, self.snapshot)
        return [*found, *(f"repository: {problem}" for problem in [self.source_problem] if problem)]

    def call_metrics(self) -> bytes:
        """The node's metrics page."""
        return self._metrics_page(self)

    def call_workers(self) -> list[dict[str, Any]]:
        """Every worker, by slot."""
        return [worker_facts(worker) for worker in sorted(self.workers.values(), key=lambda worker: worker.slot)]

    def call_models(self) -> list[dict[str, Any]]:
        """Every name with its versions, aliases, default and what there is to say about it."""
        found = []
        for name in sorted({*self.catalogue.names, *self.snapshot.routes}):
            route, seen = self.snapshot.routes.get(name), self.catalogue.seen(name)
            found.append(
                {
                    "name": name,
                    "default_version": route.default if route else None,
                    "aliases": route.aliases if route else (dict(seen.config.aliases) if seen and seen.config else {}),
                    "in_repository": [version.version for version in seen.versions] if seen else [],
                    "feature_names": dict(seen.config.feature_names) if seen and seen.config else {},
                    "problems": list(seen.problems) if seen else [],
                    "warnings": [*seen.warnings, *dangling(seen)] if seen else [],
                    "versions": [state_facts(state) for state in self.snapshot.states if state.name == name],
                }
            )
        return found

    async def call_load(self, name: str) -> None:
        """Load a name, or load it anew; answers when every worker has it, or says why not.

        Raises:
            Forbidden, UnknownModel, LoadFailed, Conflict
        """
        self._require_explicit("load")
        if not is_name(name):
            raise UnknownModel(f"{name[:80]!r} is no model name")
        async with self._looking:
            seen = await self._look_at(name)
            if seen is None:
                raise UnknownModel(f"failed to load {name!r}: it is not in the repository")
            assert self.catalogue.explicit is not None, "checked above"
            self.catalogue.explicit.add(name)
            self.catalogue.renew(name)
            for model in self.withheld:
                if model.name == name:
                    self.quarantine.release(model.digest)
            for key in self.view().failed:
                if key[0] == name:
                    self.catalogue.load_again(key[:2])
            await self._fetch_all()
        await self._await_load(name)

    async def call_unload(self, name: str) -> None:
        """Unload a name; answers when no worker has it any more. Raises Forbidden, UnknownModel."""
        self._require_explicit("unload")
        explicit = self.catalogue.explicit
        assert explicit is not None, "checked above"
        if name not in self.snapshot.routes and name not in explicit:
            raise UnknownModel(f"failed to unload {name!r}: it is not loaded")
        if EVERYTHING in explicit:
            explicit |= set(self.catalogue.names)
            explicit.discard(EVERYTHING)
        explicit.discard(name)
        self.catalogue.forget(name)
        self.publish()
        await self._until(lambda: all(not _holds(worker, name) for worker in self.workers.values()))

    async def call_alias(self, name: str, alias: str, version: int | None) -> None:
        """Point an alias to a version, or (None) take it away; answers when every worker acts on it.

        Raises:
            UnknownModel, Conflict
        """
        seen = self.catalogue.seen(name)
        if seen is None:
            raise UnknownModel(f"{name[:80]!r} is not in the repository")
        if not is_alias(alias):
            raise Conflict(f"{alias[:80]!r} is no alias: expected {ALIAS_RULE}")
        if version is not None and version not in {found.version for found in seen.versions}:
            raise UnknownModel(f"model {name!r} has no version {version}")
        async with self._looking:
            try:
                await self.in_thread(write_alias, self.settings.repository, name, alias, version)
            except (OSError, ValueError) as error:
                raise Conflict(f"model.yaml of {name!r} cannot be changed: {error}") from error
            await self._look_at(name)
        self.publish()
        await self._until(self._all_act)

    def _require_explicit(self, verb: str) -> None:
        mode = self.settings.control_mode
        if mode != "explicit":
            raise Forbidden(f"explicit model {verb} is not allowed: models.control_mode is {mode}")

    async def _look_at(self, name: str) -> SeenModel | None:
        try:
            seen: SeenModel | None = await self.in_thread(self.catalogue.look_at, name)
        except SourceAway as error:
            raise LoadFailed(str(error), stage="fetch") from error
        self.catalogue.observed_one(name, seen)
        return seen

    async def _await_load(self, name: str) -> None:
        def outcome() -> bool:
            states = [state for state in self.snapshot.states if state.name == name]
            return self._all_act() and bool(states) and all(state.state != reconcile.LOADING for state in states)

        await self._until(outcome)
        failures = [state for state in self.snapshot.states if state.name == name and state.reason]
        if failures:
            first = failures[0]
            at = f" version {first.version}" if first.version else ""
            stage, _, reason = first.reason.partition(": ")
            if stage == "conflict":
                raise Conflict(f"failed to load {name!r}{at}: {reason}")
            raise LoadFailed(f"failed to load {name!r}{at}: {reason}", stage=stage)

    def _all_act(self) -> bool:
        """Whether every worker acts on the newest snapshot."""
        revision = self.snapshot.revision
        statuses = [worker.status for worker in self.workers.values()]
        return bool(statuses) and all(s is not None and s.revision >= revision and s.settled for s in statuses)

    async def _until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(LOAD_TIMEOUT_S), self._changed:
            await self._changed.wait_for(true)

    def close(self) -> None:
        """Let go of links and thread."""
        self._link.close()
        self._thread.shutdown(wait=False, cancel_futures=True)


_tasks: set[asyncio.Task[None]] = set()


def _soon(work: Any) -> None:
    """Run a coroutine soon; the set keeps it alive until then."""
    task = asyncio.get_running_loop().create_task(work)
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)


def _holds(worker: Worker, name: str) -> bool:
    return worker.status is not None and any(state.name == name for state in worker.status.models)
