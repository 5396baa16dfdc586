"""A backup that somebody restored: nodes do not give back what it took away, and what stopped harm stays."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.control.policies import Policies
from gateway.control.record import PolicyRecord
from gateway.store.base import Document, StoreAway
from gateway.store.sqlite import SqliteStore, open_sqlite
from tests.control.test_policies_lost import DOCUMENT, LATCH, Models, Written, applied, killed, opened, with_status

NAMED: dict[str, Any] = DOCUMENT | {
    "metadata": {"name": "n"},
    "spec": DOCUMENT["spec"] | {"variants": [{"name": "stable", "model": "n:1"}, {"name": "canary", "model": "n:2"}]},
}


async def replaced(one: Policies, place: Path) -> None:
    """Somebody restores the backup `then` into the store."""
    await one.store.restore(place / "then", aside=place / "aside")


def test_a_backup_that_was_restored_is_not_undone_by_who_knew_more(tmp_path: Path) -> None:
    async def story() -> None:
        one = await opened(tmp_path / "one.db", tmp_path)
        await one.apply(DOCUMENT, actor="ada")
        await one.store.backup(tmp_path / "then")
        await applied(one, one.kept["m"])
        await one.apply(NAMED, actor="ada")
        known = one.kept["m"]
        await replaced(one, tmp_path)
        for name in ("m", "n"):
            await one.reload(name)
        assert [document.name for document in await one.store.list("policy")] == ["m"]
        await one.store.close()

        again = await opened(tmp_path / "one.db", tmp_path)
        assert list(again.kept) == ["m"]
        record = again.kept["m"].record
        assert record.document == DOCUMENT
        assert (record.revision, record.generation) == (known.record.revision + 1, known.record.generation + 1)
        assert again.kept["m"].revision > known.revision
        (told,) = [r for r in (await again.store.audit_read("m")).records if r.record["what"] == "restore"]
        assert (told.record["generation"], told.record["document"]) == (record.generation, DOCUMENT)
        # One of the name that went goes on from its numbers, too.
        kept, _ = await again.apply(NAMED, actor="ada")
        assert (kept.record.revision, kept.record.generation) == (2, 2)
        await again.store.close()

        third = await opened(tmp_path / "one.db", tmp_path)
        assert third.kept["m"].record == record, "it has its numbers already"
        await third.store.close()

    asyncio.run(story())


class Slow(SqliteStore):
    """Does not answer in time when it is asked for all documents."""

    async def list(self, kind: str) -> tuple[Document, ...]:
        raise StoreAway("no answer in time")


def test_who_could_not_read_a_restored_backup_to_its_end_gives_nothing_back(tmp_path: Path) -> None:
    async def story() -> None:
        one = await opened(tmp_path / "one.db", tmp_path)
        await one.apply(DOCUMENT, actor="ada")
        await one.store.backup(tmp_path / "then")
        await applied(one, one.kept["m"])
        await replaced(one, tmp_path)
        await one.store.close()

        store = await open_sqlite(tmp_path / "one.db")
        store.__class__ = Slow
        again = Policies(store, Models(), tmp_path, now_ms=lambda: 1, changed=lambda: None)
        await again.open()
        store.__class__ = SqliteStore
        assert again.kept["m"].record.document != DOCUMENT, "it goes on with what it knew"
        assert again.life < await store.life(), "and sees that it has to begin anew"
        await again.returned()
        await store.close()

        third = await opened(tmp_path / "one.db", tmp_path)
        assert third.kept["m"].record.document == DOCUMENT
        await third.store.close()

    asyncio.run(story())


def test_a_policy_that_was_deleted_since_the_backup_comes_back_under_new_numbers(tmp_path: Path) -> None:
    async def story() -> None:
        one = await opened(tmp_path / "one.db", tmp_path)
        await one.apply(DOCUMENT, actor="ada")
        await one.store.backup(tmp_path / "then")
        await applied(one, one.kept["m"])
        await killed(one, one.kept["m"])
        last = one.kept["m"].record
        await one.delete("m", actor="ada", force=True)
        await one.store.close()

        # It is remembered through a start, too.
        two = await opened(tmp_path / "one.db", tmp_path)
        assert "m" not in two.kept
        await replaced(two, tmp_path)
        await two.reload("m")
        await two.apply(NAMED, actor="ada")
        await two.store.close()

        again = await opened(tmp_path / "one.db", tmp_path)
        record = again.kept["m"].record
        assert (record.document, record.killed) == (DOCUMENT, ("canary",))
        assert (record.revision, record.generation) == (last.revision + 1, last.generation + 1)
        await again.store.close()

    asyncio.run(story())


def test_a_name_that_a_restored_backup_lacks_keeps_its_numbers_through_a_start(tmp_path: Path) -> None:
    async def story() -> None:
        one = await opened(tmp_path / "one.db", tmp_path)
        await one.store.backup(tmp_path / "then")
        await one.apply(DOCUMENT, actor="ada")
        await replaced(one, tmp_path)
        await one.store.close()
        again = await opened(tmp_path / "one.db", tmp_path)
        assert "m" not in again.kept
        await again.apply(NAMED, actor="ada")
        await again.store.close()
        last = await opened(tmp_path / "one.db", tmp_path)
        kept, _ = await last.apply(DOCUMENT, actor="ada")
        assert (kept.record.revision, kept.record.generation) == (2, 2)
        await last.store.close()

    asyncio.run(story())


@pytest.mark.parametrize(
    ("harm", "holds"),
    [
        (killed, lambda record: record.killed == ("canary",)),
        (with_status(latches=(LATCH,)), lambda record: record.status.latches == (LATCH,)),
    ],
    ids=["kill", "latch"],
)
def test_what_stopped_harm_since_a_restored_backup_stays(
    tmp_path: Path, harm: Written, holds: Callable[[PolicyRecord], bool]
) -> None:
    async def story() -> None:
        one = await opened(tmp_path / "one.db", tmp_path)
        await one.apply(DOCUMENT, actor="ada")
        await one.store.backup(tmp_path / "then")
        await harm(one, one.kept["m"])
        await replaced(one, tmp_path)
        await one.store.close()
        again = await opened(tmp_path / "one.db", tmp_path)
        assert holds(again.kept["m"].record)
        await again.store.close()

    asyncio.run(story())
