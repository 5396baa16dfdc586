"""Start a Tidegate server as a user would, wait until it is ready, ask it for its numbers, and stop it."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from prometheus_client.parser import text_string_to_metric_families

HOST: Final = "127.0.0.1"
USUAL_PORTS: Final = (8080, 8081)
WORKERS: Final = 2
READY_SECONDS: Final = 60.0
STOP_SECONDS: Final = 40.0
POLL_SECONDS: Final = 0.05
_LOG_LINES: Final = 20

Served = tuple[str, str]
"""Model name and version."""


class ServerProblem(Exception):
    """The server did not do what the demo needs; the message says what, with its last log lines."""


def is_free(port: int) -> bool:
    """Whether a server could listen there."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def any_two_ports() -> tuple[int, int]:
    """Two free ports, different because both are held at once."""
    with socket.socket() as one, socket.socket() as other:
        one.bind((HOST, 0))
        other.bind((HOST, 0))
        return one.getsockname()[1], other.getsockname()[1]


def choose_ports(keep: bool) -> tuple[int, int]:
    """8080 and 8081 where they are free; a server that is kept gets no others."""
    if all(is_free(port) for port in USUAL_PORTS):
        return USUAL_PORTS
    if keep:
        raise ServerProblem("port 8080 or 8081 is in use: stop the server that has it, or run without KEEP=1")
    return any_two_ports()


def fetch(url: str) -> bytes:
    """Body of a GET; any status but 200 raises urllib.error.URLError."""
    with urllib.request.urlopen(url, timeout=10) as answer:
        return bytes(answer.read())


@dataclass
class Server:
    """A running `tidegate serve`."""

    process: subprocess.Popen[bytes]
    port: int
    admin_port: int
    log: Path

    @property
    def address(self) -> str:
        """HOST:PORT of the data port."""
        return f"{HOST}:{self.port}"

    @property
    def url(self) -> str:
        """Of the data port."""
        return f"http://{self.address}"

    @property
    def admin_url(self) -> str:
        """Of the admin port."""
        return f"http://{HOST}:{self.admin_port}"

    def last_words(self) -> str:
        """The end of its log."""
        lines = self.log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
        return "\n".join(["its last log lines:", *lines]) if lines else "its log is empty"

    def is_ready(self) -> bool:
        """Whether readiness says 200 now."""
        try:
            fetch(f"{self.url}/v2/health/ready")
        except OSError:  # refused, reset, or another status
            return False
        return True

    def wait_ready(self) -> float:
        """Seconds until it was ready; ServerProblem when it ends or takes too long."""
        started = time.monotonic()
        while not self.is_ready():
            if self.process.poll() is not None:
                raise ServerProblem(f"the server ended with {self.process.returncode}; {self.last_words()}")
            if time.monotonic() - started > READY_SECONDS:
                raise ServerProblem(f"the server was not ready after {READY_SECONDS:.0f} s; {self.last_words()}")
            time.sleep(POLL_SECONDS)
        return time.monotonic() - started

    def end(self) -> bool:
        """SIGTERM, and SIGKILL when that takes too long; whether SIGTERM was enough."""
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return False
        return True

    def stop(self) -> float:
        """SIGTERM, then seconds until it ended with 0; ServerProblem otherwise."""
        started = time.monotonic()
        if not self.end():
            raise ServerProblem(f"the server did not stop within {STOP_SECONDS:.0f} s; {self.last_words()}")
        if self.process.returncode != 0:
            raise ServerProblem(f"the server ended with {self.process.returncode} after SIGTERM; {self.last_words()}")
        return time.monotonic() - started

    def statistics(self) -> list[dict[str, Any]]:
        """Per model version, as Triton's statistics extension has them."""
        found: list[dict[str, Any]] = json.loads(fetch(f"{self.url}/v2/models/stats"))["model_stats"]
        return found

    def workers(self) -> list[dict[str, Any]]:
        """What the admin port says about each worker."""
        found: list[dict[str, Any]] = json.loads(fetch(f"{self.admin_url}/admin/v1/workers"))
        return found

    def answered(self) -> Counter[Served]:
        """`tidegate_requests_total` with code 200, per model version."""
        counts: Counter[Served] = Counter()
        for family in text_string_to_metric_families(fetch(f"{self.url}/metrics").decode()):
            for sample in family.samples:
                if sample.name == "tidegate_requests_total" and sample.labels["code"] == "200":
                    counts[sample.labels["model"], sample.labels["version"]] += int(sample.value)
        return counts


def command(repository: Path, state: Path, ports: tuple[int, int], workers: int = WORKERS) -> list[str]:
    """The command line, as one would type it."""
    port, admin_port = map(str, ports)
    script = str(Path(sys.executable).with_name("tidegate"))
    return [script, "serve", "--model-repository", str(repository), "--port", port, "--admin-port", admin_port,
            "--workers", str(workers), "--data-dir", str(state)]  # fmt: skip


def start(
    repository: Path,
    state: Path,
    log: Path,
    ports: tuple[int, int],
    *,
    workers: int = WORKERS,
    store: str = "",
    settings: Mapping[str, str] | None = None,
) -> Server:
    """Start it in a session of its own, so that Ctrl-C reaches only the demo, which then stops it.

    Args:
        store: URL of the store that it shares with others; "" = a file in `state`.
        settings: further variables of its environment.
    """
    line = command(repository, state, ports, workers)
    if not Path(line[0]).exists():
        raise ServerProblem("there is no `tidegate` command beside this Python: install the package first")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TIDEGATE_")}
    environment |= settings or {}
    if store:
        environment["TIDEGATE_STORE__URL"] = store
    with log.open("wb") as output:
        process = subprocess.Popen(
            line, stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
    return Server(process, *ports, log)
