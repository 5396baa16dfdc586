"""What a closed window says, as findings: one for each signal, in the words of incidents and alerts. Pure."""

from collections.abc import Mapping, Sequence
from typing import Final

from gateway.monitor.burnrate import Events, burning
from gateway.monitor.performance import Verdict
from gateway.monitor.results import FamilyResult, Tested, WindowResult
from gateway.monitor.words import Finding, Severity, Signal, State

SIGNALS: Final[dict[str, Signal]] = {
    "input": "input_drift",
    "prediction": "prediction_drift",
    "quality": "data_quality",
}
CRITICAL: Final = 2.5
"""Times the floor: with the default floor a PSI of 0.25, which is large by common use."""
BROKEN: Final = 0.5
"""Share of rows of a feature that cannot be read, from which on nothing else about the window is worth saying."""


def findings(result: WindowResult, version: str) -> list[Finding]:
    """A finding for each family, and for estimated performance where there is a verdict.

    Args:
        version: of the series; its variant is in the result.
    """
    found = [_of_family(result, family, version) for family in result.families if _is_told(result, family)]
    if result.performance is not None:
        found.append(_of_performance(result, result.performance, version))
    return found


def _is_told(result: WindowResult, family: FamilyResult) -> bool:
    """Not the predictions of a model without a score."""
    return bool(family.keys or result.reason)


def _of_family(result: WindowResult, family: FamilyResult, version: str) -> Finding:
    named = [key for name in family.named for key in family.keys if key.name == name]
    broken = any(key.name.endswith(":type_error") and key.effect >= BROKEN for key in named)
    level = max((key.effect / key.floor for key in named or family.keys if key.floor), default=None)
    severity: Severity = "critical" if broken or (level is not None and level >= CRITICAL) else "warning"
    state: State = family.state
    if result.reason in ("no_reference", "other_edges") and state == "insufficient":
        state = "unknown"
    return Finding(
        signal=SIGNALS[family.family],
        state=state,
        version=version,
        variant=result.variant,
        severity=severity,
        # Features, whatever is wrong with them: broken data of a feature keep its drift from being told.
        keys=tuple(dict.fromkeys(name.partition(":")[0] for name in family.named)),
        level=level,
        schema_break=broken,
        window_from_s=result.opened_ms / 1000,
        window_to_s=result.closed_ms / 1000,
        text=_text(result, family, named),
    )


def _text(result: WindowResult, family: FamilyResult, named: Sequence[Tested]) -> str:
    if result.reason:
        return f"not judged: {result.reason.replace('_', ' ')} ({result.rows:,} rows)"
    unit = "share rose by" if family.family == "quality" else "PSI"
    keys = ", ".join(f"{key.name} {unit} {key.effect:.3g} (floor {key.floor:g})" for key in named)
    p_value = f"p {family.p_value:.2g}, level {family.alpha:.2g}"
    return f"{keys + '; ' if keys else ''}{p_value}; {result.rows:,} rows against {result.reference_rows:,}"


def of_budget(events: Mapping[int, Events], objective: float, version: str, variant: str, now_s: float) -> Finding:
    """What answers say of the budget for slow ones. Args: events: as of `burnrate.burning`; variant: of the version."""
    burns = burning(events, objective)
    silent = not events[min(events)][1]
    worst: Severity = "critical" if any(burn.rule.severity == "critical" for burn in burns) else "warning"
    text = "; ".join(
        f"burns its budget {burn.long_rate:.1f} times too fast over {burn.rule.long_s // 60} min" for burn in burns
    )
    return Finding(
        signal="latency",
        state="firing" if burns else "insufficient" if silent else "ok",
        version=version,
        variant=variant,
        severity=worst,
        text=text,
        window_from_s=now_s - 3600,
        window_to_s=now_s,
    )


def of_realised(verdict: Verdict, version: str, variant: str, start_s: int, end_s: int) -> Finding:
    """What came true in a cohort. Args: its start and end, Unix time."""
    words = "; ".join(f"{d.metric} {d.reference:.4f} -> {d.value:.4f}" for d in verdict.drops if d.hit)
    return Finding(
        signal="performance_realised",
        state=verdict.state,
        version=version,
        variant=variant,
        severity=verdict.severity,
        keys=verdict.firing,
        level=max((drop.drop / drop.limit for drop in verdict.drops if drop.limit > 0), default=None),
        text=f"by labels: {words}" if words else "",
        window_from_s=float(start_s),
        window_to_s=float(end_s),
    )


def _of_performance(result: WindowResult, verdict: Verdict, version: str) -> Finding:
    drops = {drop.metric: drop for drop in verdict.drops}
    shown = [drops[name] for name in verdict.firing if name in drops]
    told = ", ".join(f"{one.metric} {one.value:.4f}, was {one.reference:.4f} (limit {one.limit:.3g})" for one in shown)
    return Finding(
        signal=verdict.signal,
        state=verdict.state,
        version=version,
        variant=result.variant,
        severity=verdict.severity,
        keys=verdict.firing,
        level=max((drop.drop / drop.limit for drop in shown or verdict.drops if drop.limit), default=None),
        window_from_s=result.opened_ms / 1000,
        window_to_s=result.closed_ms / 1000,
        text=told or verdict.reason.replace("_", " "),
    )
