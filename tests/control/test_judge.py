"""Evidence of one rollout: what counts, once per unit, with the weight in force where it was routed."""

import json
import random
from typing import Any

import pytest

from gateway.control.intake import Delta
from gateway.control.judge import MOST_NOTES, Judge
from gateway.control.units import MOST_LISTED, Bitmap, Sampled
from gateway.shadowfields import COMPARED, DISAGREED, DROPPED, FAILED
from gateway.shadowfields import FIELDS as SHADOW_FIELDS
from gateway.tally import FIELDS, NOTE_BAD, NOTE_SEEN, NOTE_SLOW, NOTE_WAITED, score_flags
from router.hashing import in_sample
from router.policy import parse
from router.rollout_document import Analysis

WEIGHTS = {"4": {"": 0.1}, "5": {"": 0.5}}
STABLE, CANARY = 0, 1


def analysis(**changes: Any) -> Analysis:
    document = {
        "apiVersion": "tidegate/v1",
        "kind": "TrafficPolicy",
        "metadata": {"name": "m"},
        "spec": {
            "variants": [{"name": "stable", "model": "m:1"}, {"name": "canary", "model": "m:2"}],
            "split": {"stable": 10_000},
            "rollout": {
                "to": "canary",
                "steps": [{"shadow": {"percent": 10}}, {"setWeight": 1000}, {"setWeight": 10_000}],
                "analysis": {"guardrails": [{"metric": "error_rate"}], **changes},
            },
        },
    }
    rollout = parse(document).spec.rollout
    assert rollout is not None
    return rollout.analysis


def judge(state: Any = None, *, sticky: bool = False, **changes: Any) -> Judge:
    return Judge(
        "rollout",
        analysis(**changes),
        sticky=sticky,
        variants=("stable", "canary"),
        stable="stable",
        canary="canary",
        state=state,
    )


def delta(
    *,
    canary: tuple[int, int] = (0, 0),
    stable: tuple[int, int] = (0, 0),
    notes: list[tuple[int, int, int, int, int]] | None = None,
    revision: int = 4,
    **more: Any,
) -> Delta:
    """(ok, bad) per variant, and notes."""

    def counts(ok: int, bad: int) -> tuple[int, ...]:
        return (ok + bad, ok, bad, *[0] * (len(FIELDS) - 3))

    found = {(revision, "", "canary"): counts(*canary), (revision, "", "stable"): counts(*stable)}
    return Delta(counts=found, notes=notes or [], **more)


def bad(unit: int, variant: int, revision: int = 4, flags: int = NOTE_BAD) -> tuple[int, int, int, int, int]:
    return (flags, revision, 0, variant, unit)


def test_a_step_counts_what_was_drawn_and_nothing_before() -> None:
    found = judge()
    weights = {"3": {"": 0.0}, "4": {"": 0.1}}
    found.take(delta(stable=(500, 6), revision=3), weights)
    found.take(delta(stable=(90, 1), canary=(9, 1)), weights)
    assert (found.routed("stable"), found.routed("canary")) == (91, 10)
    told = found.evidence(0.1)
    assert told["shares"] == {"4|": 0.1}
    assert {place: counts[0] for place, counts in told["counts"].items() if counts[0]} == {
        "3||stable": 506, "4||stable": 91, "4||canary": 10,
    }  # fmt: skip


def test_a_unit_errs_once_per_rollout() -> None:
    one = judge()
    one.take(delta(canary=(0, 3), notes=[bad(7, CANARY)] * 3), WEIGHTS)
    one.take(delta(canary=(0, 1), notes=[bad(7, CANARY, 5)], revision=5), WEIGHTS)
    one.take(delta(stable=(0, 1), notes=[bad(8, STABLE)]), WEIGHTS)
    harm = one.rails["error_rate"].harm
    assert (harm.canary_events, harm.all_events) == (1, 2)
    assert one.rails["error_rate"].events == {"0.1": [1, 2]}


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_who_erred_while_nothing_was_drawn_is_evidence_later(share: float) -> None:
    rng, one, weights = random.Random(7), judge(sticky=True), {"3": {"": share}, "4": {"": 0.5}}
    units = [rng.getrandbits(63) for _ in range(500)]
    before = [bad(unit, int(share), 3, NOTE_BAD | NOTE_SEEN) for unit in units]
    one.take(delta(revision=3, notes=before), weights)
    rail = one.rails["error_rate"]
    assert (rail.bitmap.ones, rail.harm.all_events, rail.safety.canary_total) == (0, 0, 0)
    one.take(delta(canary=(0, 500), notes=[bad(unit, CANARY) for unit in units]), weights)
    assert rail.harm.canary_events == rail.harm.all_events > 490
    assert one.verdicts(0.5)["error_rate"].tripped


