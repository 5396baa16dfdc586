"""Content codings of bodies: what a client accepts, and bounded inflation of what it sends. Pure.

Only answers of COMPRESS_BYTES and more are compressed: below that it costs more than it saves, and most HTTP
libraries ask for it without meaning it.
"""

import gzip
import zlib
from functools import lru_cache
from typing import Final

COMPRESS_BYTES: Final = 16 * 1024
CODINGS: Final = (b"gzip", b"deflate")
_LEVEL: Final = 1
_RATIO: Final = 1032
"""Deflate cannot do better: 258 bytes for two bits (https://zlib.net/zlib_tech.html)."""
_WBITS: Final = {b"gzip": 31, b"deflate": 15}


class Oversized(ValueError):
    """A body inflates to more than is read."""


class Damaged(ValueError):
    """A body is not what its coding says."""


@lru_cache(256)
def choose(accept_encoding: bytes) -> bytes:
    """The coding for an answer: b"gzip", b"deflate" or b"" for none; the highest q wins (RFC 9110, 12.5.3)."""
    weights: dict[bytes, float] = {}
    for item in accept_encoding.lower().split(b",")[:20]:
        coding, _, parameter = item.strip().partition(b";")
        weights[coding.strip()] = _weight(parameter)
    usable = [(weights[coding], coding) for coding in CODINGS if weights.get(coding, 0.0) > 0]
    best = max(usable, key=lambda pair: pair[0], default=(0.0, b""))
    return best[1] if best[0] >= weights.get(b"identity", 0.0) else b""


def _weight(parameter: bytes) -> float:
    name, _, value = parameter.strip().partition(b"=")
    if name.strip() != b"q":
        return 1.0
    try:
        return min(1.0, max(0.0, float(value)))
    except ValueError:
        return 0.0


def compress(body: bytes, coding: bytes) -> bytes:
    """Compress an answer; fast rather than small."""
    return gzip.compress(body, _LEVEL, mtime=0) if coding == b"gzip" else zlib.compress(body, _LEVEL)


def most_bytes(body: bytes, coding: bytes, limit_bytes: int) -> int:
    """A bound on what a body inflates to, and never more than `limit_bytes` allows; 0 for a body without a coding."""
    if coding not in CODINGS:
        return 0
    most = min(limit_bytes, _RATIO * len(body))
    # The last four bytes of gzip are the size of what is in it; `inflate` refuses one that lies.
    return min(most, int.from_bytes(body[-4:], "little")) if coding == b"gzip" else most


def inflate(body: bytes, coding: bytes, limit_bytes: int) -> bytes:
    """Inflate a request's body, holding never more than the limit.

    Raises:
        Oversized: it is longer than `limit_bytes`.
        Damaged: it is cut short, no such stream, or followed by something.
    """
    stream = zlib.decompressobj(_WBITS[coding])
    most = most_bytes(body, coding, limit_bytes)
    try:
        found = stream.decompress(body, most + 1)
        if limit_bytes > most < len(found):
            raise Damaged(f"the {coding.decode()} body is longer than it says")
        if len(found) > limit_bytes:
            raise Oversized(f"the body inflates to more than the {limit_bytes} bytes that are read")
    except zlib.error as error:
        raise Damaged(f"the body is not valid {coding.decode()}") from error
    if not stream.eof:
        raise Damaged(f"the {coding.decode()} body ends too early")
    if stream.unused_data:
        raise Damaged(f"something follows the {coding.decode()} body")
    return found
