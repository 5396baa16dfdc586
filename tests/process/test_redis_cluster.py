"""Two gateways on one Redis Cluster: what is decided on one holds on both, also after another node took the keys."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.process.callers import Caller, Crowd, apply, command, policy, shown, tensor
from tests.process.conftest import two_gateways
from tests.store.clusters import RedisCluster, cluster_of, until
from tests.tree import Tree

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed"),
]
GOOD = tensor([1])
STEPS = [{"setWeight": 5000, "hold": {"minDuration": "10m"}}, {"setWeight": 10000}]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[RedisCluster]:
    with cluster_of(tmp_path, 3, 1, "--cluster-node-timeout", "2000") as found:
        yield found


def routes(tree: Tree) -> set[str]:
    """Variants that a hundred users get."""
    caller = Caller(tree.port, "table")
    found = {caller.ask(GOOD, f"x-user-id: u{n}\r\n").variant for n in range(100)}
    caller.close()
    return found


def test_what_is_decided_on_one_holds_on_both(cluster: RedisCluster, tmp_path: Path) -> None:
    replica = cluster.nodes[-1]
    with two_gateways(tmp_path, cluster.url(cluster.others()[0])) as (one, two):
        apply(one, policy("table", steps=STEPS))
        for tree in (one, two):
            tree.until("users of the canary", lambda t=tree: shown(t, "table").get("slots") == 5000)
            assert routes(tree) == {"stable", "canary"}
        crowds = [Crowd(tree.port, "table", lambda _: GOOD, users=1_000, callers=1) for tree in (one, two)]
        with crowds[0], crowds[1]:
            assert replica.ask("CLUSTER", "FAILOVER") == b"OK"
            until("the replica took over", lambda: cluster.owner() is replica)
            two.until("a decision", lambda: command(two, "table", "abort", reason="tried")[0] == 200)
            for tree in (one, two):
                tree.until("rolled back", lambda t=tree: shown(t, "table")["state"] == "ROLLED_BACK")
                tree.until("in force", lambda t=tree: routes(t) == {"stable"})
        for crowd in crowds:
            assert (crowd.seen.broken, crowd.seen.statuses()) == ([], {200})
        status, answer = one.call("GET", "/admin/v1/audit/verify", admin=True)
        assert (status, json.loads(answer)["broken"]) == (200, None), answer
