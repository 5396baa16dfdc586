"""What every store does over time and as a whole: watched, backed up. Run on a file and on a real Redis."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.store.base import Change, Fenced, Store, StoreAway, StoreUnusable
from tests.store.places import Place, RedisPlace, SqlitePlace, on_a_store, opened, row

WHO = {"actor": "ann", "action": "apply"}


# ---- watch ----


async def until(changes: AsyncIterator[Change], wanted: Change) -> list[Change]:
    """What comes up to and with the wanted one."""
    found = []
    async with asyncio.timeout(20):
        async for change in changes:
            found.append(change)
            if change == wanted:
                return found
    raise AssertionError(f"the watch ended without {wanted}: {found}")


@on_a_store()
async def test_a_watch_brings_what_is_there_and_what_comes(store: Store, place: Place) -> None:
    a = await store.put("policy", "a", b"", expected=0)
    changes = store.watch()
    assert await until(changes, Change("policy", "a", a.revision)) == [Change("policy", "a", a.revision)]
    b = await store.put("policy", "b", b"", expected=0)
    await until(changes, Change("policy", "b", b.revision))
    c = await store.put("rollout", "b", b"", expected=0)
    await until(changes, Change("rollout", "b", c.revision))
    await store.delete("policy", "a", expected=None)
    await until(changes, Change("policy", "a", 0))


@on_a_store()
async def test_a_watch_goes_on_from_what_is_known(store: Store, place: Place) -> None:
    a, b = [await store.put("policy", name, b"", expected=0) for name in "ab"]
    await until(store.watch(), Change("policy", "b", b.revision))
    known = {("policy", "a"): a.revision, ("policy", "b"): b.revision - 1, ("policy", "gone"): 7}
    changes = store.watch(known)
    found = {await anext(changes), await anext(changes)}
    assert found == {Change("policy", "b", b.revision), Change("policy", "gone", 0)}


@on_a_store()
async def test_of_many_writes_a_slow_watcher_sees_the_last(store: Store, place: Place) -> None:
    changes = store.watch()
    first = await store.put("policy", "a", b"", expected=None)
    await until(changes, Change("policy", "a", first.revision))
    for _ in range(50):
        last = await store.put("policy", "a", b"", expected=None)
    found = await until(changes, Change("policy", "a", last.revision))
    revisions = [change.revision for change in found]
    assert revisions == sorted(set(revisions))


@on_a_store()
async def test_a_watch_ends_with_its_store(store: Store, place: Place) -> None:
    document = await store.put("policy", "a", b"", expected=None)
    changes = store.watch()
    await until(changes, Change("policy", "a", document.revision))
    waiting = asyncio.ensure_future(anext(changes, None))
    await asyncio.wait({waiting}, timeout=0)
    await store.close()
    assert await waiting is None
    with pytest.raises(StoreAway, match="closed"):
        await store.get("policy", "a")


# ---- the whole ----


@on_a_store()
async def test_a_backup_brings_everything_back(store: Store, place: Place) -> None:
    now = place.now_ms()
    await store.put("policy", "a", b"1", expected=0, audit=WHO)
    await store.put("policy", "b", b"2", expected=0, audit=WHO)
    await store.delete("policy", "b", expected=None)
    lease = await store.lease_acquire("rollouts", "me", 600)
    await store.stream_append("s", "r", 1, 1, b"delta")
    await store.feedback_put("m", [row(now, "p")])
    backup = _folder(place) / "backup"
    await store.backup(backup)
    assert backup.stat().st_mode & 0o077 == 0
    later = await store.put("policy", "a", b"later", expected=None, audit=WHO)
    with pytest.raises(StoreUnusable, match="exists"):
        await store.backup(backup)
    with pytest.raises(StoreAway, match="No such file"):
        await store.backup(_folder(place) / "missing" / "backup")
    assert [path.name for path in _folder(place).iterdir() if "part" in path.name] == []
    with pytest.raises(StoreUnusable, match="not empty"):
        await store.restore(backup)

    async with opened(place.elsewhere()) as other:
        await other.restore(backup)
        a = await other.get("policy", "a")
        assert a is not None
        assert (a.body, a.revision < later.revision) == (b"1", True)
        assert await other.get("policy", "b") is None
        assert await other.lease_get("rollouts") == lease
        assert not await other.stream_append("s", "r", 1, 1, b"delta")
        assert [one.body for one in (await other.stream_read("s")).entries] == [b"delta"]
        assert await other.feedback_get("m", "p", "label") == row(now, "p")
        assert await other.feedback_erase("m", "u") == 1
        check = await other.check()
        assert (check.problems, check.records) == ((), 2)
        await until(other.watch(), Change("policy", "a", a.revision))
        await other.put("policy", "a", b"on", expected=a.revision, audit=WHO)
        assert (await other.audit_verify()).broken is None


@on_a_store()
async def test_a_store_in_use_becomes_what_a_backup_says(store: Store, place: Place) -> None:
    now = place.now_ms()
    backup, aside = _folder(place) / "backup", _folder(place) / "aside"
    await store.put("policy", "a", b"1", expected=0, audit=WHO)
    await store.feedback_put("m", [row(now, "p")])
    await store.backup(backup)
    changed = await store.put("policy", "a", b"later", expected=None, audit=WHO)
    new = await store.put("policy", "new", b"new", expected=0, audit=WHO)
    await store.feedback_erase("m", "u")
    lease = await store.lease_acquire("rollouts", "me", 600)
    known = {("policy", "a"): changed.revision, ("policy", "new"): new.revision}
    watch, life = store.watch(known), await store.life()

    await store.restore(backup, aside=aside)
    a = await store.get("policy", "a")
    assert a is not None
    assert [one.body for one in await store.list("policy")] == [b"1"]
    assert await store.feedback_get("m", "p", "label") == row(now, "p")
    assert await store.life() > life
    changes = {await anext(watch), await anext(watch)}
    assert changes == {Change("policy", "a", a.revision), Change("policy", "new", 0)}
    assert aside.stat().st_mode & 0o077 == 0

    # What was given once does not come again: of revisions, and of a lease's token.
    assert (await store.put("policy", "a", b"2", expected=a.revision, audit=WHO)).revision > changed.revision
    assert (await store.put("policy", "new", b"2", expected=0, audit=WHO)).revision > new.revision
    assert lease is not None
    # Who led knows of the life before: he is fenced, and leads no more before he has seen that.
    with pytest.raises(Fenced):
        await store.put("policy", "shard", b"old", expected=None, fence=lease)
    assert await store.lease_renew(lease, 600) is None
    assert [await store.lease_acquire("rollouts", who, 600) for who in ("me", "other")] == [None, None]
    again = await store.lease_get("rollouts")
    assert again is not None
    assert again.token > lease.token
    assert place.now_ms() < again.expires_ms < place.now_ms() + 10_000
    check = await store.check()
    assert (check.problems, check.records) == ((), 3)

    # And back, by what was kept aside.
    life = await store.life()
    await store.restore(aside, aside=_folder(place) / "third")
    assert [one.body for one in await store.list("policy")] == [b"later", b"new"]
    assert await store.feedback_get("m", "p", "label") is None
    assert await store.life() > life
    assert (await store.check()).problems == ()


@on_a_store()
async def test_a_restore_that_cannot_be_done_changes_nothing(store: Store, place: Place) -> None:
    backup, bad = _folder(place) / "backup", _folder(place) / "bad"
    await store.put("policy", "a", b"1", expected=0, audit=WHO)
    await store.backup(backup)
    bad.write_bytes(backup.read_bytes()[: -min(5_000, backup.stat().st_size // 2)])
    await store.put("policy", "a", b"2", expected=None, audit=WHO)
    with pytest.raises(StoreUnusable):
        await store.restore(bad, aside=_folder(place) / "aside")
    assert not (_folder(place) / "aside").exists()
    with pytest.raises(StoreUnusable, match="exists"):
        await store.restore(backup, aside=bad)
    with pytest.raises(StoreAway, match="No such file"):
        await store.restore(backup, aside=_folder(place) / "missing" / "aside")
    assert await store.life() == 0
    a = await store.get("policy", "a")
    assert a is not None
    assert a.body == b"2"
    await store.put("policy", "a", b"3", expected=a.revision, audit=WHO)
    assert (await store.check()).problems == ()


@on_a_store()
async def test_a_damaged_backup_is_refused(store: Store, place: Place) -> None:
    for number in range(50):
        await store.put("policy", f"n{number}", bytes(500), expected=0, audit=WHO)
    good, cut, other = (_folder(place) / name for name in ("good", "cut", "other"))
    await store.backup(good)
    cut.write_bytes(good.read_bytes()[:-5000])
    other.write_bytes(b"something else, not a backup of anything" * 100)
    async with opened(place.elsewhere()) as empty:
        for bad in (cut, other, _folder(place) / "missing"):
            with pytest.raises(StoreUnusable):
                await empty.restore(bad)
            assert await empty.list("policy") == ()
        await empty.restore(good)
        assert len(await empty.list("policy")) == 50


@on_a_store()
async def test_a_backup_may_be_made_while_others_write(store: Store, place: Place) -> None:
    done = asyncio.Event()

    async def write() -> None:
        number = 0
        while not done.is_set():
            number += 1
            await store.put("policy", f"n{number % 20}", b"%d" % number, expected=None, audit=WHO)

    writing = asyncio.ensure_future(write())
    backup = _folder(place) / "backup"
    await store.backup(backup)
    done.set()
    await writing
    async with opened(place.elsewhere()) as other:
        await other.restore(backup)
        assert (await other.check()).problems == ()


def _folder(place: Place) -> Path:
    if isinstance(place, SqlitePlace):
        return place.path.parent
    assert isinstance(place, RedisPlace)
    folder = place.server.folder / place.prefix
    folder.mkdir(exist_ok=True)
    return folder


@on_a_store()
async def test_the_status_is_well(store: Store, place: Place) -> None:
    await store.put("policy", "a", b"", expected=0)
    status = store.status()
    assert (status.backend, status.away, status.failures) == (place.kind, None, 0)
