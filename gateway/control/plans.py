"""From a policy document to what its rollout asks for, and to whether its window is open. Pure."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from router.policy import TrafficPolicy, Unit
from router.rollout.observed import MonitorLease
from router.rollout.spec import Approval, Checks, Guardrail, Hold, Kind, OnFailure, RolloutSpec, Signal, Step
from router.rollout_document import Analysis, Metric, Metrics, Window
from router.rollout_document import Step as DocumentStep
from router.windows import read_freeze_end, read_weekly

_KINDS: dict[str, Kind] = {
    "error_rate": "events",
    "latency": "latency",
    "output_shift": "outputs",
    "shadow_disagreement": "shadow",
    "fallback_ratio": "fallbacks",
}
OFFERED_SIGNALS = frozenset({"error_rate", "latency", "queue_wait", "compute_time", "input_drift", "output_drift"})
_NO_GUARDRAIL: Final = (
    "spec.rollout.analysis.guardrails: expected 1 to 16 entries, got 0; leave it out for the default, error_rate"
)
_SHOWN: Final = 3
"""Spans of the week that are named to who waits."""
_WITH_THRESHOLD: tuple[Metric, ...] = ("latency", "queue_wait", "compute_time")


@dataclass(frozen=True, slots=True)
class Drift:
    """What the monitor says of a rollout's canary.

    Attributes:
        signals: metrics that speak against it: input_drift, output_drift.
        unknown: metrics that it has no verdict on.
        lease: what the monitor itself may do, and why; None = nothing.
    """

    signals: frozenset[str] = frozenset()
    unknown: frozenset[str] = frozenset()
    lease: MonitorLease | None = None


NOTHING_KNOWN = Drift(unknown=frozenset({"input_drift", "output_drift"}))
"""Without a monitor: missing data is no clean bill."""


def signals_on(policy: TrafficPolicy, metrics: frozenset[str]) -> tuple[str, ...]:
    """Names of the policy's signals on these metrics."""
    rollout = policy.spec.rollout
    signals = rollout.analysis.signals if rollout is not None else ()
    return tuple(signal.label for signal in signals if signal.metric in metrics)


def not_offered(policy: TrafficPolicy) -> list[str]:
    """What makes a readable document one that is not taken, in words; [] = it is.

    Not asked of what the store has: that stays in force.
    """
    rollout = policy.spec.rollout
    if rollout is None:
        return []
    found = [] if rollout.analysis.guardrails else [_NO_GUARDRAIL]
    found += [
        f"spec.rollout.analysis.signals[{at}].metric: {signal.metric} is not offered yet"
        for at, signal in enumerate(rollout.analysis.signals)
        if signal.metric not in OFFERED_SIGNALS
    ]
    for name in _WITH_THRESHOLD:
        quantiles = {metric.slow_from for metric in _judged_on(rollout.analysis, name)}
        if len(quantiles) > 1:
            found.append(f"spec.rollout.analysis: one quantile of {name} is judged per rollout, got {len(quantiles)}")
    if len(signals_on(policy, frozenset({"compute_time"}))) > 1:
        found.append("spec.rollout.analysis.signals: one signal on compute_time is judged per rollout")
    for at, text in enumerate(rollout.window.not_before):
        if _zone(read_weekly(text).zone) is None:
            found.append(f"spec.rollout.window.notBefore[{at}]: unknown time zone in {text[:80]!r}")
    return found


def past_freezes(policy: TrafficPolicy, now_ms: int) -> list[str]:
    """Freezes that are over already, in words: most likely a slip in the year."""
    rollout = policy.spec.rollout
    freezes = rollout.window.freeze if rollout is not None else ()
    return [
        f"spec.rollout.window.freeze[{at}] was over at {one.until}: it holds nothing"
        for at, one in enumerate(freezes)
        if read_freeze_end(one.until) <= now_ms
    ]


def _judged_on(analysis: Analysis, name: Metric) -> list[Metrics]:
    return [metric for metric in (*analysis.guardrails, *analysis.signals) if metric.metric == name]


def quantile_of(policy: TrafficPolicy, name: Metric) -> float | None:
    """The quantile of stable above which something is slow; None = the metric is not judged."""
    rollout = policy.spec.rollout
    judged = _judged_on(rollout.analysis, name) if rollout is not None else []
    return judged[0].slow_from if judged else None


