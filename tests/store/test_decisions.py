"""The pure parts: breaker, marks of streams, merged histories, the view of a watch."""

import asyncio
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.store import merge, records
from gateway.store.base import AuditRecord, Change, Limits
from gateway.store.breaker import FAILURES, FIRST_WAIT_S, LONGEST_WAIT_S, Breaker, wait_s
from gateway.store.view import View

# ---- breaker ----


def opened_at(now_s: float) -> Breaker:
    breaker = Breaker()
    for _ in range(FAILURES):
        assert breaker.refused_s(now_s) is None
        breaker.failed(now_s, 0.0)
    return breaker


def test_it_opens_after_failures_in_a_row() -> None:
    breaker = Breaker()
    for _ in range(3):
        for _ in range(FAILURES - 1):
            breaker.failed(0.0, 0.0)
        breaker.succeeded()
    assert breaker.refused_s(0.0) is None
    assert opened_at(0.0).refused_s(0.0) == FIRST_WAIT_S / 2


def test_half_open_one_call_finds_out() -> None:
    breaker = opened_at(0.0)
    assert breaker.refused_s(1.0) is None
    assert breaker.refused_s(1.0) is not None
    breaker.succeeded()
    assert breaker.refused_s(1.0) is None
    assert breaker == Breaker()


def test_a_failed_probe_opens_it_for_longer() -> None:
    breaker, now_s, waits = opened_at(0.0), 0.0, []
    for _ in range(10):
        wait = breaker.refused_s(now_s)
        assert wait is not None
        waits.append(wait)
        now_s += wait
        assert breaker.refused_s(now_s) is None
        breaker.failed(now_s, 0.0)
    assert all(early <= late for early, late in pairwise(waits))
    assert waits[-1] == pytest.approx(LONGEST_WAIT_S / 2)


def test_calls_that_began_before_it_opened_do_not_prolong_it() -> None:
    breaker = opened_at(0.0)
    breaker.failed(0.05, 0.9)
    assert breaker.refused_s(FIRST_WAIT_S / 2) is None


def test_a_probe_whose_caller_left_is_no_probe() -> None:
    breaker = opened_at(0.0)
    assert breaker.refused_s(1.0) is None
    breaker.abandoned()
    assert breaker.refused_s(1.0) is None


@given(st.integers(0, 1000), st.floats(0, 1, exclude_max=True))
def test_waits_are_bounded_and_spread(attempt: int, dice: float) -> None:
    assert FIRST_WAIT_S / 2 <= wait_s(attempt, dice) <= LONGEST_WAIT_S
    assert wait_s(attempt, 0.0) * 2 == pytest.approx(wait_s(attempt, 1.0))


# ---- marks ----


@given(st.lists(st.integers(0, 200), max_size=100))
def test_a_mark_remembers_as_a_set_does(order: list[int]) -> None:
    mark, seen = "", set[int]()
    for sequence in order:
        found = records.admit(mark, sequence)
        known = sequence in seen or (bool(seen) and sequence <= max(seen) - records.WINDOW)
        assert (found is None) == known
        if found is not None:
            mark = found
            seen.add(sequence)
        assert len(mark) < records.WINDOW + 20


# ---- audit ----


def chain_of(name: str, times: list[int]) -> list[AuditRecord]:
    head, made = records.Head(), []
    for time_ms in times:
        record = records.link(head, name, "", name, (0, 0), {"n": len(made)}, time_ms, Limits())
        head = records.Head(record.seq, bytes.fromhex(record.hash), record.time_ms)
        made.append(record)
    return made


def test_a_clock_that_goes_back_does_not_take_the_chain_with_it() -> None:
    assert [record.time_ms for record in chain_of("a", [5, 3, 9])] == [5, 5, 9]


@pytest.mark.parametrize("harm", ["body", "hash", "order", "gap", "foreign"])
def test_harm_of_each_kind_is_found(harm: str) -> None:
    made = chain_of("a", [1, 2, 3, 4])
    pairs = [(record.body, bytes.fromhex(record.hash)) for record in made]
    if harm == "body":
        pairs[1] = (pairs[1][0].replace(b'"n":1', b'"n":7'), pairs[1][1])
    elif harm == "hash":
        pairs[1] = (pairs[1][0], bytes(32))
    elif harm == "order":
        pairs[1], pairs[2] = pairs[2], pairs[1]
    elif harm == "gap":
        del pairs[1]
    else:
        body = b'{"not":"ours"}'
        pairs[1] = (body, records.hash_of(pairs[0][1], body))
    head = records.Head()
    found = []
    for body, digest in pairs:
        wrong = records.wrong(head, "a", body, digest)
        if wrong:
            found.append(wrong)
            break
        head = records.Head(head.seq + 1, digest)
    assert len(found) == 1
    assert found[0].startswith("a/2: ")


@given(
    st.dictionaries(st.sampled_from("abcd"), st.lists(st.integers(1, 9), max_size=12)),
    st.integers(1, 5),
    st.booleans(),
)
def test_merged_pages_are_the_sorted_whole(chains: dict[str, list[int]], each: int, newest: bool) -> None:
    made = {name: chain_of(name, sorted(times)) for name, times in chains.items()}
    whole = sorted((record for chain in made.values() for record in chain), key=merge.place_of, reverse=newest)
    found: list[AuditRecord] = []
    place = None
    more = True
    while more:
        parts = []
        for name, chain in made.items():
            ids = merge.span(name, place, newest, 0, 100)
            inside = [record for record in chain if within(record, *(ids[::-1] if newest else ids))]
            parts.append((inside[::-1] if newest else inside)[:each])
        rows, more = merge.merged(parts, each, newest)
        assert rows or not more
        found += rows
        place = merge.from_cursor(merge.to_cursor(merge.place_of(rows[-1]))) if rows else place
    assert found == whole


def within(record: AuditRecord, low: str, high: str) -> bool:
    """As XRANGE understands its two ends."""
    here = (record.time_ms, record.seq)

    def end(text: str, other: int) -> tuple[int, int]:
        time_ms, _, seq = text.lstrip("(").partition("-")
        return int(time_ms), int(seq) if seq else other

    first, last = end(low, 0), end(high, 2**62)
    return (first < here if low.startswith("(") else first <= here) and (
        here < last if high.startswith("(") else here <= last
    )


# ---- view ----


def test_watchers_wait_for_a_whole_view() -> None:
    async def go() -> None:
        view = View()
        changes = view.follow({("policy", "a"): 3})
        waiting = asyncio.ensure_future(anext(changes))
        view.set(("policy", "b"), 4)
        await asyncio.wait({waiting}, timeout=0)
        assert not waiting.done()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        waiting = asyncio.ensure_future(anext(changes))
        view.set(("policy", "a"), 3)
        view.complete()
        assert await waiting == Change("policy", "b", 4)
        view.set_name("a", {})
        assert await anext(changes) == Change("policy", "a", 0)
        view.keep_names([])
        assert await anext(changes) == Change("policy", "b", 0)
        view.close()
        assert await anext(changes, None) is None

    asyncio.run(go())


def test_two_watchers_do_not_take_from_each_other() -> None:
    async def go() -> None:
        view = View()
        view.complete()
        watchers = [view.follow(None) for _ in range(2)]
        view.set(("policy", "a"), 1)
        assert [await anext(watcher) for watcher in watchers] == [Change("policy", "a", 1)] * 2

    asyncio.run(go())
