"""Event-share e-processes: algebra, Ville's bound counted out, state, what they must find and what they must not."""

import itertools
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.evidence.eprocess import EventShare, ScoreBins, log_threshold
from router.evidence.promotion import Margin, NonInferiority, below_log_e
from router.evidence.sequences import Moments

WEIGHTS = st.sampled_from([0.0001, 0.01, 0.1, 0.5, 0.9999])
BATCHES = st.lists(
    st.tuples(WEIGHTS, st.integers(0, 40), st.integers(0, 40)).map(lambda b: (b[0], min(b[1:]), max(b[1:]))),
    max_size=40,
)


def fed(process: EventShare, batches: list[tuple[float, int, int]]) -> EventShare:
    for batch in batches:
        process.add(*batch)
    return process


def test_one_event_by_hand() -> None:
    process = EventShare(1.25, [2.5], 0)
    process.add(0.1, 1, 1)
    assert process.log_e == pytest.approx(math.log(2.5 / 1.25) - math.log(1.15) + math.log(1.025))
    # The same as the ratio of the canary's shares of the events.
    assert process.log_e == pytest.approx(math.log((0.25 / 1.15) / (0.125 / 1.025)))


def test_the_mixture_over_starts_by_hand() -> None:
    process = EventShare(1.0, [3.0], 2)
    hit, miss = 3.0 / 2.0, 1.0 / 2.0  # shares 3/4 and 1/4 against 1/2
    expected = [
        (1, 0.5 * hit + 0.5),
        (0, 0.5 * hit * miss + 1 / 6 + 1 / 3),  # the second start begins here, with weight 1/6
        (1, 0.5 * hit * miss * hit + 1 / 6 * hit + 1 / 3),
        (1, 0.5 * hit * miss * hit**2 + 1 / 6 * hit**2 + 1 / 12 + 1 / 4),
    ]
    for canary, e in expected:
        assert process.add(0.5, canary, 1) == pytest.approx(math.log(e))
    assert process.starts == 3


def test_a_large_batch_begins_one_start() -> None:
    assert fed(EventShare(), [(0.5, 100, 200), (0.5, 0, 49)]).starts == 2
    assert fed(EventShare(), [(0.5, 100, 200), (0.5, 0, 50)]).starts == 3


@given(BATCHES, st.sampled_from([0, 50]))
def test_batches_add_up(batches: list[tuple[float, int, int]], events_per_start: int) -> None:
    one_by_one = EventShare(1.25, (), events_per_start)
    for weight, canary, every in batches:
        for i in range(every):
            one_by_one.add(weight, int(i < canary), 1)
    whole = fed(EventShare(1.25, (), events_per_start), batches)
    assert whole.log_likelihoods == pytest.approx(one_by_one.log_likelihoods, rel=1e-9, abs=1e-9)
    assert (whole.canary_events, whole.all_events) == (one_by_one.canary_events, one_by_one.all_events)


@given(BATCHES, st.integers(0, 40), st.sampled_from([0, 7, 50]))
def test_a_restart_goes_on_to_the_bit(batches: list[tuple[float, int, int]], cut: int, per_start: int) -> None:
    through = fed(EventShare(1.25, (), per_start), batches)
    before = fed(EventShare(1.25, (), per_start), batches[:cut])
    after = fed(EventShare.from_state(json.loads(json.dumps(before.state()))), batches[cut:])
    assert after.state() == through.state()


@given(WEIGHTS, st.integers(0, 50), st.integers(0, 50))
def test_more_canary_events_mean_more_evidence_of_harm_and_less_of_safety(weight: float, a: int, b: int) -> None:
    few, many, every = min(a, b), max(a, b), 50
    assert EventShare(1.25).add(weight, few, every) <= EventShare(1.25).add(weight, many, every) + 1e-12
    safe = NonInferiority(Margin(1.25, None)), NonInferiority(Margin(1.25, None))
    assert safe[0].add(weight, few, every, 100) >= safe[1].add(weight, many, every, 100) - 1e-12


