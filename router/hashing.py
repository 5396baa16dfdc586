"""From a unit to one of 10,000 slots: our hash, and those of flag products, so that users keep what they had there.

All arithmetic is in whole numbers, so that no rounding moves a unit at an edge. A unit is bytes as they stand in the
request; hashes that are defined on text read them as UTF-8.

| name | slot | of |
| --- | --- | --- |
| sha1-60 | 60 bits of sha1("SALT.UNIT") x 10,000 >> 60 | ours; also PlanOut's |
| launchdarkly | the same bits, divided by 2^60 - 1; salt = "FLAG.SALT" or the seed | LaunchDarkly |
| growthbook-v2 | fnv32a(str(fnv32a(SALT + UNIT))) % 10,000; salt = the seed | GrowthBook, hashVersion 2 |
| optimizely | murmur3(UNIT + SALT, seed 1) x 10,000 >> 32; salt = the parent's id | Optimizely |
| unleash | murmur3("SALT:UNIT") % 100 is the percent, the next digits the slot in it; salt = groupId | Unleash |
| flagd-v2 | murmur3(SALT + UNIT) x 10,000 >> 32; salt = the flag's key | flagd's fractional, v2 |

sha1 costs 0.7 us of C; the 32-bit hashes are plain Python, 3-8 us for a short unit.
"""

import hashlib
from collections.abc import Callable
from typing import Final

SLOTS: Final = 10_000
"""Shares that traffic is cut into."""
_WORD: Final = 0xFFFFFFFF
SHA1_60: Final = 1 << 60
LAUNCHDARKLY: Final = SHA1_60 - 1
"""Divisors of 60 bits; the second lets the largest hash reach 1.0, and LaunchDarkly puts that into its last bucket."""

INDEX_BITS: Final = 20
"""A unit's place in the bitmaps that count each unit once."""
_INDEX: Final = (1 << INDEX_BITS) - 1
SAMPLE_DOUBLINGS: Final = 6
"""Units are listed one by one at a share of 1/2^6."""
MAX_DOUBLINGS: Final = 12


def _sha1(salt: bytes, unit: bytes) -> bytes:
    return hashlib.sha1(salt + b"." + unit, usedforsecurity=False).digest()


def u60(salt: bytes, unit: bytes) -> int:
    """The first 15 hex digits of sha1("SALT.UNIT"), as LaunchDarkly and PlanOut use them."""
    return int.from_bytes(_sha1(salt, unit)[:8], "big") >> 4


def unit_hash(salt: bytes, unit: bytes) -> int:
    """64 bits of a unit that are independent of its slot: bytes 8 to 15 of the same sha1, whatever hash gives slots."""
    return int.from_bytes(_sha1(salt, unit)[8:16], "big")


def evidence_index(unit: int) -> int:
    """A unit's bit in the bitmaps of 2^20, from its `unit_hash`."""
    return unit & _INDEX


def in_sample(unit: int, doublings: int = SAMPLE_DOUBLINGS) -> bool:
    """Whether a unit is among the listed 1/2^doublings; each doubling keeps half of those before. From `unit_hash`.

    Args:
        doublings: 0 to 12.
    """
    return not (unit >> INDEX_BITS) & ((1 << doublings) - 1)


def shadow_slot(unit: int) -> int:
    """A slot for shares other than the split's, independent of the bits above. From `unit_hash`."""
    return ((unit >> 32) * SLOTS) >> 32


def murmur3(data: bytes, seed: int = 0) -> int:
    """MurmurHash3 x86 32 bit. Source: Austin Appleby, MurmurHash3.cpp (public domain)."""
    state = seed
    size = len(data)
    whole = size & ~3
    for at in range(0, whole, 4):
        state ^= _scrambled(int.from_bytes(data[at : at + 4], "little"))
        state = ((state << 13) | (state >> 19)) & _WORD
        state = (state * 5 + 0xE6546B64) & _WORD
    if whole < size:
        state ^= _scrambled(int.from_bytes(data[whole:], "little"))
    state ^= size
    state = ((state ^ (state >> 16)) * 0x85EBCA6B) & _WORD
    state = ((state ^ (state >> 13)) * 0xC2B2AE35) & _WORD
    return state ^ (state >> 16)


