"""Which variant a prediction id means: by the document of the revision that answered, which may be gone by now.

An id tells the digest, the revision, and an index in the document's order. The same version may be `canary` in one
document and `stable` in the next, and another document has another order; so the present one says nothing of an older
id. Which document came in force at which revision is in the audit trail; what was read of it is remembered.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from gateway.control.labelnotes import NOBODY, UNKNOWN
from gateway.control.policies import Policies
from gateway.control.record import KIND
from gateway.control.study import same_digest
from gateway.predictions import NO_POLICY
from gateway.store.base import AuditRecord, Store

_PAGE: Final = 200

Variants = Mapping[str, str]
"""Name -> digest, of one document."""


@dataclass(slots=True)
class _Trail:
    """What was read of a policy's documents, newest first.

    Attributes:
        of: generation and time of the document that was in force then.
        begun: (revision at which a document came in force, its variants).
        cursor: where to read on; over: there is nothing before.
    """

    of: tuple[int, int]
    begun: list[tuple[int, Variants]] = field(default_factory=list)
    cursor: str | None = None
    over: bool = False


class Revisions:
    """Documents of all policies, by revision."""

    def __init__(self, store: Store, policies: Policies) -> None:
        self._store = store
        self._policies = policies
        self._trails: dict[str, _Trail] = {}

    async def variant(self, name: str, facts: Mapping[str, Any]) -> str:
        """Name of the variant that answered; NOBODY = no policy decided; UNKNOWN = its document is not known any more.

        Not twice at a time for one policy.

        Args:
            facts: `digest`, `revision` and `variant` of a signed id.

        Raises:
            StoreAway
        """
        if facts["variant"] == NO_POLICY:
            return NOBODY
        variants = await self._at(name, facts["revision"])
        return next((one for one, digest in variants.items() if same_digest(digest, facts["digest"])), UNKNOWN)

    async def _at(self, name: str, revision: int) -> Variants:
        """Variants of a revision; empty = not known."""
        kept = self._policies.kept.get(name)
        record = kept.record if kept is not None else None
        if record is not None and record.revision == revision:
            return {pin.variant: pin.digest for pin in record.variants}
        of = (record.generation, record.applied_ms) if record is not None else (0, 0)
        trail = self._trails.get(name)
        unheard = record is not None and revision > record.revision  # another node has applied a document just now
        if trail is None or trail.of != of or unheard:
            trail = self._trails[name] = _Trail(of)
        while True:
            found = next((variants for begun, variants in trail.begun if begun <= revision), None)
            if found is not None or trail.over:
                return found or {}
            page = await self._store.audit_read(
                name, after=trail.cursor, limit=_PAGE, newest=True, where={"kind": KIND}
            )
            trail.begun += [_begun(one) for one in page.records if "variants" in one.record]
            trail.cursor, trail.over = page.cursor, page.cursor is None


def _begun(record: AuditRecord) -> tuple[int, Variants]:
    return int(record.record["revision_after"]), record.record["variants"]
