"""The control process: a service, the links, the counter pages and the admin port on one event loop."""

import asyncio
import json
import logging
import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import msgspec

from gateway import __version__, native
from gateway.config import Config, ConfigError, asks_for_keys, policy_folder, threads_per_execution, worker_count
from gateway.control.catalogue import Catalogue
from gateway.control.counts import Finals, Totals, mapped, total
from gateway.control.keys import KeyDesk
from gateway.control.lives import until_restored
from gateway.control.messages import Snapshot, WantedModel
from gateway.control.policyfacts import TrafficFacts
from gateway.control.quarantine import Blamed, Quarantine, blamed, summary
from gateway.control.service import Service, Settings
from gateway.control.traffic import Traffic, open_traffic
from gateway.counters import CRASHES, MODEL_VALUES, CounterPage
from gateway.http.gate import Gate
from gateway.http.limits import admin_limits
from gateway.http.origin import Names
from gateway.keyfile import KeyFile
from gateway.keys import KeyFacts
from gateway.lifeline import HUNG, Message
from gateway.metrics import MetricsPage, Node
from gateway.store.base import StoreAway, StoreUnusable
from gateway.supervisor import REFUSED
from runtimes.registry.cache import ModelCache
from runtimes.registry.directory import DirectorySource
from runtimes.registry.probe import probe

ADMIN_BACKLOG: Final = 128
_LEAVE_S: Final = 1.0
_STATE_FILE: Final = "control.state"
_LIBRARIES: Final = ("onnxruntime", "numpy", "uvicorn", "starlette")
_log: Final = logging.getLogger(__name__)


class Remembered(msgspec.Struct, frozen=True):
    """What a control leaves to the next one of the same process tree."""

    run_id: str
    snapshot: Snapshot
    explicit: list[str] | None
    withheld: list[WantedModel] = []
    crashes: dict[str, list[float]] = {}


