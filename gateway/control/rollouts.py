"""The loop that carries rollouts on: reads what workers have counted, asks `router.rollout` what follows, does it.

Four times a second. One node leads, by a lease with a fencing token; the others send it what their workers have
counted, through the store's streams. Whoever leads writes status, shares and evidence in one compare-and-set, at every
change and at least each second, so that the next leader goes on where this one was. A rollout that has ended is counted
on: that decides nothing, and is written each minute.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import msgspec

from gateway.control.commandqueue import CommandQueue
from gateway.control.documents import Kept
from gateway.control.entries import read_entry
from gateway.control.fitting import with_evidence, without_evidence
from gateway.control.intake import Intake
from gateway.control.latency import StableLatency
from gateway.control.messages import Status
from gateway.control.nodes import GONE_MS, SILENT_MS, Nodes
from gateway.control.observing import Circle, observed_by
from gateway.control.pending import abort_of
from gateway.control.plans import NOTHING_KNOWN, Drift
from gateway.control.policies import Policies
from gateway.control.record import NodeReport, PolicyRecord, Told, encode, parts_of
from gateway.control.reporter import Reporter
from gateway.control.runs import Heard, Run, judge_of
from gateway.control.steps import ROUTING, audit_of, carried_out, identity_wanted, place_of, spec_of
from gateway.control.thresholds import RunTimes, thresholds_of
from gateway.counters import CounterPage
from gateway.store.base import Fenced, Lease, Stale, StoreAway
from router.rollout.actions import WRITTEN, Action, Answer, ClearLocalZeros, Notify, ZeroHere
from router.rollout.machine import advance
from router.rollout.observed import Command, Observed
from router.rollout.status import ACTIVE, AT_REST, MAX_TEXT
from runtimes.errors import ServingError

TICK_S: Final = 0.25
SAVE_MS: Final = 1_000
REST_MS: Final = 60_000
LEASE_S: Final = 5.0
RENEW_MS: Final = 1_500
HAND_OVER_MS: Final = 2_000
_LEASE: Final = "rollouts"
_log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Node:
    """What the loop reads of this node, each tick."""

    name: str
    pages: Callable[[], tuple[Mapping[str, CounterPage], CounterPage]]
    statuses: Callable[[], Mapping[str, Status]]
    crashes: Callable[[], Mapping[str, int]]
    latency: StableLatency


class Rollouts:
    """All rollouts, as this node sees them.

    Args:
        now_ms: Unix time in ms; may jump.
        notify: tells people: (policy, kind, reason).

    Attributes:
        failed: policy -> the fault that ended its last turn on this node.
    """

    def __init__(
        self,
        policies: Policies,
        reporter: Reporter,
        node: Node,
        *,
        now_ms: Callable[[], int],
        notify: Callable[[str, str, str], None],
    ) -> None:
        self._policies = policies
        self._store = policies.store
        self._reporter = reporter
        self._node = node
        self._now_ms = now_ms
        self._notify = notify
        self._lease: Lease | None = None
        self._lease_ms = 0
        self._runs: dict[str, Run] = {}
        self._commands = CommandQueue(self._store, node.name, now_ms)
        self._sequence = 0
        self._epoch = now_ms()
        self._cleared_ms: dict[str, int] = {}
        self._handed_ms: dict[str, int] = {}
        self._run_times: RunTimes = {}
        self._answers: dict[str, Told] = {}
        self.zeroed_here: dict[str, str] = {}
        self.failed: dict[str, str] = {}
        self.heard: Callable[[str, NodeReport], None] = lambda name, report: None
        self.drift: Callable[[str], Drift] = lambda name: NOTHING_KNOWN
        self.nodes = Nodes(self._store, node.name, now_ms)
        self.ticked = asyncio.Event()

    @property
    def lease(self) -> Lease | None:
        """That this node decides by; None = another one does."""
        return self._lease

    @property
    def leads(self) -> bool:
        """Whether this node decides."""
        return self._lease is not None

    async def run(self) -> None:
        """Tick until this node leaves. Cancel: between two ticks nothing is half done."""
        while not self.nodes.gone:
            try:
                await self.tick()
            except ServingError as error:
                _log.warning("rollouts_wait", extra={"facts": {"reason": error.message}})
            await asyncio.sleep(TICK_S)

    async def tick(self) -> None:
        """One look at everything, and what follows from it."""
        now_ms = self._now_ms()
        self._answers.clear()  # who asked has taken them, or is gone
        store = await self._hold_lease(now_ms) and await self._look()
        judges = self._lease is not None or not store
        behind = self._behind() if judges else set()
        if behind:
            self._reporter.rewind()
        living, finals = self._node.pages()
        reading = self._reporter.read(living, finals)
        self._run_times = reading.run_times
        self._runs = {name: run for name, run in self._runs.items() if name in self._policies.kept}
        self._forget_cleared(now_ms)
        statuses, crashes = self._node.statuses(), self._node.crashes()
        acked = {}
        for state in self._policies.states():
            name, kept = state.name, self._policies.get(state.name)
            judges = self._lease is not None or not store  # a write may have found that another node leads
            if judges and name in self._behind() - behind:
                continue  # Written by somebody else just now: the next tick reads its notes once more.
            try:
                report = self._reporter.report(state, reading, statuses, crashes)
                acked[name] = report.acked
                if judges:
                    await self._lead(name, kept, report, now_ms, store=store)
                else:
                    await self._send(name, report)
                    await self._hand_over(name)
                self.failed.pop(name, None)
            except StoreAway:
                raise
            except Exception as error:
                # One policy's fault must not end the others, nor control.
                self._failed(name, "rollout_failed", error)
        if store:
            await self.nodes.speak(acked, len(living))
        self.ticked.set()
        self.ticked = asyncio.Event()

    def _behind(self) -> set[str]:
        """Policies whose run is made anew, from what was saved: notes taken since have to be read once more."""
        runs = self._runs
        return {
            name
            for name, kept in self._policies.kept.items()
            if name not in runs or runs[name].revision != kept.revision
        }

    def _failed(self, name: str, event: str, error: Exception) -> str:
        """Log it once, with where it comes from; gives it in words."""
        text = f"{type(error).__name__}: {error}"[:MAX_TEXT]
        if self.failed.get(name) != text:
            _log.error(event, exc_info=error, extra={"facts": {"policy": name, "reason": text}})
        self.failed[name] = text
        return text

    # ---- the lease ----

    async def _hold_lease(self, now_ms: int) -> bool:
        """Take or keep the lease; False when the store is away."""
        if self._lease is not None and now_ms - self._lease_ms < RENEW_MS:
            return not self._policies.away
        try:
            if self._lease is not None:
                self._lease = await self._store.lease_renew(self._lease, LEASE_S)
                if self._lease is None:
                    self._reporter.rewind()
            if self._lease is None:
                self._lease = await self._store.lease_acquire(_LEASE, self._node.name, LEASE_S)
                self._runs.clear()
        except StoreAway as error:
            self._store_lost(error)
            return False
        self._lease_ms = now_ms
        if self._policies.away:
            await self._store_back()
        return True

    async def _look(self) -> bool:
        """Hear the other nodes; False when the store is away."""
        try:
            await self.nodes.look()
        except StoreAway as error:
            self._store_lost(error)
            return False
        return True

    async def leave(self) -> None:
        """This node goes: nobody has to wait for it, and another may lead at once. Raises StoreAway."""
        if self._lease is not None:
            await self._store.lease_release(self._lease)
            self._lease = None
        await self.nodes.leave()

    def _store_lost(self, error: StoreAway) -> None:
        if not self._policies.away:
            _log.error("store_away", extra={"facts": {"reason": error.message}})
        self._policies.away = error.message

    async def _store_back(self) -> None:
        self._reporter.rewind()
        await self._policies.returned()
        _log.info("store_back")
        self.zeroed_here.clear()
        self._policies.zero_here(frozenset())

    # ---- commands ----

    async def command(self, name: str, command: Command, patience_s: float = 10.0) -> Told:
        """Give the leader a command and wait for its answer. Without the store this node answers for itself.

        Raises:
            UnknownPolicy, StoreAway: nobody leads, or the leader does not answer in time.
        """
        self._policies.get(name)
        await self._give(name, command)
        try:
            async with asyncio.timeout(patience_s):
                while (answer := self._policies.get(name).record.answers.get(command.id)) is None:
                    if (here := self._answers.pop(command.id, None)) is not None:
                        if not here.ok:
                            raise StoreAway(here.text)
                        return here
                    await self.ticked.wait()
        except TimeoutError as error:
            raise StoreAway("no answer from the node that leads; the command may still be carried out") from error
        return answer

    async def _give(self, name: str, command: Command) -> None:
        """To who leads. Raises StoreAway: nobody can be asked, and it is no abort, which each node begins by itself."""
        if self._lease is None:
            try:
                await self._commands.give(name, command)
            except StoreAway:
                if command.kind != "abort":
                    raise
            else:
                return
        self._commands.add(name, command)

    async def gone_back(self, name: str, patience_s: float) -> bool:
        """Wait until an abort is in force on every node that can be reached; False = not yet."""
        try:
            async with asyncio.timeout(patience_s):
                while self._policies.get(name).record.status.phase == "ABORTING":
                    await self.ticked.wait()
        except TimeoutError:
            return False
        return True

    async def elsewhere(self, name: str, revision: int, patience_s: float) -> tuple[str, ...]:
        """Wait until every other node acts on this revision of a policy; gives those that do not, or are silent."""
        try:
            async with asyncio.timeout(patience_s):
                while self.nodes.behind(name, revision, SILENT_MS):
                    await self.ticked.wait()
        except TimeoutError:
            pass
        return self.nodes.behind(name, revision)

    async def _send(self, name: str, report: NodeReport) -> None:
        """Not the leader: tell it what this node has counted."""
        try:
            for part in parts_of(report):
                self._sequence += 1
                body = encode(part)
                await self._store.stream_append(f"evidence/{name}", self._node.name, self._epoch, self._sequence, body)
        except StoreAway:
            self._reporter.rewind()
            raise

    async def _hand_over(self, name: str) -> None:
        """Another node leads now: it carries out what this one was asked for, or decided while the store was away."""
        status = self._policies.get(name).record.status
        if status.pending_abort is not None and not 0 <= self._now_ms() - self._handed_ms.get(name, 0) < HAND_OVER_MS:
            # Until its record says so: what the store takes it may lose.
            await self._commands.give(name, abort_of(status, status.pending_abort, self._node.name))
            self._handed_ms[name] = self._now_ms()
        await self._commands.hand_over(name)

    # ---- leading ----

    async def _lead(self, name: str, kept: Kept, report: NodeReport, now_ms: int, *, store: bool) -> None:
        run = self._run_of(name, kept)
        run.heard[self._node.name] = Heard(now_ms, report)
        commands, done = self._commands.take(name), False
        try:
            reports = [report]
            if store:
                try:
                    reports += await self._others(name, run, now_ms)
                    commands += await self._commands.read(name)
                except StoreAway as error:
                    self._store_lost(error)
                    store = False
            for one in reports:
                self.heard(name, one)
            done = await self._turn(name, kept, run, reports, commands, now_ms, store=store)
        finally:
            if not done:
                self._commands.again(name, commands)

    async def _turn(
        self,
        name: str,
        kept: Kept,
        run: Run,
        reports: list[NodeReport],
        commands: list[Command],
        now_ms: int,
        *,
        store: bool,
    ) -> bool:
        """What follows from the reports and commands. False = nothing of it is done."""
        observed = self._observed(name, kept, run, reports, commands, now_ms, store=store)
        spec = spec_of(kept)
        if spec is None and not kept.record.status.identity:
            return True
        status, actions = advance(spec, kept.record.status, observed, now_ms)
        if len(status.latches) < len(kept.record.status.latches):
            # A person wants it tried again: what spoke against it the last time would end it at once.
            run.judge, run.blind = judge_of(kept, run.identity, None), ""
        return await self._act(name, kept, run, status, actions, now_ms, store=store)

    def _observed(
        self,
        name: str,
        kept: Kept,
        run: Run,
        reports: list[NodeReport],
        commands: list[Command],
        now_ms: int,
        *,
        store: bool,
    ) -> Observed:
        """One tick's view. Where the evidence cannot be computed: without it, so that people may still abort."""
        token = self._lease.token if self._lease is not None else kept.record.status.token
        circle, drift = self._circle(run, now_ms), self.drift(name)
        if not run.blind:
            try:
                for one in reports:
                    run.take(kept, one)
                return observed_by(token, kept, run.judge, circle, commands, drift, now_ms, store=store)
            except Exception as error:
                run.blind = self._failed(name, "evidence_failed", error)
        observed = observed_by(token, kept, None, circle, commands, drift, now_ms, store=store)
        return msgspec.structs.replace(observed, blind=run.blind)

    def _run_of(self, name: str, kept: Kept) -> Run:
        """What is held of a policy; made anew from the store when somebody else wrote, or another rollout began."""
        run = self._runs.get(name)
        identity = identity_wanted(kept)
        if run is None or run.revision != kept.revision:
            evidence = kept.record.evidence
            run = self._runs[name] = Run(
                kept.revision,
                identity,
                Intake(evidence.get("intake")),
                judge_of(kept, identity, evidence.get("judge")),
                int(evidence.get("cursor", 0)),
                heard=run.heard if run is not None else {},
            )
        elif run.identity != identity:
            run.identity, run.judge, run.blind = identity, judge_of(kept, identity, None), ""
        return run

    async def _others(self, name: str, run: Run, now_ms: int) -> list[NodeReport]:
        stream = f"evidence/{name}"
        page = await self._store.stream_read(stream, run.cursor)
        run.cursor = page.cursor
        found = []
        for entry in page.entries:
            if entry.replica == self._node.name:
                continue
            report = read_entry(entry, stream, lambda body: msgspec.json.decode(body, type=NodeReport))
            if report is None:
                continue
            if report.acked or report.fresh:
                # The last part of a report says how the node is; those before it hold notes alone.
                run.heard[report.node] = Heard(now_ms, report)
            found.append(report)
        run.heard = {node: heard for node, heard in run.heard.items() if now_ms - heard.at_ms < GONE_MS}
        return found

    def _circle(self, run: Run, now_ms: int) -> Circle:
        here = {node: heard.report for node, heard in run.heard.items() if now_ms - heard.at_ms < SILENT_MS}
        living = self.nodes.others(SILENT_MS).keys() - here.keys()
        silent = (run.heard.keys() | self.nodes.others().keys()) - here.keys() - living - self.nodes.left
        return Circle(here, tuple(sorted(living)), tuple(sorted(silent)))

    # ---- acting ----

    async def _act(
        self, name: str, kept: Kept, run: Run, status: Any, actions: list[Action], now_ms: int, *, store: bool
    ) -> bool:
        """Write what was decided; do the rest only after that has succeeded. False = nothing of it is done."""
        if not store:
            await self._policies.carry(name, status)
            self._act_without_store(name, actions)
            return True
        routed = any(isinstance(action, ROUTING) for action in actions)
        slow = thresholds_of(kept, status.phase, self._node.latency, self._run_times, routed=routed)
        record = carried_out(kept, status, actions, slow)
        if self._must_save(kept, run, record, actions, now_ms):
            record = with_evidence(record, run)
            audit = audit_of(actions, record, kept)
            try:
                saved = await self._save(name, kept, record, audit)
            except (Stale, Fenced) as error:
                _log.warning("rollout_write_lost", extra={"facts": {"policy": name, "reason": error.message}})
                if isinstance(error, Fenced):
                    self._lease = None
                    self._reporter.rewind()
                del self._runs[name]
                await self._policies.reload(name)
                return False
            except StoreAway as error:
                self._store_lost(error)
                return False
            run.revision, run.saved_ms, run.moved = saved.revision, now_ms, False
        for action in actions:
            self._tell(name, record, action, now_ms)
        return True

    async def _save(self, name: str, kept: Kept, record: PolicyRecord, audit: Mapping[str, Any] | None) -> Kept:
        """What was decided; too large, then without what it rests on. Raises Stale, Fenced, StoreAway, ValueError."""
        save = partial(self._policies.save, name, expected=kept.revision, fence=self._lease)
        try:
            return await save(record, audit=audit)
        except ValueError as error:
            _log.error("evidence_left_out", extra={"facts": {"policy": name, "reason": str(error)[:MAX_TEXT]}})
            record, audit = without_evidence(record, audit)
            return await save(record, audit=audit)

    def _must_save(self, kept: Kept, run: Run, record: PolicyRecord, actions: list[Action], now_ms: int) -> bool:
        before, after = kept.record, record
        if any(isinstance(action, WRITTEN) for action in actions) or after.answers != before.answers:
            return True
        if place_of(after) != place_of(before):
            return True
        if 0 <= now_ms - run.saved_ms < (REST_MS if after.status.phase in AT_REST else SAVE_MS):
            return False
        return run.moved or (after.status.phase in ACTIVE and after.status != before.status)

    def _act_without_store(self, name: str, actions: list[Action]) -> None:
        self._answers |= {one.command: Told(one.ok, one.text) for one in actions if isinstance(one, Answer)}
        for action in actions:
            if isinstance(action, ZeroHere) and name not in self.zeroed_here:
                self.zeroed_here[name] = action.reason
                _log.error("canary_zeroed_here", extra={"facts": {"policy": name, "reason": action.reason}})
                self._policies.zero_here(frozenset(self.zeroed_here))

    def _tell(self, name: str, record: PolicyRecord, action: Action, now_ms: int) -> None:
        if isinstance(action, Notify):
            self._notify(name, action.kind, action.reason)
        elif isinstance(action, ClearLocalZeros):
            self._cleared_ms[record.status.identity] = now_ms
            self._policies.clear_zeros(tuple(self._cleared_ms))

    def _forget_cleared(self, now_ms: int) -> None:
        """Workers have heard by now that they may; what they decide from here on is theirs again."""
        kept = {identity: at_ms for identity, at_ms in self._cleared_ms.items() if now_ms - at_ms < SILENT_MS}
        if kept != self._cleared_ms:
            self._cleared_ms = kept
            self._policies.clear_zeros(tuple(kept))
