"""A Redis of a test's own that keeps what it acknowledged, and two gateways on it that serve one table."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests import models
from tests.store.places import RedisServer
from tests.tree import Tree, serve


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path, "--appendonly", "yes", "--appendfsync", "always", "--save", "")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def pair(tmp_path: Path, redis: RedisServer) -> Iterator[tuple[Tree, Tree]]:
    with two_gateways(tmp_path, redis.url) as found:
        yield found


@contextmanager
def two_gateways(folder: Path, store_url: str) -> Iterator[tuple[Tree, Tree]]:
    """Version 1 of `table` is sound, version 2 fails for numbers from 4 on."""
    for version, size in ((1, 1000), (2, 4)):
        models.write(folder / "models", "table", models.lookup(size), version, "version_policy: {all: true}\n")
    with ExitStack() as stack:
        settings = {"store__url": store_url, "models__quiet_period_ms": 0}
        one, two = (stack.enter_context(serve(folder / "models", "--workers", "1", **settings)) for _ in range(2))
        yield one, two
