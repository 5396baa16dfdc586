"""The first load of unknown files, in a child process that may crash, hang or eat memory in our place.

The child (`runtimes.execution.probe_child`) limits itself, says so in one line, loads, and says the rest in a second.
This side watches its clock and its resident memory and ends it. Memory is judged by what became resident, not by
refusing allocations: ONNX Runtime only skips the folding of a constant that it cannot allocate, so a refusal would
pass the very model that then takes the memory in a worker (measured with 1.32, RLIMIT_DATA and RLIMIT_AS alike).
"""

import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import msgspec

CHILD: Final = (sys.executable, "-I", "-B", "-m", "runtimes.execution.probe_child")
_PERIOD_S: Final = 0.005
"""Memory is looked at so often; in between about 20 MB can be filled with zeros."""
_MAX_OUTPUT_BYTES: Final = 256 * 1024
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_MIB: Final = 1024 * 1024
_PASSED_ON: Final = ("LD_LIBRARY_PATH", "TZ")


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """How the first load ended.

    Attributes:
        ok: the files may be loaded into a worker.
        reason, stage: why not, and at which stage of LoadFailed; "" when it is ok.
        seconds: building the session took so long, without the start of the child.
        rss_bytes: largest memory that loading added.
        lasting: another try would end the same; False when time, memory or the machine were at fault.
        offline: the child had no network.
        inputs, outputs: such as "x FP32 [-1,2]".
    """

    ok: bool
    reason: str = ""
    stage: str = ""
    seconds: float = 0.0
    rss_bytes: int = 0
    lasting: bool = True
    offline: bool = False
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()


class Started(msgspec.Struct, frozen=True):
    """First line of the child: its limits stand, its imports are done, loading begins."""

    base_rss_bytes: int
    offline: bool = False


class Loaded(msgspec.Struct, frozen=True):
    """Second line of the child: how it ended. `rss_bytes` is what loading added at most."""

    ok: bool
    reason: str = ""
    stage: str = ""
    seconds: float = 0.0
    rss_bytes: int = 0
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()


