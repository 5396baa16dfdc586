"""Units of a step are listed one by one while the rollout runs, and not after its end."""

import asyncio
from pathlib import Path

import pytest

from gateway.control.runs import Run
from gateway.control.showing import units
from gateway.control.units import Sampled
from gateway.tally import NOTE_SEEN
from router.rollout.observed import CommandKind
from tests.control.leading import Leading, Note, document

UNITS = 40


def seen(revision: int, first: int = 0) -> list[Note]:
    """A request of each of so many units, half of them the canary's."""
    return [(NOTE_SEEN, revision, 0, at % 2, (first + at) * 0x1_0001_0001_0003) for at in range(UNITS)]


def listed(desk: Leading) -> int:
    return len(Sampled(desk.policies.get("m").record.evidence["judge"]["sampled"]).units)


@pytest.mark.parametrize(("command", "phase"), [("promote", "PROMOTED"), ("abort", "ROLLED_BACK")])
def test_nothing_of_a_unit_is_left_in_the_record_of_a_rollout_that_has_ended(
    tmp_path: Path, command: CommandKind, phase: str
) -> None:
    async def story() -> None:
        desk = await Leading.open(tmp_path, document("m"))
        await desk.until("m", "BAKING")
        revision = desk.revision("m")
        desk.command("m", "pause")
        desk.pages.add("m", revision, canary=UNITS // 2, stable=UNITS // 2, notes=seen(revision))
        await desk.ticks(2)
        assert listed(desk) == UNITS
        known = units(desk.policies.get("m"))
        desk.command("m", "resume")
        desk.command("m", command)
        await desk.until("m", phase)
        kept = desk.policies.get("m").record
        judge = kept.evidence["judge"]
        assert (listed(desk), units(desk.policies.get("m"))) == (0, known), "how many there were is known"
        # What is heard of the step afterwards brings none back, and changes no verdict.
        desk.pages.add("m", revision, stable=UNITS, notes=seen(revision, UNITS))
        await desk.ticks(120)
        again = desk.policies.get("m").record
        assert again.evidence["judge"]["counts"] != judge["counts"], "it is counted on"
        assert listed(desk) == 0
        assert again.evidence["judge"]["rails"] == judge["rails"]
        assert again.status.marks == kept.status.marks
        await desk.policies.store.close()

    asyncio.run(story())


def test_also_where_its_evidence_cannot_be_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(run: Run, kept: object, report: object) -> None:
        raise ValueError("bad state")

    async def story() -> None:
        desk = await Leading.open(tmp_path, document("m"))
        await desk.until("m", "BAKING")
        revision = desk.revision("m")
        desk.pages.add("m", revision, canary=UNITS // 2, stable=UNITS // 2, notes=seen(revision))
        await desk.ticks(2)
        monkeypatch.setattr(Run, "take", fails)
        await desk.ticks(2)
        assert listed(desk) == UNITS
        desk.command("m", "abort")
        await desk.until("m", "ROLLED_BACK")
        assert listed(desk) == 0
        await desk.policies.store.close()

    asyncio.run(story())
