"""`labels.mature_after` changes: cohorts that there are stay, with their labels; new ones last as the document says."""

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.monitor.realised import Cohorts, Labelled
from gateway.monitor.settings import Labels
from gateway.monitor.spans import Spans
from tests.monitor.test_settings_changed import ALONE, HOUR_MS, LOW, ROLES, applied_spec, counts, model, spec

HOUR = 3_600
NOW = 100 * HOUR


def predicted(cohorts: Cohorts, at_s: float, rows: int = 300) -> None:
    cohorts.advance(at_s)
    cohorts.predict(at_s, "a", np.full((1, 2), rows))


def labelled(cohorts: Cohorts, at_s: float, rows: int = 300) -> None:
    for k in range(2 * rows):
        cohorts.label(Labelled(at_s, at_s + 60, "a", 0, k % 2, 12 + 225 * (k % 2), k % 2))


@pytest.mark.parametrize("span_s", [HOUR // 4, 24 * HOUR])
def test_labels_that_come_after_a_change_find_the_predictions_from_before(span_s: int) -> None:
    cohorts = Cohorts(span_s=HOUR)
    for at_s in (NOW + 10, NOW + HOUR + 10):
        predicted(cohorts, at_s)
    cohorts.lasting(span_s)
    predicted(cohorts, NOW + HOUR + 20)
    cohorts = Cohorts.from_plain(msgspec.msgpack.decode(msgspec.msgpack.encode(cohorts.plain())))
    for at_s in (NOW + 10, NOW + HOUR + 10, NOW + HOUR + 20):
        labelled(cohorts, at_s)
    assert [(start, cohort.coverage()) for start, _, cohort in cohorts.items()] == [
        (NOW, (1.0, 1.0)),
        (NOW + HOUR, (1.0, 1.0)),
        (NOW + HOUR + 11, (1.0, 1.0)),
    ]
    assert (cohorts.span_s, cohorts.too_late) == (span_s, 0)
    assert cohorts.spans.end(NOW + HOUR) == NOW + HOUR + 11, "the cohort that the change came into ended there"
    due = cohorts.due(NOW + HOUR + 11, mature_after_s=0)
    assert [one.start_s for one in due.judged] == [NOW, NOW + HOUR]


def test_what_is_kept_stays_bounded_through_changes() -> None:
    cohorts = Cohorts(span_s=HOUR, keep=10)
    for at in range(12):
        predicted(cohorts, NOW + at * HOUR)
    cohorts.lasting(100 * HOUR)
    for at in range(1, 30):
        predicted(cohorts, NOW + (12 + 100 * at) * HOUR)
        assert len(cohorts.items()) <= 11
    assert {start % (100 * HOUR) for start, _, _ in cohorts.items()} == {0}
    gone = cohorts.too_late
    cohorts.label(Labelled(NOW, NOW, "a", 0, 1, 100, 1))
    assert cohorts.too_late == gone + 1
    for at in range(500):
        predicted(cohorts, NOW + (4_000 + at) * HOUR)
        cohorts.lasting(HOUR + at)
    assert len(cohorts.spans.eras) <= 14


@given(st.lists(st.tuples(st.integers(1, 5_000), st.integers(1, 9_000)), max_size=8), st.floats(0, 80_000))
def test_every_time_has_one_cohort(changes: list[tuple[int, int]], at_s: float) -> None:
    spans, since_s, starts = Spans(((0, HOUR),)), 0, [0]
    for later_s, span_s in changes:
        since_s += later_s
        starts.append(spans.start(since_s - 1))
        spans = spans.changed(span_s, since_s, starts)
    start = spans.start(at_s)
    assert start <= at_s < spans.end(start)
    assert spans.start(start) == start
    assert spans.start(spans.end(start)) == spans.end(start), "the next one begins where it ends"
    assert spans.end(start) - start <= max(HOUR, *(span_s for _, span_s in changes)) if changes else True


def test_a_document_with_another_time_keeps_the_cohorts() -> None:
    one, rng = model(LOW), np.random.default_rng(1)
    one.turn([(*ALONE, counts(rng, 999, 0.95))], ROLES, HOUR_MS)
    before = one.versions["1"].cohorts.items()
    longer: Any = msgspec.structs.replace(spec(LOW), labels=Labels(mature_after_ms=8 * HOUR_MS))
    after = applied_spec(one, longer).versions["1"].cohorts
    assert [(start, cohort.predicted.tolist()) for start, _, cohort in after.items()] == [
        (start, cohort.predicted.tolist()) for start, _, cohort in before
    ]
    assert after.span_s == 2 * HOUR
