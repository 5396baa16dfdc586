"""What is slow, and how long executions take: from a worker's page through reports to a signal that holds."""

import json
import math
import random
from bisect import bisect_left

import numpy as np
import pytest
from msgspec import msgpack, structs
from msgspec.json import decode

from gateway.control.counts import Finals, Totals
from gateway.control.documents import Kept
from gateway.control.intake import Intake
from gateway.control.judge import Judge
from gateway.control.latency import LEAST, StableLatency
from gateway.control.messages import PolicyState, VariantPin
from gateway.control.record import REVISIONS_TOLD, NodeReport, PolicyRecord, encode, parts_of
from gateway.control.reporter import Reporter
from gateway.control.signals import plan_of
from gateway.control.states import state_of
from gateway.control.thresholds import Thresholds, thresholds_of
from gateway.counters import (
    BATCH_BOUNDS,
    BATCH_BUCKETS,
    DURATION_BOUNDS_NS,
    EXECUTIONS_JUDGED,
    MODEL_VALUES,
    QUEUE_DURATION,
    REQUEST_DURATION,
    RUN_BOUNDS_NS,
    CounterPage,
)
from gateway.tally import Executions
from router.evidence.executions import ExecutionShare
from router.policy import TrafficPolicy, parse
from tests.simulation.evidence.results import Rate

SIZES = (*BATCH_BOUNDS, 0)
ALPHA = 0.01


def policy(*signals: dict[str, object]) -> TrafficPolicy:
    analysis = {"signals": list(signals or [{"metric": "compute_time"}]), "alpha": ALPHA}
    return parse(
        {
            "apiVersion": "tidegate/v1",
            "kind": "TrafficPolicy",
            "metadata": {"name": "m"},
            "spec": {
                "variants": [{"name": "stable", "model": "m:1"}, {"name": "canary", "model": "m:2"}],
                "split": {"stable": 10_000},
                "rollout": {
                    "to": "canary",
                    "steps": [{"setWeight": 1000}, {"setWeight": 10_000}],
                    "analysis": analysis,
                },
            },
        }
    )


PINS = (VariantPin("stable", "m", 1, "sha256:aa"), VariantPin("canary", "m", 2, "sha256:bb"))


def kept(of: TrafficPolicy, **more: object) -> Kept:
    record = PolicyRecord(
        document={}, revision=5, generation=1, applied_by="ann", applied_ms=0, variants=PINS, slots="stable*10000",
        before="stable*10000", stable="stable", canary="canary", **more,  # type: ignore[arg-type]
    )  # fmt: skip
    return Kept(1, record, of)


def a_judge(of: TrafficPolicy, state: object = None) -> Judge:
    assert of.spec.rollout is not None
    return Judge(
        "id",
        of.spec.rollout.analysis,
        sticky=False,
        variants=of.names,
        stable="stable",
        canary="canary",
        state=state,  # type: ignore[arg-type]
    )


def state(revision: int) -> PolicyState:
    return PolicyState("m", 1, revision, {}, PINS, b"", 0, 1, run_ns=(1,) * BATCH_BUCKETS)


def page(size: int = 1 << 20) -> CounterPage:
    return CounterPage(memoryview(bytearray(size)))


def sent(report: NodeReport) -> list[NodeReport]:
    """As another node reads it."""
    return [decode(encode(part), type=NodeReport) for part in parts_of(report)]


class Node:
    """One worker, and control that reads its page."""

    def __init__(self, seed: int, of: TrafficPolicy) -> None:
        self.rng = random.Random(seed)
        self.page, self.finals, self.reporter, self.intake = page(), page(), Reporter("n", "r"), Intake()
        self.policy, self.judge, self.latency = of, a_judge(of), StableLatency(lambda: None)  # type: ignore[arg-type,return-value]
        self.revision, self.limits = 4, (0,) * BATCH_BUCKETS

    def begin_step(self) -> Thresholds:
        """Freeze what is slow, and give the canary a share."""
        reading = self.reporter.read({"w": self.page}, self.finals)
        slow = thresholds_of(kept(self.policy), "APPLYING", self.latency, reading.run_times, routed=True)
        self.limits = state_of("m", 1, kept(self.policy, **slow._asdict()), zeroed_here=False).run_ns
        self.revision += 1
        return slow

    def execute(self, variant: str, rows: int, times: float = 1.0) -> None:
        """One execution, which takes longer the more rows it has."""
        version = {"stable": "1", "canary": "2"}[variant]
        run_ns = int(times * (50_000 + 20_000 * rows) * self.rng.lognormvariate(0.0, 0.2))
        Executions(self.page, "m", self.revision, variant, version, self.limits).add(rows, run_ns, 0)

    def tick(self) -> None:
        reading = self.reporter.read({"w": self.page}, self.finals)
        for part in sent(self.reporter.report(state(self.revision), reading, {}, {})):
            self.judge.take(self.intake.take(part), {"4": {"": 0.0}, "5": {"": 0.1}})


