"""Labels by cohort: any order and detour gives the same counts, and nothing is told that labels do not show."""

from collections.abc import Iterable
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.monitor import confusion
from gateway.monitor.realised import (
    DELAY_EDGES_S,
    KEEP,
    LABEL_BINS,
    MOST_VARIANTS,
    Cohort,
    Cohorts,
    ErrorRun,
    Labelled,
    performance,
    reference_performance,
)

HOUR = 3_600
NOW = 100 * HOUR


def at_work(**settings_: Any) -> Cohorts:
    cohorts = Cohorts(**{"groups": 2, **settings_})
    cohorts.advance(NOW)
    return cohorts


def kept(cohorts: Cohorts) -> Cohorts:
    """What a restart finds."""
    return Cohorts.from_plain(msgspec.msgpack.decode(msgspec.msgpack.encode(cohorts.plain())))


class Ledger:
    """As the ledger of feedback: the last value wins, the same again is a duplicate."""

    def __init__(self) -> None:
        self.rows: dict[int, int] = {}

    def put(self, prediction: int, label: int) -> Labelled:
        before = self.rows.get(prediction)
        self.rows[prediction] = label
        return item_of(prediction, label, before)


def item_of(prediction: int, label: int, before: int | None = None) -> Labelled:
    """Everything but the label follows from the prediction."""
    return Labelled(
        predicted_s=NOW - prediction * 977.0 % (5 * HOUR),
        observed_s=NOW + prediction,
        variant="ab"[prediction % 2],
        group=prediction // 2 % 2,
        decision=prediction // 4 % 2,
        bin=prediction * 31 % LABEL_BINS,
        label=label,
        before=before,
    )


def state_of(cohorts: Cohorts, parts: Iterable[str] = ("predicted", "labels", "errors", "delays")) -> Any:
    return [
        (start, name, [getattr(c, p).tolist() for p in parts]) for start, name, c in cohorts.items() if c.labels.any()
    ]


PUTS = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 1)), max_size=80)


@given(PUTS, st.randoms(use_true_random=False))
def test_any_order_duplicates_and_relabels_give_the_counts_of_the_last_labels(
    puts: list[tuple[int, int]], random: Any
) -> None:
    ledger = Ledger()
    items = [ledger.put(*put) for put in puts]
    straight, shuffled = at_work(), at_work()
    for item in items:
        straight.label(item)
    random.shuffle(items)
    for item in items:
        shuffled.label(item)
    once = at_work()
    for prediction, label in ledger.rows.items():
        once.label(item_of(prediction, label))
    assert state_of(straight) == state_of(shuffled) == state_of(once)
    assert (
        straight.plain() == Cohorts.from_plain(msgspec.msgpack.decode(msgspec.msgpack.encode(straight.plain()))).plain()
    )


@given(PUTS, st.integers(0, 80))
@settings(max_examples=50)
def test_a_restart_goes_on_to_the_bit(puts: list[tuple[int, int]], cut: int) -> None:
    ledger = Ledger()
    items = [ledger.put(*put) for put in puts]
    through, first = at_work(), at_work()
    for item in items:
        through.label(item)
    for item in items[:cut]:
        first.label(item)
    again = kept(first)
    for item in items[cut:]:
        again.label(item)
    assert sorted(map(str, again.plain()["cohorts"])) == sorted(map(str, through.plain()["cohorts"]))


def filled(labelled: tuple[int, int], right: tuple[float, float] = (0.9, 0.8), predicted: int = 1_000) -> Cohorts:
    """One cohort of 2 x `predicted` rows; per decision class so many labels, and the share of them that are right."""
    cohorts = at_work(groups=1)
    cohorts.predict(NOW - 10, "a", np.full((1, 2, 1), predicted))
    for decision in (0, 1):
        good = round(labelled[decision] * right[decision])
        for k in range(labelled[decision]):
            label = decision if k < good else 1 - decision
            cohorts.label(Labelled(NOW - 10, NOW, "a", 0, decision, 30 + 190 * decision, label))
    return cohorts


