"""What a request costs without the kernel: `python -m loadtests.hotpath`.

Bytes go into the real protocol of the data port, answers come out of a transport that keeps them; nothing is sent, and
no processor sleeps in between. It tells slower code from a slower machine within seconds: run two commits in turn.
Wake-ups and sockets are not in it. Policy and monitor are those of `loadtests.routing` and `loadtests.monitor`.
"""

import asyncio
import gc
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

from uvicorn.config import Config as UvicornConfig
from uvicorn.server import ServerState

from gateway import native
from gateway.config import Config
from gateway.control.messages import PolicyState, Route, SigningKey, Snapshot, VariantPin, Watched
from gateway.counters import CounterPage
from gateway.dataplane import Dataplane
from gateway.http.edge import Edge
from gateway.http.limits import EdgeLimits
from gateway.http.protocol import EdgeProtocol
from gateway.logs import request_log
from gateway.monitor.plan import CountPlan, FeaturePlan, ScorePlan, encoded
from gateway.wire.request import Limits
from loadtests import models
from loadtests.routing import policy as routed
from runtimes.batching.turns import TurnScheduler
from runtimes.execution.watchdog import Watchdog
from runtimes.fleet import Fleet
from runtimes.registry.modelconfig import ModelConfig
from runtimes.runtime import Environment, Runtime, WantedVersion, prepare

BATCHES = (1, 4, 32)
ROUNDS, REQUESTS = 15, 3_000
BUDGET_NS = Config().execution.inline_turn_budget_us * 1000
NAME, DIGEST = "tiny", "sha256:00000000"
WORKS = {
    "plain": (False, False, False),
    "policy": (True, False, True),
    "policy, no ids": (True, False, False),
    "monitor": (False, True, True),
    "monitor, no ids": (False, True, False),
    "both": (True, True, True),
}
"""Whether a policy decides, whether the monitor watches, and whether answers name their prediction."""
SPLIT = bytes(10_000)
"""All of it to the first variant."""


class TurnedLoop:
    """Callbacks of a turn, run when they are asked for."""

    def __init__(self) -> None:
        self._ready: list[Callable[[], object]] = []

    def call_soon(self, callback: Callable[[], object], /) -> None:
        """As asyncio's."""
        self._ready.append(callback)

    def call_later(self, delay: float, callback: Callable[[], object], /) -> None:
        """Nothing here waits so long."""

    def run(self) -> None:
        """Until nothing is ready."""
        while self._ready:
            ready, self._ready = self._ready, []
            for callback in ready:
                callback()


class KeptAnswer:
    """A transport that keeps the last answer."""

    def __init__(self) -> None:
        self.answer = b""

    def write(self, data: bytes) -> None:
        """As asyncio's."""
        self.answer = data

    def is_closing(self) -> bool:
        """It never does."""
        return False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Addresses; no socket."""
        return ("127.0.0.1", 1) if name in ("sockname", "peername") else default


class OneRuntime:
    """A fleet of one."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def get(self, name: str, version: int) -> Runtime | None:
        """As `Fleet.get`."""
        return self._runtime if (name, version) == (NAME, 1) else None


class HotPath:
    """One worker's hot path, from bytes to bytes, without a process around it.

    Args:
        most: connections.
        policy: one with a sticky header and five header rules decides.
        monitor: every feature and the score are counted.
        ids: answers name their prediction, where policy or monitor is on.

    Attributes:
        page: what it counts.
        taps: where the monitor counts.
    """

    def __init__(
        self, folder: Path, most: int, *, policy: bool = False, monitor: bool = False, ids: bool = True
    ) -> None:
        self.loop = TurnedLoop()
        threads = ThreadPoolExecutor(1)
        self.watchdog = Watchdog(time.perf_counter_ns)
        self.page = CounterPage(memoryview(bytearray(1 << 22)))
        self._dataplane = dataplane = Dataplane(
            page=self.page,
            limits=Limits(),
            inline_body_bytes=1 << 18,
            bytes_in_flight=1 << 30,
            decode_executor=threads,
            call_soon_threadsafe=lambda *_: None,
            log=request_log(),
        )
        self._fleet = cast(Fleet, OneRuntime(self._runtime(folder, dataplane)))
        self.apply(snapshot(policy=policy, monitor=monitor, ids=ids))
        self.taps = list(dataplane.book.taps)
        self.requests = _requests()
        edge = Edge(dataplane, EdgeLimits(), call_later=self.loop.call_later, executor=threads)
        self.answers = [KeptAnswer() for _ in range(most)]
        self.connections = [self._connection(edge, transport) for transport in self.answers]

    def apply(self, wanted: Snapshot) -> None:
        """Serve as a snapshot says."""
        self._dataplane.apply(wanted, self._fleet)

    @property
    def request(self) -> bytes:
        """Of the next user."""
        return next(self.requests)

    def _runtime(self, folder: Path, dataplane: Dataplane) -> Runtime:
        (folder / "model.onnx").write_bytes(models.tiny())
        write = dataplane.book.routings.write
        scheduler = TurnScheduler(self.loop, time.perf_counter_ns, budget_ns=BUDGET_NS, before=write)
        loop = asyncio.get_running_loop()
        environment = Environment(loop, scheduler, self.watchdog, time.perf_counter_ns, 1, BUDGET_NS, 1 << 33)
        runtime = Runtime(WantedVersion(NAME, 1, DIGEST, str(folder), "model.onnx", ModelConfig()), environment)
        runtime.open(prepare(runtime.wanted, environment, lambda: None), dataplane.sink_for)
        return runtime

    def _connection(self, edge: Edge, transport: Any) -> EdgeProtocol:
        config = UvicornConfig(_no_application, http="httptools", lifespan="off", log_config=None)
        config.load()
        made = EdgeProtocol(edge, config, ServerState(), {}, asyncio.get_running_loop())
        made.connection_made(transport)
        return made

    def turn(self, requests: int) -> None:
        """One request on each of so many connections, and the turn that answers them."""
        sent = self.requests
        for connection in self.connections[:requests]:
            connection.data_received(next(sent))
        self.loop.run()

    def count(self) -> None:
        """What a worker does five times a second: count what the monitor has noted."""
        for tap in self.taps:
            while tap.work():
                pass


