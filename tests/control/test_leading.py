"""A fault of one policy: the others go on, control goes on, people see it, and an abort still works."""

import asyncio
from pathlib import Path

import pytest

from gateway.control.judge import Judge
from gateway.control.runs import Run
from gateway.tally import NOTE_BAD, NOTE_SEEN
from tests.control.leading import Leading, document


def test_a_rollout_whose_evidence_fails_holds_says_why_and_can_be_aborted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = Run.take

    def fails(run: Run, kept: object, report: object) -> None:
        if run.judge is not None and kept.policy.metadata.name == "m":  # type: ignore[attr-defined]
            raise ValueError("bad state")
        take(run, kept, report)  # type: ignore[arg-type]

    async def story() -> None:
        desk = await Leading.open(tmp_path, document("m"), document("other"))
        await desk.until("m", "BAKING")
        await desk.until("other", "BAKING")
        before = desk.policies.get("m").record.evidence["judge"]
        monkeypatch.setattr(Run, "take", fails)
        await desk.ticks(2)
        assert desk.status("m").state == "HOLDING"
        assert "cannot be computed" in desk.status("m").holding["blind"]
        assert "ValueError: bad state" in desk.status("m").holding["blind"]
        assert desk.policies.get("m").record.evidence["judge"] == before, "what is stored stays"
        assert desk.status("other").state in ("BAKING", "DECIDING")
        assert ("m", "holding") in desk.told
        desk.command("m", "abort")
        await desk.until("m", "ROLLED_BACK")
        await desk.policies.store.close()

    asyncio.run(story())


def test_a_turn_that_fails_ends_neither_the_others_nor_its_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        desk = await Leading.open(tmp_path, document("m"), document("other"))
        await desk.until("m", "BAKING")
        await desk.until("other", "BAKING")
        state = Judge.state

        def fails(judge: Judge) -> object:
            if judge.identity == desk.status("m").identity:
                raise OverflowError("too large")
            return state(judge)

        monkeypatch.setattr(Judge, "state", fails)
        for name in ("m", "other"):
            desk.command(name, "pause")
        await desk.ticks(2)
        assert desk.rollouts.failed == {"m": "OverflowError: too large"}
        assert (desk.status("m").paused, desk.status("other").state) == (None, "PAUSED")
        monkeypatch.setattr(Judge, "state", state)
        await desk.ticks()
        assert (desk.rollouts.failed, desk.status("m").state) == ({}, "PAUSED"), "it was not forgotten"
        await desk.policies.store.close()

    asyncio.run(story())


def test_a_unit_in_the_place_of_another_one_that_errs_ends_nothing(tmp_path: Path) -> None:
    async def story() -> None:
        desk = await Leading.open(tmp_path, document("m"))
        await desk.until("m", "BAKING")
        revision = desk.revision("m")
        desk.pages.add("m", revision, stable=1, notes=[(NOTE_SEEN, revision, 0, 0, 0x100012345)])
        await desk.ticks(2)
        desk.pages.add("m", revision, canary=1, notes=[(NOTE_SEEN | NOTE_BAD, revision, 0, 1, 0x200012345)])
        await desk.ticks(2)
        assert (desk.rollouts.failed, desk.status("m").holding) == ({}, {})
        judge = desk.policies.get("m").record.evidence["judge"]
        harm, safety = (judge["rails"]["error_rate"][part] for part in ("harm", "safety"))
        assert harm["all_events"] == 1, "as evidence of harm it counts"
        assert (safety["canary_bad"], safety["canary_total"]) == (0, 0)
        await desk.policies.store.close()

    asyncio.run(story())
