"""Configuration: who wins, and errors that say where and what else it could be."""

from pathlib import Path

import msgspec
import pytest
import yaml

from gateway.config import Config, ConfigError, threads_per_execution, usable_cpus, worker_count
from gateway.configfile import load_config


def refused(
    flags: dict[str, object] | None = None, environment: dict[str, str] | None = None, path: str | None = None
) -> str:
    with pytest.raises(ConfigError) as error:
        load_config(flags or {}, environment or {}, path)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_flags_win_over_environment_over_file_over_defaults(tmp_path: Path) -> None:
    file = tmp_path / "tidegate.yaml"
    file.write_text("server:\n  port: 1000\n  admin_port: 1001\n  workers: 3\n")
    environment = {"TIDEGATE_SERVER__PORT": "2000", "TIDEGATE_SERVER__ADMIN_PORT": "2001", "TIDEGATE_URL": "x"}
    loaded = load_config({"server.port": 3000, "server.host": None}, environment, str(file))
    server = loaded.config.server
    assert (server.port, server.admin_port, server.workers, server.host) == (3000, 2001, 3, "127.0.0.1")
    assert loaded.sources["server.port"] == "flag"
    assert loaded.sources["server.admin_port"] == "environment TIDEGATE_SERVER__ADMIN_PORT"
    assert loaded.sources["server.workers"] == str(file)
    assert "server.host" not in loaded.sources


def test_the_file_may_be_named_by_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("logs: {level: debug}")
    assert load_config({}, {"TIDEGATE_CONFIG": str(file)}).config.logs.level == "debug"


def test_the_environment_is_read_as_yaml() -> None:
    environment = {
        "TIDEGATE_MODELS__CONTROL_MODE": "explicit",
        "TIDEGATE_MODELS__LOAD": "[a, b]",
        "TIDEGATE_SERVER__ADMIN_PORT": "null",
        "TIDEGATE_SERVER__TRUSTED_NETWORK": "true",
    }
    config = load_config({}, environment).config
    assert (config.models.load, config.server.admin_port, config.server.trusted_network) == (("a", "b"), None, True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("server:\n  prot: 1\n", "line 2: server: unknown key 'prot'; did you mean 'port'?"),
        ("sever: {}\n", "did you mean 'server'?"),
        ("server:\n  port: eighty\n", "line 2"),
        ("server:\n  port: 70000\n", "line 2"),
        ("limits:\n  url_bytes: 0\n", "limits.url_bytes"),
        ("limits:\n  url_bytes: -5\n", "limits.url_bytes"),
        ("server: &a {port: 1}\nlogs: *a\n", "anchors"),
        ("server:\n  port: 1\n  port: 2\n", "stands twice"),
        ("server: !!python/object:os.system {}\n", "tags"),
        ("- a\n", "a.yaml"),
    ],
)
def test_files_that_are_wrong(tmp_path: Path, text: str, expected: str) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(text)
    assert expected in refused(path=str(file))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert "cannot be read" in refused(path=str(tmp_path / "none.yaml"))


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("TIDEGATE_SERVER__PROT", "1", "did you mean 'port'?"),
        ("TIDEGATE_SEVER__PORT", "1", "did you mean 'server'?"),
        ("TIDEGATE_SERVER__PORT", "eighty", "environment TIDEGATE_SERVER__PORT"),
        ("TIDEGATE_SERVER__PORT", "[", "environment TIDEGATE_SERVER__PORT"),
    ],
)
def test_an_environment_that_is_wrong(name: str, value: str, expected: str) -> None:
    assert expected in refused(environment={name: value})


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"server.host": "0.0.0.0"}, "trusted_network"),
        ({"server.port": 5, "server.admin_port": 5}, "data port already"),
        ({"server.drain_delay_ms": 60_000}, "longer than server.grace_ms"),
        ({"models.load": ["a"]}, "control_mode: explicit"),
        ({"decisions.to": "stream"}, "decisions.to: stream needs a Redis: set store.url"),
        ({"limits.fast_body_bytes": 1 << 30}, "json_body_bytes"),
        ({"limits.bytes_in_flight": 1024}, "bytes_in_flight"),
    ],
)
def test_settings_that_contradict_each_other(flags: dict[str, object], expected: str) -> None:
    assert expected in refused(flags)


def test_another_address_is_fine_when_it_is_meant() -> None:
    load_config({"server.host": "0.0.0.0", "server.trusted_network": True}, {})


def test_what_is_shown_can_be_read_again(tmp_path: Path) -> None:
    shown = msgspec.to_builtins(Config())
    file = tmp_path / "all.yaml"
    file.write_text(yaml.safe_dump(shown))
    assert load_config({}, {}, str(file)).config == Config()


def test_the_thread_plan_never_oversubscribes() -> None:
    for workers in (0, 1, 2, 5, 64):
        config = load_config({"server.workers": workers, "execution.threads": 8}, {}).config
        assert threads_per_execution(config) * max(1, workers) <= max(8, workers)
    assert worker_count(Config()) == usable_cpus()
