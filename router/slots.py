"""The slot table: which variant owns each of 10,000 slots. Moves as few units as there are to move.

A table is `bytes(10_000)`: the variant's index for each slot. Shares are never ranges computed anew, because then a
change from 80/10/10 to 60/20/20 would move 30 % of the units instead of 20 %. All tables that differ differ in their
digest, so replicas can compare.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from router.hashing import SLOTS

GONE: Final = 255
"""Stands in a table for a variant that is no longer there, until `rebalance` gives its slots away."""
MAX_VARIANTS: Final = 20
_RUN: Final = re.compile(r"([^*\s]{1,64})\*([1-9][0-9]{0,4})\Z")


def _check(counts: Sequence[int]) -> None:
    if not 1 <= len(counts) <= MAX_VARIANTS:
        raise ValueError(f"expected 1 to {MAX_VARIANTS} variants, got {len(counts)}")
    if min(counts) < 0 or sum(counts) != SLOTS:
        raise ValueError(f"expected shares that sum to {SLOTS}, got {list(counts)} with the sum {sum(counts)}")


def fresh(counts: Sequence[int]) -> bytes:
    """A table where nobody has slots yet: each variant in turn, from slot 0 upwards.

    Args:
        counts: slots per variant index; they sum to 10,000.

    Raises:
        ValueError: the shares do not sum to 10,000.
    """
    _check(counts)
    return b"".join(bytes([index]) * count for index, count in enumerate(counts))


def counts_of(table: bytes, variants: int) -> list[int]:
    """Slots per variant index."""
    return [table.count(index) for index in range(variants)]


def rebalance(table: bytes, counts: Sequence[int]) -> bytes:
    """The table with new shares that moves the fewest slots: only what an owner has too many goes, highest first.

    Which growing variant gets which freed slot: the lowest index gets the highest slots. So equal tables and shares
    give equal tables everywhere. Slots of owners without a share (also GONE) are all given away.

    Raises:
        ValueError: the shares do not sum to 10,000, or the table has another length.
    """
    _check(counts)
    if len(table) != SLOTS:
        raise ValueError(f"expected a table of {SLOTS} slots, got {len(table)}")
    have = [table.count(index) for index in range(256)]
    want = [*counts, *[0] * (256 - len(counts))]
    surplus = [max(0, has - wants) for has, wants in zip(have, want, strict=True)]
    heirs = [index for index in range(len(counts)) for _ in range(want[index] - have[index])]
    heirs.reverse()
    moved = bytearray(table)
    for slot in range(SLOTS - 1, -1, -1):
        owner = table[slot]
        if surplus[owner]:
            surplus[owner] -= 1
            moved[slot] = heirs.pop()
    return bytes(moved)


def translate(table: bytes, old: Sequence[str], new: Sequence[str]) -> bytes:
    """The same owners under the indices of another list of names; who is not in it is GONE."""
    places = {name: index for index, name in enumerate(new)}
    indices = bytearray([GONE] * 256)
    for index, name in enumerate(old):
        indices[index] = places.get(name, GONE)
    return table.translate(bytes(indices))


def moved(before: bytes, after: bytes) -> int:
    """How many slots changed owner; of 10,000, so it is also the share of units that move, in hundredths of a %."""
    return sum(old != new for old, new in zip(before, after, strict=True))


def rerandomised(before: Sequence[int], after: Sequence[int]) -> float:
    """Share of units that get another variant when hash, salt or unit change: the old and new slot are independent.

    Args:
        before, after: slots per variant name index, in one common order.
    """
    return 1.0 - sum(old * new for old, new in zip(before, after, strict=True)) / (SLOTS * SLOTS)


def digest(table: bytes, names: Sequence[str]) -> int:
    """64 bits that are equal on two replicas if and (but for chance) only if every slot has the same owner."""
    text = "\0".join(names).encode() + b"\0\0" + table
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")


def runs(table: bytes) -> list[tuple[int, int, int]]:
    """(owner's index, first slot, slots) for each stretch of slots with one owner, in order."""
    found: list[tuple[int, int, int]] = []
    start = 0
    for slot in range(1, len(table) + 1):
        if slot == len(table) or table[slot] != table[start]:
            found.append((table[start], start, slot - start))
            start = slot
    return found


def to_text(table: bytes, names: Sequence[str]) -> str:
    """Run-length form for people and documents: `stable*9000 canary*1000`; GONE is written as `-`."""
    return " ".join(f"{'-' if owner == GONE else names[owner]}*{size}" for owner, _, size in runs(table))


def from_text(text: str, names: Sequence[str]) -> bytes:
    """A table from its run-length form.

    Raises:
        ValueError: not such a form, an unknown name, or not 10,000 slots.
    """
    places = {name: index for index, name in enumerate(names)} | {"-": GONE}
    parts = []
    total = 0
    for word in text.split(" ")[: SLOTS + 1]:
        found = _RUN.match(word)
        if found is None or found[1] not in places:
            raise ValueError(f"expected NAME*SLOTS with a name of {', '.join(names)}, got {word[:80]!r}")
        total += int(found[2])
        if total > SLOTS:
            break
        parts.append(bytes([places[found[1]]]) * int(found[2]))
    if total != SLOTS:
        raise ValueError(f"expected {SLOTS} slots, got {'more' if total > SLOTS else total}")
    return b"".join(parts)


@dataclass(frozen=True, slots=True)
class Ownership:
    """A table and, for each slot, who had it before its owner: where it returns when the owner is taken back.

    Attributes:
        owner: the table.
        before: previous owner per slot; the owner itself where it never changed.
    """

    owner: bytes
    before: bytes

    @staticmethod
    def first(counts: Sequence[int]) -> "Ownership":
        """Of a policy that is new. Raises ValueError as `fresh`."""
        table = fresh(counts)
        return Ownership(table, table)

    def reshared(self, counts: Sequence[int]) -> "Ownership":
        """With new shares, moving the fewest slots. Raises ValueError as `rebalance`."""
        return self._owned_by(rebalance(self.owner, counts))

    def renamed(self, old: Sequence[str], new: Sequence[str], counts: Sequence[int]) -> "Ownership":
        """For another list of variants: those that stay keep their slots. Raises ValueError as `rebalance`."""
        kept = Ownership(translate(self.owner, old, new), translate(self.before, old, new))
        return kept._owned_by(rebalance(kept.owner, counts))

    def weighted(self, canary: int, stable: int, slots: int) -> "Ownership":
        """With so many slots for the canary, from or to stable alone: a step of a rollout.

        Raises:
            ValueError: more slots than the two have together, or fewer than none.
        """
        counts = counts_of(self.owner, max(*self.owner, canary, stable) + 1)
        counts[canary], counts[stable] = slots, counts[canary] + counts[stable] - slots
        return self.reshared(counts)

    def without(self, variant: int, stable: int) -> "Ownership":
        """Take all slots from a variant: each returns to who had it before, or to `stable` where nobody is left.

        So nobody who has not seen the variant moves.
        """
        back = bytes(
            (stable if had in (variant, GONE) else had) if owner == variant else owner
            for owner, had in zip(self.owner, self.before, strict=True)
        )
        return self._owned_by(back)

    def _owned_by(self, owner: bytes) -> "Ownership":
        """The new table; who lost a slot is remembered for it."""
        before = bytes(had if old == new else old for old, new, had in zip(self.owner, owner, self.before, strict=True))
        return Ownership(owner, before)
