"""Traffic of a rollout as counts per tick, and as single bad events. Numbers from a seed; nothing here decides."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
RAMP = (0.05, 0.10, 0.25, 0.50)
TICK_REQUESTS = 500  # 5 s at 100 requests/s
MINUTE_TICKS = 12
STEP_TICKS = 10 * MINUTE_TICKS


@dataclass(frozen=True)
class Ticks:
    """One replica: per tick the weight in force and what happened."""

    weight: Floats
    canary: Ints
    canary_bad: Ints
    total: Ints
    all_bad: Ints

    def batches(self) -> Iterator[tuple[float, int, int]]:
        """What an `EventShare` takes, ticks without events left out (they change nothing)."""
        for weight, canary, every in zip(
            self.weight.tolist(), self.canary_bad.tolist(), self.all_bad.tolist(), strict=True
        ):
            if every:
                yield weight, canary, every


def ticks(rng: np.random.Generator, weight: Floats, base: Floats, ratio: float = 1.0, n: int = TICK_REQUESTS) -> Ticks:
    """Requests split by `weight`; stable fails with chance `base`, the canary with `ratio` times that."""
    canary = rng.binomial(n, weight)
    canary_bad = rng.binomial(canary, np.minimum(1.0, base * ratio))
    stable_bad = rng.binomial(n - canary, base)
    return Ticks(weight, canary, canary_bad, np.full(len(weight), n), canary_bad + stable_bad)


def ramp() -> Floats:
    """The weight of each tick: four steps of ten minutes."""
    return np.repeat(np.array(RAMP), STEP_TICKS)


def incident(normal: float, factor: float, minutes: int, start_minute: int = 17) -> Floats:
    """A level per tick of the ramp, `factor` times as high for some minutes, by default over a change of step."""
    level = np.full(len(RAMP) * STEP_TICKS, normal)
    level[start_minute * MINUTE_TICKS : (start_minute + minutes) * MINUTE_TICKS] *= factor
    return level


@dataclass(frozen=True)
class UnitEvents:
    """Bad requests of sticky units in the order in which control hears of them."""

    index: Ints
    weight: Floats
    on_canary: npt.NDArray[np.bool_]
    tick: Ints

    def first(self, keys: Ints) -> "UnitEvents":
        """Only the first of each key, order kept."""
        _, at = np.unique(keys, return_index=True)
        at.sort()
        return UnitEvents(self.index[at], self.weight[at], self.on_canary[at], self.tick[at])

    def batches(self) -> Iterator[tuple[float, int, int]]:
        """Per tick and weight, what an `EventShare` takes."""
        if not len(self.tick):
            return
        key = self.tick * 16 + np.searchsorted(np.array(RAMP), self.weight)
        kinds, inverse = np.unique(key, return_inverse=True)
        every = np.bincount(inverse)
        canary = np.bincount(inverse, weights=self.on_canary).astype(np.int64)
        for kind, of_canary, of_all in zip(kinds.tolist(), canary.tolist(), every.tolist(), strict=True):
            yield RAMP[kind % 16], of_canary, of_all


def sticky_units(
    rng: np.random.Generator, requests: int, per_unit: int, workers: int, rate: float, spread: float, bits: int = 20
) -> UnitEvents:
    """Identical variants, units with their own chance to err, on a ramp.

    Each unit has a Beta chance of mean `rate` (`spread` = sum of its parameters: small = few units err, and often),
    a place among the slots and an index of `bits` bits. Requests go to any worker; workers change step up to 3 ticks
    apart, and report per tick.
    """
    units = max(2, requests // per_unit)
    chance = rng.beta(rate * spread, (1.0 - rate) * spread, units)
    slot, index = rng.random(units), rng.integers(0, 1 << bits, units)
    unit = rng.integers(0, units, requests)
    bad = np.flatnonzero(rng.random(requests) < chance[unit])
    unit = unit[bad]
    tick = bad * 200 // requests
    worker = rng.integers(0, workers, len(bad))
    lag = rng.integers(0, 4 if workers > 1 else 1, workers)
    step = np.clip((tick - lag[worker]) // 50, 0, len(RAMP) - 1)
    weight = np.array(RAMP)[step]
    order = np.lexsort((bad, worker, tick))
    return UnitEvents(index[unit][order], weight[order], (slot[unit] < weight)[order], tick[order])
