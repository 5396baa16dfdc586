"""Servers as process trees: start, ready, CPU time, stop by pid. CPU that is not ours counts as foreign.

A tree is the started process, its descendants, and what still belongs to its session: each server leads a session.
"""

import ctypes
import http.client
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
READY_LIMIT_S = 60.0
STOP_LIMIT_S = 20.0
PR_SET_PDEATHSIG = 1
BUSY_FIELDS = (0, 1, 2, 5, 6, 7)  # user nice system irq softirq steal; not idle, iowait, and guest is within user


@dataclass(frozen=True)
class ProcessStat:
    """What /proc/PID/stat says; ticks = own user and system time and that of children already reaped."""

    pid: int
    parent: int
    session: int
    ticks: int
    started: int


def parse_process_stat(text: str) -> ProcessStat:
    """The command's name may hold blanks and brackets: split behind the last bracket (proc(5))."""
    head, _, tail = text.rpartition(")")
    fields = tail.split()
    return ProcessStat(
        pid=int(head.split(" ", 1)[0]),
        parent=int(fields[1]),
        session=int(fields[3]),
        ticks=sum(map(int, fields[11:15])),
        started=int(fields[19]),
    )


def parse_busy_ticks(text: str) -> int:
    """Ticks of all cores that were not idle, from /proc/stat; stolen time counts as busy."""
    fields = text.split("\n", 1)[0].split()
    assert fields[0] == "cpu", "/proc/stat starts with the sum over all cores"
    return sum(int(fields[1 + index]) for index in BUSY_FIELDS)


def tree_of(root: int, stats: Iterable[ProcessStat]) -> list[ProcessStat]:
    """The root, its descendants and the members of its session."""
    every = list(stats)
    inside = {stat.pid for stat in every if stat.pid == root or stat.session == root}
    grew = True
    while grew:
        more = {stat.pid for stat in every if stat.parent in inside} - inside
        inside |= more
        grew = bool(more)
    return [stat for stat in every if stat.pid in inside]


def all_stats() -> list[ProcessStat]:
    """Every process there is now; one that ends meanwhile is left out."""
    stats = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with suppress(OSError):
                stats.append(parse_process_stat(Path("/proc", entry, "stat").read_text()))
    return stats


@dataclass(frozen=True)
class CpuTimes:
    """CPU seconds used until now; what was used between two looks is their difference."""

    wall_s: float
    server_s: float
    load_s: float
    processes_s: float
    busy_s: float


@dataclass(frozen=True)
class CpuSpent:
    """CPU seconds between two looks. `foreign_share` is of one core: 0.08 = 80 ms in each second."""

    wall_s: float
    server_s: float
    load_s: float
    foreign_share: float


class CpuWatch:
    """Looks at the clocks now and says later what the server, the load (we and our children) and strangers used."""

    def __init__(self, root: int | None) -> None:
        self._root = root
        self._before = cpu_times(root)

    def spent(self) -> CpuSpent:
        """Since the start of this watch. Children of ours count once they were waited for."""
        return cpu_spent(self._before, cpu_times(self._root))


def cpu_times(root: int | None) -> CpuTimes:
    """One look at all clocks; without a root no process is a server."""
    stats = all_stats()
    tree = tree_of(root, stats) if root is not None else []
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return CpuTimes(
        wall_s=time.monotonic(),
        server_s=sum(stat.ticks for stat in tree) / TICKS_PER_SECOND,
        load_s=sum(part.ru_utime + part.ru_stime for part in used),
        processes_s=sum(stat.ticks for stat in stats) / TICKS_PER_SECOND,
        busy_s=parse_busy_ticks(Path("/proc/stat").read_text()) / TICKS_PER_SECOND,
    )


def cpu_spent(before: CpuTimes, after: CpuTimes) -> CpuSpent:
    """What was used between two looks; foreign is the larger of two counts that miss different things.

    All processes minus ours is exact but does not see other containers or stolen time. /proc/stat sees both but is
    sampled: against programs that sleep often it reads up to 5 % of a core too little (measured with wrk).
    """
    wall_s, server_s, load_s = (
        after.wall_s - before.wall_s,
        after.server_s - before.server_s,
        after.load_s - before.load_s,
    )
    every_s = max(after.processes_s - before.processes_s, after.busy_s - before.busy_s)
    return CpuSpent(wall_s, server_s, load_s, max(0.0, every_s - server_s - load_s) / wall_s)