def _scrambled(word: int) -> int:
    word = (word * 0xCC9E2D51) & _WORD
    word = ((word << 15) | (word >> 17)) & _WORD
    return (word * 0x1B873593) & _WORD


def fnv32a(codes: bytes | list[int]) -> int:
    """FNV-1a, 32 bit, over bytes or wider codes."""
    state = 0x811C9DC5
    for code in codes:
        state = ((state ^ code) * 0x01000193) & _WORD
    return state


def _utf16(data: bytes) -> bytes | list[int]:
    """GrowthBook's SDK for browsers hashes UTF-16 code units, not bytes; plain ASCII is the same either way."""
    if data.isascii():
        return data
    wide = data.decode("utf-8", "replace").encode("utf-16-le")
    return [wide[at] | wide[at + 1] << 8 for at in range(0, len(wide), 2)]


def growthbook_v2(seed: bytes, unit: bytes) -> int:
    """0 to 9,999 of GrowthBook's hash version 2."""
    return fnv32a(str(fnv32a(_utf16(seed + unit))).encode()) % 10_000


def unleash_number(group: bytes, unit: bytes, normaliser: int = 100, seed: int = 0) -> int:
    """1 to `normaliser`, as Unleash compares it with a percentage; variants use the total weight and another seed."""
    return murmur3(group + b":" + unit, seed) % normaliser + 1


def slot_of(bits: int, divisor: int) -> int:
    """The slot of 60 bits."""
    return min(bits * SLOTS // divisor, SLOTS - 1)


def _sha1_60(salt: bytes, unit: bytes) -> int:
    return slot_of(u60(salt, unit), SHA1_60)


def _launchdarkly(salt: bytes, unit: bytes) -> int:
    return slot_of(u60(salt, unit), LAUNCHDARKLY)


def _optimizely(salt: bytes, unit: bytes) -> int:
    return (murmur3(unit + salt, 1) * SLOTS) >> 32


def _unleash(salt: bytes, unit: bytes) -> int:
    code = murmur3(salt + b":" + unit)
    return code % 100 * 100 + code // 100 % 100


def _flagd_v2(salt: bytes, unit: bytes) -> int:
    return (murmur3(salt + unit) * SLOTS) >> 32


HASHES: Final[dict[str, Callable[[bytes, bytes], int]]] = {
    "sha1-60": _sha1_60,
    "growthbook-v2": growthbook_v2,
    "launchdarkly": _launchdarkly,
    "optimizely": _optimizely,
    "unleash": _unleash,
    "flagd-v2": _flagd_v2,
}
"""Name in `unit.hash` -> (salt, unit) -> slot."""

Placed = Callable[[bytes], tuple[int, int]]


def placer(name: str, salt: str) -> Placed:
    """unit -> (slot 0 to 9,999, `unit_hash`) by a named hash; of the sha1 ones both from one digest.

    Raises:
        KeyError: no such hash.
    """
    key = salt.encode()
    slot = HASHES[name]
    if slot in (_sha1_60, _launchdarkly):
        return _one_digest(key + b".", LAUNCHDARKLY if slot is _launchdarkly else SHA1_60)

    def place(unit: bytes) -> tuple[int, int]:
        return slot(key, unit), unit_hash(key, unit)

    return place


def _one_digest(prefix: bytes, divisor: int) -> Placed:
    sha1 = hashlib.sha1
    number = int.from_bytes
    last = SLOTS - 1

    def place(unit: bytes) -> tuple[int, int]:
        bits = number(sha1(prefix + unit, usedforsecurity=False).digest()[:16], "big")
        # The first 60 of 128 bits are the slot's, the last 64 are the unit's.
        slot = (bits >> 68) * 10_000 // divisor
        return slot if slot <= last else last, bits & 0xFFFFFFFFFFFFFFFF

    return place
