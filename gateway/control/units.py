"""Which units a rollout has seen: a bitmap that holds all, and a sample that is listed one by one. Pure."""

import base64
import hashlib
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

from gateway.tally import NOTE_BAD, NOTE_SLOW
from router.evidence.sequences import Moments
from router.hashing import MAX_DOUBLINGS, in_sample

BITMAP_BITS: Final = 1 << 20
LEAST_PLACES: Final = 1 << 13
"""Of a bitmap that was folded: 1.3 KB of text at most."""
MOST_LISTED: Final = 10_000
"""Sampled units remembered one by one, 200 KiB in the store; above it every other one is dropped."""
_UNIT: Final = struct.Struct("<QBIII")
_CANARY: Final = 1
_COUNTED: Final = 2
"""What the first number of a listed unit says: its variant, and whether it is one of the canary's that were counted."""


class Bitmap:
    """Units that have erred: 2^20 places, or fewer once it was folded."""

    def __init__(self, state: str = "") -> None:
        self._bits = bytearray(zlib.decompress(base64.b85decode(state)) if state else BITMAP_BITS // 8)
        self.ones = int.from_bytes(self._bits, "big").bit_count()
        self._text = state

    def add(self, index: int) -> bool:
        """Set a place; False when it was set before."""
        index &= self.places - 1
        at, bit = index >> 3, 1 << (index & 7)
        if self._bits[at] & bit:
            return False
        self._bits[at] |= bit
        self.ones += 1
        self._text = ""
        return True

    @property
    def places(self) -> int:
        """How many there are, a power of 2."""
        return len(self._bits) * 8

    @property
    def saturated(self) -> bool:
        """Half full: from here on too many new units would look like old ones."""
        return self.ones >= self.places // 2

    @property
    def digest(self) -> str:
        """Of the bits, for the audit."""
        return hashlib.sha256(self._bits).hexdigest()[:16]

    def fold(self) -> None:
        """Half as many places, each for the units of two.

        More new units look like old ones from here on, of both variants alike, since a place comes from a hash of the
        unit alone: evidence grows more slowly, and stays what it is.
        """
        half = len(self._bits) // 2
        low, high = (int.from_bytes(part, "big") for part in (self._bits[:half], self._bits[half:]))
        self._bits = bytearray((low | high).to_bytes(half, "big"))
        self.ones = (low | high).bit_count()
        self._text = ""

    def state(self) -> str:
        """The bits as text, small while few are set."""
        self._text = self._text or base64.b85encode(zlib.compress(bytes(self._bits), 6)).decode()
        return self._text


def shrink(bitmaps: Sequence[Bitmap], chars: int) -> int:
    """Fold the largest until their texts are so many characters shorter, or none can be folded; gives by how many."""
    saved = 0
    while saved < chars:
        largest = max(bitmaps, key=lambda one: len(one.state()), default=None)
        if largest is None or largest.places <= LEAST_PLACES:
            break
        before = len(largest.state())
        largest.fold()
        saved += before - len(largest.state())
    return saved


class Sampled:
    """Units of the step that are listed one by one: of each its marks, requests, bad and slow ones.

    A unit is listed when it is in the sample, whose share halves with each doubling.

    Attributes:
        ended: units of stable and of the canary, about, when the rollout ended: none is listed any more. None = it goes
            on.
    """

    def __init__(self, state: Mapping[str, Any] | None = None) -> None:
        self.doublings = int(state["doublings"]) if state else 0
        packed = zlib.decompress(base64.b85decode(state["units"])) if state else b""
        self.units: dict[int, list[int]] = {unit: seen for unit, *seen in _UNIT.iter_unpack(packed)}
        self.ended: list[int] | None = state.get("ended") if state else None

    def begin(self) -> None:
        """A new step, whose units are listed anew."""
        self.units, self.ended = {}, None

    def end(self) -> None:
        """The rollout is over: how many units there were is known from here on, and none of them."""
        if self.ended is None:
            self.units, self.ended = {}, [self.estimate(False), self.estimate(True)]

    def estimate(self, canary: bool) -> int:
        """Distinct units of a variant, from those that are listed."""
        if self.ended is not None:
            return self.ended[canary]
        return sum(1 for seen in self.units.values() if (seen[0] & _CANARY) == canary) << self.doublings

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
        listed = base64.b85encode(zlib.compress(packed, 1)).decode()
        return {"doublings": self.doublings, "units": listed, "ended": self.ended}


def distinct(sampled: Sampled, *, canary: bool, first_seen: int, requests: int) -> int:
    """Distinct units of an arm in a step: an estimate from the sample, where units come again."""
    return min(requests, max(first_seen, sampled.estimate(canary)))
