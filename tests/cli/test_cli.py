"""The console script as people call it: what it prints, and the exit codes that scripts build on."""

import json
import os
import subprocess
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from tests import models
from tests.tree import PATIENCE_S, TIDEGATE, Tree, serve

NOBODY = "http://127.0.0.1:9"
"""The discard port: nothing listens there."""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    repository = tmp_path_factory.mktemp("repository")
    config = "aliases: {stable: 1}\nversion_policy: {all: true}\n"
    models.write(repository, "affine", models.affine(2.0), 1, config)
    models.write(repository, "affine", models.affine(3.0), 2)
    models.write(repository, "optional", models.scaled_by_default(3.0))
    models.write(repository, "pair", models.add_and_sub())
    models.write(repository, "scalar", models.scalar())
    models.write(repository, "column", models.lookup(4))
    models.write(repository, "colours", models.colours())
    models.write(repository, "broken", b"this is no model")
    names = ("affine", "optional", "pair", "scalar", "column", "colours")
    wanted = [flag for name in names for flag in ("--load", name)]
    with serve(repository, "--workers", "1", "--model-control-mode", "explicit", *wanted) as running:
        yield running


class Ran:
    """What a command did."""

    def __init__(self, done: "subprocess.CompletedProcess[str]") -> None:
        self.code = done.returncode
        self.out = done.stdout
        self.err = done.stderr

    def __repr__(self) -> str:
        return f"<exit {self.code}\n{self.out}\n{self.err}>"

    def json(self) -> Any:
        assert self.code == 0, self
        return json.loads(self.out)

    def refused(self, code: int) -> str:
        """The one line that says why; nothing else was printed."""
        assert self.code == code, self
        assert self.out == "", self
        assert self.err.startswith("tidegate: "), self
        assert self.err.count("\n") == 1, self
        return self.err


