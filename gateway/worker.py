"""A worker: listens on its slot, answers requests, holds what control wants. Owns no truth; may be killed at any time.

Starts without listening: it is introduced to control, loads the snapshot's models, asks control whether that is all,
and only then asks the supervisor for its slot.
"""

import asyncio
import gc
import logging
import resource
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from uvicorn import Config as UvicornConfig
from uvicorn import Server

from gateway import __version__
from gateway.config import (
    Config,
    Decisions,
    asks_for_keys,
    drain_delay_ms,
    threads_per_execution,
    usable_memory_bytes,
    worker_count,
)
from gateway.control.link import WorkerEnd
from gateway.control.messages import Beat, Collected, Hello, Hint, ModelState, Snapshot, Status
from gateway.counters import WORKER_INDEX, CounterPage, running
from gateway.dataplane import Dataplane
from gateway.decisionfiles import FOLDER, FileSink
from gateway.decisions import DecisionLog, Sink
from gateway.decisionstream import StreamSink
from gateway.drain import Drain, DrainPlan, Phase
from gateway.http.app import build_app
from gateway.http.edge import Edge
from gateway.http.gate import Gate
from gateway.http.limits import edge_limits
from gateway.http.protocol import EdgeProtocol
from gateway.http.surface import Surface
from gateway.logs import request_log
from gateway.monitor.countingturns import CountingTurns
from gateway.wire.request import Limits as WireLimits
from runtimes.batching.turns import TurnScheduler
from runtimes.errors import ServingError
from runtimes.execution.watchdog import Watchdog
from runtimes.fleet import Fleet
from runtimes.runtime import Environment, WantedVersion

if TYPE_CHECKING:
    from gateway.monitor.firsttap import FirstTap
    from gateway.samples import Outbox

BEAT_S: Final = 0.25
TICK_S: Final = 0.1
ASK_S: Final = 0.05
STALL_NS: Final = 20_000_000
"""A turn of the loop that takes longer is counted."""
BACKLOG: Final = 2048
COUNT_S: Final = 0.2
"""So often what the monitor was shown is counted, in steps of about 0.05 ms; requests come between two."""
FIRST_ROWS_S: Final = 5.0
"""Control has so long to take a part of first rows."""
SAMPLES_S: Final = 5.0
"""And samples of shadows."""
ADOPTED_S: Final = 2.0
"""So long another slot's connections are accepted, after its worker died and its respawn took too long."""
_log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Identity:
    """Which start of which slot this is."""

    slot: int
    pid: int
    start_id: str


