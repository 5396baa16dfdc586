"""What a store takes as kinds, names, ids, numbers and bodies."""

import re
from typing import Final

# Counters pass through Lua, whose numbers are doubles.
INTEGER_MAX: Final = 2**53 - 1
_KIND: Final = re.compile(r"[a-z][a-z0-9_.-]{0,63}")
# Braces mark what Redis hashes of a key; control characters separate fields.
_NAME: Final = re.compile(r"[^\x00-\x1f\x7f{}]{1,256}")
_ID: Final = re.compile(r"[^\x00-\x1f\x7f]{0,256}")


def key_of(kind: str, name: str) -> tuple[str, str]:
    """The two as they may be stored.

    Raises:
        ValueError: of another form.
    """
    if not _KIND.fullmatch(kind):
        raise ValueError(f"kind: expected {_KIND.pattern}, got {kind!r}")
    return kind, name_of(name)


def name_of(name: str, what: str = "name") -> str:
    """A name as it may be stored: 1 to 256 characters, no braces, no control characters.

    Raises:
        ValueError: of another form.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{what}: expected 1 to 256 characters without braces and control characters, got {name!r:.80}"
        )
    return name


def id_of(value: str, what: str) -> str:
    """An id as it may be stored: at most 256 characters, no control characters.

    Raises:
        ValueError: of another form.
    """
    if not _ID.fullmatch(value):
        raise ValueError(f"{what}: expected at most 256 characters without control characters, got {value!r:.80}")
    return value


def integer_of(value: int, what: str, lowest: int = 0, highest: int = INTEGER_MAX) -> int:
    """A whole number within bounds.

    Raises:
        ValueError: outside.
    """
    if not lowest <= value <= highest:
        raise ValueError(f"{what}: expected {lowest} to {highest}, got {value}")
    return value


def body_of(body: bytes, bytes_max: int, what: str = "body") -> bytes:
    """Bytes within their bound.

    Raises:
        ValueError: larger.
    """
    if len(body) > bytes_max:
        raise ValueError(f"{what}: expected at most {bytes_max} bytes, got {len(body)}")
    return body
