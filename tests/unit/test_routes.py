"""What a snapshot changes of the routes that were in force."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from gateway.control.messages import PolicyState, Route, SigningKey, Snapshot, VariantPin
from gateway.counters import CounterPage
from gateway.exchange import Exchange
from gateway.logs import request_log
from gateway.policyroute import PolicyRoute
from gateway.predictions import read
from gateway.routes import RouteBook
from gateway.tally import NEUTRAL, ROUTED, tallies
from gateway.unitkeys import keyed
from gateway.wire.request import Limits
from router import slots
from router.hashing import placer
from runtimes.batching.turns import TurnScheduler
from runtimes.errors import InvalidInput
from runtimes.execution.watchdog import Watchdog
from runtimes.registry.modelconfig import ModelConfig
from runtimes.runtime import Environment, Runtime, WantedVersion, prepare
from tests import models

pytestmark = pytest.mark.interpreted
DIGEST = "sha256:" + "ab" * 32
OLD, NEW = SigningKey(1, b"o" * 32), SigningKey(2, b"n" * 32)
DOCUMENT = {
    "apiVersion": "tidegate/v1",
    "kind": "TrafficPolicy",
    "metadata": {"name": "m"},
    "spec": {"variants": [{"name": "stable", "model": "m:1"}], "split": {"stable": 10000}},
}
STATE = PolicyState(
    "m", 1, 1, DOCUMENT, (VariantPin("stable", "m", 1, DIGEST),), slots.fresh([10000]), 0, shadow_slots=0
)
SNAPSHOT = Snapshot(1, (), {"m": Route(1, (1,), {})}, True, policies=(STATE,), unit_key=b"u" * 32)


@pytest.fixture
def watchdog() -> Iterator[Watchdog]:
    found = Watchdog(time.perf_counter_ns)
    yield found
    found.stop()


class Here:
    """A fleet of one runtime."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime

    def get(self, name: str, version: int) -> Runtime | None:
        return self.runtime if (name, version) == ("m", 1) else None


def signed_by(route: Any) -> int:
    """Number of the key that the next prediction is signed with."""
    assert isinstance(route, PolicyRoute)
    asked = Exchange()
    asked.rows = 1
    served = route.choose(asked)
    assert served.evidence is not None
    served.evidence.answered([asked], [np.zeros((1, 2), np.float32)], 0, 0)
    text = asked.prediction.decode()
    return next(key.id for key in (OLD, NEW) if is_by(text, key))


def is_by(text: str, key: SigningKey) -> bool:
    try:
        return bool(read(text, {key.id: key.secret}))
    except ValueError:
        return False


class Node:
    """A book of routes, and one model that is here."""

    def __init__(self, folder: Path, watchdog: Watchdog) -> None:
        (folder / "model.onnx").write_bytes(models.affine())
        loop = asyncio.get_running_loop()
        scheduler = TurnScheduler(loop, time.perf_counter_ns, budget_ns=1_000_000)
        environment = Environment(loop, scheduler, watchdog, time.perf_counter_ns, 1, 1_000_000, 1 << 33)
        wanted = WantedVersion("m", 1, DIGEST, str(folder), "model.onnx", ModelConfig())
        self.runtime = Runtime(wanted, environment)
        self.page = CounterPage(memoryview(bytearray(1 << 20)))
        log = request_log(time.monotonic)
        self.book = RouteBook(self.page, Limits(), log, time.perf_counter_ns, lambda: 1_800_000_000_000)
        self.runtime.open(prepare(wanted, environment, lambda: None), self.book.sink_for)

    def built(self, *keys: SigningKey, **changes: Any) -> Any:
        """The policy's route, if it is in force."""
        fleet: Any = Here(self.runtime)
        return self.book.build(msgspec.structs.replace(SNAPSHOT, signing=keys, **changes), fleet).served.get(("m", ""))

    def counted(self) -> tuple[int, int]:
        """Routed and neutral, in the page."""
        blocks = [block for _, block in tallies(self.page)]
        return sum(block[ROUTED] for block in blocks), sum(block[NEUTRAL] for block in blocks)


def test_a_policy_signs_with_the_key_that_signs_now(tmp_path: Path, watchdog: Watchdog) -> None:
    """It went on with the old one until it was changed itself: that key may be no more valid."""

    async def story() -> None:
        node = Node(tmp_path, watchdog)
        assert node.built() is None
        first = node.built(OLD)
        assert signed_by(first) == OLD.id
        assert node.built(OLD) is first
        assert signed_by(node.built(NEW, OLD)) == NEW.id
        await node.runtime.close()

    asyncio.run(story())


def test_units_are_keyed_with_the_key_of_now_and_no_policy_is_in_force_without(
    tmp_path: Path, watchdog: Watchdog
) -> None:
    async def story() -> None:
        node = Node(tmp_path, watchdog)
        assert node.built(OLD, unit_key=b"") is None
        for key in (b"u" * 32, b"v" * 32):
            asked = Exchange()
            asked.request_id = b"r1"
            node.built(OLD, unit_key=key).choose(asked)
            assert asked.placed is not None
            assert asked.placed.unit == keyed(key, "m")(placer("sha1-60", "m")(b"r1")[1])
        await node.runtime.close()

    asyncio.run(story())


def test_a_request_is_routed_in_the_page_before_it_is_anything_else_there(tmp_path: Path, watchdog: Watchdog) -> None:
    """Routed minus finished is what died with a worker: it is never less than nothing, and has all that executes."""

    async def story() -> None:
        node = Node(tmp_path, watchdog)
        route = node.built(OLD)
        asked = [Exchange() for _ in range(3)]
        for one in asked:
            route.choose(one)
        assert node.counted() == (0, 0)
        evidence = route.arms[0].served.evidence
        evidence.failed(asked[0], InvalidInput("of a column that is not there"))
        evidence.left(asked[1])
        assert node.counted() == (3, 2)
        empty = Exchange()
        empty.rows = 0
        evidence = route.choose(empty).evidence
        evidence.answered([empty], [np.zeros((0, 2), np.float32)], 0, 0)
        assert node.counted() == (4, 2)
        await node.runtime.close()

    asyncio.run(story())
