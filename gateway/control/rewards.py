"""Rewards of one experiment, kept by unit: what its intervals are made of. Pure.

A unit, not a prediction, is evidence. So per goal, group (what was randomised alike) and variant every unit has one
value: the mean of its rewards, or for a proportion whether any was above 0. Rewards stand one by one under their unit,
so that taking the same again changes nothing, whoever sends it and however often.

Bounds: 100,000 rewards per experiment; above that every other unit is dropped, by a hash that knows nothing of the
variant, and the same units of all goals and variants. 256 rewards per unit and goal; later ones are counted, not kept.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Final

from msgspec import Struct

from router.evidence.sequences import Moments
from router.hashing import MAX_DOUBLINGS, in_sample

MOST_KEPT: Final = 100_000
MOST_OF_UNIT: Final = 256
SHARDS: Final = 16
"""Documents of a store are at most 1 MiB; a full experiment is about 4 MiB."""
DELAYS_S: Final = (1, 10, 60, 600, 3_600, 21_600, 86_400, 604_800)
"""Upper edges of the buckets of "how long after the prediction"; the last bucket has none."""
_WHOLE: Final = (1 << 20) - 1

Group = tuple[str, int]
"""Epoch and stratum: within it the shares never change."""
Place = tuple[str, str, int, int]
"""Goal, epoch, stratum, variant."""
Units = dict[int, dict[int, float]]
"""Unit -> `row_key` -> value."""


class Reward(Struct, frozen=True, array_like=True):
    """One reward, as it goes through the store's stream.

    Attributes:
        epoch, stratum, variant: where its request was randomised, and to whom.
        unit: keyed hash of the unit, 63 bits.
        row: `row_key` of the prediction.
        delay_s: from the prediction to its outcome.
    """

    goal: str
    epoch: str
    stratum: int
    variant: int
    unit: int
    row: int
    value: float
    delay_s: int


def row_key(prediction_id: str, row: int | None) -> int:
    """A prediction within its unit: 43 bits of the id's hash, and the row of a request of several."""
    digest = int.from_bytes(blake2b(prediction_id.encode(), digest_size=8).digest(), "big") >> 21
    return digest << 20 | (_WHOLE if row is None else row)


@dataclass(slots=True)
class Sums:
    """Of one value per unit, around the first value, so that large means do not eat small differences."""

    n: int = 0
    around: float = 0.0
    total: float = 0.0
    squares: float = 0.0

    def add(self, value: float, sign: int) -> None:
        """A unit's value comes (1) or goes (-1)."""
        if not self.n:
            self.around, self.total, self.squares = value, 0.0, 0.0
        self.n += sign
        self.total += sign * (value - self.around)
        self.squares += sign * (value - self.around) ** 2

    @property
    def moments(self) -> Moments:
        """Mean and unbiased variance."""
        if not self.n:
            return Moments(0, 0.0, 0.0)
        spread = max(0.0, self.squares - self.total**2 / self.n)
        return Moments(self.n, self.around + self.total / self.n, spread / (self.n - 1) if self.n > 1 else 0.0)


