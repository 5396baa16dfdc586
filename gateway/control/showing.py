"""What people see of a rollout beside its status: steps, weights, guardrails with counts and thresholds. Pure.

It is made of the record in the store, so every node shows the same, whichever of them leads.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from gateway.control.documents import Kept, killed_in
from gateway.control.fallbacks import METRIC as FALLBACK_RATIO
from gateway.control.fallbacks import Fallbacks, within
from gateway.control.shift import METRIC as OUTPUT_SHIFT
from gateway.control.shift import totals
from gateway.control.signals import signs_of
from gateway.control.steps import spec_of
from gateway.control.units import Sampled, distinct
from gateway.shadowfields import FAILED, pairs
from gateway.tally import BAD, OK, SLOW
from router import slots as tables
from router.evidence.eprocess import EventShare, log_threshold
from router.evidence.promotion import NonInferiority
from router.evidence.sequences import rate_log_e
from router.hashing import SLOTS
from router.rollout.machine import foreseen
from router.rollout.status import RolloutStatus
from router.rollout.words import duration, listed
from router.rollout_document import Guardrail, Hold, Rollout, Step


def weights(kept: Kept, zeroed_here: bool = False) -> dict[str, dict[str, float]]:
    """Share of the default split by variant: `intended` by document and rollout, `in_force` after what was taken out.

    Args:
        zeroed_here: this node gives the canary nothing while the store is away.
    """
    record, names = kept.record, kept.policy.names
    table = tables.from_text(record.slots, names)
    in_force = {name: table.count(index) / SLOTS for index, name in enumerate(names)}
    taken_out = {*killed_in(record, kept.policy)}
    if record.canary and (record.withheld or zeroed_here):
        taken_out.add(record.canary)
    for name in taken_out & {*names} - {record.stable}:
        in_force[record.stable] += in_force[name]
        in_force[name] = 0.0
    return {"intended": _intended(kept), "in_force": {name: round(share, 6) for name, share in in_force.items()}}


def _intended(kept: Kept) -> dict[str, float]:
    record, names = kept.record, kept.policy.names
    if record.canary and record.status.identity:
        canary = record.status.slots / SLOTS
        return {
            name: canary if name == record.canary else 1 - canary if name == record.stable else 0.0 for name in names
        }
    table = tables.from_text(record.slots, names)
    return {name: table.count(index) / SLOTS for index, name in enumerate(names)}


def status_of(kept: Kept) -> RolloutStatus:
    """Where the rollout that the document asks for stands, also in the moment before its controller has looked."""
    record = kept.record
    return foreseen(spec_of(kept), record.status, record.revision, record.applied_by)


def plan_of(kept: Kept) -> list[dict[str, Any]]:
    """The rollout's steps in words, numbered from 1."""
    rollout = kept.policy.spec.rollout
    steps = rollout.steps if rollout is not None else ()
    return [_step(number, step) for number, step in enumerate(steps, 1)]


def _step(number: int, step: Step) -> dict[str, Any]:
    shadow = step.shadow
    return {
        "step": number,
        "weight": None if step.set_weight_slots is None else step.set_weight_slots / SLOTS,
        "shadow": None if shadow is None else shadow.percent_slots / SLOTS,
        "hold": _hold(step.hold, shadow.min_samples if shadow is not None else None),
    }


def _hold(hold: Hold | None, compared: int | None) -> str:
    parts = [f"{compared:,} compared requests"] if compared else []
    if hold is not None:
        parts += [duration(hold.min_duration_ms)] if hold.min_duration_ms else []
        parts += [f"{hold.min_units:,} units"] if hold.min_units else []
        parts += [f"{hold.min_samples:,} requests"] if hold.min_samples else []
        parts += [f"approval by {listed(hold.approval.by)}"] if hold.approval is not None else []
    return ", ".join(parts)


def _judged(kept: Kept) -> tuple[Rollout, Mapping[str, Any]] | None:
    """The rollout and what is kept of its judge; None = nothing has been judged in it."""
    rollout, record = kept.policy.spec.rollout, kept.record
    judge = record.evidence.get("judge")
    if rollout is None or not judge or judge["identity"] != record.status.identity:
        return None
    return rollout, judge


def guardrails(kept: Kept) -> list[dict[str, Any]]:
    """Every guardrail: its mark, counts of this step, log e-values beside the thresholds that decide."""
    judged, record = _judged(kept), kept.record
    if judged is None:
        return []
    rollout, judge = judged
    analysis = rollout.analysis
    limits = {
        "rollback_log_e": log_threshold(analysis.alpha, max(1, len(analysis.guardrails))),
        "promote_log_e": log_threshold(analysis.beta),
    }
    found = []
    for rail in analysis.guardrails:
        mark = record.status.marks.get(rail.label)
        if rail.metric == OUTPUT_SHIFT:
            shown = _of_outputs(rail, judge, limits)
        elif rail.metric == FALLBACK_RATIO:
            shown = _of_fallbacks(rail, judge, limits)
        elif rail.max is not None:
            shown = _of_shadow(rail, rollout.to, judge)
        else:
            shown = _of_events(kept, rail, judge, limits)
        detectable = mark.detectable_ratio if mark else None
        found.append(
            {
                "name": rail.label,
                "metric": rail.metric,
                "state": mark.state if mark else "insufficient",
                "detectable_ratio": detectable,
                "min_detect": analysis.min_detect,
                **shown,
                "text": mark.text if mark else "",
            }
        )
    return found