def snapshot(*, policy: bool, monitor: bool, ids: bool = True) -> Snapshot:
    """One version of one model, and what decides and counts there."""
    pin = VariantPin("stable", NAME, 1, DIGEST)
    document = routed(NAME, {"stable": 10_000}, ids=ids)
    states = (PolicyState(NAME, 1, 1, document, (pin, pin), SPLIT, 0, doublings=-1),) if policy else ()
    watched = (Watched(NAME, 1, DIGEST, encoded(plan()), ids=ids),) if monitor else ()
    routes = {NAME: Route(1, (1,), {})}
    signing = (SigningKey(1, bytes(32)),)
    return Snapshot(1, (), routes, True, policies=states, signing=signing, unit_key=bytes(32), watched=watched)


def plan() -> CountPlan:
    """Ten bins for each feature, and the score."""
    edges = tuple(range(-5, 6))
    features = tuple(FeaturePlan(f"f{at}", "numeric", 0, at, edges) for at in range(models.TINY_SIZES[0]))
    return CountPlan("0" * 16, features, ScorePlan(0, 0, "probability", 0.5, ((0.0, 0.0), (1.0, 1.0))))


def _requests() -> Iterator[bytes]:
    """Those of all users, in turn, for ever."""
    payload = models.json_payload(NAME, models.TINY_SIZES[0])
    return itertools.cycle([models.http_request(payload, 8080, user) for user in range(models.USERS)])


async def _no_application(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError("every request here is plain")


async def measure() -> dict[str, dict[int, float]]:
    """us per batch of so many requests, each on its own connection: the fourth best of the rounds, by work."""
    with ExitStack() as stack:
        paths = {work: _path(stack, *asked) for work, asked in WORKS.items()}
        gc.freeze()
        found: dict[str, dict[int, list[float]]] = {work: {batch: [] for batch in BATCHES} for work in WORKS}
        for _ in range(ROUNDS):
            for batch in BATCHES:
                for work, path in paths.items():
                    found[work][batch].append(_batch_us(path, batch))
                    path.count()
    return {work: {batch: sorted(values)[3] for batch, values in by.items()} for work, by in found.items()}


def _path(stack: ExitStack, policy: bool, monitor: bool, ids: bool) -> HotPath:
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="tidegate-hotpath-"))
    path = HotPath(Path(folder), max(BATCHES), policy=policy, monitor=monitor, ids=ids)
    stack.callback(path.watchdog.stop)
    for batch in (*BATCHES, *[max(BATCHES)] * 10):
        path.turn(batch)
    assert all(b" 200 OK" in one.answer for one in path.answers), path.answers[0].answer
    return path


def _batch_us(path: HotPath, batch: int) -> float:
    turns = REQUESTS // batch
    begun_ns = time.perf_counter_ns()
    for _ in range(turns):
        path.turn(batch)
    return (time.perf_counter_ns() - begun_ns) / turns / 1000


def main() -> None:
    """Measure and print; what the monitor counts later is not in it."""
    print(f"hot path {native.in_words()}")
    for work, by in asyncio.run(measure()).items():
        for batch, took_us in by.items():
            print(f"{work:15} {batch:3d} requests: {took_us:6.1f} us, {took_us / batch:5.2f} us each")


if __name__ == "__main__":
    main()
