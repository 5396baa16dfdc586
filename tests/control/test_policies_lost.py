"""A store that comes back empty: what this node knows is put in force again, unless somebody deleted it."""

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.control.documents import Kept
from gateway.control.messages import SigningKey
from gateway.control.policies import Policies
from gateway.control.record import PolicyRecord, decode_record, encode
from gateway.store.base import StoreAway
from gateway.store.sqlite import open_sqlite
from router.rollout.status import ACTIVE, Latch, RolloutStatus, Said

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


async def opened(store: Path, place: Path, now_ms: int = 1, changed: Callable[[], None] = lambda: None) -> Policies:
    policies = Policies(await open_sqlite(store), Models(), place, now_ms=lambda: now_ms, changed=changed)
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


def test_an_abort_that_a_newer_release_wrote_is_followed(tmp_path: Path) -> None:
    async def story() -> None:
        older = await opened(tmp_path / "one.db", tmp_path)
        kept, _ = await older.apply(DOCUMENT, actor="ada")
        record = msgspec.json.decode(encode(kept.record))
        record |= {"zeroed": True, "revision": 2, "mood": "good"}
        record["status"] |= {"phase": "ABORTING", "mood": {"of": "the canary"}}
        body = msgspec.json.encode(record)
        document = await older.store.put("policy", "m", body, expected=kept.revision)
        await older.reload("m")
        now = older.kept["m"]
        assert (now.revision, now.record.zeroed, now.record.status.phase) == (document.revision, True, "ABORTING")
        await older.save("m", now.record, expected=now.revision)
        await older.store.close()

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
        await one.carry("m", msgspec.structs.replace(kept.record.status, pending_abort=HARM))
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
        await one.carry("m", msgspec.structs.replace(kept.record.status, pending_abort=HARM))
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


async def forgetful(one: Policies, place: Path) -> Callable[[], Awaitable[None]]:
    """Make the store forget, when it is called, all that was written since now."""
    await one.store.backup(place / "then")

    async def forget() -> None:
        await one.store.close()
        shutil.copyfile(place / "then", place / "again.db")
        one.store = await open_sqlite(place / "again.db")

    return forget


def test_a_store_that_forgets_the_last_writes_gets_them_back(tmp_path: Path) -> None:
    async def story() -> None:
        one = await opened(tmp_path / "one.db", tmp_path)
        await one.apply(DOCUMENT, actor="ada")
        forget = await forgetful(one, tmp_path)
        kept = await one.kill("m", "canary", True, actor="ada", reason="harm")
        await forget()
        await one.reload("m")
        again = one.kept["m"]
        assert again.record.killed == ("canary",)
        assert again.revision > kept.revision, "no number comes twice"
        assert again.record.revision > kept.record.revision, "workers learn of it even if they have seen another table"
        document = await one.store.get("policy", "m")
        assert document is not None
        assert (document.revision, decode_record(document.body)) == (again.revision, again.record)
        assert [r.record["what"] for r in (await one.store.audit_read("m")).records] == ["apply", "restore"]
        await one.store.close()

    asyncio.run(story())


def test_a_write_after_the_loss_succeeds_without_a_restart(tmp_path: Path) -> None:
    async def story() -> None:
        one = await opened(tmp_path / "one.db", tmp_path)
        await one.apply(DOCUMENT, actor="ada")
        forget = await forgetful(one, tmp_path)
        await one.kill("m", "canary", True, actor="ada", reason="harm")
        await forget()
        found = await one.kill("m", "canary", False, actor="bob", reason="mended")
        assert found.record.killed == ()
        assert [r.record["what"] for r in (await one.store.audit_read("m")).records] == ["apply", "restore", "unkill"]
        await one.store.close()

    asyncio.run(story())


Written = Callable[[Policies, Kept], Awaitable[object]]
LATCH = Latch("r", "sha256:2", "bob", 7, "harm")


def with_status(**changes: Any) -> Written:
    return lambda policies, kept: saved(policies, kept, msgspec.structs.replace(kept.record.status, **changes))


def applied(policies: Policies, kept: Kept) -> Awaitable[object]:
    document = DOCUMENT | {"spec": DOCUMENT["spec"] | {"split": {"stable": 10_000}}}
    return policies.apply(document, actor="bob")


def killed(policies: Policies, kept: Kept) -> Awaitable[object]:
    return policies.kill("m", "canary", True, actor="bob", reason="harm")


