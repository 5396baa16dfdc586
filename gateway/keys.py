"""Keys: what one is, who it makes of its bearer, and how the list of them changes. Pure.

A key is `tg_` and 32 random bytes in base64url. What is kept of it is its SHA-256, without salt or stretching: those
slow down guesses at passwords, and 256 random bits cannot be guessed at any speed. A key is checked in microseconds.
"""

import base64
import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Final

from msgspec import Struct

from router.moments import read_moment
from runtimes.errors import Conflict, InvalidInput, ServingError

SCOPES: Final = ("infer", "feedback", "metrics", "view", "route", "admin", "audit")
"""What a key may be for. None implies another."""
KEYS_MAX: Final = 4096
"""Keys of a node, revoked ones included: their names stay taken, since the audit names its actors by them."""
KEY: Final = re.compile(r"tg_[A-Za-z0-9_-]{43}")
RESERVED: Final = ("local", "control", "tidegate")
"""Names in the audit that are nobody's key."""
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_GLOB: Final = re.compile(r"[A-Za-z0-9._*?-]{1,128}")
_SPAN: Final = re.compile(r"(\d{1,6})([smhd])")
_SPAN_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_LIST_MAX: Final = 32
"""Globs or labels of one key."""


class UnknownKey(ServingError):
    """No key has this name."""

    code = "unknown_key"


class Key(Struct, frozen=True, forbid_unknown_fields=True):
    """A key as it is kept; times are seconds since 1970.

    Attributes:
        sha256: of the key, in hexadecimal.
        models: globs of model names it is good for; () = all.
        labels: what an approval may ask for beside a scope.
        expires_s, revoked_s: None = not.
    """

    name: str
    sha256: str
    scopes: tuple[str, ...]
    models: tuple[str, ...]
    labels: tuple[str, ...]
    created_s: int
    expires_s: int | None = None
    revoked_s: int | None = None


class KeyFacts(Struct, frozen=True, array_like=True):
    """What a process has to know of a key in force.

    Attributes:
        digest: SHA-256 of the key, 32 bytes.
        expires_s: seconds since 1970; None = never.
    """

    name: str
    digest: bytes
    scopes: tuple[str, ...]
    models: tuple[str, ...]
    labels: tuple[str, ...]
    expires_s: int | None


@dataclass(frozen=True, slots=True)
class Actor:
    """Who makes a request.

    Attributes:
        name: the key's name, or "local" where nobody is asked for a key.
        models: globs of model names; () = all.
    """

    name: str
    scopes: frozenset[str]
    labels: frozenset[str] = frozenset()
    models: tuple[str, ...] = ()

    def covers(self, model_name: str) -> bool:
        """Whether what this actor does may concern this model."""
        return not self.models or any(fnmatchcase(model_name, glob) for glob in self.models)


LOCAL: Final = Actor("local", frozenset(SCOPES))
"""Everybody, where nobody is asked for a key."""


@dataclass(frozen=True, slots=True)
class Wish:
    """A key that somebody wants: see `checked`."""

    name: str
    scopes: tuple[str, ...]
    models: tuple[str, ...] = field(default=())
    labels: tuple[str, ...] = field(default=())
    expires_s: int | None = None


def new_key(random_bytes: Callable[[int], bytes]) -> str:
    """A fresh key."""
    return "tg_" + base64.urlsafe_b64encode(random_bytes(32)).rstrip(b"=").decode()


def digest_of(key: bytes) -> bytes:
    """SHA-256 of a key, 32 bytes."""
    return hashlib.sha256(key).digest()


def facts_of(keys: Iterable[Key], now_s: float) -> tuple[KeyFacts, ...]:
    """The keys in force: neither revoked nor expired."""
    return tuple(
        KeyFacts(key.name, bytes.fromhex(key.sha256), key.scopes, key.models, key.labels, key.expires_s)
        for key in keys
        if state_of(key, now_s) == "in force"
    )


def state_of(key: Key, now_s: float) -> str:
    """`in force`, `expired` or `revoked`."""
    if key.revoked_s is not None:
        return "revoked"
    return "expired" if key.expires_s is not None and key.expires_s <= now_s else "in force"