def rollout_spec(policy: TrafficPolicy, digests: dict[str, str]) -> RolloutSpec | None:
    """What the state machine needs to know of a policy's rollout; None = the policy names none.

    Args:
        digests: variant -> digest.
    """
    rollout = policy.spec.rollout
    if rollout is None:
        return None
    analysis, checks = rollout.analysis, rollout.analysis.checks
    return RolloutSpec(
        stable_digest=digests[policy.spec.stable],
        canary_digest=digests[rollout.to],
        salt=policy.salt,
        steps=tuple(_step(step) for step in rollout.steps),
        guardrails=tuple(
            Guardrail(name=rail.label, kind=_KINDS[rail.metric], margin=_margin(rail)) for rail in analysis.guardrails
        ),
        signals=tuple(Signal(name=one.label, outside_alpha=one.outside_alpha) for one in analysis.signals),
        alpha=analysis.alpha,
        beta=analysis.beta,
        min_detect=analysis.min_detect,
        max_duration_ms=rollout.max_duration_ms,
        on_timeout=rollout.on_timeout,
        on_failure=OnFailure(
            do=rollout.on_failure.do,
            fallback_to_stable=rollout.on_failure.fallback_to_stable,
            keep_loaded_ms=rollout.on_failure.keep_loaded_ms,
        ),
        checks=Checks(
            srm=checks.srm,
            no_traffic=checks.no_traffic.do,
            no_traffic_after_ms=checks.no_traffic.after_ms,
            revision_skew=checks.revision_skew,
        ),
        four_eyes=rollout.four_eyes,
        rollback_window=rollout.rollback_window,
        unit=_unit(policy.spec.unit),
    )


def _unit(unit: Unit) -> str:
    told = [unit.hash, unit.from_]
    return "" if told == [Unit().hash, ()] else msgspec.json.encode(told).decode()


def _step(step: DocumentStep) -> Step:
    hold, shadow = step.hold, step.shadow
    approval = hold.approval if hold is not None else None
    samples = (hold.min_samples if hold is not None else None) or (shadow.min_samples if shadow is not None else None)
    return Step(
        slots=step.set_weight_slots,
        shadow_slots=shadow.percent_slots if shadow is not None else None,
        hold=Hold(
            min_units=(hold.min_units or 0) if hold is not None else 0,
            min_samples=samples or 0,
            min_duration_ms=(hold.min_duration_ms or 0) if hold is not None else 0,
            approval=Approval(by=approval.by, expires_ms=approval.expires_ms or 0) if approval is not None else None,
        ),
    )


def _margin(rail: Metrics) -> str:
    """All that a guardrail's verdict depends on: another text begins the evidence anew."""
    return msgspec.json.encode([rail.metric, rail.quantile, rail.margin, rail.max]).decode()


def closed_by(window: Window | None, now_s: float) -> str:
    """Why no step may advance at this time: a freeze, or no span of the week, if any is named; "" = one may."""
    if window is None:
        return ""
    now_ms = int(now_s * 1000)
    frozen = [one for one in window.freeze if read_freeze_end(one.from_) <= now_ms < read_freeze_end(one.until)]
    if frozen:
        last = max(frozen, key=lambda one: read_freeze_end(one.until))
        return f"a freeze is on until {last.until}: {last.reason}"
    held = [_holds(text, now_s) for text in window.not_before]
    if not held or True in held:
        return ""
    unknown = [text for text, holds in zip(window.not_before, held, strict=True) if holds is None]
    if unknown:
        # Another node took the document, with another list of zones: harm has to be found here all the same.
        return f"the release window is closed: this node does not know the time zone of {unknown[0]}"
    more = len(held) - _SHOWN
    spans = ", ".join(window.not_before[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
    return f"the release window is closed; it opens {spans}"


def _holds(text: str, now_s: float) -> bool | None:
    """None = its zone is not known here."""
    weekly = read_weekly(text)
    zone = _zone(weekly.zone)
    if zone is None:
        return None
    local = datetime.fromtimestamp(now_s, zone)
    return weekly.holds(local.weekday(), 60 * local.hour + local.minute)


def _zone(name: str) -> ZoneInfo | None:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # the name of a folder of zones, such as Europe
        return None
