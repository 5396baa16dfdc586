"""A canary with three times the errors is found when the plan says, through the real policy and judge."""

import random
import statistics

import pytest

from gateway.control.intake import Delta
from gateway.control.judge import Judge
from gateway.exchange import Exchange
from gateway.tally import NOTE_BAD, NOTE_SEEN
from router.compiled import compile_policy
from router.evidence.planning import Guardrail, to_detect
from router.policy import parse

WEIGHT, BASE, RATIO, TICK = 0.1, 0.01, 3.0, 200
DOCUMENT = {
    "apiVersion": "tidegate/v1",
    "kind": "TrafficPolicy",
    "metadata": {"name": "m"},
    "spec": {
        "variants": [{"name": "stable", "model": "m:1"}, {"name": "canary", "model": "m:2"}],
        "unit": {"from": [{"header": "x-user-id"}]},
        "split": {"stable": 10_000},
        "rollout": {"to": "canary", "steps": [{"setWeight": 1000}, {"setWeight": 10_000}]},
    },
}


def canary_requests_until_found(seed: int, most: int) -> int:
    """Requests of the canary until the guardrail trips; each from a user of its own."""
    rng = random.Random(seed)
    policy = parse(DOCUMENT)
    rollout = policy.spec.rollout
    assert rollout is not None
    compiled = compile_policy(policy, bytes([0]) * 9000 + bytes([1]) * 1000, revision=2)
    judge = Judge(
        "one", rollout.analysis, sticky=True, variants=policy.names, stable="stable", canary="canary", since=2
    )
    weights = {"2": {"": compiled.strata[0].canary_weight}}
    tried = 0
    view = Exchange()
    while tried < most:
        delta = Delta()
        counts = {0: [0] * 6, 1: [0] * 6}
        for _ in range(TICK):
            view.headers = {b"x-user-id": b"u%d" % rng.getrandbits(48)}
            decision = compiled.decide(view)  # type: ignore[arg-type]  # it has the shape of a view
            bad = rng.random() < (BASE * RATIO if decision.variant else BASE)
            tried += decision.variant
            counts[decision.variant][0] += 1
            counts[decision.variant][2 if bad else 1] += 1
            flags = NOTE_SEEN | (NOTE_BAD if bad else 0)
            delta.notes.append((flags, 2, decision.stratum, decision.variant, decision.unit_hash & (1 << 63) - 1))
        for index, name in enumerate(policy.names):
            delta.counts[2, "", name] = tuple(counts[index])
        judge.take(delta, weights)
        if judge.verdicts(WEIGHT)["error_rate"].tripped:
            return tried
    return most


@pytest.mark.parametrize("runs", [8, pytest.param(100, marks=pytest.mark.sim)])
def test_three_times_the_errors_are_found_within_one_and_a_half_of_the_plan(runs: int) -> None:
    planned = to_detect(RATIO, WEIGHT, BASE, Guardrail())
    assert planned is not None
    found = [canary_requests_until_found(seed, int(20 * planned.canary)) for seed in range(runs)]
    middle = statistics.median(found)
    print(f"{middle:.0f} canary requests, plan {planned.canary:.0f}: {middle / planned.canary:.2f} x")
    assert middle <= 1.5 * planned.canary
