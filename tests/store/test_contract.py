"""What every store does. One suite, run on a file and on a real Redis."""

import asyncio
import hashlib
import json

import pytest

from gateway.store.base import Feedback, Fenced, Limits, Stale, Store
from tests.store.places import Place, on_a_store, opened, row

WHO = {"actor": "ann", "action": "apply"}


# ---- documents ----


@on_a_store()
async def test_what_was_put_is_there(store: Store, place: Place) -> None:
    body = bytes(range(256)) + b"\n\nnot the end"
    first = await store.put("policy", "credit/Größe:1", body, expected=0)
    assert await store.get("policy", "credit/Größe:1") == first
    assert first.body == body
    assert await store.get("rollout", "credit/Größe:1") is None
    assert await store.get("policy", "other") is None


@on_a_store()
async def test_an_empty_body_is_a_document(store: Store, place: Place) -> None:
    await store.put("policy", "a", b"", expected=0)
    assert (await store.list("policy"))[0].body == b""
    with pytest.raises(Stale):
        await store.put("policy", "a", b"x", expected=0)


@on_a_store()
async def test_a_list_holds_one_kind_by_name(store: Store, place: Place) -> None:
    for name in ("b", "c", "a"):
        await store.put("policy", name, name.encode(), expected=None)
    await store.put("rollout", "b", b"other", expected=0)
    await store.delete("policy", "c", expected=None)
    assert [(one.name, one.body) for one in await store.list("policy")] == [("a", b"a"), ("b", b"b")]


@on_a_store()
async def test_a_wrong_expectation_gives_back_what_is_there(store: Store, place: Place) -> None:
    first = await store.put("policy", "a", b"1", expected=0)
    second = await store.put("policy", "a", b"2", expected=first.revision)
    assert second.revision > first.revision
    for expected in (0, first.revision, second.revision + 1):
        with pytest.raises(Stale) as caught:
            await store.put("policy", "a", b"3", expected=expected)
        assert caught.value.current == second
    with pytest.raises(Stale) as caught:
        await store.delete("policy", "a", expected=first.revision)
    assert caught.value.current == second
    with pytest.raises(Stale, match="policy new: expected revision 7, found none") as caught:
        await store.put("policy", "new", b"", expected=7)
    assert caught.value.current is None


@on_a_store()
async def test_a_revision_never_comes_again(store: Store, place: Place) -> None:
    first = await store.put("policy", "a", b"1", expected=0)
    assert await store.delete("policy", "a", expected=first.revision)
    assert not await store.delete("policy", "a", expected=None)
    assert not await store.delete("policy", "a", expected=0)
    with pytest.raises(Stale):
        await store.put("policy", "a", b"2", expected=first.revision)
    again = await store.put("policy", "a", b"1", expected=0)
    assert again.revision > first.revision


@on_a_store()
async def test_a_revision_is_above_what_was_seen_before_the_store_lost_it(store: Store, place: Place) -> None:
    first = await store.put("policy", "a", b"1", expected=0)
    seen = first.revision + 40
    again = await store.put("policy", "a", b"2", expected=first.revision, audit=WHO, above=seen)
    assert again.revision == seen + 1
    assert await store.get("policy", "a") == again
    page = await store.audit_read("a")
    assert (page.records[0].before, page.records[0].after) == (first.revision, again.revision)
    assert (await store.audit_verify()).broken is None
    lower = await store.put("policy", "a", b"3", expected=again.revision, audit=WHO, above=seen)
    assert lower.revision == again.revision + 1


@on_a_store(Limits(body_bytes=10, audit_bytes=200, entry_bytes=10, batch_rows=2))
async def test_what_no_caller_should_send_is_refused(store: Store, place: Place) -> None:
    for kind, name in (
        ("Policy", "a"),
        ("", "a"),
        ("policy", ""),
        ("policy", "a{b}"),
        ("policy", "a\nb"),
        ("p", "x" * 257),
    ):
        with pytest.raises(ValueError, match="expected"):
            await store.put(kind, name, b"", expected=0)
    with pytest.raises(ValueError, match="at most 10 bytes, got 11"):
        await store.put("policy", "a", bytes(11), expected=0)
    with pytest.raises(ValueError, match="at most 10 bytes"):
        await store.stream_append("s", "r", 1, 1, bytes(11))
    with pytest.raises(ValueError, match="audit record"):
        await store.audit_append("a", {"what": "x" * 200})
    with pytest.raises(ValueError, match="rows: expected at most 2, got 3"):
        await store.feedback_put("m", [row(place.now_ms(), f"p{number}") for number in range(3)])
    with pytest.raises(ValueError, match="JSON values"):
        await store.put("policy", "a", b"", expected=0, audit={"what": object()})
    with pytest.raises(ValueError, match="ttl_s"):
        await store.lease_acquire("l", "me", 0)
    assert await store.get("policy", "a") is None


