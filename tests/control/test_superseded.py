"""What becomes of a policy's record when another document comes over a rollout that is under way."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from gateway.control.documents import Kept
from gateway.control.messages import Route
from gateway.control.monitorroles import roles_of
from gateway.control.plans import rollout_spec
from gateway.control.policies import Policies
from gateway.control.replay import replay
from gateway.control.states import state_of
from gateway.control.steps import carried_out, spec_of
from gateway.control.thresholds import Thresholds
from router.diff import new_rollout_reasons
from router.policy import TrafficPolicy, parse
from router.rollout.machine import advance
from router.rollout.observed import Command, Observed
from router.rollout.spec import identity
from runtimes.errors import Conflict
from tests.control.test_policies_lost import opened

VARIANTS = [{"name": "stable", "model": "m:1"}, {"name": "canary", "model": "m:2"}]
STEPS = {"to": "canary", "steps": [{"setWeight": 1000}, {"setWeight": 10000}]}
GOALS = [{"metric": "reward.amount", "type": "mean", "direction": "up", "primary": True}]
EXPERIMENT = {"hypothesis": "x", "owner": "y", "goals": GOALS}
UNIT = {"from": [{"header": "x-user-id"}]}


def document(**spec: Any) -> dict[str, Any]:
    whole = {"variants": VARIANTS, "split": {"stable": 10000}, "unit": UNIT} | spec
    return {"apiVersion": "tidegate/v1", "kind": "TrafficPolicy", "metadata": {"name": "m"}, "spec": whole}


async def ticks(policies: Policies, kept: Kept, count: int, now_ms: int, *commands: Command) -> Kept:
    """So many looks of the controller; every worker has what is in force."""
    for at in range(count):
        record = kept.record
        observed = Observed(
            token=1,
            revision=record.revision,
            fresh=True,
            acked_revision=record.revision,
            canary_ready=True,
            applied_by=record.applied_by,
            identity="",
            commands=commands,
        )
        status, actions = advance(spec_of(kept), record.status, observed, now_ms + 1000 * at)
        kept = await policies.save(
            "m", carried_out(kept, status, actions, Thresholds(0, 0, {})), expected=kept.revision
        )
    return kept


@pytest.mark.parametrize(
    ("spec", "shadow_slots"),
    [
        ({"split": {"stable": 5000, "canary": 5000}, "experiment": EXPERIMENT}, 0),
        ({"variants": VARIANTS[:1]}, 0),
        ({"shadow": {"variant": "canary", "percent": 20}}, 2000),
    ],
    ids=["experiment", "one variant", "shadow"],
)
def test_a_document_without_a_rollout_takes_nothing_from_its_stable(
    tmp_path: Path, spec: dict[str, Any], shadow_slots: int
) -> None:
    """Stable was zeroed as if it were the canary: its requests took the slow way and were no evidence."""

    async def story() -> None:
        policies = await opened(tmp_path / "a.db", tmp_path)
        kept, _ = await policies.apply(document(rollout=STEPS), actor="ada")
        kept = await ticks(policies, kept, 6, 0)
        assert (kept.record.status.phase, kept.record.canary, kept.record.zeroed) == ("BAKING", "canary", False)
        kept, _ = await policies.apply(document(**spec), actor="ada")
        slots = kept.record.slots
        kept = await ticks(policies, kept, 1, 10_000)
        assert kept.record.status.phase == "SUPERSEDED"
        kept = await ticks(policies, kept, 3, 11_000)
        record, state = kept.record, state_of("m", 1, kept, zeroed_here=False)
        assert (record.status.phase, record.canary, record.zeroed) == ("IDLE", "", False)
        assert (record.slots, state.shadow_slots) == (slots, shadow_slots)
        assert (state.canary, state.zeroed) == (-1, False)
        await policies.store.close()

    asyncio.run(story())


def test_whom_a_canary_reached_is_known_after_an_edit_of_its_rollout(tmp_path: Path) -> None:
    async def story() -> None:
        policies = await opened(tmp_path / "a.db", tmp_path)
        kept, _ = await policies.apply(document(rollout=STEPS), actor="ada")
        kept = await ticks(policies, kept, 6, 0)
        known = kept.record.exposures
        assert [one.slots for one in known] == [((9000, 9999),)]
        fewer = STEPS | {"steps": [{"setWeight": 500}, {"setWeight": 10000}]}
        kept, _ = await policies.apply(document(rollout=fewer), actor="ada")
        assert kept.record.exposures == known
        kept = await ticks(policies, kept, 6, 10_000)
        assert (kept.record.status.slots, kept.record.exposures) == (500, known)
        await policies.store.close()

    asyncio.run(story())


def test_what_has_been_promoted_is_not_killed_by_a_document(tmp_path: Path) -> None:
    """The former stable, which the document still calls stable, may be out of memory."""

    async def story() -> None:
        policies = await opened(tmp_path / "a.db", tmp_path)
        kept, _ = await policies.apply(document(rollout=STEPS), actor="ada")
        kept = await ticks(policies, kept, 6, 0)
        kept = await ticks(policies, kept, 6, 10_000, Command(id="1", kind="promote", actor="ada"))
        assert (kept.record.status.phase, kept.record.stable) == ("PROMOTED", "canary")
        with pytest.raises(Conflict, match="'canary' has been promoted"):
            await policies.apply(document(rollout=STEPS, kill={"canary": True}), actor="ada")
        await policies.store.close()

    asyncio.run(story())


def edited(**spec: Any) -> TrafficPolicy:
    return parse(document(rollout=STEPS, **spec))


@pytest.mark.parametrize(
    "spec",
    [
        {"unit": {"from": [{"header": "x-other"}]}},
        {"unit": {"from": [{"cookie": "x-user-id"}]}},
        {"unit": {}},
        {"unit": UNIT | {"hash": "unleash"}},
        {"unit": {"hash": "unleash"}},
        {"unit": UNIT | {"salt": "s"}},
        {"unit": UNIT | {"missing": "random"}},
        {"unit": UNIT},
    ],
)
def test_what_the_plan_calls_another_rollout_is_one(spec: dict[str, Any]) -> None:
    """With another unit or hash users are randomised anew: what was seen of them before is no evidence."""
    digests = {"stable": "a", "canary": "b"}
    before, after = edited(), edited(**spec)
    found = [identity(one) for one in (rollout_spec(before, digests), rollout_spec(after, digests)) if one]
    reasons = new_rollout_reasons(before, after, {"m:1": "a", "m:2": "b"})
    assert (found[0] != found[1]) == bool(reasons), reasons


def test_a_kill_in_a_document_reaches_workers_before_its_stable_version_does(tmp_path: Path) -> None:
    """What waits for it takes the variant out as well."""

    async def story() -> None:
        policies = await opened(tmp_path / "a.db", tmp_path)
        kept, _ = await policies.apply(document(kill={"canary": True}), actor="ada")
        assert state_of("m", 1, kept, zeroed_here=False).killed == ("canary",)
        assert kept.record.killed == ()
        await policies.store.close()

    asyncio.run(story())


def test_who_is_killed_by_a_document_has_no_windows_that_could_end_its_alarm(tmp_path: Path) -> None:
    async def story() -> None:
        policies = await opened(tmp_path / "a.db", tmp_path)
        kept, _ = await policies.apply(document(kill={"canary": True}), actor="ada")
        roles = roles_of(kept, Route(2, (1, 2), {}), 0.0, frozenset("12"))
        assert roles.live is not None
        assert {variant for _, variant in roles.live} == {"stable", "-"}
        await policies.store.close()

    asyncio.run(story())


def test_a_rollback_without_a_number_brings_back_nothing_that_was_deleted(tmp_path: Path) -> None:
    async def story() -> None:
        policies = await opened(tmp_path / "a.db", tmp_path)
        first, _ = await policies.apply(document(), actor="ada")
        await policies.delete("m", actor="ada")
        await policies.apply(document(split={"stable": 9000, "canary": 1000}), actor="ada")
        with pytest.raises(Conflict, match="no document of generation 1 "):
            await policies.rollback("m", None, actor="ada", reason="")
        kept = await policies.rollback("m", 1, actor="ada", reason="")
        assert kept.record.document == first.record.document
        records = (await policies.store.audit_read("m", limit=50)).records
        assert {replay(one, None).text for one in records} == {"same verdict"}
        await policies.store.close()

    asyncio.run(story())