def test_each_decision_class_needs_its_coverage() -> None:
    (_, _, beyond), *_ = filled((1_010, 1_000)).items()
    assert beyond.coverage() == (1.0, 1.0)
    (_, _, cohort), *_ = filled((1_000, 599)).items()
    assert cohort.coverage() == (1.0, 0.599)
    found = performance(cohort)
    assert (found.state, found.reason, found.rows) == ("selective_labels", "low_coverage", 1_599)
    assert found.values == pytest.approx({"negative_precision": 0.9, "precision": 479 / 599})
    assert performance(filled((1_000, 600)).items()[0][2]).state == "ok"


def test_refused_loans_have_no_labels_so_only_precision_is_told() -> None:
    found = performance(filled((0, 1_000)).items()[0][2])
    assert (found.state, set(found.values)) == ("selective_labels", {"precision"})
    few = performance(filled((0, 29)).items()[0][2])
    assert (few.state, few.reason, few.values) == ("insufficient", "few_labels", {})


def test_a_class_weighs_what_it_weighs_among_predictions() -> None:
    whole = performance(filled((1_000, 1_000)).items()[0][2])
    part = performance(filled((600, 1_000)).items()[0][2])
    # Unweighed, recall would be 800 / 860: the missing labels are those of missed positives.
    assert part.values == pytest.approx(whole.values)
    assert whole.values["recall"] == pytest.approx(800 / 900)
    assert part.errors["recall"] > whole.errors["recall"]


def test_three_errors_cover_with_uneven_coverage() -> None:
    rng = np.random.default_rng(3)
    deviations = []
    for _ in range(600):
        cohorts = at_work(groups=1)
        cohorts.predict(NOW, "a", np.array([[1_200, 800]]))
        cohort = cohorts.items()[0][2]
        for decision, labels, good in ((0, 720, 0.9), (1, 800, 0.8)):
            right = rng.binomial(labels, good)
            cohort.labels[0, decision, 100, [1 - decision, decision]] = labels - right, right
        found = performance(cohort)
        truth = {"accuracy": 0.86, "recall": 640 / 760, "specificity": 1_080 / 1_240, "precision": 0.8}
        deviations.append([(found.values[name] - value) / found.errors[name] for name, value in truth.items()])
    # The counts of predictions are given here, so recall varies a little less than its error says; never more.
    spread = np.std(deviations, axis=0)
    assert (spread < 1.1).all(), spread
    assert (spread > 0.6).all(), spread


def test_predictions_that_went_missing_do_not_look_covered() -> None:
    cohorts = at_work(groups=1)
    for k in range(500):
        cohorts.label(Labelled(NOW, NOW, "a", 0, k % 2, 100, 1))
    found = performance(cohorts.items()[0][2])
    assert (found.state, found.reason) == ("selective_labels", "low_coverage")


def test_a_relabel_that_comes_before_its_label_is_not_published() -> None:
    cohorts = at_work(groups=1)
    cohorts.predict(NOW, "a", np.array([[0, 2]]))
    cohorts.label(Labelled(NOW, NOW, "a", 0, 1, 100, 1, before=0))
    cohort = cohorts.items()[0][2]
    assert performance(cohort, min_rows=0).reason == "unsettled"
    cohorts.label(Labelled(NOW, NOW, "a", 0, 1, 100, 0))
    assert performance(cohort, min_rows=0, min_coverage=0.5).state == "ok"


