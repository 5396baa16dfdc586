"""Histograms of a batch are those of its requests one by one."""

from bisect import bisect_left
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.counters import DURATION_BOUNDS_NS, QUEUE_DURATION, REQUEST_DURATION, CounterPage
from gateway.exchange import Exchange
from gateway.meter import Meter

pytestmark = pytest.mark.interpreted
BUCKETS = len(DURATION_BOUNDS_NS) + 1
EDGES = [bound + step for bound in DURATION_BOUNDS_NS for step in (-1, 0, 1)]
DURATIONS = st.lists(st.one_of(st.sampled_from(EDGES), st.integers(0, 2 * DURATION_BOUNDS_NS[-1])), min_size=1)


def asked(now: int, duration: int) -> Exchange:
    found = Exchange()
    found.started_ns = found.enqueued_ns = now - duration
    return found


@given(DURATIONS)
def test_each_duration_is_in_its_bucket(durations: list[int]) -> None:
    page, now = CounterPage(memoryview(bytearray(1 << 16))), 4 * DURATION_BOUNDS_NS[-1]
    runtime: Any = SimpleNamespace(
        name="m", version_text="1", batcher=SimpleNamespace(queue=SimpleNamespace(rows=0)), terminations=0
    )
    meter = Meter(runtime, "-", page)
    meter.answered([asked(now, duration) for duration in durations], now, now, 0, 0)
    (counts,) = [block for key, block in page.blocks() if key[0] == "model"]
    wanted = [0] * BUCKETS
    for duration in durations:
        wanted[bisect_left(DURATION_BOUNDS_NS, duration)] += 1
    for at in (REQUEST_DURATION, QUEUE_DURATION):
        assert counts[at : at + BUCKETS].tolist() == wanted
        assert counts[at + BUCKETS] == sum(durations)
