"""Who may have had answers of a canary: the slots that it ever had in its rollout, for whoever follows them up. Pure.

Units are stored nowhere, so they are told by the stretches of slots that they fall into (routing.md 2.3, R5).
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from msgspec import Struct

from router.hashing import SLOTS, placer
from router.policy import Rule, TrafficPolicy
from router.slots import runs

MOST_IN_AUDIT: Final = 500
"""Stretches in one record of the audit trail, which has to be short; `rollout exposed` has all."""


class Exposure(Struct, frozen=True):
    """What one rollout has shown.

    Attributes:
        identity: of the rollout.
        hash, salt: how a unit gets its slot.
        slots: (first, last) of each stretch that the canary ever had, ascending, both ends included.
    """

    identity: str
    hash: str
    salt: str
    slots: tuple[tuple[int, int], ...] = ()


def widened(known: Exposure | None, identity: str, policy: TrafficPolicy, table: bytes, canary: int) -> Exposure:
    """With the slots that the canary has in a table; what is known of another rollout, salt or hash is dropped.

    Args:
        table: owner of each slot.
        canary: its index.
    """
    found = Exposure(identity, policy.spec.unit.hash, policy.salt)
    marks = bytearray(owner == canary for owner in table)
    if known is not None and (known.identity, known.hash, known.salt) == (found.identity, found.hash, found.salt):
        for first, last in known.slots:
            marks[first : last + 1] = b"\x01" * (last + 1 - first)
    slots = tuple((first, first + size - 1) for seen, first, size in runs(bytes(marks)) if seen)
    return Exposure(identity, found.hash, found.salt, slots)


def described(exposure: Exposure | None, identity: str, policy: TrafficPolicy) -> dict[str, Any] | None:
    """For people and programs; None = this rollout has given its canary to nobody by the split.

    `rules` are those that name the canary: whom they match has no slots.
    """
    if exposure is None or exposure.identity != identity or not exposure.slots:
        return None
    rollout = policy.spec.rollout
    return {
        "hash": exposure.hash,
        "salt": exposure.salt,
        "of": SLOTS,
        "share": sum(last + 1 - first for first, last in exposure.slots) / SLOTS,
        "slots": [list(stretch) for stretch in exposure.slots],
        "rules": [] if rollout is None else [rule.name for rule in policy.spec.rules if _may_give(rule, rollout.to)],
    }


def in_words(found: Mapping[str, Any]) -> str:
    """One sentence of what `described` gave."""
    stretches = ", ".join(f"{first}-{last}" if first < last else str(first) for first, last in found["slots"])
    rules = f", and requests that {' or '.join(found['rules'])} sent there" if found["rules"] else ""
    return (
        f"units of the slots {stretches} of {found['of']} ({found['share']:.2%}; {found['hash']}, salt "
        f"{found['salt']!r}){rules}"
    )


def members(found: Mapping[str, Any], units: Iterable[str]) -> list[str]:
    """Those of some units that fall into the slots that `described` gave."""
    place = placer(found["hash"], found["salt"])
    inside = bytearray(found["of"])
    for first, last in found["slots"]:
        inside[first : last + 1] = b"\x01" * (last + 1 - first)
    return [unit for unit in units if inside[place(unit.encode())[0]]]


def _may_give(rule: Rule, variant: str) -> bool:
    return rule.route.variant == variant or bool((rule.route.split or {}).get(variant))
