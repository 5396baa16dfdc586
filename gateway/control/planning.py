"""What applying a policy would do: who moves, what evidence could see at each step, and how long it would take."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from gateway.control.documents import Kept, readable
from gateway.control.live import bad_rate, units
from gateway.control.needed import Needed, by_errors, once_each
from gateway.control.plans import past_freezes, rollout_spec
from gateway.control.policies import Policies
from gateway.control.reads import unreadable
from gateway.control.resets import Reset
from gateway.control.service import Service
from gateway.control.shift import METRIC as OUTPUT_SHIFT
from gateway.control.shift import TYPICAL_SHARE
from gateway.control.shift import plan as shift_plan
from gateway.control.signals import plan_of as signals_of
from router import slots as tables
from router.diff import PolicyDiff, compare
from router.evidence.eprocess import EVENTS_PER_START
from router.evidence.planning import POWER_80, Guardrail, to_detect, to_promote
from router.evidence.promotion import Margin
from router.hashing import SLOTS
from router.policy import TrafficPolicy
from router.rollout.spec import identity
from router.rollout_document import Analysis, Hold
from router.rollout_document import Guardrail as GuardrailDocument
from runtimes.errors import ServingError

RATIOS: Final = (1.5, 2.0, 3.0, 5.0)


async def plan(document: object, policies: Policies, service: Service) -> dict[str, Any]:
    """The plan of a document, for people and programs.

    Raises:
        InvalidInput: every problem of the document.
        StoreAway: it is not known what the document drops.
    """
    policy = readable(document)
    name = policy.metadata.name
    kept = policies.kept.get(name)
    pinned, problems = await _pinned(policy, policies)
    digests = {reference: digest for reference, (_, digest) in pinned.items()}
    diff = difference(kept, policy, digests)
    stable = next(one.model for one in policy.spec.variants if one.name == policy.spec.stable)
    version, digest = pinned.get(stable, (0, ""))
    live = {
        "requests_per_second": round(service.request_rates.get(name, 0.0), 3),
        **bad_rate(kept, digest, policies.outcomes.of(name, version, digest)),
        "units": units(kept, policy),
    }
    more = await warnings(policy, policies, service, digest)
    dropped = await _dropped(policy, policies, digests)
    diff = msgspec.structs.replace(diff, warnings=(*diff.warnings, *more))
    return {
        "name": name,
        "lines": [*diff.lines(), *([dropped.line()] if dropped is not None else [])],
        "moved_slots": diff.moved_slots,
        "moved_share": diff.moved_share,
        "slots": diff.slots,
        "new_rollout": list(diff.new_rollout),
        "warnings": list(diff.warnings),
        "problems": problems,
        "experiment_dropped": dropped.facts() if dropped is not None else None,
        "live": live,
        "steps": steps(policy, live["requests_per_second"], live["bad_rate"], live["units"]["come"]),
        "signals": signals_of(policy),
    }


async def _dropped(policy: TrafficPolicy, policies: Policies, digests: Mapping[str, str]) -> Reset | None:
    """What a document drops of an experiment; nothing where a version cannot be had. Raises StoreAway."""
    found = [digests.get(one.model, "") for one in policy.spec.variants]
    return await policies.drops(policies.kept.get(policy.metadata.name), policy, found) if all(found) else None


def difference(kept: Kept | None, policy: TrafficPolicy, digests: Mapping[str, str]) -> PolicyDiff:
    """What a document changes of what is in force; a rollout that goes on keeps its shares, whatever its split says.

    Args:
        digests: model reference -> digest, as far as they are known.
    """
    if kept is None:
        return compare(None, None, policy, digests=digests)
    diff = compare(kept.policy, tables.from_text(kept.record.slots, kept.policy.names), policy, digests=digests)
    by_variant = {one.name: digests.get(one.model, "") for one in policy.spec.variants}
    spec = rollout_spec(policy, by_variant) if all(by_variant.values()) else None
    if spec is None or identity(spec) != kept.record.status.identity or kept.policy.names != policy.names:
        return diff
    return msgspec.structs.replace(diff, shares=(), moved_slots=0, moved_share=0.0, slots=kept.record.slots)


async def _pinned(policy: TrafficPolicy, policies: Policies) -> tuple[dict[str, tuple[int, str]], list[str]]:
    """Version and digest of each reference, and what is wrong with those that cannot be used."""
    found: dict[str, tuple[int, str]] = {}
    problems: list[str] = []
    contracts = {}
    for variant in policy.spec.variants:
        try:
            version, digest = await policies.models.pin(policy.metadata.name, variant.model)
        except ServingError as error:
            problems.append(f"variant {variant.name}: {error.message}")
            continue
        found[variant.model] = version, digest
        contracts[variant.name] = policies.models.contract(digest)
    stable = contracts.get(policy.spec.stable)
    problems += [
        f"contract_mismatch: variant {name} has other inputs or outputs than {policy.spec.stable}"
        for name, contract in contracts.items()
        if stable is not None and contract != stable
    ]
    return found, problems


async def in_force_warnings(kept: Kept, policies: Policies, service: Service) -> list[str]:
    """The same of a policy that is in force."""
    digest = next(pin.digest for pin in kept.record.variants if pin.variant == kept.policy.spec.stable)
    return await warnings(kept.policy, policies, service, digest)


async def warnings(policy: TrafficPolicy, policies: Policies, service: Service, digest: str) -> list[str]:
    """What is most likely a slip in a policy, whatever is in force.

    Args:
        digest: of stable; "" = not known.
    """
    return [
        *past_freezes(policy, policies.now_ms()),
        *await _absent_inputs(policy, policies, service, digest),
    ]


async def _absent_inputs(policy: TrafficPolicy, policies: Policies, service: Service, digest: str) -> list[str]:
    """What the policy reads and no request has; nothing where the model's inputs are not known."""
    contract = policies.models.contract(digest) if digest else None
    try:
        seen = await service.look_at(policy.metadata.name)
    except ServingError:  # the repository is away
        return []
    if contract is None or seen is None or seen.config is None:
        return []
    return list(unreadable(policy, contract[0], seen.config.feature_names))


