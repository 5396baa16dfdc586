"""A rollback that is asked for while the store is away: carried out when it is back, and not forgotten."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import models
from tests.process.callers import apply, command, policy, shown, until
from tests.store.places import RedisServer
from tests.tree import Tree, serve

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed"),
]
HALF = [{"setWeight": 5000, "hold": {"minDuration": "10m"}}, {"setWeight": 10000}]


@pytest.fixture
def tree(tmp_path: Path, redis: RedisServer) -> Iterator[Tree]:
    for version, size in ((1, 1000), (2, 4)):
        models.write(tmp_path / "models", "table", models.lookup(size), version, "version_policy: {all: true}\n")
    with serve(tmp_path / "models", "--workers", "1", models__quiet_period_ms=0, store__url=redis.url) as running:
        yield running


def test_an_abort_given_while_the_store_is_away_is_carried_out_when_it_is_back(tree: Tree, redis: RedisServer) -> None:
    apply(tree, policy("table", steps=HALF))
    until(tree, "table", "BAKING")
    redis.stop()
    tree.until("the store is missed", lambda: bool(shown(tree, "table")["store_away"]))
    status, _ = command(tree, "table", "abort")
    assert status == 503, "nobody could write it, and it is said so"
    redis.start()
    until(tree, "table", "ROLLED_BACK")
    assert shown(tree, "table")["latches"], "a canary that was aborted does not come back by itself"
