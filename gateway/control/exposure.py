"""Who may have had answers of a canary: the slots that it ever had, for whoever follows them up. Pure.

Units are stored nowhere, so they are told by the stretches of slots that they fall into. Rollouts of the same version
add up: whoever had its answers had them, whatever its guardrails were then.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from msgspec import Struct

from router.hashing import SLOTS, placer
from router.policy import Rule, TrafficPolicy
from router.slots import runs

MOST: Final = 8
"""Ways to hash units that are told apart for one canary; the oldest goes first."""
MOST_IN_AUDIT: Final = 500
"""Stretches in one record of the audit trail, which has to be short; `rollout exposed` has all."""
REQUEST_ID: Final = "x-request-id"
"""What is hashed where the document names no unit."""


class Exposure(Struct, frozen=True):
    """What one canary was given under one way to hash units.

    Attributes:
        digest: of the canary.
        unit: what is hashed, in words.
        hash, salt: how it gets its slot.
        slots: (first, last) of each stretch that the canary ever had, ascending, both ends included.
    """

    digest: str
    unit: str
    hash: str
    salt: str
    slots: tuple[tuple[int, int], ...] = ()


def widened(
    known: Sequence[Exposure], digest: str, policy: TrafficPolicy, table: bytes, canary: int
) -> tuple[Exposure, ...]:
    """With the slots that the canary has in a table; what is known of another canary is dropped.

    Args:
        digest, canary: the canary's, and its index.
        table: owner of each slot.
    """
    unit = policy.spec.unit
    now = Exposure(digest, _unit(policy), unit.hash, policy.salt)
    others = [one for one in known if one.digest == digest and _way(one) != _way(now)]
    marks = _inside(stretch for one in known if _way(one) == _way(now) for stretch in one.slots)
    marks = bytearray(seen or owner == canary for seen, owner in zip(marks, table, strict=True))
    slots = tuple((first, first + size - 1) for seen, first, size in runs(bytes(marks)) if seen)
    return (*others, Exposure(digest, now.unit, now.hash, now.salt, slots))[-MOST:]


def described(known: Sequence[Exposure], digest: str, policy: TrafficPolicy) -> list[dict[str, Any]]:
    """For people and programs; [] = the split has given this canary to nobody.

    `rules` are those of the document that name the canary: whom they match has no slots.
    """
    rollout = policy.spec.rollout
    rules = [] if rollout is None else [rule.name for rule in policy.spec.rules if _may_give(rule, rollout.to)]
    return [
        {
            "unit": one.unit,
            "hash": one.hash,
            "salt": one.salt,
            "of": SLOTS,
            "share": sum(last + 1 - first for first, last in one.slots) / SLOTS,
            "slots": [list(stretch) for stretch in one.slots],
            "rules": rules,
        }
        for one in known
        if one.digest == digest and one.slots
    ]


def in_words(found: Mapping[str, Any]) -> str:
    """One sentence of each that `described` gave."""
    stretches = ", ".join(f"{first}-{last}" if first < last else str(first) for first, last in found["slots"])
    rules = f", and requests that {' or '.join(found['rules'])} sent there" if found["rules"] else ""
    return (
        f"units ({found['unit']}) of the slots {stretches} of {found['of']} ({found['share']:.2%}; {found['hash']}, "
        f"salt {found['salt']!r}){rules}"
    )


def members(found: Iterable[Mapping[str, Any]], units: Iterable[str]) -> list[str]:
    """Those of some units that fall into the slots that `described` gave, in their order."""
    ways = [(placer(one["hash"], one["salt"]), _inside(one["slots"])) for one in found]
    return [unit for unit in units if any(inside[place(unit.encode())[0]] for place, inside in ways)]


def _inside(slots: Iterable[Sequence[int]]) -> bytearray:
    marks = bytearray(SLOTS)
    for first, last in slots:
        marks[first : last + 1] = b"\x01" * (last + 1 - first)
    return marks


def _way(one: Exposure) -> tuple[str, ...]:
    return one.digest, one.unit, one.hash, one.salt


def _unit(policy: TrafficPolicy) -> str:
    """What is hashed: the first of these that a request has."""
    sources = policy.spec.unit.from_
    named = [
        f"{kind} {getattr(source, kind)}"
        for source in sources
        for kind in source.__struct_fields__
        if getattr(source, kind) is not None
    ]
    return ", else ".join(named) or REQUEST_ID


def _may_give(rule: Rule, variant: str) -> bool:
    return rule.route.variant == variant or bool((rule.route.split or {}).get(variant))
