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
from gateway.wire.request import Limits
from router import slots
from runtimes.batching.turns import TurnScheduler
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
SNAPSHOT = Snapshot(1, (), {"m": Route(1, (1,), {})}, True, policies=(STATE,))


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


def test_a_policy_signs_with_the_key_that_signs_now(tmp_path: Path, watchdog: Watchdog) -> None:
    """It went on with the old one until it was changed itself: that key may be no more valid."""

    async def story() -> None:
        (tmp_path / "model.onnx").write_bytes(models.affine())
        loop = asyncio.get_running_loop()
        scheduler = TurnScheduler(loop, time.perf_counter_ns, budget_ns=1_000_000)
        environment = Environment(loop, scheduler, watchdog, time.perf_counter_ns, 1, 1_000_000, 1 << 33)
        wanted = WantedVersion("m", 1, DIGEST, str(tmp_path), "model.onnx", ModelConfig())
        runtime = Runtime(wanted, environment)
        page = CounterPage(memoryview(bytearray(1 << 20)))
        book = RouteBook(page, Limits(), request_log(time.monotonic), time.perf_counter_ns, lambda: 1_800_000_000_000)
        runtime.open(prepare(wanted, environment, lambda: None), book.sink_for)
        fleet: Any = Here(runtime)

        def built(*keys: SigningKey) -> Any:
            return book.build(msgspec.structs.replace(SNAPSHOT, signing=keys), fleet).served.get(("m", ""))

        assert built() is None
        first = built(OLD)
        assert signed_by(first) == OLD.id
        assert built(OLD) is first
        assert signed_by(built(NEW, OLD)) == NEW.id
        await runtime.close()

    asyncio.run(story())
