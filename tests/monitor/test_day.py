"""Memory of the monitor is constant over a day of simulated time: what it holds at noon, it holds at midnight."""

import gc
import sys
from collections import Counter
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import pytest

from gateway.monitor.incidents import CLOSED
from gateway.monitor.realised import KEEP
from tests.monitor.day_world import DAY_S, Bare, Memory, Node, World

SHARE, BYTES = 0.01, 100_000
"""What may have come between noon and midnight: of what was there, and at least. A vector has 51 KB here."""
_OUTSIDE = (ModuleType, type, FunctionType, BuiltinFunctionType, MethodType, World, Node, Memory)


def reachable(root: Any) -> Counter[str]:
    """Bytes of everything that is held by an object, by type; the world around it is not."""
    found: Counter[str] = Counter()
    known, waiting = {id(root)}, [root]
    while waiting:
        one = waiting.pop()
        found[type(one).__name__] += sys.getsizeof(one)
        for other in gc.get_referents(one):
            if id(other) not in known and not isinstance(other, _OUTSIDE):
                known.add(id(other))
                waiting.append(other)
    return found


def held(world: World) -> Counter[str]:
    """By type, of the node that leads."""
    gc.collect()
    return reachable(world.nodes[0].monitors)


def check(world: World) -> None:
    world.run(DAY_S // 2)
    model = world.nodes[0].monitors.held["m"]
    cohorts = [one for one in model.monitor.versions["1"].cohorts.items() if one[1] == "stable"]
    assert len(cohorts) >= KEEP - 1, "what is bounded has reached its bound by noon"
    assert len(model.monitor.ledger.closed) == CLOSED
    noon = held(world)
    world.run(DAY_S)
    midnight = held(world)
    more = midnight.total() - noon.total()
    print(f"{noon.total():,} bytes at noon, {more:+,} at midnight; {world.events}; state {world.store.largest:,} bytes")
    assert more <= max(BYTES, SHARE * noon.total()), (midnight - noon).most_common(8)


def test_what_is_held_at_noon_is_held_at_midnight(tmp_path: Path) -> None:
    check(Bare(tmp_path, step_s=120, nodes="abc"))


@pytest.mark.sim
@pytest.mark.timeout(600)
def test_what_is_held_at_noon_is_held_at_midnight_with_a_store_and_followers(tmp_path: Path) -> None:
    world = World(tmp_path, step_s=60, nodes="abc")
    check(world)
    assert world.nodes[0].monitors.held["m"].monitor.hosts.states.keys() == set("abc"), "each was judged by itself"


def test_a_leak_of_a_vector_an_hour_is_found() -> None:
    kept: list[Any] = [{}]
    before = reachable(kept).total()
    for hour in range(12):
        kept[0][hour] = np.zeros(6_000, np.int64)
    assert reachable(kept).total() - before > BYTES