def rollout(seed: int, times: float, *signals: dict[str, object]) -> tuple[bool, Node]:
    """Whether a canary that takes so many times as long is ever held: few requests, so batches of 1 to 3 rows."""
    node = Node(seed, policy(*signals))
    for _ in range(4_000):
        node.execute("stable", node.rng.randint(1, 8))
    node.begin_step()
    held = False
    for _ in range(100):
        for _ in range(20):
            node.execute("stable", node.rng.choice((1, 2, 3, 4, 5, 6, 7, 8)))
        for _ in range(4):
            node.execute("canary", node.rng.choice((1, 1, 2, 3)), times)
        node.tick()
        held = held or bool(node.judge.speaking())
    return held, node


def test_a_canary_with_smaller_batches_is_not_held() -> None:
    held = Rate("", "", "", sum(rollout(seed, 1.0)[0] for seed in range(40)), 40, ALPHA)
    assert held.kept, held


def test_a_canary_that_computes_twice_as_long_is_held_and_it_says_why() -> None:
    for seed in range(5):
        held, node = rollout(seed, 2.0)
        assert held
        (text,) = node.judge.speaking().values()
        assert "slow executions" in text
        assert "were the canary's" in text
        (sign,) = node.judge.signs()
        assert not sign.is_scarce(kept(node.policy, run_ns={1: 5}).record)
        # The larger batches are stable's alone, and nothing is held against them.
        assert sum(every for every, _ in sign.step) < 100 * 24 / 2


def test_it_goes_on_when_the_canary_is_as_fast_again() -> None:
    _, node = rollout(1, 1.6)
    assert node.judge.speaking()
    for _ in range(1_000):
        for _ in range(20):
            node.execute("stable", 1)
            node.execute("canary", 1, 0.5)
        node.tick()
        if not node.judge.speaking():
            break
    assert node.judge.speaking() == {}


def test_a_bucket_that_stable_has_hardly_used_is_not_judged() -> None:
    node = Node(1, policy())
    for _ in range(LEAST):
        node.execute("stable", 2)
    for _ in range(LEAST - 1):
        node.execute("stable", 4)
    slow = node.begin_step()
    assert list(slow.run_ns) == [2]
    for rows in (2, 4):
        node.execute("canary", rows, 50.0)
        node.execute("stable", rows)
    node.tick()
    (sign,) = node.judge.signs()
    assert [every for every, _ in sign.step] == [1, 1]


def test_without_any_quantile_of_stable_there_is_too_little_data() -> None:
    node = Node(1, policy())
    node.begin_step()
    for variant in ("stable", "canary"):
        node.execute(variant, 1)
    node.tick()
    (sign,) = node.judge.signs()
    assert sign.is_scarce(kept(node.policy).record)
    assert sign.is_scarce(kept(node.policy, run_ns={1: 5}).record)  # nothing was compared yet
    assert not node.judge.speaking()


def test_the_quantile_is_that_of_the_executions_since_it_was_last_asked() -> None:
    node, bucket = Node(1, policy({"metric": "compute_time", "quantile": 0.5})), 1
    times = Executions(node.page, "m", 4, "stable", "1", node.limits)
    for run_ns in range(100_000, 200_000, 200):
        times.add(1, run_ns, 0)
    first = node.begin_step().run_ns[bucket]
    assert first == pytest.approx(150_000, rel=0.1)
    for run_ns in range(1_000_000, 2_000_000, 2_000):
        times.add(1, run_ns, 0)
    reading = node.reporter.read({"w": node.page}, node.finals)
    frozen = kept(node.policy, run_ns={bucket: first})
    assert thresholds_of(frozen, "BAKING", node.latency, reading.run_times, routed=False).run_ns[bucket] == first
    assert node.begin_step().run_ns[bucket] == pytest.approx(1_500_000, rel=0.1)


def test_what_nobody_judges_is_not_counted() -> None:
    of = policy({"metric": "error_rate", "name": "errors"})
    assert state_of("m", 1, kept(of, run_ns={1: 5}), zeroed_here=False).run_ns == ()
    assert thresholds_of(kept(of), "APPLYING", StableLatency(lambda: None), {}, routed=True).run_ns == {}  # type: ignore[arg-type,return-value]


