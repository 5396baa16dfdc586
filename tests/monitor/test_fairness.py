"""Groups compared: against numbers by hand and of others, silent where nothing differs, and small groups not shown."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gateway.monitor import cbpe, families, isotonic
from gateway.monitor.fairness import (
    Fairness,
    FairnessWatch,
    exported,
    fairness,
    realised_fairness,
    two_proportions,
)
from gateway.monitor.plan import SCORE_BINS
from gateway.monitor.realised import LABEL_BINS, Cohort
from tests.monitor.performance_rows import counted_rows, sums_of_centres

IDENTITY = ((0.0, 0.0), (1.0, 1.0))
TWO = ("female", "male")


def decided(*groups: tuple[int, int]) -> Any:
    """Counts of groups from (decided 0, decided 1); and 1,000 rows of everybody else, all decided 1."""
    counts = np.zeros((len(groups) + 1, 2, SCORE_BINS), np.int64)
    for i, (no, yes) in enumerate((*groups, (0, 1_000))):
        counts[i, 0, 100], counts[i, 1, 900] = no, yes
    return counts


def test_four_fifths_by_hand() -> None:
    """Rates .48 and .60: exactly four fifths."""
    found = fairness(decided((52, 48), (40, 60)), TWO)
    female, male = found.groups
    assert found.highest == "male"
    assert (female.rate, male.rate) == (0.48, 0.60)
    assert female.disparate_impact == pytest.approx(0.8)
    assert female.parity_difference == pytest.approx(-0.12)
    assert (male.disparate_impact, male.parity_difference, male.p_rate) == (1.0, 0.0, 1.0)
    # scipy 1.17.1: chi2_contingency([[48, 52], [60, 40]], correction=False).pvalue
    assert female.p_rate == pytest.approx(0.08865923208274759, rel=1e-9)


def test_p_values_as_scipy() -> None:
    """scipy 1.17.1: chi2_contingency of the four counts, correction=False."""
    assert two_proportions(0.3, 1_000, 0.36, 500) == pytest.approx(0.018857243768495395, rel=1e-9)
    assert two_proportions(0.1, 5_000, 0.2, 5_000) == pytest.approx(1.498467814705195e-44, rel=1e-6)
    assert two_proportions(0.1, 40, 0.0, 1_000) == two_proportions(math.nan, 9, 0.5, 900) == 1.0


def test_more_groups_pay_for_the_choice_of_the_highest() -> None:
    two = fairness(decided((520, 480), (400, 600)), TWO).groups[0].p_rate
    three = fairness(decided((520, 480), (400, 600), (450, 550)), (*TWO, "other")).groups[0].p_rate
    assert three == pytest.approx(2 * two)


def test_small_groups_are_not_judged_and_cannot_be_the_highest() -> None:
    found = fairness(decided((500, 500), (400, 600), (1, 98)), (*TWO, "few"))
    assert found.highest == "male"
    few = found.groups[2]
    assert not few.compared
    assert few.p_rate == 1.0
    assert math.isnan(few.disparate_impact)
    alone = fairness(decided((500, 500), (1, 98)), TWO)
    assert alone.highest == ""
    assert not any(one.compared for one in alone.groups)
    assert FairnessWatch().close(alone, 0.01).state == "insufficient"


def test_what_leaves_the_house() -> None:
    found = fairness(decided((500, 500), (400, 600), (1, 28), (2, 28)), (*TWO, "few", "thirty"))
    female, _, few, thirty = json.loads(json.dumps(exported(found)))
    assert few == {"group": "few", "rows": "<30", "compared": False}
    assert thirty["rate"] == pytest.approx(28 / 30)
    assert thirty["disparate_impact"] is None
    assert female["rows"] == 1_000
    assert female["positives"] is female["tpr"] is female["p_fpr"] is None
    assert "NaN" not in json.dumps(exported(found))


def cohort_of(cells: list[list[list[int]]], labelled: float = 1.0) -> Cohort:
    """From rows [group][decision][label]; of group 0, decision 0 so many have labels."""
    cohort = Cohort.empty(len(cells) + 1)
    for group, rows in enumerate(cells):
        for decision in (0, 1):
            cohort.predicted[group, decision] = sum(rows[decision])
            share = labelled if (group, decision) == (0, 0) else 1.0
            for label in (0, 1):
                cohort.labels[group, decision, LABEL_BINS // 2, label] = round(rows[decision][label] * share)
    return cohort


def test_gaps_of_labels_and_their_coverage() -> None:
    rows = [[[400, 100], [100, 400]], [[450, 50], [50, 450]]]
    found = realised_fairness(cohort_of(rows), TWO, min_coverage=0.6)
    female = found.groups[0]
    assert (found.highest, found.gaps) == ("female", "realised")
    assert (female.tpr, female.fpr) == (0.8, 0.2)
    male = found.groups[1]
    assert (male.tpr_gap, male.fpr_gap) == pytest.approx((0.1, -0.1))
    assert male.p_tpr == pytest.approx(two_proportions(0.9, 500, 0.8, 500))
    # Labels that are missing evenly within a decision class change no rate; too few of them and there is none.
    part = realised_fairness(cohort_of(rows, 0.6), TWO, min_coverage=0.6).groups
    assert (part[0].tpr, part[0].fpr) == pytest.approx((0.8, 0.2))
    assert part[1].p_tpr > male.p_tpr
    none = realised_fairness(cohort_of(rows, 0.58), TWO, min_coverage=0.6).groups
    assert math.isnan(none[0].tpr)
    assert math.isnan(none[1].tpr_gap)
    assert none[1].tpr == 0.9
    assert none[1].disparate_impact == 1.0


def test_a_gap_is_expected_without_labels() -> None:
    """Two groups of other scores under one threshold, calibrated in each: expected gaps are those that come true."""
    rng = np.random.default_rng(8)
    counts, sums = np.zeros((3, 2, SCORE_BINS), np.int64), np.zeros((3, 2, SCORE_BINS), np.int64)
    labels = Cohort.empty(3)
    for group, (a, b) in enumerate(((1.5, 2.5), (2.5, 1.5))):
        scores = rng.beta(a, b, 40_000)
        counts[group], sums[group] = counted_rows(scores, IDENTITY)
        came = (rng.random(40_000) < scores).astype(int)
        np.add.at(labels.labels[group], ((scores >= 0.5).astype(int), (scores * LABEL_BINS).astype(int), came), 1)
    labels.predicted[:] = counts.sum(axis=2)
    likely = fairness(counts, TWO, sums=sums).groups[0]
    real = realised_fairness(labels, TWO, min_coverage=0.6).groups[0]
    assert likely.rate == real.rate
    assert likely.tpr_gap == pytest.approx(real.tpr_gap, abs=0.01)
    assert likely.fpr_gap == pytest.approx(real.fpr_gap, abs=0.01)
    assert likely.tpr_gap < -0.25
    one = cbpe.estimate(counts[0], sums[0], calibration=IDENTITY, outside=0.0)
    assert likely.tpr == pytest.approx(one.values["recall"])


def unfair(share: float) -> Fairness:
    return fairness(decided((1_000 - round(600 * share), round(600 * share)), (400, 600)), TWO)


def test_the_alarm_and_its_floor() -> None:
    watch = FairnessWatch()
    states = [watch.close(unfair(share), 0.01) for share in (1.0, 0.5, 1.0, 0.5, 0.5, 1.0, 1.0, 1.0)]
    assert [v.state for v in states] == ["ok", "pending", "ok", "firing", "firing", "firing", "resolved", "ok"]
    assert states[3].named == ("female: disparate_impact",)
    assert [v.fired for v in states] == [False] * 3 + [True] + [False] * 4
    # Significant, but within four fifths: no alarm. Exactly four fifths neither.
    for share in (0.85, 0.8):
        assert {watch.close(unfair(share), 0.01).state for _ in range(4)} == {"ok"}
    again = FairnessWatch.from_plain(json.loads(json.dumps(watch.plain())))
    for share in (0.5, 0.5, 1.0):
        assert again.close(unfair(share), 0.01) == watch.close(unfair(share), 0.01)


def test_only_gaps_that_came_true_alarm() -> None:
    rows = [[[400, 250], [100, 250]], [[450, 50], [50, 450]]]
    real = realised_fairness(cohort_of(rows), TWO, min_coverage=0.6)
    watch = FairnessWatch(disparate_impact=0.0)
    assert [watch.close(real, 0.01).state for _ in range(2)] == ["pending", "firing"]
    counts = decided((500, 500), (400, 600))
    sums = np.zeros_like(counts)
    sums[0, 0, 100], sums[0, 1, 900], sums[1, 1, 900] = 250 << 32, 250 << 32, 540 << 32
    likely = fairness(counts, TWO, sums=sums)
    assert likely.groups[0].tpr_gap == pytest.approx(-0.5)
    silent = FairnessWatch(disparate_impact=0.0)
    assert {silent.close(likely, 0.01).state for _ in range(4)} == {"ok"}


@pytest.mark.parametrize(("groups", "size"), [(2, 100), (2, 1_000), (5, 300)])
def test_a_a_windows_hit_no_more_often_than_alpha(groups: int, size: int) -> None:
    """Equal groups, no floors. 2,500 windows at alpha 2 %: hits within the binomial's upper 99.9 %."""
    rng = np.random.default_rng(groups * size)
    names = tuple(f"g{k}" for k in range(groups))
    watch, windows, alpha, hits, fired = FairnessWatch(1.0, 0.0), 2_500, 0.02, 0, 0
    for _ in range(windows):
        yes = rng.binomial(size, 0.3, groups)
        cells = [[[size - n, 0], [0, int(n)]] for n in yes.tolist()]
        window = realised_fairness(cohort_of(cells), names, min_coverage=0.0)
        verdict = watch.close(Fairness(window.groups, window.highest), alpha)
        hits += verdict.p_value <= alpha
        fired += verdict.fired
    assert hits <= windows * alpha + 3.1 * math.sqrt(windows * alpha)
    # 2 of 3 windows: the distance between alarms is what was asked for, or more.
    expected = windows * families.binomial_at_least(2, 3, alpha)
    assert fired <= expected + 3.1 * math.sqrt(expected)