def test_units_seen_before_the_canary_had_a_share_are_none_of_the_step() -> None:
    one, weights = judge(sticky=True), {"3": {"": 0.0}, "4": {"": 0.5}}
    one.take(delta(stable=(1, 0), revision=3, notes=[(NOTE_SEEN, 3, 0, STABLE, 7)]), weights)
    assert (one.sampled.units, one.first_seen) == ({}, {})
    one.take(delta(canary=(1, 0), notes=[(NOTE_SEEN, 4, 0, CANARY, 7)]), weights)
    assert one.rails["error_rate"].safety.canary_total == 1


def test_latency_and_errors_are_apart() -> None:
    guardrails = [{"metric": "error_rate"}, {"metric": "latency", "quantile": 0.99}]
    one = judge(guardrails=guardrails)
    one.take(delta(notes=[bad(1, CANARY), bad(2, CANARY, flags=NOTE_SLOW)]), WEIGHTS)
    assert [rail.harm.all_events for rail in one.rails.values()] == [1, 1]
    one.take(delta(notes=[bad(1, CANARY, flags=NOTE_SLOW)]), WEIGHTS)
    assert [rail.harm.all_events for rail in one.rails.values()] == [1, 2]


WAITS = {"metric": "queue_wait", "quantile": 0.95}


def test_a_unit_that_waits_long_counts_once_and_for_nothing_else() -> None:
    guardrails = [{"metric": "error_rate"}, {"metric": "latency", "quantile": 0.99}]
    one = judge(guardrails=guardrails, signals=[WAITS])
    waited = [bad(1, CANARY, flags=NOTE_WAITED), bad(1, CANARY, flags=NOTE_WAITED), bad(2, STABLE, flags=NOTE_WAITED)]
    scored = [bad(unit, CANARY, flags=NOTE_SEEN | score_flags(score / 20)) for unit, score in enumerate(range(20), 9)]
    one.take(delta(canary=(3, 0), stable=(3, 0), notes=waited + scored), WEIGHTS)
    (sign,) = one.signs()
    assert (sign.harm.canary_events, sign.harm.all_events, sign.compared) == (1, 2, True)
    assert [rail.harm.all_events for rail in one.rails.values()] == [0, 0]


@pytest.mark.parametrize(("times", "held"), [(1.0, False), (5.0, True)])
def test_a_canary_whose_users_wait_longer_is_held(times: float, held: bool) -> None:
    rng = random.Random(5)
    one = judge(signals=[WAITS])
    for tick in range(100):
        notes = [
            bad(rng.getrandbits(63), variant, flags=NOTE_WAITED)
            for variant, requests, rate in ((CANARY, 10, 0.05 * times), (STABLE, 90, 0.05))
            # Both wait longer when there is more to do.
            for _ in range(sum(rng.random() < rate * (1 + (tick > 50)) for _ in range(requests)))
        ]
        one.take(delta(canary=(10, 0), stable=(90, 0), notes=notes), WEIGHTS)
    assert [*one.speaking()] == (["queue_wait-p95"] if held else [])
    assert not held or "units that waited long" in one.speaking()["queue_wait-p95"]
    assert not any(verdict.tripped for verdict in one.verdicts(0.1).values())


def test_what_cannot_be_weighed_is_no_evidence_and_is_counted() -> None:
    one = judge()
    one.take(delta(notes=[bad(1, CANARY, 99), (NOTE_BAD, 4, 3, CANARY, 2)], missed=5), WEIGHTS)
    assert one.rails["error_rate"].harm.all_events == 0
    assert (one.stale, one.missed) == (2, 5)


def test_a_note_means_the_variants_and_strata_of_its_revision() -> None:
    def of(names: tuple[str, ...], since: int, state: Any = None) -> Judge:
        return Judge("rollout", analysis(), sticky=False, variants=names, stable="stable", canary="canary", since=since,
                     state=state)  # fmt: skip

    weights = {"4": {"": 0.1, "gone": 0.0, "vip": 0.5}, "5": {"": 0.1, "vip": 0.5}}
    before = of(("stable", "canary"), 4)
    before.take(delta(), weights)
    one = of(("canary", "stable"), 5, json.loads(json.dumps(before.state())))
    one = of(("canary", "stable"), 6, json.loads(json.dumps(one.state())))  # another leader, a step later
    one.take(delta(notes=[(NOTE_BAD, 4, 2, 1, 1), (NOTE_BAD, 5, 1, 0, 2), (NOTE_BAD, 4, 0, 0, 3)]), weights)
    assert one.rails["error_rate"].events == {"0.5": [2, 2], "0.1": [0, 1]}
    one.take(delta(notes=[(NOTE_BAD, 5, 2, 0, 4)]), weights)
    assert one.stale == 1