@pytest.mark.parametrize("weight", [0.05, 0.5, 0.8])
@pytest.mark.parametrize("ratios", [(1.5, 3.0, 10.0), (0.2, 0.6)])
def test_ville_counted_out_over_all_histories(weight: float, ratios: tuple[float, ...]) -> None:
    """All 2^12 histories at the null's edge: the mean of E is 1, and E reaches 1/alpha with at most alpha."""
    null, length = 1.2 if ratios[0] > 1 else 0.8, 12
    share = null * weight / (null * weight + 1 - weight)
    mean, reached = 0.0, dict.fromkeys((0.05, 0.2, 0.5, 0.9), 0.0)
    for history in itertools.product((0, 1), repeat=length):
        process = EventShare(null, ratios, 4)
        for canary in history:
            process.add(weight, canary, 1)
        chance = math.prod(share if canary else 1 - share for canary in history)
        mean += chance * math.exp(process.log_e)
        for alpha in reached:
            reached[alpha] += chance * process.crossed(alpha)
    assert mean == pytest.approx(1.0)
    assert all(chance <= alpha for alpha, chance in reached.items())
    assert reached[0.9] > 0  # the bound is approached, not avoided by never speaking


def test_ville_with_a_weight_that_follows_the_evidence() -> None:
    """The next weight is chosen from what was seen, as a controller does: still no more than alpha."""
    total = reached = 0.0
    for history in itertools.product((0, 1), repeat=12):
        process, chance = EventShare(1.0, (2.0, 5.0), 3), 1.0
        for canary in history:
            weight = 0.5 if process.log_e > 0 else 0.1
            chance *= weight if canary else 1 - weight
            process.add(weight, canary, 1)
        total += chance
        reached += chance * process.crossed(0.2)
    assert total == pytest.approx(1.0)
    assert 0 < reached <= 0.2


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_without_randomisation_there_is_no_evidence(weight: float) -> None:
    process = fed(EventShare(), [(0.1, 3, 20)])
    before = process.state()
    process.add(weight, int(weight) * 10**6, 10**6)
    assert process.state() == before
    promotion = NonInferiority()
    assert promotion.add(weight, 0, 0, 10**6) == 0.0


def test_everything_stays_finite() -> None:
    for counts in [(0, 0), (0, 10**15), (10**15, 10**15), (10**14, 10**15)]:
        for weight in (1e-4, 0.1, 1 - 1e-9):
            process = fed(EventShare(1.25), [(weight, *counts)] * 3)
            assert json.dumps(process.state(), allow_nan=False)
            assert 0.0 <= process.min_p <= 1.0
    promotion = NonInferiority()
    assert math.isfinite(promotion.add(0.1, 10**12, 10**13, 10**15))


def test_once_crossed_always_crossed() -> None:
    process = fed(EventShare(1.0), [(0.1, 30, 40)])
    assert process.crossed(0.01, 3)
    smallest = process.min_p
    fed(process, [(0.1, 0, 10_000)])
    assert process.log_e < log_threshold(0.01, 3)
    assert process.crossed(0.01, 3)
    assert process.min_p == smallest


def test_a_shared_incident_is_not_the_canarys_fault() -> None:
    process = fed(EventShare(1.25), [(0.1, 10, 100), (0.1, 1_000, 10_000), (0.5, 5_000, 10_000)])
    assert not process.crossed(0.5)


@pytest.mark.parametrize(
    ("canary", "stable", "slow_above", "intervals"),
    [([100] * 7 + [1] * 3, [1] * 10, 1, 2), ([0, 1, 2, 1, 0, 0], [0] * 6, 0, 3)],
)
def test_what_the_judge_of_kayenta_passes_is_caught_when_it_goes_on(
    canary: list[int], stable: list[int], slow_above: int, intervals: int
) -> None:
    """Slow or failed per interval, split in halves. Source: spinnaker#6278 (comment) and kayenta#426, Apache-2.0."""
    process = EventShare(1.25)
    for _ in range(intervals):
        of_canary = sum(value if not slow_above else value > slow_above for value in canary)
        process.add(0.5, of_canary, of_canary + sum(value > slow_above for value in stable))
    assert process.crossed(0.01)


def test_alpha_is_shared_equally() -> None:
    assert log_threshold(0.01, 4) == pytest.approx(math.log(400))


def test_zero_errors_promote_after_about_870_canary_requests() -> None:
    promotion = NonInferiority()
    for _ in range(863):
        promotion.add(0.1, 0, 0, 1)
    assert not promotion.crossed(0.05)
    promotion.add(0.1, 0, 0, 1)
    assert promotion.crossed(0.05)


def test_the_absolute_margin_by_counting_all_histories() -> None:
    """At the null's edge the mean of the e-value is 1."""
    trials, limit = 30, 0.05
    mean = sum(
        math.comb(trials, bad) * limit**bad * (1 - limit) ** (trials - bad) * math.exp(below_log_e(bad, trials, limit))
        for bad in range(trials + 1)
    )
    assert mean == pytest.approx(1.0)


