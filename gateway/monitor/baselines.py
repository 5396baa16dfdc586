"""What a reference says of the model itself: metrics of its labels, and rates of each group. Pure."""

from typing import Any

from gateway.monitor.cbpe import Performance, scores_of
from gateway.monitor.confusion import counted, metrics, standard_errors
from gateway.monitor.counting import Counts
from gateway.monitor.reference import Reference

ALL = "all"
EVERYBODY_ELSE = "everybody else"


def realised(reference: Reference, group: int | None = None) -> Performance | None:
    """Metrics of the reference's labels; None without labels.

    Args:
        group: index among the plan's groups, the last of which is everybody else; None = all.
    """
    labels = reference.labels
    if labels is None:
        return None
    table = counted(labels if group is None else labels[group])
    rows = round(table.rows)
    if not rows:
        return Performance("realised", "insufficient", "few_labels", 0)
    return Performance("realised", "ok", "", rows, metrics(table), standard_errors(table))


def baselines(reference: Reference) -> dict[str, dict[str, Any]]:
    """Group -> rows with a score, share decided 1, and metrics of its labels; the first is `all`. {} without scores."""
    plan = reference.plan
    if not plan.score_values:
        return {}
    counts, _ = scores_of(plan, reference.counts)
    found = {ALL: _one(counts, realised(reference))}
    if plan.groups:
        for at, name in enumerate((*plan.groups, EVERYBODY_ELSE)):
            found[name] = _one(counts[at], realised(reference, at))
    return found


def _one(counts: Counts, performance: Performance | None) -> dict[str, Any]:
    rows = int(counts.sum())
    positive = int(counts[..., 1, :].sum())
    return {
        "rows": rows,
        "positive_rate": positive / rows if rows else None,
        "realised": performance.values if performance else {},
    }
