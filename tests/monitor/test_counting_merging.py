"""Each delta once, in any order, sent as often as may be: the counts are the same bit for bit."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gateway.monitor.merging import BITMAP, EPOCHS, Cursor

Delta = tuple[str, int, int]
deltas = st.lists(
    st.tuples(st.sampled_from(["a", "b", "c"]), st.integers(1, EPOCHS), st.integers(1, BITMAP)), unique=True
)


def vector(delta: Delta) -> np.ndarray:
    return np.random.default_rng([ord(delta[0]), *delta[1:]]).integers(0, 2**40, 8)


@given(deltas, st.randoms(use_true_random=False), st.integers(1, 4), st.booleans())
def test_duplicates_reorder_and_restarts_of_the_reader_change_nothing(
    sent: list[Delta], random: object, copies: int, restart: bool
) -> None:
    arriving = sent * copies
    random.shuffle(arriving)  # type: ignore[attr-defined]
    cursor, total = Cursor(), np.zeros(8, np.int64)
    for delta in arriving:
        if restart:
            cursor = Cursor.restored(cursor.state())
        if cursor.admit(*delta):
            total += vector(delta)
    assert np.array_equal(total, sum((vector(delta) for delta in sent), np.zeros(8, np.int64)))
    assert cursor.duplicated == len(sent) * (copies - 1)
    assert cursor.gaps == 0


def test_what_never_came_is_a_gap_once_it_leaves_the_bitmap() -> None:
    cursor = Cursor()
    for sequence in range(1, 101):
        if sequence not in (3, 90):
            assert cursor.admit("a", 1, sequence)
    assert cursor.gaps == 1
    assert not cursor.admit("a", 1, 3)
    assert cursor.duplicated == 1
    assert cursor.admit("a", 1, 90)


def test_a_jump_counts_all_that_was_left_out() -> None:
    cursor = Cursor()
    assert cursor.admit("a", 1, 1)
    assert cursor.admit("a", 1, 1001)
    assert cursor.gaps == 1000 - BITMAP
    assert cursor.admit("a", 1, 1001 - BITMAP + 1)
    assert not cursor.admit("a", 1, 1001 - BITMAP)


@given(st.lists(st.integers(1, 400), min_size=1, max_size=200))
def test_gaps_are_exactly_the_numbers_that_were_given_up(sequences: list[int]) -> None:
    cursor, admitted = Cursor(), set()
    for sequence in sequences:
        if cursor.admit("a", 1, sequence):
            assert sequence not in admitted
            admitted.add(sequence)
    gone = set(range(1, max(sequences) - BITMAP + 1))
    assert cursor.gaps == len(gone - admitted)


def test_lives_before_the_last_few_are_refused_and_their_missing_ones_counted() -> None:
    cursor = Cursor()
    assert cursor.admit("a", 1, 3)
    for epoch in range(2, EPOCHS + 2):
        assert cursor.admit("a", epoch, 1)
    assert cursor.gaps == 2
    assert not cursor.admit("a", 1, 1)
    assert cursor.admit("a", 2, 2)


def test_a_life_between_those_remembered_takes_the_place_of_the_oldest() -> None:
    cursor = Cursor()
    for epoch in range(10, 10 * EPOCHS + 1, 10):
        assert cursor.admit("a", epoch, 1)
    assert cursor.admit("a", 15, 1)
    assert not cursor.admit("a", 10, 2)
    assert cursor.admit("a", 20, 2)