@on_a_store()
async def test_of_writers_that_race_exactly_one_wins(store: Store, place: Place) -> None:
    async with opened(place) as other:
        before = await store.put("policy", "a", b"start", expected=0)
        for _ in range(5):

            async def write(writer: Store, number: int, expected: int = before.revision) -> int:
                audit = {"actor": f"w{number}"}
                return (await writer.put("policy", "a", b"%d" % number, expected=expected, audit=audit)).revision

            writers = [write((store, other)[number % 2], number) for number in range(8)]
            results = await asyncio.gather(*writers, return_exceptions=True)
            won = [number for number, result in enumerate(results) if isinstance(result, int)]
            assert len(won) == 1
            assert sum(isinstance(result, Stale) for result in results) == 7
            found = await store.get("policy", "a")
            assert found is not None
            assert found.body == b"%d" % won[0]
            page = await store.audit_read("a", newest=True, limit=1)
            assert page.records[0].record == {"actor": f"w{won[0]}"}
            assert (page.records[0].before, page.records[0].after) == (before.revision, found.revision)
            before = found
        verified = await store.audit_verify()
        assert (verified.records, verified.broken) == (5, None)


@on_a_store()
async def test_writers_of_one_name_do_not_lose_audit_records(store: Store, place: Place) -> None:
    async with opened(place) as other:
        writes = [(store, other)[i % 2].put("policy", "a", b"%d" % i, expected=None, audit={"i": i}) for i in range(20)]
        documents = await asyncio.gather(*writes)
        page = await store.audit_read("a")
        assert sorted(record.record["i"] for record in page.records) == list(range(20))
        assert [record.after for record in page.records] == sorted(document.revision for document in documents)
        assert (await store.audit_verify()).broken is None


# ---- audit ----


@on_a_store()
async def test_a_write_and_its_record_are_one_step(store: Store, place: Place) -> None:
    first = await store.put("policy", "a", b"1", expected=0, audit=WHO)
    with pytest.raises(Stale):
        await store.put("policy", "a", b"2", expected=0, audit=WHO)
    with pytest.raises(Stale):
        await store.delete("policy", "a", expected=first.revision + 9, audit=WHO)
    assert not await store.delete("policy", "b", expected=None, audit=WHO)
    second = await store.put("policy", "a", b"2", expected=first.revision, audit=WHO)
    await store.delete("policy", "a", expected=second.revision, audit=WHO)
    found = (await store.audit_read()).records
    assert [(one.kind, one.name, one.before, one.after) for one in found] == [
        ("policy", "a", 0, first.revision),
        ("policy", "a", first.revision, second.revision),
        ("policy", "a", second.revision, 0),
    ]


@on_a_store()
async def test_the_chain_is_what_the_documentation_says(store: Store, place: Place) -> None:
    for number in range(3):
        place.pass_ms(2)
        await store.audit_append("a", {**WHO, "z": number, "nested": {"b": [1, None], "a": 0.5}})
    previous = bytes(32)
    for seq, record in enumerate((await store.audit_read("a")).records, 1):
        assert record.hash == hashlib.sha256(previous + record.body).hexdigest()
        read = json.loads(record.body)
        assert record.body == json.dumps(read, sort_keys=True, separators=(",", ":")).encode()
        assert (read["seq"], read["prev"], read["time_ms"]) == (seq, previous.hex(), record.time_ms)
        assert abs(record.time_ms - place.now_ms()) < 60_000
        previous = bytes.fromhex(record.hash)
    verified = await store.audit_verify()
    assert list(verified.heads.values()) == [previous.hex()]


@on_a_store()
async def test_a_long_history_is_read_in_pages(store: Store, place: Place) -> None:
    names = ["a", "b", "c"]
    for number in range(60):
        await store.audit_append(names[number % 3], {"n": number, "even": number % 2 == 0})
        if number % 7 == 0:
            place.pass_ms(2)

    async def all_of(**query: object) -> list[int]:
        found: list[int] = []
        after = None
        while True:
            page = await store.audit_read(after=after, **query)  # type: ignore[arg-type]
            assert len(page.records) <= 7
            found += [record.record["n"] for record in page.records]
            after = page.cursor
            if after is None:
                return found

    every = await all_of(limit=7)
    assert sorted(every) == list(range(60))
    times = [record.time_ms for record in (await store.audit_read(limit=1000)).records]
    assert times == sorted(times)
    assert await all_of(limit=7, newest=True) == every[::-1]
    assert await all_of(limit=7, name="b") == list(range(1, 60, 3))
    assert await all_of(limit=7, name="nobody") == []
    assert sorted(await all_of(limit=7, where={"even": "true"})) == list(range(0, 60, 2))
    assert await all_of(limit=7, where={"n": "31"}) == [31]
    assert await all_of(limit=7, where={"kind": "policy"}) == []
    middle = times[30]
    early, late = await all_of(limit=7, until_ms=middle - 1), await all_of(limit=7, since_ms=middle)
    assert early
    assert [*early, *late] == every


