"""What speaks against going on, each with what is to be done about it: roll back, hold, or warn. Pure.

Missing data is no finding here: it is waited for (`gates.py`), and never counts as clean.
"""

import math
from collections.abc import Iterator
from typing import Final

from msgspec import Struct

from router.rollout.observed import MonitorLease, Observed, Verdict
from router.rollout.spec import Do, RolloutSpec
from router.rollout.status import MAX_TEXT, UNDER_WATCH, Mark, MarkState, RolloutStatus
from router.rollout.words import duration, listed

# Rules of evidence: sample ratio at 0.001, no traffic from 10 expected requests, three crashes of a digest in 60 s.
SRM_P: Final = 0.001
EXPECTED_REQUESTS: Final = 10
CRASHES: Final = 3
# A respawned worker needs a moment for its first table; only one that stays behind is skew.
SKEW_MS: Final = 10_000


class Finding(Struct, frozen=True):
    """One thing that speaks against going on.

    Attributes:
        do: rollback | hold | warn.
        text: for people.
        actor: who rolls back, if it comes to that.
        waivable: a person may promote in spite of it.
    """

    name: str
    do: Do
    text: str
    actor: str
    waivable: bool = False


def verdicts_of(status: RolloutStatus, observed: Observed) -> dict[str, Verdict]:
    """The verdicts, or none when they are about another rollout."""
    return observed.verdicts if observed.identity == status.identity else {}


def mark(verdict: Verdict | None) -> Mark:
    """A verdict in short; none at all is insufficient."""
    if verdict is None:
        return Mark("insufficient", None, 0.0, "no verdict")
    return Mark(
        _state(verdict), _finite(verdict.detectable_ratio), _finite(verdict.log_e) or 0.0, verdict.text[:MAX_TEXT]
    )


def _state(verdict: Verdict) -> MarkState:
    if verdict.tripped:
        return "tripped"
    if verdict.saturated:
        return "saturated"
    if verdict.insufficient:
        return "insufficient"
    return "passes" if verdict.passes else "undecided"


def _finite(number: float | None) -> float | None:
    """JSON has no infinity, and the status must come back as it was."""
    return number if number is not None and math.isfinite(number) else None


def marks_of(spec: RolloutSpec, status: RolloutStatus, observed: Observed) -> dict[str, Mark]:
    """Every declared guardrail in short; one without a verdict is insufficient."""
    verdicts = verdicts_of(status, observed)
    return {one.name: mark(verdicts.get(one.name)) for one in spec.guardrails}


def findings(spec: RolloutSpec, status: RolloutStatus, observed: Observed, now_ms: int) -> tuple[Finding, ...]:
    """All of them, those that roll back whatever the policy says first."""
    return (
        *_always(status, observed),
        *_guardrails(spec, status, observed),
        *_canary(spec, status, observed),
        *_signals(spec, observed),
        *_monitor(status, observed, now_ms),
        *_measurement(spec, status, observed, now_ms),
        *_timeout(spec, status, now_ms),
    )


def _always(status: RolloutStatus, observed: Observed) -> Iterator[Finding]:
    if status.pending_abort is not None:
        said = status.pending_abort
        yield Finding("pending", "rollback", said.reason, said.actor)
    if observed.canary_crashes >= CRASHES:
        text = f"{observed.canary_crashes} workers were lost within 60 s while they ran the canary"
        yield Finding("crashes", "rollback", text, "auto:crashes")


def _guardrails(spec: RolloutSpec, status: RolloutStatus, observed: Observed) -> Iterator[Finding]:
    if not spec.guardrails:
        # No document is taken without one any more, but a store may have such a rollout under way.
        text = "no guardrail judges the canary: apply the policy with one, or without `guardrails` for error_rate"
        yield Finding("guardrails", "hold", text, "auto:guardrails", waivable=True)
    if observed.blind:
        text = f"the evidence cannot be computed, so no guardrail can roll back: {observed.blind}"
        yield Finding("blind", "hold", text, "auto:blind", waivable=True)
    verdicts = verdicts_of(status, observed)
    for guardrail in spec.guardrails:
        verdict = verdicts.get(guardrail.name)
        if verdict is None:
            continue
        name = f"guardrail:{guardrail.name}"
        if verdict.tripped:
            text = f"guardrail {guardrail.name} has tripped" + (f": {verdict.text}" if verdict.text else "")
            yield Finding(name, spec.on_failure.do, text, f"auto:{name}", waivable=spec.on_failure.do == "warn")
        elif verdict.saturated:
            text = f"evidence_saturated: the record of erring units of {guardrail.name} is half full"
            yield Finding(name, "hold", text, f"auto:{name}", waivable=True)


