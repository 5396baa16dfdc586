"""A record has a bound: what evidence can do without goes, and a rollback is written whatever happens."""

import asyncio
import json
import random
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.control.fitting import ROOM, with_evidence, without_evidence
from gateway.control.intake import Intake
from gateway.control.judge import Judge
from gateway.control.record import PolicyRecord, encode
from gateway.control.replay import replay
from gateway.control.runs import Run
from gateway.control.steps import quoted
from gateway.control.trail import MOST_SPANS
from gateway.control.units import BITMAP_BITS, LEAST_PLACES, MOST_LISTED, Bitmap, shrink
from gateway.store.base import Limits
from gateway.tally import NOTE_BAD
from router.rollout.status import RolloutStatus
from tests.audit.test_replay import judge as heard
from tests.audit.test_replay import linked, told
from tests.control.leading import Leading, document
from tests.control.test_judge import CANARY, WEIGHTS, bad, delta, judge

MOST = 16
"""Guardrails, and signals, that a document may have."""
RECORD = PolicyRecord(
    document={}, revision=4, generation=1, applied_by="ann", applied_ms=0, variants=(), slots="", before="",
    stable="stable", canary="canary", status=RolloutStatus(phase="BAKING"), weights=WEIGHTS,
)  # fmt: skip


def filled(rng: random.Random, share: float) -> Bitmap:
    """A bitmap of which this share is taken."""
    found = Bitmap()
    for _ in range(round(-BITMAP_BITS * share * (1 + share / 2))):
        found.add(rng.randrange(BITMAP_BITS))
    bits = rng.randbytes(BITMAP_BITS // 8)
    for at in range(BITMAP_BITS if share > 0.4 else 0):
        if bits[at >> 3] >> (at & 7) & 1:
            found.add(at)
    return found


def test_a_folded_bitmap_knows_who_has_erred() -> None:
    rng, one = random.Random(1), Bitmap()
    taken = [rng.randrange(BITMAP_BITS) for _ in range(20_000)]
    for index in taken:
        one.add(index)
    one.fold()
    again = Bitmap(one.state())
    assert (again.places, again.ones) == (BITMAP_BITS // 2, one.ones)
    assert not any(again.add(index) for index in taken)
    assert sum(again.add(rng.randrange(BITMAP_BITS)) for _ in range(1_000)) > 920, "new ones are new, but for a few"
    for _ in range(20):
        shrink([again], 10**9)
    assert again.places == LEAST_PLACES
    assert again.saturated


def test_what_a_unit_did_before_a_fold_is_not_counted_again() -> None:
    one = judge()
    one.take(delta(canary=(0, 1), notes=[bad(2**40 + 7, CANARY)]), WEIGHTS)
    one.shrink(1)
    again = judge(json.loads(json.dumps(one.state())))
    again.take(delta(canary=(0, 2), notes=[bad(2**40 + 7, CANARY), bad(2**40 + 9, CANARY)]), WEIGHTS)
    assert again.rails["error_rate"].harm.canary_events == 2
    assert again.rails["error_rate"].evidence()["erred_places"] == BITMAP_BITS // 2


def full(rails: int, signals: int) -> Judge:
    """A judge that can hardly hold more."""
    rng = random.Random(2)
    kinds = [{"metric": "latency", "quantile": 0.9, "name": f"late{at}"} for at in range(rails - 1)]
    more = [{"metric": "queue_wait", "quantile": 0.9, "name": f"wait{at}"} for at in range(signals)]
    one = judge(sticky=True, guardrails=[*kinds, {"metric": "output_shift"}], signals=more)
    half = filled(rng, 0.45).state()
    for rail in one._every_rail().values():
        rail.bitmap = Bitmap(half)
        rail.trail.spans = [{"0.1": [5, 50], "0.25": [9, 10]} for _ in range(MOST_SPANS)]
    for shift in one.shifts.values():
        shift.seen = Bitmap(half)
    one.seen = Bitmap(half)
    one.sampled.units = {rng.getrandbits(63): [0, rng.randrange(200), rng.randrange(5), 1] for _ in range(MOST_LISTED)}
    return one


@pytest.mark.parametrize(("rails", "signals"), [(4, 1), (MOST, MOST)])
def test_as_many_guardrails_as_a_document_may_have_fit_with_all_that_decides(rails: int, signals: int) -> None:
    one = full(rails, signals)
    status = msgspec.structs.replace(RECORD.status, evidence=quoted(one.evidence(0.1), ()))
    record = msgspec.structs.replace(RECORD, status=status)
    run = Run(1, "rollout", Intake(), one, 0)
    assert len(encode(msgspec.structs.replace(record, evidence=run.evidence({})))) > Limits().body_bytes
    harm = {label: rail.harm.state() for label, rail in one._every_rail().items()}
    found = with_evidence(record, run)
    assert len(encode(found)) <= ROOM
    kept = {**found.evidence["judge"]["rails"], **found.evidence["judge"]["signals"]}
    assert {label: state["harm"] for label, state in kept.items()} == harm
    assert Judge("rollout", one._analysis, sticky=True, variants=("stable", "canary"), stable="stable", canary="canary",
                 state=found.evidence["judge"]).state() == one.state()  # fmt: skip


def test_a_small_record_loses_nothing() -> None:
    one = judge()
    one.take(delta(canary=(0, 1), notes=[bad(7, CANARY)]), WEIGHTS)
    before = json.dumps(one.state())
    found = with_evidence(RECORD, Run(1, "rollout", Intake(), one, 0))
    assert json.dumps(found.evidence["judge"]) == before


def test_a_rollback_needs_no_evidence_and_a_rollout_that_goes_on_keeps_its() -> None:
    huge = {"node": {"run": "x", "counts": {"4||stable": ["9" * ROOM]}, "shadow": {}, "cursors": {}, "lost": []}}
    for phase, kept in (("ABORTING", False), ("BAKING", True)):
        status = RolloutStatus(phase=phase)  # type: ignore[arg-type]
        record = msgspec.structs.replace(RECORD, status=status)
        found = with_evidence(record, Run(1, "rollout", Intake(huge), judge(), 0))
        bare, audit = without_evidence(found, {"what": "abort", "evidence": "{}"})
        assert [bool(one.evidence) for one in (found, bare)] == [kept, kept]
        assert audit == {"what": "abort", "evidence": "", "evidence_left_out": True}


def test_a_record_whose_evidence_was_left_out_is_no_mismatch() -> None:
    record = told(heard(sticky=False, canary_bad=0.4, stable_bad=0.05), "abort", "auto:guardrail:error_rate")
    found = replay(linked({**record, "evidence": "", "evidence_left_out": True}), None)
    assert (found.text, len(found.partly)) == ("same verdict", 1)


def test_a_rollback_is_written_where_its_audit_record_would_be_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def quotes(judge: Judge, weight: float) -> dict[str, Any]:
        return {"identity": judge.identity, "rails": {}, "told": "x" * Limits().audit_bytes}

    async def story() -> None:
        desk = await Leading.open(tmp_path, document("m"))
        await desk.until("m", "BAKING")
        monkeypatch.setattr(Judge, "evidence", quotes)
        revision = desk.revision("m")
        notes = [(NOTE_BAD, revision, 0, 1, 8 * unit) for unit in range(100)]
        desk.pages.add("m", revision, canary=100, stable=900, notes=notes)
        await desk.until("m", "ROLLED_BACK")
        page = await desk.policies.store.audit_read("m", newest=True, limit=5)
        assert [one.record["what"] for one in page.records if one.record.get("evidence_left_out")] == ["abort"]
        await desk.policies.store.close()

    asyncio.run(story())
