"""What is still waited for, in plain words. Nothing left = the step may be left. Pure.

Three kinds: what comes with time and traffic, what the evidence must show, and a person's agreement, which is the last.
"""

from collections.abc import Iterator

from msgspec import Struct

from router.rollout.findings import verdicts_of
from router.rollout.observed import Observed
from router.rollout.spec import ALL_SLOTS, Approval, Guardrail, RolloutSpec, Step
from router.rollout.status import IN_STEP, Approved, RolloutStatus
from router.rollout.words import duration, listed


class Waits(Struct, frozen=True):
    """Each a list of reasons.

    Attributes:
        view: without these nothing moves, whoever asks for it.
        bake: traffic and time of this step.
        evidence: what guardrails must show.
        approval: who must agree.
    """

    view: tuple[str, ...] = ()
    bake: tuple[str, ...] = ()
    evidence: tuple[str, ...] = ()
    approval: tuple[str, ...] = ()

    @property
    def every(self) -> tuple[str, ...]:
        """All, in the order in which they are met."""
        return self.view + self.bake + self.evidence + self.approval


def is_acknowledged(status: RolloutStatus, observed: Observed) -> bool:
    """Every live worker has the last change of routing."""
    return observed.acked_revision >= status.awaits_revision


def is_watched(status: RolloutStatus, observed: Observed) -> bool:
    """This tick's time counts: counts from all live workers, all on the revision in force."""
    return observed.fresh and is_acknowledged(status, observed)


def view_waits(status: RolloutStatus, observed: Observed) -> tuple[str, ...]:
    """What is missing to see at all."""
    found = []
    if not is_acknowledged(status, observed):
        who = listed(observed.lagging) or "not every live worker"
        has = "has not" if len(observed.lagging) == 1 else "have not" if observed.lagging else "has"
        found.append(f"{who} {has} applied revision {status.awaits_revision}")
    if not observed.fresh:
        found.append("no fresh counts from every live worker")
    return tuple(found)


def step_waits(spec: RolloutSpec, status: RolloutStatus, observed: Observed, now_ms: int) -> Waits:
    """What the step in force still waits for. What somebody forced is not waited for."""
    step = spec.steps[status.step]
    force = status.force
    waived = force is not None and force.everything
    window = () if observed.window_open else (observed.closed_by,)
    return Waits(
        view_waits(status, observed) + window,
        () if waived else tuple(_bake(step, status, observed)),
        () if waived else tuple(_evidence(spec, status, observed, patient=force is None)),
        tuple(_approval(spec, status, observed, now_ms)),
    )


def _bake(step: Step, status: RolloutStatus, observed: Observed) -> Iterator[str]:
    hold = step.hold
    here = observed.visit == status.visit
    arms = {"canary": observed.canary_units, "stable": observed.stable_units}
    if not step.is_analysed:
        del arms["stable"]
    for arm, units in arms.items():
        seen = units if here else 0
        if seen < hold.min_units:
            yield f"waits for {hold.min_units - seen:,} of {hold.min_units:,} {arm} units"
    samples = observed.samples if here else 0
    if samples < hold.min_samples:
        what = "compared requests" if step.is_shadow else "canary requests"
        yield f"waits for {hold.min_samples - samples:,} of {hold.min_samples:,} {what}"
    if status.held_ms < hold.min_duration_ms:
        left_ms = hold.min_duration_ms - status.held_ms
        yield f"waits for {duration(left_ms)} of {duration(hold.min_duration_ms)} under watch"


def _speaks(guardrail: Guardrail, step: Step) -> bool:
    """The guardrail can learn something in this step."""
    return step.is_shadow if guardrail.kind == "shadow" else step.is_analysed


