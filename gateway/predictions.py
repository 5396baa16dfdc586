"""`x-prediction-id`: a signed name that describes its own prediction, so that feedback joins without a stored one.

    id   = base64url(body | mac), 52 characters; rows of a larger request are `id/k`, k from 0
    body = version u8 | key u8 | digest 4 bytes | revision u32 | variant u8 | time u32 | stratum u8 | sequence u24
           | unit u64 | mark u16                                           29 bytes, big-endian
    mark = score bin u8 | group u6 | decision u2
    mac  = blake2s(key, body), 10 bytes (RFC 7693: a keyed hash is a MAC)

All ones in a part of the mark: not known; 255 as stratum: not randomised, so what comes back for it is no evidence;
255 as variant: no policy decided.
Ten bytes of MAC: a forger who sends 10,000 ids a second needs 10^12 years.
"""

import binascii
import hmac
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2s
from typing import Final

VERSION: Final = 1
UNKNOWN: Final = 255
UNCOUNTED: Final = 255
"""Stratum of a request that was not randomised."""
NO_MARK: Final = 0xFFFF
MOST_GROUPS: Final = 63
NO_POLICY: Final = 255
"""In place of a variant's index."""
_BODY: Final = struct.Struct(">BB4sIBIIQH")
_PREFIX: Final = struct.Struct(">BB4sIB")
_REST: Final = struct.Struct(">IIQH")
_MAC_BYTES: Final = 10
_ID_CHARS: Final = 4 * -(-(_BODY.size + _MAC_BYTES) // 3)
_TO_URL: Final = bytes.maketrans(b"+/", b"-_")
_FROM_URL: Final = bytes.maketrans(b"-_", b"+/")
_NEXT_HEADER: Final = b"\r\nx-request-id: "
MOST_ROWS: Final = 1_000_000


class ForgedId(ValueError):
    """No id of ours: another form, an unknown key, or a wrong signature."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What an id says.

    Attributes:
        digest: first 4 bytes of the version's digest, hexadecimal.
        revision: of the policy, its lower 32 bits.
        variant: index in that policy.
        stratum: index of what randomised the request; None = nothing did, and it is no evidence.
        time_s: Unix time of the answer.
        unit: hash of the unit that was randomised.
        score_bin, decision, group: of a one-row request; None = not known. A version without a monitor tells none.
        row: of a larger request; None = the id of the whole request.
    """

    id: str
    digest: str
    revision: int
    variant: int
    stratum: int | None
    time_s: int
    sequence: int
    unit: int
    score_bin: int | None
    decision: int | None
    group: int | None
    row: int | None


def mark(score_bin: int, decision: int, group: int) -> int:
    """What an id says of the score of a one-row request.

    Args:
        score_bin: 0 to 249.
        decision: 0 or 1.
        group: below MOST_GROUPS.
    """
    return score_bin << 8 | group << 2 | decision


class Clock:
    """Unix time in whole seconds, set by whoever ticks.

    Attributes:
        seconds: now.
    """

    __slots__ = ("seconds",)

    def __init__(self, seconds: int) -> None:
        self.seconds = seconds


class Signer:
    """Makes ids for one revision of a policy on one worker.

    Args:
        key_id, key: newest of the keys that are valid.
        revision: of the policy; 0 = there is none, and one digest.
        digests: "sha256:HEX" of each variant, in the policy's order.
        now_s: Unix time; the owner sets it once a second.
        sequence: where to count from; a random number, so that workers do not repeat each other.
    """

    def __init__(
        self, key_id: int, key: bytes, revision: int, digests: Sequence[str], *, now_s: Clock, sequence: int
    ) -> None:
        self._mac = blake2s(key=key, digest_size=_MAC_BYTES)
        self._prefixes = [
            _PREFIX.pack(VERSION, key_id, _digest_prefix(digest), revision & 0xFFFF_FFFF, index)
            for index, digest in enumerate(digests)
        ]
        if not revision:
            self._prefixes = [prefix[:-1] + bytes([NO_POLICY]) for prefix in self._prefixes]
        self._now_s = now_s
        self._sequence = sequence & 0xFF_FFFF

    def sign(self, variant: int, unit: int, stratum: int = UNCOUNTED, marked: int = NO_MARK) -> bytes:
        """An id, and behind it the begin of the header that follows: what `Exchange.lead` wants."""
        self._sequence = sequence = (self._sequence + 1) & 0xFF_FFFF
        body = self._prefixes[variant] + _REST.pack(
            self._now_s.seconds, stratum << 24 | sequence, unit & 0xFFFF_FFFF_FFFF_FFFF, marked
        )
        mac = self._mac.copy()
        mac.update(body)
        return binascii.b2a_base64(body + mac.digest(), newline=False).translate(_TO_URL) + _NEXT_HEADER


def read(text: str, keys: Mapping[int, bytes]) -> Prediction:
    """Check an id and say what it says.

    Args:
        keys: by key id, all that are valid.

    Raises:
        ForgedId: the message says why, and never what the signature should have been.
    """
    whole, slash, row = text.partition("/")
    if slash and not (row.isascii() and row.isdigit() and len(row) < 8 and int(row) < MOST_ROWS):
        raise ForgedId("the row behind '/' is no number")
    if len(whole) != _ID_CHARS or not whole.isascii():
        raise ForgedId(f"expected {_ID_CHARS} characters of base64url, got {len(whole)} characters")
    try:
        raw = binascii.a2b_base64(whole.encode().translate(_FROM_URL), strict_mode=True)
    except binascii.Error as error:
        raise ForgedId("expected base64url") from error
    body, mac = raw[: _BODY.size], raw[_BODY.size :]
    version, key_id, digest, revision, variant, time_s, sequence, unit, marked = _BODY.unpack(body)
    key = keys.get(key_id)
    if version != VERSION or key is None:
        raise ForgedId("it is of a version or key that is not valid here")
    if not hmac.compare_digest(blake2s(body, key=key, digest_size=_MAC_BYTES).digest(), mac):
        raise ForgedId("its signature is wrong")
    return Prediction(
        id=whole,
        digest=digest.hex(),
        revision=revision,
        variant=variant,
        stratum=None if sequence >> 24 == UNCOUNTED else sequence >> 24,
        time_s=time_s,
        sequence=sequence & 0xFF_FFFF,
        unit=unit,
        score_bin=None if marked >> 8 == UNKNOWN else marked >> 8,
        decision=None if marked & 3 == 3 else marked & 3,
        group=None if marked >> 2 & 0x3F == 0x3F else marked >> 2 & 0x3F,
        row=int(row) if slash else None,
    )


def _digest_prefix(digest: str) -> bytes:
    return bytes.fromhex(digest.removeprefix("sha256:")[:8].ljust(8, "0"))
