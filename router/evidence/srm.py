"""Sample ratio mismatch: did as many units arrive at each variant as the split says? Pure.

A mismatch is not a property of the canary. It says that assignment, counting or delivery is broken, and that no
comparison can be trusted. So it holds a rollout; it neither promotes nor rolls back.

What is counted are *distinct units* by first sight, never requests: with sticky units requests come in clumps, and the
same test on requests is wrong in half of all healthy rollouts.

Sources: Lindon and Malek (arXiv 2011.03567) for the sequential test; Fabijan et al. (2019) for the threshold.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from router.evidence.checks import check_open, count, fields, number, numbers
from router.evidence.special import chi_square_above

THRESHOLD: Final = 0.001
"""p-value at and below which a rollout is held."""
CONCENTRATION: Final = 10_000.0
"""How near to the intended shares the alternative lies: large, because real mismatches are small."""
MAX_EPOCHS: Final = 1_000
"""Different splits remembered; a rollout has as many as it has steps and strata."""

Weights = tuple[float, ...]


class SampleRatio:
    """Sequential test of counts against the intended shares, which may change: valid at any time.

    For each split in force the Bayes factor of a Dirichlet-multinomial around the shares against the shares themselves;
    the product over splits is an e-process, and 1 / (its largest value) a p-value.

    Raises:
        ValueError: a concentration that is not positive.
    """

    __slots__ = ("_counts", "concentration", "log_e", "peak_log_e")

    def __init__(self, concentration: float = CONCENTRATION) -> None:
        check_open(concentration, "concentration")
        self.concentration = float(concentration)
        self.log_e = 0.0
        self.peak_log_e = 0.0
        self._counts: dict[Weights, tuple[int, ...]] = {}

    def add(self, weights: Sequence[float], counts: Sequence[int]) -> float:
        """Take in units seen for the first time, under one split. Returns `log_e`.

        Args:
            weights: intended share of each variant; scaled to a sum of 1. A variant without share takes no part.
            counts: new units of each variant.

        Raises:
            ValueError: unequal lengths, negative or no weights, negative counts, units of a variant without share, or
                more than 1,000 different splits.
        """
        key, units = _taking_part(weights, counts)
        if len(key) < 2 or not any(units):
            return self.log_e
        if key not in self._counts and len(self._counts) >= MAX_EPOCHS:
            raise ValueError(f"expected at most {MAX_EPOCHS} different splits, got one more")
        before = self._counts.get(key, (0,) * len(key))
        after = tuple(old + new for old, new in zip(before, units, strict=True))
        self.log_e += self._log_factor(key, after) - self._log_factor(key, before)
        self._counts[key] = after
        self.peak_log_e = max(self.peak_log_e, self.log_e)
        return self.log_e

    @property
    def min_p(self) -> float:
        """The smallest p-value so far, which is valid at any time."""
        return math.exp(-self.peak_log_e)

    @property
    def mismatch(self) -> bool:
        """Whether the rollout is to be held. Once true, it stays true."""
        return self.min_p <= THRESHOLD

    def state(self) -> dict[str, Any]:
        """Everything, for `from_state`, as JSON holds it exactly."""
        return {
            "concentration": self.concentration,
            "log_e": self.log_e,
            "peak_log_e": self.peak_log_e,
            "splits": [{"weights": list(weights), "counts": list(units)} for weights, units in self._counts.items()],
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "SampleRatio":
        """The test that `state` was taken from; goes on to the bit.

        Raises:
            ValueError: a field is missing, of another type or not finite.
        """
        fields(state, {"concentration", "log_e", "peak_log_e", "splits"})
        test = cls(number(state, "concentration"))
        test.log_e, test.peak_log_e = number(state, "log_e"), number(state, "peak_log_e")
        splits = state["splits"]
        if not isinstance(splits, list) or len(splits) > MAX_EPOCHS:
            raise ValueError(f"state: splits: expected a list of at most {MAX_EPOCHS}, got {splits!r}")
        for split in splits:
            weights = tuple(numbers(fields(split, {"weights", "counts"}), "weights", 0))
            numbers(split, "counts", len(weights))
            test._counts[weights] = tuple(count({"count": units}, "count") for units in split["counts"])
        return test

    def _log_factor(self, weights: Weights, counts: Sequence[int]) -> float:
        prior = [self.concentration * weight for weight in weights]
        return log_dirichlet_multinomial(counts, prior) - log_multinomial(counts, weights)


def log_dirichlet_multinomial(counts: Sequence[int], concentrations: Sequence[float]) -> float:
    """ln P(the counts), their shares drawn from a Dirichlet distribution."""
    total = sum(concentrations)
    value = _log_ways(counts) + math.lgamma(total) - math.lgamma(total + sum(counts))
    for units, concentration in zip(counts, concentrations, strict=True):
        value += math.lgamma(concentration + units) - math.lgamma(concentration)
    return value


def log_multinomial(counts: Sequence[int], weights: Sequence[float]) -> float:
    """ln P(the counts) under the shares; those of counts above 0 are positive."""
    pairs = zip(counts, weights, strict=True)
    return _log_ways(counts) + math.fsum(units * math.log(weight) for units, weight in pairs if units)


def _log_ways(counts: Sequence[int]) -> float:
    return math.lgamma(sum(counts) + 1.0) - math.fsum(math.lgamma(units + 1.0) for units in counts)


def chi_square_p(weights: Sequence[float], counts: Sequence[int]) -> float:
    """p-value of Pearson's test of counts against intended shares, for *one* look; 1 without units.

    Raises:
        ValueError: as `SampleRatio.add`.
    """
    shares, units = _taking_part(weights, counts)
    total = sum(units)
    if len(shares) < 2 or not total:
        return 1.0
    statistic = math.fsum((n - share * total) ** 2 / (share * total) for n, share in zip(units, shares, strict=True))
    return chi_square_above(statistic, len(shares) - 1)


def _taking_part(weights: Sequence[float], counts: Sequence[int]) -> tuple[Weights, tuple[int, ...]]:
    """Shares and counts of the variants that have a share."""
    total = math.fsum(weights)
    if len(weights) != len(counts) or min(weights, default=-1.0) < 0.0 or not 0.0 < total < math.inf:
        raise ValueError(f"expected one weight of at least 0 per count, got {list(weights)} for {list(counts)}")
    if min(counts) < 0 or any(n for n, weight in zip(counts, weights, strict=True) if not weight):
        raise ValueError(f"expected counts of at least 0, and 0 where the weight is, got {list(counts)}")
    kept = [(weight / total, int(n)) for weight, n in zip(weights, counts, strict=True) if weight]
    return tuple(weight for weight, _ in kept), tuple(n for _, n in kept)
