"""What a policy may read of a request, parsed only when a rule asks for it."""

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Final, Protocol
from urllib.parse import unquote_to_bytes

MAX_PAIRS: Final = 256
"""Cookies or parameters beyond that many are not seen; the server bounds their bytes."""


class Mixed(Enum):
    """An input whose rows disagree: no single value of the request."""

    MIXED = "mixed"


MIXED: Final = Mixed.MIXED
Value = str | int | float | bool
Fields = Callable[[str], Value | Mixed | None]
"""Input tensor or feature column -> the value that all rows share, MIXED, or None when it is not there."""


def no_fields(name: str) -> None:
    """Of a request whose body is not decoded."""
    return


class View(Protocol):
    """One request as rules see it: `RequestView`, or whatever carries a request through a server.

    Attributes:
        request_id: as of `RequestView`.
        mixed: an input was asked for whose rows disagree.
    """

    request_id: bytes
    mixed: bool

    @property
    def headers(self) -> Mapping[bytes, bytes]:
        """As of `RequestView`."""

    def cookie(self, name: bytes) -> bytes | None:
        """The first cookie of that name."""

    def parameter(self, name: bytes) -> bytes | None:
        """The first parameter of that name in the query, decoded."""

    def field(self, name: str) -> Value | Mixed | None:
        """An input's value; a mixed one is remembered."""


class RequestView:
    """One request by itself.

    Args:
        headers: lower-case names -> values; at least those in the policy's `header_names`.
        request_id: the unit where each request is one; also what chance is made of where a unit is missing.
        query: the URL's query, without `?`.
        fields: see `Fields`; asked only when the policy's `needs_body` is true.

    Attributes:
        mixed: an input was asked for whose rows disagree.
    """

    __slots__ = ("_cookies", "_fields", "_parameters", "_query", "headers", "mixed", "request_id")

    def __init__(
        self, headers: Mapping[bytes, bytes], request_id: bytes, query: bytes = b"", fields: Fields = no_fields
    ) -> None:
        self.headers = headers
        self.request_id = request_id
        self.mixed = False
        self._query = query
        self._fields = fields
        self._cookies: dict[bytes, bytes] | None = None
        self._parameters: dict[bytes, bytes] | None = None

    def cookie(self, name: bytes) -> bytes | None:
        """The first cookie of that name."""
        if self._cookies is None:
            self._cookies = parse_cookies(self.headers.get(b"cookie", b""))
        return self._cookies.get(name)

    def parameter(self, name: bytes) -> bytes | None:
        """The first parameter of that name in the query, decoded."""
        if self._parameters is None:
            self._parameters = parse_query(self._query)
        return self._parameters.get(name)

    def field(self, name: str) -> Value | Mixed | None:
        """An input's value; a mixed one is remembered."""
        value = self._fields(name)
        if value is MIXED:
            self.mixed = True
        return value


def parse_cookies(header: bytes) -> dict[bytes, bytes]:
    """Name -> value of a Cookie header; of equal names the first, as servers mostly do (RFC 6265, 5.4 orders them)."""
    found: dict[bytes, bytes] = {}
    for pair in header.split(b";", MAX_PAIRS)[:MAX_PAIRS]:
        name, equals, value = pair.partition(b"=")
        if equals:
            found.setdefault(name.strip(), value.strip())
    return found


def parse_query(query: bytes) -> dict[bytes, bytes]:
    """Name -> value of a URL's query in its usual form (`+` and %XX); of equal names the first."""
    found: dict[bytes, bytes] = {}
    for pair in query.split(b"&", MAX_PAIRS)[:MAX_PAIRS]:
        name, _, value = pair.replace(b"+", b" ").partition(b"=")
        found.setdefault(unquote_to_bytes(name), unquote_to_bytes(value))
    return found
