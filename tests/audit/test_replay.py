"""Replay: what was decided is decided again from the record; an edited record is found, whatever was edited."""

import json
import random
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from gateway.control.intake import Delta
from gateway.control.judge import Judge
from gateway.control.replay import replay
from gateway.control.steps import fitting
from gateway.shadowfields import whole
from gateway.store import records
from gateway.store.base import AuditRecord, Limits
from gateway.tally import BAD, FIELDS, NOTE_BAD, NOTE_SEEN, OK, ROUTED
from router.evidence.planning import Guardrail as Plan
from router.evidence.planning import smallest_detectable
from router.rollout.findings import mark
from router.rollout_document import Analysis, Guardrail, Signal

ANALYSIS = Analysis(guardrails=(Guardrail(metric="error_rate"), Guardrail(metric="shadow_disagreement", max=0.05)))
LABELS = [rail.label for rail in ANALYSIS.guardrails]
WEIGHTS = {"1": {"": 0.1}, "2": {"": 0.3}}
PLAN = Plan(guardrails=len(LABELS))


def judge(*, sticky: bool, canary_bad: float, stable_bad: float, ticks: int = 60) -> Judge:
    """A judge that has heard of so much traffic; the weight changes on the way."""
    found = Judge("id", ANALYSIS, sticky=sticky, variants=("stable", "canary"), stable="stable", canary="canary")
    found.begin_step(1)
    rng = random.Random(7)
    for tick in range(ticks):
        revision = 1 if tick < ticks // 2 else 2
        if tick == ticks // 2:
            found.begin_step(2)
        weight = WEIGHTS[str(revision)][""]
        delta = Delta()
        counts = {"stable": [0] * len(FIELDS), "canary": [0] * len(FIELDS)}
        for _ in range(100):
            index = int(rng.random() < weight)
            name = ("stable", "canary")[index]
            bad = rng.random() < (canary_bad if index else stable_bad)
            counts[name][ROUTED] += 1
            counts[name][BAD if bad else OK] += 1
            delta.notes.append(((NOTE_BAD if bad else 0) | NOTE_SEEN, revision, 0, index, rng.getrandbits(63)))
        for name, numbers in counts.items():
            delta.counts[revision, "", name] = tuple(numbers)
        delta.shadow[revision, "canary"] = tuple(whole([20]))
        found.take(delta, WEIGHTS)
        found.verdicts(weight)
    return found


def told(found: Judge, what: str, actor: str, **more: Any) -> dict[str, Any]:
    """What a rollout writes of a decision."""
    verdicts = found.verdicts(0.3)
    return {
        "kind_of": "rollout",
        "actor": actor,
        "what": what,
        "reason": "",
        "identity": "id",
        "canary": "canary",
        "marks": {name: msgspec.to_builtins(mark(verdict)) for name, verdict in verdicts.items()},
        "evidence": fitting(json.dumps(found.evidence(0.3))),
        "routed": True,
        "revision_before": 2,
        "revision_after": 3,
        "slots_before": 3_000,
        "slots_after": 0,
        "shares_before": {"stable": 7000, "canary": 3000},
        "shares_after": {"stable": 10_000},
        **more,
    }


def linked(record: dict[str, Any], after: AuditRecord | None = None, kind: str = "policy") -> AuditRecord:
    """In the store's form, with its hash."""
    head = records.Head(after.seq, bytes.fromhex(after.hash), after.time_ms) if after else records.Head()
    return records.link(head, "", kind, "m", (head.seq, head.seq + 1), record, 1, Limits())


@pytest.fixture(params=["sticky", "each request"])
def sticky(request: pytest.FixtureRequest) -> bool:
    return request.param == "sticky"


def test_an_abort_is_decided_again(sticky: bool):
    found = judge(sticky=sticky, canary_bad=0.4, stable_bad=0.05)
    record = told(found, "abort", f"auto:guardrail:{LABELS[0]}")
    assert record["marks"][LABELS[0]]["state"] == "tripped"
    result = replay(linked(record), None)
    assert (result.text, result.partly) == ("same verdict", ())
    assert sum("log likelihood" in check.what for check in result.checks) == (8 if sticky else 14)


