"""`x-prediction-id`: a signed name that describes its own prediction, so that feedback joins without a stored one.

    id   = base64url(body | mac | tail), 56 characters without a tail; row k of a larger request is `id/k`, from 0
    body = version u8 | key u8 | digest 4 bytes | revision u32 | variant u8 | time u32 | stratum u8    one block
           | unit u64 | sequence u48 | mark u16                           and another, big-endian
    mark = score bin u8 | group u6 | decision u2
    mac  = AES-256(AES-256(first block) xor second block), its first 10 bytes: CBC-MAC of two blocks, always
    tail = rows u8 | score bin of each row u8 | decisions, the k-th bit from the right is row k's

A tail is there where a request has 2 to TOLD_ROWS rows whose scores are known; version is then 6, mac is
blake2s(key | body | tail), 10 bytes, the group of all rows stands in the mark, and decisions have leading zeros up to
a multiple of 3 bytes, so that base64 needs no padding. The first 56 characters name the prediction by themselves:
their MAC is of the tail too.

All ones in a part of the mark: not known; 255 as stratum: not randomised, so what comes back for it is no evidence;
255 as variant: no policy decided.
CBC-MAC is as good as its cipher for messages of one length (Bellare, Kilian, Rogaway: The Security of the Cipher Block
Chaining Message Authentication Code, 2000); AES has a key of its own, blake2s in keyed mode of ours. All keys are of
one length, and BLAKE2 cannot be told from a random oracle (Luykx, Mennink, Neves: Security Analysis of BLAKE2's Modes
of Operation, 2016): a key in front makes a MAC.
Ten bytes of MAC: a forger who sends 10,000 ids a second needs 10^12 years.
"""

import binascii
import hmac
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2s
from typing import Final

VERSION: Final = 5
ROWS_VERSION: Final = 6
"""Of an id with a tail."""
UNKNOWN: Final = 255
UNCOUNTED: Final = 255
"""Stratum of a request that was not randomised."""
NO_MARK: Final = 0xFFFF
TOLD_ROWS: Final = 64
"""Rows whose scores an id has room for: 156 characters; batches have as many rows by default."""
MOST_GROUPS: Final = 63
NO_POLICY: Final = 255
"""In place of a variant's index."""
_BODY: Final = struct.Struct(">BB4sIBIBQQ")
BLOCK_BYTES: Final = 16
MAC_BYTES: Final = 10
KEY_BYTES: Final = 32
_ROWS_MARK: Final = 0xFF03
"""Beside a tail, of the first group: scores and decisions stand there."""
_HEAD_BYTES: Final = _BODY.size + MAC_BYTES
ID_CHARS: Final = 4 * _HEAD_BYTES // 3
"""Of an id without its tail."""
MOST_CHARS: Final = 160
"""Of any id, with its row."""
_DIGITS: Final = bytes(ord("1" if low & 3 == 1 else "0") for low in range(256))
"""The decision in the lower byte of a mark, as a binary digit."""
_FROM_URL: Final = bytes.maketrans(b"-_", b"+/")
_PURPOSE: Final = b"pred-id"
MOST_ROWS: Final = 1_000_000
Encrypt = Callable[[bytes], bytes]


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
        unit: keyed hash of the unit that was randomised.
        id: without its tail.
        score_bin, decision: of the one row, or of `row`; None = not known. A version without a monitor tells none.
        group: of all rows; None = not known.
        row: of a larger request; None = the id of the whole request, or of its only row.
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


def mark_of_rows(marks: Sequence[int]) -> int:
    """The same of a larger request: its tail as a number, above the 16 bits of a mark.

    Args:
        marks: of 2 to TOLD_ROWS rows, all of the first group.
    """
    rows = len(marks)
    packed = struct.pack(f">{rows}H", *marks)
    decisions = int(packed[::-2].translate(_DIGITS), 2)
    tail = bytes((rows,)) + packed[::2] + decisions.to_bytes(_decision_bytes(rows), "big")
    return int.from_bytes(tail, "big") << 16 | _ROWS_MARK


def signed(unit: int) -> int:
    """A hash of 64 bits as the signed number of the same bits, which compiled code keeps without an object."""
    return unit - (1 << 64) if unit >> 63 else unit