def created(keys: Sequence[Key], wish: Wish, digest: bytes, now_s: float) -> tuple[Key, ...]:
    """The keys with one more, which comes last.

    Raises:
        InvalidInput: see `checked`; an expiry that has passed; one key too many.
        Conflict: the name was given once, if only to a key that is revoked by now.
    """
    checked(wish)
    if wish.expires_s is not None and wish.expires_s <= now_s:
        raise InvalidInput(f"expires: {text_of(wish.expires_s)} is in the past")
    if any(key.name == wish.name for key in keys):
        raise Conflict(f"there is a key {wish.name!r} already; a name is given once, so that an audit stays true")
    if len(keys) >= KEYS_MAX:
        raise InvalidInput(f"there are {KEYS_MAX} keys already, revoked ones included")
    key = Key(wish.name, digest.hex(), wish.scopes, wish.models, wish.labels, int(now_s), wish.expires_s)
    return (*keys, key)


def revoked(keys: Sequence[Key], name: str, now_s: float) -> tuple[Key, ...]:
    """The keys with this one revoked; one that is revoked stays as it is. Raises UnknownKey."""
    names = [key.name for key in keys]
    if name not in names:
        near = get_close_matches(name, names, 1)
        raise UnknownKey(f"there is no key {name[:64]!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    return tuple(
        Key(k.name, k.sha256, k.scopes, k.models, k.labels, k.created_s, k.expires_s, int(now_s))
        if k.name == name and k.revoked_s is None
        else k
        for k in keys
    )


def checked(wish: Wish | Key) -> None:
    """Raises InvalidInput when a name, scope, glob or label is none."""
    if not _NAME.fullmatch(wish.name):
        raise InvalidInput(f"{wish.name[:80]!r} is no name of a key: expected 1 to 64 of A-Z a-z 0-9 . _ -")
    if wish.name in RESERVED:
        raise InvalidInput(f"no key may be called {wish.name!r}: the audit uses it for what no key did")
    if not wish.scopes:
        raise InvalidInput(f"scopes: expected at least one of {', '.join(SCOPES)}")
    for scope in wish.scopes:
        if scope not in SCOPES:
            raise InvalidInput(f"{scope[:80]!r} is no scope; known scopes: {', '.join(SCOPES)}")
    if max(len(wish.scopes), len(wish.models), len(wish.labels)) > _LIST_MAX:
        raise InvalidInput(f"a key has at most {_LIST_MAX} models and {_LIST_MAX} labels")
    for glob in wish.models:
        if not _GLOB.fullmatch(glob):
            raise InvalidInput(f"{glob[:80]!r} is no pattern of model names: expected a name with * or ? in it")
    for label in wish.labels:
        if not _NAME.fullmatch(label):
            raise InvalidInput(f"{label[:80]!r} is no label: expected 1 to 64 of A-Z a-z 0-9 . _ -")


def expiry(text: str, now_s: float) -> int:
    """Seconds since 1970 of `90d`, `12h`, `30m`, `45s` from now, or of an ISO 8601 date or time (UTC if none is said).

    Raises:
        InvalidInput: it is neither.
    """
    span = _SPAN.fullmatch(text)
    if span is not None:
        return int(now_s) + int(span[1]) * _SPAN_S[span[2]]
    try:
        found = read_moment(text)
        return int((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError) as error:
        message = f"expires: expected a span such as 90d, 12h or 30m, or a date such as 2030-01-31, got {text[:80]!r}"
        raise InvalidInput(message) from error


def text_of(seconds: int | None) -> str | None:
    """A time as ISO 8601 in UTC."""
    try:
        return None if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return str(seconds)


def shown(key: Key, now_s: float) -> dict[str, object]:
    """A key for people and programs; nothing of it that would let anybody in."""
    return {
        "name": key.name,
        "state": state_of(key, now_s),
        "scopes": list(key.scopes),
        "models": list(key.models),
        "labels": list(key.labels),
        "created": text_of(key.created_s),
        "expires": text_of(key.expires_s),
        "revoked": text_of(key.revoked_s),
    }
