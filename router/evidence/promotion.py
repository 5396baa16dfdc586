"""May the canary be promoted? Evidence that it is no worse than the margin allows. Pure.

"No harm found" is not "no harm": a canary that saw three requests has harmed nobody. So before the last step the
opposite is asked: the nulls are "the bad rate is at least `ratio` times stable's" and "it is at least `absolute`", and
evidence must speak against one of them. Each null excludes that of harm, so promotion takes no share of alpha.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from router.evidence.checks import check_open, count, fields, number
from router.evidence.eprocess import EventShare, log_threshold
from router.evidence.sequences import Moments, unit_ratio_log_e
from router.evidence.special import log_add, log_sum

SAFE_MULTIPLES: Final = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Ratios that speak for promotion, in multiples of the margin."""
BELOW_MULTIPLES: Final = (0.05, 0.1, 0.2, 0.4)
"""Bad rates that speak for promotion, in multiples of the absolute margin; zero errors suffice after 864 requests."""


@dataclass(frozen=True, slots=True)
class Margin:
    """What a canary may cost and still be promoted.

    Attributes:
        ratio: bad rate in multiples of stable's.
        absolute: bad rate; None = only the ratio counts.
    """

    ratio: float = 1.25
    absolute: float | None = 0.005


class NonInferiority:
    """Speaks once the canary's rate is shown below `margin.ratio` x stable's *or* below `margin.absolute`.

    The mean of two e-values, each against one of the two nulls, is one against both being true. Begin a new one at each
    analysed step: that step's data alone count.

    With `sticky` units the requests of one unit fail together, and events deduplicated per rollout flatter a canary
    that fails the same units again and again. Then the ratio is judged from the mean over units of their bad rates
    (`units`), and what `add` takes for the absolute margin are distinct units instead of requests. Units that erred at
    least once are no fewer than units whose first request erred, so this can only delay a promotion.

    Raises:
        ValueError: a ratio that is not positive or an absolute margin outside 0..1.
    """

    __slots__ = (
        "absolute_log_e",
        "canary_bad",
        "canary_total",
        "margin",
        "peak_log_e",
        "ratio",
        "sticky",
        "units_log_e",
    )

    def __init__(self, margin: Margin | None = None, *, sticky: bool = False) -> None:
        self.margin = margin or Margin()
        self.sticky = sticky
        if self.margin.absolute is not None:
            check_open(self.margin.absolute, "margin.absolute", 1.0)
        self.ratio = EventShare(self.margin.ratio, [self.margin.ratio * m for m in SAFE_MULTIPLES], 0)
        self.canary_bad = 0
        self.canary_total = 0
        self.units_log_e = 0.0
        self.absolute_log_e = 0.0
        self.peak_log_e = 0.0

    @property
    def ratio_log_e(self) -> float:
        """ln of the e-value against "the rate is at least `margin.ratio` times stable's"."""
        return self.units_log_e if self.sticky else self.ratio.log_e

    @property
    def log_e(self) -> float:
        """ln of the mixture."""
        if self.margin.absolute is None:
            return self.ratio_log_e
        return log_add(self.ratio_log_e, self.absolute_log_e) - math.log(2.0)

    def add(self, weight: float, canary_bad: int, all_bad: int, canary_total: int) -> float:
        """Take in one batch. Returns `log_e`.

        Args:
            weight: as `EventShare.add`; at 0 and 1 nothing was randomised and nothing is counted.
            canary_bad: bad events of the canary; with sticky units: counted units of its that erred for the first time,
                in whichever batch they were counted.
            all_bad: those of both variants.
            canary_total: the canary's requests, good and bad; with sticky units: its units seen for the first time.

        Raises:
            ValueError: as `EventShare.add`, or a negative total.
        """
        if canary_total < 0 or (not self.sticky and canary_bad > canary_total):
            raise ValueError(f"expected 0 <= canary_bad <= canary_total, got {canary_bad} of {canary_total}")
        self.ratio.add(weight, canary_bad, all_bad)
        if not 0.0 < weight < 1.0:
            return self.log_e
        self._count(self.canary_bad + int(canary_bad), self.canary_total + int(canary_total))
        if self.margin.absolute is not None:
            self.absolute_log_e = below_log_e(self.canary_bad, self.canary_total, self.margin.absolute)
        return self._look()

    def units(self, canary: Moments, stable: Moments) -> float:
        """Take in the bad rates per unit of each variant, all since the step began. Returns `log_e`.

        Below 100 units in either variant they say nothing.
        """
        self.units_log_e = unit_ratio_log_e(canary, stable, self.margin.ratio)
        return self._look()

    def crossed(self, beta: float) -> bool:
        """Whether E ever reached 1 / beta. Once true, it stays true."""
        return self.peak_log_e >= log_threshold(beta)

    def state(self) -> dict[str, Any]:
        """Everything, for `from_state`, as JSON holds it exactly."""
        return {
            "margin_ratio": self.margin.ratio,
            "margin_absolute": self.margin.absolute,
            "sticky": self.sticky,
            "ratio": self.ratio.state(),
            "canary_bad": self.canary_bad,
            "canary_total": self.canary_total,
            "units_log_e": self.units_log_e,
            "absolute_log_e": self.absolute_log_e,
            "peak_log_e": self.peak_log_e,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "NonInferiority":
        """The process that `state` was taken from.

        Raises:
            ValueError: as `EventShare.from_state`.
        """
        fields(state, set(cls().state()))
        absolute = None if state["margin_absolute"] is None else number(state, "margin_absolute")
        process = cls(Margin(number(state, "margin_ratio"), absolute), sticky=state["sticky"] is True)
        process.ratio = EventShare.from_state(state["ratio"])
        process._count(count(state, "canary_bad"), count(state, "canary_total"))
        for name in ("units_log_e", "absolute_log_e", "peak_log_e"):
            setattr(process, name, number(state, name))
        return process

    def _count(self, bad: int, total: int) -> None:
        """More bad ones than there are, whatever counted them, are taken for all: that speaks against promotion."""
        self.canary_bad, self.canary_total = bad, max(bad, total)

    def _look(self) -> float:
        log_e = self.log_e
        self.peak_log_e = max(self.peak_log_e, log_e)
        return log_e


def below_log_e(bad: int, total: int, limit: float) -> float:
    """ln of an e-value against "the chance of a bad event is at least `limit`".

    The mean likelihood ratio over a grid of lower chances, valid at any time for independent trials. 0 bad of 864 reach
    39: the half of a mixture that makes 20 = 1 / 0.05.

    Raises:
        ValueError: counts without 0 <= bad <= total, or a limit outside 0..1.
    """
    if not 0 <= bad <= total:
        raise ValueError(f"expected 0 <= bad <= total, got {bad} of {total}")
    check_open(limit, "limit", 1.0)
    null = math.log1p(-limit)
    each = [bad * math.log(m) + (total - bad) * (math.log1p(-m * limit) - null) for m in BELOW_MULTIPLES]
    return log_sum(each) - math.log(len(each))
