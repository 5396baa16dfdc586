"""One redis-server and one Redis Cluster per test process; every test has a prefix of its own."""

import shutil
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from tests.store.clusters import ClusterPlace, RedisCluster, cluster_of
from tests.store.places import Place, RedisPlace, RedisServer, SqlitePlace

NUMBERS = count()


def needs_redis() -> None:
    """Skip where there is none."""
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed: make tools")


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    needs_redis()
    server = RedisServer(tmp_path_factory.mktemp("redis"), "--save", "")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """One that the test may stop; it keeps what it acknowledged."""
    needs_redis()
    server = RedisServer(tmp_path, "--save", "", "--appendonly", "yes", "--appendfsync", "always")
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    """Three masters, which a busy machine does not make doubt each other."""
    needs_redis()
    with cluster_of(tmp_path_factory.mktemp("cluster"), 3, 0, "--cluster-node-timeout", "30000") as cluster:
        yield cluster


@pytest.fixture
def own_cluster(tmp_path: Path) -> Iterator[RedisCluster]:
    """Three masters, and a replica of the one that has the keys of `tidegate`; it takes over after a second."""
    needs_redis()
    keep = ("--appendonly", "yes", "--appendfsync", "always")
    with cluster_of(tmp_path, 3, 1, "--cluster-node-timeout", "1000", *keep) as cluster:
        yield cluster


@pytest.fixture(params=["sqlite", "redis", "cluster"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return SqlitePlace(tmp_path / "store.db") if request.param == "sqlite" else shared_place(request)


def shared_place(request: pytest.FixtureRequest) -> RedisPlace:
    """A new prefix in the Redis or the Cluster of this test process, as the parameter says."""
    prefix = f"t{next(NUMBERS)}"
    if request.param == "cluster":
        return ClusterPlace(request.getfixturevalue("shared_cluster"), prefix)
    return RedisPlace(request.getfixturevalue("shared_redis"), prefix)