def test_harm_trips_and_stays_so() -> None:
    one = judge()
    notes = [bad(unit << 3, CANARY) for unit in range(30)]
    one.take(delta(canary=(70, 30), stable=(900, 0), notes=notes), WEIGHTS)
    assert one.verdicts(0.1)["error_rate"].tripped
    again = judge(json.loads(json.dumps(one.state())))
    again.take(delta(stable=(0, 500), notes=[bad((unit << 3) + 1, STABLE) for unit in range(500)]), WEIGHTS)
    assert again.verdicts(0.1)["error_rate"].tripped


def test_a_shared_incident_is_nobodys_fault() -> None:
    rng = random.Random(3)
    one = judge()
    for tick in range(100):
        rate = 0.002 if tick < 50 else 0.05
        canary = sum(rng.random() < rate for _ in range(100))
        stable = sum(rng.random() < rate for _ in range(900))
        units = iter(range(tick * 10_000, tick * 10_000 + 2_000))
        notes = [bad(next(units) * 5, CANARY) for _ in range(canary)] + [
            bad(next(units) * 5, STABLE) for _ in range(stable)
        ]
        one.take(delta(canary=(100 - canary, canary), stable=(900 - stable, stable), notes=notes), WEIGHTS)
    verdict = one.verdicts(0.1)["error_rate"]
    assert not verdict.tripped
    assert verdict.detectable_ratio is not None
    assert verdict.detectable_ratio < 3


@pytest.mark.parametrize("sticky", [False, True])
def test_zero_errors_pass_after_some_870_canary_units(sticky: bool) -> None:
    one = judge(sticky=sticky)
    passed_at = 0
    for unit in range(1, 2_000):
        note = (NOTE_SEEN, 4, 0, CANARY, unit * 2_654_435_761 % 2**63)
        one.take(delta(canary=(1, 0), stable=(9, 0), notes=[note]), WEIGHTS)
        if one.verdicts(0.1)["error_rate"].passes:
            passed_at = unit
            break
    assert 850 <= passed_at <= 880
    assert one.verdicts(0.1)["error_rate"].detectable_ratio == 1.0


def test_sticky_users_that_come_again_are_no_new_evidence() -> None:
    one = judge(sticky=True)
    notes = [(NOTE_SEEN, 4, 0, CANARY, unit * 2_654_435_761) for unit in range(100)] * 100
    for at in range(0, len(notes), 1000):
        one.take(delta(canary=(1000, 0), stable=(9000, 0), notes=notes[at : at + 1000]), WEIGHTS)
    assert not one.verdicts(0.1)["error_rate"].passes
    assert one.rails["error_rate"].safety.canary_total == 100
    assert one.units("canary") == 100


def test_a_unit_in_the_place_of_another_one_is_neither_counted_nor_has_it_erred() -> None:
    one = judge(sticky=True)
    twins = (0x0000000100012345, 0x0000000200012345)  # one place of 2^20
    one.take(delta(stable=(1, 0), notes=[(NOTE_SEEN, 4, 0, STABLE, twins[0])]), WEIGHTS)
    again = judge(json.loads(json.dumps(one.state())), sticky=True)
    again.take(delta(canary=(0, 1), notes=[(NOTE_SEEN | NOTE_BAD, 4, 0, CANARY, twins[1])]), WEIGHTS)
    safety = again.rails["error_rate"].safety
    assert (safety.canary_bad, safety.canary_total) == (0, 0)
    assert again.rails["error_rate"].harm.canary_events == 1


def test_a_unit_that_leaves_the_list_and_comes_back_errs_once() -> None:
    rng, one, doublings = random.Random(3), judge(sticky=True), set()
    units = [rng.getrandbits(63) for _ in range(MOST_NOTES)]
    for share in (1, 0.1, 1, 0.1, 0.1, 1, 0.1):
        notes = [(NOTE_SEEN | NOTE_BAD, 4, 0, CANARY, unit) for unit in units if rng.random() < share]
        notes += [(NOTE_SEEN, 4, 0, STABLE, rng.getrandbits(63)) for _ in range(300)]
        here = [in_sample(note[4], one.sampled.doublings) for note in notes]
        told = [(note[0] & ~(0 if seen else NOTE_SEEN), *note[1:]) for note, seen in zip(notes, here, strict=True)]
        one.take(delta(canary=(0, len(notes) - 300), stable=(300, 0), notes=told), WEIGHTS)
        safety = one.rails["error_rate"].safety
        assert safety.canary_bad == safety.canary_total <= len(units), "all that were counted have erred, once"
        doublings.add(one.sampled.doublings)
    assert doublings == {0, 1}, "it was thinned and widened on the way"


