"""A policy's record with its evidence, small enough for the store. Pure.

What people write into the record later, a document or a kill, is written with the evidence that is there, so room is
left for it. A rollback is written whatever happens: it does not need the evidence any more.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from gateway.control.record import PolicyRecord, encode
from gateway.control.runs import Run
from gateway.control.steps import fitting
from gateway.control.units import Sampled
from gateway.store.base import Limits
from router.rollout.status import ACTIVE

ROOM: Final = Limits().body_bytes - 64 * 1024
"""For a record; the rest is for the next document."""
_TRIES: Final = 3


def with_evidence(record: PolicyRecord, run: Run) -> PolicyRecord:
    """The record with what the next leader needs to go on, of ROOM at most, as far as that can be.

    Of a rollout that has ended without its units. Where the evidence cannot be computed, what is stored of it stays.

    Too large, it loses by steps what it can do without: places of bitmaps, spans that only explain, listed units; what
    the status quotes for the audit; and, once nothing is decided on it any more, all evidence.
    """
    over = record.status.phase not in ACTIVE
    if run.blind:
        return _without_units(record) if over else record
    if over and run.judge is not None:
        run.judge.end()
    found = msgspec.structs.replace(record, evidence=run.evidence(record.weights))
    for _ in range(_TRIES):
        chars = len(encode(found)) - ROOM
        if chars <= 0 or run.judge is None:
            return found
        run.judge.shrink(chars)
        status = msgspec.structs.replace(found.status, evidence=fitting(found.status.evidence))
        found = msgspec.structs.replace(found, status=status, evidence=run.evidence(record.weights))
    if len(encode(found)) > ROOM and over:
        kept = {**found.evidence, "judge": None}
        found = msgspec.structs.replace(found, evidence=kept)
        found = found if len(encode(found)) <= ROOM else msgspec.structs.replace(found, evidence={})
    return found


def _without_units(record: PolicyRecord) -> PolicyRecord:
    judge = record.evidence.get("judge")
    if not judge:
        return record
    evidence = {**record.evidence, "judge": {**judge, "sampled": Sampled().state()}}
    return msgspec.structs.replace(record, evidence=evidence)


def without_evidence(
    record: PolicyRecord, audit: Mapping[str, Any] | None
) -> tuple[PolicyRecord, Mapping[str, Any] | None]:
    """The least of a write that was too large: what is decided stays, and what it rests on is left out of the audit.

    A rollout that goes on keeps its evidence: to begin that anew would spend alpha twice.
    """
    over = record.status.phase not in ACTIVE
    status = msgspec.structs.replace(record.status, evidence="")
    record = msgspec.structs.replace(record, status=status, evidence={} if over else record.evidence)
    return record, None if audit is None else {**audit, "evidence": "", "evidence_left_out": True}
