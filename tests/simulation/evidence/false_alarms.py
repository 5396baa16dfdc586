"""T1-T4: how often identical variants are told apart, or a bad one is let through."""

import math

import numpy as np

from router.evidence import quantiles
from router.evidence.eprocess import EventShare, ScoreBins
from router.evidence.executions import ExecutionShare
from router.evidence.promotion import Margin, NonInferiority
from router.evidence.sequences import Moments
from tests.simulation.evidence import rules
from tests.simulation.evidence.results import Rate
from tests.simulation.evidence.streams import (
    MINUTE_TICKS,
    RAMP,
    STEP_TICKS,
    Floats,
    Ticks,
    incident,
    ramp,
    sticky_units,
    ticks,
)

ALPHA = 0.01
OURS = "event share"


def every_event(replicas: int, rate: float, weight: float, null_ratio: float = 1.0, per_look: int = 1) -> Rate:
    """T1: 40,000 requests, a look after every bad event (or every few), the canary exactly at the margin.

    That is where most is at stake: a canary that is better is accused more rarely.
    """
    rng = np.random.default_rng([1, int(rate * 1e4), int(weight * 1e4)])
    share = null_ratio * weight / (null_ratio * weight + 1 - weight)
    hits = 0
    for events in rng.binomial(40_000, rate * (1 + (null_ratio - 1) * weight), replicas).tolist():
        process = EventShare(null_ratio)
        for canary in rng.binomial(per_look, share, events // per_look).tolist():
            process.add(weight, canary, per_look)
        hits += process.crossed(ALPHA)
    looks = "every event" if per_look == 1 else f"every {per_look} events"
    setting = f"rate {rate:.1%}, weight {weight:.0%}, ratio = margin = {null_ratio:g}, {looks}"
    return Rate("T1", setting, OURS, hits, replicas, ALPHA)


def every_fifty_requests(replicas: int, rate: float, weight: float) -> list[Rate]:
    """T1 for the rules of others: identical variants, no ramp, no incident, a look every 50 requests."""
    rng = np.random.default_rng([2, int(rate * 1e4)])
    level, weights = np.full(800, rate), np.full(800, weight)
    each = [ticks(rng, weights, level, n=50) for _ in range(max(20, replicas // 8))]
    return _compare("T1", f"rate {rate:.1%}, weight {weight:.0%}, every 50 requests", each)


def _compare(test: str, setting: str, each: list[Ticks], per_minute: bool = False) -> list[Rate]:
    n = len(each)
    found = [
        Rate(test, setting, OURS, sum(rules.event_share(one, ALPHA) for one in each), n, ALPHA),
        Rate(test, setting, "z peeked at", sum(rules.naive_z(one, ALPHA) for one in each), n),
    ]
    few = each[:200]
    pooled = sum(rules.pooled_sequence(one, ALPHA) for one in few)
    found.append(Rate(test, setting, "pooled sequence", pooled, len(few)))
    if per_minute:
        found.append(Rate(test, setting, "Argo-like", sum(rules.argo_like(one) for one in each), n))
        found.append(Rate(test, setting, "Flagger-like", sum(rules.flagger_like(one) for one in each), n))
    return found


def adaptive_ramp(replicas: int, hostile: bool) -> Rate:
    """T2: the next weight follows from the evidence: careful while it grows, or (hostile) eager to see it grow."""
    rng = np.random.default_rng([3, hostile])
    hits = 0
    for _ in range(replicas):
        process, step = EventShare(1.0), 0
        for tick in range(300):
            if hostile:
                weight = (0.01, 0.5)[process.log_e > 0.5]
            else:
                step = min(3, step + 1) if tick % 30 == 29 and process.log_e < 0.5 else step
                weight = RAMP[step if process.log_e < 2.0 else 0]
            events = int(rng.poisson(2.0 + 2.0 * math.sin(tick / 20) ** 2))
            process.add(weight, int(rng.binomial(events, weight)), events)
        hits += process.crossed(ALPHA)
    return Rate("T2", "weight from the evidence" + (", hostile" if hostile else ""), OURS, hits, replicas, ALPHA)


def shared_incident(replicas: int, minutes: int) -> list[Rate]:
    """T3: both variants fail four times as often and answer 1.5 times slower for a while, on the ramp."""
    rng = np.random.default_rng([4, minutes])
    base, slow_by = incident(0.005, 4.0, minutes), incident(1.0, 1.5, minutes)
    each = [ticks(rng, ramp(), base) for _ in range(replicas)]
    slow = [ticks(rng, ramp(), slower_than_threshold(rng, slow_by)) for _ in range(replicas)]
    setting = f"errors x4, latency x1.5, {minutes} min"
    errors = _compare("T3", setting + ", errors", each, per_minute=True)
    latency = _compare("T3", setting + ", slower than T", slow)[:2]
    both = sum(
        rules.event_share(a, ALPHA, guardrails=2) or rules.event_share(b, ALPHA, guardrails=2)
        for a, b in zip(each, slow, strict=True)
    )
    return [Rate("T3", setting + ", both guardrails", OURS, both, replicas, ALPHA), *errors, *latency]


def slower_than_threshold(rng: np.random.Generator, slow_by: Floats) -> Floats:
    """Chance per tick to be slower than T: stable's p99 in the five minutes before the step, frozen for the step."""
    edges = quantiles.log_edges(0.05, 50.0, 1.05)
    window = 5 * MINUTE_TICKS
    chance = np.empty(len(slow_by))
    for step in range(len(RAMP)):
        begin = step * STEP_TICKS
        before = slow_by[begin - window : begin] if step else np.ones(window)
        seen = rng.lognormal(0.0, 0.5, (50, window)) * before
        counts = np.bincount(np.searchsorted(edges, seen.ravel()), minlength=len(edges)).tolist()
        threshold = quantiles.quantile_of_histogram(counts[: len(edges)], edges, 0.99)
        z = [math.log(threshold / factor) / 0.5 for factor in slow_by[begin : begin + STEP_TICKS].tolist()]
        chance[begin : begin + STEP_TICKS] = [0.5 * math.erfc(one / math.sqrt(2)) for one in z]
    return chance


def pooled_quantiles(replicas: int, per_step: int = 2_000) -> Rate:
    """T3 for the two-sample quantile test over the whole ramp, which is why it decides nothing."""
    rng = np.random.default_rng(5)
    edges = quantiles.log_edges(0.05, 50.0, 1.05)
    hits = 0
    for _ in range(replicas):
        a, b = np.zeros(len(edges), np.int64), np.zeros(len(edges), np.int64)
        least = 1.0
        for weight, factor in zip(RAMP, (1.0, 1.0, 1.5, 1.5), strict=True):
            for _ in range(5):
                n = per_step * 4
                canary = int(rng.binomial(n, weight))
                at = np.searchsorted(edges, rng.lognormal(0.0, 0.5, n) * factor)
                b += np.bincount(at[:canary], minlength=len(edges))[: len(edges)]
                a += np.bincount(at[canary:], minlength=len(edges))[: len(edges)]
                least = min(least, quantiles.quantile_p_of_histograms(a.tolist(), b.tolist(), 0.95, 1000))
        hits += least <= ALPHA
    return Rate("T3", "latency x1.5 from the third step", "two-sample p95, pooled", hits, replicas)


def clustered(replicas: int, per_unit: int, workers: int, requests: int = 20_000) -> list[Rate]:
    """T4: sticky units that err again and again; one event per unit and rollout, merged over workers."""
    rng = np.random.default_rng([6, per_unit, workers])
    hits = dict.fromkeys(("first per rollout", "first per 10 ticks", "every request"), 0)
    few = max(20, replicas // 8)
    for replica in range(replicas):
        events = sticky_units(rng, requests, per_unit, workers, 0.02, 1.0)
        kinds = {"first per rollout": events.first(events.index)}
        if replica < few:
            kinds["first per 10 ticks"] = events.first(events.tick // 10 * (1 << 20) + events.index)
            kinds["every request"] = events
        for name, kept in kinds.items():
            process = EventShare(1.0)
            for batch in kept.batches():
                process.add(*batch)
            hits[name] += process.crossed(ALPHA)
    setting = f"{per_unit} requests per unit, {workers} worker{'s' if workers > 1 else ''}"
    ours = Rate("T4", setting, f"{OURS}, first per rollout", hits.pop("first per rollout"), replicas, ALPHA)
    return [ours, *(Rate("T4", setting, f"{OURS}, {name}", n, few) for name, n in hits.items())]


def false_promotion(replicas: int, sticky: bool, beta: float = 0.05) -> Rate:
    """C2: a canary exactly at the ratio margin, and above the absolute one, must not be let through."""
    rng = np.random.default_rng([7, sticky])
    margin, weight, rate = Margin(1.25, 0.005), 0.3, 0.05
    hits = 0
    for _ in range(replicas):
        promotion = NonInferiority(margin, sticky=sticky)
        sums = np.zeros((2, 3))
        for _ in range(100):
            if sticky:
                _sticky_tick(rng, promotion, sums, weight, rate)
            else:
                canary = int(rng.binomial(500, weight))
                bad = int(rng.binomial(canary, 1.25 * rate))
                promotion.add(weight, bad, bad + int(rng.binomial(500 - canary, rate)), canary)
        hits += promotion.crossed(beta)
    setting = "canary at the margin" + (", sticky units" if sticky else "")
    return Rate("C2", setting, "non-inferiority", hits, replicas, beta)


def _sticky_tick(rng: np.random.Generator, promotion: NonInferiority, sums: Floats, weight: float, rate: float) -> None:
    """Fifty units come, make ten requests each and go; three in four never err."""
    canary = rng.random(50) < weight
    chance = np.minimum(1.0, rng.beta(0.2, 0.2 / rate - 0.2, 50) * np.where(canary, 1.25, 1.0))
    bad = rng.binomial(10, chance)
    for row, mask in enumerate((canary, ~canary)):
        rates = bad[mask] / 10
        sums[row] += (len(rates), rates.sum(), (rates**2).sum())
    erred = bad > 0
    promotion.add(weight, int(np.sum(erred & canary)), int(np.sum(erred)), int(np.sum(canary)))
    of_canary, of_stable = (Moments.of_sums(int(n), total, squares) for n, total, squares in sums.tolist())
    promotion.units(of_canary, of_stable)


def score_bins(replicas: int) -> Rate:
    """B4: the scores of both variants drift together on a ramp; ten bins."""
    rng = np.random.default_rng(8)
    hits = 0
    for _ in range(replicas):
        process = ScoreBins(10)
        for tick in range(60):
            weight = RAMP[tick // 15]
            tilt = np.exp(np.linspace(-1, 1, 10) * tick / 30)
            every = rng.multinomial(100, tilt / tilt.sum())
            process.add(weight, rng.binomial(every, weight).tolist(), every.tolist())
        hits += process.crossed(ALPHA)
    return Rate("B4", "scores of both variants drift, ramp", "score bins", hits, replicas, ALPHA)


def batch_buckets(replicas: int, margin: float = 1.0) -> Rate:
    """B3: slow executions by batch-size bucket, the canary's share from each tick's executions, not from the split."""
    rng = np.random.default_rng([9, int(margin * 100)])
    hits = 0
    for _ in range(replicas):
        share = ExecutionShare(margin)
        for tick in range(100):
            canary, stable = {}, {}
            for bucket, chance in ((0, 0.01), (1, 0.05), (2, 0.2)):
                slow = chance * (1 + (tick > 50))
                for arm, mean, rate in ((canary, 20 >> bucket, margin * slow), (stable, 40 << bucket, slow)):
                    every = int(rng.poisson(mean))
                    late = int(rng.binomial(every, rate))
                    arm[bucket] = (every - late, late)
            share.tick(canary, stable)
        hits += share.harm.crossed(ALPHA)
    setting = f"slow executions by batch size, shared slowdown, ratio = margin = {margin:g}"
    return Rate("B3", setting, OURS, hits, replicas, ALPHA)
