"""Totals of nodes: whatever comes again, late, in parts or to another reader, each row is counted once."""

from typing import Any

import msgspec
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gateway.control.monitorheard import GONE, SILENT_MS, forget, hear, taken
from gateway.control.monitorheld import Held, encoded_state, restore_state
from gateway.control.monitorinputs import Series, split
from gateway.monitor.book import ModelMonitor, Roles
from gateway.monitor.counting import Counts, empty
from gateway.monitor.plan import ROWS, SKIPPED, CountPlan, FeaturePlan
from gateway.monitor.reference import Binding, Reference, identified
from gateway.monitor.settings import Spec

PLAN = CountPlan("", (FeaturePlan("a", "numeric", 0, 0, (0.0, 1.0, 2.0)),))
REFERENCE = identified(Reference(PLAN, np.full(PLAN.size, 100, np.int64), Binding("x", (), ())))
SERIES = Series("m", "1", "-", REFERENCE.id)


def held_by(state: bytes | None = None) -> Held:
    held = Held(Spec(), ModelMonitor("m", Spec()))
    held.monitor.watch({"1": REFERENCE})
    if state is not None:
        assert restore_state(held, state) == ""
    return held


def totals(node: str, run: int, count: int) -> list[Counts]:
    """What one start of a node tells, oldest first; each adds rows."""
    rng = np.random.default_rng([ord(node), run])
    found, total = [], empty(PLAN)
    for _ in range(count):
        added = rng.integers(0, 50, PLAN.size)
        added[ROWS] = rng.integers(1, 50)
        total = total + added
        found.append(total)
    return found


@given(
    st.dictionaries(st.sampled_from("ab"), st.lists(st.integers(1, 5), min_size=1, max_size=3), min_size=1),
    st.randoms(use_true_random=False),
    st.integers(1, 3),
    st.booleans(),
)
def test_each_row_counts_once_in_any_order(sent: dict[str, list[int]], random: Any, copies: int, restart: bool) -> None:
    held, counted, expected = held_by(), empty(PLAN), empty(PLAN)
    arriving = []
    for node, runs in sent.items():
        for run, count in enumerate(runs):
            told = totals(node, run, count)
            expected += told[-1]
            mine = [((node, f"run{run}", SERIES), one) for one in told] * copies
            random.shuffle(mine)
            arriving += mine
            # Of a start that is over, some come again when the next one has begun to tell.
            arriving += [((node, f"run{run + 1}", SERIES), totals(node, run + 1, 1)[0])] if run + 1 < len(runs) else []
            arriving += mine[:2] if run + 1 < len(runs) else []
    for key, counts in arriving:
        if restart:
            held = held_by(encoded_state(held))
        for _, _, delta in taken(held, {key: counts}, "here"):
            assert (delta >= 0).all()
            counted += delta
    assert (counted == expected).all()


def test_what_comes_again_or_late_is_counted_as_such() -> None:
    held, told = held_by(), totals("a", 0, 3)
    key = ("a", "run0", SERIES)
    for counts in (told[1], told[1], told[0], told[2]):
        taken(held, {key: counts}, "here")
    assert held.duplicated == 2
    taken(held, {("here", "run0", SERIES): told[0]}, "here")
    taken(held, {("here", "run0", SERIES): told[0]}, "here")
    assert held.duplicated == 2, "this node tells each second, whether there is news or not"


def test_sums_that_have_gone_round_still_differ_by_what_came() -> None:
    held, key = held_by(), ("a", "run0", SERIES)
    before, after = np.full(PLAN.size, 2**63 - 5, np.int64), np.full(PLAN.size, 2**63 - 5, np.int64)
    before[[ROWS, SKIPPED]], after[[ROWS, SKIPPED]] = (10, 0), (20, 0)
    with np.errstate(over="ignore"):
        after[2] += 10
    taken(held, {key: before}, "here")
    [(_, _, delta)] = taken(held, {key: after}, "here")
    assert (delta[ROWS], delta[2], delta[3]) == (10, 10, 0)


def test_totals_of_another_reference_are_nobodys() -> None:
    held = held_by()
    other = Series("m", "1", "-", "ffffffffffffffff")
    assert taken(held, {("a", "run0", other): totals("a", 0, 1)[0]}, "here") == []
    assert not held.seen