def test_how_long_stable_waits_is_its_own_quantile() -> None:
    values = np.zeros(MODEL_VALUES, np.int64)
    values[QUEUE_DURATION + bisect_left(DURATION_BOUNDS_NS, 300_000)] = LEAST
    values[REQUEST_DURATION + bisect_left(DURATION_BOUNDS_NS, 7_000_000)] = LEAST
    totals = Totals({("m", "1", "stable"): values}, np.zeros(0, np.int64), np.zeros(0, np.int64))
    of = policy({"metric": "queue_wait", "quantile": 0.95}, {"metric": "latency", "quantile": 0.9})
    slow = thresholds_of(kept(of), "APPLYING", StableLatency(lambda: totals), {}, routed=True)
    assert 200_000 < slow.wait_ns < 500_000 < 5_000_000 < slow.slow_ns < 10_000_000
    frozen = kept(of, wait_ns=slow.wait_ns)
    assert state_of("m", 1, frozen, zeroed_here=False).wait_ns == slow.wait_ns
    values[QUEUE_DURATION + bisect_left(DURATION_BOUNDS_NS, 30_000_000)] = 100 * LEAST
    later = StableLatency(lambda: totals)
    assert thresholds_of(frozen, "BAKING", later, {}, routed=False).wait_ns == slow.wait_ns
    assert thresholds_of(frozen, "APPLYING", later, {}, routed=True).wait_ns > 20_000_000
    assert thresholds_of(kept(policy(), wait_ns=5), "APPLYING", later, {}, routed=True).wait_ns == 0
    (waits, latency) = a_judge(of).signs()
    assert waits.is_scarce(frozen.record)  # nobody has asked yet
    assert latency.is_scarce(frozen.record)


def test_a_worker_of_another_layout_reads_a_state_without_it() -> None:
    older = list(structs.astuple(state(5)))[:-2]
    found = msgpack.decode(msgpack.encode(older), type=PolicyState)
    assert (found.doublings, found.run_ns, found.wait_ns) == (0, (), 0)


def test_counts_of_a_dead_worker_stay() -> None:
    node = Node(1, policy())
    node.limits = (1,) * BATCH_BUCKETS
    for rows in (1, 1, 9):
        node.execute("canary", rows)
    finals = Finals(memoryview(bytearray(1 << 21)))
    finals.fold("w", node.page)
    report = node.reporter.report(state(4), node.reporter.read({}, finals.page), {}, {})
    assert report.executions == ((4, "canary", {1: (0, 2), 10: (0, 1)}),)


def test_a_rule_that_gives_the_canary_more_of_what_lasts_long_accuses_nobody() -> None:
    """The same model twice: half of the heavy requests go to the canary, a twentieth of the light ones."""
    apart, pooled = ExecutionShare(1.25), ExecutionShare(1.25)
    one = page()
    limits = (10**6,) * BATCH_BUCKETS
    arms = {name: Executions(one, "m", 5, name, "1", limits, 2) for name in ("canary", "stable")}
    rng, intake, reporter = random.Random(4), Intake(), Reporter("n", "r")
    for _ in range(240):
        for name, heavy, light in (("canary", 10, 1), ("stable", 10, 19)):
            for stratum, every, share in ((1, heavy, 0.1), (0, light, 0.005)):
                for _ in range(every):
                    arms[name].add(1, 2 * 10**6 if rng.random() < share else 10, stratum)
        found = intake.take(reporter.report(state(5), reporter.read({"w": one}, page()), {}, {})).executions
        canary, stable = found[5, "canary"], found[5, "stable"]
        apart.tick(canary, stable)
        one_bucket = [tuple(map(sum, zip(*arm.values(), strict=True))) for arm in (canary, stable)]
        pooled.tick({1: one_bucket[0]}, {1: one_bucket[1]})
    assert set(stable) == {1, 1 << 16 | 1}
    assert pooled.harm.log_e > math.log(1 / 0.01), "what comes of not telling them apart"
    assert apart.harm.log_e < 0
    assert apart.step[0][0] + apart.step[1][0] > 0.9 * 240 * 40


def test_what_nobody_judges_any_more_is_not_told() -> None:
    node = Node(1, policy())
    node.limits = (1,) * BATCH_BUCKETS
    node.execute("canary", 1)
    reading = node.reporter.read({"w": node.page}, node.finals)
    assert node.reporter.report(state(4), reading, {}, {}).executions
    assert not node.reporter.report(structs.replace(state(4), run_ns=()), reading, {}, {}).executions


