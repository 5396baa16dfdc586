"""A page's commands, run as its reader would: in a folder of its own, on ports of its own."""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from tests.docs.tables import ROOT

PATIENCE_S = 60.0


def commands(text: str) -> list[str]:
    """Every command of the sh blocks in order; one goes on over lines until its quotes are closed."""
    found: list[str] = []
    for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL):
        pending = ""
        for line in block.splitlines():
            pending += line + "\n"
            try:
                words = shlex.split(pending, comments=True)
            except ValueError:
                continue
            if words:
                found.append(pending.strip() if "\n" in pending.strip() else re.sub(r"\s+# .*", "", pending.strip()))
            pending = ""
        assert not pending, "a quote is not closed"
    return found


def free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        return one.getsockname()[1], two.getsockname()[1]


class Terminal:
    """Runs the commands. End it with `kill`, whatever happened."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port, self.admin_port = free_ports()
        self.servers: list[subprocess.Popen[bytes]] = []
        (folder / "examples").symlink_to(ROOT / "examples")  # readers are in the repository
        kept = {name: value for name, value in os.environ.items() if not name.startswith("TIDEGATE")}
        self.environment = kept | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "TIDEGATE_SERVER__PORT": str(self.port),
            "TIDEGATE_SERVER__ADMIN_PORT": str(self.admin_port),
            "TIDEGATE_DATA__DIR": str(folder / "data"),
            "TIDEGATE_URL": f"http://127.0.0.1:{self.port}",
            "TIDEGATE_ADMIN_URL": f"http://127.0.0.1:{self.admin_port}",
        }

    def run(self, command: str) -> str:
        """What the command prints."""
        here = command.replace(":8080", f":{self.port}").replace(":8081", f":{self.admin_port}")
        done = subprocess.run(
            ["sh", "-c", here],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout

    def serve(self, command: str) -> None:
        """Start a server and wait until it is ready."""
        self.stop()
        with (self.folder / "log").open("wb") as log:
            server = subprocess.Popen(
                shlex.split(command), cwd=self.folder, env=self.environment, stdout=log, stderr=log
            )
        self.servers.append(server)
        deadline = time.monotonic() + PATIENCE_S
        while not self.ready():
            log_text = (self.folder / "log").read_text()
            assert server.poll() is None, log_text
            assert time.monotonic() < deadline, log_text
            time.sleep(0.05)

    def ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/v2/health/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def stop(self) -> None:
        """Stop the server that runs, if any."""
        for server in self.servers:
            server.send_signal(signal.SIGTERM)
            assert server.wait(PATIENCE_S) == 0
        self.servers.clear()

    def kill(self) -> None:
        """End what still runs."""
        for server in self.servers:
            server.kill()
            server.wait()
