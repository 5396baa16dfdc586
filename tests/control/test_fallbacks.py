"""The guardrail on fallbacks: of each unit one request, against a largest ratio; it rolls back or waits."""

import json
import random
from typing import Any

import msgspec
import pytest

from gateway.control.documents import Kept
from gateway.control.fallbacks import Fallbacks, detectable, within
from gateway.control.intake import Delta
from gateway.control.judge import Judge
from gateway.control.planning import steps
from gateway.control.replay import replay
from gateway.control.showing import guardrails as shown
from gateway.tally import FIELDS, NOTE_BAD, NOTE_SEEN
from router.evidence.eprocess import log_threshold
from router.evidence.sequences import rate_log_e
from router.policy import TrafficPolicy
from router.rollout.status import RolloutStatus
from router.rollout_document import Analysis, Guardrail
from tests.audit.test_replay import linked, told
from tests.control.test_judge import CANARY, STABLE, WEIGHTS, judge
from tests.control.test_planning import kept
from tests.router.documents import read
from tests.simulation.evidence.results import Rate

LIMIT = 0.05
RAIL = Guardrail(metric="fallback_ratio", max=LIMIT)
RAILS = [{"metric": "error_rate"}, {"metric": "fallback_ratio", "max": LIMIT}]
ANALYSIS = Analysis(guardrails=(Guardrail(metric="error_rate"), RAIL))
Note = tuple[int, int, int, int, int]


def wanted() -> TrafficPolicy:
    stages = [{"setWeight": "20%"}, {"setWeight": "100%"}]
    rollout = {"to": "canary", "steps": stages, "analysis": {"guardrails": RAILS}}
    return read(split={"stable": 10_000}, rollout=rollout)


def watched(state: Any = None) -> Judge:
    return judge(state, sticky=True, guardrails=RAILS)


def asked(unit: int, *, failed: bool = False, variant: int = CANARY, revision: int = 5) -> Note:
    return (NOTE_SEEN | (NOTE_BAD if failed else 0), revision, 0, variant, unit)


def heard(one: Judge, notes: list[Note], unfinished: int = 0, revision: int = 5) -> None:
    """These requests have ended, and so many more were routed to the canary."""
    counts = {}
    for arm, name in ((STABLE, "stable"), (CANARY, "canary")):
        bad = sum(bool(note[0] & NOTE_BAD) for note in notes if note[3] == arm)
        every = sum(note[3] == arm for note in notes)
        routed = every + (unfinished if arm == CANARY else 0)
        counts[revision, "", name] = (routed, every - bad, bad, *[0] * (len(FIELDS) - 3))
    one.take(Delta(counts=counts, notes=notes), WEIGHTS)


def traffic(one: Judge, ratio: float, ticks: int = 20, revision: int = 5, seed: int = 1) -> None:
    """New units, of which this share falls back; stable is well."""
    rng = random.Random(seed)
    for _ in range(ticks):
        arms = [int(rng.random() < WEIGHTS[str(revision)][""]) for _ in range(100)]
        heard(one, [
            asked(rng.getrandbits(62), failed=bool(arm) and rng.random() < ratio, variant=arm, revision=revision)
            for arm in arms
        ], revision=revision)  # fmt: skip


def verdict(one: Judge) -> Any:
    return one.verdicts(0.5)["fallback_ratio"]


def test_too_many_fallbacks_trip_and_stay_so() -> None:
    one = watched()
    assert verdict(one).insufficient
    traffic(one, 0.15)
    found = verdict(one)
    assert (found.tripped, found.passes) == (True, False)
    assert "was left to stable" in found.text
    assert "at most 5.00% may" in found.text
    again = watched(json.loads(json.dumps(one.state())))
    assert again.state() == one.state()
    traffic(again, 0.0, seed=2)
    assert verdict(again).tripped


def test_few_fallbacks_pass_and_no_data_does_not() -> None:
    one = watched()
    traffic(one, 0.01)
    found = verdict(one)
    assert (found.tripped, found.passes, found.insufficient) == (False, True, False)
    one.begin_step(2, 6)
    assert (verdict(one).passes, verdict(one).insufficient) == (False, True)


def test_at_the_limit_nothing_is_decided() -> None:
    one = watched()
    traffic(one, LIMIT)
    found = verdict(one)
    assert (found.tripped, found.passes, found.insufficient) == (False, False, False)


def test_a_unit_counts_once_in_the_rollout_by_its_first_request() -> None:
    one = watched()
    heard(one, [asked(unit << 20 | unit, failed=unit < 2) for unit in range(100)])
    for visit in range(2, 40):
        one.begin_step(visit, 5)
        heard(one, [asked(unit << 20 | unit, failed=unit < 10) for unit in range(100)])
    assert one.fallbacks["fallback_ratio"].units == [2, 100]
    assert one.fallbacks["fallback_ratio"].step == [10, 100]
    assert not verdict(one).tripped


def test_only_what_chance_sent_to_the_canary_counts() -> None:
    one = watched()
    one.take(Delta(notes=[asked(unit, failed=True, revision=9) for unit in range(9)]), {"9": {"": 1.0}})
    one.take(Delta(notes=[asked(unit, failed=True, revision=8) for unit in range(9)]), {"8": {"": 0.0}})
    heard(one, [asked(unit, failed=True, variant=STABLE) for unit in range(20, 29)])
    assert one.fallbacks["fallback_ratio"].units == [0, 0]


