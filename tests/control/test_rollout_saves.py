"""How often what a rollout counts is written: each second while it decides, each minute after its end."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.control.counts import total
from gateway.control.latency import StableLatency
from gateway.control.messages import ModelState, Status
from gateway.control.policies import Policies
from gateway.control.reporter import Reporter
from gateway.control.rollouts import REST_MS, SAVE_MS, Node, Rollouts
from gateway.counters import CounterPage
from gateway.store.sqlite import open_sqlite
from gateway.tally import OK, ROUTED, tally_block
from router.rollout.observed import Command
from tests.control.test_policies_lost import DOCUMENT, Models

STEPS = [{"setWeight": 1_000, "hold": {"minDuration": "10m"}}, {"setWeight": 10_000}]


class Leader:
    """A node that leads, with one worker that has what it is told to have at once."""

    def __init__(self, policies: Policies) -> None:
        self.now_ms = 1_700_000_000_000
        self.policies = policies
        self.page, self.finals = (CounterPage(memoryview(bytearray(1 << 20))) for _ in range(2))
        latency = StableLatency(lambda: total([self.page]))
        node = Node("n", lambda: ({"w": self.page}, self.finals), self._statuses, dict, latency)
        self.rollouts = Rollouts(
            policies, Reporter("n", "r"), node, now_ms=lambda: self.now_ms, notify=lambda *told: None
        )

    def _statuses(self) -> dict[str, Status]:
        states = self.policies.states()
        models = tuple(
            ModelState(pin.name, pin.version, pin.digest, 1, "READY") for state in states for pin in state.variants
        )
        return {"w": Status(1, True, models, True, {state.name: state.revision for state in states})}

    @property
    def phase(self) -> str:
        return self.policies.get("m").record.status.phase

    async def ticks(self, ms: int, asked: int = 1) -> int:
        """Let time pass with requests in it; gives how often the policy was written."""
        revisions = {self.policies.get("m").revision}
        for _ in range(ms // 250):
            self.now_ms += 250
            block = tally_block(self.page, "m", self.policies.get("m").record.revision, "", "stable")
            block[ROUTED] += asked
            block[OK] += asked
            await self.rollouts.tick()
            revisions.add(self.policies.get("m").revision)
        return len(revisions) - 1

    async def told(self, kind: Any) -> None:
        command = Command(id=kind, kind=kind, actor="ada", labels=(), reason="", identity="", step=None)
        asked = asyncio.create_task(self.rollouts.command("m", command))
        while not asked.done():
            await self.ticks(250)

    async def until(self, phase: str) -> None:
        for _ in range(100):
            if self.phase == phase:
                return
            await self.ticks(250)
        pytest.fail(f"{self.policies.get('m').record.status}")


def leading(tmp_path: Path, work: Callable[[Leader], Awaitable[None]]) -> None:
    async def story() -> None:
        store = await open_sqlite(tmp_path / "store.db")
        policies = Policies(store, Models(), tmp_path, now_ms=lambda: 1, changed=lambda: None)
        await policies.open()
        document = msgspec.json.decode(msgspec.json.encode(DOCUMENT))
        document["spec"] |= {
            "split": {"stable": 10_000},
            "rollout": {"to": "canary", "steps": STEPS, "analysis": {"guardrails": [{"metric": "error_rate"}]}},
        }
        await policies.apply(document, actor="ada")
        await work(Leader(policies))
        await store.close()

    asyncio.run(story())


def counted(node: Leader) -> int:
    return sum(counts[ROUTED] for counts in node.policies.counts_of("m").values())


def test_an_ended_rollout_is_counted_on_and_written_each_minute(tmp_path: Path) -> None:
    async def work(node: Leader) -> None:
        await node.until("BAKING")
        assert await node.ticks(10_000) >= 10_000 // SAVE_MS - 1
        await node.told("abort")
        await node.until("ROLLED_BACK")
        before = counted(node)
        assert await node.ticks(5 * REST_MS) <= 5
        await node.ticks(REST_MS, asked=0)
        assert counted(node) == before + 5 * REST_MS // 250

    leading(tmp_path, work)