class Control:
    """Everything of the control process but its loop and its line to the supervisor.

    Args:
        facts: of the process tree: run_id, data_dir, ephemeral, host, port, admin_port.
        finals: counts of dead workers.
        say: tells the supervisor.
    """

    def __init__(self, config: Config, facts: dict[str, Any], finals: Finals, say: Callable[[Message], None]) -> None:
        self._facts = facts
        self._data_dir = Path(facts["data_dir"])
        self._finals = finals
        self._say = say
        self._pages: dict[str, CounterPage] = {}
        self._traces: dict[str, memoryview] = {}
        self._page = MetricsPage()
        self._tasks: set[asyncio.Task[Any]] = set()
        remembered = self._recall()
        catalogue = self._catalogue(config, remembered)
        if remembered is not None:
            catalogue.restore([*remembered.snapshot.models, *remembered.withheld])
        self.service = Service(
            _settings(config),
            catalogue,
            totals=self.totals,
            metrics_page=self._render,
            remember=self._remember,
            quarantine=Quarantine(remembered.crashes if remembered else {}),
            restored=remembered.snapshot if remembered else None,
        )
        self._store_url = config.store.url
        self._policy_folder = policy_folder(config)
        self._alerts = config.alerts
        self._decisions = config.decisions.to if config.decisions.log else "off"
        self._restored = remembered is not None
        self.traffic: Traffic | None = None
        self._admin_limits = admin_limits(config)
        self._gate = Gate() if asks_for_keys(config) else None
        self._names = Names(config.server.host, config.server.admin_hosts)
        self._keys = KeyDesk(KeyFile(self._data_dir), self._put_keys)
        self._put_keys(self.service.snapshot.keys)
        self._keys.look_first()
        self._admin_facts = {
            **{key: facts[key] for key in ("host", "port", "admin_port", "data_dir", "ephemeral")},
            "version": __version__,
            "compiled": native.is_compiled(),
            "auth": config.server.auth,
            "control_mode": config.models.control_mode,
            "repository": config.models.repository,
            "workers": worker_count(config),
            "threads_per_execution": threads_per_execution(config),
        }

    def _catalogue(self, config: Config, remembered: Remembered | None) -> Catalogue:
        models = config.models
        explicit: set[str] | None = None
        if models.control_mode == "explicit":
            names = remembered.explicit if remembered and remembered.explicit is not None else models.load
            explicit = set(names)
        source = DirectorySource(
            Path(models.repository).expanduser(),
            models.quiet_period_ms * 1_000_000,
            monotonic_ns=time.monotonic_ns,
            wall_ns=time.time_ns,
        )
        look = partial(probe, timeout_s=models.probe_timeout_ms / 1000, memory_bytes=models.probe_memory_bytes)
        return Catalogue(source, ModelCache(self._data_dir / "models", models.cache_bytes), look, explicit)

    def _put_keys(self, keys: tuple[KeyFacts, ...]) -> None:
        """In force here and on every worker, where keys are asked for."""
        if self._gate is not None:
            self._gate.apply(keys)
            self.service.set_keys(keys)

    # ---- counts ----

    def totals(self) -> Totals:
        """The node's counts now."""
        return total([self._finals.page, *self._pages.values()])

    def add_page(self, start_id: str, page: CounterPage) -> None:
        """A worker's page, from its start until it is folded."""
        self._pages[start_id] = page

    def _map(self, start_id: str, descriptor: int) -> None:
        page, self._traces[start_id] = mapped(descriptor)
        os.close(descriptor)
        self.add_page(start_id, page)

    def fold(self, start_id: str, reason: str) -> None:
        """A worker is dead: its counts are final, and a version may be to blame."""
        page, trace = self._pages.pop(start_id, None), self._traces.pop(start_id, None)
        if page is not None:
            said = b"" if trace is None else bytes(trace).rstrip(b"\0")
            version = blamed(page, said, hung=reason == HUNG)
            if self.traffic is not None:
                self.traffic.died(start_id, page, version[0] if version else "")
            if said or version:
                self._accuse(page, version, said, reason)
            self._finals.fold(start_id, page)
            self._say({"say": "folded", "start_id": start_id})

    def _accuse(self, page: CounterPage, version: Blamed | None, trace: bytes, reason: str) -> None:
        """Log a crash; count it and hold it against a version, if one is to blame."""
        facts = {"reason": reason, "trace": summary(trace)}
        if version is not None:
            digest, model, number = version
            page.block("model", (model, number, "-"), MODEL_VALUES)[CRASHES] += 1
            facts |= {"model": model, "version": number, "digest": digest}
            self.service.crashed(digest, time.monotonic())
        _log.error("worker_crashed", extra={"facts": facts})

    def _render(self, service: Service) -> bytes:
        monitoring = self.traffic.monitoring if self.traffic is not None else None
        return self._page.render(
            Node(
                self.totals(),
                service.snapshot.states,
                service.call_workers(),
                _build(),
                bool(service.source_problem),
                self.traffic.facts() if self.traffic is not None else TrafficFacts(),
                monitoring.facts() if monitoring is not None else None,
                monitoring.monitors.features() if monitoring is not None else {},
            )
        )

    # ---- memory beyond a kill ----

    def _remember(self, service: Service) -> None:
        explicit = service.catalogue.explicit
        names = None if explicit is None else sorted(explicit)
        run_id = self._facts["run_id"]
        state = Remembered(run_id, service.snapshot, names, service.withheld, service.quarantine.crashes)
        path = self._data_dir / _STATE_FILE
        temporary = path.with_suffix(".new")
        try:
            temporary.write_bytes(msgspec.msgpack.encode(state))
            temporary.replace(path)
        except OSError as error:
            _log.error("state_not_written", extra={"facts": {"reason": error.strerror}})

    def _recall(self) -> Remembered | None:
        try:
            found = msgspec.msgpack.decode((self._data_dir / _STATE_FILE).read_bytes(), type=Remembered)
        except (OSError, msgspec.MsgspecError):
            return None
        return found if found.run_id == self._facts["run_id"] else None

    # ---- running ----

    def start(self, admin: socket.socket | None) -> None:
        """Open the store, look at the repository, serve the admin port."""
        if admin is not None:
            admin.listen(ADMIN_BACKLOG)  # who calls before it is served waits and is not refused
        self._spawn(self._begin(admin))

    async def _begin(self, admin: socket.socket | None) -> None:
        try:
            self.traffic = traffic = await open_traffic(
                self._store_url,
                self.service,
                self._data_dir,
                run=self._facts["run_id"],
                pages=lambda: (self._pages, self._finals.page),
                totals=self.totals,
                folder=self._policy_folder,
                alerts=self._alerts,
                decisions=self._decisions,
            )
        except (ConfigError, StoreUnusable, StoreAway) as error:
            if self._restored:
                # Workers answer on; the next control tries again.
                raise
            reason = str(error) if isinstance(error, ConfigError) else f"store: {error.message}"
            _log.critical("refused", extra={"facts": {"reason": reason}})
            asyncio.get_running_loop().call_later(0.2, os._exit, REFUSED)
            return
        if traffic.webhook is not None:
            self._spawn(traffic.webhook.run())
        self._spawn(traffic.policies.follow())
        self._spawn(traffic.measure())
        self._spawn(self._leave(traffic))
        if traffic.folder is not None:
            self._spawn(traffic.folder.run())
        self._spawn(traffic.rollouts.run())
        self._spawn(traffic.experiments.run())
        self._spawn(self.service.run())
        self._spawn(self._keys.run())
        self._spawn(self._go_on(admin, traffic))

    async def _leave(self, traffic: Traffic) -> None:
        """A backup was restored: the next control begins with what it says, and workers serve on meanwhile."""
        await until_restored(traffic.store, lambda: traffic.policies.life, asyncio.sleep)
        _log.warning("store_restored")
        # No goodbye: what this process would save is of the life before. Who restored it here hears so first.
        asyncio.get_running_loop().call_later(_LEAVE_S, os._exit, 1)

    async def _go_on(self, admin: socket.socket | None, traffic: Traffic) -> None:
        """What models and traffic do not wait for; imported in a thread, for a fifth of a second each."""
        monitoring = await traffic.watch()
        self._spawn(monitoring.monitors.run())
        if admin is not None:
            await self._serve_admin(admin, traffic)

    async def _serve_admin(self, admin: socket.socket, traffic: Traffic) -> None:
        module = await asyncio.to_thread(import_module, "gateway.http.adminserver")
        await module.serve_admin(
            admin,
            self.service,
            traffic,
            self._keys,
            self._admin_facts,
            self._admin_limits,
            gate=self._gate,
            names=self._names,
        )

    async def heard(self, message: Message, descriptors: list[int]) -> None:
        """Act on a word of the supervisor; the descriptors are ours."""
        match message["say"]:
            case "worker":
                link, page = descriptors
                self._map(message["start_id"], page)
                self.service.introduce(message["start_id"], message["restarts"], message["reason"])
                await self.service.link.attach(socket.socket(fileno=link))
            case "dead":
                self._map(message["start_id"], descriptors[0])
                self.fold(message["start_id"], "while control was away")
            case "gone":
                self.fold(message["start_id"], message["reason"])
            case other:
                _log.error("unknown_word", extra={"facts": {"word": other}})

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # Killed and started anew, control is right again within a round.
            _log.critical("control_failed", exc_info=error)
            asyncio.get_running_loop().call_later(0.2, os._exit, 1)

    async def finish(self) -> None:
        """Save what the store has not yet of this process tree, whose counts go with it."""
        if self.traffic is not None and self.traffic.monitoring is not None:
            await self.traffic.monitoring.monitors.finish()
        if self.traffic is not None:
            await self.traffic.experiments.close()  # by the lease, which another node may have after this
            with suppress(StoreAway):
                await self.traffic.rollouts.leave()

    async def close(self) -> None:
        """End what runs."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.finish()
        self.service.close()
        if self.traffic is not None:
            await self.traffic.close()


def _settings(config: Config) -> Settings:
    models = config.models
    return Settings(
        models.control_mode,
        str(Path(models.repository).expanduser()),
        models.poll_interval_ms / 1000,
        models.quiet_period_ms / 1000,
        models.allow_degraded_start,
        worker_count(config),
    )


def read_facts(descriptor: int) -> tuple[Config, dict[str, Any]]:
    """The configuration and the facts of the process tree, as the supervisor wrote them into shared memory."""
    size = os.fstat(descriptor).st_size
    document = json.loads(os.pread(descriptor, size, 0))
    return msgspec.convert(document["config"], Config), document["facts"]


@cache
def _build() -> dict[str, str]:
    """Versions of what runs here, for the metrics page."""
    from importlib.metadata import version  # noqa: PLC0415  # 20 ms of a start

    libraries = {name: version(name) for name in _LIBRARIES}
    return {"version": __version__, "hot_path": native.in_words(), **libraries}