def test_what_has_not_ended_is_taken_for_answered() -> None:
    """Failures may come back at once, and answers take a second."""
    rng = random.Random(3)
    failures = [asked(rng.getrandbits(62), failed=True) for _ in range(20)]
    early, late = watched(), watched()
    heard(early, failures, unfinished=380)
    heard(late, failures)
    assert (verdict(early).tripped, verdict(late).tripped) == (False, True)
    heard(early, [asked(rng.getrandbits(62)) for _ in range(380)], unfinished=-380)
    assert early.fallbacks["fallback_ratio"].unfinished == 0
    assert verdict(early).text.startswith("the first request of 20 of 400 units was left to stable (5.00%")


@pytest.mark.parametrize("ratio", [LIMIT, LIMIT / 2])
def test_a_canary_within_the_limit_is_rarely_rolled_back(ratio: float) -> None:
    rng, replicas, alpha = random.Random(4), 400, 0.05
    hits = 0
    for _ in range(replicas):
        failed, tripped = 0, False
        for units in range(1, 1501):
            failed += rng.random() < ratio
            if units % 25 == 0 and rate_log_e(failed, units, LIMIT) >= log_threshold(alpha):
                tripped = True
                break
        hits += tripped
    assert Rate("fallbacks", f"ratio {ratio}", "mixture", hits, replicas, alpha).kept


@pytest.mark.parametrize("requests", [1, 30])
def test_units_that_come_again_deceive_nobody(requests: int) -> None:
    """A unit in 25 fails whenever it comes: the ratio is below the limit, and stays so however often they come."""
    hits, replicas = 0, 150
    for seed in range(replicas):
        rng, one = random.Random(seed), Fallbacks(RAIL)
        erring = [rng.random() < 0.04 for _ in range(300)]
        for number, at in enumerate(rng.choices(range(300), k=300 * requests)):
            one.see(at, erring[at])
            if number % 60 == 0:
                one.close()
        hits += one.peak_log_e >= log_threshold(0.05)
    assert Rate("fallbacks", f"{requests} requests", "first of each unit", hits, replicas, 0.05).kept


def test_a_ratio_of_three_limits_is_found_as_planned() -> None:
    """`minDetect`: with so many units a ratio that could be seen with 80 % is seen about so often."""
    units, alpha, replicas = 400, 0.01, 300
    ratio = detectable(units, LIMIT, alpha, 2)
    assert ratio is not None
    assert 1.5 < ratio < 3.0
    rng = random.Random(5)
    found = sum(
        rate_log_e(sum(rng.random() < ratio * LIMIT for _ in range(units)), units, LIMIT) >= log_threshold(alpha, 2)
        for _ in range(replicas)
    )
    assert Rate("fallbacks", "at the ratio", "not found", replicas - found, replicas, 0.2).kept
    assert detectable(3, LIMIT, alpha, 2) is None


def test_the_mixture_is_one_sided() -> None:
    assert rate_log_e(0, 0, LIMIT) == 0.0
    assert rate_log_e(0, 1_000, LIMIT) < 0.0 < rate_log_e(100, 1_000, LIMIT)
    assert within((0, 1_000), LIMIT) > 0.0 > within((100, 1_000), LIMIT)
    for wrong in ((2, 1, 0.1), (0, 1, 0.0), (0, 1, 1.0)):
        with pytest.raises(ValueError, match="expected"):
            rate_log_e(*wrong)


@pytest.mark.parametrize("ratio", [0.15, 0.0, LIMIT])
def test_it_is_decided_again_from_the_record(ratio: float) -> None:
    found = Judge("id", ANALYSIS, sticky=True, variants=("stable", "canary"), stable="stable", canary="canary")
    traffic(found, ratio)
    what = ("abort", "auto:guardrail:fallback_ratio") if ratio == 0.15 else ("hold", "auto:rollout")
    more = {} if ratio == 0.15 else {"shares_before": {"stable": 10_000}, "slots_after": 3000}
    record = told(found, *what, **more)
    if ratio != 0.15:
        record |= {"routed": False, "revision_after": 2}
    state = {0.15: "tripped", 0.0: "passes", LIMIT: "undecided"}[ratio]
    assert record["marks"]["fallback_ratio"]["state"] == state
    assert replay(linked(record), None).text == "same verdict"
    evidence = json.loads(record["evidence"])
    kept = evidence["fallbacks"]["fallback_ratio"]
    kept["peak"], kept["step"] = [9, 900], [0 if state == "undecided" else 200, 400]
    edited = replay(linked(record | {"evidence": json.dumps(evidence)}), None)
    assert "guardrail fallback_ratio: largest log e" in edited.text
    assert "guardrail fallback_ratio: verdict" in edited.text


def test_the_status_shows_what_was_counted() -> None:
    counted = kept(wanted(), (900, 9), (190, 10), come=1_000)
    status = RolloutStatus(identity=counted.record.evidence["judge"]["identity"])
    found = Kept(1, msgspec.structs.replace(counted.record, status=status), counted.policy)
    (rail,) = [rail for rail in shown(found) if rail["metric"] == "fallback_ratio"]
    assert (rail["fell_back"], rail["max"]) == ({"bad": 0, "requests": 200}, LIMIT)
    assert rail["harm"]["threshold"] == pytest.approx(log_threshold(0.01, 2))
    assert rail["harm"]["log_e"] < 0.0 < rail["safety"]["log_e"]


def test_it_is_not_planned() -> None:
    assert {one["guardrail"] for one in steps(wanted(), 9.0, 0.01)} == {"error_rate"}
