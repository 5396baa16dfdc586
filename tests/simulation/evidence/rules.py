"""Rules that say "roll back": ours through the real code, and those of others for comparison."""

import numpy as np

from router.evidence.eprocess import EventShare
from router.evidence.sequences import Moments, asymptotic_interval, difference
from tests.simulation.evidence.streams import MINUTE_TICKS, Ints, Ticks

Z = {0.01: 2.3263478740408408, 0.05: 1.6448536269514722}


def event_share(traffic: Ticks, alpha: float, null_ratio: float = 1.0, guardrails: int = 1) -> bool:
    """The guardrail as it is built, looked at after each tick."""
    process = EventShare(null_ratio)
    for batch in traffic.batches():
        process.add(*batch)
    return process.crossed(alpha, guardrails)


def _sums(traffic: Ticks) -> tuple[Ints, Ints, Ints, Ints]:
    canary, canary_bad = np.cumsum(traffic.canary), np.cumsum(traffic.canary_bad)
    return canary, canary_bad, np.cumsum(traffic.total) - canary, np.cumsum(traffic.all_bad) - canary_bad


def naive_z(traffic: Ticks, alpha: float) -> bool:
    """One-sided z-test of all counts so far, looked at after each tick."""
    n, bad, m, other = (x.astype(np.float64) for x in _sums(traffic))
    seen = (n >= 100) & (m >= 100) & (bad + other >= 5)
    n, bad, m, other = n[seen], bad[seen], m[seen], other[seen]
    rate = (bad + other) / (n + m)
    z = (bad / n - other / m) / np.sqrt(rate * (1 - rate) * (1 / n + 1 / m))
    return bool(np.any(z > Z[alpha]))


def pooled_sequence(traffic: Ticks, alpha: float) -> bool:
    """The asymptotic confidence sequence of the difference of all counts so far: valid under peeking, but pooled."""
    for n, bad, m, other in zip(*(x[9::10].tolist() for x in _sums(traffic)), strict=True):
        if min(n, m) >= 100 and bad + other:
            of_canary, of_stable = Moments.of_sums(n, bad, bad), Moments.of_sums(m, other, other)
            if asymptotic_interval(difference(of_stable, of_canary), alpha, 5000, "lower").low > 0.0:
                return True
    return False


def _failed_minutes(traffic: Ticks, threshold: float) -> int:
    minutes = len(traffic.canary) // MINUTE_TICKS * MINUTE_TICKS
    canary = traffic.canary[:minutes].reshape(-1, MINUTE_TICKS).sum(axis=1)
    bad = traffic.canary_bad[:minutes].reshape(-1, MINUTE_TICKS).sum(axis=1)
    return int(np.sum(bad > threshold * canary))


def argo_like(traffic: Ticks, threshold: float = 0.01) -> bool:
    """The canary's success rate per minute against a fixed 99 %; failureLimit 3 = the fourth failure ends it."""
    return _failed_minutes(traffic, threshold) > 3


def flagger_like(traffic: Ticks, threshold: float = 0.01) -> bool:
    """The same check each interval of a minute; ten failed checks, as in its documentation, end it."""
    return _failed_minutes(traffic, threshold) >= 10
