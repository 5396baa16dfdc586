"""Two arms under one load: answers come in batches, each of one latency, and whole slots are slow for both."""

from dataclasses import dataclass

import numpy as np

from gateway.counters import DURATION_BOUNDS_NS
from gateway.monitor.latencies import SLOT_MS, Latencies

EDGES_MS = np.array(DURATION_BOUNDS_NS) / 1e6
DAY_MS = 86_400_000


@dataclass(frozen=True)
class World:
    """How the arms are loaded.

    Attributes:
        answers: of both arms in a slot.
        share: of the canary.
        batch: answers of one latency, on average; a small arm has smaller batches.
        pause: chance that an arm stands still for a tenth of a slot, 200 ms long, each arm for itself.
        spike: chance that a slot is three times as slow for both.
        ramp: over the whole run the load makes both slower by this factor and moves the canary's share to its double.
        slower: the canary's latency over that of the champion.
        nodes: that serve alike.
    """

    answers: int = 1_000
    share: float = 0.1
    batch: float = 1.0
    pause: float = 0.0
    spike: float = 0.0
    ramp: float = 1.0
    slower: float = 1.0
    nodes: int = 1


def arm(world: World, rng: np.random.Generator, answers: float, scale: float) -> np.ndarray:
    """Latency buckets of one arm in one slot."""
    batches = rng.poisson(answers / world.batch)
    sizes = 1 + rng.poisson(world.batch - 1.0, batches)
    latencies = 5.0 * scale * rng.lognormal(0.0, 0.6, batches)
    if rng.random() < world.pause:
        latencies[: batches // 10] += 200.0
    found: np.ndarray = np.bincount(np.searchsorted(EDGES_MS, latencies), sizes, len(EDGES_MS) + 1).astype(int)
    return found


def run(world: World, pair: Latencies, slots: int, rng: np.random.Generator, start_ms: int = 0) -> list[str]:
    """The state after each window that closes."""
    found, last = [], pair.last
    for at in range(slots):
        now_ms = start_ms + at * SLOT_MS
        done = at / slots
        scale = (3.0 if rng.random() < world.spike else 1.0) * (1.0 + (world.ramp - 1.0) * done)
        share = world.share * (1.0 + done if world.ramp > 1.0 else 1.0)
        for node in range(world.nodes):
            ours = arm(world, rng, world.answers * (1 - share), scale)
            theirs = arm(world, rng, world.answers * share, scale * world.slower)
            pair.take("champion", f"n{node}", ours.tolist(), now_ms)
            pair.take("canary", f"n{node}", theirs.tolist(), now_ms)
        if pair.last is not last:
            last = pair.last
            assert last is not None
            found.append(last.state)
    return found


def pair(floor: float = 0.0, distance_days: float = 30.0, least: int = 200) -> Latencies:
    return Latencies(least=least, distance_ms=int(distance_days * DAY_MS), floor=floor)