def free_ports(count: int) -> list[int]:
    """Ports of loopback that were free a moment ago."""
    with_ports = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in with_ports]
    for listener in with_ports:
        listener.close()
    return ports


def environment(extra: dict[str, str] | None = None) -> dict[str, str]:
    """Ours without settings of Tidegate that happen to be set, and with these."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TIDEGATE_")}
    return kept | (extra or {})


def _end_with_parent() -> None:
    """In the child: a lost harness ends its servers too (Linux)."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


class Server:
    """One server process tree on loopback, as a context manager: started on entry, stopped on exit."""

    def __init__(
        self, name: str, command: Sequence[str], port: int, log: Path, env: dict[str, str] | None = None
    ) -> None:
        self.name = name
        self.port = port
        self.admin_port: int | None = None
        self._command = list(command)
        self._log = log
        self._env = environment(env)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of the tree's root."""
        assert self._process is not None, "a server has a pid once it was started"
        return self._process.pid

    def __enter__(self) -> "Server":
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._env,
                start_new_session=True,
                preexec_fn=_end_with_parent,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def wait_ready(self, limit_s: float = READY_LIMIT_S) -> None:
        """Returns at the first 200 of /v2/health/ready; raises when the server ended or took too long."""
        until = time.monotonic() + limit_s
        while not self._is_ready():
            assert self._process is not None, "only a started server becomes ready"
            if self._process.poll() is not None:
                raise RuntimeError(
                    f"{self.name} ended with {self._process.returncode} before ready:\n{self.log_tail()}"
                )
            if time.monotonic() > until:
                raise RuntimeError(f"{self.name} was not ready after {limit_s:g} s:\n{self.log_tail()}")
            time.sleep(0.005)

    def _is_ready(self) -> bool:
        try:
            return get(self.port, "/v2/health/ready")[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def stop(self) -> None:
        """SIGTERM to the root; what is left of its tree after the limit gets SIGKILL, by pid."""
        process = self._process
        if process is None:
            return
        members = tree_of(process.pid, all_stats())
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_LIMIT_S)
        _kill_left(members, process.pid)
        process.wait(STOP_LIMIT_S)
        self._process = None

    def log_tail(self, lines: int = 12) -> str:
        """The last lines that the server wrote."""
        with suppress(OSError):
            return "\n".join(self._log.read_text(errors="replace").splitlines()[-lines:])
        return ""


def _kill_left(members: Sequence[ProcessStat], session: int) -> None:
    """Kill those that still live: same pid and same start, so never a stranger that got the number since.

    Children born while the tree was stopping are known by the session; its number stays taken while one of them lives.
    """
    ours = {(stat.pid, stat.started) for stat in members}
    for stat in all_stats():
        if (stat.pid, stat.started) in ours or stat.session == session != stat.pid:
            with suppress(ProcessLookupError):
                os.kill(stat.pid, signal.SIGKILL)


def get(port: int, path: str, timeout_s: float = 2.0) -> tuple[int, bytes]:
    """Status and body of one GET on loopback."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def echo_server(folder: Path, name: str = "echo") -> Server:
    """The echo floor."""
    (port,) = free_ports(1)
    return Server(name, [sys.executable, "-m", "loadtests.echo", "--port", str(port)], port, folder / f"{name}.log")


@dataclass(frozen=True)
class Serve:
    """How `tidegate serve` is called; `stand_in` puts echo in its place, to prove the harness alone."""

    folder: Path
    workers: int = 1
    stand_in: bool = False

    def server(self, repository: Path, data_dir: Path, *options: str, env: dict[str, str] | None = None) -> Server:
        """A server that is not started yet."""
        if self.stand_in:
            return echo_server(self.folder, "stand-in")
        port, admin_port = free_ports(2)
        command = [str(Path(sys.executable).with_name("tidegate")), "serve", "--model-repository", str(repository)]
        command += ["--port", str(port), "--admin-port", str(admin_port), "--workers", str(self.workers)]
        server = Server(
            "tidegate", [*command, "--data-dir", str(data_dir), *options], port, self.folder / "tidegate.log", env
        )
        server.admin_port = admin_port
        return server


def end_on_sigterm() -> None:
    """SIGTERM unwinds like an error, so that every `with Server` stops its tree."""

    def unwind(number: int, frame: object) -> None:
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, unwind)
