"""`tidegate keys ...` and what other commands say of keys: exit codes, what is printed, and what is never printed."""

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.keys import KEY, new_key
from tests import models
from tests.cli.test_cli import Ran, run
from tests.tree import Tree, serve


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


def keys(data: Path, *arguments: str) -> Ran:
    return run("keys", *arguments, TIDEGATE_DATA__DIR=str(data))


# ---- without a server ----


def test_a_key_from_birth_to_end(data: Path) -> None:
    scopes = ("--scope", "infer", "--scope", "view")
    made = keys(data, "create", "app", *scopes, "--model", "fraud-*", "--label", "release", "--expires", "90d")
    assert made.code == 0, made
    text = made.out.strip()
    assert KEY.fullmatch(text), "the key alone, for $(...)"
    assert stat.S_IMODE((data / "keys.json").stat().st_mode) == 0o600
    assert stat.S_IMODE(data.stat().st_mode) == 0o700
    (listed,) = keys(data, "ls", "--json").json()
    assert {name: listed[name] for name in ("name", "state", "scopes", "models", "labels", "revoked")} == {
        "name": "app", "state": "in force", "scopes": ["infer", "view"], "models": ["fraud-*"], "labels": ["release"],
        "revoked": None,
    }  # fmt: skip
    assert listed["expires"] > listed["created"]
    assert "fraud-*" in keys(data, "ls").out
    assert text.removeprefix("tg_") not in keys(data, "ls").out + json.dumps(listed)
    assert keys(data, "revoke", "app").out == "app is revoked\n"
    assert keys(data, "revoke", "app", "--json").json()["state"] == "revoked"


def test_a_key_as_json(data: Path) -> None:
    made = keys(data, "create", "app", "--scope", "infer", "--json").json()
    assert KEY.fullmatch(made["key"])
    assert (made["name"], made["expires"]) == ("app", None)


def test_no_keys(data: Path) -> None:
    assert keys(data, "ls", "--json").json() == []
    assert "tidegate keys create" in keys(data, "ls").out
    assert not data.exists(), "looking makes nothing"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("create", "app", "--scope", "root"), 2, "known scopes: infer, feedback, metrics, view, route, admin, audit"),
        (("create", "app"), 2, "at least one of infer"),
        (("create", "app", "--scope", "infer", "--expires", "2020-01-01"), 2, "is in the past"),
        (("create", "app", "--scope", "infer", "--expires", "0s"), 2, "is in the past"),
        (("create", "app", "--scope", "infer", "--expires", "soon"), 2, "such as 90d"),
        (("create", "a b", "--scope", "infer"), 2, "no name"),
        (("create", "local", "--scope", "infer"), 2, "'local'"),
        (("create", "app", "--scope", "infer", "--model", "a/b"), 2, "no pattern"),
        (("create", "taken", "--scope", "infer"), 1, "already"),
        (("revoke", "take"), 1, "did you mean 'taken'?"),
    ],
)
def test_what_is_refused_changes_nothing(data: Path, arguments: tuple[str, ...], code: int, said: str) -> None:
    assert keys(data, "create", "taken", "--scope", "infer").code == 0
    before = (data / "keys.json").read_bytes()
    assert said in keys(data, *arguments).refused(code)
    assert (data / "keys.json").read_bytes() == before


@pytest.mark.parametrize("command", [("ls",), ("create", "b", "--scope", "infer"), ("revoke", "a")])
def test_a_file_that_others_may_read_is_refused(data: Path, command: tuple[str, ...]) -> None:
    keys(data, "create", "a", "--scope", "infer")
    (data / "keys.json").chmod(0o644)
    assert "chmod 600" in keys(data, *command).refused(2)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of others")
def test_what_root_makes_belongs_to_the_owner_of_the_folder(data: Path) -> None:
    data.mkdir(0o700)
    os.chown(data, 12345, 12346)
    keys(data, "create", "a", "--scope", "infer")
    for name in ("keys.json", "keys.lock"):
        found = (data / name).stat()
        assert (found.st_uid, found.st_gid) == (12345, 12346), name


def test_where_the_file_is_comes_from_flag_file_or_environment(tmp_path: Path) -> None:
    settings = tmp_path / "tidegate.yaml"
    settings.write_text(f"data: {{dir: {tmp_path}/one}}\n")
    assert run("keys", "create", "a", "--scope", "infer", "--config", str(settings)).code == 0
    assert (tmp_path / "one/keys.json").exists()
    flags = ("--data-dir", f"{tmp_path}/two", "--config", str(settings))
    assert run("keys", "create", "a", "--scope", "infer", *flags).code == 0
    assert (tmp_path / "two/keys.json").exists()
    assert "prot" in run("keys", "ls", TIDEGATE_SERVER__PROT="1").refused(2)


def test_config_show_says_in_words_whether_keys_are_asked_for() -> None:
    assert "keys: nobody is asked for a key: only this machine reaches 127.0.0.1" in run("config", "show").out
    assert "keys: both ports ask for a key" in run("config", "show", TIDEGATE_SERVER__AUTH="keys").out
    open_to_all = {"TIDEGATE_SERVER__HOST": "0.0.0.0", "TIDEGATE_SERVER__TRUSTED_NETWORK": "true"}
    assert "NOBODY IS ASKED FOR A KEY" in run("config", "show", **open_to_all).out


def checks(data: Path, **environment: str) -> dict[str, dict[str, object]]:
    ran = run("doctor", "--json", TIDEGATE_DATA__DIR=str(data), **environment)
    return {check["check"]: check for check in json.loads(ran.out)["checks"]}


