"""The ring of notes: bounded, read by number, and honest about what was overwritten."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.counters import CounterPage
from gateway.tally import (
    FIELDS,
    NOTE_BAD,
    NOTE_SCORES,
    NOTE_SEEN,
    NOTE_SLOW,
    NOTE_WAITED,
    RING_NOTES,
    ROUTED,
    Note,
    NoteRing,
    Routings,
    Tally,
    happened,
    place_of,
    score_flags,
    tallies,
    tally_block,
)


def page() -> CounterPage:
    return CounterPage(memoryview(bytearray(1 << 20)))


@given(
    st.integers(1, 65_535),
    st.integers(0, 2**24 - 1),
    st.integers(0, 127),
    st.integers(0, 127),
    st.integers(0, 2**63 - 1),
)
def test_a_note_is_read_as_it_was_written(number: int, revision: int, stratum: int, variant: int, unit: int) -> None:
    ring = NoteRing(page())
    ring.write(NOTE_BAD, place_of(number, revision, stratum, variant), unit)
    assert ring.read(0) == ([Note(NOTE_BAD, number, revision, stratum, variant, unit)], 1, 0)
    assert place_of(number, revision, stratum, variant) != 0


def test_a_note_of_a_long_wait_is_taken_for_no_other() -> None:
    scores = NOTE_SCORES
    others = {score_flags((at + 0.5) / scores) | flags for at in range(scores) for flags in range(8)} | set(range(8))
    assert NOTE_WAITED not in others
    assert all(not NOTE_WAITED & flag for flag in (NOTE_BAD, NOTE_SLOW, NOTE_SEEN))
    assert {happened(flags) for flags in others} == set(range(8))
    ring = NoteRing(page())
    ring.write(NOTE_WAITED, place_of(1, 1, 0, 0), 5)
    assert [happened(note.flags) for note in ring.read(0)[0]] == [NOTE_WAITED]


def test_a_reader_goes_on_where_it_was() -> None:
    ring = NoteRing(page())
    for unit in range(10):
        ring.write(1, place_of(1, 1, 0, 0), unit)
    notes, end, missed = ring.read(4)
    assert ([note.unit for note in notes], end, missed) == ([4, 5, 6, 7, 8, 9], 10, 0)
    assert ring.read(end) == ([], 10, 0)


def test_what_was_overwritten_is_counted() -> None:
    ring = NoteRing(page())
    for unit in range(RING_NOTES + 100):
        ring.write(1, place_of(1, 1, 0, 0), unit)
    notes, end, missed = ring.read(50)
    assert (len(notes), notes[0].unit, end, missed) == (RING_NOTES, 100, RING_NOTES + 100, 50)


def test_a_second_reader_of_the_same_memory_sees_the_same() -> None:
    memory = memoryview(bytearray(1 << 20))
    NoteRing(CounterPage(memory)).write(2, place_of(1, 7, 1, 1), 5)
    assert NoteRing(CounterPage(memory)).read(0)[0][0].revision == 7


def test_tallies_are_found_by_their_place() -> None:
    one = page()
    tally_block(one, "m", 3, "", "canary")[0] += 5
    tally_block(one, "m", 3, "eu", "stable")[1] += 2
    found = {place: list(block) for place, block in tallies(one)}
    assert found == {
        ("m", 3, "", "canary"): [5, *[0] * (len(FIELDS) - 1)],
        ("m", 3, "eu", "stable"): [0, 2, *[0] * (len(FIELDS) - 2)],
    }


def test_requests_that_were_routed_get_into_the_page_together() -> None:
    one, routings = page(), Routings()
    canary, stable = (Tally(tally_block(one, "m", 3, "", variant)) for variant in ("canary", "stable"))
    for tally in (canary, stable, canary):
        routings.add(tally)
    assert canary.counts[ROUTED] == stable.counts[ROUTED] == 0
    for _ in range(2):
        routings.write()
        assert (canary.counts[ROUTED], stable.counts[ROUTED]) == (2, 1)
    routings.add(canary)
    routings.write()
    assert canary.counts[ROUTED] == 3


def test_a_full_page_loses_evidence_and_nothing_else() -> None:
    small = CounterPage(memoryview(bytearray(24_000)))
    for revision in range(1000):
        tally_block(small, "m", revision, "", "canary")[0] += 1
    assert all(sum(block) == 1 for _, block in tallies(small))