def _canary(spec: RolloutSpec, status: RolloutStatus, observed: Observed) -> Iterator[Finding]:
    if observed.killed:
        yield Finding("killed", "hold", "the canary is killed; whoever lets it in again lets this go on", "auto:kill")
    if observed.canary_failed:
        yield Finding("load", "hold", f"the canary cannot be loaded: {observed.canary_failed}", "auto:load")
    elif status.phase in UNDER_WATCH and not observed.canary_ready:
        yield Finding("ready", "hold", "the canary is not ready in every worker", "auto:ready")
    for zero in observed.zeroed:
        text = f"worker {zero.worker} gives the canary no traffic: {zero.reason}; `resume` lets it again"
        yield Finding(f"zeroed:{zero.worker}", "hold", text, "auto:fail-safe")


def _signals(spec: RolloutSpec, observed: Observed) -> Iterator[Finding]:
    for signal in spec.signals:
        if signal.name not in observed.signals:
            continue
        do: Do = "rollback" if signal.outside_alpha else "hold"
        note = " (outside the budget for false rollbacks)" if signal.outside_alpha else ""
        why = f": {observed.said[signal.name]}" if signal.name in observed.said else ""
        text = f"signal {signal.name}{note}{why}"
        yield Finding(f"signal:{signal.name}", do, text, f"auto:signal:{signal.name}", waivable=True)


def fallback_asked(status: RolloutStatus, observed: Observed) -> MonitorLease | None:
    """The monitor's lease that lets stable answer for the canary, unless a person has overruled it."""
    lease, force = observed.monitor, status.force
    if lease is None or lease.do != "fallback" or lease.granted_ms <= status.overruled_ms:
        return None
    return None if force is not None and force.everything else lease


def _monitor(status: RolloutStatus, observed: Observed, now_ms: int) -> Iterator[Finding]:
    lease, fallback = observed.monitor, status.fallback
    if lease is not None and lease.do != "fallback":
        text = f"the monitor ({lease.evidence}, outside the budget for false rollbacks): {lease.reason}"
        yield Finding("monitor", lease.do, text, "auto:monitor", waivable=True)
        return
    asked = fallback_asked(status, observed)
    if asked is not None:
        yield Finding("monitor", "hold", fallback_text(asked), "auto:monitor")
    elif fallback is not None and now_ms < fallback.until_ms:
        yield Finding("monitor", "hold", fallback.reason, "auto:monitor")


def fallback_text(lease: MonitorLease) -> str:
    """Why stable answers for the canary."""
    return f"the monitor ({lease.evidence}): {lease.reason} Stable answers for the canary; `resume` lets it again"


def _measurement(spec: RolloutSpec, status: RolloutStatus, observed: Observed, now_ms: int) -> Iterator[Finding]:
    checks = spec.checks
    since_ms = status.lagging_since_ms
    if since_ms is not None and now_ms - since_ms > SKEW_MS:
        who = listed(observed.lagging) or "a worker"
        text = (
            f"revisionSkew: {who} has been behind revision {status.awaits_revision} for {duration(now_ms - since_ms)}"
        )
        yield Finding("revision_skew", checks.revision_skew, text, "auto:check:revisionSkew")
    if status.phase not in UNDER_WATCH or observed.visit != status.visit:
        return
    if not observed.srm_p > SRM_P:  # not a number is no clean bill either
        text = f"srm: the arms do not have the units that the weights promise (p = {observed.srm_p:.2g})"
        yield Finding("srm", checks.srm, text, "auto:check:srm", waivable=True)
    silent = observed.expected_canary >= EXPECTED_REQUESTS and observed.seen_canary == 0
    if silent and status.held_ms >= checks.no_traffic_after_ms:
        text = f"noTraffic: {observed.expected_canary:,} canary requests were expected and none came"
        yield Finding("no_traffic", checks.no_traffic, text, "auto:check:noTraffic", waivable=True)


def is_over(spec: RolloutSpec, status: RolloutStatus, now_ms: int) -> bool:
    """`maxDuration` has passed."""
    return now_ms - status.clock_from_ms >= spec.max_duration_ms


def _timeout(spec: RolloutSpec, status: RolloutStatus, now_ms: int) -> Iterator[Finding]:
    if spec.on_timeout == "promote" or status.phase == "PROMOTING" or not is_over(spec, status, now_ms):
        return
    text = f"maxDuration of {duration(spec.max_duration_ms)} is over"
    if spec.on_timeout == "hold":
        yield Finding("timeout", "hold", f"{text}; `resume` gives it as long again", "auto:timeout", waivable=True)
    else:
        yield Finding("timeout", "rollback", text, "auto:timeout")