@on_a_store()
async def test_a_strange_cursor_is_refused(store: Store, place: Place) -> None:
    with pytest.raises(ValueError, match="cursor"):
        await store.audit_read(after="no cursor")
    with pytest.raises(ValueError, match="limit"):
        await store.audit_read(limit=1001)


@on_a_store()
async def test_a_changed_record_is_named(store: Store, place: Place) -> None:
    for _ in range(5):
        await store.put("policy", "a", b"1", expected=None, audit=WHO)
    assert (await store.check()).problems == ()
    place.change_audit("a", 3)
    verified = await store.audit_verify()
    assert verified.records == 2
    assert verified.broken is not None
    assert verified.broken.startswith(("main/3: its hash does not fit", "a/3: its hash does not fit"))
    assert (await store.check()).problems == (verified.broken,)


# ---- leases ----


@on_a_store()
async def test_a_lease_has_one_holder(store: Store, place: Place) -> None:
    mine = await store.lease_acquire("rollouts", "a", 60)
    assert mine is not None
    assert mine.expires_ms - place.now_ms() > 50_000
    assert await store.lease_acquire("rollouts", "b", 60) is None
    assert await store.lease_acquire("others", "b", 60) is not None
    assert await store.lease_get("rollouts") == mine
    renewed = await store.lease_renew(mine, 90)
    assert renewed is not None
    assert renewed.token == mine.token
    assert renewed.expires_ms > mine.expires_ms
    assert await store.lease_release(mine)
    assert await store.lease_get("rollouts") is None
    theirs = await store.lease_acquire("rollouts", "b", 60)
    assert theirs is not None
    assert theirs.token > mine.token
    assert await store.lease_renew(mine, 60) is None
    assert not await store.lease_release(mine)
    assert await store.lease_get("rollouts") == theirs


@on_a_store()
async def test_an_expired_lease_is_taken_over(store: Store, place: Place) -> None:
    mine = await store.lease_acquire("rollouts", "a", 0.05)
    assert mine is not None
    place.pass_ms(60)
    assert await store.lease_get("rollouts") is None
    # Nobody took it: still its holder's to keep.
    mine = await store.lease_renew(mine, 0.05)
    assert mine is not None
    place.pass_ms(60)
    theirs = await store.lease_acquire("rollouts", "b", 60)
    assert theirs is not None
    assert theirs.token > mine.token
    assert await store.lease_renew(mine, 60) is None


@on_a_store()
async def test_who_takes_its_own_lease_again_has_a_new_token(store: Store, place: Place) -> None:
    first = await store.lease_acquire("rollouts", "a", 60)
    second = await store.lease_acquire("rollouts", "a", 60)
    assert first is not None
    assert second is not None
    assert second.token > first.token
    assert await store.lease_renew(first, 60) is None


@on_a_store()
async def test_of_many_who_want_a_lease_one_has_it(store: Store, place: Place) -> None:
    async with opened(place) as other:
        asked = [(store, other)[i % 2].lease_acquire("rollouts", f"h{i}", 60) for i in range(10)]
        taken = [lease for lease in await asyncio.gather(*asked) if lease]
        assert len(taken) == 1
        assert await store.lease_get("rollouts") == taken[0]


@on_a_store()
async def test_who_lost_its_lease_cannot_write(store: Store, place: Place) -> None:
    mine = await store.lease_acquire("rollouts", "a", 0.02)
    assert mine is not None
    first = await store.put("rollout", "m", b"1", expected=0, audit=WHO, fence=mine)
    place.pass_ms(30)
    # Expired but not taken: nobody else decided anything.
    second = await store.put("rollout", "m", b"2", expected=first.revision, fence=mine)
    theirs = await store.lease_acquire("rollouts", "b", 60)
    with pytest.raises(Fenced, match="of a is outdated"):
        await store.put("rollout", "m", b"3", expected=second.revision, audit=WHO, fence=mine)
    with pytest.raises(Fenced):
        await store.delete("rollout", "m", expected=None, fence=mine)
    assert await store.get("rollout", "m") == second
    await store.put("rollout", "m", b"4", expected=second.revision, fence=theirs)
    assert len((await store.audit_read()).records) == 1


