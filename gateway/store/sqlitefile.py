"""The file of an SQLite store as a whole: its schema, copies of it, whether it is sound. Blocking: runs in a thread."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from gateway.store import export, tables
from gateway.store.base import StoreUnusable


@contextmanager
def made_ready(path: Path, beside: Path) -> Iterator[sqlite3.Connection]:
    """A backup with the present schema, in a file beside the store's that goes afterwards.

    Raises:
        StoreUnusable: there is none, it is not sound, or it is the file of a store in use.
    """
    if not path.is_file():
        raise StoreUnusable("there is no such backup")
    # It is read alone, and what was written last would be missing. A backup has no such file.
    if path.with_name(f"{path.name}-wal").exists():
        raise StoreUnusable("the file belongs to a store that is in use, or ended at once: `store backup` makes a copy")
    part = beside.with_name(f".{beside.name}.{os.getpid()}.restored")
    part.unlink(missing_ok=True)  # of a process with our number that died
    try:
        os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
        with closing(sqlite3.connect(part, isolation_level=None)) as ready:
            with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)) as source:
                _check(source)
                source.backup(ready)
            migrate(ready, None)
            yield ready
    finally:
        part.unlink(missing_ok=True)


def _check(source: sqlite3.Connection) -> None:
    """Raises StoreUnusable: it is no sound backup."""
    try:
        if not names(source):
            raise StoreUnusable("the backup is empty")
        _plan(source)
        problems = integrity(source)
    except sqlite3.DatabaseError as error:
        raise StoreUnusable(f"the file is not a sound backup: {error}") from error
    if problems:
        raise StoreUnusable(f"the backup is damaged: {problems[0]}")


def names(db: sqlite3.Connection) -> frozenset[str]:
    """Of its tables."""
    return frozenset(row[0] for row in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'"))


def _plan(db: sqlite3.Connection) -> tuple[str, ...]:
    version = db.execute("PRAGMA user_version").fetchone()[0]
    return tables.plan(version, db.execute("PRAGMA application_id").fetchone()[0], names(db))


def migrate(db: sqlite3.Connection, path: Path | None) -> None:
    """Make the schema the current one, in one transaction, with a copy before if `path` is given."""
    old = bool(names(db))
    scripts = _plan(db)
    if not scripts:
        return
    if old and path is not None:
        version = db.execute("PRAGMA user_version").fetchone()[0]
        copy(db, path.with_name(f"{path.name}.schema-{version}"), keep=False)
    db.execute("BEGIN EXCLUSIVE")
    try:
        for statement in (statement for script in scripts for statement in tables.statements(script)):
            db.execute(statement)
        db.execute(f"PRAGMA application_id = {tables.APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {tables.VERSION}")
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def copy(db: sqlite3.Connection, path: Path, *, keep: bool) -> None:
    """All of `db` as one file at `path`, there completely or not at all; with `keep` never over another file."""
    if keep and path.exists():
        raise StoreUnusable("the backup exists already")
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.unlink(missing_ok=True)  # of a process with our number that died
    try:
        os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
        with closing(sqlite3.connect(part)) as target:
            db.backup(target)
            # One file without side files.
            target.execute("PRAGMA journal_mode = DELETE")
        _to_disk(part)
        if keep:
            export.publish(part, path)
        else:
            part.replace(path)
        _to_disk(path.parent)
    finally:
        part.unlink(missing_ok=True)


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def integrity(db: sqlite3.Connection) -> list[str]:
    """What SQLite finds wrong with the file; nothing = it is sound."""
    return [row[0] for row in db.execute("PRAGMA integrity_check(20)") if row[0] != "ok"]