@lru_cache(maxsize=8)
def encryption(key: bytes) -> Encrypt:
    """AES-256 of whole blocks of 16 bytes, each by itself, under a key that is made of this one for the purpose.

    One object for all who ask with this key, for one thread: on the loop. Its calls do not depend on each other.
    """
    # 7 MB and 15 ms, which only those pay whose answers name predictions.
    from cryptography.hazmat.primitives.ciphers import Cipher  # noqa: PLC0415
    from cryptography.hazmat.primitives.ciphers.algorithms import AES  # noqa: PLC0415
    from cryptography.hazmat.primitives.ciphers.modes import ECB  # noqa: PLC0415

    own = blake2s(key=key, person=_PURPOSE).digest()
    encrypt: Encrypt = Cipher(AES(own), ECB()).encryptor().update
    return encrypt


def read(text: str, keys: Mapping[int, bytes]) -> Prediction:
    """Check an id and say what it says.

    Args:
        keys: by key id, all that are valid.

    Raises:
        ForgedId: the message says why, and never what the signature should have been.
    """
    whole, row = _divided(text)
    raw = _decoded(whole)
    body, mac, tail = raw[: _BODY.size], raw[_BODY.size : _HEAD_BYTES], raw[_HEAD_BYTES:]
    version, key_id, digest, revision, variant, time_s, stratum, unit, last = _BODY.unpack(body)
    sequence, marked = last >> 16, last & NO_MARK
    key = keys.get(key_id)
    if version != (ROWS_VERSION if tail else VERSION) or key is None:
        raise ForgedId("it is of a version or key that is not valid here")
    if not hmac.compare_digest(_mac(key, body, tail), mac):
        raise ForgedId("its signature is wrong")
    if row is not None:
        marked, row = _of_tail(tail, marked, row) if tail else _of_one(marked, row)
    return Prediction(
        id=whole[:ID_CHARS],
        digest=digest.hex(),
        revision=revision,
        variant=variant,
        stratum=None if stratum == UNCOUNTED else stratum,
        time_s=time_s,
        sequence=sequence,
        unit=unit,
        score_bin=None if marked >> 8 == UNKNOWN else marked >> 8,
        decision=None if marked & 3 == 3 else marked & 3,
        group=None if marked >> 2 & 0x3F == 0x3F else marked >> 2 & 0x3F,
        row=row,
    )


def _mac(key: bytes, body: bytes, tail: bytes) -> bytes:
    """Of an id of ours that says this."""
    if tail:
        return blake2s(key + body + tail, digest_size=MAC_BYTES).digest()
    encrypt = encryption(key)
    chained = int.from_bytes(encrypt(body[:BLOCK_BYTES]), "big") ^ int.from_bytes(body[BLOCK_BYTES:], "big")
    return encrypt(chained.to_bytes(BLOCK_BYTES, "big"))[:MAC_BYTES]


def _divided(text: str) -> tuple[str, int | None]:
    """An id and its row. Raises ForgedId."""
    whole, slash, row = text.partition("/")
    if slash and not (row.isascii() and row.isdigit() and len(row) < 8 and int(row) < MOST_ROWS):
        raise ForgedId("the row behind '/' is no number")
    return whole, int(row) if slash else None


def _decoded(whole: str) -> bytes:
    """Its bytes, each written in the one way that there is. Raises ForgedId."""
    if not ID_CHARS <= len(whole) <= MOST_CHARS or len(whole) % 4 or not whole.isascii() or "+" in whole:
        raise ForgedId(f"expected {ID_CHARS} characters of base64url or some more, got {len(whole)} characters")
    try:
        raw = binascii.a2b_base64(whole.encode().translate(_FROM_URL), strict_mode=True)
    except binascii.Error as error:
        raise ForgedId("expected base64url") from error
    if 4 * len(raw) != 3 * len(whole):
        raise ForgedId("expected base64url without padding")
    return raw


def _of_tail(tail: bytes, marked: int, row: int) -> tuple[int, int]:
    """The mark of a row, and the row. Raises ForgedId: there is no such row."""
    rows = tail[0]
    if row >= rows:
        raise ForgedId(f"the request had {rows} rows, counted from 0")
    score_bin = tail[1 + row]
    if score_bin == UNKNOWN:
        return marked, row
    return score_bin << 8 | marked & 0xFC | int.from_bytes(tail[1 + rows :], "big") >> row & 1, row


def _of_one(marked: int, row: int) -> tuple[int, int | None]:
    """The same of an id without a tail: one that tells a score is of one row, which is number 0. Raises ForgedId."""
    if marked >> 8 == UNKNOWN:
        return marked, row
    if row:
        raise ForgedId("the request had one row")
    return marked, None


def _decision_bytes(rows: int) -> int:
    """So many that a tail of a byte, `rows` bytes and these is a multiple of 3 bytes."""
    least = -(-rows // 8)
    return least + -(1 + rows + least) % 3
