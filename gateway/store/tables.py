"""The tables of the SQLite store, and how older ones become these.

`PRAGMA user_version` is the schema's version, `application_id` says that the file is ours. A new version adds a step to
MIGRATIONS; steps run in one transaction, after a copy of the file.
"""

from typing import Final

from gateway.store.base import StoreUnusable

APPLICATION_ID: Final = 0x54444754  # "TDGT"
VERSION: Final = 1

_AUDIT: Final = """
CREATE TABLE audit(
    seq INTEGER PRIMARY KEY, time_ms INTEGER NOT NULL, name TEXT NOT NULL, body BLOB NOT NULL, hash BLOB NOT NULL
) STRICT;
CREATE INDEX audit_name ON audit(name, seq);
CREATE INDEX audit_time ON audit(time_ms);
"""

# A deleted document stays as a row without body: its revision must not come again.
_REST: Final = """
CREATE TABLE numbers(name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE head(one INTEGER PRIMARY KEY CHECK (one = 1), seq INTEGER NOT NULL, hash BLOB NOT NULL) STRICT;
CREATE TABLE lease(
    name TEXT PRIMARY KEY, holder TEXT NOT NULL, token INTEGER NOT NULL, expires_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE stream(
    stream TEXT NOT NULL, id INTEGER NOT NULL, replica TEXT NOT NULL, epoch INTEGER NOT NULL, sequence INTEGER NOT NULL,
    body BLOB NOT NULL, PRIMARY KEY (stream, id)
) STRICT, WITHOUT ROWID;
CREATE TABLE mark(
    stream TEXT NOT NULL, replica TEXT NOT NULL, epoch INTEGER NOT NULL, mark TEXT NOT NULL, used INTEGER NOT NULL,
    PRIMARY KEY (stream, replica, epoch)
) STRICT, WITHOUT ROWID;
CREATE INDEX mark_used ON mark(stream, used);
CREATE TABLE feedback(
    model TEXT NOT NULL, prediction_id TEXT NOT NULL, slot_key TEXT NOT NULL, unit TEXT NOT NULL, body BLOB NOT NULL,
    expires_ms INTEGER NOT NULL, PRIMARY KEY (model, prediction_id, slot_key)
) STRICT;
CREATE INDEX feedback_unit ON feedback(model, unit);
CREATE INDEX feedback_expiry ON feedback(model, expires_ms);
"""

_DOCUMENT: Final = """
CREATE TABLE document(
    kind TEXT NOT NULL, name TEXT NOT NULL, revision INTEGER NOT NULL, body BLOB, PRIMARY KEY (kind, name)
) STRICT, WITHOUT ROWID;
"""

CREATE: Final = _DOCUMENT + _AUDIT + _REST

# Version 0, before the first release: documents numbered one by one, an audit without a stored head, no more tables.
_FROM_0: Final = (
    _REST
    + """
ALTER TABLE document RENAME TO old;
"""
    + _DOCUMENT
    + """
INSERT INTO document SELECT kind, name, revision, body FROM old;
DROP TABLE old;
INSERT INTO numbers SELECT 'revision', ifnull(max(revision), 0) FROM document;
INSERT INTO head SELECT 1, seq, hash FROM audit ORDER BY seq DESC LIMIT 1;
CREATE INDEX audit_time ON audit(time_ms);
"""
)

MIGRATIONS: Final[dict[int, str]] = {0: _FROM_0}


def plan(version: int, application_id: int, tables: frozenset[str]) -> tuple[str, ...]:
    """The SQL that makes the file a current one; () = it is.

    Args:
        version: `user_version` of the file.
        tables: names of its tables; none = a new file.

    Raises:
        StoreUnusable: newer than this program, or not a store.
    """
    if not tables:
        return (CREATE,)
    if application_id not in (0, APPLICATION_ID) or not {"document", "audit"} <= tables:
        raise StoreUnusable("the file is an SQLite database, but not a store of tidegate")
    if version > VERSION:
        raise StoreUnusable(
            f"the store has schema version {version}, this program knows {VERSION}: start the newer program, "
            f"or restore the copy that it made before it changed the schema"
        )
    return tuple(MIGRATIONS[old] for old in range(version, VERSION))


def statements(script: str) -> list[str]:
    """The statements of a script, one by one, because `executescript` would commit an open transaction."""
    return [statement for statement in (part.strip() for part in script.split(";")) if statement]