def test_a_cohort_is_judged_once_when_it_is_old_enough_and_covered() -> None:
    cohorts = filled((700, 100))
    rules = {"mature_after_s": HOUR}
    early = cohorts.due(NOW - 1 + HOUR, **rules)
    assert (early.judged, early.errors) == ([], [])
    due = cohorts.due(NOW + HOUR, **rules)
    assert [(run.decision, sum(run.wrong), sum(run.rows)) for run in due.errors] == [(0, 70, 700)]
    assert due.judged == []
    for k in range(600):
        cohorts.label(Labelled(NOW - 10, NOW, "a", 0, 1, 200, int(k % 5 > 0)))
    due = cohorts.due(NOW + HOUR, **rules)
    assert [run.decision for run in due.errors] == [1]
    assert [(one.start_s, one.performance.state, one.coverage) for one in due.judged] == [(99 * HOUR, "ok", (0.7, 0.7))]
    again = Cohorts.from_plain(cohorts.plain()).due(NOW + 2 * HOUR, **rules)
    assert (again.judged, again.errors) == ([], [])
    # A label that comes later still: shown, not judged anew.
    before = performance(cohorts.items()[0][2]).values["accuracy"]
    cohorts.label(Labelled(NOW - 10, NOW, "a", 0, 1, 200, 1))
    assert performance(cohorts.items()[0][2]).values["accuracy"] > before
    assert cohorts.due(NOW + 2 * HOUR, **rules).judged == []


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 1), st.integers(0, 6)), max_size=60))
def test_looking_at_what_changed_says_what_looking_at_everything_does(steps: list[tuple[int, int, int]]) -> None:
    cohorts, ledger = at_work(keep=8), Ledger()
    for prediction, label, hours in steps:
        item = ledger.put(prediction, label)
        cells = np.zeros((2, 2), np.int64)
        cells[item.group, item.decision] = 1  # type: ignore[index]
        cohorts.predict(item.predicted_s, item.variant, cells)
        cohorts.label(item)
        now_s = NOW + (hours - 3) * HOUR
        cohorts.advance(now_s)
        everything = Cohorts.from_plain(cohorts.plain())
        for rules in ({"min_coverage": 0.5}, {"min_coverage": 0.9})[: 1 + label]:
            asked = {"mature_after_s": 2 * HOUR, "min_rows": 2, **rules}
            assert cohorts.due(now_s, **asked) == everything.due(now_s, **asked)
        assert cohorts.plain() == everything.plain()


def test_what_is_kept_is_what_was_counted_since_it_was_kept_before() -> None:
    cohorts = filled((70, 30))
    assert kept(cohorts).plain() == cohorts.plain()
    cohorts.predict(NOW - 10, "a", np.array([[0, 5]]))
    cohorts.label(Labelled(NOW - 10, NOW, "a", 0, 1, 200, 1))
    for found in (kept(cohorts), cohorts):
        [(_, _, cohort)] = found.items()
        assert (int(cohort.predicted.sum()), int(cohort.labels.sum())) == (
            int(filled((70, 30)).items()[0][2].predicted.sum()) + 5,
            int(filled((70, 30)).items()[0][2].labels.sum()) + 1,
        )


def test_a_look_costs_as_much_as_there_is_new() -> None:
    cohorts = at_work(groups=1, keep=200)
    for span in range(200):
        cohorts.predict(NOW - span * HOUR, "a", np.array([[500, 500]]))
    assert "fresh=200" in repr(cohorts)
    cohorts.due(NOW, mature_after_s=10 * HOUR)
    assert "fresh=11" in repr(cohorts), "those that are too young, and none of the old ones that wait for labels"
    cohorts.label(Labelled(NOW - 100 * HOUR, NOW, "a", 0, 1, 100, 1))
    assert "fresh=12" in repr(cohorts)
    cohorts.advance(NOW + 150 * HOUR)
    cohorts.due(NOW + 150 * HOUR, mature_after_s=10 * HOUR)
    assert repr(cohorts) == "Cohorts(50, labels=0, fresh=0)"


@given(st.lists(st.integers(0, 50).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), max_size=8))
def test_a_stream_of_errors_has_all_of_them_in_order(slices: list[tuple[int, int]]) -> None:
    run = ErrorRun(0, "a", 1, tuple(w for w, _ in slices), tuple(n for _, n in slices))
    stream, at = list(run.stream()), 0
    for wrong, rows in slices:
        part = stream[at : at + rows]
        assert len(part) == rows
        assert sum(part) == wrong
        assert all(abs(sum(part[:k]) - wrong * k / rows) < 1 for k in range(rows))
        at += rows


def test_errors_are_in_order_of_prediction_not_of_label() -> None:
    cohorts = at_work(groups=1)
    cohorts.predict(NOW - 1, "a", np.array([[0, 60]]))
    for minute in reversed(range(60)):
        cohorts.label(Labelled(NOW - HOUR + 60 * minute + 1, NOW, "a", 0, 1, 1, int(minute < 40)))
    (run,) = cohorts.due(NOW, mature_after_s=0, min_rows=1).errors
    assert list(run.stream()) == [0] * 40 + [1] * 20


