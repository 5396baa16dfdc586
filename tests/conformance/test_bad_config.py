"""Start-up configuration that cannot be used.

Exit code 2, one clear line on standard error, nothing on standard output, no traceback, and nothing bound.
"""

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests import models
from tests.tree import TIDEGATE, serve

pytestmark = pytest.mark.process


EVIL = "127.evil.com"
TWO_LINES = "localhost\nx"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    os.utime(models.write(folder, "affine", models.affine()), (1, 1))
    return folder


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@contextmanager
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        yield int(taken.getsockname()[1])


def run(
    tmp_path: Path, *arguments: str, file: str | None = None, cwd: Path | None = None, **environment: str
) -> "subprocess.CompletedProcess[str]":
    """`tidegate serve`, which is expected to end at once."""
    command = [TIDEGATE, "serve", "--data-dir", str(tmp_path / "data"), *arguments]
    if file is not None:
        Path(tmp_path, "tidegate.yaml").write_text(file)
        command += ["--config", str(tmp_path / "tidegate.yaml")]
    clean = {key: value for key, value in os.environ.items() if not key.startswith("TIDEGATE")} | environment
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False, env=clean, cwd=cwd)


def is_refused(done: "subprocess.CompletedProcess[str]", *words: str) -> None:
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("tidegate: ")
    assert len(done.stderr) < 600
    for word in words:
        assert word in done.stderr, done.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("server:\n  prot: 9000\n", ["tidegate.yaml, line 2", "prot", "did you mean 'port'?"]),
        ("sever:\n  port: 9000\n", ["tidegate.yaml, line 1", "sever", "did you mean 'server'?"]),
        ("limits: {json_body_byte: 5}\n", ["json_body_byte", "did you mean 'json_body_bytes'?"]),
        ("server:\n  port: many\n", ["tidegate.yaml, line 2", "server.port", "int"]),
        ("server:\n  port: true\n", ["tidegate.yaml, line 2", "server.port"]),
        ("server:\n  port: 8080.5\n", ["server.port"]),
        ("server: 5\n", ["tidegate.yaml", "server"]),
        ("- server\n", ["tidegate.yaml"]),
        ("5\n", ["tidegate.yaml"]),
        ("models: {control_mode: sometimes}\n", ["models.control_mode"]),
        ("models: {load: affine, control_mode: explicit}\n", ["models.load"]),
        ("limits: {connections: 0}\n", ["limits.connections", ">= 1"]),
        ("limits: {connections: -5}\n", ["limits.connections", ">= 1"]),
        ("limits: {header_timeout_ms: 0}\n", ["limits.header_timeout_ms"]),
        ("limits: {rank: 33}\n", ["limits.rank"]),
        ("server: {port: 65536}\n", ["server.port"]),
        ("server: {workers: -1}\n", ["server.workers"]),
        ("server: {workers: 1000000}\n", ["server.workers"]),
        (f"limits: {{connections: {'9' * 5000}}}\n", ["limits.connections"]),
        ("limits: {connections: .nan}\n", ["limits.connections"]),
        ("server: {port: 8080, port: 8081}\n", ["twice"]),
        ("server: {port: 8080\n", ["tidegate.yaml"]),
        ("server:\n\tport: 8080\n", ["tidegate.yaml, line 2"]),
        ("a: &a [x]\nserver: *a\n", ["anchors (&a) are not allowed"]),
        ("server: *a\n", ["aliases (*a) are not allowed"]),
        ("server: !!python/object/apply:os.system [id]\n", ["tags"]),
        ("---\nserver: {}\n---\nserver: {}\n", ["second document"]),
        ("[" * 5000, ["tidegate.yaml"]),
        ("#" + "x" * (1 << 20) + "\n", ["longer than"]),
        ("server: {port: 9000, admin_port: 9000}\n", ["server.admin_port", "9000"]),
        ("server: {drain_delay_ms: 5000, grace_ms: 100}\n", ["server.drain_delay_ms", "server.grace_ms"]),
        ("limits: {fast_body_bytes: 9000000}\n", ["limits.fast_body_bytes", "limits.json_body_bytes"]),
        ("models: {load: [affine]}\n", ["models.load", "explicit"]),
    ],
    ids=lambda value: value[:30].strip() if isinstance(value, str) else "",
)
def test_j01_j02_j03_j15_a_file_that_cannot_be_used(
    tmp_path: Path, repository: Path, text: str, words: list[str]
) -> None:
    # Flags that would bind are left out where the file speaks of ports: it is refused before anything is bound.
    is_refused(run(tmp_path, "--model-repository", str(repository), file=text), *words)
    assert not (tmp_path / "data").exists()


def test_j15_an_alias_bomb(tmp_path: Path, repository: Path) -> None:
    """Nine lines that would be 10^9 entries."""
    lines = ["a0: &a0 [lol, lol]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    is_refused(run(tmp_path, "--model-repository", str(repository), file="\n".join(lines)), "anchors")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("TIDEGATE_SERVER__PROT", "9000", ["TIDEGATE_SERVER__PROT", "did you mean 'port'?"]),
        ("TIDEGATE_SEVER__PORT", "9000", ["TIDEGATE_SEVER__PORT", "did you mean 'server'?"]),
        ("TIDEGATE_SERVER__PORT", "many", ["TIDEGATE_SERVER__PORT", "server.port"]),
        ("TIDEGATE_LIMITS__CONNECTIONS", "0", ["TIDEGATE_LIMITS__CONNECTIONS"]),
        ("TIDEGATE_LIMITS__CONNECTIONS", "&a 5", ["TIDEGATE_LIMITS__CONNECTIONS", "anchors"]),
        ("TIDEGATE_CONFIG", "/nowhere/at/all.yaml", ["/nowhere/at/all.yaml", "No such file"]),
    ],
)
def test_j01_j02_j03_in_the_environment(
    tmp_path: Path, repository: Path, name: str, value: str, words: list[str]
) -> None:
    is_refused(run(tmp_path, "--model-repository", str(repository), **{name: value}), *words)