# ---- streams ----


@on_a_store()
async def test_a_delta_counts_once(store: Store, place: Place) -> None:
    assert await store.stream_append("deltas", "node-1", 1, 1, b"a")
    assert not await store.stream_append("deltas", "node-1", 1, 1, b"a")
    assert await store.stream_append("deltas", "node-1", 1, 2, b"\x00\n")
    assert await store.stream_append("deltas", "node-1", 2, 1, b"c")
    assert await store.stream_append("deltas", "node-2", 1, 1, b"d")
    assert await store.stream_append("others", "node-1", 1, 1, b"e")
    page = await store.stream_read("deltas")
    assert [(one.id, one.replica, one.epoch, one.sequence, one.body) for one in page.entries] == [
        (1, "node-1", 1, 1, b"a"),
        (2, "node-1", 1, 2, b"\x00\n"),
        (3, "node-1", 2, 1, b"c"),
        (4, "node-2", 1, 1, b"d"),
    ]
    assert (page.cursor, page.missed, page.dropped) == (4, 0, 0)
    assert (await store.stream_read("deltas", 4)).entries == ()
    assert [one.body for one in (await store.stream_read("deltas", 1, limit=2)).entries] == [b"\x00\n", b"c"]
    empty = await store.stream_read("nothing")
    assert (empty.entries, empty.cursor, empty.missed, empty.dropped) == ((), 0, 0, 0)


@on_a_store()
async def test_late_sequences_count_once_within_the_window(store: Store, place: Place) -> None:
    order = [5, 3, 70, 3, 5, 6, 4, 69, 7, 133, 69, 70, 68, 200, 137, 136, 0, 200]
    seen: set[int] = set()
    for sequence in order:
        expected = sequence not in seen and sequence > max(seen, default=0) - 64
        assert await store.stream_append("s", "r", 1, sequence, b"") is expected, sequence
        seen.add(sequence)


@on_a_store(Limits(stream_rows=5, stream_marks=3))
async def test_a_stream_drops_its_oldest_and_counts_them(store: Store, place: Place) -> None:
    for number in range(1, 13):
        assert await store.stream_append("s", "r", 1, number, b"%d" % number)
    page = await store.stream_read("s", 4)
    assert [one.id for one in page.entries] == [8, 9, 10, 11, 12]
    assert (page.cursor, page.missed, page.dropped) == (12, 3, 7)
    assert (await store.stream_read("s", 12)).missed == 0
    # A cursor from before the store was lost starts anew.
    assert (await store.stream_read("s", 900)).cursor == 12
    # The marks of those not heard of for longest go; a busy one keeps its own.
    for replica in ("x", "y", "r", "z"):
        assert await store.stream_append("s", replica, 1, 13, b"")
    assert not await store.stream_append("s", "r", 1, 13, b"")
    assert await store.stream_append("s", "x", 1, 13, b"")


# ---- feedback ----


@on_a_store()
async def test_feedback_is_kept_once(store: Store, place: Place) -> None:
    now = place.now_ms()
    first, other = row(now, "p1"), row(now, "p1", b"2", slot="reward", unit="")
    outcomes = await store.feedback_put("m", [first, other])
    assert [one.kind for one in outcomes] == ["new", "new"]
    assert [one.kind for one in await store.feedback_put("m", [first])] == ["duplicate"]
    (replaced,) = await store.feedback_put("m", [row(now, "p1", b"\n0\n")])
    assert (replaced.kind, replaced.previous) == ("replaced", b"1")
    assert await store.feedback_get("m", "p1", "label") == row(now, "p1", b"\n0\n")
    assert await store.feedback_get("m", "p1", "reward") == other
    assert await store.feedback_get("m", "p2", "label") is None
    assert await store.feedback_get("n", "p1", "label") is None
    assert (await store.feedback_count("m")).rows == 2
    assert (await store.feedback_count("n")).rows == 0


