"""What a model has lost, in one metric, and the windows that say so: what a request for retraining is based on. Pure.

The basis is what came true where it fires, else what is estimated. The other one's number stands beside it only where
it is of the same time: labels of last month say nothing about this week.
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from gateway.monitor.families import OF
from gateway.monitor.performance import Drop, Verdict

LOOKS: Final = OF
"""An alarm is made of the hits in so many windows."""


class Look(msgspec.Struct, frozen=True):
    """A verdict on performance, and of what.

    Attributes:
        rows: decisions, or labels.
        from_s, to_s: the window or the cohort, Unix time.
    """

    verdict: Verdict
    rows: int
    from_s: float
    to_s: float

    def drop_of(self, metric: str) -> Drop | None:
        """Of one metric; None = it is not defined here."""
        return next((one for one in self.verdict.drops if one.metric == metric), None)


def loss_of(estimated: Sequence[Look], realised: Sequence[Look]) -> dict[str, Any]:
    """Fields of `retrain.Facts`: metric, estimated_drop, realised_drop, rows, window_from_s, window_to_s.

    Args:
        estimated, realised: the last judged ones of one series, oldest first.

    Returns:
        {} = nothing was judged.
    """
    came_true = _fires(realised) or (bool(realised) and not _fires(estimated))
    ours, others = (realised, estimated) if came_true else (estimated, realised)
    if not ours:
        return {}
    metric = _worst(ours[-1].verdict)
    looks = _justifying(ours[-LOOKS:], metric)
    from_s, to_s = looks[0].from_s, looks[-1].to_s
    beside = [one for one in others if one.from_s < to_s and one.to_s > from_s]
    drops = [_lost(looks, metric), _lost(beside, metric)]
    if came_true:
        drops.reverse()
    return {
        "metric": metric,
        "estimated_drop": drops[0],
        "realised_drop": drops[1],
        "rows": sum(look.rows for look in looks),
        "window_from_s": from_s,
        "window_to_s": to_s,
    }


def _fires(looks: Sequence[Look]) -> bool:
    return bool(looks) and bool(looks[-1].verdict.firing)


def _worst(verdict: Verdict) -> str:
    """The metric that has lost most of what it may lose, of those that fire if any does."""
    drops = [one for one in verdict.drops if one.metric in verdict.firing] or verdict.drops
    return max(drops, key=lambda one: one.drop / one.limit if one.limit else one.drop).metric


def _justifying(looks: Sequence[Look], metric: str) -> Sequence[Look]:
    """From the first hit on; without one the last look."""
    hits = [at for at, look in enumerate(looks) if (drop := look.drop_of(metric)) is not None and drop.hit]
    return looks[hits[0] if hits else -1 :]


def _lost(looks: Sequence[Look], metric: str) -> float | None:
    drop = looks[-1].drop_of(metric) if looks else None
    return drop.drop if drop is not None else None
