"""What a policy asks of a rollout. Frozen values, made from the policy document by its reader; checked here once.

Two digests of it matter. `identity` says when evidence must begin anew and what a latch forbids: salt, both models,
alpha and guardrails (docs/rollouts.md, "One rollout or another"). `plan_digest` covers the steps, which may be edited
on the way.
"""

import hashlib
import math
from typing import Final, Literal

import msgspec
from msgspec import Struct

ALL_SLOTS: Final = 10_000
DEFAULT_KEEP_LOADED_MS: Final = 30 * 60_000
DEFAULT_MAX_DURATION_MS: Final = 7 * 86_400_000

Do = Literal["rollback", "hold", "warn"]
OnTimeout = Literal["hold", "promote", "rollback"]
Kind = Literal["events", "latency", "outputs", "shadow", "fallbacks"]


class Approval(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A person must agree before the step is left.

    Attributes:
        by: who may: `key:NAME`, `label:NAME` (also `group:NAME`), or a bare name, which is either.
        expires_ms: an agreement counts for so long after it was given; 0 = for ever.
    """

    by: tuple[str, ...]
    expires_ms: int = 0


class Hold(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What must have come together before a step is left; all of it.

    Attributes:
        min_units: distinct units in each arm that has traffic, in this step.
        min_samples: requests of the canary in this step; in a shadow step compared pairs.
        min_duration_ms: time under watch in this step: only while all live workers report.
    """

    min_units: int = 0
    min_samples: int = 0
    min_duration_ms: int = 0
    approval: Approval | None = None


class Step(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One stage: either canary slots or a shadow, each of 10,000.

    Attributes:
        slots: canary's share; a shadow step leaves it as it is.
        shadow_slots: share of requests that the canary answers unseen.
    """

    slots: int | None = None
    shadow_slots: int | None = None
    hold: Hold = Hold()

    @property
    def is_shadow(self) -> bool:
        """No user sees the canary because of this step."""
        return self.shadow_slots is not None

    @property
    def is_analysed(self) -> bool:
        """Both arms have users, so that there is something to compare."""
        return self.slots is not None and self.slots < ALL_SLOTS


class Guardrail(Struct, frozen=True, kw_only=True):
    """Trips = failure.

    Attributes:
        kind: `shadow` is judged on compared pairs, all others on users' requests.
        margin: canonical text of its margins and settings; another text is another rollout.
    """

    name: str
    kind: Kind = "events"
    margin: str = ""


class Signal(Struct, frozen=True, kw_only=True):
    """Trips = hold, until it no longer does.

    Attributes:
        outside_alpha: it rolls back, and the budget for false rollbacks says nothing about it.
    """

    name: str
    outside_alpha: bool = False


class Checks(Struct, frozen=True, kw_only=True):
    """What to do when the measurement itself looks wrong. Saturated evidence always holds.

    Attributes:
        no_traffic_after_ms: time under watch before missing traffic is told.
    """

    srm: Do = "hold"
    no_traffic: Do = "hold"
    no_traffic_after_ms: int = 0
    revision_skew: Do = "hold"


class OnFailure(Struct, frozen=True, kw_only=True):
    """What a tripped guardrail does.

    Attributes:
        fallback_to_stable: for the data plane; no decision here reads it.
        keep_loaded_ms: a model that lost its traffic stays in memory so long.
    """

    do: Do = "rollback"
    fallback_to_stable: bool = True
    keep_loaded_ms: int = DEFAULT_KEEP_LOADED_MS


class RolloutSpec(Struct, frozen=True, kw_only=True):
    """One rollout as its policy wants it.

    Attributes:
        stable_digest, canary_digest: content digests, never names.
        unit: what is randomised and how it is hashed, as text; "" = each request by itself.
        alpha: budget for false rollbacks of the whole rollout.
        beta: risk of promoting a canary that is worse by the margin.
        min_detect: a step is left only when harm of this ratio would have been found in it.
        max_duration_ms: from the beginning, waits and pauses included.
        four_eyes: who applied the policy can neither approve nor promote.
        rollback_window: one of so many former stables comes back without steps.

    Raises:
        ValueError: no step, a step with both or neither share, a falling ramp, a share or number out of range, the same
            guardrail twice, a guardrail that no step can judge.
    """

    stable_digest: str
    canary_digest: str
    salt: str
    steps: tuple[Step, ...]
    guardrails: tuple[Guardrail, ...] = ()
    signals: tuple[Signal, ...] = ()
    alpha: float = 0.01
    beta: float = 0.05
    min_detect: float = 3.0
    max_duration_ms: int = DEFAULT_MAX_DURATION_MS
    on_timeout: OnTimeout = "hold"
    on_failure: OnFailure = OnFailure()
    checks: Checks = Checks()
    four_eyes: bool = False
    rollback_window: int = 3
    unit: str = ""

    def __post_init__(self) -> None:
        if not self.steps:
            raise ValueError("a rollout has at least one step")
        _check_ramp(self.steps)
        _check_judged(self.steps, self.guardrails)
        names = [guardrail.name for guardrail in self.guardrails]
        if len(set(names)) != len(names):
            raise ValueError(f"guardrail names are distinct, got {names}")
        if not (0 < self.alpha < 1 and 0 < self.beta < 1):
            raise ValueError(f"alpha and beta lie between 0 and 1, got {self.alpha} and {self.beta}")
        if not (math.isfinite(self.min_detect) and self.min_detect > 1):
            raise ValueError(f"min_detect is a ratio above 1, got {self.min_detect}")
        if self.max_duration_ms <= 0 or self.rollback_window < 0 or self.on_failure.keep_loaded_ms < 0:
            raise ValueError("max_duration_ms is positive; rollback_window and keep_loaded_ms are not negative")


def _check_ramp(steps: tuple[Step, ...]) -> None:
    before = 0
    for index, step in enumerate(steps):
        if (step.slots is None) == (step.shadow_slots is None):
            raise ValueError(f"step {index + 1} has either slots or shadow_slots")
        slots = step.slots if step.slots is not None else step.shadow_slots
        if slots is None or not 1 <= slots <= ALL_SLOTS:
            raise ValueError(f"step {index + 1}: expected 1 to {ALL_SLOTS:,} slots, got {slots}")
        if step.slots is not None and step.slots <= before:
            raise ValueError(f"step {index + 1}: expected more than {before:,} slots, got {step.slots:,}")
        before = step.slots or before
        hold = step.hold
        if min(hold.min_units, hold.min_samples, hold.min_duration_ms) < 0:
            raise ValueError(f"step {index + 1}: a hold is not negative")
        if step.is_shadow and hold.min_units:
            raise ValueError(f"step {index + 1}: a shadow compares requests, so it takes min_samples, not min_units")
        if hold.approval is not None and (not hold.approval.by or hold.approval.expires_ms < 0):
            raise ValueError(f"step {index + 1}: an approval names who may give it, and its time is not negative")


def _check_judged(steps: tuple[Step, ...], guardrails: tuple[Guardrail, ...]) -> None:
    """Every guardrail must pass before all users, so each needs a step that it can learn from."""
    if guardrails and steps[0].slots == ALL_SLOTS:
        raise ValueError("guardrails need a step below 100 %, got 100 % as the first")
    unseen = [one.name for one in guardrails if one.kind != "shadow"]
    if unseen and not any(step.is_analysed for step in steps):
        raise ValueError(f"guardrail {unseen[0]} needs a step with less than 100 % of the users to be judged in")


def identity(spec: RolloutSpec | None) -> str:
    """What makes a rollout this one: 32 hex digits; "" = none is wanted. The order of guardrails does not matter."""
    if spec is None:
        return ""
    guardrails = sorted((one.name, one.kind, one.margin) for one in spec.guardrails)
    unit = [spec.unit] if spec.unit else []
    return _digest([spec.salt, spec.stable_digest, spec.canary_digest, spec.alpha, guardrails, *unit])


def plan_digest(spec: RolloutSpec) -> str:
    """Digest of the steps: 32 hex digits. Defaults are left out, so that a field of a later version changes nothing."""
    return _digest(spec.steps)


def _digest(value: object) -> str:
    return hashlib.sha256(msgspec.json.encode(value)).hexdigest()[:32]


def slots_at(spec: RolloutSpec, step: int) -> int:
    """Canary slots while step number `step` is in force: those of the last step up to it that sets any."""
    weights = [one.slots for one in spec.steps[: step + 1] if one.slots is not None]
    return weights[-1] if weights else 0