def steps(policy: TrafficPolicy, rate: float, bad_rate: float, come: int | None = None) -> list[dict[str, Any]]:
    """Per analysed step and guardrail on events: seconds to detect each ratio, and to promote; None = never.

    A fault is taken to begin with its step. The later that is, the longer it takes to be found, so the bad events of
    the steps before are estimated: of steps that last as long as their holds and their evidence ask for.

    Guardrails with `max` are not planned: they compare with no rate of stable's.

    Args:
        come: distinct units that there are; None = not known, or each request is one: every request counts.
    """
    rollout = policy.spec.rollout
    if rollout is None:
        return []
    rails = [rail for rail in rollout.analysis.guardrails if rail.max is None]
    found, before = [], 0.0
    for at, step in enumerate(rollout.steps):
        slots = step.set_weight_slots
        if slots is None or slots >= SLOTS:
            continue
        weight, lasts = slots / SLOTS, _held(step.hold, slots / SLOTS, rate)
        for rail in rails:
            planned = _planned(rail, rollout.analysis, weight, bad_rate, come, before)
            found.append({"step": at + 1, "weight": weight, "guardrail": rail.label, **_shown(planned, rate)})
            lasts = max(lasts, planned.leaves)
        before += lasts
    return found


def _held(hold: Hold | None, weight: float, rate: float) -> float:
    """Requests until a step's hold is met."""
    if hold is None:
        return 0.0
    units = (hold.min_units or 0) / min(weight, 1.0 - weight)
    return max((hold.min_duration_ms or 0) / 1000.0 * rate, (hold.min_samples or 0) / weight, units)


@dataclass(frozen=True, slots=True)
class _Planned:
    """What a guardrail takes in a step.

    Attributes:
        detect: each ratio.
        leaves: requests until it lets the step be left; 0 = it never does, so no later step comes.
    """

    detect: Mapping[str, Needed]
    promote: Needed
    leaves: float


def _shown(planned: _Planned, rate: float) -> dict[str, Any]:
    detect, promote = planned.detect, planned.promote
    return {
        "detect_canary_requests": {key: one.canary_requests for key, one in detect.items()},
        "detect_seconds": {key: one.seconds(rate) for key, one in detect.items()},
        "detect_units": {key: one.units for key, one in detect.items()},
        "promote_canary_requests": promote.canary_requests,
        "promote_seconds": promote.seconds(rate),
        "promote_units": promote.units,
    }


def _planned(
    rail: GuardrailDocument, analysis: Analysis, weight: float, bad_rate: float, come: int | None, before: float
) -> _Planned:
    """Of `output_shift` units with a score, of the others requests.

    Args:
        before: requests of the steps before, of which some were bad.
    """
    kept = len(analysis.guardrails)
    if rail.metric == OUTPUT_SHIFT:
        base, guardrail = TYPICAL_SHARE, shift_plan(rail.ratio, analysis.alpha, kept)
        passes = to_detect(analysis.min_detect, weight, base, guardrail, POWER_80)
        leave = [passes]
        found = {ratio: once_each(to_detect(ratio, weight, base, guardrail), come) for ratio in RATIOS}
    else:
        base = bad_rate if rail.metric == "error_rate" else 1 - (rail.quantile or 0.99)
        events = base * before if come is None else min(base * before, come)
        guardrail = Guardrail(rail.ratio, analysis.alpha, kept, starts=1 + int(events) // EVENTS_PER_START)
        margin = Margin(rail.ratio, rail.absolute if rail.metric == "error_rate" else None)
        passes = to_promote(1.0, weight, base, margin, analysis.beta)
        leave = [passes, to_detect(analysis.min_detect, weight, base, guardrail, POWER_80)]
        found = {ratio: by_errors(ratio, weight, base, guardrail, come) for ratio in RATIOS}
    detect = {f"{ratio:g}x": needed for ratio, needed in found.items()}
    return _Planned(detect, once_each(passes, come), min((one.total for one in leave if one is not None), default=0.0))