def test_doctor_says_in_words_whether_keys_are_asked_for(data: Path) -> None:
    assert "nobody is asked" in str(checks(data)["keys"]["result"])
    found = checks(data, TIDEGATE_SERVER__AUTH="keys")["keys"]
    assert "both ports ask for a key; 0 in force" in str(found["result"])
    assert "tidegate keys create" in str(found["advice"])
    keys(data, "create", "a", "--scope", "infer")
    assert "1 in force" in str(checks(data, TIDEGATE_SERVER__AUTH="keys")["keys"]["result"])
    (data / "keys.json").chmod(0o644)
    found = checks(data, TIDEGATE_SERVER__AUTH="keys")["keys"]
    assert found["failed"]
    assert "chmod 600" in str(found["advice"])


@pytest.mark.parametrize(
    "value", ["short", "tg_" + "x" * 42, "tg_" + "x" * 43 + "\n", "x\r\nhost: evil", "tg_é" + "x" * 42]
)
def test_what_is_no_key_is_neither_sent_nor_printed(value: str) -> None:
    said = run("models", "ls", TIDEGATE_KEY=value).refused(2)
    assert "TIDEGATE_KEY holds no key" in said
    assert value not in said


def test_an_empty_key_is_none() -> None:
    assert "no server answers" in run("models", "ls", TIDEGATE_KEY="").refused(1)


# ---- J05 - J07: starting ----


def start(tmp_path: Path, *arguments: str, **environment: str) -> Ran:
    place = ["--data-dir", str(tmp_path / "data"), "--port", "0", "--admin-port", "0"]
    return run("serve", str(tmp_path), *place, *arguments, **environment)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o660])
def test_keys_that_others_may_read_keep_the_server_from_starting(tmp_path: Path, data: Path, mode: int) -> None:
    keys(data, "create", "a", "--scope", "infer")
    (data / "keys.json").chmod(mode)
    assert "chmod 600" in start(tmp_path, "--auth", "keys").refused(2)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "damaged"),
        ('{"version": 9, "keys": []}', "version 9"),
        ('{"version": 1, "keys": [{"name": "a", "sha256": "", "scopes": ["infer"], "models": [], "labels": [], '
         '"created_s": 1}]}', "sha256 of key 'a'"),
    ],
)  # fmt: skip
def test_empty_or_damaged_keys_keep_the_server_from_starting(
    tmp_path: Path, data: Path, content: str, said: str
) -> None:
    data.mkdir(0o700)
    (data / "keys.json").write_text(content)
    (data / "keys.json").chmod(0o600)
    assert said in start(tmp_path, "--auth", "keys").refused(2)


def test_another_address_needs_keys_or_a_word(tmp_path: Path) -> None:
    said = start(tmp_path, "--host", "0.0.0.0").refused(2)
    assert "server.auth: keys" in said
    assert "server.trusted_network" in said
    assert "server.auth" in start(tmp_path, "--auth", "perhaps").refused(2)
    assert "admin_hosts" in start(tmp_path, TIDEGATE_SERVER__ADMIN_HOSTS="['a:1']").refused(2)


# ---- with a server ----


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    repository = tmp_path_factory.mktemp("repository")
    models.write(repository, "affine", models.affine())
    settings = {"server__auth": "keys", "models__quiet_period_ms": 0}
    with serve(repository, "--workers", "1", "--host", "0.0.0.0", **settings) as running:
        yield running


@pytest.mark.process
def test_the_start_says_that_keys_are_asked_for_and_how_to_make_one(tree: Tree) -> None:
    assert "both ports ask for a key; there is none yet: tidegate keys create NAME --scope infer" in tree.log
    assert "NOBODY IS ASKED" not in tree.log


@pytest.mark.process
def test_client_commands_show_the_key_of_the_environment(tree: Tree) -> None:
    key = keys(tree.data_dir, "create", "all", "--scope", "infer", "--scope", "view").out.strip()
    other = new_key(bytes)
    tree.until("the key", lambda: run("models", "ls", tree=tree, TIDEGATE_KEY=key).code == 0)
    row = ("infer", "affine", "--data", "[[1, 2.5]]", "--json")
    assert run(*row, tree=tree, TIDEGATE_KEY=key).json()["outputs"][0]["data"] == [2.0, 5.0]
    found = run(
        "bench", "affine", "--seconds", "0.2", "--connections", "1", "--json", tree=tree, TIDEGATE_KEY=key
    ).json()
    assert (found["errors"], found["requests"] > 0) == (0, True)
    for command in (row, ("models", "ls"), ("models", "inspect", "affine"), ("bench", "affine", "--seconds", "0.1")):
        for environment in ({}, {"TIDEGATE_KEY": other}):
            said = run(*command, tree=tree, **environment).refused(1)
            assert "(HTTP 401); the key is read from TIDEGATE_KEY" in said
            assert other not in said
    assert "lacks scope admin (HTTP 403)" in run("models", "load", "affine", tree=tree, TIDEGATE_KEY=key).refused(1)


@pytest.mark.process
def test_doctor_tells_a_server_that_asks_for_a_key_from_none(tree: Tree) -> None:
    assert "a server answers at" in run("doctor", tree=tree).refused(1)
    assert "scope view" in run("doctor", tree=tree).refused(1)
    key = keys(tree.data_dir, "create", "doctor", "--scope", "view").out.strip()
    tree.until("the key", lambda: run("doctor", tree=tree, TIDEGATE_KEY=key).code == 0)
    assert "asks for a key" in run("doctor", tree=tree, TIDEGATE_KEY=key).out
