"""The child in which unknown model files are loaded for the first time; started by `runtimes.registry.probe`.

    python -I -m runtimes.execution.probe_child PARENT SECONDS DIRECTORY FILE

It limits itself before anything of the model is read, asks the golden requests that come with it, and writes two lines
of JSON: one when loading begins, one with its end. The parent does the rest: it watches time and memory, and judges.
"""

import ctypes
import json
import os
import resource
import signal
import sys
import time
from typing import Any, Final

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NO_NEW_PRIVS: Final = 38
_CLONE_NEWUSER: Final = 0x10000000
_CLONE_NEWNET: Final = 0x40000000
_NICENESS = 19
_MAX_FILES: Final = 64

_KINDS: Final = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file it stands for: run git lfs pull"),
    (b"PK\x03\x04", "a zip archive (or a PyTorch checkpoint)"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x80\x04", "a Python pickle"),
    (b"\x80\x05", "a Python pickle"),
    (b"\x89HDF", "an HDF5 file"),
    (b"<", "HTML or XML"),
    (b"{", "JSON"),
)


def main(arguments: list[str]) -> None:
    """Limit this process, load the model, say how it ended."""
    parent, seconds, directory, file = arguments
    out = _own_output()
    offline = _limit(int(parent), float(seconds))
    # Only now, in a process that can do little: this starts threads, and unshare wants none.
    from runtimes.execution import golden, session  # noqa: PLC0415

    _limit_memory()
    base_bytes = _status_bytes("VmRSS")
    _say(out, {"base_rss_bytes": base_bytes, "offline": offline})
    started_s = time.perf_counter()
    answer = _load(session, golden, directory, file)
    grown = max(0, _status_bytes("VmHWM") - base_bytes)
    _say(out, answer | {"seconds": time.perf_counter() - started_s, "rss_bytes": grown})
    # Nothing of the model runs any more, not even what it would do at its end.
    os._exit(0)


def what_it_is(head: bytes) -> str:
    """What a file that is no model seems to be, by its first bytes; "" when they say nothing."""
    if not head:
        return "an empty file"
    start = head.lstrip()
    return next((kind for magic, kind in _KINDS if start.startswith(magic)), "")


def _load(session: Any, golden: Any, directory: str, file: str) -> dict[str, Any]:
    from runtimes.errors import LoadFailed  # noqa: PLC0415

    path = os.path.join(directory, file)
    try:
        made, control = session.OnnxSession(path, intra_op_threads=1), session.RunControl()
        signature = made.signature
        golden.check(directory, signature, lambda inputs: made.run(inputs, control))
    except LoadFailed as error:
        reason = error.message.removeprefix(f"{error.stage}: ")
        reason = _explained(reason, path) if error.stage != golden.STAGE else reason
        return {"ok": False, "stage": error.stage, "reason": reason}
    except MemoryError:
        return {"ok": False, "stage": "session", "reason": "there is not enough memory to load it"}
    ends = {"inputs": signature.inputs, "outputs": signature.outputs}
    return {"ok": True} | {name: [_shown(spec) for spec in specs] for name, specs in ends.items()}


def _explained(reason: str, path: str) -> str:
    try:
        with open(path, "rb") as file:
            kind = what_it_is(file.read(64))
    except OSError:
        kind = ""
    return f"an ONNX model is expected, got {kind}" if kind else reason


def _shown(spec: Any) -> str:
    return f"{spec.name[:200]} {spec.datatype.name} [{','.join(str(size) for size in spec.shape)}]"


def _own_output() -> int:
    """The pipe to the parent, for us alone: what libraries print goes nowhere."""
    out = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    return out


def _say(out: int, message: dict[str, Any]) -> None:
    line = json.dumps(message).encode() + b"\n"
    while line:
        line = line[os.write(out, line) :]


def _limit(parent: int, seconds: float) -> bool:
    """Take away what loading a model does not need; give back whether the network is gone."""
    _prefer_as_victim()
    # Requests come first: at this niceness it takes what they leave of a core.
    os.setpriority(os.PRIO_PROCESS, 0, _NICENESS)
    libc = ctypes.CDLL(None, use_errno=True)
    # May be forbidden in a container; the model then has the network that its worker has.
    offline = bool(libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) == 0)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    # After unshare, which clears it. It is our parent's thread that counts, and that thread waits for us.
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit("the parent has gone")
    cpu_s = int(seconds) + 2
    _lower(resource.RLIMIT_CPU, cpu_s)
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_FSIZE, 0)
    _lower(resource.RLIMIT_NOFILE, _MAX_FILES)
    return offline


def _limit_memory() -> None:
    """A last wall, where a worker would meet the kernel's: all memory there is. The parent sees to the real limit."""
    machine_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    _lower(resource.RLIMIT_DATA, _status_bytes("VmData") + machine_bytes)


def _lower(limit: int, value: int) -> None:
    _, hard = resource.getrlimit(limit)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(limit, (value, value))


def _prefer_as_victim() -> None:
    """When memory runs out, the kernel is to end this process and no worker."""
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")
    except OSError:
        pass


def _status_bytes(field: str) -> int:
    """A size from /proc/self/status; ru_maxrss would not do: it begins with the parent's."""
    with open("/proc/self/status") as file:
        for line in file:
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
    return 0


if __name__ == "__main__":
    main(sys.argv[1:])