def parted(tmp_path: Path, ours: list[Written], theirs: list[Written]) -> PolicyRecord:
    """What two nodes agree on: one wrote `ours`, the store forgot that, another wrote `theirs`."""
    found: list[PolicyRecord] = []

    async def story() -> None:
        one = await opened(tmp_path / "one.db", tmp_path)
        await running(one)
        forget = await forgetful(one, tmp_path)
        for write in ours:
            await write(one, one.kept["m"])
        await forget()
        other = await opened(tmp_path / "again.db", tmp_path / "other", now_ms=2)
        for write in theirs:
            await write(other, other.kept["m"])
        numbers = (one.kept["m"].record.revision, other.kept["m"].record.revision)
        await one.reload("m")
        await other.reload("m")
        await one.reload("m")
        assert one.kept["m"].record == other.kept["m"].record, "they agree"
        assert one.kept["m"].record.revision > max(numbers), "and no worker has had that table"
        found.append(one.kept["m"].record)
        for each in (one, other):
            await each.store.close()

    (tmp_path / "other").mkdir()
    asyncio.run(story())
    return found[0]


STEP = with_status(step=1, slots=5_000)
LESS, MORE = [STEP], [STEP, STEP, STEP, STEP]


@pytest.mark.parametrize("ours", [LESS, MORE], ids=["lower", "higher"])
def test_what_was_decided_after_the_loss_is_not_undone(tmp_path: Path, ours: list[Written]) -> None:
    found = parted(tmp_path, ours, [killed, with_status(paused=Said("bob", 3, "wait"))])
    assert (found.killed, found.status.paused) == (("canary",), Said("bob", 3, "wait"))
    assert found.status.slots == 0, "where the two differ, the canary has the smaller share"


@pytest.mark.parametrize("ours", [LESS, MORE], ids=["lower", "higher"])
def test_a_document_of_after_the_loss_stays(tmp_path: Path, ours: list[Written]) -> None:
    found = parted(tmp_path, ours, [applied])
    assert (found.generation, found.document["spec"]["split"]) == (2, {"stable": 10_000})


@pytest.mark.parametrize("phase", ["BAKING", "PROMOTED"])
@pytest.mark.parametrize(
    "later", [{"phase": "ROLLED_BACK"}, {"phase": "IDLE", "identity": ""}], ids=["latched", "moved"]
)
def test_what_was_rolled_back_after_the_loss_does_not_come_back(
    tmp_path: Path, phase: str, later: dict[str, Any]
) -> None:
    ours = [with_status(step=1, slots=5_000, phase=phase)]
    found = parted(tmp_path, ours, [with_status(latches=(LATCH,), **later)])
    assert found.status.latches == (LATCH,)
    assert found.status.phase != "PROMOTED"
    assert found.status.phase not in ACTIVE or found.status.pending_abort is not None


@pytest.mark.parametrize("theirs", [LESS, MORE], ids=["lower", "higher"])
def test_what_was_decided_before_the_loss_is_not_lost(tmp_path: Path, theirs: list[Written]) -> None:
    found = parted(tmp_path, [killed, with_status(latches=(LATCH,), phase="ROLLED_BACK")], theirs)
    assert (found.killed, found.status.latches) == (("canary",), (LATCH,))
    assert found.status.phase not in ACTIVE or found.status.pending_abort is not None


def test_who_was_away_for_long_takes_what_is_there(tmp_path: Path) -> None:
    async def story() -> None:
        one = await opened(tmp_path / "one.db", tmp_path)
        await running(one)
        other = await opened(tmp_path / "one.db", tmp_path / "other")
        await killed(one, one.kept["m"])
        await other.reload("m")
        for out in (False, True) * 20 + (False,):
            await other.kill("m", "canary", out, actor="bob", reason="tried")
        await one.reload("m")
        assert one.kept["m"].record == other.kept["m"].record
        assert one.kept["m"].record.killed == (), "what this node had is no later than what it missed"
        for each in (one, other):
            await each.store.close()

    (tmp_path / "other").mkdir()
    asyncio.run(story())


def test_a_policy_that_was_made_anew_is_no_loss(tmp_path: Path) -> None:
    async def story() -> None:
        one = await opened(tmp_path / "one.db", tmp_path)
        await running(one)
        other = await opened(tmp_path / "one.db", tmp_path / "other")
        await other.delete("m", actor="bob", force=True)
        again, _ = await other.apply(DOCUMENT, actor="bob")
        assert again.record.revision == 2, "workers have had the first revision"
        await one.reload("m")
        assert one.kept["m"].record == again.record
        assert (await one.store.get("policy", "m")) is not None
        for each in (one, other):
            await each.store.close()

    (tmp_path / "other").mkdir()
    asyncio.run(story())


class Flapping:
    """A store that is away for its n-th call, and for no other."""

    def __init__(self, store: Any, away_at: int) -> None:
        self._store, self._left = store, away_at

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)

        async def called(*what: Any, **how: Any) -> Any:
            self._left -= 1
            if self._left == 0:
                raise StoreAway("away")
            return await found(*what, **how)

        return called


