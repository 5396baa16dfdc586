"""Where answers of one variant spend their time, and how fast each stage burns the error budget. Pure.

request     all of it, from the last byte of the request to the answer; the objective is of it, and it alone alarms
queue       from admission to the start of the execution: the wait for a batch, and for its turn
execution   one run of the model, whatever its rows; counted once for each run

The objective is applied to each stage as if the others took no time. A stage that burns the budget by itself is the one
to look at; where the whole burns and no stage does, they do it together.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from gateway.counters import DURATION_BOUNDS_NS
from gateway.monitor.burnrate import HOUR, LEAST_BAD, MINUTE, RULES, EventRing, Events, SlotRing, burn_rate, burning
from gateway.monitor.facts import BURN_WINDOWS
from gateway.monitor.latencies import slow_of
from router.evidence.quantiles import quantile_of_histogram

Stage = Literal["request", "queue", "execution"]
STAGES: Final[tuple[Stage, ...]] = ("request", "queue", "execution")
BUCKETS: Final = len(DURATION_BOUNDS_NS) + 1
QUANTILES: Final = (0.5, 0.9, 0.99)
LEAST: Final = 200
"""Answers, or runs, below which a quantile says too little."""
RECENT_S: Final = HOUR
_SLOT_S: Final = 5 * MINUTE
_NAMES: Final = dict(zip(sorted({w for rule in RULES for w in (rule.long_s, rule.short_s)}), BURN_WINDOWS, strict=True))


def by_stage(buckets: Sequence[int]) -> list[tuple[Stage, Sequence[int]]]:
    """Latency buckets of all STAGES, one after the other, or of the first alone."""
    parts = [buckets[at : at + BUCKETS] for at in range(0, len(buckets), BUCKETS)]
    return list(zip(STAGES, parts, strict=False))


class Speed:
    """Answers of one variant."""

    def __init__(self) -> None:
        self._rings: dict[Stage, EventRing] = {}
        self._recent = SlotRing(_SLOT_S, RECENT_S, len(STAGES) * BUCKETS)

    def add(self, buckets: Sequence[int], slo_ms: float | None, now_s: float) -> None:
        """Answers since the last call.

        Args:
            buckets: as of `by_stage`.
            slo_ms: of the objective; None = there is none.
        """
        self._recent.put(now_s, [*buckets, *[0] * (len(STAGES) * BUCKETS - len(buckets))])
        if slo_ms is not None:
            for stage, part in by_stage(buckets):
                self._rings.setdefault(stage, EventRing()).add(now_s, slow_of(part, slo_ms), sum(part))

    def windows(self, now_s: float, stage: Stage = "request") -> dict[int, Events]:
        """Slow ones and all, per window in seconds; {} = no objective was in force."""
        ring = self._rings.get(stage)
        return {} if ring is None else ring.windows(now_s)

    def shown(self, now_s: float, objective: float | None) -> list[dict[str, Any]]:
        """Each stage in plain values: quantiles of the last hour, and the burn rates of each pair of windows.

        Args:
            objective: share of answers that are to be good; None = there is none.
        """
        recent = by_stage(self._recent.summed(now_s, RECENT_S).tolist())
        return [
            {
                "stage": stage,
                "of": "runs" if stage == "execution" else "answers",
                "counted": sum(part),
                "within_ms": _quantiles(part),
                "burns": [] if objective is None else _burns(self.windows(now_s, stage), objective),
            }
            for stage, part in recent
        ]

    def plain(self) -> dict[str, Any]:
        """All of it in plain values."""
        return {"rings": {stage: ring.plain() for stage, ring in self._rings.items()}, "recent": self._recent.plain()}

    def restore(self, plain: Mapping[str, Any]) -> None:
        """Become what `plain` was."""
        for stage in STAGES:
            if stage in plain["rings"]:
                self._rings[stage] = EventRing()
                self._rings[stage].restore(plain["rings"][stage])
        self._recent.restore(plain["recent"])


def _quantiles(buckets: Sequence[int]) -> dict[str, float | None]:
    """Upper edges of the buckets they are in, by quantile; None = longer than the last edge. {} = too few to say."""
    if sum(buckets) < LEAST:
        return {}
    edges = [bound / 1e6 for bound in DURATION_BOUNDS_NS]
    found = {q: quantile_of_histogram(buckets, [*edges, float("inf")], q) for q in QUANTILES}
    return {str(q): value if value <= edges[-1] else None for q, value in found.items()}


def _burns(events: Mapping[int, Events], objective: float) -> list[dict[str, Any]]:
    if not events:
        return []
    alarms = [burn.rule for burn in burning(events, objective)]
    return [
        {
            "long": _NAMES[rule.long_s],
            "short": _NAMES[rule.short_s],
            "long_rate": burn_rate(*events[rule.long_s], objective),
            "short_rate": burn_rate(*events[rule.short_s], objective),
            "limit": rule.factor,
            "severity": rule.severity,
            "slow": events[rule.long_s][0],
            "least_slow": LEAST_BAD,
            "over": rule in alarms,
        }
        for rule in RULES
    ]
