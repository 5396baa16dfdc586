"""README.md: every command is run, or stands in NOT_RUN with a reason; every link leads somewhere."""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.tables import ROOT

TEXT = (ROOT / "README.md").read_text()
PAGES = [ROOT / name for name in ("README.md", "CHANGELOG.md", "SECURITY.md")] + sorted((ROOT / "docs").rglob("*.md"))
PATIENCE_S = 60.0
NOT_RUN = {
    "make demo": "takes longer than the test of a page should; tests/examples tests its parts",
    "make test": "this test is a part of it",
    "make venv": "makes the environment that this test runs in",
    ". .venv/bin/activate": "the commands below run with that environment's commands",
}


def commands() -> list[str]:
    """Every command of the sh blocks in order; one goes on over lines until its quotes are closed."""
    found: list[str] = []
    for block in re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL):
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
    """Runs the page's commands in a folder of its own, on ports of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port, self.admin_port = free_ports()
        self.servers: list[subprocess.Popen[bytes]] = []
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


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    opened = Terminal(tmp_path)
    try:
        yield opened
        opened.stop()
    finally:
        for server in opened.servers:
            server.kill()
            server.wait()


@pytest.mark.process
def test_every_command_works(terminal: Terminal):
    printed: dict[str, str] = {}
    for command in commands():
        if command in NOT_RUN:
            continue
        if command.startswith("tidegate serve"):
            terminal.serve(command)
        else:
            printed[command] = terminal.run(command)
    (answer,) = [json.loads(text) for command, text in printed.items() if "/infer" in command]
    shown = json.loads(re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL)[0])
    (value,), (wanted,) = answer["outputs"][0].pop("data"), shown["outputs"][0].pop("data")
    assert answer == shown
    assert value == pytest.approx(wanted, abs=0.01)
    assert "tidegate_requests_total" in printed["curl -s http://127.0.0.1:8080/metrics"]


def test_no_reason_is_given_for_a_command_that_is_not_there():
    assert set(NOT_RUN) <= set(commands())
    assert len(commands()) > len(NOT_RUN) + 5


def test_the_targets_of_make_exist():
    makefile = (ROOT / "Makefile").read_text()
    targets = [command.removeprefix("make ") for command in commands() if command.startswith("make ")]
    assert targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_files_that_pages_name_exist():
    for page in PAGES:
        text = page.read_text()
        for link in re.findall(r"\]\(([^)#]+)\)", text):
            if not link.startswith("https://"):
                assert (page.parent / link).exists(), f"{page.name}: {link}"
        for path in re.findall(
            r"(?:`|^\w+ +|\s)((?:gateway|runtimes|router|tests)/[\w/]+(?:\.py)?)", text, re.MULTILINE
        ):
            assert (ROOT / path).exists(), f"{page.name}: {path}"


def test_pages_are_narrow_enough_to_read():
    for page in PAGES:
        block = False
        for number, line in enumerate(page.read_text().splitlines(), 1):
            block ^= line.startswith("```")
            assert block or line.startswith("|") or len(line) <= 130, f"{page.name}:{number}"
