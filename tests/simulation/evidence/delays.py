"""T5-T7: how soon faults are found, how often intervals miss the truth, and mismatched samples."""

import math

import numpy as np

from gateway.control.rails import Rail
from router.evidence import planning, sequences, srm
from router.evidence.eprocess import EventShare
from router.evidence.planning import Guardrail
from router.evidence.promotion import Margin, NonInferiority
from router.evidence.sequences import Moments
from router.rollout_document import Metrics
from tests.simulation.evidence.results import Delay, Rate

ALPHA = 0.01


def _until_crossed(
    rng: np.random.Generator, process: EventShare, ratio: float, weight: float, base: float, limit: float
) -> tuple[float, int] | None:
    """Requests, and bad responses of the canary, until the guardrail trips; None = not within the limit."""
    rate, share = base * (1 - weight + weight * ratio), planning.share(ratio, weight)
    requests, bad = 0, 0
    while requests < limit:
        gaps, canary = rng.geometric(rate, 256).tolist(), (rng.random(256) < share).tolist()
        for gap, hit in zip(gaps, canary, strict=True):
            requests, bad = requests + gap, bad + hit
            process.add(weight, int(hit), 1)
            if process.crossed(ALPHA):
                return (requests, bad) if requests <= limit else None
    return None


def _delay(test: str, setting: str, found: list[tuple[float, int] | None], planned: float | None) -> Delay:
    times = [math.inf if one is None else one[0] for one in found]
    bads = [one[1] for one in found if one is not None]
    median, p90 = np.quantile(times, (0.5, 0.9), method="inverted_cdf")
    seen = len(bads) / len(found)
    mean = float(np.mean(times))
    return Delay(
        test, setting, float(median), float(p90), mean, seen, len(found), planned, float(np.median(bads or [0]))
    )


def fault(
    replicas: int, ratio: float, weight: float = 0.1, base: float = 0.01, null_ratio: float = 1.25, what: str = "errors"
) -> tuple[Delay, Rate]:
    """T5: the canary is bad from the begin. With it: how often the plan's "four of five" was not reached."""
    rng = np.random.default_rng([10, int(ratio * 1000), int(weight * 1000), int(base * 1e4)])
    guardrail = Guardrail(null_ratio, ALPHA)
    average = planning.to_detect(ratio, weight, base, guardrail)
    most = planning.to_detect(ratio, weight, base, guardrail, planning.POWER_80)
    assert average is not None
    assert most is not None
    found = [
        _until_crossed(rng, EventShare(null_ratio), ratio, weight, base, 20 * average.total) for _ in range(replicas)
    ]
    late = sum(one is None or one[0] > most.total for one in found)
    setting = f"{what} x{ratio:.3g}, weight {weight:.0%}, base {base:.1%}, margin {null_ratio:g}"
    return _delay("T5", setting, found, average.total), Rate("T5", setting, "later than planned", late, replicas, 0.2)


def slower(replicas: int, quantile: float, factor: float) -> tuple[Delay, Rate]:
    """T5 for latency: lognormal times `factor`, judged by the share slower than stable's quantile."""
    tail = 1.0 - quantile
    z = {0.95: 1.6448536269514722, 0.99: 2.3263478740408408}[quantile] - math.log(factor) / 0.5
    ratio = 0.5 * math.erfc(z / math.sqrt(2)) / tail
    return fault(replicas, ratio, 0.1, tail, 1.1, f"latency x{factor:g} at p{quantile * 100:.0f}: slow requests")


