"""The Dockerfile's steps, replayed without docker: its RUN lines build and install, its ENTRYPOINT and CMD serve.

Nothing comes from a network: dependencies are those of the environment that runs the tests, found through a .pth file,
and so is the compiler. What this cannot show is that the base image is there, that it gets a compiler, and that wheels
of all dependencies exist for it.
"""

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests import models
from tests.docs.tables import ROOT

PLACES = ("/opt/tidegate", "/opt/build", "/src", "/wheels", "/data", "/models")
UID = 10001
PATIENCE_S = 60.0


@dataclass
class Stage:
    """One FROM: its instructions in order, arguments as written."""

    image: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    def all(self, word: str) -> list[str]:
        return [argument for found, argument in self.steps if found == word]

    def one(self, word: str) -> str:
        (argument,) = self.all(word)
        return argument

    @property
    def environment(self) -> dict[str, str]:
        return dict(pair.split("=", 1) for argument in self.all("ENV") for pair in shlex.split(argument))


def stages() -> list[Stage]:
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    found: list[Stage] = []
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        word, _, argument = line.strip().partition(" ")
        if word == "FROM":
            found.append(Stage(argument))
        elif word:
            found[-1].steps.append((word, argument.strip()))
    return found


BUILD, FINAL = stages()


@pytest.fixture
def root() -> Iterator[Path]:
    """A folder that other users may enter; pytest's own may not be entered."""
    folder = Path(tempfile.mkdtemp(prefix="image-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def inside(root: Path, text: str) -> str:
    """The text with the image's places below `root`."""
    for place in PLACES:
        text = text.replace(place, f"{root}{place}")
    return text


def as_stranger() -> dict[str, Any]:
    """How Popen becomes the image's user; nothing when only root could."""
    return {"user": UID, "group": 0, "extra_groups": []} if os.getuid() == 0 else {}


def works(command: list[str]) -> bool:
    """Whether the image's user can run this."""
    try:
        return subprocess.run(command, cwd="/", capture_output=True, **as_stranger()).returncode == 0
    except OSError:
        return False


def python() -> str:
    """A Python of this version that the image's user can run too; a developer's may be in a private home."""
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    known = [os.path.realpath(sys.executable), f"/usr/local/bin/{version}", f"/usr/bin/{version}"]
    return next((path for path in known if works([path, "-c", "import ensurepip, venv"])), known[0])


def run(root: Path, command: str) -> None:
    """A RUN line; pip is told to stay offline and to build with what is installed here."""
    if os.getuid() != 0:
        command = command.replace(" -o 10001 -g 0", "")
    environment = {
        "PATH": f"{root}/bin:/usr/bin:/bin",
        "PIP_NO_INDEX": "1",
        "PIP_NO_DEPS": "1",
        "PIP_NO_BUILD_ISOLATION": "0",  # pip reads this one as --build-isolation, so 0 = none
    }
    done = subprocess.run(inside(root, command), shell=True, env=environment, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}{done.stderr[-4000:]}"


def replay(root: Path) -> Path:
    """Both stages below `root`; gives the folder that packages were installed to."""
    for folder in ("src", "opt", "bin"):
        (root / folder).mkdir()
    (root / "bin" / "python").write_text(f'#!/bin/sh\nexec {python()} "$@"\n')
    (root / "bin" / "apt-get").write_text("#!/bin/sh\n")
    for command in ("python", "apt-get"):
        (root / "bin" / command).chmod(0o755)
    library = Path("lib") / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    for word, argument in [*BUILD.steps, *FINAL.steps]:
        if word == "RUN":
            run(root, argument)
            if "-m venv" in argument:
                packages = Path(inside(root, argument.split()[-1])) / library
                for old in packages.glob("setuptools*"):  # of ensurepip; the build wants a newer one
                    shutil.rmtree(old)
                (packages / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
        elif word == "COPY" and not argument.startswith("--from"):
            *sources, target = argument.split()
            for source in sources:
                copy(ROOT / source, Path(inside(root, target)))
    return root / "opt/tidegate" / library


def copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, target)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=5) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def test_both_stages_are_plain():
    assert BUILD.image == "python:3.11-slim AS build"
    assert FINAL.image == "python:3.11-slim"
    assert FINAL.one("USER") == f"{UID}:0", "a number, so that a platform can see that it is not root"
    assert FINAL.one("STOPSIGNAL") == "SIGTERM"
    assert FINAL.one("EXPOSE") == FINAL.environment["TIDEGATE_SERVER__PORT"]
    assert json.loads(FINAL.one("ENTRYPOINT")) == ["tidegate"]
    assert json.loads(FINAL.one("CMD")) == ["serve"], "settings are in ENV: a platform may replace CMD"
    assert not any("[dev" in step or "[demo" in step for step in BUILD.all("RUN"))


def test_what_is_copied_is_in_the_build_context():
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {source for argument in BUILD.all("COPY") for source in argument.split()[:-1]}
    assert copied == kept
    assert all((ROOT / source).exists() for source in copied)


@pytest.mark.process
@pytest.mark.timeout(400)  # it compiles
def test_the_image_serves_as_a_user_without_a_home_and_stops_when_asked(root: Path):
    packages = replay(root)
    installed = {path.name for path in packages.iterdir()}
    assert {"gateway", "runtimes", "router"} <= installed
    assert not installed & {"mypy", "tests", "loadtests", "examples", "onnx", "pytest"}
    assert (packages / "gateway" / "py.typed").exists()
    assert list(packages.glob("gateway/exchange.*.so")), "the hot path is compiled"

    models.write(root / "models", "affine", models.affine())
    port = free_port()
    environment = {name: inside(root, value) for name, value in FINAL.environment.items()}
    environment["TIDEGATE_SERVER__PORT"] = str(port)
    assert "HOME" not in environment
    command = [f"{root}/opt/tidegate/bin/{json.loads(FINAL.one('ENTRYPOINT'))[0]}", *json.loads(FINAL.one("CMD"))]
    someone = as_stranger() if works([f"{root}/opt/tidegate/bin/python", "-c", "import numpy, gateway"]) else {}
    with (root / "log").open("w+") as log:
        server = subprocess.Popen(command, env=environment, cwd=root / "models", stdout=log, stderr=log, **someone)
        try:
            deadline = time.monotonic() + PATIENCE_S
            while not ready(port) and server.poll() is None and time.monotonic() < deadline:
                time.sleep(0.05)
            text = (root / "log").read_text()
            assert ready(port), text
            assert "NOBODY IS ASKED FOR A KEY" in text
            assert (root / "data" / "tidegate" / "models").is_dir()
            server.send_signal(getattr(signal, FINAL.one("STOPSIGNAL")))
            assert server.wait(PATIENCE_S) == 0, (root / "log").read_text()
        finally:
            if server.poll() is None:
                server.kill()
                server.wait()
