"""What the names of headers mean to the lane decision, in every spelling that was seen."""

from typing import Final

# Numbers, each by itself: compiled code has them in place, and looks up what it unpacked, 27 times a request.
NOTHING: Final = 0
LENGTH: Final = 1
HOST: Final = 2
ID: Final = 3
JSON_LENGTH: Final = 4
TIMEOUT: Final = 5
TRACE: Final = 6
SLOWS: Final = 7
ENCODING: Final = 8
CONNECTION: Final = 9
KEY: Final = 10
READ: Final = 16
"""Flag: a policy reads this header."""
PLACE_BITS: Final = 5
"""Above so many bits stands the place of a name that is read."""
_SPACE: Final = 32
_TAB: Final = 9
BLANKS: Final = b" \t"
"""Around a value, and no part of it (RFC 9110, 5.5); the parser takes away those before."""
_NAMES_KEPT: Final = 4096
_MEANING: Final = {
    b"content-length": LENGTH,
    b"host": HOST,
    b"x-request-id": ID,
    b"inference-header-content-length": JSON_LENGTH,
    b"x-request-timeout-ms": TIMEOUT,
    b"traceparent": TRACE,
    b"transfer-encoding": SLOWS,
    b"content-encoding": SLOWS,
    b"expect": SLOWS,
    b"accept-encoding": ENCODING,
    b"authorization": KEY,
    b"connection": CONNECTION,
    # The parser reads it as `connection`.
    b"proxy-connection": SLOWS,
}


class Meanings:
    """Name of a header -> meaning, kept as clients write it, also where it means nothing; bounded.

    Args:
        names: lower-case names that policies read; these carry the flag `READ` beside their meaning, and above it their
            place in `read`.

    Attributes:
        read: the names.
    """

    __slots__ = ("known", "names", "read")

    def __init__(self, names: frozenset[bytes]) -> None:
        self.names = names
        self.read = list(names)
        self.known: dict[bytes, int] = {name: self._of(name) for name in {*_MEANING, *names}}

    def learn(self, name: bytes) -> int:
        """The meaning of a name in a spelling that is new; kept, within the bound, for the next time."""
        meaning = self._of(name.lower())
        if len(self.known) < _NAMES_KEPT:
            self.known[name] = meaning
        return meaning

    def _of(self, lower: bytes) -> int:
        return _MEANING.get(lower, NOTHING) | (
            self.read.index(lower) << PLACE_BITS | READ if lower in self.names else 0
        )


def without_blanks(value: bytes) -> bytes:
    """A value as policies read it."""
    # Mostly there are none behind it, and to look is cheaper than to ask.
    return value.rstrip(BLANKS) if value and (value[-1] == _SPACE or value[-1] == _TAB) else value
