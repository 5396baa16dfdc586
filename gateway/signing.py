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
        self._jobs: list[Exchange] = []
        # What the jobs that wait share: variant and stratum, the second, the first block of their ids, and its
        # encryption, which CBC-MAC adds to the second block.
        self._shared = -1
        self._second = -1
        self._first = b""
        self._high: i64 = 0
        self._low: i64 = 0
        self._blocks = BytesWriter()

    def name(self, jobs: Sequence[Exchange], variant: int, marks: list[int]) -> None:
        """Name the predictions of a batch; under a policy, those that it placed.

        Args:
            marks: of each job; NO_MARK = nothing is known of its scores.
        """
        for at, job in enumerate(jobs):
            placed = job.placed
            if placed is not None:
                self.add(job, variant, placed.bits, placed.stratum, marks[at])
            elif not self._is_policy:
                self.add(job, variant, self._origin, UNCOUNTED, marks[at])
        self.sign()

    def add(self, job: Exchange, variant: int, unit: "i64", stratum: int, marked: int) -> None:
        """One more prediction of this batch, which `sign` will name.

        Args:
            unit: as `predictions.signed` has it.
            stratum: UNCOUNTED = it was not randomised.
            marked: NO_MARK = nothing is known of its scores.
        """
        if marked > NO_MARK:
            self._sign_rows(job, variant, unit, stratum, marked)
            return
        shared = variant << 8 | stratum
        if shared != self._shared or self._clock.seconds != self._second:
            self._share(shared)
        mark: i64 = marked
        write_i64_be(self._blocks, self._high ^ unit)
        write_i64_be(self._blocks, self._low ^ (self._next() << 16 | mark))
        self._jobs.append(job)

    def sign(self) -> None:
        """Name all predictions since the last time."""
        jobs = self._jobs
        if not jobs:
            return
        blocks = self._blocks.getvalue()
        # Before what may fail: a batch that cannot be named costs the next ones nothing.
        self._jobs = []
        self._blocks.truncate(0)
        macs = self._encrypt(blocks)
        first, high, low = self._first, self._high, self._low
        raw = BytesWriter()
        at: i64 = 0
        for _ in jobs:
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

    def _next(self) -> "i64":
        self._sequence = (self._sequence + 1) & _LAST_SEQUENCE
        return self._sequence

    def _share(self, shared: int) -> None:
        """What is added from now on shares another variant, stratum or second."""
        self.sign()
        self._shared, self._second = shared, self._clock.seconds
        self._first = self._first_block(VERSION, shared >> 8, shared & 0xFF)
        chained = self._encrypt(self._first)
        self._high, self._low = read_i64_be(chained, 0), read_i64_be(chained, 8)

    def _first_block(self, version: int, variant: int, stratum: int) -> bytes:
        return _FIRST.pack(version, self._prefixes[variant], self._clock.seconds, stratum)

    def _sign_rows(self, job: Exchange, variant: int, unit: "i64", stratum: int, marked: int) -> None:
        """A request of several rows gets its id at once: each has a tail of its own."""
        first = self._first_block(ROWS_VERSION, variant, stratum)
        body = first + _SECOND.pack(unit, self._next() << 16 | marked & NO_MARK)
        # Its first byte is not 0.
        tail = (marked >> 16).to_bytes((marked.bit_length() - 16 + 7) // 8, "big")
        mac = blake2s(self._key + body + tail, digest_size=MAC_BYTES).digest()
        job.prediction = urlsafe_b64encode(body + mac + tail)


def _digest_prefix(digest: str) -> bytes:
    return bytes.fromhex(digest.removeprefix("sha256:")[:8].ljust(8, "0"))