class Worker:
    """One worker process, or the worker half of a single process.

    Args:
        data_dir: where its decision log is, if it keeps one in files.
        on_ready: it has loaded what there is and wants its slot.
        on_stopped: its drain has ended.
    """

    def __init__(
        self,
        config: Config,
        identity: Identity,
        page: CounterPage,
        loop: asyncio.AbstractEventLoop,
        *,
        data_dir: Path,
        on_ready: Callable[[], None],
        on_stopped: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._on_ready = on_ready
        self._on_stopped = on_stopped
        self._counting = CountingTurns()
        self._executor = ThreadPoolExecutor(2, thread_name_prefix="bodies")
        self._watchdog = Watchdog(time.perf_counter_ns)
        self.dataplane = Dataplane(
            page=page,
            limits=wire_limits(config),
            inline_body_bytes=config.limits.inline_body_bytes,
            bytes_in_flight=_bytes_share(config),
            decode_executor=self._executor,
            call_soon_threadsafe=loop.call_soon_threadsafe,
            log=request_log(),
        )
        self.fleet = Fleet(self._environment(config, page), self.dataplane.sink_for, self._swap)
        self.dataplane.book.on_zeroed = self._tell
        self.dataplane.book.failing.on_first = lambda: loop.call_soon(self._tell)
        limits = edge_limits(config)
        gate = Gate() if asks_for_keys(config) else None
        self.edge = Edge(self.dataplane, limits, call_later=loop.call_later, executor=self._executor, gate=gate)
        self.link = WorkerEnd(
            Hello(identity.slot, identity.pid, identity.start_id),
            on_attached=self._on_attached,
            on_snapshot=self._on_snapshot,
            on_hint=self._on_hint,
        )
        self._decisions = self._decision_log(config.decisions, data_dir, identity) if config.decisions.log else None
        surface = Surface(self.dataplane, self.fleet, self.link.call, lambda: self.snapshot, __version__, gate)
        self._server = Server(
            UvicornConfig(
                build_app(surface, limits, self._executor),
                http=partial(EdgeProtocol, self.edge),  # type: ignore[arg-type]  # any factory of protocols will do
                ws="none",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                backlog=BACKLOG,
            )
        )
        self._drain = Drain()
        self._drain_plan = (drain_delay_ms(config.server) * 1_000_000, config.server.grace_ms * 1_000_000)
        self.snapshot = Snapshot(0, (), {}, False)
        self._settled = -1
        self._asked = False
        self._listening = False
        self._wake = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._tick_due_ns = 0
        self._lag_ns = 0

    def _environment(self, config: Config, page: CounterPage) -> Environment:
        budget_ns = config.execution.inline_turn_budget_us * 1000
        return Environment(
            self._loop,
            TurnScheduler(
                self._loop,
                time.perf_counter_ns,
                budget_ns=budget_ns,
                linger_ns=config.execution.linger_us * 1000,
                before=self.dataplane.book.routings.write,
            ),
            self._watchdog,
            time.perf_counter_ns,
            threads_per_execution(config),
            budget_ns,
            usable_memory_bytes(),
            lambda wanted: running(page, wanted.digest, wanted.name, wanted.version),
        )

    # ---- what control says ----

    def start(self) -> None:
        """Begin to follow control."""
        self.edge.start()
        self._spawn(self._follow())
        self._tick()
        self._count()
        self._loop.call_later(BEAT_S, self._beat)

    def attach(self, sock: socket.socket) -> None:
        """A new link to control."""
        self._spawn(self.link.attach(sock))

    def _on_attached(self) -> None:
        self._tell()

    def _on_snapshot(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        if self.edge.gate is not None:
            # At once: a load may hold up the rest of the snapshot for minutes, and a key may have been revoked.
            self.edge.gate.apply(snapshot.keys)
        # At once as well: an abort must not wait for the model that is being loaded.
        self._swap()
        self._tell()
        self._wake.set()

    def _on_hint(self, hint: Hint) -> None:
        """Far above the mean of the node: the surplus is asked to connect anew."""
        connections = len(self.edge.connections)
        fair = hint.mean_connections
        self.edge.shed = int(connections - fair) if connections > 1.25 * fair + 2 else 0

    async def _follow(self) -> None:
        """Bring what is held to what is wanted, again for each snapshot."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            snapshot = self.snapshot
            self.fleet.forget_failures({wanted_version(model).key for model in snapshot.models})
            self._swap()
            self._unload_surplus(snapshot)
            self._tell()
            for model in snapshot.models:
                if not await self._load(wanted_version(model)) or self.snapshot is not snapshot:
                    break
            if self.snapshot is snapshot:
                self._settled = snapshot.revision
                self._tell()
                await self._ask_for_slot(snapshot)

    async def _load(self, wanted: WantedVersion) -> bool:
        """Load one version if it is neither here nor known to fail; False when there is no point in going on."""
        if self.fleet.holds(wanted) or self.fleet.has_failed(wanted):
            return True
        load = asyncio.ensure_future(self.fleet.load(wanted))
        self._loop.call_soon(self._tell)
        try:
            await load
        except ServingError as error:
            facts = {"model": wanted.name, "version": wanted.version, "reason": error.message}
            _log.debug("load_failed", extra={"facts": facts})
        self._tell()
        return self._drain.phase == Phase.SERVING

    def _unload_surplus(self, snapshot: Snapshot) -> None:
        wanted = {(model.name, model.version) for model in snapshot.models}
        for runtime in self.fleet.serving():
            if (runtime.name, runtime.version) not in wanted:
                self._spawn(self._unload(runtime.name, runtime.version))

    async def _unload(self, name: str, number: int) -> None:
        await self.fleet.unload(name, number)
        self._tell()

    def _swap(self) -> None:
        """Put the routes in force with the runtimes that are here: one reference."""
        self.dataplane.apply(self.snapshot, self.fleet)

    def _tell(self) -> None:
        models = tuple(
            ModelState(r.name, r.version, r.digest, r.wanted.generation, r.state, r.reason, r.load_ns)
            for r in self.fleet
        )
        settled = self._settled == self.snapshot.revision
        routes, book = self.dataplane.routes, self.dataplane.book
        policies = {name: route.terms.revision for name, route in routes.policies.items()}
        told = tuple((*place, reason) for place, reason in book.zeroed.items())
        self.link.send(
            Status(self.snapshot.revision, settled, models, self._listening, policies, told, book.failing.told())
        )

    async def _ask_for_slot(self, snapshot: Snapshot) -> None:
        """Ask control whether this snapshot is all there is to load, until it is or a newer one comes."""
        if self._asked:
            return
        while not await self._may_listen(snapshot.revision):
            if self.snapshot is not snapshot or self._drain.phase != Phase.SERVING:
                return
            await asyncio.sleep(ASK_S)
        self._asked = True
        gc.collect()
        gc.freeze()
        self._on_ready()

    async def _may_listen(self, revision: int) -> bool:
        try:
            return await self.link.call("settled", {"revision": revision}, 5.0) is True
        except ServingError:
            # Control is away, and back soon.
            return False

    # ---- listening ----

    async def listen(self, slot: socket.socket) -> None:
        """Accept connections."""
        self._server.config.load()
        self._server.lifespan = self._server.config.lifespan_class(self._server.config)
        await self._server.startup(sockets=[slot])
        self._spawn(self._server.main_loop())
        self._listening = True
        self._tell()
        self._beat_now()

    async def adopt(self, slot: socket.socket) -> None:
        """Accept what waits on the slot of a worker that does not come back soon."""
        factory = partial(
            EdgeProtocol, self.edge, config=self._server.config, server_state=self._server.server_state, app_state={}
        )
        server = await self._loop.create_server(factory, sock=slot, backlog=BACKLOG)
        await asyncio.sleep(ADOPTED_S)
        server.close()

    # ---- time ----

    def _tick(self) -> None:
        now = time.perf_counter_ns()
        if self._tick_due_ns:
            self._lag_ns = max(0, now - self._tick_due_ns)
            if self._lag_ns > STALL_NS:
                self.edge.counts[WORKER_INDEX["loop_stalls_total"]] += 1
                self.edge.counts[WORKER_INDEX["loop_stall_ns_total"]] += self._lag_ns
        self.dataplane.book.clock.seconds = int(time.time())
        self.edge.counts[WORKER_INDEX["bytes_in_flight"]] = self.dataplane.bytes_held
        self._tick_due_ns = now + int(TICK_S * 1e9)
        self._loop.call_later(TICK_S, self._tick)

    def _count(self) -> None:
        """Count what the monitor was shown, a step in a turn of the loop; have first rows sent that it wants."""
        started_ns = time.thread_time_ns()
        at_once = self._counting.step(list(self.dataplane.book.taps))
        self.dataplane.counts[WORKER_INDEX["monitor_ns_total"]] += time.thread_time_ns() - started_ns
        if at_once:
            self._loop.call_soon(self._count)  # requests come first
        else:
            self._loop.call_later(COUNT_S, self._count)
        for wanted, first in self.dataplane.book.collected:
            if first.rows and not first.sending:
                first.sending = True
                self._spawn(self._send_first(wanted, first))

    async def _send_first(self, wanted: Collected, tap: "FirstTap") -> None:
        """Send what waits, part by part, until control has enough."""
        place = {"name": wanted.name, "version": wanted.version, "since_ms": wanted.since_ms}
        try:
            while (part := tap.part()) is not None:
                tap.wants(await self.link.call("first_rows", {**place, "part": part}, FIRST_ROWS_S))
        except ServingError as error:
            # Control is away, and what it had is lost with it: it begins anew, so this part is not missed.
            _log.debug("first_rows_not_sent", extra={"facts": {"model": wanted.name, "reason": error.message}})
        finally:
            tap.sending = False

    def _beat(self) -> None:
        self._beat_now()
        if self.dataplane.book.failing.news:
            self._tell()
        outbox = self.dataplane.book.outbox
        if outbox and not outbox.sending:
            outbox.sending = True
            self._spawn(self._send_samples(outbox))
        self._loop.call_later(BEAT_S, self._beat)

    async def _send_samples(self, outbox: "Outbox") -> None:
        """Send what shadows answered otherwise; what control does not take is lost: they are samples."""
        try:
            await self.link.call("shadow_samples", {"part": outbox.part()}, SAMPLES_S)
        except ServingError as error:
            _log.debug("samples_not_sent", extra={"facts": {"reason": error.message}})
        finally:
            outbox.sending = False

    def _beat_now(self) -> None:
        inflight = self.dataplane.inflight
        self.link.send(Beat(len(self.edge.connections), self._lag_ns, rss_bytes(), inflight, self._listening))

    # ---- the way out ----

    def drain(self, started_ns: int) -> None:
        """Leave without losing a request. See `gateway.drain`.

        Args:
            started_ns: time.monotonic_ns() of the signal.
        """
        delay_ns, grace_ns = self._drain_plan
        self._drain.begin(DrainPlan(started_ns, delay_ns, grace_ns))
        self._spawn(self._leave())

    async def _leave(self) -> None:
        while self._drain.phase != Phase.STOPPED:
            phase = self._drain.advance(time.monotonic_ns(), len(self.edge.connections))
            if phase is None:
                wait_ns = self._drain.wait_ns(time.monotonic_ns()) or 0
                await asyncio.sleep(min(max(wait_ns / 1e9, 0.001), 0.02))
                continue
            self._enter(phase)
        self.edge.stop()
        for tap in self.dataplane.book.taps:
            tap.finish()
        self._watchdog.stop()
        if self._decisions is not None:
            await asyncio.to_thread(self._decisions.close)
        self._on_stopped()

    def _enter(self, phase: Phase) -> None:
        if phase == Phase.ANNOUNCED:
            self.dataplane.draining = True
        elif phase == Phase.CLOSED:
            for server in self._server.servers if self._listening else ():
                server.close()
        elif phase == Phase.FINISHING:
            for connection in self.edge:
                connection.finish_then_close()
        elif phase == Phase.REFUSING:
            for connection in self.edge:
                connection.abort_with_503()

    def _decision_log(self, settings: Decisions, data_dir: Path, identity: Identity) -> DecisionLog:
        sink: Sink = FileSink(data_dir / FOLDER, identity.slot, settings.file_bytes, settings.files)
        if settings.to == "stream":
            sink = StreamSink(self.link.call, self._loop, identity.start_id, settings.stream_lines)
        found = DecisionLog(
            settings,
            sink,
            self.dataplane.counts,
            now_ns=self.dataplane.now_ns,
            now_ms=lambda: time.time_ns() // 1_000_000,
        )
        found.start()
        self.dataplane.book.decisions = found
        return found

    async def close(self) -> None:
        """End the tasks and threads of a worker that shares its process with others."""
        self._server.should_exit = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.fleet.close()
        self.link.close()
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _spawn(self, work: Any) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("task_failed", exc_info=error)


def wanted_version(model: Any) -> WantedVersion:
    """What the fleet loads for a model of the snapshot."""
    return WantedVersion(
        model.name, model.version, model.digest, model.directory, model.file, model.config, model.generation
    )


def _bytes_share(config: Config) -> int:
    """Bytes of requests that one worker may hold: its share of the node's, but never less than one body."""
    limits = config.limits
    return max(limits.binary_body_bytes, limits.bytes_in_flight // max(1, worker_count(config)))


def rss_bytes() -> int:
    """Resident memory of this process now."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def wire_limits(config: Config) -> WireLimits:
    """The bounds of one request's content."""
    limits = config.limits
    return WireLimits(
        json_depth=limits.json_depth,
        json_containers=limits.json_containers,
        inputs=limits.inputs,
        rank=limits.rank,
        elements=limits.elements,
        string_bytes=limits.string_bytes,
    )
