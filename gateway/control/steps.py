"""What the actions of a rollout make of a policy's record. Pure."""

import json
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from gateway.control import exposure
from gateway.control.documents import Kept, ownership_of, shares_of, weighed, with_gone
from gateway.control.plans import rollout_spec
from gateway.control.record import MOST_ANSWERS, NodeReport, PolicyRecord, Told
from gateway.control.thresholds import Thresholds
from gateway.failing import MOST
from router import slots as tables
from router.hashing import SLOTS
from router.policy import TrafficPolicy
from router.rollout.actions import Action, Answer, Audit, Promote, SetShadow, SetWeight, Unload, Withhold, Zero
from router.rollout.spec import RolloutSpec
from router.rollout.spec import identity as identity_of
from router.rollout.status import ACTIVE, RolloutStatus

EVIDENCE_CHARS: Final = 64 * 1024
"""Half of what the store takes as one audit record; the other half is for quotes and the rest of it."""
ROUTING = (SetWeight, SetShadow, Zero, Withhold, Promote)


def carried_out(kept: Kept, status: RolloutStatus, actions: Iterable[Action], slow: Thresholds) -> PolicyRecord:
    """The record after a tick: its status, the shares that its actions ask for, and what is slow from here on."""
    record = msgspec.structs.replace(kept.record, status=status, **slow._asdict())
    routed = False
    for action in actions:
        if isinstance(action, ROUTING):
            record, routed = _routed(kept, record, action), True
        elif isinstance(action, Unload):
            record = msgspec.structs.replace(record, unloaded=tuple({*record.unloaded, action.digest}))
        elif isinstance(action, Answer):
            answers = dict(list(record.answers.items())[-(MOST_ANSWERS - 1) :])
            record = msgspec.structs.replace(record, answers=answers | {action.command: Told(action.ok, action.text)})
    if status.phase in ACTIVE and record.unloaded:
        record = msgspec.structs.replace(record, unloaded=())
    if not routed:
        return record
    return weighed(msgspec.structs.replace(record, revision=record.revision + 1), kept.policy)


def _routed(
    kept: Kept, record: PolicyRecord, action: SetWeight | SetShadow | Zero | Withhold | Promote
) -> PolicyRecord:
    """One change of routing; idempotent."""
    if isinstance(action, Withhold):
        return record  # its status says it, and the slots stay
    now = Kept(kept.revision, record, kept.policy)
    names, owned = kept.policy.names, ownership_of(now)
    stable = names.index(record.stable)
    rollout = kept.policy.spec.rollout
    canary_name = record.canary or (rollout.to if rollout is not None else record.stable)
    if canary_name == record.stable:
        # A document without a rollout came over a running one: whose canary that was, it does not say.
        return msgspec.structs.replace(record, canary="", zeroed=False)
    canary = names.index(canary_name)
    if isinstance(action, SetShadow):
        zeroed = record.zeroed and action.slots == 0
        return msgspec.structs.replace(record, shadow_slots=action.slots, zeroed=zeroed, canary=canary_name)
    if isinstance(action, Promote):
        counts = [SLOTS if index == canary else 0 for index in range(len(names))]
        owned = owned.reshared(counts)
        record = msgspec.structs.replace(record, stable=canary_name, canary="", zeroed=False, shadow_slots=0)
    elif isinstance(action, Zero) or action.slots == 0:
        owned = owned.without(canary, stable)
        zeroed = isinstance(action, Zero) or record.zeroed
        shadow_slots = 0 if isinstance(action, Zero) else record.shadow_slots
        record = msgspec.structs.replace(record, zeroed=zeroed, shadow_slots=shadow_slots, canary=canary_name)
    else:
        counts = [0] * len(names)
        counts[stable], counts[canary] = SLOTS - action.slots, action.slots
        owned = owned.reshared(counts)
        record = msgspec.structs.replace(record, zeroed=False, canary=canary_name)
    if canary in owned.owner and not record.zeroed:
        digest = record.status.canary_digest
        widened = exposure.widened(record.exposures, digest, kept.policy, owned.owner, canary)
        record = msgspec.structs.replace(record, exposures=widened)
    return msgspec.structs.replace(
        record,
        slots=tables.to_text(owned.owner, names),
        before=tables.to_text(owned.before, with_gone(names)),
    )


def audit_of(actions: Iterable[Action], record: PolicyRecord, before: Kept) -> dict[str, object] | None:
    """One record of the audit trail for a write: what was done, by whom, on what evidence; None = nothing to tell."""
    told = [action for action in actions if isinstance(action, Audit)]
    if not told:
        return None
    last = told[-1]
    found: dict[str, object] = msgspec.to_builtins(last)
    found["evidence"] = fitting(last.evidence)
    names = tuple(pin.variant for pin in record.variants)
    old = before.record
    taken = (record.zeroed and not old.zeroed) or last.what == "superseded"
    return {
        **{key: value for key, value in found.items() if key not in ("type", "revision")},
        "kind_of": "rollout",
        "what": last.what,
        "also": [action.what for action in told[:-1]],
        "canary": record.canary or old.canary,
        "routed": record.revision != old.revision,
        "revision_before": old.revision,
        "revision_after": record.revision,
        "shares_before": shares_of(old.slots, names),
        "shares_after": shares_of(record.slots, names),
        **(_exposed(record, last.canary_digest, before.policy) if taken else {}),
    }


def _exposed(record: PolicyRecord, digest: str, policy: TrafficPolicy) -> dict[str, object]:
    """Whom a rollback has to be told about."""
    found = exposure.described(record.exposures, digest, policy)
    stretches = sum(len(one["slots"]) for one in found)
    return {"exposed": found} if 0 < stretches <= exposure.MOST_IN_AUDIT else {}


def quoted(evidence: dict[str, Any], reports: Iterable[NodeReport]) -> str:
    """Evidence with the requests that failed on the canary: not for the verdict, for whoever looks into it."""
    failing = [{"request": request, "trace": trace} for one in reports for request, trace in one.failing]
    return json.dumps(evidence | {"failing_requests": failing[-MOST:]})


def fitting(evidence: str) -> str:
    """Evidence as an audit record has room for it: what only explains it goes first."""
    if len(evidence) <= EVIDENCE_CHARS:
        return evidence
    found = json.loads(evidence)
    found["counts"] = {}
    for rail in found["rails"].values():
        trail = rail["trail"]
        trail["cut"], trail["spans"] = trail["cut"] + len(trail["spans"]), []
    return json.dumps(found)


def spec_of(kept: Kept) -> RolloutSpec | None:
    """The rollout that a policy wants; None = it wants none."""
    return rollout_spec(kept.policy, {pin.variant: pin.digest for pin in kept.record.variants})


def identity_wanted(kept: Kept) -> str:
    """Of the rollout that is wanted, from the moment its document is in force: its first requests count too."""
    spec = spec_of(kept)
    return kept.record.status.identity if spec is None else identity_of(spec)


def place_of(record: PolicyRecord) -> tuple[object, ...]:
    """Where a rollout is. What holds it belongs to it: unsaved, it would be found, and told, once more."""
    return (
        record.status.phase,
        record.status.step,
        record.slow_ns,
        record.wait_ns,
        record.run_ns,
        tuple(record.status.holding),
    )
