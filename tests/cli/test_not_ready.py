"""A server that is not ready says what it waits for; what is wrong with a repository is told where people look."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import models
from tests.cli.test_cli import run
from tests.tree import Tree, serve

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    folder = tmp_path_factory.mktemp("not_ready") / "models"
    models.write(folder, "affine", models.affine(), config="aliases: {stable: 9}\n")
    models.write(folder, "misspelt", models.affine(), config="batching: {max_batch: 4}\n")
    models.write(folder, "page", b"<html>not found</html>")
    Path(folder, "no name").mkdir()
    with serve(folder, "--workers", "1", ready=False, models__quiet_period_ms=300) as running:
        running.until("the admin port", lambda: running.get("/admin/v1/server", admin=True)[0] == 200)
        running.until("the model", lambda: running.get("/v2/models/affine/ready")[0] == 200)
        yield running


def state(tree: Tree) -> dict[str, list[str]]:
    status, body = tree.get("/admin/v1/server", admin=True)
    assert status == 200
    found: dict[str, list[str]] = json.loads(body)
    return found


def test_what_keeps_it_from_being_ready(tree: Tree) -> None:
    tree.until("both reasons", lambda: "loading" not in str(state(tree)["waits_for"]))
    assert tree.get("/v2/health/ready")[0] == 503
    told = state(tree)
    assert [line.partition(":")[0] for line in told["waits_for"]] == ["misspelt", "page"]
    assert "did you mean 'max_batch_size'?" in told["waits_for"][0]
    assert "got HTML" in told["waits_for"][1]
    assert "'no name' is no model name" in str(told["passed_over"])
    out = run("doctor", tree=tree).out
    for line in (*told["waits_for"], *told["passed_over"]):
        assert line[:60] in out
    assert "NOT ready" in out


def test_nothing_is_unavailable_without_a_reason(tree: Tree) -> None:
    states = tree.logged("model_state")
    assert {line["model"] for line in states if line["state"] == "UNAVAILABLE"} == {"misspelt", "page"}
    assert all(line["reason"] for line in states if line["state"] == "UNAVAILABLE")
    assert tree.logged("model_unloaded") == []
    assert tree.logged("load_failed") == []


def test_an_alias_that_points_nowhere_is_told(tree: Tree) -> None:
    out = run("models", "inspect", "affine", tree=tree).out
    assert "affine: default version 1; versions in the repository: 1\n" in out
    assert "alias 'stable' points to version 9, which is not in the repository" in out
    assert "page: nothing answers; versions in the repository: 1\n" in run("models", "inspect", "page", tree=tree).out
