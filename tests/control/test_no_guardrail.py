"""A rollout that nothing judges: no document may ask for one, and one that a store has from before goes no further."""

import asyncio
from pathlib import Path

import msgspec
import pytest

from gateway.control.documents import readable
from gateway.control.policies import Policies
from runtimes.errors import InvalidInput
from tests.control.leading import Leading, document

UNJUDGED = document("m", guardrails=[])


async def as_before(policies: Policies) -> None:
    """A policy as a release wrote it that took such a document."""
    kept, _ = await policies.apply(document("m"), actor="ada")
    record = msgspec.structs.replace(kept.record, document=UNJUDGED)
    audit = {"actor": "ada", "what": "apply", "document": UNJUDGED}
    await policies.save("m", record, expected=kept.revision, audit=audit)


def test_no_document_may_leave_a_canary_unjudged() -> None:
    with pytest.raises(InvalidInput) as error:
        readable(UNJUDGED)
    assert error.value.message == (
        "spec.rollout.analysis.guardrails: expected 1 to 16 entries, got 0; leave it out for the default, error_rate"
    )


def test_what_a_store_has_from_before_stays_in_force_and_waits_for_a_person(tmp_path: Path) -> None:
    async def story() -> None:
        before = await Leading.open(tmp_path)
        await as_before(before.policies)
        await before.policies.store.close()
        desk = await Leading.open(tmp_path)
        await desk.ticks(10)
        assert desk.policies.get("m").record.document == UNJUDGED
        assert (desk.rollouts.failed, desk.status("m").phase, desk.status("m").slots) == ({}, "PREPARING", 0)
        assert desk.status("m").holding["guardrails"].startswith("no guardrail judges the canary")
        desk.command("m", "promote")
        await desk.until("m", "PROMOTED")
        await desk.policies.store.close()

    asyncio.run(story())
