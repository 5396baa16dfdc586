"""Composition root: from a configuration to running processes. All wiring, no logic.

`serve` is what the command line calls; the supervisor starts `python -m gateway.main control|worker name=value ...`.
"""

import asyncio
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gateway import lifeline, logs
from gateway.config import Config, ConfigError, asks_for_keys, worker_count
from gateway.control.alerts import read_secret
from gateway.datadir import DataDir, open_data_dir
from gateway.drain import LAST_WORDS_NS
from gateway.keyfile import KeyFile, KeysUnusable
from gateway.keys import facts_of
from gateway.seats import Command
from gateway.slots import Slots, bind
from gateway.supervisor import REFUSED, Settings, Supervisor

if TYPE_CHECKING:
    from gateway.counters import CounterPage

CONTROL_NICENESS: Final = 5
_STOP_SLACK_S: Final = 2.0
_SWITCH_S: Final = 0.0005
"""A thread that loads a model gives the interpreter back to the loop after so long; by default it is ten times that."""
_BACKOFF_S: Final = (0.0, 0.2, 0.5, 1.0, 2.0, 5.0)
# One thread per execution is planned for; a maths library that makes its own pool would upset the plan. ONNX Runtime
# reads session options from models when told to, and reports usage on some platforms.
_ENVIRONMENT: Final = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "ORT_DISABLE_TELEMETRY": "1"}
_REMOVED: Final = ("ORT_LOAD_CONFIG_FROM_MODEL",)


