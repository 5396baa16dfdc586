"""Retraining is asked for once, seldom, with reason, and after a person's yes where one is wanted."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.monitor.attribution import Attribution
from gateway.monitor.incidents import Ledger, turn
from gateway.monitor.retrain import (
    DAY_S,
    KEPT,
    PENDING_S,
    RETRIES,
    RETRY_S,
    Facts,
    Requests,
    Settings,
    approve,
    delivered,
    facts_of,
    offer,
    reject,
    requests_of,
    resumed,
)
from gateway.monitor.words import Finding

NOW_S = 1_767_225_600.0
SUFFERS = Attribution(verdict="world", action="page", sentence="The inputs have shifted.", retrain=True)
DRIFTS = Attribution(verdict="world", action="page", sentence="The inputs have shifted.")


def facts(incident: str = "credit/1", **more: Any) -> Facts:
    return Facts(model="credit", version="2", incident=incident, verdict="world", sentence="s", **more)


def wanted(**more: Any) -> Settings:
    return Settings(preset="webhook", url="http://127.0.0.1/", **more)


def test_a_request_is_made_once_and_sent():
    requests, outcome = offer(Requests(), wanted(), SUFFERS, facts(), NOW_S)
    assert outcome == "send"
    again, outcome = offer(requests, wanted(), SUFFERS, facts(), NOW_S + 10 * DAY_S)
    assert (again, outcome) == (requests, "duplicate")
    requests = delivered(requests, facts().key, ok=True, note="HTTP 204", now_s=NOW_S + 1)
    asked = requests.find(facts().key)
    assert asked is not None
    assert (asked.status, asked.note, asked.deliveries) == ("sent", "HTTP 204", 1)
    assert requests.counts == {"send": 1, "sent": 1}


def test_drift_alone_asks_for_nothing():
    assert offer(Requests(), wanted(), DRIFTS, facts(), NOW_S) == (Requests(), "not_needed")


def test_the_cooldown_and_the_cap():
    few = wanted(cooldown_s=3600.0, per_day=2)
    requests, outcomes, now_s = Requests(), [], NOW_S
    for number, later_s in enumerate((0, 3599, 1, 7200, 7200, DAY_S - 18_000, 3600)):
        now_s += later_s
        requests, outcome = offer(requests, few, SUFFERS, facts(f"credit/{number}"), now_s)
        outcomes.append(outcome)
    assert outcomes == ["send", "cooling_down", "send", "capped", "capped", "send", "send"]
    again, outcome = offer(requests, few, SUFFERS, facts("credit/9"), now_s)
    assert outcome == "cooling_down"
    same, outcome = offer(again, few, SUFFERS, facts("credit/9"), now_s + 60)
    assert same == again, "a refusal that is repeated is counted once"
    assert requests.counts == {"send": 4, "cooling_down": 1, "capped": 2}


def test_a_dry_run_decides_and_sends_nothing():
    requests, outcome = offer(Requests(), wanted(dry_run=True), SUFFERS, facts(), NOW_S)
    assert outcome == "dry_run"
    assert requests.asked[0].status == "dry_run"
    _, outcome = offer(requests, wanted(dry_run=True), SUFFERS, facts("credit/2"), NOW_S + 60)
    assert outcome == "cooling_down", "as it would be"


def test_a_person_approves():
    manual = wanted(approval="manual")
    requests, outcome = offer(Requests(), manual, SUFFERS, facts(), NOW_S)
    assert outcome == "pending"
    assert offer(requests, manual, SUFFERS, facts(), NOW_S + 60) == (requests, "duplicate")
    waiting, outcome = offer(requests, manual, SUFFERS, facts("credit/2"), NOW_S + 60)
    assert outcome == "waiting", "one at a time waits for a person"
    requests, outcome = approve(waiting, manual, facts().key, "maria", NOW_S + 7200)
    assert outcome == "send"
    asked = requests.asked[0]
    assert (asked.by, asked.status, asked.counted_s) == ("maria", "sending", NOW_S + 7200)
    with pytest.raises(ValueError, match="does not wait for an approval: sending"):
        approve(requests, manual, facts().key, "maria", NOW_S + 7201)
    _, outcome = offer(requests, manual, SUFFERS, facts("credit/2"), NOW_S + 7200 + DAY_S - 1)
    assert outcome == "cooling_down", "from the approval"


def test_a_person_approves_a_dry_run():
    manual = wanted(approval="manual", dry_run=True)
    requests, _ = offer(Requests(), manual, SUFFERS, facts(), NOW_S)
    requests, outcome = approve(requests, manual, facts().key, "maria", NOW_S)
    assert (outcome, requests.asked[0].status, requests.asked[0].by) == ("dry_run", "dry_run", "maria")


def test_a_person_refuses():
    manual = wanted(approval="manual")
    requests, _ = offer(Requests(), manual, SUFFERS, facts(), NOW_S)
    requests = reject(requests, facts().key, "maria", NOW_S + 1)
    assert (requests.asked[0].status, requests.asked[0].by) == ("rejected", "maria")
    assert offer(requests, manual, SUFFERS, facts(), NOW_S + 2)[1] == "duplicate"
    assert offer(requests, manual, SUFFERS, facts("credit/2"), NOW_S + 2)[1] == "pending", "no cool-down: none was sent"
    with pytest.raises(ValueError, match="there is no request 'x'"):
        reject(requests, "x", "maria", NOW_S)


def test_an_approval_that_nobody_gives_is_out_of_date():
    manual = wanted(approval="manual")
    requests, _ = offer(Requests(), manual, SUFFERS, facts(), NOW_S)
    with pytest.raises(ValueError, match="expired"):
        approve(requests, manual, facts().key, "maria", NOW_S + PENDING_S)
    requests, outcome = offer(requests, manual, SUFFERS, facts("credit/2"), NOW_S + PENDING_S)
    assert (outcome, requests.asked[0].status) == ("pending", "expired")


def test_a_delivery_that_failed_is_tried_again_by_the_same_key():
    requests, outcome = offer(Requests(), wanted(), SUFFERS, facts(), NOW_S)
    now_s, outcomes = NOW_S, []
    for _ in range(RETRIES + 2):
        requests = delivered(requests, facts().key, ok=False, note="HTTP 503", now_s=now_s)
        assert offer(requests, wanted(), DRIFTS, facts(), now_s + RETRY_S - 1)[1] == "duplicate"
        now_s += RETRY_S
        requests, outcome = offer(requests, wanted(), DRIFTS, facts(), now_s)
        outcomes.append(outcome)
    assert outcomes == ["retry"] * (RETRIES - 1) + ["duplicate"] * 3
    assert requests.asked[0].deliveries == RETRIES
    assert requests.asked[0].status == "failed"


def test_nor_is_a_delivery_that_failed_tried_again_in_a_dry_run():
    """Who says `dry_run` while the receiver is away wants nothing sent."""
    requests, _ = offer(Requests(), wanted(), SUFFERS, facts(), NOW_S)
    requests = delivered(requests, facts().key, ok=False, note="HTTP 503", now_s=NOW_S)
    later_s = NOW_S + RETRY_S
    assert offer(requests, wanted(dry_run=True), SUFFERS, facts(), later_s) == (requests, "duplicate")
    assert offer(requests, wanted(), SUFFERS, facts(), later_s)[1] == "retry"


def test_after_a_restart_a_delivery_under_way_is_tried_again():
    requests, _ = offer(Requests(), wanted(), SUFFERS, facts(), NOW_S)
    requests = resumed(requests_of(json.loads(json.dumps(requests.plain()))))
    assert requests.asked[0].status == "failed"
    assert offer(requests, wanted(), SUFFERS, facts(), NOW_S + RETRY_S)[1] == "retry"


def test_a_delivery_of_something_forgotten_changes_nothing():
    assert delivered(Requests(), "x", ok=True, note="", now_s=NOW_S) == Requests()


def test_bounded():
    requests = Requests()
    for number in range(KEPT + 20):
        requests, _ = offer(requests, wanted(cooldown_s=0.0, per_day=100), SUFFERS, facts(f"c/{number}"), number * 1e5)
    assert len(requests.asked) == KEPT
    assert requests.asked[-1].facts.incident == f"c/{KEPT + 19}"


def test_facts_come_from_the_incident():
    findings = [
        Finding(signal="input_drift", state="firing", version="2", keys=("age", "income")),
        Finding(signal="performance_realised", state="firing", version="2", keys=("auc",)),
        Finding(signal="input_drift", state="firing", version="3", variant="canary", keys=("other",)),
    ]
    incident = turn(Ledger(model="credit"), findings, SUFFERS, NOW_S).ledger.open
    assert incident is not None
    found = facts_of(incident, "2", reference="0123", rows=5000)
    assert found == Facts(
        model="credit",
        version="2",
        incident=incident.id,
        verdict="world",
        sentence=SUFFERS.sentence,
        signals=("input_drift", "performance_realised"),
        features=("age", "income"),
        reference="0123",
        rows=5000,
    )
    assert found.key != facts_of(incident, "3").key
    assert found.key == facts_of(incident, "2", rows=6000).key


@given(
    st.lists(st.tuples(st.integers(0, 8), st.floats(0, DAY_S), st.booleans(), st.booleans()), max_size=60),
    st.integers(1, 3),
    st.floats(0, DAY_S),
)
@settings(max_examples=200, deadline=None)
def test_no_loop(script: list[tuple[int, float, bool, bool]], per_day: int, cooldown_s: float):
    few = wanted(per_day=per_day, cooldown_s=cooldown_s)
    requests, now_s, sent, keys = Requests(), 0.0, [], set()
    for number, later_s, needed, ok in script:
        now_s += 1 + later_s
        one = facts(f"c/{number}")
        requests, outcome = offer(requests, few, SUFFERS if needed else DRIFTS, one, now_s)
        if outcome == "send":
            assert needed
            assert one.key not in keys
            assert not sent or now_s - sent[-1] >= cooldown_s
            keys.add(one.key)
            sent.append(now_s)
            assert sum(now_s - at < DAY_S for at in sent) <= per_day
        if outcome in ("send", "retry"):
            requests = delivered(requests, one.key, ok=ok, note="", now_s=now_s)
        assert requests_of(json.loads(json.dumps(requests.plain()))) == requests
    assert all(asked.deliveries <= RETRIES for asked in requests.asked)


@pytest.mark.parametrize("value", [None, {"asked": [{}]}, {"counts": {"send": "1"}}])
def test_what_is_no_state_is_refused(value: object):
    with pytest.raises(msgspec.ValidationError):
        requests_of(value)
