"""Debian's wrk: the script it runs, the call, and what its report says."""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from loadtests.models import USERS, Payload, request_parts

TIMEOUT_S = 5  # wrk's own limit for one answer
UNITS_US = {"us": 1.0, "ms": 1e3, "s": 1e6, "m": 60e6}


@dataclass(frozen=True)
class WrkResult:
    """One wrk run; `errors` counts answers other than 2xx and 3xx, and socket errors and timeouts."""

    requests: int
    requests_per_second: float
    p50_us: float
    p99_us: float
    non_2xx: int
    socket_errors: int

    @property
    def errors(self) -> int:
        """Everything that was not a good answer."""
        return self.non_2xx + self.socket_errors


def lua_string(data: bytes) -> str:
    """Any bytes as a Lua literal."""
    plain = set(range(32, 127)) - {ord('"'), ord("\\")}
    return '"' + "".join(chr(byte) if byte in plain else f"\\{byte:03d}" for byte in data) + '"'


def script(payload: Payload, port: int) -> str:
    """Lua that makes the requests of all users once and hands them out in turn."""
    before, after = request_parts(payload, port)
    return f"""local before, after = {lua_string(before)}, {lua_string(after)}
local requests, last = {{}}, 0
for user = 1, {USERS} do requests[user] = before .. user .. after end
function request()
  last = last % {USERS} + 1
  return requests[last]
end
"""


def run(payload: Payload, port: int, connections: int, seconds: int, folder: Path) -> WrkResult:
    """One closed-loop run against a server on loopback; wrk ends by itself, and is ended if it does not."""
    path = folder / "request.lua"
    path.write_text(script(payload, port))
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", f"--timeout={TIMEOUT_S}s", "--latency"]
    command += ["-s", str(path), f"http://127.0.0.1:{port}{payload.path}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 3 * TIMEOUT_S, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"wrk ended with {done.returncode}: {done.stdout}{done.stderr}")
    return parse(done.stdout)


def parse(report: str) -> WrkResult:
    """What wrk printed, in numbers. Raises ValueError where a line is missing."""
    requests = _found(r"(\d+) requests in", report)
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", report)
    sockets = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", report)
    return WrkResult(
        requests=int(requests),
        requests_per_second=float(_found(r"Requests/sec:\s+([\d.]+)", report)),
        p50_us=duration_us(_found(r"^\s+50%\s+(\S+)", report)),
        p99_us=duration_us(_found(r"^\s+99%\s+(\S+)", report)),
        non_2xx=int(refused[1]) if refused else 0,
        socket_errors=sum(map(int, sockets.groups())) if sockets else 0,
    )


def duration_us(text: str) -> float:
    """`850.00us`, `1.23ms`, `2.00s` or `1.50m` in microseconds."""
    found = re.fullmatch(r"([\d.]+)(us|ms|s|m)", text)
    if found is None:
        raise ValueError(f"wrk wrote a duration that is not known here: {text!r}")
    return float(found[1]) * UNITS_US[found[2]]


def _found(pattern: str, report: str) -> str:
    found = re.search(pattern, report, re.MULTILINE)
    if found is None:
        raise ValueError(f"wrk's report has nothing like {pattern!r}:\n{report}")
    return found[1]
