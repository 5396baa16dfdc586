"""What the monitor is fed with: totals out of pages and streams, labels out of feedback, groups of the document."""

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.control.counts import Finals
from gateway.control.labelnotes import note_of, notes_in
from gateway.control.monitorheard import UNREADABLE
from gateway.control.monitorinputs import (
    Series,
    Totals,
    joined,
    labelled,
    lost_of,
    settled_totals,
    split,
    totals_of,
)
from gateway.counters import DRIFT, DRIFT_TAKEN, DURATION_BOUNDS_NS, CounterPage
from gateway.monitor.counting import Counter, empty
from gateway.monitor.fit import regrouped
from gateway.monitor.latencies import slow_of
from gateway.monitor.plan import CountPlan, FeaturePlan, ScorePlan
from gateway.monitor.realised import Cohorts
from gateway.monitor.reference import Binding, Reference, identified

PLACE = ("m", "1", "-", "0123456789abcdef")


def page_with(rows: int, taken: int, size: int = 8) -> CounterPage:
    page = CounterPage(memoryview(bytearray(1 << 20)))
    page.block(DRIFT, PLACE, size)[0] = rows
    page.block(DRIFT_TAKEN, PLACE, 2)[0] = taken
    return page


def test_totals_are_sums_over_pages() -> None:
    found = totals_of([page_with(3, 3), page_with(4, 4)])
    assert {series: counts[0] for series, counts in found.items()} == {Series(*PLACE): 7}


def test_half_a_slice_is_in_no_window() -> None:
    counting, still = page_with(3, 3), page_with(4, 4)
    finals = page_with(1, 1)
    assert settled_totals([counting, still], finals, {PLACE[:2]})[Series(*PLACE)][0] == 8
    counting.block(DRIFT_TAKEN, PLACE, 2)[1] += 1
    assert settled_totals([counting, still], finals, {PLACE[:2]}) == {}, "neither half nor the others without it"
    counting.block(DRIFT_TAKEN, PLACE, 2)[1] += 1
    assert settled_totals([counting, still], finals, {PLACE[:2]})[Series(*PLACE)][0] == 8
    finals.block(DRIFT_TAKEN, PLACE, 2)[1] += 1
    assert settled_totals([still], finals, {PLACE[:2]})[Series(*PLACE)][0] == 5, (
        "who died while counting changes nothing any more"
    )


def test_what_a_dead_worker_had_not_counted_is_known() -> None:
    finals = Finals(memoryview(bytearray(4 << 20)))
    finals.fold("a", page_with(10, 12))
    finals.fold("b", page_with(5, 5))
    assert lost_of(finals.page) == {Series(*PLACE): 2}
    assert totals_of([finals.page])[Series(*PLACE)][0] == 15


def test_folding_touches_only_what_is_used_and_adds_exactly() -> None:
    memory = bytearray(4 << 20)
    finals = Finals(memoryview(memory))
    for number in range(5):
        finals.fold(f"w{number}", page_with(1, 1))
    assert totals_of([finals.page])[Series(*PLACE)][0] == 5
    assert finals.page.used < 64 * 1024
    assert not any(memory[1 << 20 : 2 << 20]), "memory behind the blocks was never written"


@given(st.lists(st.tuples(st.integers(0, 20_000), st.integers(1, 2**40)), max_size=50))
def test_a_vector_goes_through_the_stream_as_it_was(cells: list[tuple[int, int]]) -> None:
    counts = np.zeros(20_001, np.int64)
    for place, value in cells:
        counts[place] = value
    parts = list(split("n", "r", Series(*PLACE), counts))
    read = [msgspec.msgpack.decode(msgspec.msgpack.encode(part), type=Totals) for part in parts]
    assert (joined(read) == counts).all()


def test_a_full_vector_fits_into_entries() -> None:
    counts = np.full(20_000, 2**40, np.int64)
    parts = list(split("n", "r", Series(*PLACE), counts))
    assert (joined(parts) == counts).all()
    assert max(len(msgspec.msgpack.encode(part)) for part in parts) <= 64 * 1024


def test_parts_of_another_vector_are_refused() -> None:
    first, second = (list(split("n", "r", Series(*PLACE), np.ones(size, np.int64))) for size in (6_000, 7_000))
    with pytest.raises(ValueError, match="another vector"):
        joined([first[0], second[1]])


