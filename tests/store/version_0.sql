-- A store as it was before schema versions: no leases, streams or feedback, no noted end of the audit chain.
CREATE TABLE document(
    kind TEXT NOT NULL, name TEXT NOT NULL, revision INTEGER NOT NULL, body BLOB NOT NULL, PRIMARY KEY (kind, name)
) WITHOUT ROWID;
CREATE TABLE audit(
    seq INTEGER PRIMARY KEY, time_ms INTEGER NOT NULL, name TEXT NOT NULL, body BLOB NOT NULL, hash BLOB NOT NULL
) STRICT;
CREATE INDEX audit_name ON audit(name, seq);
INSERT INTO document VALUES ('policy', 'credit', 4, x'6669727374'), ('policy', 'fraud', 2, x'00ff');