def test_a_promotion_is_decided_again(sticky: bool):
    found = judge(sticky=sticky, canary_bad=0.0, stable_bad=0.02, ticks=160)
    record = told(found, "promoting", "auto:rollout", slots_after=10_000, shares_after={"canary": 10_000})
    assert {name: one["state"] for name, one in record["marks"].items()} == dict.fromkeys(LABELS, "passes")
    assert replay(linked(record), None).text == "same verdict"


def test_a_record_of_before_the_age_of_the_process_was_known_is_decided_again():
    found = judge(sticky=False, canary_bad=0.1, stable_bad=0.1)
    record = told(found, "hold", "auto:rollout", slots_after=3000, routed=False, revision_after=2)
    evidence = json.loads(record["evidence"])
    rail = evidence["rails"][LABELS[0]]
    del rail["begun"]
    rail["step_events"] = sum(every for _, every in rail["trail"]["step"].values())
    total = sum(counts[OK] + counts[BAD] for counts in evidence["step"].values())
    record["marks"][LABELS[0]]["detectable_ratio"] = smallest_detectable(total, 0.3, rail["step_events"] / total, PLAN)
    shares = {"shares_before": {"stable": 10_000}, "shares_after": {"stable": 10_000}}
    assert replay(linked({**record, **shares, "evidence": json.dumps(evidence)}), None).text == "same verdict"


def test_a_fallback_leaves_the_shares_alone():
    found, shares = judge(sticky=False, canary_bad=0.1, stable_bad=0.1), {"stable": 7000, "canary": 3000}
    record = told(found, "fallback", "auto:monitor", slots_after=3000, shares_after=shares)
    assert replay(linked(record), None).text == "same verdict"
    moved = {**record, "shares_after": {"stable": 10_000}}
    assert "shares, which fallback leaves alone" in replay(linked(moved), None).text


def test_the_largest_value_is_recomputed_where_it_lies_in_the_past():
    found = judge(sticky=False, canary_bad=0.12, stable_bad=0.1, ticks=20)
    peak = found.rails[LABELS[0]].harm.peak_log_e
    for _ in range(20):
        delta = Delta()
        delta.notes += [(NOTE_BAD, 1, 0, 0, random.Random(n).getrandbits(63)) for n in range(500, 600)]
        found.take(delta, WEIGHTS)
    rail = found.rails[LABELS[0]]
    assert rail.harm.peak_log_e == peak > rail.harm.log_e
    assert replay(
        linked(told(found, "step", "auto:rollout", slots_after=3000, shares_after={"stable": 7000, "canary": 3000})),
        None,
    ).same


def numbers_in(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Path of every number of a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        if isinstance(inner, int | float) and not isinstance(inner, bool):
            yield (*path, key)
        else:
            yield from numbers_in(inner, (*path, key))


UNREAD = {
    "counts",
    "shares",
    "missed",
    "shadow_max",
    "begun",
    "erred_units",
    "erred_places",
    "weight",
    "events_per_start",
    "since_start",
}
"""What only explains, what a verdict may survive, and what the other fields of a state imply."""


def test_every_edited_number_of_the_evidence_is_found(sticky: bool):
    found = judge(sticky=sticky, canary_bad=0.4, stable_bad=0.05)
    record = told(found, "abort", f"auto:guardrail:{LABELS[0]}")
    evidence = json.loads(record["evidence"])
    ratio = evidence["rails"][LABELS[0]]["safety"].pop("ratio")
    if not sticky:
        read = ("log_likelihoods", "canary_events", "all_events", "ratios")
        evidence["rails"][LABELS[0]]["safety"]["ratio"] = {name: ratio[name] for name in read}
        evidence["rails"][LABELS[0]]["safety"].pop("units_log_e")
    else:
        evidence["rails"][LABELS[0]]["trail"].pop("step")
    paths = [path for path in numbers_in(evidence["rails"][LABELS[0]]) if not UNREAD & set(path)]
    missed = []
    for path in paths:
        edited = json.loads(record["evidence"])
        inner = edited["rails"][LABELS[0]]
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] += 1
        if replay(linked({**record, "evidence": json.dumps(edited)}), None).same:
            missed.append(".".join(map(str, path)))
    assert not missed
    assert len(paths) > 40


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        ({"revision_after": 7}, "revision after"),
        ({"shares_after": {"stable": 9_000}}, "slots that are owned"),
        ({"slots_after": 500}, "slots of the canary"),
        ({"actor": "auto:guardrail:shadow_disagreement"}, "for which it was rolled back"),
        ({"what": "promoting", "actor": "auto:rollout", "slots_after": 10_000}, "which promotion asks for"),
        ({"evidence": "{}"}, "the record can be computed with"),
    ],
)
def test_what_does_not_follow_is_named(edit: dict[str, Any], named: str):
    record = told(judge(sticky=False, canary_bad=0.4, stable_bad=0.05), "abort", f"auto:guardrail:{LABELS[0]}")
    if "promoting" in edit.values():
        edit = {**edit, "shares_after": {"canary": 10_000}}
    assert named in replay(linked({**record, **edit}), None).text


