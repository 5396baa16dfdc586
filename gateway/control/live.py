"""What is known of a model's traffic, for plans: stable's bad rate, and how many units come. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from gateway.control.documents import Kept
from gateway.control.outcomes import Counted
from gateway.control.steps import spec_of
from gateway.control.units import Sampled
from gateway.tally import BAD, OK, UNCOUNTED
from router.policy import TrafficPolicy
from router.rollout.spec import identity

ASSUMED_BAD_RATE: Final = 0.01
"""Of stable, where too little has been counted to know it."""
KNOWN: Final = 100
"""Requests from which a rate counts: as many without a bad one make about the rate that is assumed."""
ROLLOUT: Final = "rollout"
ASSUMED: Final = "assumed"
_COMES_AGAIN: Final = 4
"""Requests per unit from which nearly all units have been seen: of units that come alike, all but e^-4 = 2 %."""


def bad_rate(kept: Kept | None, digest: str, others: Sequence[Counted] = ()) -> dict[str, Any]:
    """Stable's bad rate, by the first who has counted enough of it: its rollout, then others; else what is assumed.

    (bad + 1) / (requests + 2), Laplace's rule: also a stable that never failed may fail, and at a rate of 0 every time
    to find harm would be endless.

    Args:
        digest: of the model that is to be stable; what its rollout has counted of others is not its own.
        others: who else has counted requests to it.
    """
    counted = [_by_rollout(kept, digest), *others]
    found = next((one for one in counted if one.requests >= KNOWN), None)
    most = found or max(counted, key=lambda one: one.requests)
    return {
        "bad_rate": ASSUMED_BAD_RATE if found is None else (found.bad + 1) / (found.requests + 2),
        "bad_rate_assumed": found is None,
        "bad_rate_from": ASSUMED if found is None else found.source,
        "bad_rate_seconds": None if found is None or found.seconds is None else round(found.seconds, 1),
        "stable_requests": most.requests,
        "stable_bad": most.bad,
    }


def _by_rollout(kept: Kept | None, digest: str) -> Counted:
    names = [] if kept is None else [pin.variant for pin in kept.record.variants if pin.digest == digest]
    ok = bad = 0
    for place, values in _judge(kept).get("counts", {}).items():
        _, stratum, variant = place.split("|")
        if stratum != UNCOUNTED and variant in names:
            ok, bad = ok + values[OK], bad + values[BAD]
    return Counted(ROLLOUT, ok, bad)


def _judge(kept: Kept | None) -> Mapping[str, Any]:
    """What the rollout of the document in force has counted; {} = nothing, or of variants that had other models."""
    if kept is None:
        return {}
    judge: Mapping[str, Any] = kept.record.evidence.get("judge") or {}
    spec = spec_of(kept)
    return judge if spec is not None and judge and judge["identity"] == identity(spec) else {}


def units(kept: Kept | None, policy: TrafficPolicy) -> dict[str, Any]:
    """What plans count in: whether a unit comes again, how many there are, and that in words."""
    if not policy.spec.unit.from_:
        return {"sticky": False, "come": None, "text": "every request is a unit of its own"}
    come = _units_that_come(kept, policy)
    if come is None:
        text = (
            "a unit counts and errs once, and how many units come is not known: the times assume that every request is "
            "a new one; with fewer units than are needed it takes longer, or never comes"
        )
    else:
        text = (
            f"a unit counts and errs once, and about {come:,} come, as the step under way has counted; too few units: "
            "it takes much longer, or never comes"
        )
    return {"sticky": True, "come": come, "text": text}


def _units_that_come(kept: Kept | None, policy: TrafficPolicy) -> int | None:
    """Distinct units of a model; None = not known: nobody counts them, or most have come only once or twice so far."""
    judge = _judge(kept)
    if kept is None or not judge or kept.policy.spec.unit.from_ != policy.spec.unit.from_:
        return None
    sampled = Sampled(judge["sampled"])
    found = max(sum(judge["first_seen"].values()), sampled.estimate(False) + sampled.estimate(True))
    # Units are seen of the two that are compared alone.
    rollout = kept.policy.spec.rollout
    assert rollout is not None, "it has a judge"
    arms = (judge["step"].get(name) for name in (kept.policy.spec.stable, rollout.to))
    requests = sum(values[OK] + values[BAD] for values in arms if values)
    return found if found and requests >= _COMES_AGAIN * found else None
