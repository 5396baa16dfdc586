"""From a policy's record to what workers act on. Pure."""

from gateway.control.documents import Kept, killed_in, noted
from gateway.control.messages import PolicyState
from gateway.control.record import PolicyRecord
from gateway.control.thresholds import limits_by_size
from router import slots as tables
from router.rollout.status import wanted


def state_of(name: str, number: int, kept: Kept, *, zeroed_here: bool) -> PolicyState:
    """A policy as workers act on it.

    Args:
        number: of the policy on this node.
        zeroed_here: this node gives the canary nothing while the store is away.
    """
    record, names = kept.record, kept.policy.names
    return PolicyState(
        name=name,
        number=number,
        revision=record.revision,
        document=record.document,
        variants=record.variants,
        slots=tables.from_text(record.slots, names),
        stable=names.index(record.stable),
        canary=names.index(record.canary) if record.canary in names else -1,
        rollout=record.status.identity,
        slow_ns=record.slow_ns,
        shadow_slots=record.shadow_slots,
        zeroed=record.withheld or zeroed_here,
        killed=tuple(sorted(killed_in(record, kept.policy))),
        doublings=noted(kept),
        run_ns=limits_by_size(kept),
        wait_ns=record.wait_ns,
    )


def needed(record: PolicyRecord) -> set[str]:
    """Digests of its variants, and what a rollback may need."""
    return {pin.digest for pin in record.variants} | wanted(record.status)