def test_people_in_massachusetts_year_by_year() -> None:
    """A calibration of 2015 for all, and three years of both sexes: expected gaps and those that came true."""
    path = Path(__file__).parent / "data" / "employment_counts.json"
    years = {year: people_of(cells) for year, cells in json.loads(path.read_text())["years"].items()}
    by_bin = years["2015"].labels.sum(axis=(0, 1))
    known = np.flatnonzero(by_bin.sum(axis=1))
    rows = by_bin[known].sum(axis=1)
    points = isotonic.fit((known + 0.5) / LABEL_BINS, by_bin[known, 1] / rows, rows)
    for year, people in years.items():
        counts = np.zeros((3, 2, SCORE_BINS), np.int64)
        counts[:, :, 2::4] = people.labels.sum(axis=3)
        likely = fairness(counts, ("male", "female"), sums=sums_of_centres(counts, points)).groups[1]
        real = realised_fairness(people, ("male", "female"), min_coverage=0.6).groups[1]
        # Both sexes are selected alike, and yet unemployed women are taken for employed far more often than men.
        assert likely.disparate_impact > 0.98, year
        assert real.fpr_gap > 0.049
        assert real.p_fpr < 1e-20
        assert likely.fpr_gap == pytest.approx(real.fpr_gap, abs=0.008)
        assert likely.tpr_gap == pytest.approx(real.tpr_gap, abs=0.008)


def people_of(cells: list[list[int]]) -> Cohort:
    cohort = Cohort.empty(3)
    for sex, score_bin, *rows in cells:
        cohort.labels[sex, :, score_bin] = np.reshape(rows, (2, 2))
    cohort.predicted[:] = cohort.labels.sum(axis=(2, 3))
    return cohort
