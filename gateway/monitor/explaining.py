"""What is in force and what can be seen with it: the offline half of `monitor explain`. Pure."""

from datetime import UTC, datetime
from typing import Any, Final

from gateway.monitor.burnrate import MINUTE, burn_rate, out_of_reach
from gateway.monitor.counting import feature_counts
from gateway.monitor.engine import Engine, rule_of
from gateway.monitor.reference import Reference
from gateway.monitor.settings import Spec, resolved
from gateway.monitor.significance import smallest_psi
from gateway.monitor.together import asked_for
from gateway.monitor.windows import BLIND_AFTER, DAY_MS
from router.quantities import duration_text

_HOUR_MS: Final = 3_600_000
POWER: Final = 0.8


def explained(reference: Reference, spec: Spec, since_s: float | None = None) -> dict[str, Any]:
    """Every setting, and what follows from it.

    Args:
        since_s: when the first rows that the reference is made of began to come, Unix time; None = it is not.
    """
    reference = asked_for(reference, spec)
    rule = rule_of(reference, spec)
    window_rows = rule.limit or spec.min_rows
    durations = (spec.window.time_ms,) if spec.window.time_ms else (_HOUR_MS // 12, _HOUR_MS, DAY_MS)
    engine = Engine(reference, spec)
    levels = {duration_text(one): engine.alphas(one) for one in durations}
    level = engine.alphas(spec.window.time_ms or _HOUR_MS)["input"]
    return {
        "settings": resolved(spec),
        "reference": {
            "id": reference.id,
            "made from": _made_from(reference, since_s),
            "rows": reference.rows,
            "model sha256": reference.binding.digest,
            "groups": ", ".join(reference.plan.groups) or None,
            "score": reference.plan.score.kind if reference.plan.score else None,
            "labels": int(reference.labels.sum()) if reference.labels is not None else None,
        },
        "window": {
            "closes at rows": rule.limit or None,
            "closes after": duration_text(spec.window.time_ms) if spec.window.time_ms else None,
            "is judged from rows": spec.min_rows,
            "blind after": duration_text(BLIND_AFTER * rule.longest_ms),
            "assumed rows": window_rows,
        },
        "levels": levels,
        "features": _features(reference, window_rows, level),
        "notes": _notes(reference, spec),
    }


def _made_from(reference: Reference, since_s: float | None) -> str:
    if not reference.provisional:
        return reference.origin
    since = "" if since_s is None else f" since {datetime.fromtimestamp(since_s, UTC):%Y-%m-%d %H:%M:%S UTC}"
    return f"the first {reference.rows:,} rows{since} (provisional)"


def _features(reference: Reference, rows: int, level: float) -> list[dict[str, Any]]:
    """Each feature with the smallest PSI that one window finds with POWER, at the worst case of Simes."""
    plan = reference.plan
    count = max(1, len(plan.features))
    found = []
    for index, (feature, data, _) in enumerate(feature_counts(plan, reference.counts)):
        bins, with_data = int((data > 0).sum()), int(data.sum())
        counted = rows
        if feature.kind == "multivariate" and plan.multivariate is not None:
            counted = max(1, round(rows * plan.multivariate.sample))
        seen = None
        if bins > 1 and with_data and level / count < POWER:
            seen = smallest_psi(counted, with_data, bins, level / count, POWER) * reference.phi(index)
        found.append(
            {
                "name": feature.name,
                "kind": feature.kind,
                "bins": feature.bins,
                "rows": with_data,
                "overdispersion": reference.phi(index),
                "psi": seen,
            }
        )
    return found


def _notes(reference: Reference, spec: Spec) -> list[str]:
    rule = rule_of(reference, spec)
    found = []
    if spec.window.rows is not None and rule.limit < spec.window.rows:
        found.append(
            f"windows close at {rule.limit:,} rows, not {spec.window.rows:,}: a window has at most a tenth of the "
            f"reference's {reference.rows:,} rows"
        )
    if rule.limit and rule.limit < spec.min_rows:
        found.append(
            f"nothing will be judged: windows close at {rule.limit:,} rows and min_rows is {spec.min_rows:,}; "
            f"the reference needs {10 * spec.min_rows:,} rows"
        )
    if reference.provisional:
        found.append("the reference is of rows that nobody chose: what it calls normal may not be")
    made = reference.plan.multivariate
    if spec.multivariate is not None and made is None:
        found.append("features together are not looked at: the reference has no components; see tidegate monitor fit")
    if spec.multivariate is not None and made is not None and made.sample < spec.multivariate.sample:
        found.append(f"of so many features together only {made.sample:.2%} of the rows are looked at")
    found += _latency_notes(spec)
    if spec.window.time_ms is None:
        found.append("the smallest psi is for windows that last 1h; shorter ones have a smaller level")
    return found


def _latency_notes(spec: Spec) -> list[str]:
    """Burn rates that an objective leaves no room for."""
    if spec.latency is None:
        return []
    objective = spec.latency.objective
    most = f"with an objective of {objective:g} it burns {burn_rate(1, 1, objective):.3g} times too fast at most"
    return [
        f"latency never alarms at {rule.factor:g} times the budget over {rule.long_s // MINUTE} min: {most}, when "
        f"every answer is slow; {1 - 1 / rule.factor:.4f} would do"
        for rule in out_of_reach(objective)
    ]