def test_memory_and_strangers_are_bounded_and_counted() -> None:
    cohorts = at_work(groups=1, keep=3)
    for k in range(6):
        cohorts.label(Labelled(NOW - k * HOUR, NOW, "a", 0, 1, 1, 1))
    assert [start for start, _, _ in cohorts.items()] == [98 * HOUR, 99 * HOUR, 100 * HOUR]
    assert cohorts.too_late == 3
    cohorts.label(Labelled(NOW + 2 * HOUR, NOW, "a", 0, 1, 1, 1))
    assert cohorts.too_late == 4
    ahead = at_work(groups=1)
    ahead.label(Labelled(NOW + HOUR, NOW, "a", 0, 1, 1, 1))
    assert (ahead.too_late, len(ahead.items())) == (0, 1)
    cohorts.advance(NOW + HOUR)
    cohorts.advance(NOW)
    assert [start for start, _, _ in cohorts.items()] == [99 * HOUR, 100 * HOUR]
    for item in (
        Labelled(NOW, NOW, "a", 0, None, 1, 1),
        Labelled(NOW, NOW, "a", 0, 1, None, 1),
        Labelled(NOW, NOW, "a", 0, 255, 1, 1),
        Labelled(NOW, NOW, "a", 0, 1, 255, 1),
        Labelled(NOW, NOW, "a", 1, 1, 1, 1),
        Labelled(NOW, NOW, "a", 0, 1, 1, 2),
        Labelled(NOW, NOW, "", 0, 1, 1, 1),
    ):
        cohorts.label(item)
    assert cohorts.unplaced == 7
    for k in range(MOST_VARIANTS + 3):
        cohorts.predict(NOW, f"v{k}", np.array([[1, 1]]))
    assert len(cohorts.variants) == MOST_VARIANTS
    assert cohorts.crowded == 2 * 4


def test_memory_is_what_the_module_says() -> None:
    cohort = filled((1, 1)).items()[0][2]
    size = sum(part.nbytes for part in (cohort.predicted, cohort.labels, cohort.errors, cohort.delays))
    assert size < 11_000
    assert KEEP * size < 2.2e6


def test_delays_by_quantile() -> None:
    cohorts = at_work(groups=1)
    assert cohorts.delay_quantiles("a") == {}
    for delay in [10.0] * 80 + [1_000.0] * 19 + [1e9]:
        cohorts.label(Labelled(NOW, NOW + delay, "a", 0, 1, 1, 1))
    cohorts.label(Labelled(NOW, NOW + 5e6, "a", 0, 1, 1, 0, before=1))
    found = cohorts.delay_quantiles("a")
    assert 10.0 <= found[0.5] < 12.5
    assert 1_000.0 <= found[0.9] < 1_250.0
    assert found[0.99] == found[0.9]
    assert sum(c.delays.sum() for _, _, c in cohorts.items()) == 100
    assert DELAY_EDGES_S[-1] >= 90 * 86_400


def test_one_group_alone() -> None:
    cohorts = at_work()
    cohorts.predict(NOW, "a", np.array([[10, 10], [30, 30]]))
    for k in range(40):
        cohorts.label(Labelled(NOW, NOW, "a", k // 20, k % 2, 5, k // 20))
    cohort = cohorts.items()[0][2]
    assert cohort.coverage(0) == (1.0, 1.0)
    assert cohort.coverage(1) == pytest.approx((1 / 3, 1 / 3))
    assert performance(cohort, group=0, min_rows=1).values == confusion.metrics(confusion.counted(cohort.labels[0]))
    assert performance(cohort, group=1, min_rows=1).state == "insufficient"


def test_a_cohort_like_its_reference_has_its_performance() -> None:
    rng = np.random.default_rng(4)
    labels = rng.poisson(2.0, (1, 2, 1_000, 2))
    cohort = Cohort.empty(1)
    for score_bin in range(1_000):
        cohort.labels[:, :, score_bin * LABEL_BINS // 1_000] += labels[:, :, score_bin]
    cohort.predicted[:] = cohort.labels.sum(axis=(2, 3))
    assert reference_performance(labels) == performance(cohort)
    assert reference_performance(labels * 0).reason == "few_labels"
