"""What the monitor may do to traffic: a lease on a weaker service, which the rollout controller reads. Pure.

A lease ends by itself: a monitor that dies leaves no mark (fail-open). At most one automatic action per model and
cool-down, and only on variants that are being tried. Whoever writes holds a fencing token; a lease with a token lower
than one that was seen is from a controller that has been replaced, and is ignored. A lease is about the policy as
people had written it then: when they have changed it since, it is void.

    observe    nothing
    freeze     the ramp goes no further
    fallback   the stable variant answers for this one, until the lease ends; the ramp goes no further
    rollback   the controller aborts the rollout, as for a guardrail; that stays when the lease ends
"""

from collections.abc import Iterable
from typing import Any, Final, Literal

import msgspec

from gateway.monitor.attribution import Action

Level = Literal["observe", "freeze", "rollback", "fallback"]
Role = Literal["stable", "canary", "shadow", "none"]
TTL_S: Final = 300.0
COOLDOWN_S: Final = 1800.0
ROLES: Final[frozenset[Role]] = frozenset({"canary", "shadow"})
LEASES: Final = 1_000
_FORCE: Final[tuple[Level, ...]] = ("observe", "freeze", "fallback", "rollback")
"""From the weakest to the strongest."""
DEGRADES: Final = _FORCE[1:]
"""Those that take something away."""


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """Permission to serve a variant less, for a while.

    Attributes:
        evidence_id: the event (INCIDENT/NUMBER) that justifies it; the audit has it.
        revision: of the policy's document as people wrote it; steps of a rollout do not change it.
        fence: token of the controller that granted it.
        granted_s, expires_at: Unix time.
    """

    model: str
    version: str
    variant: str
    level: Level
    reason: str
    evidence_id: str
    revision: int
    fence: int
    granted_s: float
    expires_at: float


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """What the monitor would like to do.

    Attributes:
        role: of the variant in its policy; "none" = no policy.
    """

    model: str
    version: str
    variant: str
    role: Role
    level: Level
    reason: str
    evidence_id: str
    revision: int


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How much the monitor may do by itself."""

    cooldown_s: float = COOLDOWN_S
    ttl_s: float = TTL_S
    roles: frozenset[Role] = ROLES


DEFAULT: Final = Limits()


class Leases(msgspec.Struct, frozen=True, kw_only=True):
    """All leases.

    Attributes:
        fence: the highest token that wrote.
        held: at most one per model.
        acted_s: when each model was last acted on automatically.
    """

    fence: int = 0
    held: tuple[Lease, ...] = ()
    acted_s: dict[str, float] = {}

    def plain(self) -> dict[str, Any]:
        """As JSON holds it."""
        found: dict[str, Any] = msgspec.to_builtins(self)
        return found


def leases_of(value: Any) -> Leases:
    """What `Leases.plain` gave. Raises ValueError (msgspec.ValidationError): it is something else."""
    return msgspec.convert(value, Leases)


def level_of(action: Action, allowed: Level) -> Level:
    """The strongest level that the attribution asks for and the settings allow (`actions.on_drift_of_canary`)."""
    if action == "rollback":
        return allowed
    if action == "freeze" and allowed != "observe":
        return "freeze"
    return "observe"


def grant(
    leases: Leases, ask: Ask, now_s: float, *, token: int, limits: Limits = DEFAULT
) -> tuple[Leases, Lease | None, str]:
    """Grant, extend or refuse.

    Args:
        token: fencing token of the asking controller.

    Returns:
        The next state, the lease or None, and why not, or "granted" or "extended".
    """
    if token < leases.fence:
        return leases, None, "another controller has taken over"
    if ask.level == "observe":
        return leases, None, "only observed"
    if ask.role not in limits.roles:
        return leases, None, f"the monitor acts on {' and '.join(sorted(limits.roles))} only, this is {ask.role}"
    leases = _swept(leases, now_s, limits)
    held = next((one for one in leases.held if one.model == ask.model), None)
    if held is not None and _same(held, ask):
        longer = msgspec.structs.replace(held, fence=token, expires_at=now_s + limits.ttl_s)
        return _with(leases, longer, token), longer, "extended"
    acted = leases.acted_s.get(ask.model)
    if acted is not None and now_s - acted < limits.cooldown_s:
        return leases, None, f"the last automatic action is less than {limits.cooldown_s:g} s ago"
    if held is None and len(leases.held) >= LEASES:
        return leases, None, f"{LEASES} leases are held already"
    lease = Lease(
        **{name: getattr(ask, name) for name in ask.__struct_fields__ if name != "role"},
        fence=token,
        granted_s=now_s,
        expires_at=now_s + limits.ttl_s,
    )
    leases = msgspec.structs.replace(leases, acted_s={**leases.acted_s, ask.model: now_s})
    return _with(leases, lease, token), lease, "granted"


def goes_on(held: Lease | None, action: Action, now_s: float, cooldown_s: float) -> bool:
    """Whether a fallback is extended whatever its verdict: of a variant without traffic nothing more is learned.

    It lasts as long as the cool-down, so that a canary which comes back and is no better can be acted on at once. It
    is not for that long when somebody else turns out to be to blame.
    """
    if held is None or held.level != "fallback" or now_s - held.granted_s >= cooldown_s:
        return False
    return action not in ("page", "retrain", "eject")


def give_back(leases: Leases, model: str, *, token: int) -> Leases:
    """End a model's lease before its time: its signals are clean. The cool-down goes on."""
    if token < leases.fence:
        return leases
    held = tuple(one for one in leases.held if one.model != model)
    return msgspec.structs.replace(leases, held=held, fence=token)


def in_force(
    leases: Iterable[Lease],
    now_s: float,
    *,
    model: str,
    variant: str,
    version: str,
    revision: int,
    fence: int = 0,
) -> Lease | None:
    """What a reader obeys: the strongest lease on this variant that still counts, or None.

    Args:
        revision: of the policy's document now.
        fence: the highest token that the reader has seen.
    """
    found = [
        one
        for one in leases
        if (one.model, one.variant, one.version, one.revision) == (model, variant, version, revision)
        and now_s < one.expires_at
        and one.fence >= fence
    ]
    return max(found, key=lambda one: _FORCE.index(one.level), default=None)


def _same(lease: Lease, ask: Ask) -> bool:
    """The same action on the same thing: no new action, however often it is asked for."""
    names = ("model", "version", "variant", "level", "revision")
    return all(getattr(lease, name) == getattr(ask, name) for name in names)


def _with(leases: Leases, lease: Lease, token: int) -> Leases:
    others = tuple(one for one in leases.held if one.model != lease.model)
    return msgspec.structs.replace(leases, held=(*others, lease), fence=token)


def _swept(leases: Leases, now_s: float, limits: Limits) -> Leases:
    """Without what has ended; a cool-down that is over needs no memory."""
    return msgspec.structs.replace(
        leases,
        held=tuple(one for one in leases.held if now_s < one.expires_at),
        acted_s={model: at for model, at in leases.acted_s.items() if now_s - at < limits.cooldown_s},
    )
