"""Windows without drift, as many as wanted: counts are drawn, then judged by the code that judges real ones."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gateway.monitor.distances import grouped, psi, regroup, smoothed
from gateway.monitor.families import FamilyState, Key, Persistence, window_alpha
from gateway.monitor.significance import binomial_rise, homogeneity
from router.evidence.special import chi_square_above

QUALITY_RATES = (0.02, 0.001, 0.001, 0.0, 0.0005, 0.0)
"""missing, below, above, infinite, unseen, type error: of a common feature."""


@dataclass(frozen=True)
class World:
    """What is served.

    Attributes:
        shares: of each feature's bins.
        m: rows of the reference.
        n: rows of a window.
        ordered: features are numbers.
        floor: PSI.
    """

    shares: Sequence[np.ndarray]
    m: int
    n: int
    ordered: bool = True
    floor: float = 0.0


def even(features: int, bins: int) -> list[np.ndarray]:
    """Features with quantile bins."""
    return [np.full(bins, 1.0 / bins)] * features


def skewed(features: int, bins: int) -> list[np.ndarray]:
    """Categories, each half as common as the one before: the last ones are rare."""
    share = 0.5 ** np.arange(1, bins + 1)
    return [share / share.sum()] * features


def input_keys(world: World, references: list[np.ndarray], rng: np.random.Generator) -> list[Key]:
    """One window of the input family."""
    keys = []
    for at, (share, reference) in enumerate(zip(world.shares, references, strict=True)):
        current = rng.multinomial(world.n, share)
        effect = 0.0
        if world.floor:
            groups = regroup(reference, current, world.ordered)
            effect = psi(*smoothed(grouped(reference, groups), grouped(current, groups)))
        keys.append(Key(f"f{at}", homogeneity(reference, current, world.ordered).p_value, effect, world.floor))
    return keys


def quality_keys(world: World, references: list[np.ndarray], rng: np.random.Generator, floor: float = 0.0) -> list[Key]:
    """One window of the quality family."""
    keys = []
    for at, reference in enumerate(references):
        current = rng.binomial(world.n, QUALITY_RATES)
        for word, (k, k_ref) in enumerate(zip(current, reference, strict=True)):
            p = binomial_rise(int(k), world.n, int(k_ref), world.m)
            keys.append(Key(f"f{at}.{word}", p, max(0.0, k / world.n - k_ref / world.m), floor))
    return keys


def alarms(
    world: World, target: float, references: int, windows: int, seed: int, family: str = "input", floor: float = 0.0
) -> int:
    """How often the family fires, over so many references with so many windows each.

    Args:
        target: asked for: alarms per window.
    """
    rng = np.random.default_rng(seed)
    alpha = window_alpha(1.0, target, 1.0)
    fired = 0
    for _ in range(references):
        state = FamilyState()
        if family == "input":
            reference = [rng.multinomial(world.m, share) for share in world.shares]
        else:
            reference = [rng.binomial(world.m, QUALITY_RATES) for _ in world.shares]
        for _ in range(windows):
            keys = (
                input_keys(world, reference, rng) if family == "input" else quality_keys(world, reference, rng, floor)
            )
            fired += state.close(keys, alpha).fired
    return fired


def mean_limits(count: int, confidence: float = 0.99) -> tuple[float, float]:
    """Exact interval of the mean of a Poisson count."""
    tail = (1.0 - confidence) / 2.0

    def solved(events: int, probability: float) -> float:
        # P(Poisson(mean) < events) = P(chi-square of 2 events > 2 mean)
        low, high = 0.0, 10.0 * events + 50.0
        for _ in range(200):
            middle = (low + high) / 2.0
            low, high = (middle, high) if chi_square_above(2.0 * middle, 2 * events) > probability else (low, middle)
        return low

    return (solved(count, 1.0 - tail) if count else 0.0), solved(count + 1, tail)


def distance_limits(asked: float, count: int) -> tuple[float, float, float]:
    """Distance between alarms in multiples of the requested one: lower limit, estimate, upper limit (99 %).

    Args:
        asked: alarms there would be at the requested distance.
        count: alarms there were.
    """
    low, high = mean_limits(count)
    return asked / high, asked / max(count, 1), asked / low if low else float("inf")


def exact_distance(target: float) -> float:
    """Distance between alarms in multiples of the requested one, where p-values are even.

    Args:
        target: alarms asked for in a window.
    """
    # All states with their probabilities, until these no longer change.
    alpha = window_alpha(1.0, target, 1.0)
    chances, fired = {json.dumps(Persistence().plain()): 1.0}, 0.0
    for _ in range(400):
        later: dict[str, float] = defaultdict(float)
        fired = 0.0
        for plain, chance in chances.items():
            for hit, probability in ((True, alpha), (False, 1.0 - alpha)):
                persistence = Persistence()
                persistence.restore(json.loads(plain))
                before = persistence.state
                began = persistence.close(hit) == "firing" and before != "firing"
                fired += chance * probability * began
                later[json.dumps(_forgetful(persistence.plain()))] += chance * probability
        chances = later
    return target / fired


def _forgetful(plain: dict[str, Any]) -> dict[str, Any]:
    """Clean windows beyond two say nothing new."""
    return plain | {"clean_windows": min(2, plain["clean_windows"])}
