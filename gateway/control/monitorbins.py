"""What a monitor's page draws and the JSON view does not hold: bins of the reference and of the last window. Pure.

Bounded: `SERIES` series, of each the `FEATURES` whose last window differs most, of each at most `BARS` bars.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from gateway.control.monitorheld import Held
from gateway.control.monitorwords import series_of
from gateway.monitor.counting import Counts, feature_counts
from gateway.monitor.engine import Closed
from gateway.monitor.plan import QUALITY, ROWS, FeaturePlan
from gateway.monitor.reference import Reference
from gateway.monitor.scorebins import score_counts
from gateway.monitor.watching import Watching

SERIES: Final = 4
FEATURES: Final = 24
BARS: Final = 20
Groups = list[tuple[str, list[int]]]
"""Bars: what stands under each, and the bins that are in it."""


def drawn(held: Held, view: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    """By (version, variant): `features` and `score`, each with bars of shares.

    A bar is {name, reference, window}: shares of the rows with data; window is None until one was judged.
    """
    return {
        (version, variant): _series(held.monitor.versions[version], variant)
        for version, variant in series_of(view)[:SERIES]
    }


def _series(watching: Watching, variant: str) -> dict[str, Any]:
    reference, closed = watching.reference, watching.last.get(variant)
    chosen = _chosen(reference, closed)
    before = list(feature_counts(reference.plan, reference.counts if closed is None else closed.compared))
    after = None if closed is None else list(feature_counts(reference.plan, closed.counts))
    features = []
    for at in chosen:
        plan, data, quality = before[at]
        window = None if after is None else after[at]
        features.append(
            {
                "name": plan.name,
                "kind": plan.kind,
                "bars": _bars(_groups(plan, data, None if window is None else window[1]), data,
                              None if window is None else window[1]),
                "quality": _quality(reference, closed, quality, None if window is None else window[2]),
            }
        )  # fmt: skip
    return {"features": features, "left_out": len(before) - len(features), "score": _score(reference, closed)}


def _chosen(reference: Reference, closed: Closed | None) -> list[int]:
    """Places of the features that are drawn: those that differ most, worst first."""
    count = len(reference.plan.features)
    if closed is None:
        return list(range(min(count, FEATURES)))
    psi = [one.psi if np.isfinite(one.psi) else 0.0 for one in closed.result.features]
    off = [sum(one.quality.values()) for one in closed.result.features]
    # In steps of a thousandth: what nobody can tell apart stays in the order of the plan.
    order = sorted(range(min(count, len(psi))), key=lambda at: (-round(psi[at], 3), -off[at], at))
    return order[:FEATURES]


def _quality(
    reference: Reference, closed: Closed | None, before: Counts, after: Counts | None
) -> list[tuple[str, int, int]]:
    """Of each word of QUALITY that is not 0: rows of the reference, rows of the window."""
    window = before * 0 if after is None else after
    found = zip(QUALITY, before.tolist(), window.tolist(), strict=True)
    return [(word, was, now) for word, was, now in found if was or now]


# ---- which bins make one bar ----


def _groups(plan: FeaturePlan, before: Counts, after: Counts | None) -> Groups:
    if plan.edges:
        return _runs(plan.edges)
    names = [_category(value) for value in plan.values] + (["(others)"] if plan.other else [])
    if len(names) <= BARS:
        return [(name, [at]) for at, name in enumerate(names)]
    # Most of either first: what has grown from nothing is seen.
    largest = _shares(before) if after is None else np.maximum(_shares(before), _shares(after))
    order = np.argsort(-largest, kind="stable").tolist()
    kept = sorted(order[: BARS - 1])
    return [(names[at], [at]) for at in kept] + [(f"({len(order) - len(kept)} more)", order[BARS - 1 :])]


def _category(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def _runs(edges: Sequence[float]) -> Groups:
    """Neighbours together, so that there are at most BARS bars."""
    bins = len(edges) - 1
    step = -(-bins // BARS)
    starts = range(0, bins, step)
    return [
        (f"{_edge(edges[at])} to {_edge(edges[min(at + step, bins)])}", list(range(at, min(at + step, bins))))
        for at in starts
    ]


def _edge(value: float) -> str:
    return f"{value:,.0f}" if 1_000 <= abs(value) < 1e7 else f"{value:.4g}"


def _bars(groups: Groups, before: Counts, after: Counts | None) -> list[dict[str, Any]]:
    was, now = _shares(before), None if after is None else _shares(after)
    return [
        {
            "name": name,
            "reference": float(was[bins].sum()),
            "window": None if now is None else float(now[bins].sum()),
        }
        for name, bins in groups
    ]


def _shares(counts: Counts) -> Any:
    return counts / max(1, int(counts.sum()))


def _score(reference: Reference, closed: Closed | None) -> dict[str, Any] | None:
    plan = reference.plan
    if plan.score is None:
        return None
    before = score_counts(plan, reference.counts if closed is None else closed.compared)
    after = None if closed is None else score_counts(plan, closed.counts)
    edges = plan.score.edges if plan.score.kind == "value" else [at / len(before) for at in range(len(before) + 1)]
    return {
        "kind": plan.score.kind,
        "threshold": plan.score.threshold if plan.score.kind == "probability" else None,
        "bars": _bars(_runs(edges), before, after),
        "rows": None if closed is None else int(closed.counts[ROWS]),
    }