def test_j04_a_port_in_use_binds_nothing_else(tmp_path: Path, repository: Path) -> None:
    other = free_port()
    with taken_port() as taken:
        for flag, free in (("--port", "--admin-port"), ("--admin-port", "--port")):
            done = run(tmp_path, str(repository), flag, str(taken), free, str(other))
            is_refused(done, "cannot listen on 127.0.0.1", str(taken))
            # Free again at once: whatever was bound before the refusal is closed.
            with socket.create_server(("127.0.0.1", other)):
                pass


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.1", "example.com", "localhost.evil.com", EVIL])
def test_j07_another_than_a_loopback_address_must_be_meant(tmp_path: Path, repository: Path, host: str) -> None:
    done = run(tmp_path, str(repository), "--host", host, "--port", "0", "--admin-port", "0")
    is_refused(done, "server.host", host, "server.trusted_network: true")


@pytest.mark.parametrize("host", ["not a host", "", "256.256.256.256", TWO_LINES])
def test_an_address_that_is_none(tmp_path: Path, repository: Path, host: str) -> None:
    done = run(tmp_path, str(repository), "--host", host, "--trusted-network", "--port", "0", "--admin-port", "0")
    is_refused(done, "server.")


def test_j09_a_repository_that_is_missing(tmp_path: Path) -> None:
    is_refused(run(tmp_path, "--model-repository", str(tmp_path / "none")), "models.repository", "does not exist")


def test_j09_a_repository_without_a_name(tmp_path: Path) -> None:
    with taken_port() as taken:
        done = run(tmp_path, "--model-repository", "", "--port", str(taken), cwd=tmp_path)
        is_refused(done, "models.repository")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("batching: {max_batch_size: 0}\n", ["model.yaml", "max_batch_size", ">= 1"]),
        ("batching: {max_batch: 5}\n", ["model.yaml", "did you mean 'max_batch_size'?"]),
        ("batching:\n  max_queue_rows: -1\n", ["model.yaml, line 2", "max_queue_rows"]),
        ("a: &a [x]\nb: [*a, *a]\n", ["model.yaml", "anchors"]),
    ],
    ids=["zero", "unknown", "minus", "anchor"],
)
def test_j11_a_models_own_settings_stop_only_that_model(repository: Path, config: str, words: list[str]) -> None:
    os.utime(models.write(repository, "wrong", models.affine(), config=config), (1, 1))
    with serve(repository, "--workers", "1", "--allow-degraded-start", models__quiet_period_ms=0) as tree:
        assert tree.infer("affine", [1, 2])["outputs"][0]["data"] == [2.0, 4.0]
        states = [state for state in index(tree.call("POST", "/v2/repository/index", {})) if state["name"] == "wrong"]
        assert [state["state"] for state in states] == ["UNAVAILABLE"]
        for word in words:
            assert word in states[0]["reason"]
        status, body = tree.call("POST", "/v2/models/wrong/infer", {})
        assert status in (404, 503), body
        assert tree.get("/v2/health/live")[0] == 200


def index(answer: tuple[int, bytes]) -> list[dict[str, str]]:
    status, body = answer
    assert status == 200, body
    found: list[dict[str, str]] = json.loads(body)
    return found


def test_j14_flags_win_over_environment_over_file(tmp_path: Path, repository: Path) -> None:
    """Seen by what is refused: the highest source decides, and what it hides is still checked."""
    low, high = "server: {host: 192.168.0.1}\n", "192.168.0.2"
    arguments = ("--model-repository", str(repository), "--port", "0", "--admin-port", "0")
    is_refused(run(tmp_path, *arguments, file=low), "192.168.0.1")
    is_refused(run(tmp_path, *arguments, file=low, TIDEGATE_SERVER__HOST=high), high)
    done = run(tmp_path, *arguments, "--host", "192.168.0.3", file=low, TIDEGATE_SERVER__HOST=high)
    is_refused(done, "192.168.0.3")
    # A wrong value in the file is wrong although the environment hides it.
    done = run(tmp_path, *arguments, file="server: {port: many}\n", TIDEGATE_SERVER__PORT="0")
    is_refused(done, "tidegate.yaml", "server.port")


def test_j16_home_and_relative_paths(tmp_path: Path, repository: Path) -> None:
    """`~` is the user's home, a relative path starts at the working directory; both seen by what they do not find."""
    home = str(tmp_path)
    is_refused(run(tmp_path, "--model-repository", "~/nothing", HOME=home), "~/nothing does not exist")
    is_refused(run(tmp_path, "--model-repository", "nothing", cwd=tmp_path), "nothing does not exist")
    with taken_port() as taken:
        # The repository is found: the port is what is refused.
        for where in ("~/models", "models", "./models", "../" + tmp_path.name + "/models"):
            done = run(tmp_path, "--model-repository", where, "--port", str(taken), HOME=home, cwd=tmp_path)
            is_refused(done, "server.port", str(taken))
    is_refused(run(tmp_path, str(repository), "--config", "~/none.yaml", HOME=home), "none.yaml", "No such file")


@pytest.mark.parametrize(
    "arguments", [("--port", "many"), ("--nonsense",), ("a", "b"), ("a", "--model-repository", "b"), ("--port",)]
)
def test_wrong_flags_are_exit_2(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = run(tmp_path, *arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
