"""Regular expressions that a policy may use: a subset whose matching time is bounded by its form.

Python's `re` backtracks: `(a+)+` takes exponential time on a value that a caller chooses. Here a pattern is read
first and the ways are counted in which it could be tried on a value: quantifiers multiply, alternatives add. A
pattern with more ways than MAX_WAYS is refused, so that no value of VALUE_BYTES takes longer than about a
millisecond. So are back references, look-around and flags, and repeated groups.

Allowed: literals, `.`, classes, `\\d \\w \\s` and their opposites, escaped signs, `( )` and `(?: )` with `|`,
`* + ? {m} {m,n}` on one character or class, `?` on a group. A pattern describes the whole value.
"""

import re
from typing import Final

PATTERN_CHARACTERS: Final = 128
VALUE_BYTES: Final = 256
"""Longer values match no pattern."""
MAX_WAYS: Final = 70_000
"""Two unbounded repetitions, as in `.*word.*`, make (256 + 1)^2 = 66,049."""
_MAX_DEPTH: Final = 8
_COUNTS: Final = re.compile(r"\{([0-9]{1,3})(,([0-9]{0,3}))?\}")
_ESCAPED: Final = re.compile(r"\\([dDwWsS]|[^A-Za-z0-9\s])")
_CLASS: Final = re.compile(r"\[\^?\]?(?:\\[dDwWsS]|\\[^A-Za-z0-9\s]|[^\]\\\[])*\]")

_SET_SIGNS: Final = re.compile(r"--|&&|~~|\|\|")
"""Python warns that these will mean something in a class one day."""


def compiled(pattern: str) -> re.Pattern[bytes]:
    """The pattern over bytes of a value (UTF-8 in the policy), to be used with `fullmatch`.

    Raises:
        ValueError: too long, outside the subset, or with too many ways.
    """
    if not 1 <= len(pattern) <= PATTERN_CHARACTERS:
        raise ValueError(f"expected a pattern of 1 to {PATTERN_CHARACTERS} characters, got {len(pattern):,}")
    if not pattern.isascii():
        raise ValueError("expected a pattern of ASCII characters; use exact, prefix or in for others")
    ways = _Counter(pattern).ways()
    if ways > MAX_WAYS:
        raise ValueError(
            f"could be tried in {min(ways, 10**12):,} ways on a value of {VALUE_BYTES} bytes, at most {MAX_WAYS:,}: "
            "use fewer repetitions (two unbounded ones are the most) or alternatives"
        )
    try:
        return re.compile(pattern.encode())
    except (re.error, OverflowError) as error:
        raise ValueError(f"not a regular expression: {error}") from None


class _Counter:
    """Reads a pattern once, left to right; an error says where."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._at = 0

    def ways(self) -> int:
        ways = self._alternatives(0)
        if self._at < len(self._pattern):
            raise self._outside("')' that closes nothing")
        return ways

    def _alternatives(self, depth: int) -> int:
        if depth > _MAX_DEPTH:
            raise self._outside("groups too deep")
        total, product = 0, 1
        while self._at < len(self._pattern):
            letter = self._pattern[self._at]
            if letter == ")":
                break
            if letter == "|":
                self._at += 1
                total, product = total + product, 1
            else:
                product = min(product * self._repeated(depth), 10**12)
        return total + product

    def _repeated(self, depth: int) -> int:
        """One atom with its quantifier."""
        inner = self._atom(depth)
        low, high = self._quantifier()
        if (low, high) == (1, 1):
            return inner or 1
        if self._quantifier() != (1, 1) or self._next("?") or self._next("+"):
            raise self._outside("a quantifier of a quantifier")
        if inner == 0:
            return high - low + 1
        if (low, high) != (0, 1):
            raise self._outside("a repeated group")
        return inner + 1

    def _atom(self, depth: int) -> int:
        """Ways within a group; 0 for one character or class."""
        rest = self._pattern[self._at :]
        if rest[0] == "(":
            self._at += 3 if rest.startswith("(?:") else 1
            if self._next("?"):
                raise self._outside("'(?'")
            ways = self._alternatives(depth + 1)
            if not self._next(")"):
                raise self._outside("'(' that is not closed")
            self._at += 1
            return ways
        found = {"\\": _ESCAPED, "[": _CLASS}.get(rest[0])
        if found is not None:
            match = found.match(rest)
            if match is None or _SET_SIGNS.search(match[0]):
                raise self._outside("an escape or class")
            self._at += match.end()
            return 0
        if rest[0] in "*+?{}^$":
            raise self._outside(f"{rest[0]!r} here")
        self._at += 1
        return 0

    def _quantifier(self) -> tuple[int, int]:
        """(fewest, most) of the quantifier at this place; (1, 1) = none."""
        rest = self._pattern[self._at :]
        if rest[:1] and rest[0] in "*+?":
            self._at += 1
            return {"*": (0, VALUE_BYTES), "+": (1, VALUE_BYTES), "?": (0, 1)}[rest[0]]
        match = _COUNTS.match(rest)
        if match is None:
            return 1, 1
        self._at += match.end()
        low = int(match[1])
        high = low if match[2] is None else int(match[3] or max(VALUE_BYTES, low))
        if high < low:
            raise self._outside("{m,n} with m above n")
        return low, high

    def _next(self, letter: str) -> bool:
        return self._pattern.startswith(letter, self._at)

    def _outside(self, what: str) -> ValueError:
        return ValueError(f"{what} is not in the subset of regular expressions that policies may use (at {self._at})")
