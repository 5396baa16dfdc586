"""A backup is restored into the store of gateways that run: all of them go back to it, and no request is lost."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import models
from tests.process.callers import Crowd, apply, cli, command, policy, shown, tensor, until
from tests.process.conftest import two_gateways
from tests.store.places import RedisServer
from tests.tree import Tree, serve

pytestmark = pytest.mark.process
Trees = tuple[Tree, ...]


@pytest.fixture(params=["sqlite", "redis"])
def trees(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Trees]:
    """One gateway with two workers and a file, or two gateways and a Redis."""
    models.write(tmp_path / "models", "other", models.lookup(1000), 1)
    if request.param == "redis":
        if shutil.which("redis-server") is None:
            pytest.skip("redis-server is not installed: make tools")
        redis: RedisServer = request.getfixturevalue("redis")
        with two_gateways(tmp_path, redis.url) as found:
            yield found
        return
    for version, size in ((1, 1000), (2, 4)):
        models.write(tmp_path / "models", "table", models.lookup(size), version, "version_policy: {all: true}\n")
    data = str(tmp_path / "data")
    with serve(tmp_path / "models", "--workers", "2", "--data-dir", data, models__quiet_period_ms=0) as tree:
        yield (tree,)


def split_of(tree: Tree) -> Any:
    return shown(tree, "table", "policies").get("document", {}).get("spec", {}).get("split")


def restore(tree: Tree, path: Path) -> Path:
    """Restore over the command line; where that was kept which was replaced."""
    told = cli(tree, "store", "restore", str(path), "--reason", "the wrong policy", "--json")
    assert told.returncode == 0, told.stderr
    return Path(json.loads(told.stdout)["aside"])


def test_every_node_goes_back_to_the_backup_while_requests_are_answered(trees: Trees, tmp_path: Path) -> None:
    backed_up, later = {"stable": 5000, "canary": 5000}, {"stable": 9000, "canary": 1000}
    apply(trees[0], policy("table", split=backed_up))
    assert cli(trees[-1], "store", "backup", str(tmp_path / "backup")).returncode == 0
    before = apply(trees[-1], policy("table", split=later), 1)
    other = policy("other", variants=("1",), split={"stable": 10000})
    created = apply(trees[0], other)

    crowds = [Crowd(tree.port, "table", lambda _: tensor([1]), users=5_000, callers=2) for tree in trees]
    for crowd in crowds:
        crowd.__enter__()
    aside = restore(trees[0], tmp_path / "backup")
    for tree in trees:
        tree.until("it is back", lambda t=tree: split_of(t) == backed_up)
        # No worker may take the new table for one that it had.
        tree.until("numbers above", lambda t=tree: shown(t, "table", "policies")["revision"] > before["revision"])
        assert shown(tree, "table", "policies")["generation"] > before["generation"]
        tree.until("the other is gone", lambda t=tree: shown(t, "other", "policies").get("status") == 404)
    revision = shown(trees[0], "table", "policies")["revision"]
    for tree, crowd in zip(trees, crowds, strict=True):
        tree.until("workers follow", lambda c=crowd: c.seen.count(variant="canary", revision=revision) > 50)
    seen = [crowd.stop() for crowd in crowds]
    assert [one.statuses() for one in seen] == [{200}] * len(trees)
    assert [one.broken for one in seen] == [[]] * len(trees)

    # It is a store as any other: sound, and changes go on above all numbers that were ever given.
    assert cli(trees[0], "store", "check").returncode == 0
    again = apply(trees[-1], other)
    assert again["revision"] > created["revision"] or again["generation"] > created["generation"]
    status, body = trees[0].get("/admin/v1/audit?name=store", admin=True)
    (record,) = [one for one in json.loads(body)["records"] if one["what"] == "restore store"]
    assert (status, record["reason"], record["aside"]) == (200, "the wrong policy", str(aside))

    # What was replaced can be had back.
    restore(trees[-1], aside)
    for tree in trees:
        tree.until("it is as before", lambda t=tree: split_of(t) == later)


def test_a_canary_that_was_rolled_back_since_the_backup_stays_so(trees: Trees, tmp_path: Path) -> None:
    steps = [{"setWeight": 5000, "hold": {"minDuration": "10m"}}]
    apply(trees[0], policy("table", steps=steps))
    until(trees[0], "table", "BAKING")
    assert cli(trees[0], "store", "backup", str(tmp_path / "backup")).returncode == 0
    status, told = command(trees[-1], "table", "abort", reason="it is bad")
    assert status == 200, told
    revision = shown(trees[0], "table", "policies")["revision"]
    restore(trees[0], tmp_path / "backup")
    for tree in trees:
        tree.until("numbers above", lambda t=tree: shown(t, "table", "policies").get("revision", 0) > revision)
        found = until(tree, "table", "ROLLED_BACK")
        assert found["slots"] == 0
    crowd = Crowd(trees[-1].port, "table", lambda _: tensor([1]), users=500, callers=1)
    with crowd:
        trees[-1].until("answers", lambda: crowd.seen.count(status=200) > 200)
    assert crowd.seen.count(variant="canary") == 0


def test_what_is_no_backup_is_refused_and_changes_nothing(trees: Trees, tmp_path: Path) -> None:
    apply(trees[0], policy("table", split={"stable": 5000, "canary": 5000}))
    (tmp_path / "page").write_text("<html>")
    for path, reason in ((tmp_path / "page", "backup"), (tmp_path / "none", "no such file")):
        told = cli(trees[0], "store", "restore", str(path))
        assert (told.returncode, reason in told.stderr) == (1, True), told.stderr
    assert apply(trees[-1], policy("table", split={"stable": 10000}), 1)["generation"] == 2