class Prepared:
    """Everything that may be refused before a process is started: sockets, data folder, keys, repository.

    Attributes:
        keys: how many are in force; 0 where nobody is asked for one.

    Raises:
        ConfigError
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.data_dir: DataDir | None = None
        self.slots: Slots | None = None
        self.keys = 0
        self.admin: socket.socket | None = None
        repository = Path(config.models.repository).expanduser()
        if not repository.exists():
            raise ConfigError(
                f"models.repository: {config.models.repository} does not exist: give a folder of models "
                "(NAME/1/model.onnx) or a model file"
            )
        if config.store.url is not None:
            from gateway.store.opening import check_url

            check_url(config.store.url)
        try:
            self.slots = _bound(config, "port", lambda: Slots(*_address(config), max(1, worker_count(config))))
            if config.server.admin_port is not None:
                port = config.server.admin_port
                self.admin = _bound(config, "admin_port", lambda: bind(config.server.host, port, shared=False))
            self.data_dir = open_data_dir(config.data)
            self.keys = _usable_keys(config, self.data_dir)
            read_secret(config.alerts)
        except ConfigError:
            self.close()
            raise

    @property
    def port(self) -> int:
        """Of the data port."""
        assert self.slots is not None, "bound in the constructor"
        return self.slots.port

    @property
    def admin_port(self) -> int | None:
        """Of the admin port; None when there is none."""
        return None if self.admin is None else int(self.admin.getsockname()[1])

    def facts(self) -> dict[str, Any]:
        """What children have to know beside the configuration."""
        assert self.data_dir is not None, "opened in the constructor"
        return {
            "run_id": os.urandom(8).hex(),
            "data_dir": str(self.data_dir.path),
            "ephemeral": self.data_dir.ephemeral,
            "host": self.config.server.host,
            "port": self.port,
            "admin_port": self.admin_port,
        }

    def close(self) -> None:
        """Let go of everything."""
        if self.slots is not None:
            self.slots.close()
        if self.admin is not None:
            self.admin.close()
        if self.data_dir is not None:
            self.data_dir.close()


def _usable_keys(config: Config, data_dir: DataDir) -> int:
    if not asks_for_keys(config):
        return 0
    try:
        return len(facts_of(KeyFile(data_dir.path).read(), time.time()))
    except KeysUnusable as error:
        raise ConfigError(f"data.dir: {data_dir.path}: {error.message}") from error


def _address(config: Config) -> tuple[str, int]:
    return config.server.host, config.server.port


def _bound(config: Config, key: str, make: Any) -> Any:
    try:
        return make()
    except OSError as error:
        port = getattr(config.server, key)
        raise ConfigError(f"server.{key}: cannot listen on {config.server.host}:{port}: {error.strerror}") from error


def serve(prepared: Prepared) -> int:
    """Run until a signal; gives the exit code."""
    try:
        if worker_count(prepared.config) == 0:
            return _serve_single(prepared)
        return _supervise(prepared)
    finally:
        prepared.close()


def _supervise(prepared: Prepared) -> int:
    import msgspec

    config = prepared.config
    document = json.dumps({"config": msgspec.to_builtins(config), "facts": prepared.facts()}).encode()
    descriptor = lifeline.memory("tidegate-config", len(document))
    os.pwrite(descriptor, document, 0)
    environment = {name: value for name, value in os.environ.items() if name not in _REMOVED} | _ENVIRONMENT
    settings = Settings(
        # -P: a folder called gateway in the working directory is none of ours.
        command=Command((sys.executable, "-P", "-m", "gateway.main"), environment),
        config_fd=descriptor,
        stop_s=config.server.grace_ms / 1000 + LAST_WORDS_NS / 1e9 + _STOP_SLACK_S,
        heartbeat_timeout_s=config.server.heartbeat_timeout_ms / 1000,
        backoff_s=_BACKOFF_S,
    )
    assert prepared.slots is not None, "bound in the constructor"
    order = ("debug", "info", "warning", "error")

    def log(level: str, event: str, facts: dict[str, object]) -> None:
        if order.index(level) >= order.index(config.logs.level):
            logs.write(level, event, {"role": "supervisor", **facts})

    return Supervisor(settings, prepared.slots, prepared.admin, log).run()


def _serve_single(prepared: Prepared) -> int:
    """`workers: 0`: control and one worker on one loop, with the same link between them."""
    for name in _REMOVED:
        os.environ.pop(name, None)
    os.environ.update({name: value for name, value in _ENVIRONMENT.items() if name not in os.environ})
    import uvloop

    from gateway.single import Single

    handler = logs.configure("single", prepared.config.logs.level)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        code = runner.run(Single(prepared.config, prepared.facts(), prepared.slots, prepared.admin).run())
    handler.drain()
    return code


def _run_control(facts: dict[str, str]) -> None:
    lifeline.become_child(int(facts["parent"]), niceness=CONTROL_NICENESS)
    import uvloop

    from gateway.control.counts import Finals
    from gateway.control.process import Control, read_facts
    from gateway.counters import PAGE_BYTES

    config, shared = read_facts(int(facts["config"]))
    handler = logs.configure("control", config.logs.level)
    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    finals = Finals(_shared(int(facts["finals"]), PAGE_BYTES))
    admin = socket.socket(fileno=int(facts["admin"])) if "admin" in facts else None

    stopping = False

    def on_message(message: lifeline.Message, descriptors: list[int]) -> None:
        nonlocal stopping
        if stopping:
            return
        stopping = message["say"] == "stop"
        task = loop.create_task(leave() if stopping else control.heard(message, descriptors))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    async def leave() -> None:
        try:
            await control.finish()
        finally:
            _exit(handler, 0)

    tasks: set[asyncio.Task[None]] = set()
    line = lifeline.ChildLine(
        socket.socket(fileno=int(facts["line"])), loop, on_message=on_message, on_end=lambda: _exit(handler, 1)
    )
    control = Control(config, shared, finals, line.say)

    async def begin() -> None:
        control.start(admin)
        line.start()

    beginning = loop.create_task(begin())
    loop.run_forever()
    beginning.cancel()


def _run_worker(facts: dict[str, str]) -> None:
    lifeline.become_child(int(facts["parent"]))
    sys.setswitchinterval(_SWITCH_S)
    import uvloop

    from gateway.control.process import read_facts
    from gateway.worker import Identity, Worker

    config, shared = read_facts(int(facts["config"]))
    handler = logs.configure("worker", config.logs.level)
    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    page = _page(int(facts["page"]))
    identity = Identity(int(facts["slot"]), os.getpid(), facts["start_id"])

    async def listen(descriptor: int) -> None:
        await worker.listen(socket.socket(fileno=descriptor))
        line.say({"say": "listening"})

    def on_message(message: lifeline.Message, descriptors: list[int]) -> None:
        match message["say"]:
            case "link":
                worker.attach(socket.socket(fileno=descriptors[0]))
            case "slot":
                tasks.append(loop.create_task(listen(descriptors[0])))
            case "adopt":
                tasks.append(loop.create_task(worker.adopt(socket.socket(fileno=descriptors[0]))))
            case "drain":
                worker.drain(message["started_ns"])

    tasks: list[asyncio.Task[None]] = []
    line = lifeline.ChildLine(
        socket.socket(fileno=int(facts["line"])), loop, on_message=on_message, on_end=lambda: _exit(handler, 1)
    )
    worker = Worker(
        config,
        identity,
        page,
        loop,
        data_dir=Path(shared["data_dir"]),
        on_ready=lambda: line.say({"say": "ready"}),
        on_stopped=lambda: _exit(handler, 0),
    )
    worker.start()
    line.start()
    loop.run_forever()


def _page(descriptor: int) -> "CounterPage":
    """This worker's page; a crash leaves its traceback behind it, for control."""
    import faulthandler

    from gateway.counters import PAGE_BYTES, TRACE_BYTES, parts

    os.lseek(descriptor, PAGE_BYTES - TRACE_BYTES, os.SEEK_SET)
    faulthandler.enable(descriptor)
    return parts(_shared(descriptor, PAGE_BYTES))[0]


def _shared(descriptor: int, size_bytes: int) -> memoryview:
    import mmap

    return memoryview(mmap.mmap(descriptor, size_bytes))


def _exit(handler: logs.JsonHandler, code: int) -> None:
    """End at once: a thread that still executes a model must not hold up a stop whose requests are answered."""
    handler.drain()
    os._exit(code)


def main(argv: list[str]) -> int:
    """A child of the supervisor: role and facts."""
    role, *pairs = argv
    facts = dict(pair.split("=", 1) for pair in pairs)
    try:
        {"control": _run_control, "worker": _run_worker}[role](facts)
    except ConfigError as error:
        logs.write("error", "refused", {"role": role, "reason": str(error)})
        return REFUSED
    return 1


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    sys.exit(main(sys.argv[1:]))
