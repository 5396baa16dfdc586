"""What a request costs without the kernel: `python -m loadtests.hotpath`.

Bytes go into the real protocol of the data port, answers come out of a transport that keeps them; nothing is sent, and
no processor sleeps in between. It tells slower code from a slower machine within seconds: run two commits in turn.
Wake-ups and sockets are not in it.
"""

import asyncio
import gc
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from uvicorn.config import Config as UvicornConfig
from uvicorn.server import ServerState

from gateway.config import Config
from gateway.counters import CounterPage
from gateway.dataplane import Dataplane
from gateway.http.edge import Edge
from gateway.http.limits import EdgeLimits
from gateway.http.protocol import EdgeProtocol
from gateway.logs import request_log
from gateway.served import Codec, ServedVersion
from gateway.wire.request import Limits
from loadtests import models
from runtimes.batching.turns import TurnScheduler
from runtimes.execution.watchdog import Watchdog
from runtimes.registry.modelconfig import ModelConfig
from runtimes.runtime import Environment, Runtime, WantedVersion, prepare

BATCHES = (1, 4, 32)
ROUNDS, REQUESTS = 15, 3_000
BUDGET_NS = Config().execution.inline_turn_budget_us * 1000
NAME = "tiny"


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


class HotPath:
    """One worker's hot path, from bytes to bytes, without a process around it."""

    def __init__(self, folder: Path, most: int) -> None:
        self.loop = TurnedLoop()
        page = CounterPage(memoryview(bytearray(1 << 22)))
        threads = ThreadPoolExecutor(1)
        self.watchdog = Watchdog(time.perf_counter_ns)
        dataplane = Dataplane(
            page=page,
            limits=Limits(),
            inline_body_bytes=1 << 18,
            bytes_in_flight=1 << 30,
            decode_executor=threads,
            call_soon_threadsafe=lambda *_: None,
            log=request_log(),
        )
        runtime = self._runtime(folder, dataplane)
        served = ServedVersion(Codec(runtime, page, Limits()), request_log(), time.perf_counter_ns, lambda: 0)
        dataplane._served = {(NAME, ""): served}
        payload = models.json_payload(NAME, models.TINY_SIZES[0])
        dataplane.paths = {payload.path.encode(): (NAME, "")}
        self.request = models.http_request(payload, 8080, 1)
        edge = Edge(dataplane, EdgeLimits(), call_later=self.loop.call_later, executor=threads)
        self.answers = [KeptAnswer() for _ in range(most)]
        self.connections = [self._connection(edge, transport) for transport in self.answers]

    def _runtime(self, folder: Path, dataplane: Dataplane) -> Runtime:
        (folder / "model.onnx").write_bytes(models.tiny())
        scheduler = TurnScheduler(self.loop, time.perf_counter_ns, budget_ns=BUDGET_NS)
        loop = asyncio.get_running_loop()
        environment = Environment(loop, scheduler, self.watchdog, time.perf_counter_ns, 1, BUDGET_NS, 1 << 33)
        runtime = Runtime(WantedVersion(NAME, 1, "sha256:0", str(folder), "model.onnx", ModelConfig()), environment)
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
        for connection in self.connections[:requests]:
            connection.data_received(self.request)
        self.loop.run()


async def _no_application(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError("every request here is plain")


async def measure() -> dict[int, float]:
    """us per batch of so many requests, each on its own connection: the fourth best of the rounds."""
    with tempfile.TemporaryDirectory(prefix="tidegate-hotpath-") as folder:
        path = HotPath(Path(folder), max(BATCHES))
        for batch in BATCHES:
            path.turn(batch)
        assert all(b" 200 OK" in one.answer for one in path.answers), path.answers[0].answer
        gc.freeze()
        found: dict[int, list[float]] = {batch: [] for batch in BATCHES}
        for _ in range(ROUNDS):
            for batch in BATCHES:
                turns = REQUESTS // batch
                begun_ns = time.perf_counter_ns()
                for _ in range(turns):
                    path.turn(batch)
                found[batch].append((time.perf_counter_ns() - begun_ns) / turns / 1000)
        path.watchdog.stop()
    return {batch: sorted(values)[3] for batch, values in found.items()}


def main() -> None:
    """Measure and print."""
    for batch, took_us in asyncio.run(measure()).items():
        print(f"{batch:3d} requests: {took_us:6.1f} us, {took_us / batch:5.1f} us each")


if __name__ == "__main__":
    main()