@pytest.mark.parametrize("away_at", range(1, 8))
def test_a_store_that_is_away_in_the_middle_loses_nothing(tmp_path: Path, away_at: int) -> None:
    async def story() -> None:
        one = await opened(tmp_path / "one.db", tmp_path)
        kept, _ = await one.apply(DOCUMENT, actor="ada")
        store: Any = await open_sqlite(tmp_path / "empty.db")
        await one.store.close()
        one.store = Flapping(store, away_at)
        for _ in range(2):
            with suppress(StoreAway):
                await one.reload("m")
            assert [state.name for state in one.states()] == ["m"]
        document = await store.get("policy", "m")
        assert document is not None
        assert decode_record(document.body) == one.kept["m"].record == kept.record
        await store.close()

    asyncio.run(story())


def test_keys_of_prediction_ids_outlive_a_store_that_forgets_them(tmp_path: Path) -> None:
    async def story() -> None:
        one = await opened(tmp_path / "one.db", tmp_path)
        await one.apply(DOCUMENT, actor="ada")
        signing, units = one.signing, one.unit_key
        await one.store.close()
        one.store = await open_sqlite(tmp_path / "two.db")
        await one.returned()
        other = await opened(tmp_path / "two.db", tmp_path / "other")
        assert (other.signing, other.unit_key) == (one.signing, one.unit_key) == (signing, units)
        await other.store.close()
        await one.store.close()
        again = await opened(tmp_path / "three.db", tmp_path)
        assert (again.signing, again.unit_key) == (signing, units)
        await again.store.close()

    (tmp_path / "other").mkdir()
    asyncio.run(story())


def test_a_node_that_met_an_emptied_store_first_learns_the_keys_of_the_others(tmp_path: Path) -> None:
    async def story() -> None:
        one = await opened(tmp_path / "one.db", tmp_path)
        await one.apply(DOCUMENT, actor="ada")
        mine = one.signing
        await one.store.close()
        heard = asyncio.Event()
        fresh = await opened(tmp_path / "two.db", tmp_path / "fresh", changed=heard.set)
        new = fresh.signing
        assert not set(new) & set(mine)
        following = asyncio.create_task(fresh.follow())
        one.store = await open_sqlite(tmp_path / "two.db")
        await one.returned()
        # Its own ids join still; the store's key signs, as on the other node.
        assert one.signing == (*new, *mine)
        # A watch hears at once of what its own process writes, and here there are two stores: it is told again.
        document = await fresh.store.get("secrets", "predictions")
        assert document is not None
        await fresh.store.put("secrets", "predictions", document.body, expected=document.revision)
        async with asyncio.timeout(10):
            while fresh.signing != one.signing:
                heard.clear()
                await heard.wait()
        assert one.unit_key == fresh.unit_key
        following.cancel()
        await fresh.store.close()
        await one.store.close()

    (tmp_path / "fresh").mkdir()
    asyncio.run(story())


def test_hearing_of_keys_does_not_say_that_the_store_is_back(tmp_path: Path) -> None:
    """Whoever asks the store next says that, and has more to do then."""

    async def story() -> None:
        heard = asyncio.Event()
        one = await opened(tmp_path / "one.db", tmp_path, changed=heard.set)
        one.away = "it was away"
        known = one.signing
        heard.clear()
        following = asyncio.create_task(one.follow())
        document = await one.store.get("secrets", "predictions")
        assert document is not None
        more = (*known, SigningKey(known[0].id % 255 + 1, bytes(32)))
        await one.store.put("secrets", "predictions", msgspec.json.encode(more), expected=document.revision)
        async with asyncio.timeout(10):
            await heard.wait()
        assert (one.signing, one.away) == (more, "it was away")
        following.cancel()
        await one.store.close()

    asyncio.run(story())


def test_a_policy_made_anew_goes_on_from_the_revision_of_the_deleted_one_also_after_a_start(tmp_path: Path) -> None:
    """Workers that live on have counted the old revisions in their pages, and ids name them."""

    async def story() -> None:
        one = await opened(tmp_path / "one.db", tmp_path)
        first, _ = await one.apply(DOCUMENT, actor="ada")
        await one.kill("m", "canary", True, actor="ada", reason="harm")
        await one.delete("m", actor="ada")
        await one.store.close()
        again = await opened(tmp_path / "one.db", tmp_path)
        kept, _ = await again.apply(DOCUMENT, actor="ada")
        assert (first.record.revision, kept.record.revision) == (1, 3)
        await again.delete("m", actor="ada")
        kept, _ = await again.apply(DOCUMENT, actor="ada")
        assert kept.record.revision == 4
        await again.store.close()

    asyncio.run(story())


def test_what_the_store_has_stands_at_the_start(tmp_path: Path) -> None:
    async def story() -> None:
        one = await opened(tmp_path / "one.db", tmp_path)
        await one.apply(DOCUMENT, actor="ada")
        forget = await forgetful(one, tmp_path)
        await one.kill("m", "canary", True, actor="ada", reason="harm")
        await forget()
        await one.store.close()
        again = await opened(tmp_path / "again.db", tmp_path)
        assert again.kept["m"].record.killed == ()
        await again.store.close()

    asyncio.run(story())