def test_a_stored_state_with_more_errors_than_units_speaks_against_promotion() -> None:
    one = judge(sticky=True)
    one.take(delta(canary=(1, 0), notes=[(NOTE_SEEN, 4, 0, CANARY, 7)]), WEIGHTS)
    state = one.state()
    state["rails"]["error_rate"]["safety"]["canary_bad"] = 9
    again = judge(json.loads(json.dumps(state)), sticky=True)
    again.take(delta(canary=(1, 0), notes=[(NOTE_SEEN, 4, 0, CANARY, 8)]), WEIGHTS)
    safety = again.rails["error_rate"].safety
    assert (safety.canary_bad, safety.canary_total) == (9, 10)
    assert safety.absolute_log_e < 0


def test_requests_lost_with_a_worker_are_failures_of_their_variant() -> None:
    one = judge()
    one.take(delta(lost={(4, "", "canary"): 4, (4, "", "stable"): 1}), WEIGHTS)
    harm = one.rails["error_rate"].harm
    assert (harm.canary_events, harm.all_events) == (4, 5)


def test_a_step_asks_for_its_own_data_and_harm_for_all() -> None:
    one = judge()
    one.begin_step(1)
    one.take(delta(canary=(99, 1), stable=(899, 1), notes=[bad(1, CANARY), bad(2, STABLE)]), WEIGHTS)
    one.begin_step(2)
    assert (one.requests("canary"), one.rails["error_rate"].safety.canary_total) == (0, 0)
    assert one.rails["error_rate"].harm.all_events == 2
    assert one.verdicts(0.1)["error_rate"].insufficient


def test_what_is_heard_late_of_the_step_before_is_not_of_this_one() -> None:
    """It is evidence with its own weight; the step has what was routed since it began."""
    one = judge()
    one.begin_step(1, 4)
    late = [(NOTE_SEEN | NOTE_BAD, 4, 0, CANARY, 1), (NOTE_SEEN, 4, 0, STABLE, 2)]
    one.begin_step(2, 5)
    one.take(delta(canary=(99, 1), stable=(899, 1), notes=late, revision=4), WEIGHTS)
    assert (one.requests("canary"), one.routed("stable"), one.units("canary"), one.units("stable")) == (0, 0, 0, 0)
    assert one.rails["error_rate"].harm.all_events == 1
    again = judge(state=one.state())
    now = [(NOTE_SEEN, 5, 0, CANARY, 1), (NOTE_SEEN, 5, 0, STABLE, 2)]
    again.take(delta(canary=(1, 0), stable=(1, 0), notes=now, revision=5), WEIGHTS)
    assert (again.requests("canary"), again.requests("stable")) == (1, 1)
    assert (again.units("canary"), again.units("stable")) == (1, 1)


