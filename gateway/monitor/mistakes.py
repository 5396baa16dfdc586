"""Is the canary wrong more often than the champion? Labels of both, over the same slices of time. Pure.

Each cohort is a window. In one slice of it (a sixtieth) both arms meet the same world. With n labelled rows of the
canary and m of the champion, and shares c and v of them wrong,

    u = n m / (n + m) (c - v)

is 0 on average when the arms are alike, however the world and the canary's share of it change from slice to slice
(Cochran 1954, doi:10.2307/3001616). Shares of the whole cohort would not be: on a ramp the canary has most of its rows
late, and if the world is harder then, identical arms differ.

sum(u) is held against the larger of two variances: sum(u^2), as slices vary, and the binomial one of all rows. Tested,
on one side, are mistakes of either decision (precision, and negative_precision) and of all rows (accuracy), where a
decision weighs what it does among predictions. They are the keys of a family: Simes, 2 of the last 3 cohorts, and the
floor of performance. Rows of a user in one slice may hang together; with few users who ask all day the p-value is too
small.
"""

import math
from collections.abc import Mapping
from typing import Any, Final

import msgspec
import numpy as np

from gateway.monitor.apart import ALPHA
from gateway.monitor.confusion import Counts, Floats
from gateway.monitor.families import SHARES, FamilyState, FamilyVerdict, Key, window_alpha
from gateway.monitor.realised import LEAST_CLASS, Cohort, class_weights
from gateway.monitor.windows import DAY_MS
from gateway.monitor.words import State
from router.evidence.special import log_normal_below

LEAST_SLICES: Final = 20
"""With labels of both arms; fewer say little of how slices vary. Times are whole seconds: a cohort needs as many."""
HOLDS_COHORTS: Final = 2
"""A verdict holds for so many times its cohort, as others do (`board`)."""
TESTED: Final = frozenset({"accuracy", "precision"})
"""Metrics that are compared here, of those that alarm."""


class Errors(msgspec.Struct, frozen=True):
    """Of one arm in a cohort.

    Attributes:
        errors: [slice, decision, right or wrong], as `Cohort.errors`.
        predicted: by decision.
    """

    errors: list[list[list[int]]]
    predicted: list[int]


def errors_of(cohort: Cohort) -> Errors:
    """As they are now: labels may come that are late."""
    return Errors(cohort.errors.tolist(), cohort.predicted.sum(axis=0).tolist())


class Ground(msgspec.Struct, frozen=True):
    """What a cohort of both was judged by.

    Attributes:
        before: the family as it stood before (`FamilyState.plain`).
        span: start and end, Unix time.
    """

    before: dict[str, Any]
    champion: Errors
    canary: Errors
    span: tuple[int, int]
    distance_ms: int
    floor: float

    def judged(self, family: FamilyState | None = None) -> FamilyVerdict:
        """The verdict. Args: family: which it goes into; None = as it stood before."""
        days = (self.span[1] - self.span[0]) * 1000 / DAY_MS
        alpha = min(ALPHA, window_alpha(SHARES["performance"], days, self.distance_ms / DAY_MS))
        family = FamilyState.from_plain(self.before) if family is None else family
        return family.close(keys_of(self.champion, self.canary, self.floor), alpha)


class Mistakes:
    """Canary and champion beside each other. Feed it each cohort that both were judged in, once, oldest first.

    Args:
        floor: a larger share of mistakes of at least this matters.
        distance_ms: at most one false alarm in such a time; a cohort's level is never above that of `apart`.

    Attributes:
        ground, verdict: of the last cohort. They are not kept across restarts.
    """

    def __init__(self, *, floor: float, distance_ms: int) -> None:
        self._floor, self._distance_ms = floor, distance_ms
        self.ground: Ground | None = None
        self.verdict: FamilyVerdict | None = None
        self._family = FamilyState()
        self._state: State = "unknown"
        self._from_s, self._until_s = -1, 0.0

    def close(self, champion: Cohort, canary: Cohort, span: tuple[int, int], now_s: float) -> None:
        """One more cohort of both, with their labels of now. Args: span: its start and end, Unix time."""
        if span[0] <= self._from_s:
            return
        self._from_s = span[0]
        arms = errors_of(champion), errors_of(canary)
        self.ground = Ground(self._family.plain(), arms[0], arms[1], span, self._distance_ms, self._floor)
        self.verdict = self.ground.judged(self._family)
        self._state = self.verdict.state
        self._until_s = now_s + HOLDS_COHORTS * (span[1] - span[0])

    def state(self, now_s: float) -> State:
        """Firing = the canary is wrong more often; unknown = nobody could tell, or not for long."""
        return "unknown" if now_s > self._until_s or self._state == "insufficient" else self._state

    def plain(self) -> dict[str, Any]:
        """All of it in plain values."""
        family = self._family.plain()
        return {"family": family, "state": self._state, "from_s": self._from_s, "until_s": self._until_s}

    def restore(self, plain: Mapping[str, Any]) -> None:
        """Go on where `plain` was taken."""
        self._family = FamilyState.from_plain(plain["family"])
        self._state, self._from_s, self._until_s = plain["state"], plain["from_s"], plain["until_s"]


def keys_of(champion: Errors, canary: Errors, floor: float) -> list[Key]:
    """What can be compared: nothing with too few labels. Effect: by how much the share of mistakes is larger."""
    arms = [np.array(one.errors, np.int64) for one in (champion, canary)]
    if min(int(errors.min()) for errors in arms) < 0:
        return []  # labels that are being replaced
    found = []
    for name, decision in (("negative_precision", 0), ("precision", 1)):
        ours, theirs = (errors[:, decision].astype(np.float64) for errors in arms)
        found += _key(name, ours, theirs, floor, 1.0)
    predicted = (champion.predicted, canary.predicted)
    weights = [_weights(*one) for one in zip(arms, predicted, strict=True)]
    ours, theirs = (np.tensordot(errors, weight, (1, 0)) for errors, weight in zip(arms, weights, strict=True))
    return found + _key("accuracy", ours, theirs, floor, float(np.max(weights)))


def _weights(errors: Counts, predicted: list[int]) -> Floats:
    labels = errors.sum(axis=(0, 2))
    return np.array(class_weights(labels.tolist(), predicted) if labels.any() else (1.0, 1.0))


def _key(name: str, champion: Floats, canary: Floats, floor: float, most: float) -> list[Key]:
    """The test of one kind of mistakes. Shapes: [slice, right or wrong]. Args: most: a row weighs at most this."""
    both = (champion.sum(axis=1) > 0) & (canary.sum(axis=1) > 0)
    champion, canary = champion[both], canary[both]
    m, n = champion.sum(axis=1), canary.sum(axis=1)
    if int(both.sum()) < LEAST_SLICES or min(m.sum(), n.sum()) < LEAST_CLASS:
        return []
    wrong_m, wrong_n = champion[:, 1], canary[:, 1]
    weight = n * m / (n + m)
    u = weight * (wrong_n / n - wrong_m / m)
    share = float(wrong_m.sum() + wrong_n.sum()) / float(m.sum() + n.sum())
    variance = max(float(np.dot(u, u)), float(weight.sum()) * share * (1.0 - share) * most)
    if variance <= 0.0:
        return [Key(name, 1.0, 0.0, floor)]
    total = float(u.sum())
    p_value = math.exp(log_normal_below(-total / math.sqrt(variance)))
    return [Key(name, p_value, total / float(weight.sum()), floor)]