@on_a_store()
async def test_what_changes_the_ledger_is_told_in_the_same_step(store: Store, place: Place) -> None:
    def noted(number: int, body: bytes, note: bytes, life_ms: int = 60_000) -> Feedback:
        return Feedback(f"id{number}", "label", "", body, place.now_ms() + life_ms, note)

    rows = [noted(1, b"a", b"n1"), noted(2, b"b", b"n2"), noted(3, b"c", b""), noted(4, b"d", b"n4", -1)]
    await store.feedback_put("m", rows, notes="labels/m")
    await store.feedback_put("m", rows, notes="labels/m")
    await store.feedback_put(
        "m", [noted(2, b"e", b"n5"), noted(1, b"a", b"n6"), noted(2, b"b", b"n7")], notes="labels/m"
    )
    await store.feedback_put("m", [noted(5, b"f", b"n8")])
    page = await store.stream_read("labels/m")
    assert [one.body for one in page.entries] == [b"n1\nn2", b"n5\tb\nn7\te"]
    assert [one.id for one in page.entries] == [1, 2]
    kept = await store.feedback_get("m", "id1", "label")
    assert kept is not None
    assert (kept.body, kept.note) == (b"a", b""), "a note is told and not kept"


@on_a_store(Limits(entry_bytes=10))
async def test_notes_that_do_not_fit_one_entry_come_in_several(store: Store, place: Place) -> None:
    later = place.now_ms() + 60_000
    notes = [b"12345", b"1234", b"1", b"1234567890", b"123456", b"123"]
    rows = [Feedback(f"id{number}", "label", "", b"x", later, note) for number, note in enumerate(notes)]
    await store.feedback_put("m", rows, notes="labels/m")
    await store.feedback_put("m", [Feedback("id0", "label", "", b"1234567890", later, b"abcdefghij")], notes="labels/m")
    assert [one.body for one in (await store.stream_read("labels/m")).entries] == [
        b"12345\n1234", b"1", b"1234567890", b"123456\n123", b"abcdefghij\tx",
    ]  # fmt: skip


@on_a_store(Limits(stream_rows=3))
async def test_notes_are_bounded_as_their_stream_is(store: Store, place: Place) -> None:
    for number in range(5):
        one = Feedback(f"id{number}", "label", "", b"x", place.now_ms() + 60_000, b"n%d" % number)
        await store.feedback_put("m", [one], notes="labels/m")
    page = await store.stream_read("labels/m")
    assert ([one.body for one in page.entries], page.missed) == ([b"n2", b"n3", b"n4"], 2)


@on_a_store()
async def test_feedback_within_one_call_is_in_order(store: Store, place: Place) -> None:
    now = place.now_ms()
    outcomes = await store.feedback_put("m", [row(now, "p", b"1"), row(now, "p", b"1"), row(now, "p", b"2")])
    assert [one.kind for one in outcomes] == ["new", "duplicate", "replaced"]
    assert await store.feedback_put("m", []) == ()


@on_a_store()
async def test_feedback_ends_with_its_time(store: Store, place: Place) -> None:
    now = place.now_ms()
    await store.feedback_put("m", [row(now, "soon", left_ms=100), row(now, "late")])
    assert [one.kind for one in await store.feedback_put("m", [row(now, "over", left_ms=0)])] == ["expired"]
    place.pass_ms(150)
    assert await store.feedback_get("m", "soon", "label") is None
    assert await store.feedback_get("m", "late", "label") is not None
    assert [one.kind for one in await store.feedback_put("m", [row(now, "soon")])] == ["new"]
    count = await store.feedback_count("m")
    assert (count.rows, count.dropped) == (2, 0)


@on_a_store(Limits(feedback_rows=3))
async def test_feedback_has_a_bound(store: Store, place: Place) -> None:
    now = place.now_ms()
    for number in range(5):
        await store.feedback_put("m", [row(now, f"p{number}", left_ms=60_000 + number)])
    count = await store.feedback_count("m")
    assert (count.rows, count.dropped) == (3, 2)
    assert await store.feedback_get("m", "p1", "label") is None
    assert await store.feedback_get("m", "p2", "label") is not None


@on_a_store()
async def test_a_unit_is_forgotten(store: Store, place: Place) -> None:
    now = place.now_ms()
    rows = [row(now, f"p{number}", unit=("u", "u2", "v", "")[number % 4]) for number in range(12)]
    await store.feedback_put("m", rows)
    await store.feedback_put("n", rows)
    # A replaced row belongs to its new unit alone.
    await store.feedback_put("m", [row(now, "p0", b"2", unit="v")])
    assert await store.feedback_erase("m", "u") == 2
    assert await store.feedback_erase("m", "u") == 0
    assert (await store.feedback_count("m")).rows == 10
    assert (await store.feedback_count("n")).rows == 12
    assert await store.feedback_get("m", "p4", "label") is None
    assert await store.feedback_erase("m", "v") == 4
    with pytest.raises(ValueError, match="unit"):
        await store.feedback_erase("m", "")
