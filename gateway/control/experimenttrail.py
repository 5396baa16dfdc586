"""What the audit trail says of an experiment: which edits began, changed and ended it. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from gateway.control.auditor import id_of
from gateway.control.study import Study
from gateway.store.base import AuditRecord

MOST_EDITS: Final = 100
"""Shown: that which began it, and the newest."""


def with_trail(report: Mapping[str, Any], study: Study, records: Sequence[AuditRecord] | None) -> dict[str, Any]:
    """A report with the edits of its policy since the experiment began, and with why it was stopped.

    Args:
        records: of its policy, oldest first; None = the store is away.
    """
    if records is None:
        return {**report, "stop_reason": _stopped(study, None), "audit": None, "audit_left_out": 0}
    edits = _edits(records, begun_at(study))
    last = _last_end(edits)
    if last is not None:
        # The study has the moment at which this node noticed it, which may be away meanwhile.
        report = {**report, "state": "ended", "ended_ms": last.time_ms}
    shown = [*edits[:1], *edits[1:][-(MOST_EDITS - 1) :]]
    return {
        **report,
        "stop_reason": _stopped(study, last),
        "audit": [_shown(one) for one in shown],
        "audit_left_out": len(edits) - len(shown),
    }


def begun_at(study: Study) -> int:
    """The first revision of a study's routing, as far as it is remembered."""
    return min(map(int, study.revisions), default=0)


def began(record: AuditRecord, revision: int) -> bool:
    """Whether a record is of the edit that put a revision in force."""
    before, after = _revisions(record)
    return before < revision <= after


def _edits(records: Sequence[AuditRecord], revision: int) -> list[AuditRecord]:
    """Records that changed the document or the routing, from the one that began this until the one that ended it."""
    first = next((at for at in reversed(range(len(records))) if began(records[at], revision)), 0)
    found, ended = [], False
    for one in records[first:]:
        before, after = _revisions(one)
        if "document" not in one.record and before == after:
            continue
        if _ends(one):
            if not ended:
                found.append(one)
            ended = True
        elif "document" in one.record or not ended:
            found.append(one)
            ended = False
    return found


def _ends(record: AuditRecord) -> bool:
    """Whether no experiment was in force after it."""
    if record.record.get("what") == "delete":
        return True
    document = record.record.get("document")
    return document is not None and not document.get("spec", {}).get("experiment")


def _last_end(edits: Sequence[AuditRecord]) -> AuditRecord | None:
    return edits[-1] if edits and _ends(edits[-1]) else None


def _stopped(study: Study, last: AuditRecord | None) -> str:
    """Why it ended, in words; "" = it runs."""
    if last is not None:
        said = last.record
        reason = f": {said['reason']}" if said.get("reason") else ""
        return f"{said.get('what')} by {said.get('actor')} ({id_of(last)}){reason}"
    return "the record of what ended it is not at hand" if study.ended_ms else ""


def _revisions(record: AuditRecord) -> tuple[int, int]:
    return int(record.record.get("revision_before") or 0), int(record.record.get("revision_after") or 0)


def _shown(record: AuditRecord) -> dict[str, Any]:
    said = record.record
    return {
        "id": id_of(record),
        "time_ms": record.time_ms,
        "what": said.get("what", ""),
        "actor": said.get("actor", ""),
        "reason": said.get("reason", ""),
        "revision_before": said.get("revision_before"),
        "revision_after": said.get("revision_after"),
    }
