"""Settings of a server: frozen structs with their defaults. `gateway.configfile` reads them.

Relative paths start at the working directory; `~` is the user's home.
"""

import ipaddress
import os
import re
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta, Struct

_HOST_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,253}")
Positive = Annotated[int, Meta(ge=1)]
NonNegative = Annotated[int, Meta(ge=0)]
Port = Annotated[int, Meta(ge=0, le=65535)]


class Section(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every section: unknown keys are errors."""


class Server(Section, frozen=True):
    """Where the server listens, and how it comes and goes.

    Attributes:
        host: address of the data port and the admin port; another than a loopback one needs keys or `trusted_network`.
        port: of the Open Inference Protocol; 0 = any free one.
        admin_port: of the admin API; 0 = any free one; null = none.
        workers: processes that answer; null = one per usable CPU; 0 = everything in one process.
        auth: keys = both ports ask for a key; none = nobody is asked for one.
        admin_hosts: names that the admin port answers to beside those of this machine and `host`; without a port.
        trusted_network: nobody is asked for a key, and that is meant so.
        behind_proxy: a balancer stands in front: connections are kept longer and a drain is announced first.
        keep_alive_ms: an idle connection lives so long; null = 5 s, 65 s behind a proxy.
        drain_delay_ms: readiness says 503 so long before listening ends; null = 0, 5 s behind a proxy.
        grace_ms: from the signal until what is still due gets 503.
        heartbeat_timeout_ms: a process silent for so long is killed and started anew.
    """

    host: str = "127.0.0.1"
    port: Port = 8080
    admin_port: Port | None = 8081
    workers: Annotated[int, Meta(ge=0, le=256)] | None = None
    auth: Literal["none", "keys"] = "none"
    admin_hosts: tuple[str, ...] = ()
    trusted_network: bool = False
    behind_proxy: bool = False
    keep_alive_ms: Positive | None = None
    drain_delay_ms: NonNegative | None = None
    grace_ms: Annotated[int, Meta(ge=0, le=3_600_000)] = 30_000
    heartbeat_timeout_ms: Annotated[int, Meta(ge=1000)] = 10_000


class Limits(Section, frozen=True):
    """Bounds; each names its scope. Sources and reasons: docs/configuration.md.

    Attributes:
        connections, bytes_in_flight: per node, shared evenly by the workers; a worker's share of bytes is never
            below the largest body.
        inline_body_bytes: larger bodies are decoded off the event loop.
        fast_body_bytes: larger bodies take the slow lane.
    """

    url_bytes: Positive = 8192
    header_count: Positive = 64
    header_bytes: Positive = 8192
    headers_total_bytes: Positive = 32768
    header_timeout_ms: Positive = 10_000
    body_timeout_ms: Positive = 30_000
    body_min_bytes_per_s: Positive = 1024
    write_timeout_ms: Positive = 30_000
    body_chunks: Positive = 65536
    json_body_bytes: Positive = 2 * 1024 * 1024
    binary_body_bytes: Positive = 64 * 1024 * 1024
    fast_body_bytes: Positive = 1024 * 1024
    inline_body_bytes: Positive = 256 * 1024
    bytes_in_flight: Positive = 512 * 1024 * 1024
    connections: Positive = 1000
    admin_connections: Positive = 100
    admin_body_bytes: Positive = 65536
    json_depth: Positive = 32
    json_containers: Positive = 65536
    inputs: Positive = 64
    rank: Annotated[int, Meta(ge=1, le=32)] = 8
    elements: Positive = 16_777_216
    string_bytes: Positive = 1024 * 1024


class Models(Section, frozen=True):
    """What is served.

    Attributes:
        repository: a directory of models, or one model file.
        control_mode: none = what is there at start; poll = follow the directory; explicit = load and unload on call.
        load: names loaded at start in mode explicit; "*" = all.
        poll_interval_ms: between two looks at the directory in mode poll.
        quiet_period_ms: files must have been unchanged for so long: a half-written upload is never loaded.
        allow_degraded_start: ready although some models failed to load, each with its reason.
        cache_bytes: bound of the private copies; null = the smaller of 20 GiB and half the free space.
        probe_timeout_ms, probe_memory_bytes: bounds of the first load of unknown files, in a process of its own.
    """

    repository: str = "models"
    control_mode: Literal["none", "poll", "explicit"] = "none"
    load: tuple[str, ...] = ()
    poll_interval_ms: Annotated[int, Meta(ge=50)] = 2000
    quiet_period_ms: NonNegative = 2000
    allow_degraded_start: bool = False
    cache_bytes: Positive | None = None
    probe_timeout_ms: Annotated[int, Meta(ge=1000)] = 120_000
    probe_memory_bytes: Positive = 8 * 1024**3


class Execution(Section, frozen=True):
    """How models run.

    Attributes:
        inline_turn_budget_us: time for executions in one turn of the event loop; longer ones run in threads.
        linger_us: look for the next request so long before the loop sleeps, where that pays; 0 = never.
        threads: CPUs of the node to plan with; null = those that the process may use.
    """

    inline_turn_budget_us: Annotated[int, Meta(ge=100, le=100_000)] = 1000
    linger_us: Annotated[int, Meta(ge=0, le=1000)] = 60
    threads: Positive | None = None


class Data(Section, frozen=True):
    """State on disk.

    Attributes:
        dir: model cache, lock and keys; null = the user's data folder (XDG).
        ephemeral: use a temporary folder when `dir` cannot be written; it is gone after the stop.
    """

    dir: str | None = None
    ephemeral: bool = False


class Store(Section, frozen=True):
    """Where policies, rollouts, audit and feedback are kept.

    Attributes:
        url: redis://, rediss://, unix://, redis+sentinel:// or redis+cluster:// for several nodes; null = a file in the
            data folder.
    """

    url: str | None = None


class Policies(Section, frozen=True):
    """Where policies and Monitor documents come from beside the admin port.

    Attributes:
        folder: each *.yaml in it is a policy or a Monitor document, followed while the server runs; null = none.
    """

    folder: str | None = None


class Logs(Section, frozen=True):
    """What is written to standard error, as JSON lines."""

    level: Literal["debug", "info", "warning", "error"] = "info"


class Alerts(Section, frozen=True):
    """Who is told of decisions.

    Attributes:
        webhook_url: gets each decision as a CloudEvent; null = nobody does.
        webhook_secret_file: holds what the events are signed with, 16 bytes and more.
    """

    webhook_url: str | None = None
    webhook_secret_file: str | None = None


class Decisions(Section, frozen=True):
    """The log of single routing decisions.

    Attributes:
        log: one line per request that a policy routed; never inputs.
        to: files = in `decisions/` of the data folder; stream = in a Redis of `store.url`, for all nodes together.
        outputs: names of outputs whose value is written with requests of one row.
        file_bytes, files: a file that is full is rotated; so many are kept per worker.
        stream_lines: kept in the stream, about; beyond them the oldest go.
        buffer: lines that wait to be written, per worker; what comes beyond is dropped and counted.
    """

    log: bool = False
    to: Literal["files", "stream"] = "files"
    outputs: tuple[str, ...] = ()
    file_bytes: Annotated[int, Meta(ge=4096)] = 64 * 1024 * 1024
    files: Annotated[int, Meta(ge=1, le=1000)] = 8
    stream_lines: Annotated[int, Meta(ge=1000, le=100_000_000)] = 1_000_000
    buffer: Annotated[int, Meta(ge=100, le=1_000_000)] = 20_000


class Config(Section, frozen=True):
    """The whole."""

    server: Server = Server()
    limits: Limits = Limits()
    models: Models = Models()
    execution: Execution = Execution()
    data: Data = Data()
    store: Store = Store()
    policies: Policies = Policies()
    logs: Logs = Logs()
    alerts: Alerts = Alerts()
    decisions: Decisions = Decisions()


class ConfigError(Exception):
    """Settings that cannot be used; the message is one line."""


def check(config: Config) -> None:
    """Rules that span several keys. Raises ConfigError."""
    server, limits = config.server, config.limits
    if not server.host or not server.host.isascii() or not server.host.isprintable():
        raise ConfigError(f"server.host: expected an address or a name, got {server.host[:80]!r}")
    if not config.models.repository:
        raise ConfigError("models.repository: expected a folder or a model file, got nothing")
    if not is_loopback(server.host) and not server.trusted_network and server.auth != "keys":
        raise ConfigError(
            f"server.host: {server.host} is reachable from elsewhere, and nobody would be asked for a key: set "
            "server.auth: keys, or server.trusted_network: true if that is meant, or bind to 127.0.0.1"
        )
    for name in server.admin_hosts:
        if not _HOST_NAME.fullmatch(name) and not is_address(name):
            raise ConfigError(f"server.admin_hosts: expected names or addresses without a port, got {name[:80]!r}")
    if server.port and server.port == server.admin_port:
        raise ConfigError(f"server.admin_port: {server.admin_port} is the data port already")
    if limits.fast_body_bytes > limits.json_body_bytes:
        raise ConfigError("limits.fast_body_bytes: larger than limits.json_body_bytes")
    if limits.binary_body_bytes > limits.bytes_in_flight:
        raise ConfigError("limits.binary_body_bytes: one body must fit limits.bytes_in_flight")
    if drain_delay_ms(server) > server.grace_ms:
        raise ConfigError("server.drain_delay_ms: longer than server.grace_ms")
    if config.models.load and config.models.control_mode != "explicit":
        raise ConfigError("models.load: only models.control_mode: explicit loads by name")
    if config.decisions.to == "stream" and config.store.url is None:
        raise ConfigError(
            "decisions.to: stream needs a Redis: set store.url: redis://HOST:PORT, or decisions.to: files"
        )


def is_address(host: str) -> bool:
    """Whether this is an address and no name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def asks_for_keys(config: Config) -> bool:
    """Whether both ports ask for a key."""
    return config.server.auth == "keys"


def keys_in_words(config: Config) -> str:
    """Whether keys are asked for, as a sentence."""
    host = config.server.host
    if asks_for_keys(config):
        return "both ports ask for a key"
    if is_loopback(host):
        return f"nobody is asked for a key: only this machine reaches {host}"
    return f"{host} is reachable from elsewhere as a trusted network: NOBODY IS ASKED FOR A KEY"


def policy_folder(config: Config) -> Path | None:
    """The folder of policies that is followed; None = there is none."""
    folder = config.policies.folder
    return Path(folder).expanduser() if folder is not None else None


def drain_delay_ms(server: Server) -> int:
    """How long a drain is announced before listening ends."""
    if server.drain_delay_ms is not None:
        return server.drain_delay_ms
    return 5000 if server.behind_proxy else 0


def keep_alive_s(server: Server) -> float:
    """How long an idle connection lives."""
    default_ms = 65_000 if server.behind_proxy else 5000
    return (server.keep_alive_ms or default_ms) / 1000


def usable_cpus() -> int:
    """CPUs that this process may use: its affinity, cut by a cgroup's quota."""
    allowed = len(os.sched_getaffinity(0))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return allowed
    return allowed if quota == "max" else max(1, min(allowed, int(quota) // int(period)))


def usable_memory_bytes() -> int:
    """Memory that this process may use: the machine's, cut by a cgroup's limit."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        return whole
    return min(whole, int(limit)) if limit.isdigit() else whole


def worker_count(config: Config) -> int:
    """Workers to run; 0 = one process for everything."""
    workers = config.server.workers
    return usable_cpus() if workers is None else workers


def threads_per_execution(config: Config) -> int:
    """ONNX Runtime threads of one execution: the node's CPUs divided by its workers, so that none wait for others."""
    return max(1, (config.execution.threads or usable_cpus()) // max(1, worker_count(config)))


def sections() -> dict[str, type[Struct]]:
    """Section name -> its struct."""
    return {field.encode_name: type(field.default) for field in msgspec.structs.fields(Config)}