def run(*arguments: str, tree: Tree | None = None, stdin: str = "", **environment: str) -> Ran:
    """Run the console script, told where a server is, if there is one."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TIDEGATE")}
    where = {"TIDEGATE_URL": NOBODY, "TIDEGATE_ADMIN_URL": NOBODY}
    if tree is not None:
        where = {"TIDEGATE_URL": tree.url, "TIDEGATE_ADMIN_URL": f"http://127.0.0.1:{tree.admin_port}"}
    return Ran(
        subprocess.run(
            [TIDEGATE, *arguments],
            env=clean | where | environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
    )


# ---- without a server ----


def test_version() -> None:
    assert run("version").out == f"tidegate {version('tidegate')}\n"
    said = run("version", "--json").json()
    assert (said["version"], said.keys()) == (version("tidegate"), {"version", "compiled"})


@pytest.mark.parametrize(
    "arguments",
    [
        ("nothing",), ("serve", "--nothing"), ("serve", "--port", "many"), ("infer",), ("models", "nothing"),
        ("models", "inspect"), ("bench", "m", "--connections", "0"), ("models", "alias"), ("infer", "m", "--rows", "0"),
    ],
)  # fmt: skip
def test_wrong_usage_is_exit_2(arguments: tuple[str, ...]) -> None:
    ran = run(*arguments)
    assert ran.code == 2, ran
    assert "Usage: tidegate" in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("infer", "../etc"), "'../etc' is no model name"),
        (("infer", "a:0"), "'0' is no version"),
        (("bench", "a@"), "is no alias"),
        (("models", "inspect", "a:x"), "'x' is no version"),
        (("models", "alias", "affine", "3"), "NAME@ALIAS"),
        (("models", "alias", "affine@stable"), "NAME@ALIAS"),
        (("models", "alias", "affine@stable", "3", "--delete"), "NAME@ALIAS"),
        (("infer", "affine@sha256:" + "0" * 64), "not by digest"),
        (("models", "inspect", "affine@sha256:" + "0" * 64), "not by digest"),
        (("serve", "a", "--model-repository", "b"), "give the models once"),
    ],
)
def test_wrong_arguments_are_exit_2_with_one_line(arguments: tuple[str, ...], said: str) -> None:
    assert said in run(*arguments).refused(2)


@pytest.mark.parametrize("command", [(), ("models",), ("config",), ("serve",), ("infer",), ("bench",), ("doctor",)])
def test_help(command: tuple[str, ...]) -> None:
    ran = run(*command, "--help")
    assert ran.code == 0
    assert "Usage: tidegate" in ran.out


@pytest.mark.parametrize(
    "arguments",
    [
        ("models", "ls"), ("models", "ls", "--json"), ("models", "inspect", "a"), ("models", "load", "a"),
        ("models", "unload", "a"), ("models", "alias", "a@b", "1"), ("infer", "a"), ("bench", "a"),
        ("doctor", "--admin-url", NOBODY),
    ],
)  # fmt: skip
def test_no_server_is_exit_1_with_one_line(arguments: tuple[str, ...]) -> None:
    said = run(*arguments).refused(1)
    assert "no server answers at http://127.0.0.1:9" in said
    assert "tidegate serve" in said


@pytest.mark.parametrize(
    "url", ["nonsense", "127.0.0.1:8081", "localhost:8081", "ftp://127.0.0.1", "http://", "http://127.0.0.1:port"]
)
def test_an_address_that_is_none_is_exit_2_with_one_line(url: str) -> None:
    said = run("models", "ls", "--admin-url", url).refused(2)
    assert f"--admin-url: expected http://HOST:PORT, such as http://127.0.0.1:8081, got {url!r}" in said
    assert "TIDEGATE_URL: expected http://HOST:PORT" in run("infer", "a", TIDEGATE_URL=url).refused(2)


# ---- configuration ----


def test_config_check(tmp_path: Path) -> None:
    good, bad, broken = tmp_path / "good.yaml", tmp_path / "bad.yaml", tmp_path / "broken.yaml"
    good.write_text("server:\n  port: 9000\n")
    bad.write_text("server:\n  prot: 9000\n")
    broken.write_text("server: [\n")
    assert run("config", "check", str(good)).out == "ok\n"
    assert run("config", "check").out == "ok\n"
    assert run("config", "check", TIDEGATE_CONFIG=str(good)).out == "ok\n"
    said = run("config", "check", str(bad)).refused(2)
    assert "prot" in said
    assert "did you mean 'port'?" in said
    assert "line 2" in said
    assert "line" in run("config", "check", str(broken)).refused(2)
    assert "absent.yaml" in run("config", "check", str(tmp_path / "absent.yaml")).refused(2)
    assert "TIDEGATE_SERVER__PROT" in run("config", "check", TIDEGATE_SERVER__PROT="1").refused(2)
    assert run("serve", "--config", str(bad)).refused(2) == said


def test_config_show_says_where_each_value_is_from(tmp_path: Path) -> None:
    file = tmp_path / "tidegate.yaml"
    file.write_text("server:\n  port: 9000\n")
    found = run("config", "show", str(file), "--json", TIDEGATE_SERVER__WORKERS="3").json()
    assert (found["server"]["port"], found["server"]["workers"]) == (9000, 3)
    lines = run("config", "show", str(file), TIDEGATE_SERVER__WORKERS="3").out.splitlines()
    (port,) = [line for line in lines if " server.port " in line]
    (workers,) = [line for line in lines if " server.workers " in line]
    (host,) = [line for line in lines if " server.host " in line]
    assert "9000" in port
    assert "tidegate.yaml" in port
    assert "TIDEGATE_SERVER__WORKERS" in workers
    assert "default" in host


def test_config_schema_describes_every_key() -> None:
    schema = run("config", "schema").json()
    shown = run("config", "show", "--json").json()
    definitions = schema["$defs"]
    sections = definitions["Config"]["properties"]
    assert set(sections) == set(shown)
    for section, keys in shown.items():
        reference = sections[section].get("$ref") or sections[section]["allOf"][0]["$ref"]
        assert set(definitions[reference.rpartition("/")[2]]["properties"]) == set(keys), section


def test_doctor() -> None:
    found = run("doctor", "--json").json()
    assert found["server"] is None
    assert {check["check"] for check in found["checks"]} >= {"configuration", "CPUs", "data folder", "open files"}
    assert not any(check["failed"] for check in found["checks"])
    assert found["libraries"]["tidegate"] == version("tidegate")
    assert "no server answers" in run("doctor").out


def test_doctor_finds_a_wrong_configuration() -> None:
    ran = run("doctor", TIDEGATE_SERVER__PORT="many")
    assert ran.code == 1
    assert "put it right" in ran.out
    assert ran.err.count("\n") == 1


def test_doctor_reads_the_url_of_the_store() -> None:
    def store(url: str) -> dict[str, object]:
        checks = json.loads(run("doctor", "--json", TIDEGATE_STORE__URL=url).out)["checks"]
        return next(check for check in checks if check["check"] == "store")

    assert store("redis+cluster://u:secret@a:1,b:2")["result"] == "redis+cluster at a:1,b:2"
    wrong = store("redis+cluster://u:secret@")
    assert wrong["failed"]
    assert wrong["result"] == "expected redis+cluster://HOST:PORT[,HOST:PORT...]"


# ---- models of a running server ----


def test_doctor_of_a_running_server(tree: Tree) -> None:
    server = run("doctor", "--json", tree=tree).json()["server"]
    assert (server["control_mode"], server["ready"], server["version"]) == ("explicit", True, version("tidegate"))
    (worker,) = server["worker_processes"]
    assert worker["listening"]
    assert "affine:2 READY" in worker["models"]
    assert "mode explicit" in run("doctor", tree=tree).out


def test_models_ls(tree: Tree) -> None:
    found = {model["name"]: model for model in run("models", "ls", "--json", tree=tree).json()}
    assert found["affine"]["default_version"] == 2
    assert found["affine"]["aliases"]["stable"] == 1
    assert [v["state"] for v in found["affine"]["versions"]] == ["READY", "READY"]
    table = run("models", "ls", tree=tree)
    assert table.code == 0
    assert "@stable" in table.out
    assert "\x1b[" not in table.out, "no colours into a file"


def test_models_inspect(tree: Tree) -> None:
    assert [v["version"] for v in run("models", "inspect", "affine", "--json", tree=tree).json()["versions"]] == [1, 2]
    for reference in ("affine:1", "affine@stable"):
        (one,) = run("models", "inspect", reference, "--json", tree=tree).json()["versions"]
        assert one["version"] == 1
        assert one["digest"].startswith("sha256:")
    assert "default version 2" in run("models", "inspect", "affine", tree=tree).out
    assert "no model 'nobody'" in run("models", "inspect", "nobody", tree=tree).refused(1)
    assert "known aliases: stable" in run("models", "inspect", "affine@best", tree=tree).refused(1)
    assert "no version 9" in run("models", "inspect", "affine:9", tree=tree).refused(1)


def test_models_load_and_unload(tree: Tree) -> None:
    assert run("models", "unload", "pair", tree=tree).out == "pair is unloaded\n"
    assert tree.get("/v2/models/pair/ready")[0] == 404
    assert "pair" in run("models", "unload", "pair", tree=tree).refused(1)
    (version_found,) = run("models", "load", "pair", "--json", tree=tree).json()["versions"]
    assert version_found["state"] == "READY"
    assert run("models", "load", "pair", tree=tree).out == "pair is loaded\n"
    assert tree.get("/v2/models/pair/ready")[0] == 200
    assert "not in the repository" in run("models", "load", "nobody", tree=tree).refused(1)
    assert "failed to load 'broken' version 1" in run("models", "load", "broken", tree=tree).refused(1)
    assert "broken" in run("models", "ls", tree=tree).out
    assert run("models", "unload", "broken", "--json", tree=tree).json() == {}


def test_models_alias(tree: Tree) -> None:
    assert run("models", "alias", "affine@best", "1", tree=tree).out == "affine@best is version 1\n"
    assert run("infer", "affine@best", "--data", "[[1, 2]]", "--json", tree=tree).json()["model_version"] == "1"
    changed = run("models", "alias", "affine@best", "2", "--json", tree=tree).json()
    assert changed["aliases"]["best"] == 2
    assert run("infer", "affine@best", "--data", "[[1, 2]]", "--json", tree=tree).json()["model_version"] == "2"
    assert "no version 9" in run("models", "alias", "affine@best", "9", tree=tree).refused(1)
    assert "is no alias" in run("models", "alias", "affine@9", "1", tree=tree).refused(1)
    assert run("models", "alias", "affine@best", "--delete", tree=tree).out == "affine@best is gone\n"
    assert "known aliases: stable" in run("infer", "affine@best", tree=tree).refused(1)


# ---- inference ----


@pytest.mark.parametrize("model", ["affine", "affine:1", "affine@stable", "pair", "scalar", "column", "colours"])
def test_infer_with_random_values(tree: Tree, model: str) -> None:
    rows = "1" if model in ("scalar", "column") else "3"
    ran = run("infer", model, "--rows", rows, tree=tree)
    if model == "column" and ran.code == 1:
        assert "the model refused the input" in ran.err, "whole numbers from 0 to 9, and the table has four"
        return
    assert ran.code == 0, ran
    assert "answered in" in ran.out
    assert "outputs" in ran.out


def test_infer_leaves_optional_inputs_to_the_graph(tree: Tree) -> None:
    x = json.loads(run("infer", "optional", "--data", "[[1, 2]]", "--json", tree=tree).out)["outputs"][0]["data"]
    assert x == [3.0, 6.0]
    given = '{"x": [[1, 2]], "scale": [10]}'
    assert run("infer", "optional", "--data", given, "--json", tree=tree).json()["outputs"][0]["data"] == [10.0, 20.0]
    assert run("infer", "optional", "--rows", "70", "--json", tree=tree).json()["outputs"][0]["shape"] == [70, 2]
    assert run("bench", "optional", "--seconds", "0.1", "--json", tree=tree).json()["errors"] == 0


def test_infer_with_values_of_ones_own(tree: Tree, tmp_path: Path) -> None:
    def data(*arguments: str, stdin: str = "") -> list[Any]:
        answer = run("infer", *arguments, "--json", tree=tree, stdin=stdin).json()
        return [output["data"] for output in answer["outputs"]]

    file = tmp_path / "rows.json"
    file.write_text('{"x": [[1, 2], [3, 4]]}')
    assert data("affine", "--data", "[[1, 2], [3, 4]]") == [[3.0, 6.0, 9.0, 12.0]]
    assert data("affine@stable", "--data", "[1, 2]") == [[2.0, 4.0]]
    assert data("affine", "--data", "-", stdin="[[1, 2]]") == [[3.0, 6.0]]
    assert data("affine", "--file", str(file)) == [[3.0, 6.0, 9.0, 12.0]]
    assert data("pair", "--data", '{"b": [1, 1, 1, 1], "a": [[1, 2, 3, 4]]}') == [[2, 3, 4, 5], [0, 1, 2, 3]]
    assert data("scalar", "--data", "21") == [[42.0]]
    assert data("column", "--data", "[3, 0]") == [[30.0, 0.0]]
    assert data("colours", "--data", '[["青"], ["?"]]') == [[2, -1], ["青", "?"]]
    assert "12.0" in run("infer", "affine", "--file", str(file), tree=tree).out


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("affine", "--data", "[["), 2, "not JSON"),
        (("affine", "--data", "1", "--file", "x"), 2, "not both"),
        (("affine", "--file", "/absent.json"), 2, "/absent.json"),
        (("affine", "--data", '{"z": [1]}'), 2, "no input 'z'; it has x"),
        (("pair", "--data", "[1]"), 2, "several inputs (a, b)"),
        (("affine", "--data", "[[1, 2, 3]]"), 1, "expected shape [-1, 2], got [1, 3]"),
        (("affine", "--data", "[[1, 2], [3]]"), 1, "input 'x'"),
        (("affine", "--data", '[["a", "b"]]'), 1, "expected numbers"),
        (("affine:9",), 1, "no version 9"),
        (("afine",), 1, "did you mean 'affine'?"),
    ],
)
def test_infer_that_fails_says_why_in_one_line(tree: Tree, arguments: tuple[str, ...], code: int, said: str) -> None:
    assert said in run("infer", *arguments, tree=tree).refused(code)


# ---- bench ----


def test_bench(tree: Tree) -> None:
    found = run("bench", "affine@stable", "--seconds", "0.3", "--connections", "2", "--rows", "4", "--json", tree=tree)
    figures = found.json()
    assert set(figures) == {"requests", "errors", "requests_per_s", "rows_per_s", "p50_ms", "p95_ms", "p99_ms"}
    assert figures["errors"] == 0
    assert figures["requests"] > 0
    assert figures["rows_per_s"] == pytest.approx(4 * figures["requests_per_s"], rel=0.01)
    assert 0 < figures["p50_ms"] <= figures["p95_ms"] <= figures["p99_ms"]
    assert "requests_per_s" in run("bench", "affine", "--seconds", "0.1", tree=tree).out


def test_bench_as_a_gate(tree: Tree) -> None:
    gate = run("bench", "affine", "--seconds", "0.3", "--json", "--max-p99-ms", "0.0001", tree=tree)
    assert gate.code == 3
    assert "above 0.0001 ms" in gate.err
    assert json.loads(gate.out)["requests"] > 0, "the figures are printed all the same"
    assert run("bench", "affine", "--seconds", "0.1", "--max-p99-ms", "60000", tree=tree).code == 0
    assert "did you mean 'affine'?" in run("bench", "afine", tree=tree).refused(1)


# ---- serve ----


def test_a_bare_file_is_served_under_its_own_name(tmp_path: Path) -> None:
    file = tmp_path / "iris.onnx"
    file.write_bytes(models.affine(4.0))
    with serve(file, "--workers", "1") as tree:
        assert tree.infer("iris", [1, 2])["outputs"][0]["data"] == [4.0, 8.0]
        assert tree.stop() == 0


def test_a_bare_file_as_an_argument_just_works(tmp_path: Path) -> None:
    file = tmp_path / "iris.onnx"
    file.write_bytes(models.affine(4.0))
    command = [TIDEGATE, "serve", str(file), "--data-dir", str(tmp_path / "data"), "--port", "0", "--admin-port", "0"]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TIDEGATE")}
    log = tmp_path / "log"
    with log.open("w") as out:
        process = subprocess.Popen([*command, "--workers", "1"], stdout=out, stderr=out, env=clean)
    try:
        tree = Tree(process, 0, 0, log)  # type: ignore[arg-type]
        tree.until("the opening lines", lambda: "plan:" in tree.log)
        data, admin = [line for line in tree.log.splitlines() if "http://" in line][:2]
        tree.port, tree.admin_port = int(data.rpartition(":")[2]), int(admin.rpartition(":")[2].partition("/")[0])
        tree.until_ready()
        assert tree.infer("iris", [1, 2])["outputs"][0]["data"] == [4.0, 8.0]
        assert tree.stop() == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def test_an_empty_folder_says_what_to_do_next(tmp_path: Path) -> None:
    with serve(tmp_path, "--workers", "1") as tree:
        (line,) = [line for line in tree.log.splitlines() if "holds no model yet" in line]
        assert f"copy one to {tmp_path}/NAME/1/model.onnx" in line
        assert json.loads(tree.get("/v2/models")[1]) == {"models": []}
        assert "copy one to NAME/1/model.onnx" in run("models", "ls", tree=tree).out


def test_a_model_file_that_lies_where_folders_are_expected_is_told(tmp_path: Path) -> None:
    (tmp_path / "credit.onnx").write_bytes(models.affine())
    with serve(tmp_path, "--workers", "1") as tree:
        (line,) = tree.logged("passed_over")
        assert "place it as 'credit'/1/model.onnx" in line["reason"]
        assert line["reason"] in run("doctor", tree=tree).out


def test_what_cannot_be_served_is_refused_before_anything_starts(tmp_path: Path) -> None:
    place = ["--data-dir", str(tmp_path / "data"), "--port", "0", "--admin-port", "0"]
    assert "absent" in run("serve", str(tmp_path / "absent"), *place).refused(2)
    assert "trusted_network" in run("serve", str(tmp_path), "--host", "0.0.0.0", *place).refused(2)
    assert "control_mode" in run("serve", str(tmp_path), "--model-control-mode", "often", *place).refused(2)