def report(*executions: tuple[int, str, dict[int, tuple[int, int]]], run: str = "r") -> NodeReport:
    return NodeReport(node="n", run=run, executions=executions)


def test_totals_become_what_is_new_however_often_they_come() -> None:
    intake = Intake()
    first, second = (5, "canary", {1: (3, 1), 7: (2, 0)}), (5, "canary", {1: (5, 1), 7: (2, 0)})
    assert intake.take(report(first)).executions == {(5, "canary"): {1: (3, 1), 7: (2, 0)}}
    again = Intake(json.loads(json.dumps(intake.state())))
    for one in (again, intake):
        assert one.take(report(first)).executions == {}
        assert one.take(report(second)).executions == {(5, "canary"): {1: (2, 0)}}
        assert one.take(report(first)).executions == {}  # late
        assert one.take(report(second)).executions == {}
        assert one.take(NodeReport(node="n", run="r")).executions == {}  # of a node that does not count them
        assert one.take(report(second, run="s")).executions == {(5, "canary"): {1: (5, 1), 7: (2, 0)}}


def test_a_state_of_before_there_were_any_is_read() -> None:
    older = {"n": {"run": "r", "counts": {}, "shadow": {}, "cursors": {}, "lost": []}}
    assert Intake(older).take(report((5, "canary", {1: (3, 1)}))).executions == {(5, "canary"): {1: (3, 1)}}


def test_only_the_newest_revisions_are_told_and_remembered() -> None:
    node, intake = Node(1, policy()), Intake()
    node.limits = (1,) * BATCH_BUCKETS
    for revision in range(1, 60):
        node.revision = revision
        node.execute("canary", 1)
        reading = node.reporter.read({"w": node.page}, node.finals)
        found = intake.take(node.reporter.report(state(revision), reading, {}, {}))
        assert found.executions == {(revision, "canary"): {1: (0, 1)}}
    assert len(intake.state()["n"]["executions"]) == REVISIONS_TOLD


def test_a_report_of_every_bucket_fits_into_an_entry_and_keeps_a_tick_together() -> None:
    many = dict.fromkeys(SIZES, (10**9, 10**9))
    whole = report(*((10**6 + n, name, many) for n in range(REVISIONS_TOLD) for name in ("stable", "canary")))
    parts = parts_of(whole)
    assert [len(part.executions) for part in parts] == [0, 2 * REVISIONS_TOLD]
    assert max(len(encode(part)) for part in parts) < 64 * 1024


def test_executions_of_a_rollout_before_this_one_are_not_its() -> None:
    one = a_judge(policy())
    one.since = 6
    one.take(Intake().take(report((5, "canary", {1: (0, 9)}), (5, "stable", {1: (9, 0)}))), {})
    assert one.signs()[0].harm.all_events == 0


def test_what_the_plan_says_of_it() -> None:
    waits = {"metric": "queue_wait", "quantile": 0.95, "margin": {"ratio": 2}}
    errors = {"metric": "error_rate", "name": "errors", "outsideAlpha": True}
    of = policy(waits, {"metric": "compute_time", "margin": {"ratio": 1.5}}, errors)
    assert plan_of(of) == [
        "queue_wait-p95: holds while its units wait longer for their execution than p95 of stable's requests surely "
        "more than 2 times as often",
        "compute_time: holds while its executions last longer than p99 of stable's of the same batch size surely more "
        "than 1.5 times as often",
        "errors: rolls back while its units err surely more than 1.25 times as often",
    ]


def test_the_page_holds_one_block_for_each_variant_and_revision() -> None:
    one = page()
    limits = (0,) * (BATCH_BUCKETS - 1) + (RUN_BOUNDS_NS[50],)
    counted = Executions(one, "m", 5, "canary", "2", limits)
    counted.add(1, 10**9, 0)  # of a size whose quantile is not known
    counted.add(5_000, RUN_BOUNDS_NS[50], 0)
    counted.add(5_000, RUN_BOUNDS_NS[50] + 1, 0)
    counted.add(5_000, 10**18, -1)  # nobody drew lots for it
    (judged,) = [list(block) for key, block in one.blocks() if key == (EXECUTIONS_JUDGED, "m", "5", "canary")]
    assert (sum(judged), judged[-2:]) == (2, [1, 1])
    (times,) = [list(block) for key, block in one.blocks() if key == ("run-times", "m", "2")]
    assert sum(times) == 4