def _evidence(spec: RolloutSpec, status: RolloutStatus, observed: Observed, *, patient: bool) -> Iterator[str]:
    """`patient` = nobody forced it: harm must have been findable, and all users need non-inferiority."""
    step = spec.steps[status.step]
    full = leads_to_everybody(spec, status) and not status.cleared
    verdicts = verdicts_of(status, observed)
    for signal in spec.signals if step.is_analysed else ():
        if signal.name in observed.unknown:
            yield f"signal {signal.name}: the monitor has no verdict on the canary yet"
        if signal.name in observed.scarce:
            yield f"signal {signal.name} has too little data"
    for guardrail in spec.guardrails:
        speaks = _speaks(guardrail, step)
        if not (speaks or full):
            continue
        verdict = verdicts.get(guardrail.name)
        name = f"guardrail {guardrail.name}"
        if verdict is None or verdict.insufficient:
            yield f"{name} has too little data"
        elif patient and speaks and guardrail.kind != "shadow" and not _detects(verdict.detectable_ratio, spec):
            ratio = verdict.detectable_ratio
            best = "no harm at all" if ratio is None else f"harm of {ratio:.3g}x"
            yield f"{name} would have found {best} in this step; minDetect is {spec.min_detect:g}x"
        elif patient and (full or guardrail.kind == "shadow") and not (verdict.passes and not verdict.tripped):
            capped = guardrail.kind in ("shadow", "fallbacks")
            worse = "is within its limit" if capped else "is not worse than stable by its margin"
            yield f"{name} has not shown yet that the canary {worse}"


def _detects(ratio: float | None, spec: RolloutSpec) -> bool:
    return ratio is not None and ratio <= spec.min_detect


def leads_to_everybody(spec: RolloutSpec, status: RolloutStatus) -> bool:
    """Leaving the step gives the canary all users."""
    after = status.step + 1
    return after >= len(spec.steps) or spec.steps[after].slots == ALL_SLOTS


def _approval(spec: RolloutSpec, status: RolloutStatus, observed: Observed, now_ms: int) -> Iterator[str]:
    asked = spec.steps[status.step].hold.approval
    if asked is None:
        return
    given = [one for one in status.approvals if one.step == status.step]
    complaints = [objection(spec, asked, one, observed.applied_by, now_ms) for one in given]
    if "" in complaints:
        return
    yield f"approval by {listed(asked.by)} missing" + (f" ({complaints[-1]})" if complaints else "")


def objection(spec: RolloutSpec, asked: Approval, given: Approved, applied_by: str, now_ms: int) -> str:
    """Why an agreement does not count; "" = it does.

    Asked again at each tick: agreements expire, and who agreed may apply the policy later.
    """
    if not may_approve(asked, given.actor, given.labels):
        return f"{given.actor} is none of them"
    if spec.four_eyes and given.actor == applied_by:
        return f"{given.actor} applied the policy, and fourEyes asks for somebody else"
    if asked.expires_ms and now_ms - given.at_ms > asked.expires_ms:
        return f"that of {given.actor} expired after {duration(asked.expires_ms)}"
    return ""


def may_approve(asked: Approval, actor: str, labels: tuple[str, ...]) -> bool:
    """The actor is named, or has a label that is."""
    names = {f"key:{actor}"} | {f"{kind}:{label}" for kind in ("label", "group") for label in labels}
    # A bare entry is either; a key that calls itself "label:release" must not pass for a label.
    names |= {name for name in (actor, *labels) if ":" not in name}
    return any(entry in names for entry in asked.by)


def waits_of(spec: RolloutSpec, status: RolloutStatus, observed: Observed, now_ms: int) -> tuple[str, ...]:
    """What the status shows: whatever the phase, and the step's own list in a step."""
    if status.phase in IN_STEP:
        return step_waits(spec, status, observed, now_ms).every
    if status.phase == "PREPARING":
        return preparing_waits(spec, status, observed)
    if status.phase == "PROMOTING":
        return view_waits(status, observed)
    return ()


def preparing_waits(spec: RolloutSpec, status: RolloutStatus, observed: Observed) -> tuple[str, ...]:
    """What is missing before the canary may get anything. A former stable may come back outside the window."""
    found = list(view_waits(status, observed))
    if not observed.canary_ready:
        found.append("the canary is being loaded and warmed up")
    if not observed.window_open and not comes_back(spec, status):
        found.append(observed.closed_by)
    return tuple(found)


def comes_back(spec: RolloutSpec, status: RolloutStatus) -> bool:
    """The canary is a stable of late (`rollbackWindow`), so it needs no steps."""
    former = status.stables[:-1]
    return spec.rollback_window > 0 and spec.canary_digest in former[-spec.rollback_window :]
