"""Requests per second of each model, from totals, over half a minute."""

import numpy as np

from gateway.control.counts import Totals
from gateway.control.rates import SPAN_S, TICK_S, RequestRates
from gateway.counters import CODE_INDEX, MODEL_VALUES, WORKER_FIELDS


class Counts:
    def __init__(self) -> None:
        self.models = {(name, "1", variant): np.zeros(MODEL_VALUES, np.int64) for name, variant in
                       (("m", "-"), ("m", "canary"), ("m", "shadow"), ("quiet", "-"))}  # fmt: skip

    def add(self, variant: str, code: int, requests: int) -> None:
        self.models["m", "1", variant][CODE_INDEX[code]] += requests

    def totals(self) -> Totals:
        return Totals(self.models, np.zeros(len(WORKER_FIELDS), np.int64), np.zeros(MODEL_VALUES, np.int64))


def test_rates_follow_what_is_counted_whatever_the_answer_and_leave_out_the_shadow() -> None:
    counts = Counts()
    rates = RequestRates(counts.totals)
    counts.add("-", 200, 5_000)
    assert rates.tick(0.0) == {}
    counts.add("-", 200, 20)
    counts.add("canary", 500, 10)
    counts.add("shadow", 200, 1_000)
    assert rates.tick(TICK_S) == {"m": 30 / TICK_S, "quiet": 0.0}


def test_what_was_longer_ago_than_the_span_is_forgotten() -> None:
    counts = Counts()
    rates = RequestRates(counts.totals)
    rates.tick(0.0)
    counts.add("-", 200, 10_000)
    ticks = int(SPAN_S / TICK_S)
    found = [rates.tick(number * TICK_S)["m"] for number in range(1, ticks + 3)]
    assert found[0] == 10_000 / TICK_S
    assert found[ticks - 1] == 10_000 / SPAN_S
    assert found[ticks + 1] == 0.0


def test_a_count_that_falls_is_no_negative_rate() -> None:
    counts = Counts()
    rates = RequestRates(counts.totals)
    counts.add("-", 200, 10)
    rates.tick(0.0)
    counts.add("-", 200, -5)
    assert rates.tick(TICK_S)["m"] == 0.0