def test_slow_answers_are_those_above_the_edge_under_the_objective() -> None:
    buckets = [1] * (len(DURATION_BOUNDS_NS) + 1)
    assert slow_of(buckets, 50.0) == sum(bound > 50_000_000 for bound in DURATION_BOUNDS_NS) + 1
    assert slow_of(buckets, 70.0) == slow_of(buckets, 50.0), "an objective between two edges is the stricter one"


def facts(**more: Any) -> dict[str, Any]:
    return {
        "digest": "abcd",
        "time_s": 100,
        "at_s": None,
        "row": None,
        "group": 0,
        "decision": 1,
        "score_bin": 9,
    } | more


def test_a_note_says_of_a_label_what_its_id_says_and_what_it_replaced() -> None:
    rows = [
        (facts(), "canary", 1, b""),
        (facts(score_bin=None, decision=None), "-", 1, b'\t{"value":0}'),
        (facts(row=3, at_s=150.0), "canary", "no", b'\t{"value":"1","at_s":3}'),
    ]
    entry = b"\n".join(note_of(one, variant, value, 200.0) + before for one, variant, value, before in rows)
    found = [labelled(note, before, "1") for note, before in notes_in(entry)]
    assert [(one.variant, one.label, one.before) for one in found] == [
        ("canary", 1, None),
        ("-", 1, 0),
        ("canary", 0, 1),
    ]
    assert (found[0].bin, found[0].decision, found[0].observed_s) == (9, 1, 200.0)
    assert (found[1].bin, found[1].decision) == (None, None)
    assert (found[2].bin, found[2].decision, found[2].observed_s) == (9, 1, 150.0), "a row of a larger request is a row"


@pytest.mark.parametrize("silent", ["", " ", "nan", "NA", None])
def test_a_label_that_says_nothing_is_not_counted_and_takes_back_what_stood_there(silent: Any) -> None:
    cohorts = Cohorts(groups=2)
    cohorts.advance(100.0)

    def tell(value: Any, before: Any) -> list[int]:
        ((note, _),) = notes_in(note_of(facts(), "canary", value, 200.0))
        cohorts.label(labelled(note, before, "1"))
        cohort = cohorts.find(0, "canary")
        return [] if cohort is None else [int(cohort.labels.sum()), int(cohort.errors.sum()), int(cohort.delays.sum())]

    assert tell(silent, None) == []
    assert tell("1.0", silent) == [1, 1, 1]
    assert tell(silent, "1.0") == [0, 0, 1]
    assert cohorts.unplaced == 0


@pytest.mark.parametrize("entry", [b"", b"\xff", b"[]", b"{}\t{}", b'["ab","-",1,2,null,null,null,1]\t{}'])
def test_what_is_no_note_is_refused(entry: bytes) -> None:
    with pytest.raises(UNREADABLE):
        notes_in(entry)


# ---- groups ----


def reference_of(groups: tuple[str, ...]) -> Reference:
    plan = CountPlan("", (FeaturePlan("a", "numeric", 0, 0, (0.0, 1.0, 2.0)),), ScorePlan(0, -1, "probability"), groups)
    counts = empty(plan)
    rng = np.random.default_rng(1)
    rows = 300
    who = rng.integers(0, plan.group_count, rows)
    Counter(plan).count([rng.random((rows, 1), np.float32)], [rng.random((rows, 1), np.float32)], who, counts)
    labels = rng.integers(0, 3, (plan.group_count, 2, 1000, 2))
    return identified(Reference(plan, counts, Binding("x", (), ()), labels=labels))


@pytest.mark.parametrize(
    ("before", "after"), [((), ("f", "m")), (("f", "m"), ()), (("f", "m"), ("m", "d")), (("f",), ("f",))]
)
def test_other_groups_move_counts_and_make_none(before: tuple[str, ...], after: tuple[str, ...]) -> None:
    reference = reference_of(before)
    found = regrouped(reference, after)
    assert found.plan.groups == after
    assert found.counts.shape == (found.plan.size,)
    at = found.plan.score_at
    assert (found.counts[:at] == reference.counts[:at]).all()
    assert found.counts[at:].sum() == reference.counts[at:].sum()
    assert found.labels is not None
    assert reference.labels is not None
    assert found.labels.sum() == reference.labels.sum()
    assert (found.id == reference.id) == (before == after)
    for group in set(before) & set(after):
        old, new = before.index(group), after.index(group)
        assert (found.labels[new] == reference.labels[old]).all()