def test_what_happened_before_a_step_counts_against_what_it_can_see_and_what_happens_in_it_does_not() -> None:
    """A late fault is found by a late start, which weighs less than the first."""
    rng, found = random.Random(11), []
    for before in (0, 2_000):
        one = judge()
        for _ in range(before // 20):
            notes = [bad(rng.getrandbits(63), int(rng.random() < 0.1)) for _ in range(20)]
            one.take(delta(canary=(98, 2), stable=(882, 18), notes=notes), WEIGHTS)
        one.begin_step(1)
        begun = one.rails["error_rate"].begun
        for _ in range(10):
            notes = [bad(rng.getrandbits(63), STABLE) for _ in range(9)] + [bad(rng.getrandbits(63), CANARY)]
            one.take(delta(canary=(99, 1), stable=(891, 9), notes=notes), WEIGHTS)
        one = judge(json.loads(json.dumps(one.state())))
        assert one.rails["error_rate"].begun == begun
        found.append(one.verdicts(0.1)["error_rate"].detectable_ratio)
    assert found[0] is not None
    assert found[1] is not None
    assert 1.2 * found[0] < found[1]


def test_a_canary_that_errs_does_not_make_its_own_fault_look_easy_to_find() -> None:
    found = []
    for canary_bad in (10, 30):
        one = judge()
        notes = [bad(8 * unit + 5, STABLE) for unit in range(10)] + [
            bad(8 * unit, CANARY) for unit in range(canary_bad)
        ]
        weights = {"4": {"": 0.5}}
        one.take(delta(canary=(1000 - canary_bad, canary_bad), stable=(990, 10), notes=notes), weights)
        found.append(one.rails["error_rate"].detectable(1000, 1000, 0.5, 0.01, 1))
    assert found[0] == found[1]


def test_a_canary_that_fails_in_the_shadow_does_not_agree() -> None:
    """What was copied had been answered; what was dropped says nothing."""
    failing = judge(guardrails=[{"metric": "shadow_disagreement", "max": 0.02}])
    counts = [0] * len(SHADOW_FIELDS)
    counts[COMPARED], counts[FAILED], counts[DROPPED] = 316, 316, 5_000
    failing.take(Delta(shadow={(4, "canary"): tuple(counts)}), WEIGHTS)
    verdict = failing.verdicts(0.1)["shadow_disagreement"]
    assert (verdict.tripped, verdict.passes, failing.compared()) == (True, False, 632)
    assert verdict.text.startswith("316 of 632 answers differ (316 failed), surely ")


def test_disagreement_in_the_shadow() -> None:
    def shadow(compared: int, disagreed: int) -> Delta:
        counts = [0] * len(SHADOW_FIELDS)
        counts[COMPARED], counts[DISAGREED] = compared, disagreed
        return Delta(shadow={(4, "canary"): tuple(counts)})

    rails = [{"metric": "shadow_disagreement", "max": 0.02}]
    good, wrong, few = (judge(guardrails=rails) for _ in range(3))
    good.take(shadow(2_000, 4), WEIGHTS)
    wrong.take(shadow(2_000, 100), WEIGHTS)
    few.take(shadow(20, 0), WEIGHTS)
    verdicts = [one.verdicts(0.1)["shadow_disagreement"] for one in (good, wrong, few)]
    assert [(one.tripped, one.passes) for one in verdicts] == [(False, True), (True, False), (False, False)]
    assert judge(guardrails=rails).verdicts(0.1)["shadow_disagreement"].insufficient


def test_a_state_goes_on_to_the_bit() -> None:
    rng = random.Random(1)
    straight, restarted = judge(sticky=True), judge(sticky=True)
    for tick in range(60):
        notes = [
            (NOTE_SEEN | (NOTE_BAD if rng.random() < 0.1 else 0), 4, 0, int(rng.random() < 0.1), rng.randrange(2**63))
            for _ in range(20)
        ]
        one = delta(canary=(2, 0), stable=(18, 0), notes=notes)
        for each in (straight, restarted):
            each.begin_step(1 + tick // 30)
            each.take(one, WEIGHTS)
            each.verdicts(0.1)
        restarted = judge(json.loads(json.dumps(restarted.state())), sticky=True)
    assert straight.state() == restarted.state()


def test_another_rollout_takes_nothing_over() -> None:
    one = judge()
    one.take(delta(notes=[bad(1, CANARY)]), WEIGHTS)
    state = one.state() | {"identity": "another"}
    assert judge(state).rails["error_rate"].harm.all_events == 0


def test_the_list_of_units_is_bounded() -> None:
    rng = random.Random(2)
    sampled = Sampled()
    for _ in range(3 * MOST_LISTED):
        unit = rng.randrange(2**63)
        if not unit >> 20 & ((1 << sampled.doublings) - 1):
            sampled.see(unit, False, NOTE_SEEN)
    assert len(sampled.units) <= MOST_LISTED
    estimate = len(sampled.units) << sampled.doublings
    assert 0.9 < estimate / (3 * MOST_LISTED) < 1.1
    assert Sampled(json.loads(json.dumps(sampled.state()))).units == sampled.units
    assert len(json.dumps(sampled.state())) < 300_000


def test_a_flood_of_notes_thins_the_sample() -> None:
    one = judge(sticky=True)
    one.take(delta(notes=[(NOTE_SEEN, 4, 0, STABLE, unit) for unit in range(MOST_NOTES + 1)]), WEIGHTS)
    assert one.sampled.doublings == 1


def test_a_half_full_bitmap_says_so() -> None:
    bitmap = Bitmap()
    assert bitmap.add(5)
    assert not bitmap.add(5)
    for index in range(0, 1 << 20, 2):
        bitmap.add(index)
    assert bitmap.saturated
    assert Bitmap(bitmap.state()).ones == bitmap.ones
    assert Bitmap(bitmap.state()).digest == bitmap.digest
