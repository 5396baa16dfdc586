"""Entries that nobody can read: counted by reason and kept aside; none of them counts, or ends, anything."""

from pathlib import Path
from typing import Any, Final, cast

import msgspec
import numpy as np
import pytest

from gateway.control.labelnotes import notes_in
from gateway.control.monitordead import LISTED, SHOWN_BYTES, DeadLetters, reason_of
from gateway.control.monitorheard import MOST_ROWS, UNREADABLE, hear, hear_labels
from gateway.control.monitorheld import encoded_state, restore_state
from gateway.control.monitorinputs import Answers, Series, buckets_of, split
from gateway.control.monitorviews import facts, view
from gateway.control.monitorwords import warnings_of
from gateway.counters import DURATION_BOUNDS_NS, MODEL_VALUES
from gateway.monitor.counting import Counts
from gateway.monitor.plan import LABEL_BINS, ROWS
from gateway.monitor.realised import Labelled
from gateway.predictions import MOST_GROUPS
from gateway.store.base import StreamEntry, StreamPage
from tests.monitor.test_heard import PLAN, REFERENCE, held_by
from tests.monitor.test_monitors_apart import World, in_a_world

BUCKETS = len(DURATION_BOUNDS_NS) + 1
SIZE = PLAN.size


def packed(**changed: Any) -> bytes:
    """An entry of a node, with something changed."""
    about: dict[str, Any] = {"node": "x", "run": "r", "version": "1", "variant": "-", "plan": REFERENCE.id}
    fields = about | {"size": SIZE, "part": 0, "parts": 1, "places": [ROWS], "values": [5]}
    return msgspec.msgpack.encode(list((fields | changed).values()))


def answers(buckets: Any) -> bytes:
    return msgspec.msgpack.encode(Answers("x", "r", "1", "-", buckets))


NOT_OURS = {
    "nothing": (b"", "bytes"),
    "no msgpack": (b"\xc1", "bytes"),
    "pickle": (b"\x80\x04K\x01.", "bytes"),
    "cut short": (packed()[:-1], "bytes"),
    "says it is huge": (b"\xdd\xff\xff\xff\xff", "bytes"),
    "too deep": (b"\x91" * 60_000 + b"\x01", "bytes"),
    "a number": (b"\x07", "schema"),
    "no fields": (b"\x90", "schema"),
    "a field too few": (msgspec.msgpack.encode(msgspec.msgpack.decode(packed())[:-1]), "schema"),
    "a name that is none": (packed(node=1), "schema"),
    "infinite": (packed(values=[float("inf")]), "schema"),
    "not a number": (packed(values=[float("nan")]), "schema"),
    "no room": (packed(values=[1 << 63]), "counts"),
    "a place outside": (packed(places=[SIZE]), "counts"),
    "a value too few": (packed(places=[0, 1], values=[1, 2, 3]), "counts"),
    "a vector too large": (packed(size=1 << 50), "counts"),
    "no vector": (packed(size=1, places=[0]), "counts"),
    "a part of none": (packed(parts=0), "counts"),
    "another width": (packed(size=SIZE + 1), "counts"),
    "rows below none": (packed(values=[-1]), "counts"),
    "too many rows": (packed(values=[MOST_ROWS + 1]), "counts"),
    "a bin below none": (packed(places=[ROWS, 3], values=[5, -1]), "counts"),
    "other buckets": (answers([1] * (BUCKETS - 1)), "counts"),
    "buckets of two stages": (answers([1] * (2 * BUCKETS)), "counts"),
    "more answers than there could be": (answers([1] * (3 * BUCKETS - 1) + [MOST_ROWS + 1]), "counts"),
    "a bucket below none": (answers([-1] + [1] * (BUCKETS - 1)), "counts"),
    "a bucket that is none": (answers([0.5] * BUCKETS), "schema"),
}


@pytest.mark.parametrize("what", NOT_OURS)
def test_an_entry_that_cannot_be_read_is_told_by_its_reason_and_adds_nothing(what: str) -> None:
    body, reason = NOT_OURS[what]
    vectors: dict[tuple[str, str, Series], Counts] = {}
    spoken: dict[tuple[str, str, str, str], list[int]] = {}
    with pytest.raises(UNREADABLE) as raised:
        hear("m", held_by(), body, vectors, spoken)
    assert reason_of(raised.value) == reason
    assert (vectors, spoken) == ({}, {})


