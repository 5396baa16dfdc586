"""A store that comes back empty: what this node knows is put in force again, unless somebody deleted it."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec

from gateway.control.documents import Kept
from gateway.control.policies import Policies
from gateway.store.sqlite import open_sqlite
from router.rollout.status import RolloutStatus, Said

DOCUMENT: dict[str, Any] = {
    "apiVersion": "tidegate/v1",
    "kind": "TrafficPolicy",
    "metadata": {"name": "m"},
    "spec": {
        "variants": [{"name": "stable", "model": "m:1"}, {"name": "canary", "model": "m:2"}],
        "split": {"stable": 9_000, "canary": 1_000},
    },
}


class Models:
    """Two versions with one contract."""

    async def pin(self, name: str, reference: str) -> tuple[int, str]:
        version = int(reference.partition(":")[2])
        return version, f"sha256:{version:064x}"

    def contract(self, digest: str) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
        return ("x",), ("y",)


async def opened(store: Path, place: Path) -> Policies:
    policies = Policies(await open_sqlite(store), Models(), place, now_ms=lambda: 1, changed=lambda: None)
    await policies.open()
    return policies


def test_an_empty_store_gets_back_what_this_node_knew(tmp_path: Path) -> None:
    async def story() -> None:
        before = await opened(tmp_path / "one.db", tmp_path)
        await before.apply(DOCUMENT, actor="ada")
        await before.store.close()
        after = await opened(tmp_path / "two.db", tmp_path)
        assert after.kept["m"].record == before.kept["m"].record
        assert (await after.store.list("policy"))[0].name == "m"
        assert (await after.store.audit_read("m")).records[0].record["what"] == "restore"
        await after.store.close()

    asyncio.run(story())


def test_a_store_that_loses_a_policy_while_this_node_runs(tmp_path: Path) -> None:
    async def story() -> None:
        one = await opened(tmp_path / "one.db", tmp_path)
        kept, _ = await one.apply(DOCUMENT, actor="ada")
        await one.store.delete("policy", "m", expected=kept.revision)
        await one.reload("m")
        assert one.kept["m"].record == kept.record
        await one.store.close()

    asyncio.run(story())


def test_what_was_deleted_stays_so(tmp_path: Path) -> None:
    async def story() -> None:
        one = await opened(tmp_path / "one.db", tmp_path)
        await one.apply(DOCUMENT, actor="ada")
        other = await opened(tmp_path / "one.db", tmp_path / "other")
        await other.delete("m", actor="bob")
        await one.reload("m")
        assert one.kept == {}
        again = await opened(tmp_path / "one.db", tmp_path)
        assert again.kept == {}
        for each in (one, other, again):
            await each.store.close()

    (tmp_path / "other").mkdir()
    asyncio.run(story())


def test_what_was_deleted_stays_so_whatever_was_written_of_that_name_since(tmp_path: Path) -> None:
    async def story() -> None:
        one = await opened(tmp_path / "one.db", tmp_path)
        await one.apply(DOCUMENT, actor="ada")
        other = await opened(tmp_path / "one.db", tmp_path / "other")
        await other.delete("m", actor="bob")
        await other.store.audit_append("m", {"actor": "carl", "what": "feedback_replaced", "count": 1})
        again = await opened(tmp_path / "one.db", tmp_path)
        assert again.kept == {}
        for each in (one, other, again):
            await each.store.close()

    (tmp_path / "other").mkdir()
    asyncio.run(story())


HARM = Said("auto:error_rate", 5, "too many errors")


async def running(policies: Policies) -> Kept:
    kept, _ = await policies.apply(DOCUMENT, actor="ada")
    status = msgspec.structs.replace(kept.record.status, identity="r", phase="BAKING")
    return await saved(policies, kept, status)


async def saved(policies: Policies, kept: Kept, status: RolloutStatus) -> Kept:
    record = msgspec.structs.replace(kept.record, status=status)
    return await policies.save("m", record, expected=kept.revision, audit={"what": "step", "actor": "ada"})


def test_a_rollback_that_waits_for_the_store_survives_a_start_of_this_node(tmp_path: Path) -> None:
    async def story() -> None:
        one = await opened(tmp_path / "one.db", tmp_path)
        kept = await running(one)
        one.carry("m", msgspec.structs.replace(kept.record.status, pending_abort=HARM))
        again = await opened(tmp_path / "one.db", tmp_path)
        assert again.kept["m"].record.status.pending_abort == HARM
        assert again.kept["m"].revision == kept.revision
        for each in (one, again):
            await each.store.close()

    asyncio.run(story())


def test_it_holds_while_the_rollout_runs_and_no_longer(tmp_path: Path) -> None:
    async def story() -> None:
        one = await opened(tmp_path / "one.db", tmp_path)
        kept = await running(one)
        one.carry("m", msgspec.structs.replace(kept.record.status, pending_abort=HARM))
        other = await opened(tmp_path / "one.db", tmp_path / "other")
        assert other.kept["m"].record.status.pending_abort is None
        kept = await saved(other, other.kept["m"], msgspec.structs.replace(kept.record.status, step=1))
        await one.reload("m")
        assert (one.kept["m"].record.status.step, one.kept["m"].record.status.pending_abort) == (1, HARM)
        await saved(other, kept, msgspec.structs.replace(kept.record.status, phase="ROLLED_BACK"))
        await one.reload("m")
        assert one.kept["m"].record.status.pending_abort is None
        for each in (one, other):
            await each.store.close()

    (tmp_path / "other").mkdir()
    asyncio.run(story())