def test_a_canary_as_good_as_stable_is_shown_to_be_within_the_ratio() -> None:
    promotion = NonInferiority(Margin(1.25, None))
    promotion.add(0.5, 1_000, 2_000, 100_000)
    assert promotion.crossed(0.05)
    assert promotion.state()["absolute_log_e"] == 0.0
    worse = NonInferiority(Margin(1.25, None))
    worse.add(0.5, 1_112, 2_000, 100_000)  # 1.25 times stable's
    assert not worse.crossed(0.5)


def test_promotion_survives_a_restart() -> None:
    promotion = NonInferiority()
    promotion.add(0.1, 1, 9, 700)
    again = NonInferiority.from_state(json.loads(json.dumps(promotion.state())))
    assert again.add(0.1, 0, 2, 90) == promotion.add(0.1, 0, 2, 90)
    assert again.state() == promotion.state()
    only_ratio = NonInferiority(Margin(1.5, None), sticky=True)
    assert NonInferiority.from_state(only_ratio.state()).state() == only_ratio.state()


def test_with_sticky_units_the_ratio_comes_from_their_rates() -> None:
    promotion = NonInferiority(Margin(1.25, None), sticky=True)
    promotion.add(0.5, 10, 1_000, 0)
    assert promotion.log_e == 0.0
    stable = Moments(5_000, 0.04, 0.03)
    assert promotion.units(Moments(5_000, 0.02, 0.015), stable) > log_threshold(0.05)
    promotion.units(Moments(5_000, 0.2, 0.1), stable)
    assert promotion.log_e < 0
    assert promotion.crossed(0.05)


def test_a_shift_of_the_canarys_scores_is_seen_in_either_direction() -> None:
    for canary in ([80, 20, 20], [8, 56, 56]):
        bins = ScoreBins(3)
        bins.add(0.1, canary, [400, 400, 400])
        assert bins.crossed(0.01)


def test_a_shift_of_both_variants_scores_is_not() -> None:
    bins = ScoreBins(3)
    bins.add(0.1, [40, 40, 40], [400, 400, 400])
    bins.add(0.1, [4, 36, 80], [40, 360, 800])
    assert not bins.crossed(0.5)
    again = ScoreBins.from_state(json.loads(json.dumps(bins.state())))
    assert again.add(0.2, [9, 0, 4], [10, 3, 4]) == bins.add(0.2, [9, 0, 4], [10, 3, 4])
    assert again.state() == bins.state()
    assert again.min_p == bins.min_p


@pytest.mark.parametrize("counts", [(0.1, 2, 1), (0.1, -1, 1), (1.1, 0, 1), (-0.1, 0, 1), (math.nan, 0, 1)])
def test_impossible_batches_are_refused_and_change_nothing(counts: tuple[float, int, int]) -> None:
    process = EventShare()
    with pytest.raises(ValueError, match="expected 0"):
        process.add(*counts)
    assert process.state() == EventShare().state()


@pytest.mark.parametrize(
    "make",
    [
        lambda: EventShare(0.0),
        lambda: EventShare(math.inf),
        lambda: EventShare(1.0, [0.5, 2.0]),
        lambda: EventShare(1.0, [1.0]),
        lambda: EventShare(1.0, [math.nan]),
        lambda: EventShare(1.0, (), -1),
        lambda: ScoreBins(1),
        lambda: ScoreBins(10, 0.5),
        lambda: ScoreBins(2).add(0.1, [1], [1]),
        lambda: NonInferiority(Margin(1.25, 1.5)),
        lambda: NonInferiority().add(0.1, 2, 2, 1),
        lambda: log_threshold(0.0),
        lambda: log_threshold(0.01, 0),
        lambda: below_log_e(2, 1, 0.1),
        lambda: ScoreBins.from_state({"up": [], "down": [1]}),
        lambda: ScoreBins.from_state({**ScoreBins(2).state(), "down": []}),
        lambda: ScoreBins.from_state({**ScoreBins(2).state(), "up": [1, 2]}),
        lambda: NonInferiority.from_state({}),
        lambda: NonInferiority.from_state({**NonInferiority().state(), "ratio": None}),
    ],
)
def test_what_makes_no_sense_is_refused(make: Any) -> None:
    with pytest.raises(ValueError, match="expected"):
        make()


@pytest.mark.parametrize(
    "change",
    [
        {"log_e": math.nan},
        {"log_e": "0"},
        {"starts": 0},
        {"all_events": -1},
        {"all_events": True},
        {"canary_events": 5},
        {"log_likelihoods": [0.0]},
        {"ratios": []},
        {"more": 1},
    ],
)
def test_a_damaged_state_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        EventShare.from_state({**EventShare().state(), **change})
