"""Slot tables: sums, least churn, equal everywhere, and back to where a slot came from."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router import slots
from router.hashing import SLOTS
from router.slots import Ownership


@st.composite
def shares(draw: st.DrawFn, variants: int | None = None) -> list[int]:
    count = variants or draw(st.integers(1, 6))
    cuts = sorted(draw(st.lists(st.integers(0, SLOTS), min_size=count - 1, max_size=count - 1)))
    return [high - low for low, high in zip([0, *cuts], [*cuts, SLOTS], strict=True)]


PAIRS = st.integers(2, 6).flatmap(lambda count: st.tuples(shares(count), shares(count)))


def distance(before: list[int], after: list[int]) -> int:
    """Total variation distance in slots: no table can move fewer."""
    return sum(abs(old - new) for old, new in zip(before, after, strict=True)) // 2


@given(shares())
def test_a_fresh_table_has_its_shares(counts: list[int]) -> None:
    assert slots.counts_of(slots.fresh(counts), len(counts)) == counts


@given(PAIRS)
def test_a_change_moves_the_fewest_slots_there_are(pair: tuple[list[int], list[int]]) -> None:
    before, after = pair
    table = slots.fresh(before)
    moved = slots.rebalance(table, after)
    assert slots.counts_of(moved, len(after)) == after
    assert slots.moved(table, moved) == distance(before, after)
    assert slots.rebalance(table, after) == moved
    assert slots.rebalance(moved, after) == moved


@given(st.lists(shares(4), min_size=2, max_size=5))
def test_it_stays_least_along_any_history(history: list[list[int]]) -> None:
    table = slots.fresh(history[0])
    for before, after in itertools.pairwise(history):
        moved = slots.rebalance(table, after)
        assert slots.moved(table, moved) == distance(before, after)
        table = moved


def test_eighty_ten_ten_to_sixty_twenty_twenty_moves_a_fifth() -> None:
    table = slots.fresh([8000, 1000, 1000])
    moved = slots.rebalance(table, [6000, 2000, 2000])
    assert slots.moved(table, moved) == 2000
    # Who had b or c keeps it.
    assert all(new == old for old, new in zip(table, moved, strict=True) if old)


def test_the_highest_slots_of_who_shrinks_move_first() -> None:
    table = slots.rebalance(slots.fresh([10_000, 0]), [9_900, 100])
    assert slots.to_text(table, ["stable", "canary"]) == "stable*9900 canary*100"
    table = slots.rebalance(table, [9_000, 1_000])
    assert slots.to_text(table, ["stable", "canary"]) == "stable*9000 canary*1000"
    table = slots.rebalance(table, [9_500, 500])
    assert slots.to_text(table, ["stable", "canary"]) == "stable*9000 canary*500 stable*500"


@pytest.mark.parametrize("counts", [[], [9_999], [10_001], [-1, 10_001], [1] * 21, [5000, 4999]])
def test_wrong_shares_are_refused(counts: list[int]) -> None:
    with pytest.raises(ValueError, match="expected"):
        slots.fresh(counts)
    with pytest.raises(ValueError, match="expected"):
        slots.rebalance(slots.fresh([SLOTS]), counts)


def test_a_short_table_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a table of 10000 slots, got 3"):
        slots.rebalance(b"\0\0\0", [SLOTS])


def test_digests_differ_where_tables_or_names_do() -> None:
    table = slots.fresh([9_999, 1])
    assert slots.digest(table, ["a", "b"]) == slots.digest(bytes(table), ["a", "b"])
    assert slots.digest(table, ["a", "b"]) != slots.digest(slots.fresh([9_998, 2]), ["a", "b"])
    assert slots.digest(table, ["a", "b"]) != slots.digest(table, ["a", "c"])
    # A digest that replicas of other versions must agree on: it may only change with a release note.
    assert f"{slots.digest(slots.fresh([9000, 1000]), ['stable', 'canary']):016x}" == "10fc9d2f6120f5db"


@given(PAIRS)
def test_the_text_form_comes_back(pair: tuple[list[int], list[int]]) -> None:
    names = [f"v{index}" for index in range(len(pair[0]))]
    table = slots.rebalance(slots.fresh(pair[0]), pair[1])
    assert slots.from_text(slots.to_text(table, names), names) == table


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected NAME"),
        ("a*9999", "expected 10000 slots, got 9999"),
        ("a*10001", "got more"),
        ("a*99999 a*99999", "got more"),
        ("b*10000", "with a name of a"),
        ("a*0 a*10000", "expected NAME"),
        ("a*-5", "expected NAME"),
        ("a*5000  a*5000", "expected NAME"),
        ("a*5000,a*5000", "expected NAME"),
    ],
)
def test_other_texts_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        slots.from_text(text, ["a"])


def test_variants_that_stay_keep_their_slots_when_the_list_changes() -> None:
    old, new = ["stable", "b", "c"], ["stable", "c", "d"]
    table = slots.fresh([5000, 3000, 2000])
    moved = slots.rebalance(slots.translate(table, old, new), [5000, 2000, 3000])
    assert slots.to_text(moved, new) == "stable*5000 d*3000 c*2000"


def test_shares_out_anew_move_by_chance() -> None:
    assert slots.rerandomised([9000, 1000], [9000, 1000]) == pytest.approx(0.18)
    assert slots.rerandomised([10_000, 0], [10_000, 0]) == 0


@given(st.lists(shares(3), min_size=1, max_size=4))
def test_a_rollback_moves_only_who_saw_the_canary(ramp: list[list[int]]) -> None:
    start = Ownership.first([7000, 3000, 0])
    ramped = start
    for a, b, canary in ramp:
        counts = [a, b, canary]
        ramped = ramped.reshared(counts)
    back = ramped.without(2, stable=0)
    assert back.owner.count(2) == 0
    for had, has in zip(ramped.owner, back.owner, strict=True):
        assert had == has or had == 2


def test_a_slot_returns_to_whom_it_came_from() -> None:
    start = Ownership.first([5000, 5000, 0])
    back = start.reshared([4000, 4000, 2000]).without(2, stable=0)
    assert back.owner == start.owner
    # Twice is the same as once.
    assert back.without(2, stable=0).owner == start.owner


def test_a_step_takes_from_stable_alone() -> None:
    start = Ownership.first([6000, 4000, 0])
    step = start.weighted(2, 0, 1000)
    assert slots.counts_of(step.owner, 3) == [5000, 4000, 1000]
    assert slots.counts_of(step.weighted(2, 0, 300).owner, 3) == [5700, 4000, 300]
    assert slots.counts_of(step.weighted(2, 0, 6000).owner, 3) == [0, 4000, 6000]
    for too_many in (6001, -1):
        with pytest.raises(ValueError, match="expected shares"):
            start.weighted(2, 0, too_many)


def test_who_had_a_slot_is_written_and_read_even_when_gone() -> None:
    ramped = Ownership.first([5000, 4000, 1000]).reshared([5000, 3000, 2000])
    renamed = ramped.renamed(["stable", "b", "canary"], ["stable", "canary"], [8000, 2000])
    text = slots.to_text(renamed.before, ["stable", "canary"])
    assert text == "stable*5000 -*4000 canary*1000"
    assert slots.from_text(text, ["stable", "canary"]) == renamed.before


def test_a_slot_whose_former_owner_is_gone_returns_to_stable() -> None:
    start = Ownership.first([5000, 4000, 1000])
    ramped = start.reshared([5000, 3000, 2000])
    renamed = ramped.renamed(["stable", "b", "canary"], ["stable", "canary"], [8000, 2000])
    back = renamed.without(1, stable=0)
    assert back.owner == bytes(SLOTS)