def test_what_is_well_is_read() -> None:
    held, vectors = held_by(), dict[tuple[str, str, Series], Counts]()
    spoken: dict[tuple[str, str, str, str], list[int]] = {}
    hear("m", held, packed(), vectors, spoken)
    hear("m", held, packed(version="9", size=3), vectors, spoken)
    hear("m", held, answers([1] * BUCKETS), vectors, spoken)
    assert sum(int(one[ROWS]) for one in vectors.values()) == 10
    assert len(spoken) == 1


def test_what_nodes_tell_of_their_answers_is_read() -> None:
    spoken: dict[tuple[str, str, str, str], list[int]] = {}
    told = buckets_of(np.ones(MODEL_VALUES, np.int64))
    hear("m", held_by(), answers(told), {}, spoken)
    assert spoken == {("x", "r", "1", "-"): told}


def letter(number: int, body: bytes = b"x" * 200) -> StreamEntry:
    return StreamEntry(number, "node", 1, number, body)


NOTE: Final = ["01234567", "stable", 1_800_000_000.0, 1_800_000_100.0, 0, 1, 249, "1"]


@pytest.mark.parametrize(
    ("at", "value"),
    [(2, -1.0), (2, 2.0**32), (4, -1), (4, MOST_GROUPS), (5, -1), (5, 2), (6, -1), (6, LABEL_BINS)],
)
def test_a_label_that_no_prediction_can_have_is_a_dead_letter_with_all_of_its_entry(at: int, value: float) -> None:
    held, worse = held_by(), [*NOTE]
    worse[at] = value
    said = [msgspec.json.encode(NOTE) + b"\n" + msgspec.json.encode(one) for one in (NOTE, worse)]
    entries = [StreamEntry(number, "node", 1, number, body) for number, body in enumerate(said, 1)]
    heard: list[Labelled] = []
    cast(Any, held.monitor).label = lambda version, item, now_ms: heard.append(item)
    hear_labels("m", held, StreamPage(tuple(entries), 2, 0, 0), {"0123456789": "1"}, 5)
    assert (len(heard), held.dead.counts) == (2, {("labels", "counts"): 1})
    assert notes_in(msgspec.json.encode([*NOTE[:4], None, None, None, NOTE[7]])), "what is not known is possible"


def test_the_last_are_kept_and_all_are_counted() -> None:
    found = DeadLetters()
    for number in range(LISTED + 5):
        found.bury("drift", letter(number), ValueError("y" * 1_000), number)
    assert found.counts == {("drift", "counts"): LISTED + 5}
    assert [one.id for one in found.last] == list(range(5, LISTED + 5))
    assert (len(found.last[0].begins), found.last[0].size, len(found.last[0].why)) == (2 * SHOWN_BYTES, 200, 200)
    assert found.bury("labels", letter(0), ValueError(), 0).begins == "", "a label may tell of a person"


def test_who_leads_next_knows_them() -> None:
    held, other = held_by(), held_by()
    held.dead.bury("labels", letter(3), RecursionError("deep"), 5)
    assert restore_state(other, encoded_state(held)) == ""
    assert (other.dead.counts, other.dead.last) == (held.dead.counts, held.dead.last)


def test_a_poisoned_stream_ends_no_turn_and_is_shown(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        series = Series("good", "1", "-", world.reference.id)
        rows = np.zeros(world.reference.plan.size, np.int64)
        rows[ROWS] = 100
        good = [msgspec.msgpack.encode(part) for part in split("other", "r", series, rows)]
        for number, body in enumerate([*(body for body, _ in NOT_OURS.values()), *good], 1):
            await world.store.stream_append("drift/good", "other", 1, number, body)
        await world.store.stream_append("labels/good", "other", 1, 1, b'["0","-",1.0,2.0,0,1,9,' + b"[" * 60_000)
        await world.monitors.tick()
        await world.monitors.tick()
        held = world.monitors.held["good"]
        assert held.failed == ""
        # Two are impossible by a plan that nobody here has: they are nobody's.
        expected = len(NOT_OURS) - 2 + 1
        assert (held.missed, held.dead.counts.total()) == (0, expected)
        shown = view("good", held, leads=True, away="", now_ms=world.now_ms)
        assert {"stream": "labels", "reason": "bytes", "count": 1} in shown["dead_letters"]["counts"]
        assert len(shown["dead_letters"]["last"]) == LISTED
        assert [line for line in warnings_of(shown) if f"{expected} entries" in line]
        assert shown["rows"] == 100, "what came behind them counts"

        told = facts({"good": held}, {}, {}, {}, dropped=0, overhead_s=0.0, leads=True, now_ms=world.now_ms)
        assert ("good", "-", "-", "labels", "bytes", 1) in told.monitor_dead_letters

    in_a_world(tmp_path, story)
