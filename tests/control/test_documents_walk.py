"""Documents over documents, kills and commands in any order: the record fits its document, and nothing is stuck."""

import asyncio
import random
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.control.record import NodeReport
from router import slots as tables
from router.rollout.observed import Command, CommandKind
from runtimes.errors import ServingError
from tests.control.leading import Leading

HALF = [{"setWeight": "50%"}, {"setWeight": "100%"}]
COMMANDS: tuple[CommandKind, ...] = ("abort", "pause", "resume", "promote", "retry")


def document(*variants: tuple[str, int], to: str = "", **spec: Any) -> dict[str, Any]:
    """Variants by name and version, the first is stable; `to` = the canary of a rollout."""
    rollout = {"to": to, "steps": HALF, "analysis": {"guardrails": [{"metric": "error_rate"}]}}
    named = [{"name": name, "model": f"m:{version}"} for name, version in variants]
    whole = {"variants": named, "unit": {"from": [{"header": "x-user-id"}]}, "split": {variants[0][0]: 10_000}}
    whole |= ({"rollout": rollout} if to else {}) | spec
    return {"apiVersion": "tidegate/v1", "kind": "TrafficPolicy", "metadata": {"name": "m"}, "spec": whole}


FIRST = document(("stable", 1), ("canary", 2), to="canary")
RENAMED = document(("old", 1), ("new", 2), to="new")
OTHERS = [
    FIRST,
    RENAMED,
    document(("stable", 3), ("next", 4), to="next"),
    document(("stable", 1), ("canary", 2)),
    document(("stable", 1), ("canary", 4), to="canary"),
    document(("stable", 2), ("canary", 1), to="canary"),
    document(("stable", 1), ("canary", 2), to="canary", kill={"canary": True}),
    document(("stable", 1), ("canary", 2), ("third", 5), to="canary"),
    document(("stable", 2)),
    document(("canary", 2), ("stable", 3), to="stable"),
]


class Walk:
    """A leading node, and workers that may be behind."""

    def __init__(self, node: Leading, seed: int) -> None:
        self.node = node
        self.rng = random.Random(seed)
        self._behind = 0
        report = node.pages.report

        def told(sequence: int, *rest: Any) -> NodeReport:
            found = report(sequence, *rest)
            return msgspec.structs.replace(found, acked=self._behind) if self._behind else found

        node.pages.report = told  # type: ignore[method-assign]

    async def step(self) -> str:
        kinds = (self._apply, self._apply, self._tick, self._tick, self._tick, self._kill, self._back, self._command)
        try:
            await self.rng.choice((*kinds, self._lag))()
        except ServingError:
            pass
        self.node.policies.states()
        return str(self.node.rollouts.failed.get("m", ""))

    async def _apply(self) -> None:
        await self.node.policies.apply(self.rng.choice(OTHERS), actor="bob")

    async def _tick(self) -> None:
        await self.node.ticks(self.rng.randrange(1, 6))

    async def _kill(self) -> None:
        names, killed = self.node.policies.get("m").policy.names, self.rng.random() < 0.5
        await self.node.policies.kill("m", self.rng.choice(names), killed, actor="ann", reason="harm")

    async def _back(self) -> None:
        await self.node.policies.rollback("m", None, actor="ann", reason="")

    async def _command(self) -> None:
        kind, name = self.rng.choice(COMMANDS), str(self.rng.random())
        self.node.rollouts._commands.add("m", Command(id=name, kind=kind, actor="ada", reason="why"))
        await self.node.ticks(1)

    async def _lag(self) -> None:
        self._behind = 0 if self._behind else self.node.revision("m")

    async def end(self) -> str:
        """What is wrong once all workers have come after; "" = nothing."""
        self._behind = 0
        await self.node.ticks(12)
        kept = self.node.policies.get("m")
        record, status = kept.record, kept.record.status
        slots = tables.from_text(record.slots, kept.policy.names)
        if record.canary and status.phase in ("APPLYING", "PROPAGATING", "BAKING", "DECIDING"):
            have = slots.count(kept.policy.names.index(record.canary))
            if have != status.slots:
                return f"{status.phase}: the status says {status.slots}, the table {have}"
        digests = {pin.variant: pin.digest for pin in record.variants}
        if status.phase == "PROMOTED" and status.canary_digest != digests[record.stable]:
            return "what was promoted is not stable"
        waits = status.phase in ("PREPARING", "SUPERSEDED", "ABORTING") and not status.holding and not status.paused
        return f"stuck in {status.phase}: {status.waits}" if waits else ""


@pytest.mark.parametrize("seed", range(24))
def test_whatever_comes_over_whatever_the_record_fits_and_nothing_is_stuck(tmp_path: Path, seed: int) -> None:
    async def story() -> None:
        walk = Walk(await Leading.open(tmp_path, FIRST), seed)
        for _ in range(40):
            assert not await walk.step()
        assert not await walk.end()
        await walk.node.policies.store.close()

    asyncio.run(story())


@pytest.mark.parametrize("behind", [False, True], ids=["at once", "while it waits"])
@pytest.mark.parametrize("over", [OTHERS[2], OTHERS[3]], ids=["another rollout", "no rollout"])
def test_a_rollout_that_comes_back_over_another_document_begins_anew(
    tmp_path: Path, over: dict[str, Any], behind: bool
) -> None:
    async def story() -> None:
        node = await Leading.open(tmp_path, FIRST)
        walk = Walk(node, 0)
        await node.until("m", "BAKING")
        if behind:
            await walk._lag()
        await node.policies.apply(over, actor="bob")
        await node.ticks(3 * behind)
        await node.policies.apply(FIRST, actor="bob")
        assert node.policies.get("m").record.canary == "canary"
        assert await walk.end() == ""
        await node.policies.store.close()

    asyncio.run(story())


def test_a_renamed_canary_keeps_its_users(tmp_path: Path) -> None:
    async def story() -> None:
        node = await Leading.open(tmp_path, FIRST)
        await node.until("m", "BAKING")
        before = node.policies.get("m").record
        await node.policies.apply(RENAMED, actor="bob")
        record = node.policies.get("m").record
        assert (record.stable, record.canary, record.status.phase) == ("old", "new", "BAKING")
        assert record.slots == before.slots.replace("stable", "old").replace("canary", "new")
        await node.ticks(3)
        assert node.status("m").slots == 5_000
        await node.policies.store.close()

    asyncio.run(story())
