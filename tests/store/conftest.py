"""One redis-server per test process; every test has a prefix of its own."""

import shutil
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from tests.store.places import Place, RedisPlace, RedisServer, SqlitePlace

NUMBERS = count()


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed: make tools")
    server = RedisServer(tmp_path_factory.mktemp("redis"), "--save", "")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """One that the test may stop; it keeps what it acknowledged."""
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed: make tools")
    server = RedisServer(tmp_path, "--save", "", "--appendonly", "yes", "--appendfsync", "always")
    server.start()
    yield server
    server.stop()


@pytest.fixture(params=["sqlite", "redis"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "sqlite":
        return SqlitePlace(tmp_path / "store.db")
    server: RedisServer = request.getfixturevalue("shared_redis")
    return RedisPlace(server, f"t{next(NUMBERS)}")