Ended = Literal["itself", "time", "memory", "output"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was seen of a child from outside.

    Attributes:
        ended: what made it end.
        status: exit status, negative for a signal.
        output: what it wrote.
        seconds: from its start to its end.
        rss_bytes: largest resident memory seen, its own base included.
    """

    ended: Ended
    status: int
    output: bytes
    seconds: float
    rss_bytes: int


def probe(
    directory: str | os.PathLike[str],
    file: str,
    *,
    timeout_s: float,
    memory_bytes: int,
    command: Sequence[str] = CHILD,
    monotonic_s: Callable[[], float] = time.monotonic,
) -> ProbeResult:
    """Load a model in a child process. Blocks for as long as that takes; never raises for what the files are.

    Args:
        directory, file: the private copy and the model file in it.
        timeout_s: longest time, the start of the child (about 0.3 s) included.
        memory_bytes: how much memory loading may add to what the child had before.
        command: the child; it is given parent, seconds, directory and file.
    """
    arguments = [*command, str(os.getpid()), f"{timeout_s:.3f}", os.fspath(directory), file]
    try:
        child = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_environment(),
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:
        reason = f"the probe could not be started: {error.strerror}"
        return ProbeResult(False, reason, "session", lasting=False)
    with child:
        outcome = _Watch(child, timeout_s, memory_bytes, monotonic_s).outcome()
    return judged(outcome, timeout_s=timeout_s, memory_bytes=memory_bytes)


def judged(outcome: Outcome, *, timeout_s: float, memory_bytes: int) -> ProbeResult:
    """What the outcome of a child means. Pure."""
    started, loaded = _lines(outcome.output)
    base_bytes = started.base_rss_bytes if started else 0
    offline = started is not None and started.offline
    grown = max(loaded.rss_bytes if loaded else 0, outcome.rss_bytes - base_bytes if started else 0)

    def refused(reason: str, *, lasting: bool) -> ProbeResult:
        return ProbeResult(False, reason, "session", outcome.seconds, grown, lasting, offline)

    if outcome.ended == "time" or outcome.status == -signal.SIGXCPU:
        return refused(f"loading took longer than {timeout_s:g} s", lasting=False)
    if outcome.ended == "memory" or grown > memory_bytes:
        return refused(f"loading needs more memory than the {memory_bytes // _MIB} MiB it may have", lasting=False)
    if outcome.ended == "output":
        return refused(f"the probe wrote more than {_MAX_OUTPUT_BYTES} bytes", lasting=True)
    if outcome.status < 0:
        # SIGKILL comes from outside: the kernel when memory is short, or an operator.
        return refused(f"the model crashed the probe ({_signal(-outcome.status)})", lasting=outcome.status != -9)
    if loaded is None:
        return refused(f"the probe ended with status {outcome.status} and no answer", lasting=False)
    stage = loaded.stage if loaded.ok else loaded.stage or "session"
    ends = (loaded.inputs, loaded.outputs)
    return ProbeResult(loaded.ok, loaded.reason, stage, loaded.seconds, grown, True, offline, *ends)


class _Watch:
    """Follows one child until it is gone, whatever it does."""

    def __init__(
        self, child: "subprocess.Popen[bytes]", timeout_s: float, memory_bytes: int, monotonic_s: Callable[[], float]
    ) -> None:
        self._child = child
        self._memory_bytes = memory_bytes
        self._monotonic_s = monotonic_s
        self._started_s = monotonic_s()
        self._deadline_s = self._started_s + timeout_s
        self._output = bytearray()
        self._rss_bytes = 0
        self._limit_bytes: int | None = None

    def outcome(self) -> Outcome:
        """Wait for its end, or bring it about."""
        try:
            ended = self._follow()
        finally:
            # Also when this thread is interrupted: the child must not stay.
            if self._child.poll() is None:
                self._child.kill()
            status = self._child.wait()
        return Outcome(ended, status, bytes(self._output), self._monotonic_s() - self._started_s, self._rss_bytes)

    def _follow(self) -> Ended:
        assert self._child.stdout is not None, "the child was started with a pipe"
        pipe = self._child.stdout.fileno()
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            while self._child.poll() is None:
                if problem := self._problem():
                    return problem
                if selector.get_map() and selector.select(_PERIOD_S) and not self._read(pipe):
                    selector.unregister(pipe)
                elif not selector.get_map():
                    self._wait()
        # What it wrote last may still be in the pipe; a grandchild could hold the other end open.
        os.set_blocking(pipe, False)
        while not self._problem(gone=True) and self._read(pipe):
            pass
        return "output" if len(self._output) > _MAX_OUTPUT_BYTES else "itself"

    def _wait(self) -> None:
        try:
            self._child.wait(_PERIOD_S)
        except subprocess.TimeoutExpired:
            pass

    def _problem(self, *, gone: bool = False) -> Ended | None:
        if len(self._output) > _MAX_OUTPUT_BYTES:
            return "output"
        if gone:
            return None
        if self._monotonic_s() > self._deadline_s:
            return "time"
        self._rss_bytes = max(self._rss_bytes, _rss_bytes(self._child.pid))
        over = self._limit_bytes is not None and self._rss_bytes > self._limit_bytes
        return "memory" if over else None

    def _read(self, pipe: int) -> bool:
        try:
            chunk = os.read(pipe, 65536)
        except BlockingIOError:
            return False
        self._output += chunk
        if self._limit_bytes is None and (started := _lines(self._output)[0]):
            self._limit_bytes = started.base_rss_bytes + self._memory_bytes
        return bool(chunk)


def _lines(output: bytes | bytearray) -> tuple[Started | None, Loaded | None]:
    first, _, rest = bytes(output).partition(b"\n")
    try:
        started = msgspec.json.decode(first, type=Started)
    except ValueError:
        return None, None
    try:
        return started, msgspec.json.decode(rest, type=Loaded)
    except ValueError:
        return started, None


def _rss_bytes(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE_BYTES
    except (OSError, IndexError):
        return 0  # it has just gone


def _environment() -> dict[str, str]:
    """Nothing of ours that a model could read: only what the child needs to start."""
    environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    return environment | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
