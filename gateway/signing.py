"""Names the predictions of a batch: `x-prediction-id` of each answer, as `gateway.predictions` lays it out.

On the way of every answer, so ids are made together: one call of the cipher and one of base64 for all that share a
variant, a stratum and a second. Nothing here reads an id, and nothing knows whose unit it is.
"""

import struct
from collections.abc import Sequence
from hashlib import blake2s
from typing import TYPE_CHECKING, Final

from librt.base64 import urlsafe_b64encode
from librt.strings import BytesWriter, read_i16_be, read_i64_be, write_i16_be, write_i64_be

from gateway.exchange import Exchange
from gateway.predictions import (
    ID_CHARS,
    KEY_BYTES,
    MAC_BYTES,
    NO_MARK,
    NO_POLICY,
    ROWS_VERSION,
    UNCOUNTED,
    VERSION,
    Encrypt,
    encryption,
    signed,
)

if TYPE_CHECKING:
    from mypy_extensions import i64  # compiled code keeps these without an object

_PREFIX: Final = struct.Struct(">B4sIB")
_FIRST: Final = struct.Struct(">B10sIB")
_SECOND: Final = struct.Struct(">qq")
_LAST_SEQUENCE: Final = (1 << 47) - 1


class Clock:
    """Unix time in whole seconds, set by whoever ticks.

    Attributes:
        seconds: now.
    """

    __slots__ = ("seconds",)

    def __init__(self, seconds: int) -> None:
        self.seconds = seconds


class Signer:
    """Makes ids for one revision of a policy on one worker, or for a version that no policy routes to.

    Args:
        key_id, key: newest of the keys that are valid.
        revision: of the policy; 0 = there is none, and one digest.
        digests: "sha256:HEX" of each variant, in the policy's order.
        clock: the owner sets it once a second.
        sequence: where to count from; a random number of 47 bits, so that workers do not repeat each other.
        origin: 64 bits that stand for the unit where there is no policy.
    """

    def __init__(
        self,
        key_id: int,
        key: bytes,
        revision: int,
        digests: Sequence[str],
        *,
        clock: Clock,
        sequence: int,
        origin: int = 0,
    ) -> None:
        assert len(key) == KEY_BYTES, "keys of two lengths could say the same with what follows"
        self._key = key
        self._encrypt: Encrypt = encryption(key)
        self._prefixes = [
            _PREFIX.pack(key_id, _digest_prefix(digest), revision & 0xFFFF_FFFF, index if revision else NO_POLICY)
            for index, digest in enumerate(digests)
        ]
        self._clock = clock
        self._sequence: i64 = sequence & _LAST_SEQUENCE
        self._is_policy = revision != 0
        self._origin: i64 = signed(origin)
        # What ids share: variant and stratum, the second, their first block, and its encryption, which CBC-MAC adds to
        # the second block.
        self._shared: i64 = -1
        self._second = -1
        self._first = b""
        self._high: i64 = 0
        self._low: i64 = 0

    def name(self, jobs: Sequence[Exchange], variant: int, marks: list[int]) -> None:
        """Name the predictions of a batch.

        Args:
            jobs: under a policy, those that it did not place get no name.
            marks: of each job; NO_MARK = nothing is known of its scores.
        """
        named: list[Exchange] = []
        blocks = BytesWriter()
        unit: i64 = self._origin
        stratum: i64 = UNCOUNTED
        own: i64 = variant << 8
        sequence: i64 = self._sequence
        # At once: none is given twice, whatever fails below.
        self._sequence = (sequence + len(jobs)) & _LAST_SEQUENCE
        for at, job in enumerate(jobs):
            placed, marked = job.placed, marks[at]
            if placed is not None:
                unit, stratum = placed.bits, placed.stratum
            elif self._is_policy:
                continue
            sequence = (sequence + 1) & _LAST_SEQUENCE
            if marked > NO_MARK:
                self._sign_rows(job, variant, unit, stratum, marked, sequence)
                continue
            if own | stratum != self._shared or self._clock.seconds != self._second:
                self._sign(named, blocks.getvalue())
                named, blocks = [], BytesWriter()
                self._share(variant, stratum)
            mark: i64 = marked
            write_i64_be(blocks, self._high ^ unit)
            write_i64_be(blocks, self._low ^ (sequence << 16 | mark))
            named.append(job)
        self._sign(named, blocks.getvalue())

    def _sign(self, jobs: list[Exchange], blocks: bytes) -> None:
        """Name all that share their first block, by their second ones."""
        if not jobs:
            return
        macs = self._encrypt(blocks)
        first, high, low = self._first, self._high, self._low
        raw = BytesWriter()
        at: i64 = 0
        stop: i64 = len(blocks)
        while at < stop:
            raw.write(first)
            write_i64_be(raw, high ^ read_i64_be(blocks, at))
            write_i64_be(raw, low ^ read_i64_be(blocks, at + 8))
            write_i64_be(raw, read_i64_be(macs, at))
            write_i16_be(raw, read_i16_be(macs, at + 8))
            at += 16
        text = urlsafe_b64encode(raw.getvalue())
        begin = 0
        for job in jobs:
            job.prediction = text[begin : begin + ID_CHARS]
            begin += ID_CHARS

    def _share(self, variant: int, stratum: "i64") -> None:
        """What is named from now on has another variant, stratum or second."""
        self._shared, self._second = variant << 8 | int(stratum), self._clock.seconds
        self._first = self._first_block(VERSION, variant, stratum)
        chained = self._encrypt(self._first)
        self._high, self._low = read_i64_be(chained, 0), read_i64_be(chained, 8)

    def _first_block(self, version: int, variant: int, stratum: "i64") -> bytes:
        return _FIRST.pack(version, self._prefixes[variant], self._clock.seconds, stratum)

    def _sign_rows(
        self, job: Exchange, variant: int, unit: "i64", stratum: "i64", marked: int, sequence: "i64"
    ) -> None:
        """A request of several rows gets its id at once: each has a tail of its own."""
        first = self._first_block(ROWS_VERSION, variant, stratum)
        body = first + _SECOND.pack(unit, sequence << 16 | marked & NO_MARK)
        # Its first byte is not 0.
        tail = (marked >> 16).to_bytes((marked.bit_length() - 16 + 7) // 8, "big")
        mac = blake2s(self._key + body + tail, digest_size=MAC_BYTES).digest()
        job.prediction = urlsafe_b64encode(body + mac + tail)


def _digest_prefix(digest: str) -> bytes:
    return bytes.fromhex(digest.removeprefix("sha256:")[:8].ljust(8, "0"))