def test_a_verdict_that_was_rewritten_is_found():
    record = told(
        judge(sticky=False, canary_bad=0.05, stable_bad=0.05),
        "promoting",
        "auto:rollout",
        slots_after=10_000,
        shares_after={"canary": 10_000},
    )
    assert record["marks"][LABELS[0]]["state"] == "undecided"
    record["marks"][LABELS[0]]["state"] = "passes"
    assert "verdict: recorded passes, is undecided" in replay(linked(record), None).text


# ---- signals ----

SIGNALS = Analysis(signals=(Signal(metric="compute_time"), Signal(metric="error_rate", name="compute")))


def held(slow: int, ticks: int = 60) -> dict[str, Any]:
    """A record of a canary that is held for its executions, of which so many in ten are slow; stable's one in ten."""
    found = Judge("id", SIGNALS, sticky=False, variants=("stable", "canary"), stable="stable", canary="canary")
    for tick in range(ticks):
        by_size = {1: (10 - slow, slow), 8: (1 + tick % 3, 0)}
        found.take(Delta(executions={(1, "canary"): by_size, (1, "stable"): {1: (27, 3), 8: (9, 0)}}), WEIGHTS)
    shares = {"stable": 7000, "canary": 3000}
    more = {"routed": False, "revision_after": 2, "slots_after": 3_000, "shares_after": shares}
    return told(found, "hold", "auto:rollout", reason="signal compute_time: it is slow", **more)


def test_a_hold_for_a_signal_is_decided_again():
    result = replay(linked(held(3)), None)
    assert result.text == "same verdict"
    assert "signal compute_time, for which it was hold" in [check.what for check in result.checks]
    assert any("signal compute_time: the starts of the mixture" in text for text in result.partly)


def test_a_hold_that_nothing_speaks_for_is_found():
    said = replay(linked(held(1)), None).text
    assert said == "mismatch: signal compute_time, for which it was hold: recorded True, is False"
    # A signal that is silent, with a name that the other's begins with, is none of its reasons.
    assert replay(linked({**held(3), "reason": "signal compute: x"}), None).text.endswith(
        "signal compute, for which it was hold: recorded True, is False"
    )


def test_a_rollback_for_a_signal_needs_that_it_speaks():
    for slow, same in ((3, True), (1, False)):
        record = {**held(slow), "what": "abort", "actor": "auto:signal:compute_time", "reason": ""}
        record |= {"slots_after": 0, "shares_after": {"stable": 10_000}}
        assert replay(linked(record), None).same is same


def test_every_edited_number_of_a_signal_is_found():
    record = held(4, ticks=7)
    evidence = json.loads(record["evidence"])["signals"]["compute_time"]
    assert evidence["harm"]["starts"] == 1
    assert evidence.pop("step")[0][0] == 83  # for people: of it nothing is computed
    missed = []
    for path in numbers_in(evidence):
        edited = json.loads(record["evidence"])
        inner = edited["signals"]["compute_time"]
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] += 1
        if replay(linked({**record, "evidence": json.dumps(edited)}), None).text == replay(linked(record), None).text:
            missed.append(".".join(map(str, path)))
    assert not missed
    edited = json.loads(record["evidence"])
    edited["signals"]["compute_time"]["speaks"] ^= True
    assert "speaks" in replay(linked({**record, "evidence": json.dumps(edited)}), None).text


def test_records_follow_on_each_other():
    first = linked({"what": "kill", "revision_before": 1, "revision_after": 2})
    second = linked({"what": "kill", "revision_before": 4, "revision_after": 5}, first)
    assert replay(second, first).text == "mismatch: revision before, by the record before: recorded 4, is 2"
    gone = linked({"what": "delete", "revision_before": 2, "revision_after": 0}, first)
    anew = linked({"what": "kill", "revision_before": 0, "revision_after": 1}, gone)
    assert replay(gone, first).same
    assert replay(anew, gone).same


