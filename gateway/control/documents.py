"""Documents of policies and what follows from them: readable or not, whose they are, shares and weights. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from gateway.control.messages import VariantPin
from gateway.control.plans import not_offered
from gateway.control.record import MOST_REVISIONS, PolicyRecord
from router import slots as tables
from router.compiled import compile_policy
from router.document import PolicyError
from router.hashing import SLOTS
from router.policy import TrafficPolicy, parse, spec_digest
from router.rollout.status import ACTIVE
from runtimes.errors import Conflict, InvalidInput, ServingError


class UnknownPolicy(ServingError):
    """No policy has this name."""

    code = "unknown_policy"


ANY: Final = -1
"""The generation that a caller has seen is whichever is in force, as long as one is."""
Seen = int | frozenset[int] | None
"""Which generation a caller has seen, or one of which: 0 = there was none; ANY; None = it does not say."""


class StalePolicy(ServingError):
    """Somebody else has applied another document since.

    Attributes:
        view: what is in force now, for the answer's body.
    """

    code = "stale"

    def __init__(self, message: str, view: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.view = view


Contract = tuple[tuple[str, ...], tuple[str, ...]]
"""Inputs and outputs of a version."""

_DOCUMENT_BYTES: Final = 32 * 1024


@dataclass(frozen=True, slots=True)
class Kept:
    """A policy as the store has it.

    Attributes:
        revision: of the document in the store, for the next compare-and-set.
    """

    revision: int
    record: PolicyRecord
    policy: TrafficPolicy


def parsed(document: object) -> TrafficPolicy:
    """A document as a policy, also one that would not be taken now. Raises InvalidInput, every problem on a line."""
    try:
        return parse(document)
    except PolicyError as error:
        raise InvalidInput(str(error)) from error


def readable(document: object) -> TrafficPolicy:
    """A document as a policy that this version can carry out. Raises InvalidInput, with every problem on a line."""
    policy = parsed(document)
    problems = not_offered(policy)
    if problems:
        raise InvalidInput("\n".join(problems))
    return policy


def is_stale(noun: str, generation: Seen, current: int) -> bool:
    """Whether another generation is in force than a caller has seen.

    Raises:
        StalePolicy: any will do, and none is in force.
    """
    if generation == ANY and not current:
        raise StalePolicy(f"If-Match: * changes a {noun}, and there is none; If-None-Match: * makes one", {})
    if isinstance(generation, frozenset):
        return current not in generation
    return generation not in (None, ANY, current)


def in_words(generation: Seen) -> str:
    """What a caller has seen, for messages: `2`, or `2 or 3`."""
    return " or ".join(map(str, sorted(generation)))[:80] if isinstance(generation, frozenset) else str(generation)


def check_owner(noun: str, owner: str, changes: str) -> None:
    """Raises Conflict when a document belongs to a file of the watched folder, and somebody else wants to change it.

    Args:
        noun: what the document is: policy or monitor.
        owner: whose it is, "file:NAME"; "" = nobody's.
        changes: as whom it is to be changed.
    """
    if owner not in ("", changes):
        raise Conflict(f"the {noun} belongs to {owner.removeprefix('file:')!r} in the policy folder: change it there")


def noted(kept: Kept) -> int:
    """Units of a share of 1/2^this are noted one by one: for a rollout or an experiment; -1 = nobody asks."""
    if kept.record.status.phase in ACTIVE:
        return int(kept.record.evidence.get("doublings", 0))
    return -1 if kept.policy.spec.experiment is None else 0


def killed_in(record: PolicyRecord, policy: TrafficPolicy) -> frozenset[str]:
    """Variants that get nothing, by the document or by a command."""
    return frozenset({*record.killed, *(name for name, killed in policy.spec.kill.items() if killed)})


def weighed(record: PolicyRecord, policy: TrafficPolicy) -> PolicyRecord:
    """The record with the weights of its revision, by stratum: evidence is judged by them."""
    taken_out = frozenset({*record.killed, *([record.canary] if record.withheld else [])}) - {""}
    compiled = compile_policy(policy, tables.from_text(record.slots, policy.names), killed=taken_out)
    weights = dict(list(record.weights.items())[-(MOST_REVISIONS - 1) :])
    weights[str(record.revision)] = {stratum.rule: stratum.canary_weight for stratum in compiled.strata}
    return msgspec.structs.replace(record, weights=weights)


def next_ownership(kept: Kept | None, policy: TrafficPolicy, *, goes_on: bool) -> tables.Ownership:
    """Owners under a new document: those of a rollout that goes on, else the fewest units move."""
    counts = policy.counts()
    if kept is None:
        return tables.Ownership.first(counts)
    old = kept.policy.names
    known = ownership_of(kept)
    if goes_on:
        return known
    if kept.policy.salt != policy.salt or kept.policy.spec.unit != policy.spec.unit:
        return tables.Ownership.first(counts)
    return known.renamed(old, policy.names, counts)


def without_rollout(kept: Kept) -> dict[str, Any]:
    """The document with all users on its stable variant, as it was before the rollout."""
    document: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(kept.record.document))
    spec = document["spec"]
    for part in ("rollout", "shadow"):
        spec.pop(part, None)
    spec["split"] = {kept.policy.spec.stable: SLOTS}
    return document


def ownership_of(kept: Kept) -> tables.Ownership:
    """Who owns each slot of the default split, and who owned it before."""
    names = kept.policy.names
    return tables.Ownership(
        tables.from_text(kept.record.slots, names), tables.from_text(kept.record.before, with_gone(names))
    )


def with_gone(names: Sequence[str]) -> list[str]:
    """Names by index, with one for slots whose owner before is no variant any more."""
    return [*names, *(f"?{index}" for index in range(len(names), tables.GONE)), "-"]


def is_same(kept: Kept, policy: TrafficPolicy, pins: tuple[VariantPin, ...], owner: str) -> bool:
    """Whether a document and what it refers to are in force already."""
    return (
        spec_digest(kept.policy) == spec_digest(policy)
        and kept.policy.metadata == policy.metadata
        and kept.record.variants == pins
        and kept.record.owner == owner
    )


def change_of(before: Kept | None, after: PolicyRecord | None) -> dict[str, Any]:
    """What an audit record says of a document that is applied or removed; None = there was or is none.

    A document before is given with it as long as both fit; it stands in the record that applied it, too.
    """
    found: dict[str, Any] = {
        "generation_before": before.record.generation if before else 0,
        "revision_before": before.record.revision if before else 0,
        "revision_after": after.revision if after else 0,
        "shares_before": _shares(before.record) if before else {},
        "shares_after": _shares(after) if after else {},
    }
    if before is not None and len(msgspec.json.encode(before.record.document)) <= _DOCUMENT_BYTES:
        found["document_before"] = before.record.document
    if after is not None:
        found |= {
            "generation": after.generation,
            "owner": after.owner,
            "document": after.document,
            "variants": {pin.variant: pin.digest for pin in after.variants},
        }
    return found


def _shares(record: PolicyRecord) -> dict[str, int]:
    return shares_of(record.slots, [pin.variant for pin in record.variants])


def shares_of(text: str, names: Sequence[str]) -> dict[str, int]:
    """Slots per variant of a run-length text."""
    counts = tables.counts_of(tables.from_text(text, names), len(names))
    return {name: count for name, count in zip(names, counts, strict=True) if count}


def check_pins(pins: Sequence[VariantPin], contracts: Mapping[str, Contract | None], stable: str) -> None:
    """Raises Conflict: two variants are the same thing, or one takes or gives something else than the stable one.

    Args:
        contracts: by variant; None = not known.
    """
    versions = [pin.version for pin in pins]
    for pin in pins:
        if versions.count(pin.version) > 1:
            raise Conflict(f"variant {pin.variant!r}: version {pin.version} is another variant already")
    for at, pin in enumerate(pins):
        twin = next((other for other in pins[:at] if other.digest == pin.digest), None)
        if twin is not None:
            raise Conflict(f"variants {twin.variant!r} and {pin.variant!r} are the same files: nothing to compare")
    for variant, contract in contracts.items():
        if contract != contracts[stable]:
            raise Conflict(
                f"contract_mismatch: variant {variant!r} has {shown_contract(contract)}, and "
                f"{stable!r} has {shown_contract(contracts[stable])}"
            )


def shown_contract(contract: Contract | None) -> str:
    """A contract in words."""
    if contract is None:
        return "an unknown contract"
    return f"inputs {', '.join(contract[0])} and outputs {', '.join(contract[1])}"