def step_left(replicas: int, weight: float, before: int, base: float = 0.02, ratio: float = 3.0) -> Rate:
    """C1: a fault that begins with a step, after so many bad events; how often the step may be left before it trips."""
    rng = np.random.default_rng([14, int(weight * 1000), before])
    left = tried = 0
    most = planning.to_detect(ratio, weight, base, Guardrail(), planning.POWER_80)
    assert most is not None
    look = math.ceil(most.total / 25)
    while tried < replicas:
        rail = Rail(Metrics(metric="error_rate"), sticky=False)
        for events in rng.multinomial(before, [1 / max(1, before // 10)] * max(1, before // 10)).tolist():
            rail.harmed(weight, int(rng.binomial(events, weight)), events)
        if rail.harm.crossed(ALPHA):
            continue
        rail.new_step()
        tried += 1
        left += _leaves(rng, rail, weight, base, ratio, look)
    setting = f"errors x{ratio:g} from a step's begin, weight {weight:.0%}, {before:,} bad events before"
    return Rate("C1", setting, "the step is left first", left, replicas, 0.2)


def _leaves(rng: np.random.Generator, rail: Rail, weight: float, base: float, ratio: float, look: int) -> bool:
    canary = stable = 0
    while True:
        more = int(rng.binomial(look, weight))
        canary, stable = canary + more, stable + look - more
        bad = int(rng.binomial(more, base * ratio))
        rail.harmed(weight, bad, bad + int(rng.binomial(look - more, base)))
        if rail.harm.crossed(ALPHA):
            return False
        seen = rail.detectable(canary, stable, weight, ALPHA, 1)
        if seen is not None and seen <= ratio:
            return True


def late_fault(replicas: int, starts: bool, healthy: int = 100_000) -> tuple[Delay, Rate]:
    """T5: ten times the errors after 100,000 healthy requests; with the mixture over starts and without."""
    rng = np.random.default_rng(11)
    found: list[tuple[float, int] | None] = []
    for _ in range(replicas):
        process = EventShare(1.25, (), 50 if starts else 0)
        for hit in (rng.random(int(rng.binomial(healthy, 0.01))) < 0.1).tolist():
            process.add(0.1, int(hit), 1)
        if not process.crossed(ALPHA):
            found.append(_until_crossed(rng, process, 10.0, 0.1, 0.01, 30_000))
    late = sum(one is None or one[0] > 4_000 for one in found)
    setting = f"x10 after {healthy:,} healthy, weight 10%, base 1%, margin 1.25"
    name = "not within 4,000" if starts else "one start: not within 4,000"
    limit = 0.02 if starts else None
    delay = _delay("T5", setting + ("" if starts else ", one start"), found, None)
    return delay, Rate("T5", setting, name, late, len(found), limit)


def promotion(replicas: int, base: float, weight: float, ratio: float = 1.0) -> Delay:
    """C2: how long until a good canary is let through."""
    rng = np.random.default_rng([12, int(base * 1e4), int(weight * 100)])
    planned = planning.to_promote(ratio, weight, base, Margin())
    assert planned is not None
    step, found = max(20, int(planned.total / 200)), []
    for _ in range(replicas):
        process, requests, bad = NonInferiority(), 0, 0
        while not process.crossed(0.05) and requests < 10 * planned.total:
            canary = int(rng.binomial(step, weight))
            hit = int(rng.binomial(canary, base * ratio))
            process.add(weight, hit, hit + int(rng.binomial(step - canary, base)), canary)
            requests, bad = requests + step, bad + hit
        found.append((float(requests), bad) if process.crossed(0.05) else None)
    setting = f"promotion, ratio {ratio:g}, base {base:.1%}, weight {weight:.0%}"
    return _delay("C2", setting, found, planned.total)


def coverage_of_rates(replicas: int, rate: float) -> Rate:
    """T6: is the true rate ever outside, over 400 looks; and when somebody stops at the most extreme one."""
    rng = np.random.default_rng([13, int(rate * 1000)])
    mixture = sequences.BetaBinomial(1000 * rate * (1 - rate), rate, 1 - rate)
    missed = 0
    for _ in range(replicas):
        bad = np.cumsum(rng.binomial(25, rate, 400)).tolist()
        worst = max(range(400), key=lambda i: abs(bad[i] - rate * 25 * (i + 1)) / math.sqrt(i + 1.0))
        ever = any(
            mixture.log_e(x - rate * 25 * (i + 1), rate * (1 - rate) * 25 * (i + 1)) >= -math.log(0.05)
            for i, x in enumerate(bad)
        )
        stopped = sequences.bernoulli_interval(bad[worst], 25 * (worst + 1), 0.05)
        outside = not stopped.low <= rate <= stopped.high
        assert ever or not outside, "the interval and its mixture disagree"
        missed += ever
    return Rate("T6", f"rate {rate:.1%}, 400 looks", "Bernoulli sequence", missed, replicas, 0.05)


def coverage_of_means(replicas: int) -> Rate:
    """T6: difference of skewed means of two variants, from 100 units each, looked at every 50 units."""
    rng = np.random.default_rng(14)
    missed = 0
    for _ in range(replicas):
        a, b = rng.exponential(1.0, (200, 50)), rng.exponential(1.0, (200, 50))
        sums = [np.cumsum(x) for x in (a.sum(1), (a**2).sum(1), b.sum(1), (b**2).sum(1))]
        for look in range(2, 200):
            n = 50 * (look + 1)
            first, second = (Moments.of_sums(n, float(sums[i][look]), float(sums[i + 1][look])) for i in (0, 2))
            interval = sequences.asymptotic_interval(sequences.difference(first, second), 0.05)
            if not interval.low <= 0.0 <= interval.high:
                missed += 1
                break
    return Rate("T6", "exponential values, 198 looks", "asymptotic sequence", missed, replicas, 0.05)


def mismatch_when_healthy(replicas: int) -> list[Rate]:
    """T7: distinct units on a ramp, and the same test fed with requests of sticky units."""
    rng = np.random.default_rng(15)
    hits = dict.fromkeys(("distinct units", "requests of sticky units", "chi-square peeked at"), 0)
    for _ in range(replicas):
        units, requests, peeked = srm.SampleRatio(), srm.SampleRatio(), 1.0
        totals = np.zeros(2)
        for weight in (0.05, 0.1, 0.25, 0.5):
            for _ in range(25):
                canary = int(rng.binomial(200, weight))
                units.add([weight, 1 - weight], [canary, 200 - canary])
                many = rng.geometric(1 / 50, 200)
                requests.add([weight, 1 - weight], [int(many[:canary].sum()), int(many[canary:].sum())])
                totals += (canary, 200 - canary)
                peeked = min(peeked, srm.chi_square_p([weight, 1 - weight], [int(x) for x in totals]))
            totals[:] = 0
        hits["distinct units"] += units.mismatch
        hits["requests of sticky units"] += requests.mismatch
        hits["chi-square peeked at"] += peeked <= srm.THRESHOLD
    return [
        Rate("T7", "healthy split, ramp", name, n, replicas, srm.THRESHOLD if name == "distinct units" else None)
        for name, n in hits.items()
    ]


def leak(replicas: int, lost: float) -> Delay:
    """T7: a share of the canary's units never arrives, at 50 %."""
    rng = np.random.default_rng([16, int(lost * 1000)])
    found: list[tuple[float, int] | None] = []
    for _ in range(replicas):
        test, units = srm.SampleRatio(), 0
        while not test.mismatch and units < 4_000_000:
            sent = int(rng.binomial(4_000, 0.5))
            test.add([0.5, 0.5], [int(rng.binomial(sent, 1 - lost)), 4_000 - sent])
            units += 4_000
        found.append((float(units), 0) if test.mismatch else None)
    return _delay("T7", f"{lost:.0%} of the canary's units lost, weight 50%", found, None)