def units(kept: Kept) -> dict[str, int] | None:
    """Distinct units of both arms in this step; None = each request is one, or nothing is compared."""
    judged = _judged(kept)
    if judged is None or not kept.policy.spec.unit.from_:
        return None
    (rollout, judge), found = judged, {}
    sampled = Sampled(judge["sampled"])
    for role, name in (("canary", rollout.to), ("stable", kept.policy.spec.stable)):
        counts = judge["step"].get(name)
        requests, first_seen = counts[OK] + counts[BAD] if counts else 0, judge["first_seen"].get(name, 0)
        found[role] = distinct(sampled, canary=role == "canary", first_seen=first_seen, requests=requests)
    return found


def signals(kept: Kept) -> list[dict[str, Any]]:
    """Every signal on events: whether it speaks against the canary, and the numbers that it rests on."""
    judged, record = _judged(kept), kept.record
    if judged is None:
        return []
    rollout, judge = judged
    analysis = rollout.analysis
    return [
        {
            "name": sign.signal.label,
            "metric": sign.signal.metric,
            "state": "speaks" if sign.speaks(analysis) else "insufficient" if sign.is_scarce(record) else "quiet",
            "log_e": sign.harm.log_e,
            "threshold": log_threshold(analysis.alpha),
            "text": sign.text(analysis),
            **({"executions": _executions(sign.step)} if sign.step else {}),
        }
        for sign in signs_of(analysis, judge, kept.policy.spec.stable, rollout.to)
    ]


def _executions(step: Sequence[Sequence[int]]) -> dict[str, dict[str, int]]:
    """Those of this step that were compared."""
    arms = zip(("canary", "stable"), step, strict=True)
    return {role: {"slow": slow, "executions": every} for role, (every, slow) in arms}


def _of_events(kept: Kept, rail: Guardrail, judge: Mapping[str, Any], limits: Mapping[str, float]) -> dict[str, Any]:
    rollout = kept.policy.spec.rollout
    assert rollout is not None, "asked before"
    state = judge["rails"].get(rail.label)
    harm = EventShare.from_state(state["harm"]) if state else None
    safety = NonInferiority.from_state(state["safety"]) if state else None
    bad = SLOW if rail.metric == "latency" else BAD
    return {
        "counts": {
            role: _share(judge["step"].get(name), bad)
            for role, name in (("canary", rollout.to), ("stable", kept.policy.spec.stable))
        },
        "erred_units": {"canary": harm.canary_events, "all": harm.all_events} if harm else None,
        "harm": {"log_e": harm.log_e, "peak_log_e": harm.peak_log_e, "threshold": limits["rollback_log_e"]}
        if harm
        else None,
        "safety": {"log_e": safety.log_e, "peak_log_e": safety.peak_log_e, "threshold": limits["promote_log_e"]}
        if safety
        else None,
    }


def _of_outputs(rail: Guardrail, judge: Mapping[str, Any], limits: Mapping[str, float]) -> dict[str, Any]:
    state = judge.get("shifts", {}).get(rail.label)
    if not state:
        return {"units": {"canary": 0, "all": 0}, "bins": None, "harm": None}
    canary, every = totals(state["events"])
    bins = state["bins"]
    return {
        "units": {"canary": canary, "all": every},
        "bins": _by_bin(state["events"]),
        "harm": {"log_e": bins["log_e"], "peak_log_e": bins["peak_log_e"], "threshold": limits["rollback_log_e"]},
    }


def _by_bin(events: Mapping[str, list[list[int]]]) -> dict[str, list[int]]:
    """Units of all weights by the bin of their score."""
    found = [[sum(column) for column in zip(*rows, strict=True)] for rows in zip(*events.values(), strict=True)]
    return dict(zip(("canary", "all"), found, strict=False))


def _share(counts: list[int] | None, bad: int) -> dict[str, int]:
    return {"bad": counts[bad], "requests": counts[OK] + counts[BAD]} if counts else {"bad": 0, "requests": 0}


def _of_fallbacks(rail: Guardrail, judge: Mapping[str, Any], limits: Mapping[str, float]) -> dict[str, Any]:
    found = Fallbacks(rail, judge.get("fallbacks", {}).get(rail.label))
    failed, units = found.units
    safe = within(found.step, found.limit)
    return {
        "fell_back": {"bad": failed, "requests": units},
        "max": rail.max,
        "harm": {
            "log_e": rate_log_e(failed, units, found.limit),
            "peak_log_e": found.peak_log_e,
            "threshold": limits["rollback_log_e"],
        },
        "safety": {"log_e": safe, "peak_log_e": safe, "threshold": limits["promote_log_e"]},
    }


def _of_shadow(rail: Guardrail, canary: str, judge: Mapping[str, Any]) -> dict[str, Any]:
    counts = judge["shadow"].get(canary)
    compared, disagreed = pairs(counts) if counts else (0, 0)
    return {"compared": compared, "disagreed": disagreed, "failed": counts[FAILED] if counts else 0, "max": rail.max}


def viewed(name: str, kept: Kept) -> dict[str, Any]:
    """A policy for people and programs."""
    record, status = kept.record, status_of(kept)
    table = tables.from_text(record.slots, kept.policy.names)
    return {
        "name": name,
        "generation": record.generation,
        "revision": record.revision,
        "document": record.document,
        "applied_by": record.applied_by,
        "applied_ms": record.applied_ms,
        "owner": record.owner,
        "variants": [
            {"name": pin.variant, "version": pin.version, "digest": pin.digest, "slots": table.count(index)}
            for index, pin in enumerate(record.variants)
        ],
        "stable": record.stable,
        "canary": record.canary,
        "shadow_slots": record.shadow_slots,
        "zeroed": record.zeroed,
        "killed": list(record.killed),
        "slots": record.slots,
        "slots_digest": f"{tables.digest(table, kept.policy.names):016x}",
        "rollout": status.state if status.identity else None,
    }