def monitor(name: str = "m", **spec: Any) -> dict[str, Any]:
    return {"apiVersion": "tidegate/v1", "kind": "Monitor", "metadata": {"name": name}, "spec": spec}


def applied(document: dict[str, Any], after: AuditRecord | None = None) -> AuditRecord:
    """A Monitor document was applied, as the desk writes it."""
    said = {"actor": "ann", "what": "apply", "reason": "", "generation": 1, "owner": "", "document": document}
    return linked({**said, "document_before": None}, after, kind="monitor")


def test_an_applied_monitor_is_read_as_a_monitor():
    first = applied(monitor(window={"rows": 500}))
    assert replay(first, None).text == "same verdict"
    assert replay(applied(monitor(window={"rows": 900}), first), first).text == "same verdict"
    assert "the document can be read" in replay(applied(monitor(windw={})), None).text
    assert "name of the document: recorded m, is other" in replay(applied(monitor("other")), None).text
    assert "the document can be read" in replay(linked(applied(monitor()).record), None).text, "it is no policy"


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("monitor", {"actor": "ann", "what": "delete", "reason": "", "document_before": monitor()}),
        ("monitor", {"actor": "file:a.yaml", "what": "orphan", "reason": "", "owner": ""}),
        (
            "monitor-state",
            {"actor": "auto:monitor", "what": "lease freeze", "reason": "", "evidence": "m/1/1"},
        ),
        ("", {"actor": "ann", "what": "retrain approve", "request": "k"}),
    ],
)
def test_other_records_of_monitors_are_replayed(kind: str, said: dict[str, Any]):
    first = applied(monitor())
    assert replay(linked(said, first, kind), first).text == "same verdict"


def test_bytes_that_do_not_have_their_hash_are_found():
    whole = linked({"what": "kill", "revision_before": 1, "revision_after": 2, "reason": "slow"})
    edited = records.read_record(whole.body.replace(b"slow", b"fast"), bytes.fromhex(whole.hash))
    assert "hash of the record" in replay(edited, None).text


def test_evidence_that_is_too_large_loses_its_spans_and_says_so():
    found = judge(sticky=False, canary_bad=0.4, stable_bad=0.05)
    rail = found.rails[LABELS[0]]
    assert len(rail.trail.spans) >= 2
    found.counts = {f"{n}||stable": [n] * 6 for n in range(3_000)}
    record = told(found, "abort", f"auto:guardrail:{LABELS[0]}")
    result = replay(linked(record), None)
    assert result.same
    assert "starts of the mixture are not in the record" in result.partly[0]


def test_who_replays_an_incident_is_told_that_its_numbers_are_not_computed_anew() -> None:
    record = {"actor": "auto:monitor", "what": "incident opened", "reason": "drift", "signals": [], "evidence": []}
    result = replay(linked(record, kind="monitor"), None)
    assert (result.same, len(result.partly)) == (True, 1)
    assert "no verdict is recomputed" in result.partly[0]


def test_a_judge_goes_on_from_its_state():
    found = judge(sticky=True, canary_bad=0.1, stable_bad=0.05)
    again = Judge(
        "id",
        ANALYSIS,
        sticky=True,
        variants=("stable", "canary"),
        stable="stable",
        canary="canary",
        state=json.loads(json.dumps(found.state())),
    )
    assert again.evidence(0.3) == found.evidence(0.3)


def test_failures_in_the_shadow_count_in_records_since_they_do() -> None:
    """Records of before say what was decided then."""
    found = judge(sticky=True, canary_bad=0.0, stable_bad=0.0)
    found.take(Delta(shadow={(2, "canary"): tuple(whole([900, 0, 900]))}), WEIGHTS)
    record = told(found, "abort", "auto:guardrail:shadow_disagreement")
    assert record["marks"]["shadow_disagreement"]["state"] == "tripped"
    assert replay(linked(record), None).text == "same verdict"
    evidence = json.loads(record["evidence"])
    del evidence["shadow_failed"]
    result = replay(linked({**record, "evidence": json.dumps(evidence)}), None)
    assert "shadow_disagreement: verdict: recorded tripped, is passes" in result.text
