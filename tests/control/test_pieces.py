"""Reports of any size go through the store's streams in pieces, and say together what the whole says."""

import random

import pytest

from gateway.control.intake import Intake
from gateway.control.record import NodeReport, Notes, encode, parts_of
from gateway.store.base import Limits
from gateway.tally import RING_NOTES

Delta = tuple[object, ...]


def report(notes: int, counts: int) -> NodeReport:
    rng = random.Random(notes)
    one = tuple((7, 16_777_215, 99, 9, rng.getrandbits(63)) for _ in range(notes))
    many = tuple((10**6 + n, "a stratum with a name", "canary", (10**9,) * 6) for n in range(counts))
    stretches = (Notes("w" * 16, 5, one),) if one else ()
    return NodeReport(node="n" * 49, run="r" * 32, fresh=True, counts=many, notes=stretches)


def taken(reports: list[NodeReport]) -> Delta:
    intake = Intake()
    deltas = [intake.take(one) for one in reports]
    counts = {place: values for delta in deltas for place, values in delta.counts.items()}
    return counts, [note for delta in deltas for note in delta.notes], sum(d.missed for d in deltas), intake.state()


@pytest.mark.parametrize(("notes", "counts"), [(0, 0), (1, 1), (800, 100), (801, 101), (RING_NOTES, 800), (3, 800)])
def test_pieces_fit_and_say_the_same(notes: int, counts: int) -> None:
    whole = report(notes, counts)
    pieces = parts_of(whole)
    assert taken(pieces) == taken([whole])
    assert all(piece.fresh for piece in pieces)
    assert max(len(encode(piece)) for piece in pieces) <= Limits().entry_bytes
