"""What the leader holds of one policy between ticks: its statistics, and what nodes have last reported. No I/O."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway.control.documents import Kept
from gateway.control.intake import Intake
from gateway.control.judge import Judge
from gateway.control.record import NodeReport


@dataclass(slots=True)
class Heard:
    """The last report of a node, and when it came."""

    at_ms: int
    report: NodeReport


@dataclass(slots=True)
class Run:
    """What the leader holds of one policy between ticks.

    Attributes:
        revision: of the stored document that this was made from or written with.
        moved: the statistics have grown since they were saved.
        cursor: in the stream of other nodes' reports.
        blind: why its evidence cannot be computed; "" = it can. What is stored of it stays as it is, for whoever makes
            it anew: a start, another leader, the next document or `retry`.
    """

    revision: int
    identity: str
    intake: Intake
    judge: Judge | None
    cursor: int
    saved_ms: int = 0
    moved: bool = False
    blind: str = ""
    heard: dict[str, Heard] = field(default_factory=dict)

    def take(self, kept: Kept, report: NodeReport) -> None:
        """A report into the statistics."""
        delta = self.intake.take(report)
        if self.judge is not None:
            self.judge.begin_step(kept.record.status.visit, kept.record.revision)
            self.judge.take(delta, kept.record.weights)
        new = delta.counts or delta.shadow or delta.notes or delta.lost or delta.executions
        self.moved = self.moved or bool(new)

    def evidence(self, known: Mapping[str, object]) -> dict[str, Any]:
        """All that the next leader needs to go on, as JSON holds it exactly.

        Args:
            known: revisions whose counts may still come.
        """
        self.intake.forget(known)
        return {
            "intake": self.intake.state(),
            "judge": self.judge.state() if self.judge is not None else None,
            "cursor": self.cursor,
            "doublings": self.judge.sampled.doublings if self.judge is not None else 0,
        }


def judge_of(kept: Kept, identity: str, state: Mapping[str, Any] | None) -> Judge | None:
    """The statistics of a rollout that is wanted, from what is stored of them; None = none is wanted."""
    rollout, record = kept.policy.spec.rollout, kept.record
    if rollout is None or not identity:
        return None
    return Judge(
        identity,
        rollout.analysis,
        sticky=bool(kept.policy.spec.unit.from_),
        variants=kept.policy.names,
        stable=kept.policy.spec.stable,
        canary=rollout.to,
        since=record.revision,
        state=state,
    )
