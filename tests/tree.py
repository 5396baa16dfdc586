"""A real server for tests: `tidegate serve` as users start it, on free ports, with a log that a failure shows."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TIDEGATE = str(Path(sys.executable).with_name("tidegate"))
PATIENCE_S = 30.0


class Tree:
    """A running process tree.

    Attributes:
        port, admin_port: where it listens.
        key: shown with every request; "" = none.
        data_dir: its data folder, unless an argument named another.
    """

    def __init__(self, process: "subprocess.Popen[str]", port: int, admin_port: int, log: Path) -> None:
        self.process = process
        self.port = port
        self.admin_port = admin_port
        self.key = ""
        self.data_dir = log.parent / "data"
        self._log = log

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return self._log.read_text()

    def logged(self, event: str) -> list[dict[str, Any]]:
        """Every log line of this event."""
        lines = [json.loads(line) for line in self.log.splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == event]

    def get(self, path: str, *, admin: bool = False) -> tuple[int, bytes]:
        """GET; status 0 when nobody listens."""
        return self.call("GET", path, admin=admin)

    def call(
        self, method: str, path: str, body: object = None, *, admin: bool = False, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        """Any request with a JSON body."""
        port = self.admin_port if admin else self.port
        data = None if body is None else json.dumps(body).encode()
        headers = ({"authorization": f"Bearer {self.key}"} if self.key else {}) | (headers or {})
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()
        except OSError:
            return 0, b""

    def infer(self, model: str, row: list[float], name: str = "x") -> dict[str, Any]:
        """One FP32 row; the answer's JSON."""
        item = {"name": name, "shape": [1, len(row)], "datatype": "FP32", "data": row}
        status, body = self.call("POST", f"/v2/models/{model}/infer", {"inputs": [item]})
        assert status == 200, body
        return json.loads(body)

    def workers(self) -> list[dict[str, Any]]:
        status, body = self.get("/admin/v1/workers", admin=True)
        return json.loads(body) if status == 200 else []

    def counter(self, name: str, **labels: str) -> float:
        """Sum of the samples of a metric that carry these labels."""
        status, body = self.get("/metrics", admin=True)
        assert status == 200, body
        found = 0.0
        for line in body.decode().splitlines():
            wanted = all(f'{key}="{value}"' in line for key, value in labels.items())
            if wanted and line.startswith((f"{name}{{", f"{name} ")):
                found += float(line.rpartition(" ")[2])
        return found

    def pids(self) -> list[int]:
        """Every process below the supervisor, the supervisor first."""
        found, queue = [], [self.process.pid]
        while queue:
            pid = queue.pop()
            found.append(pid)
            try:
                children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            except OSError:
                children = []
            queue += [int(child) for child in children]
        return found

    def control_pid(self) -> int:
        """The control process."""
        for pid in self.pids()[1:]:
            if b"\0control\0" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
        raise AssertionError("no control process")

    def until(self, what: str, true: Any, patience_s: float = PATIENCE_S) -> float:
        """Wait for a condition; gives the seconds it took."""
        started = time.monotonic()
        while not true():
            assert time.monotonic() - started < patience_s, f"{what} did not come true\n{self.log[-5000:]}"
            assert self.process.poll() is None or "exit" in what, f"the server ended\n{self.log[-5000:]}"
            time.sleep(0.01)
        return time.monotonic() - started

    def until_ready(self) -> None:
        self.until("readiness", lambda: self.get("/v2/health/ready")[0] == 200)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Signal the supervisor and wait for its end."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_S + 15)


@contextmanager
def serve(repository: Path, *arguments: str, ready: bool = True, **settings: object) -> Iterator[Tree]:
    """Run a server; `settings` are section__key of the configuration."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        environment = {k: v for k, v in os.environ.items() if not k.startswith("TIDEGATE")}
        environment |= {f"TIDEGATE_{key.upper()}": json.dumps(value) for key, value in settings.items()}
        command = [TIDEGATE, "serve", "--model-repository", str(repository), "--data-dir", f"{folder}/data"]
        command += ["--port", "0", "--admin-port", "0", *arguments]
        with log.open("w") as out:
            process = subprocess.Popen(command, stdout=out, stderr=out, text=True, env=environment)
        try:
            tree = Tree(process, 0, 0, log)
            tree.until("the opening lines", lambda: "plan:" in tree.log)
            tree.port, tree.admin_port = _ports(tree.log)
            if ready:
                tree.until_ready()
            yield tree
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


def _ports(text: str) -> tuple[int, int]:
    serves, admin = [line for line in text.splitlines() if "http://" in line][:2]
    return int(serves.rpartition(":")[2]), int(admin.rpartition(":")[2].partition("/")[0])
