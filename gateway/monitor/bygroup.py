"""How good a version is for each declared group: estimated in the last window, and what came true in a cohort. Pure.

The numbers are those of all rows, over the counts of one group. A group needs as many rows for an estimate, and as many
labels for what came true, as `groups.min_size` says; what there is of fewer than 30 rows is not shown at all. An
estimate takes the calibration to hold within the group, which is exactly what may be unfair.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from gateway.monitor.cbpe import Performance, estimate, outside_reference, scores_of
from gateway.monitor.counting import Counts
from gateway.monitor.fairness import LEAST_SHOWN
from gateway.monitor.realised import Cohort, performance, reference_performance
from gateway.monitor.reference import Reference

HIDDEN: Final = f"<{LEAST_SHOWN}"


def by_group(
    reference: Reference,
    window: Counts | None,
    cohort: Cohort | None,
    delays: Mapping[int, Mapping[float, float]],
    *,
    min_size: int,
    min_coverage: float,
) -> list[dict[str, Any]]:
    """Of each declared group, in plain values that may leave the house.

    Args:
        window: counts of a window that was judged; None = there is none.
        cohort: that is old enough to have its labels; None = there is none.
        delays: by group, quantiles of the time from a prediction to its label, seconds.
    """
    least = max(min_size, LEAST_SHOWN)
    return [
        {
            "group": name,
            "reference": msgspec.to_builtins(_in_reference(reference, at, least)),
            **_in_window(reference, window, at, least),
            **_in_cohort(cohort, at, least, min_coverage),
            "label_delay_s": {str(q): value for q, value in delays.get(at, {}).items()},
        }
        for at, name in enumerate(reference.plan.groups)
    ]


def _in_reference(reference: Reference, at: int, least: int) -> Performance:
    labels = reference.labels
    if labels is None:
        return Performance("realised", "insufficient", "few_labels", 0)
    return _shown(reference_performance(labels[at : at + 1], least))


def _in_window(reference: Reference, window: Counts | None, at: int, least: int) -> dict[str, Any]:
    plan = reference.plan
    if window is None or plan.score is None:
        return {"rows": 0, "estimated": None}
    counts, sums = scores_of(plan, window)
    outside = outside_reference(plan, window)
    found = estimate(counts[at], sums[at], calibration=plan.score.calibration, outside=outside, min_rows=least)
    return {"rows": _count(found.rows), "estimated": msgspec.to_builtins(_shown(found))}


def _in_cohort(cohort: Cohort | None, at: int, least: int, min_coverage: float) -> dict[str, Any]:
    if cohort is None:
        return {"predictions": 0, "labels": 0, "coverage": None, "realised": None}
    predictions = int(cohort.predicted[at].sum())
    found = performance(cohort, min_coverage=min_coverage, min_rows=least, group=at)
    if min(predictions, found.rows) < least and found.reason != "unsettled":
        found = Performance("realised", "insufficient", "few_rows" if predictions < least else "few_labels", found.rows)
    return {
        "predictions": _count(predictions),
        "labels": _count(found.rows),
        "coverage": list(cohort.coverage(at)) if predictions >= LEAST_SHOWN else None,
        "realised": msgspec.to_builtins(_shown(found)),
    }


def _count(rows: int) -> int | str:
    return rows if rows >= LEAST_SHOWN or not rows else HIDDEN


def _shown(found: Performance) -> Performance:
    """The number of rows stands beside it, unless it is too small to be shown."""
    return found if found.rows >= LEAST_SHOWN else msgspec.structs.replace(found, rows=0)
