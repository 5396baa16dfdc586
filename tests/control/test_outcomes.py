"""How requests ended, by version and by digest: since the node's start, and lately."""

import numpy as np
import pytest

from gateway.control.counts import Totals
from gateway.control.documents import Kept
from gateway.control.messages import VariantPin
from gateway.control.outcomes import Counted, OutcomeCounts, Outcomes
from gateway.control.rates import SPAN_S, TICK_S
from gateway.control.record import PolicyRecord
from gateway.counters import CODE_INDEX, FAILED_RUN, MODEL_VALUES, WORKER_FIELDS, CounterPage
from gateway.tally import BAD, NEUTRAL, OK, tally_block
from tests.router.documents import read

A, B = "sha256:aa", "sha256:bb"


class Node:
    """A node whose policy is at one revision after the other."""

    def __init__(self) -> None:
        self.page = CounterPage(memoryview(bytearray(1 << 20)))
        self.models: dict[tuple[str, str, str], np.ndarray] = {}
        self.counts = OutcomeCounts()
        self.kept: dict[str, Kept] = {}

    def route(self, revision: int, **digests: str) -> None:
        record = PolicyRecord(
            document={}, revision=revision, generation=1, applied_by="ann", applied_ms=0, slots="", before="",
            stable="stable", weights={str(one): {} for one in range(1, revision + 1)},
            variants=tuple(VariantPin(name, "m", 1, digest) for name, digest in digests.items()),
        )  # fmt: skip
        self.kept["m"] = Kept(1, record, read())

    def judged(self, revision: int, ok: int, bad: int, variant: str = "stable", stratum: str = "") -> None:
        values = tally_block(self.page, "m", revision, stratum, variant)
        values[OK] += ok
        values[BAD] += bad
        values[NEUTRAL] += 7

    def answered(self, ok: int, failed: int, refused: int = 0, variant: str = "-", version: str = "1") -> None:
        values = self.models.setdefault(("m", version, variant), np.zeros(MODEL_VALUES, np.int64))
        values[CODE_INDEX[200]] += ok
        values[CODE_INDEX[400]] += failed + refused
        values[FAILED_RUN] += failed

    def look(self, now_s: float) -> Outcomes:
        totals = Totals(self.models, np.zeros(len(WORKER_FIELDS), np.int64), np.zeros(MODEL_VALUES, np.int64))
        return self.counts.tick(now_s, self.kept, totals, [self.page])


def test_a_revision_counts_for_the_model_that_its_variant_had() -> None:
    node = Node()
    node.route(1, stable=A, canary=B)
    node.judged(1, 60, 6)
    node.judged(1, 1, 500, variant="canary")
    node.judged(1, 900, 0, stratum="-")
    node.look(0.0)
    node.route(2, stable=B, canary=A)
    node.judged(2, 40, 4, variant="canary")
    node.judged(2, 70, 0)
    policy, _ = node.look(TICK_S).of("m", 1, A)
    assert policy == Counted("policy", 100, 10), "whatever its name was"
    assert node.look(TICK_S).of("m", 1, B)[0] == Counted("policy", 71, 500)
    assert node.look(TICK_S).of("m", 1, "sha256:cc")[0].requests == 0


def test_evidence_of_a_revision_that_nobody_saw_or_remembers_is_not_guessed() -> None:
    node = Node()
    node.judged(1, 500, 0)
    node.route(2, stable=A)
    node.judged(2, 10, 1)
    assert node.look(0.0).of("m", 1, A)[0] == Counted("policy", 10, 1)
    node.kept.clear()
    assert node.look(TICK_S).of("m", 1, A)[0].requests == 0


def test_requests_of_a_version_count_under_every_variant_and_what_was_refused_does_not() -> None:
    node = Node()
    node.answered(300, 30, refused=1_000)
    node.answered(60, 6, variant="stable")
    node.answered(5_000, 5_000, variant="shadow")
    node.answered(5_000, 0, version="2")
    assert node.look(0.0).of("m", 1, A)[1] == Counted("requests", 360, 36)


def test_the_last_half_minute_counts_alone_once_it_says_enough() -> None:
    node = Node()
    node.answered(1_000, 9_000)
    node.look(0.0)
    node.answered(900, 99)
    assert node.look(TICK_S).of("m", 1, A)[1] == Counted("requests", 1_900, 9_099)
    node.answered(1, 0)
    assert node.look(2 * TICK_S).of("m", 1, A)[1] == Counted("requests", 901, 99, 2 * TICK_S)
    for at in range(3, 14):
        found = node.look(at * TICK_S)
    assert (found.seconds, found.lately["requests", "m", "1"]) == (pytest.approx(SPAN_S), (0, 0))
    assert found.of("m", 1, A)[1].seconds is None
