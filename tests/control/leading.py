"""The loop that leads rollouts, over a real store, with nodes' reports made by hand. For tests."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gateway.control.counts import Totals
from gateway.control.latency import StableLatency
from gateway.control.messages import PolicyState
from gateway.control.record import NodeReport, Notes
from gateway.control.reporter import Reading
from gateway.control.rollouts import Node, Rollouts
from gateway.tally import FIELDS
from router.rollout.observed import Command, CommandKind
from tests.control.test_policies_lost import opened

Note = tuple[int, int, int, int, int]
SECOND_MS = 1_000


def document(name: str = "m", **analysis: Any) -> dict[str, Any]:
    """A rollout of sticky users to half of them, then to all."""
    return {
        "apiVersion": "tidegate/v1",
        "kind": "TrafficPolicy",
        "metadata": {"name": name},
        "spec": {
            "variants": [{"name": "stable", "model": f"{name}:1"}, {"name": "canary", "model": f"{name}:2"}],
            "unit": {"from": [{"header": "x-user-id"}]},
            "split": {"stable": 10_000},
            "rollout": {
                "to": "canary",
                "steps": [{"setWeight": "50%"}, {"setWeight": "100%"}],
                "analysis": {"guardrails": [{"metric": "error_rate"}], **analysis},
            },
        },
    }


class Pages:
    """Stands for the reader of pages: what one worker has counted and noted of each policy."""

    def __init__(self) -> None:
        self.counts: dict[str, dict[tuple[int, str, str], tuple[int, ...]]] = {}
        self.notes: dict[str, list[Note]] = {}

    def add(self, name: str, revision: int, *, canary: int = 0, stable: int = 0, notes: list[Note]) -> None:
        """Requests that were answered, and notes."""
        found = self.counts.setdefault(name, {})
        for variant, count in (("canary", canary), ("stable", stable)):
            before = found.get((revision, "", variant), (0,) * len(FIELDS))
            found[revision, "", variant] = (before[0] + count, before[1] + count, *before[2:])
        self.notes.setdefault(name, []).extend(notes)

    def read(self, living: object, finals: object) -> Reading:
        return Reading()

    def rewind(self) -> None:
        """Every report has all notes."""

    def report(self, state: PolicyState, *read: object) -> NodeReport:
        return NodeReport(
            node="n",
            run="r",
            acked=state.revision,
            fresh=True,
            ready=tuple(pin.digest for pin in state.variants),
            counts=tuple((*place, totals) for place, totals in self.counts.get(state.name, {}).items()),
            notes=(Notes("w", 0, tuple(self.notes.get(state.name, ()))),),
        )


class Leading:
    """A node that leads.

    Attributes:
        told: (policy, kind) of each message to people.
    """

    def __init__(self, rollouts: Rollouts, pages: Pages, clock: list[int], told: list[tuple[str, str]]) -> None:
        self.rollouts, self.pages, self.told = rollouts, pages, told
        self.policies = rollouts._policies
        self._clock = clock

    @classmethod
    async def open(cls, place: Path, *documents: Mapping[str, Any]) -> "Leading":
        clock, told, pages = [1_700_000_000_000], [], Pages()
        policies = await opened(place / "store.db", place)
        for one in documents:
            await policies.apply(one, actor="ada")
        node = Node("n", lambda: ({"w": None}, None), dict, dict, StableLatency(Totals))  # type: ignore[arg-type]
        rollouts = Rollouts(
            policies,
            pages,  # type: ignore[arg-type]  # it has the shape of a reporter
            node,
            now_ms=lambda: clock[0],
            notify=lambda name, kind, reason: told.append((name, kind)),
        )
        return cls(rollouts, pages, clock, told)

    async def ticks(self, count: int = 1) -> None:
        for _ in range(count):
            self._clock[0] += SECOND_MS
            await self.rollouts.tick()

    async def until(self, name: str, phase: str) -> None:
        for _ in range(20):
            if self.status(name).phase == phase:
                return
            await self.ticks()
        raise AssertionError(f"{self.status(name).phase}: {self.status(name).waits}")

    def status(self, name: str) -> Any:
        return self.policies.get(name).record.status

    def revision(self, name: str) -> int:
        return self.policies.get(name).record.revision

    def command(self, name: str, kind: CommandKind) -> None:
        self.rollouts._commands.add(name, Command(id=f"{kind}-{self._clock[0]}", kind=kind, actor="ada"))
