"""Which units a rollout has seen: a bitmap that holds all, and a sample that is listed one by one. Pure."""

import base64
import hashlib
import struct
import zlib
from collections.abc import Mapping
from typing import Any, Final

from gateway.tally import NOTE_BAD, NOTE_SLOW
from router.evidence.sequences import Moments
from router.hashing import MAX_DOUBLINGS, in_sample

BITMAP_BITS: Final = 1 << 20
_HALF_FULL: Final = BITMAP_BITS // 2
MOST_LISTED: Final = 10_000
"""Sampled units remembered one by one, 200 KiB in the store; above it every other one is dropped."""
_UNIT: Final = struct.Struct("<QBIII")
_CANARY: Final = 1
_COUNTED: Final = 2
"""What the first number of a listed unit says: its variant, and whether it is one of the canary's that were counted."""


class Bitmap:
    """Units that have erred, 2^20 places."""

    def __init__(self, state: str = "") -> None:
        self._bits = bytearray(zlib.decompress(base64.b85decode(state)) if state else BITMAP_BITS // 8)
        self.ones = int.from_bytes(self._bits, "big").bit_count()

    def add(self, index: int) -> bool:
        """Set a place; False when it was set before."""
        at, bit = index >> 3, 1 << (index & 7)
        if self._bits[at] & bit:
            return False
        self._bits[at] |= bit
        self.ones += 1
        return True

    @property
    def saturated(self) -> bool:
        """Half full: from here on too many new units would look like old ones."""
        return self.ones >= _HALF_FULL

    @property
    def digest(self) -> str:
        """Of the bits, for the audit."""
        return hashlib.sha256(self._bits).hexdigest()[:16]

    def state(self) -> str:
        """The bits as text, small while few are set."""
        return base64.b85encode(zlib.compress(bytes(self._bits), 6)).decode()


class Sampled:
    """Units of the step that are listed one by one: of each its marks, requests, bad and slow ones.

    A unit is listed when it is in the sample, whose share halves with each doubling.
    """

    def __init__(self, state: Mapping[str, Any] | None = None) -> None:
        self.doublings = int(state["doublings"]) if state else 0
        packed = zlib.decompress(base64.b85decode(state["units"])) if state else b""
        self.units: dict[int, list[int]] = {unit: seen for unit, *seen in _UNIT.iter_unpack(packed)}

    def see(self, unit: int, canary: bool, flags: int, *, counted: bool = False) -> int:
        """A request of a unit: the flags that it has for the first time, if it is one of those that were counted.

        Args:
            counted: from here on it is one of the canary's units that promotion counts. One that was counted, left the
                list and comes back is not counted again, and errs no more.
        """
        known = self.units.get(unit)
        if known is None:
            known = self.units[unit] = [_CANARY * canary | _COUNTED * counted, 0, 0, 0]
        bad, slow = bool(flags & NOTE_BAD), bool(flags & NOTE_SLOW)
        first = (NOTE_BAD if bad and not known[2] else 0) | (NOTE_SLOW if slow and not known[3] else 0)
        known[1] += 1
        known[2] += bad
        known[3] += slow
        if len(self.units) > MOST_LISTED:
            self.thin()
        return first if canary and known[0] & _COUNTED else 0

    def widen(self) -> None:
        """Twice as many units are listed from here on."""
        self.doublings = max(0, self.doublings - 1)

    def thin(self) -> None:
        """Half of the units are listed no longer."""
        if self.doublings < MAX_DOUBLINGS:
            self.doublings += 1
            self.units = {unit: seen for unit, seen in self.units.items() if in_sample(unit, self.doublings)}

    def moments(self, canary: bool, flag: int) -> Moments:
        """Of the rate of such requests per unit of a variant."""
        column = 2 if flag == NOTE_BAD else 3
        rates = [seen[column] / seen[1] for seen in self.units.values() if (seen[0] & _CANARY) == canary]
        return Moments.of_sums(len(rates), sum(rates), sum(rate * rate for rate in rates))

    def state(self) -> dict[str, Any]:
        """Everything, as JSON holds it exactly."""
        packed = b"".join([_UNIT.pack(unit, *seen) for unit, seen in self.units.items()])
        return {"doublings": self.doublings, "units": base64.b85encode(zlib.compress(packed, 1)).decode()}


def distinct(sampled: Sampled, *, canary: bool, first_seen: int, requests: int) -> int:
    """Distinct units of an arm in a step: an estimate from the sample, where units come again."""
    listed = sum(1 for seen in sampled.units.values() if (seen[0] & _CANARY) == canary)
    return min(requests, max(first_seen, listed << sampled.doublings))
