"""Totals of nodes: whatever comes again, late, in parts or to another reader, each row is counted once."""

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gateway.control.monitorheard import taken
from gateway.control.monitorheld import Held, encoded_state, restore_state
from gateway.control.monitorinputs import Series
from gateway.monitor.book import ModelMonitor
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
