"""How long stable takes: quantiles of its requests and executions since they were last asked for. From counts."""

import math
from collections.abc import Callable, Collection, Sequence
from typing import Final

import numpy as np

from gateway.control.counts import Totals, Values
from gateway.counters import (
    BATCH_BOUNDS,
    BATCH_BUCKETS,
    DURATION_BOUNDS_NS,
    REQUEST_DURATION,
    RUN_BOUNDS_NS,
    RUN_BUCKETS,
)
from router.evidence.quantiles import quantile_interval

LEAST: Final = 200
"""Requests, or executions of one size, below which a quantile says too little."""
SHOWN: Final = (0.5, 0.9, 0.99)
"""Quantiles of a report."""
_SIZES: Final = (*BATCH_BOUNDS, 0)
_BUCKETS: Final = len(DURATION_BOUNDS_NS) + 1
_EDGES_MS: Final = (*(bound / 1e6 for bound in DURATION_BOUNDS_NS), math.inf)


class StableLatency:
    """Thresholds for "slow".

    Any threshold judges both variants alike; one near the wanted quantile is the most telling. So buckets in 1-2-5
    steps, with the place in a bucket taken on a logarithmic scale, will do.

    Args:
        totals: counts of the node now.
    """

    def __init__(self, totals: Callable[[], Totals]) -> None:
        self._totals = totals
        self._before: dict[tuple[str, int, int], Values] = {}
        self._runs_before: dict[tuple[str, int], Values] = {}

    def quantile_ns(self, model: str, version: int, quantile: float, of: int = REQUEST_DURATION) -> int:
        """The quantile of a version's requests since the last call, or of all while those are few; 0 = too few.

        Args:
            of: how long they took, or QUEUE_DURATION: how long they waited for their execution.
        """
        now = self._histogram(model, version, of)
        since = now - self._before.get((model, version, of), np.zeros_like(now))
        found = quantile_of(since, quantile) or quantile_of(now, quantile)
        if found:
            self._before[model, version, of] = now
        return found

    def run_ns(
        self, model: str, version: int, quantile: float, run_times: Values | None, known: Collection[int]
    ) -> dict[int, int]:
        """The same of executions, by the largest batch of each bucket (0 = larger than all); too few = not there.

        Args:
            run_times: of the version until now; None = nothing was counted.
            known: buckets that are not asked for.
        """
        if run_times is None:
            return {}
        now = run_times.reshape(BATCH_BUCKETS, RUN_BUCKETS)
        before = self._runs_before.setdefault((model, version), np.zeros_like(now))
        found = {}
        for at in np.flatnonzero(now.sum(axis=1) >= LEAST).tolist():
            if _SIZES[at] in known:
                continue
            since = now[at] - before[at]
            found[_SIZES[at]] = quantile_of(since, quantile, RUN_BOUNDS_NS) or quantile_of(
                now[at], quantile, RUN_BOUNDS_NS
            )
            before[at] = now[at]
        return found

    def _histogram(self, model: str, version: int, of: int) -> Values:
        found = np.zeros(_BUCKETS, np.int64)
        for (name, text, variant), values in self._totals().models.items():
            if name == model and text == str(version) and variant != "shadow":
                found += values[of : of + _BUCKETS]
        return found


def shown_quantiles(
    totals: Totals,
    model: str,
    variants: Sequence[str],
    versions: Sequence[int],
    of: int = REQUEST_DURATION,
    *,
    alpha: float,
) -> list[dict[str, object]]:
    """Quantiles of each variant's requests on this node since its start, for display; None = too few.

    Args:
        of: as `StableLatency.quantile_ns`.
        alpha: of each quantile's limits, at all looks together.
    """
    found: list[dict[str, object]] = []
    for variant, version in zip(variants, versions, strict=True):
        values = totals.models.get((model, str(version), variant))
        histogram = np.zeros(_BUCKETS, np.int64) if values is None else values[of : of + _BUCKETS]
        shown = {"variant": variant, "requests": int(histogram.sum()), "alpha": alpha}
        for q in SHOWN:
            name, limits = f"p{round(q * 100)}", quantile_interval(histogram.tolist(), _EDGES_MS, q, alpha)
            shown[f"{name}_ms"] = quantile_of(histogram, q) / 1e6 or None
            shown[f"{name}_low_ms"] = max(0.0, limits.low)
            shown[f"{name}_high_ms"] = limits.high if math.isfinite(limits.high) else None
        found.append(shown)
    return found


def quantile_of(histogram: Values, quantile: float, bounds_ns: Sequence[int] = DURATION_BOUNDS_NS) -> int:
    """A quantile in ns of counts per bucket; 0 = fewer than `LEAST` in all."""
    total = int(histogram.sum())
    if total < LEAST:
        return 0
    wanted = quantile * total
    below = np.cumsum(histogram)
    bucket = int(np.searchsorted(below, wanted))
    if bucket >= len(bounds_ns):
        return bounds_ns[-1]
    high = bounds_ns[bucket]
    low = bounds_ns[bucket - 1] if bucket else high / 2
    before = float(below[bucket - 1]) if bucket else 0.0
    share = (wanted - before) / float(histogram[bucket])
    return int(low * (high / low) ** share)
