"""Reading the audit trail: pages, single records by their id, checks of the chain, replays, and all of one rollout.

An id is `CHAIN/SEQ`: the chain's name, `main` for the only one of an embedded store, and the number within it.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from gateway.control.policies import Policies
from gateway.control.replay import Replay, replay
from gateway.predictions import ForgedId, Prediction, read
from gateway.store.allowed import INTEGER_MAX
from gateway.store.base import AuditRecord
from gateway.store.records import MAIN, name_of_record
from runtimes.errors import InvalidInput, ServingError

MOST_EXPORTED: Final = 2_000
_PAGE: Final = 200
_LARGE: Final = ("evidence", "document", "document_before")


class UnknownRecord(ServingError):
    """No audit record has this id."""

    code = "unknown_record"


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which records.

    Attributes:
        name: of the policy; "" = all.
        fields: of the record -> what they have to be.
        since_ms, until_ms: Unix time.
        after: cursor of the page before.
    """

    name: str = ""
    fields: Mapping[str, str] | None = None
    since_ms: int = 0
    until_ms: int = INTEGER_MAX
    after: str | None = None
    limit: int = 100
    newest: bool = True


class Auditor:
    """The trail of one store."""

    def __init__(self, policies: Policies) -> None:
        self._policies = policies
        self._store = policies.store

    async def page(self, wanted: Wanted) -> dict[str, Any]:
        """Some records in short, and where to go on. Raises InvalidInput, StoreAway."""
        try:
            found = await self._store.audit_read(
                wanted.name or None,
                after=wanted.after,
                limit=wanted.limit,
                newest=wanted.newest,
                since_ms=wanted.since_ms,
                until_ms=wanted.until_ms,
                where=wanted.fields,
            )
        except ValueError as error:
            raise InvalidInput(str(error)) from error
        return {"records": [in_short(record) for record in found.records], "next": found.cursor}

    async def get(self, chain: str, seq: int) -> AuditRecord:
        """One record. Raises UnknownRecord, StoreAway."""
        return (await self._with_previous(chain, seq))[0]

    async def _with_previous(self, chain: str, seq: int) -> tuple[AuditRecord, AuditRecord | None]:
        """A record, and the one before it of the same policy."""
        found = await self._at(chain, seq)
        if found is None:
            raise UnknownRecord(f"no audit record {chain[:128]}/{seq}")
        cursor: str | None = None
        while True:
            page = await self._store.audit_read(
                found.name, after=cursor, limit=_PAGE, newest=True, until_ms=found.time_ms
            )
            for record in page.records:
                if record.seq < seq and record.kind == found.kind:
                    return found, record
            cursor = page.cursor
            if cursor is None:
                return found, None

    async def _at(self, chain: str, seq: int) -> AuditRecord | None:
        # Numbers have no gaps: in one chain the record behind SEQ - 1 is it.
        main = chain == MAIN and self._store.status().backend == "sqlite"
        cursor: str | None = str(seq - 1) if main else None
        while True:
            page = await self._store.audit_read(None if main else chain, after=cursor, limit=1 if main else _PAGE)
            for record in page.records:
                if record.seq == seq and (main or record.chain == chain):
                    return record
            cursor = page.cursor
            if main or cursor is None:
                return None

    async def replay(self, chain: str, seq: int) -> dict[str, Any]:
        """A record's verdicts computed anew. Raises UnknownRecord, StoreAway."""
        record, previous = await self._with_previous(chain, seq)
        return {"id": id_of(record), **shown(await asyncio.to_thread(replay, record, previous))}

    async def verify(self) -> dict[str, Any]:
        """Every chain read from its start. Raises StoreAway."""
        found = await self._store.audit_verify()
        heads = {chain or MAIN: digest for chain, digest in found.heads.items()}
        return {"ok": found.broken is None, "records": found.records, "heads": heads, "broken": found.broken}

    # ---- predictions ----

    def predicted(self, text: str) -> tuple[Prediction, str]:
        """What an id says, and the policy that it belongs to; "" = none that is there now. Raises InvalidInput."""
        try:
            found = read(text, {key.id: key.secret for key in self._policies.signing})
        except ForgedId as error:
            raise InvalidInput(f"prediction_id: {error}") from error
        for name, kept in self._policies.kept.items():
            pins = kept.record.variants
            if any(pin.digest.removeprefix("sha256:").startswith(found.digest) for pin in pins):
                return found, name
        return found, ""

    # ---- one experiment, one rollout ----

    async def since(self, name: str, begins: Callable[[AuditRecord], bool]) -> list[AuditRecord]:
        """Records of a policy from the newest that `begins` on, oldest first; without one, all. Raises StoreAway."""
        return await self._all(name, begins)

    async def rollout(self, name: str, identity: str = "") -> dict[str, Any]:
        """All that is known of a rollout: records, each with its replay, and the state of the chain.

        Args:
            identity: of the rollout; "" = the last one of this policy.

        Raises:
            UnknownRecord: there is none in the trail; StoreAway.
        """
        records = await self._all(name)
        identity = identity or next((r.record["identity"] for r in reversed(records) if r.record.get("identity")), "")
        own = [at for at, record in enumerate(records) if identity and record.record.get("identity") == identity]
        if not own:
            raise UnknownRecord(f"no rollout of {name[:128]!r} is in the audit trail")
        begun = max((at for at in range(own[0]) if "document" in records[at].record), default=own[0])
        chosen = range(begun, own[-1] + 1)
        replays = await asyncio.to_thread(
            lambda: [replay(records[at], records[at - 1] if at else None) for at in chosen]
        )
        return {
            "policy": name,
            "identity": identity,
            "verified": await self.verify(),
            "records": [
                {**in_full(records[at]), "replay": shown(found)} for at, found in zip(chosen, replays, strict=True)
            ],
        }

    async def _all(self, name: str, begins: Callable[[AuditRecord], bool] | None = None) -> list[AuditRecord]:
        """Records of a policy, oldest first: the newest of them, when there are too many."""
        found: list[AuditRecord] = []
        cursor: str | None = None
        while len(found) < MOST_EXPORTED:
            page = await self._store.audit_read(name, after=cursor, limit=_PAGE, newest=True)
            found += [record for record in page.records if record.kind == "policy"]
            cursor = page.cursor
            if cursor is None or (begins is not None and any(map(begins, found))):
                break
        return found[::-1]


def id_of(record: AuditRecord) -> str:
    """The record's id."""
    return name_of_record(record.chain, record.seq)


def in_short(record: AuditRecord) -> dict[str, Any]:
    """A record without what is large."""
    kept = {key: value for key, value in record.record.items() if key not in _LARGE}
    return {"id": id_of(record), "time_ms": record.time_ms, "kind": record.kind, "name": record.name, **kept}


def in_full(record: AuditRecord) -> dict[str, Any]:
    """A record with the bytes that are hashed, for who wants to check the hash by other means."""
    return {
        "id": id_of(record),
        "time_ms": record.time_ms,
        "kind": record.kind,
        "name": record.name,
        "before": record.before,
        "after": record.after,
        "hash": record.hash,
        "body": record.body.decode(),
        "record": record.record,
    }


def shown(found: Replay) -> dict[str, Any]:
    """A replay for programs."""
    plain: dict[str, Any] = msgspec.to_builtins(found)
    return plain
