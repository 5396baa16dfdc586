"""The guardrail on outputs: units by the bin of their score, once each, with the weight in force."""

import json
import random
from typing import Any

import pytest

from gateway.control.intake import Delta
from gateway.control.judge import Judge
from gateway.control.replay import replay
from gateway.tally import FIELDS, NOTE_SCORES, NOTE_SEEN, score_flags, score_of
from router.document import PolicyError
from router.rollout_document import Analysis, Guardrail
from tests.audit.test_replay import linked, told
from tests.control.test_judge import CANARY, STABLE, WEIGHTS, analysis, judge

SHIFT = {"metric": "output_shift"}
ANALYSIS = Analysis(guardrails=(Guardrail(metric="output_shift"),))


def watched(state: Any = None, *, sticky: bool = True) -> Judge:
    return judge(state, sticky=sticky, guardrails=[SHIFT])


def answered(unit: int, variant: int, score: float, revision: int = 4) -> tuple[int, int, int, int, int]:
    return (NOTE_SEEN | score_flags(score), revision, 0, variant, unit)


def tick(rng: random.Random, one: Judge, canary: float, *, units: int = 100, revision: int = 5) -> None:
    """Traffic of so many new units; `canary` is added to its scores."""
    weight = WEIGHTS[str(revision)][""]
    notes = []
    for _ in range(units):
        variant = int(rng.random() < weight)
        score = rng.betavariate(6, 3) + canary * variant
        notes.append(answered(rng.getrandbits(62), variant, min(max(score, 0.0), 1.0), revision))
    ones = [sum(note[3] == arm for note in notes) for arm in (STABLE, CANARY)]
    counts = {
        (revision, "", name): (count, count, *[0] * (len(FIELDS) - 2))
        for name, count in zip(("stable", "canary"), ones, strict=True)
    }
    one.take(Delta(counts=counts, notes=notes), WEIGHTS)


@pytest.mark.parametrize(("score", "place"), [(0.0, 0), (0.0624, 0), (0.0626, 1), (0.999, 15), (1.0, 15)])
def test_a_note_tells_the_bin_of_its_score(score: float, place: int) -> None:
    flags = score_flags(score)
    assert score_of(NOTE_SEEN | flags) == place
    assert not flags & 0b111, "the lower flags keep their meaning"
    assert flags < 256, "a note has one byte for them"


def test_without_a_score_nothing_is_said() -> None:
    one = watched()
    assert score_of(NOTE_SEEN) is None
    one.take(Delta(notes=[(NOTE_SEEN, 5, 0, CANARY, 7)]), WEIGHTS)
    verdict = one.verdicts(0.5)["output_shift"]
    assert (verdict.insufficient, verdict.tripped, verdict.passes) == (True, False, False)
    assert "no scores yet" in verdict.text


def test_a_shift_trips_and_stays_so() -> None:
    rng, one = random.Random(1), watched()
    for _ in range(30):
        tick(rng, one, -0.15)
    assert one.verdicts(0.5)["output_shift"].tripped
    again = watched(json.loads(json.dumps(one.state())))
    for _ in range(30):
        tick(rng, again, 0.0)
    assert again.verdicts(0.5)["output_shift"].tripped


def test_equal_outputs_pass_when_a_shift_would_have_been_found() -> None:
    rng, one = random.Random(2), watched()
    tick(rng, one, 0.0)
    early = one.verdicts(0.5)["output_shift"]
    assert not (early.passes)
    assert not (early.tripped)
    assert not (early.insufficient)
    for _ in range(60):
        tick(rng, one, 0.0)
    late = one.verdicts(0.5)["output_shift"]
    assert late.passes
    assert not late.tripped
    assert late.detectable_ratio is not None
    assert late.detectable_ratio <= 3.0


def test_false_alarms_keep_the_budget() -> None:
    """Looked at after every tick, with equal outputs and a weight that changes: at most alpha of them ever trip."""
    alpha, runs = 0.05, 200
    tripped = 0
    for seed in range(runs):
        rng, one = random.Random(seed), judge(sticky=True, guardrails=[SHIFT], alpha=alpha)
        for number in range(12):
            tick(rng, one, 0.0, units=150, revision=4 if number < 5 else 5)
            tripped += one.verdicts(0.5)["output_shift"].tripped and number == 11
    assert tripped <= alpha * runs + 3 * (runs * alpha * (1 - alpha)) ** 0.5


def test_a_unit_counts_once_in_all_steps_of_a_rollout() -> None:
    one = watched()
    one.take(Delta(notes=[answered(7, CANARY, 0.9)] * 3), WEIGHTS)
    one.begin_step(2)
    one.take(Delta(notes=[answered(7, CANARY, 0.2, 5), answered(8, STABLE, 0.2, 5)]), WEIGHTS)
    events = one.shifts["output_shift"].events
    assert {weight: sum(cells[1]) for weight, cells in events.items()} == {"0.1": 1, "0.5": 1}


def test_what_was_not_randomised_is_no_evidence() -> None:
    one = watched()
    one.take(Delta(notes=[answered(7, CANARY, 0.9), answered(8, CANARY, 0.9, 5)]), {"4": {"": 1.0}, "5": {}})
    assert one.shifts["output_shift"].events == {}
    one.take(Delta(notes=[answered(7, CANARY, 0.9)]), WEIGHTS)
    assert sum(one.shifts["output_shift"].events["0.1"][0]) == 1, "its first randomised answer counts"


def test_a_state_goes_on_to_the_bit() -> None:
    rng, one = random.Random(3), watched()
    for _ in range(5):
        tick(rng, one, 0.05)
    again = watched(json.loads(json.dumps(one.state())))
    rng_state = rng.getstate()
    tick(rng, one, 0.05)
    rng.setstate(rng_state)
    tick(rng, again, 0.05)
    assert again.state() == one.state()


def decided() -> tuple[Judge, dict[str, Any]]:
    rng = random.Random(4)
    one = Judge("id", ANALYSIS, sticky=True, variants=("stable", "canary"), stable="stable", canary="canary")
    for _ in range(30):
        tick(rng, one, -0.2)
        one.verdicts(0.3)
    return one, told(one, "abort", "auto:guardrail:output_shift")


def test_a_record_gives_the_same_verdict_again() -> None:
    one, record = decided()
    assert one.verdicts(0.3)["output_shift"].tripped
    found = replay(linked(record), None)
    assert found.same, found.text
    assert found.partly, "the starts are not in the record"


@pytest.mark.parametrize("column", [0, 1])
@pytest.mark.parametrize("place", [NOTE_SCORES // 2, NOTE_SCORES - 5])
def test_an_edited_count_is_found(column: int, place: int) -> None:
    _, record = decided()
    evidence = json.loads(record["evidence"])
    (cells,) = evidence["shifts"]["output_shift"]["events"].values()
    cells[column][place] += 1
    found = replay(linked({**record, "evidence": json.dumps(evidence)}), None)
    assert not found.same
    assert f"bin {place}" in found.text


def test_it_is_a_guardrail_and_no_signal() -> None:
    with pytest.raises(
        PolicyError, match="is a guardrail; what the monitor says of outputs is the signal output_drift"
    ):
        analysis(signals=[SHIFT])
