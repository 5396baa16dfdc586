"""What only the file has: death, disks, other processes, older and newer schemas."""

import asyncio
import contextlib
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
from blockbuster import blockbuster_ctx

from gateway.config import ConfigError
from gateway.store import records, tables
from gateway.store.base import Limits, Stale, Store, StoreAway, StoreUnusable
from gateway.store.opening import open_store
from gateway.store.sqlite import open_sqlite
from tests.store.places import SqlitePlace, opened

ROOT = Path(__file__).parents[2]
WHO = {"actor": "ann", "action": "apply"}


def run(work: Coroutine[Any, Any, None]) -> None:
    """With a bound, and with an error for whatever blocks the loop."""

    async def go() -> None:
        async with asyncio.timeout(60):
            await work

    asyncio.run(go())


@pytest.fixture
def place(tmp_path: Path) -> SqlitePlace:
    return SqlitePlace(tmp_path / "store.db")


@pytest.mark.parametrize("acknowledged", [1, 40])
def test_killed_at_any_moment_nothing_acknowledged_is_lost(place: SqlitePlace, acknowledged: int) -> None:
    words = [sys.executable, "-m", "tests.store.writer", str(place.path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=ROOT) as child:
        assert child.stdout is not None
        lines = [child.stdout.readline() for _ in range(acknowledged)]
        child.send_signal(signal.SIGKILL)
        lines += child.stdout.readlines()
    last = {line.split()[0]: int(line.split()[1]) for line in lines if line.endswith("\n")}
    number = int(lines[-1].split()[2])
    assert number >= acknowledged

    async def look() -> None:
        async with opened(place) as store:
            for name, revision in last.items():
                document = await store.get("policy", name)
                assert document is not None
                assert document.revision >= revision
            check = await store.check()
            assert check.problems == ()
            # One more may have been written without its acknowledgement being read.
            assert number <= check.records <= number + 1
            page = await store.stream_read("s", number - 1)
            assert page.entries[0].sequence == number
            assert not await store.stream_append("s", "writer", 1, number, b"x")

    run(look())


def test_nothing_of_it_runs_on_the_loop(place: SqlitePlace) -> None:
    async def work() -> None:
        with blockbuster_ctx():
            async with opened(place) as store:
                await store.put("policy", "a", b"1", expected=0, audit=WHO)
                await store.list("policy")
                await store.audit_read()
                await store.check()
                await store.backup(place.path.with_name("backup"))
                assert await anext(store.watch()) is not None

    run(work())


def test_all_is_there_again_after_a_restart(place: SqlitePlace) -> None:
    async def work() -> None:
        async with opened(place) as store:
            first = await store.put("policy", "a", b"1", expected=0, audit=WHO)
            lease = await store.lease_acquire("l", "me", 60)
        async with opened(place) as store:
            assert await store.get("policy", "a") == first
            assert await store.lease_get("l") == lease
            second = await store.put("policy", "a", b"2", expected=first.revision, audit=WHO)
            assert second.revision > first.revision
            assert (await store.audit_verify()).records == 2

    run(work())


def test_only_its_user_may_read_it(place: SqlitePlace) -> None:
    async def work() -> None:
        async with opened(place) as store:
            await store.put("policy", "a", b"1", expected=0)
            assert {path.stat().st_mode & 0o077 for path in place.path.parent.iterdir()} == {0}

    run(work())


async def fill(store: Store, body_bytes: int, names: list[str]) -> None:
    """Write until it fails; `names` has what was acknowledged."""
    for number in range(100):
        await store.put("policy", f"n{number}", bytes(body_bytes), expected=0, audit=WHO)
        names.append(f"n{number}")


def test_a_full_disk_is_said_and_takes_nothing_back(place: SqlitePlace) -> None:
    async def work() -> None:
        async with opened(place, Limits(file_bytes=300_000)) as store:
            names: list[str] = []
            with pytest.raises(StoreAway, match="full"):
                await fill(store, 20_000, names)
            kept = len(names)
            assert 5 < kept < 20
            assert store.status().away is not None
            assert store.status().failures == 1
            assert len(await store.list("policy")) == kept
            assert store.status().away is None
            check = await store.check()
            assert (check.problems, check.records) == ((), kept)
            await store.delete("policy", "n0", expected=None)
            await store.put("policy", "n0", bytes(10_000), expected=0)

    run(work())


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if not mounted or mounted.returncode:
        pytest.skip("mounting a small file system is not allowed here")

    async def work() -> None:
        async with opened(SqlitePlace(folder / "store.db")) as store:
            names: list[str] = []
            with pytest.raises(StoreAway, match="the store's file"):
                await fill(store, 50_000, names)
            assert names
            assert [one.name for one in await store.list("policy")] == sorted(names)
            check = await store.check()
            assert (check.problems, check.records) == ((), len(names))

    try:
        run(work())
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_another_process_that_holds_the_file_is_waited_for_and_then_named(place: SqlitePlace) -> None:
    async def work() -> None:
        async with opened(place, Limits(busy_ms=50)) as store:
            with contextlib.closing(sqlite3.connect(place.path, isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                with pytest.raises(StoreAway, match="locked"):
                    await store.put("policy", "a", b"", expected=0)
                assert await store.get("policy", "a") is None
                other.execute("ROLLBACK")
            await store.put("policy", "a", b"", expected=0)

    run(work())


def test_too_many_that_wait_are_refused(place: SqlitePlace) -> None:
    async def work() -> None:
        async with opened(place, Limits(waiting=5)) as store:
            writes = [store.put("policy", f"n{number}", b"", expected=0) for number in range(20)]
            results = await asyncio.gather(*writes, return_exceptions=True)
            assert sum(isinstance(result, StoreAway) for result in results) == 15
            assert len(await store.list("policy")) == 5

    run(work())


def test_a_caller_that_leaves_does_not_hide_its_write_from_watchers(place: SqlitePlace) -> None:
    begun, left = threading.Event(), threading.Event()

    def clock_ms() -> int:
        begun.set()
        assert left.wait(10)
        return 1

    async def work() -> None:
        store = await open_sqlite(place.path, clock_ms=clock_ms)
        changes = store.watch()
        writing = asyncio.ensure_future(store.put("policy", "a", b"1", expected=0))
        assert await asyncio.to_thread(begun.wait, 10)
        writing.cancel()
        assert isinstance((await asyncio.gather(writing, return_exceptions=True))[0], asyncio.CancelledError)
        left.set()
        change = await anext(changes)
        document = await store.get("policy", "a")
        assert document is not None
        assert (document.body, document.revision) == (b"1", change.revision)
        await store.close()

    run(work())


# ---- schema ----


def version_0(path: Path) -> None:
    """A store of version 0 with two documents and three audit records."""
    head = records.Head()
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.executescript(Path(__file__).with_name("version_0.sql").read_text())
        for number in range(1, 4):
            made = records.link(head, "", "policy", "credit", (number, number + 1), WHO, 1_000 * number, Limits())
            head = records.Head(made.seq, bytes.fromhex(made.hash), made.time_ms)
            db.execute(
                "INSERT INTO audit VALUES (?, ?, ?, ?, ?)", (made.seq, made.time_ms, made.name, made.body, head.hash)
            )


def test_an_older_schema_is_migrated_after_a_copy(place: SqlitePlace) -> None:
    version_0(place.path)

    async def work() -> None:
        async with opened(place) as store:
            assert [(one.name, one.revision, one.body) for one in await store.list("policy")] == [
                ("credit", 4, b"first"),
                ("fraud", 2, b"\x00\xff"),
            ]
            with pytest.raises(Stale):
                await store.put("policy", "credit", b"", expected=3)
            written = await store.put("policy", "credit", b"second", expected=4, audit=WHO)
            assert written.revision == 5
            check = await store.check()
            assert (check.problems, check.records) == ((), 4)
            await store.delete("policy", "fraud", expected=2)

    run(work())
    with contextlib.closing(sqlite3.connect(place.path.with_name("store.db.schema-0"))) as copy:
        assert copy.execute("SELECT count(*) FROM document").fetchone() == (2,)
        assert copy.execute("PRAGMA user_version").fetchone() == (0,)
    with contextlib.closing(sqlite3.connect(place.path)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (tables.VERSION,)


def test_a_migrated_store_is_like_a_new_one(tmp_path: Path) -> None:
    def shape(path: Path) -> list[tuple[str, ...]]:
        with contextlib.closing(sqlite3.connect(path)) as db:
            names = [row[0] for row in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")]
            columns = [(name, *map(str, row)) for name in names for row in db.execute(f"PRAGMA table_info({name})")]
            return (
                columns
                + db.execute("SELECT name, tbl_name FROM sqlite_schema WHERE type = 'index' ORDER BY 1").fetchall()
            )

    async def work() -> None:
        version_0(tmp_path / "old.db")
        for name in ("old.db", "new.db"):
            async with opened(SqlitePlace(tmp_path / name)):
                pass
        assert shape(tmp_path / "old.db") == shape(tmp_path / "new.db")

    run(work())


def test_a_migration_that_fails_changes_nothing(place: SqlitePlace) -> None:
    version_0(place.path)
    with contextlib.closing(sqlite3.connect(place.path)) as db:
        # Stands in the way of the last steps.
        db.execute("CREATE INDEX audit_time ON audit(time_ms)")
    before = place.path.read_bytes()

    async def work() -> None:
        with pytest.raises(StoreUnusable, match="audit_time already exists"):
            await place.open()

    run(work())
    with contextlib.closing(sqlite3.connect(place.path)) as db:
        assert {row[0] for row in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")} == {
            "document",
            "audit",
        }
        assert db.execute("SELECT count(*) FROM document").fetchone() == (2,)
    assert len(place.path.read_bytes()) == len(before)


def test_the_file_of_a_store_in_use_is_no_backup(place: SqlitePlace) -> None:
    """What was written last is not in it yet: the store would lose that."""

    async def work() -> None:
        async with opened(place) as store:
            await store.put("policy", "a", b"1", expected=0)
            with pytest.raises(StoreUnusable, match="store backup"):
                await store.restore(place.path, aside=place.path.with_name("aside"))
            assert await store.get("policy", "a") is not None
            assert not place.path.with_name("aside").exists()

    run(work())


def test_an_older_backup_is_restored_and_migrated(place: SqlitePlace) -> None:
    backup = place.path.with_name("backup")
    version_0(backup)

    async def work() -> None:
        async with opened(place) as store:
            await store.restore(backup)
            assert [one.revision for one in await store.list("policy")] == [4, 2]
            assert (await store.check()).problems == ()

    run(work())


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (f"PRAGMA user_version = {tables.VERSION + 1}", f"schema version {tables.VERSION + 1}, this program knows"),
        ("PRAGMA application_id = 7", "not a store of tidegate"),
        ("DROP TABLE document", "not a store of tidegate"),
    ],
)
def test_what_is_newer_or_foreign_is_refused_by_name(place: SqlitePlace, harm: str, words: str) -> None:
    async def work() -> None:
        async with opened(place):
            pass
        with contextlib.closing(sqlite3.connect(place.path, isolation_level=None)) as db:
            db.execute(harm)
        with pytest.raises(StoreUnusable, match=words):
            await place.open()

    run(work())


def test_a_file_that_is_no_database_is_refused(place: SqlitePlace) -> None:
    place.path.write_bytes(b"no database at all" * 1000)

    async def work() -> None:
        with pytest.raises(StoreUnusable, match="not a database"):
            await place.open()

    run(work())


def test_a_chain_cut_at_its_end_is_found(place: SqlitePlace) -> None:
    async def work() -> None:
        async with opened(place) as store:
            for _ in range(3):
                await store.audit_append("a", WHO)
            with contextlib.closing(sqlite3.connect(place.path)) as db, db:
                db.execute("DELETE FROM audit WHERE seq = 3")
            assert "should end at 3, it ends at 2" in str((await store.audit_verify()).broken)

    run(work())


# ---- opening ----


@pytest.mark.parametrize("url", ["postgres://db", "http://store", "store.db", "redis-cluster://a", "sqlite://x"])
def test_unknown_stores_are_refused_with_the_known_ones(tmp_path: Path, url: str) -> None:
    known = r"redis://, rediss://, unix://, redis\+sentinel://, redis\+cluster://, rediss\+cluster://"
    with pytest.raises(ConfigError, match=f"store: expected {known}, or nothing"):
        asyncio.run(open_store(url, tmp_path))


def test_the_default_is_a_file_in_the_data_folder(tmp_path: Path) -> None:
    async def work() -> None:
        store = await open_store(None, tmp_path)
        assert store.status().backend == "sqlite"
        await store.close()
        await store.close()

    run(work())
    assert (tmp_path / "store.db").is_file()


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(StoreAway, match="No such file"):
        asyncio.run(open_sqlite_nowhere(tmp_path))


async def open_sqlite_nowhere(folder: Path) -> None:
    await open_sqlite(folder / "missing" / "store.db")