@dataclass(slots=True)
class Rewards:
    """All that is kept of one experiment.

    Attributes:
        proportions: goals whose unit value is 0 or 1.
        doublings: units of a share of 1/2^doublings are kept.
        kept: rewards.
        overfull: rewards beyond 256 of a unit, not kept.
        delays: variant -> counts per bucket of `DELAYS_S`.
    """

    proportions: frozenset[str] = frozenset()
    doublings: int = 0
    kept: int = 0
    overfull: int = 0
    delays: dict[int, list[int]] = field(default_factory=dict)
    _shards: list[dict[Place, Units]] = field(default_factory=lambda: [{} for _ in range(SHARDS)])
    _sums: dict[Place, Sums] = field(default_factory=dict)
    _predictions: dict[tuple[str, int], int] = field(default_factory=dict)
    changed: set[int] = field(default_factory=set)

    def take(self, reward: Reward) -> bool:
        """Keep a reward; one that was there before under the same prediction is replaced. False = nothing changed."""
        if not in_sample(reward.unit, self.doublings):
            return False
        place = (reward.goal, reward.epoch, reward.stratum, reward.variant)
        units = self._shards[reward.unit % SHARDS].setdefault(place, {})
        rows = units.get(reward.unit)
        known = None if rows is None else rows.get(reward.row)
        if known == reward.value:
            return False
        if rows is not None and known is None and len(rows) >= MOST_OF_UNIT:
            self.overfull += 1
            return False
        sums = self._sums.setdefault(place, Sums())
        if rows is None:
            rows = units[reward.unit] = {}
        else:
            sums.add(self._value(reward.goal, rows), -1)
        if known is None:
            asked = (reward.goal, reward.variant)
            of_others = any(row >> 20 == reward.row >> 20 for row in rows)
            self._predictions[asked] = self._predictions.get(asked, 0) + (not of_others)
        rows[reward.row] = reward.value
        sums.add(self._value(reward.goal, rows), 1)
        self.changed.add(reward.unit % SHARDS)
        if known is None:
            self._count(reward)
        return True

    def _count(self, reward: Reward) -> None:
        self.kept += 1
        delays = self.delays.setdefault(reward.variant, [0] * (len(DELAYS_S) + 1))
        delays[sum(reward.delay_s >= edge for edge in DELAYS_S)] += 1
        while self.kept > MOST_KEPT and self.doublings < MAX_DOUBLINGS:
            self._thin()

    def _value(self, goal: str, rows: Mapping[int, float]) -> float:
        if goal in self.proportions:
            return 1.0 if any(value > 0.0 for value in rows.values()) else 0.0
        return sum(rows.values()) / len(rows)

    def _thin(self) -> None:
        """Half of the units are kept no longer."""
        self.doublings += 1
        for shard in self._shards:
            for place, units in shard.items():
                shard[place] = {u: rows for u, rows in units.items() if in_sample(u, self.doublings)}
        self.changed = set(range(SHARDS))
        self._sum_up()

    def _sum_up(self) -> None:
        self.kept = 0
        self._sums = {}
        self._predictions = {}
        for place, units in self._every():
            sums, asked = self._sums.setdefault(place, Sums()), (place[0], place[3])
            for rows in units.values():
                sums.add(self._value(place[0], rows), 1)
                self.kept += len(rows)
                self._predictions[asked] = self._predictions.get(asked, 0) + len({row >> 20 for row in rows})

    def _every(self) -> Iterator[tuple[Place, Units]]:
        for shard in self._shards:
            yield from shard.items()

    def holds(self, unit: int) -> bool:
        """Whether there is a reward of a unit."""
        return any(unit in units for units in self._shards[unit % SHARDS].values())

    def units(self) -> set[int]:
        """Units that there is a reward of."""
        return {unit for _, units in self._every() for unit in units}

    def forget(self, unit: int) -> bool:
        """Erase a unit; whether there was anything of it. Its shard is saved anew: the one in the store may have it."""
        self.changed.add(unit % SHARDS)
        found = [units.pop(unit, None) for units in self._shards[unit % SHARDS].values()]
        if not any(found):
            return False
        self._sum_up()
        return True

    # ---- reading ----

    def groups(self, goal: str) -> dict[Group, dict[int, Moments]]:
        """Group -> variant -> moments of its units."""
        found: dict[Group, dict[int, Moments]] = {}
        for (name, epoch, stratum, variant), sums in sorted(self._sums.items()):
            if name == goal and sums.n:
                found.setdefault((epoch, stratum), {})[variant] = sums.moments
        return found

    def predictions(self, goal: str) -> dict[int, int]:
        """Variant -> requests for which a reward came, scaled up where units were dropped."""
        return {
            variant: count << self.doublings for (name, variant), count in self._predictions.items() if name == goal
        }

    # ---- state ----

    def shard(self, number: int) -> list[Any]:
        """The rewards of every sixteenth unit, as msgpack holds them exactly."""
        return [
            (*place, [[unit, *_flat(rows)] for unit, rows in units.items()])
            for place, units in self._shards[number].items()
            if units
        ]

    def restore(
        self, shards: Sequence[Sequence[Any]], doublings: int, overfull: int, delays: Mapping[int, Any]
    ) -> None:
        """Begin with what was saved."""
        self.doublings, self.overfull = doublings, overfull
        self.delays = {int(variant): list(counts) for variant, counts in delays.items()}
        self._shards = [{} for _ in range(SHARDS)]
        for shard in shards:
            for goal, epoch, stratum, variant, listed in shard:
                for unit, *flat in listed:
                    if in_sample(unit, doublings):
                        units = self._shards[unit % SHARDS].setdefault((goal, epoch, stratum, variant), {})
                        units[unit] = dict(zip(flat[::2], flat[1::2], strict=True))
        self._sum_up()
        self.changed = set()


def _flat(rows: Mapping[int, float]) -> list[float]:
    return [part for row in rows.items() for part in row]