# ---- what is forgotten is not counted again ----


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["rows", "away", "back", "late", "saved"])), max_size=40)
)
def test_rows_of_windows_that_are_gone_are_never_counted_again(steps: list[tuple[str, str]]) -> None:
    """Rows are told while the version is served, or are told again; each counts once, or was counted and is gone."""
    held, counted = held_by(), empty(PLAN)
    totals = {node: empty(PLAN) for node in "ab"}
    served = True
    for at, (node, step) in enumerate(steps):
        if step in ("away", "back"):
            served = step == "back"
            held.monitor.watch({"1": REFERENCE} if served else {})
        elif step == "saved":
            held = held_by(encoded_state(held))
            held.monitor.watch({"1": REFERENCE} if served else {})
        elif step == "rows" and served:
            totals[node] = totals[node] + 1
        vectors = {(one, "run", SERIES): counts for one, counts in totals.items() if counts.any()}
        forget(held, "ab", "here", at)
        for _, _, delta in taken(held, vectors, "here"):
            assert (delta >= 0).all()
            counted += delta
        assert (counted <= sum(totals.values())).all()
    assert (counted == sum(totals.values())).all(), "nothing came between a return and the first look after it"


def test_a_version_that_goes_leaves_no_vector_and_goes_on_from_there_when_it_comes_back() -> None:
    held, key = held_by(), ("a", "run0", SERIES)
    told = totals("a", 0, 3)
    taken(held, {key: told[0]}, "here")
    held.monitor.watch({})
    forget(held, ["a"], "here", 0)
    assert (held.seen, held.gone) == ({}, {("a", "run0"): {SERIES}})
    held.monitor.watch({"1": REFERENCE})
    assert taken(held, {key: told[1]}, "here") == []
    assert (held.gone, held.moved) == ({("a", "run0"): set()}, True)
    [(_, _, delta)] = taken(held, {key: told[2]}, "here")
    assert (delta == told[2] - told[1]).all()


def test_a_variant_that_goes_leaves_no_vector_either() -> None:
    held, other = held_by(), SERIES._replace(variant="b")
    held.roles = Roles(champion=("1", "-"), live=frozenset({("1", "-")}))
    vectors = {("a", "run", SERIES): totals("a", 0, 1)[0], ("a", "run", other): totals("a", 1, 1)[0]}
    held.roles = Roles(champion=("1", "-"), live=frozenset({("1", "-"), ("1", "b")}))
    assert len(taken(held, vectors, "here")) == 2
    held.roles = Roles(champion=("1", "-"), live=frozenset({("1", "-")}))
    forget(held, ["a"], "here", 0)
    assert [key[2].variant for key in held.seen] == ["-"]
    assert taken(held, vectors, "here") == []


def test_a_node_that_is_gone_is_forgotten_after_a_day_and_one_that_speaks_is_not() -> None:
    held = held_by()
    vectors = {(node, "run", SERIES): totals(node, 0, 1)[0] for node in "abh"}
    forget(held, "ab", "h", 0)
    taken(held, vectors, "h")
    held.answers = {(node, "run", "1", "-"): [1] for node in "abh"}
    forget(held, "b", "h", SILENT_MS // 2)
    forget(held, "", "h", SILENT_MS)
    assert {key[0] for key in held.seen} == {key[0] for key in held.answers} == {"b", "h"}
    assert taken(held, vectors, "h") == [], "it was only silent, and goes on"
    assert {key[0] for key in held.seen} == {"a", "b", "h"}


def test_what_was_forgotten_is_bounded_and_beyond_the_bound_not_counted_twice() -> None:
    held, told = held_by(), totals("a", 0, 2)
    series = [SERIES._replace(variant=f"v{at}") for at in range(GONE + 10)]
    taken(held, {("a", "run", one): told[0] for one in series}, "here")
    held.monitor.watch({})
    forget(held, ["a"], "here", 0)
    assert held.gone == {("a", "run"): None}
    held.monitor.watch({"1": REFERENCE})
    assert taken(held, {("a", "run", one): told[0] for one in series}, "here") == []
    assert len(taken(held, {("a", "run", one): told[1] for one in series}, "here")) == len(series)


def test_parts_of_which_one_was_dropped_are_not_joined_with_newer_ones() -> None:
    held, vectors = held_by(), {}
    wide, other = np.ones(12_000, np.int64), SERIES._replace(plan="of another width")
    first, second = (list(split("a", "run", other, counts)) for counts in (wide, 2 * wide))
    for part in (first[0], first[2], second[0], second[1]):
        hear("m", held, msgspec.msgpack.encode(part), vectors, {})
    assert vectors == {}
    hear("m", held, msgspec.msgpack.encode(second[2]), vectors, {})
    [found] = vectors.values()
    assert (found == 2).all()
    assert held.parts == {}
