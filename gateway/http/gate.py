"""Who is there: from `Authorization: Bearer KEY` to an actor. Used where the configuration asks for keys.

The slow lane and the admin port judge every request here. The fast lane only looks up whether this very header value
was found right before (`known`), for this very model; whatever it does not find goes on to the slow lane, which words
refusals. Only what was right is remembered, so a stranger cannot fill the memory.

Times tell nothing: keys are found by their digest, which a caller cannot steer, and digests are compared in constant
time. A dictionary compares bytes only after the salted 64-bit hashes were equal.
"""

import hmac
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from gateway.errors import HttpError
from gateway.keys import KEY, Actor, KeyFacts, digest_of

KNOWN_MAX: Final = 1024
"""Header values that are remembered; more than there are keys only where clients spell `Bearer` in many ways."""
MODELS_MAX: Final = 1024
"""Model names that are remembered of one key."""
_CHALLENGE: Final = ((b"www-authenticate", b"Bearer"),)
_SCHEME: Final = b"bearer "
_VALUE_BYTES: Final = len(_SCHEME) + 46


class Grant:
    """A key in force and what the fast lane may answer for it.

    Attributes:
        models: names of models that its bearer may infer with, of those that it has asked for.
    """

    __slots__ = ("actor", "digest", "expires_s", "models")

    def __init__(self, facts: KeyFacts) -> None:
        self.actor = Actor(facts.name, frozenset(facts.scopes), frozenset(facts.labels), facts.models)
        self.digest = facts.digest
        self.expires_s = facts.expires_s
        self.models: set[str] = set()

    def remember(self, model_name: str) -> None:
        """This key was found good for inference with this model."""
        if len(self.models) >= MODELS_MAX:
            self.models.clear()
        if len(model_name) <= 256:
            self.models.add(model_name)


class Gate:
    """The keys in force in this process.

    Args:
        wall_s: seconds since 1970.

    Attributes:
        known: value of the header -> its grant; emptied whenever the keys change or one expires.
    """

    def __init__(self, *, wall_s: Callable[[], float] = time.time) -> None:
        self.known: dict[bytes, Grant] = {}
        self._wall_s = wall_s
        self._facts: tuple[KeyFacts, ...] = ()
        self._grants: dict[bytes, Grant] = {}
        self._next_expiry_s: int | None = None

    def apply(self, facts: Iterable[KeyFacts]) -> None:
        """Put these keys in force, and no others."""
        facts = tuple(facts)
        if facts != self._facts:
            self._facts = facts
            self._build()

    def tick(self, now_s: float) -> None:
        """Forget keys that have expired; called once a second.

        Args:
            now_s: seconds since 1970.
        """
        if self._next_expiry_s is not None and self._next_expiry_s <= now_s:
            self._facts = tuple(f for f in self._facts if f.expires_s is None or f.expires_s > now_s)
            self._build()

    def _build(self) -> None:
        self._grants = {facts.digest: Grant(facts) for facts in self._facts}
        self._next_expiry_s = min((f.expires_s for f in self._facts if f.expires_s is not None), default=None)
        self.known.clear()

    def passes(self, value: bytes, model_name: str) -> bool:
        """Whether this header value was found good for inference with this model; the fast lane asks no more.

        Args:
            value: b"" = there is no such header.
        """
        grant = self.known.get(value)
        return grant is not None and model_name in grant.models

    def authenticate(self, values: Sequence[bytes]) -> Grant:
        """The grant of a request.

        Args:
            values: of every `authorization` header.

        Raises:
            HttpError: 401: none, several, malformed, unknown, revoked or expired; which of the last three is not told.
        """
        if not values:
            raise unauthorized("a key is needed: send `authorization: Bearer KEY`")
        if len(values) > 1:
            raise unauthorized("expected one authorization header")
        value = values[0]
        grant = self.known.get(value) or self._grant_of(value)
        if grant.expires_s is not None and grant.expires_s <= self._wall_s():
            raise _not_valid()
        if len(self.known) >= KNOWN_MAX:
            self.known.clear()
        self.known[value] = grant
        return grant

    def _grant_of(self, value: bytes) -> Grant:
        if len(value) != _VALUE_BYTES or value[: len(_SCHEME)].lower() != _SCHEME:
            raise unauthorized("malformed: expected `authorization: Bearer KEY`")
        key = value[len(_SCHEME) :]
        if not key.isascii() or not KEY.fullmatch(key.decode()):
            raise unauthorized("malformed: expected `authorization: Bearer KEY`")
        digest = digest_of(key)
        grant = self._grants.get(digest)
        if grant is None or not hmac.compare_digest(grant.digest, digest):
            raise _not_valid()
        return grant


def unauthorized(message: str) -> HttpError:
    """401."""
    return HttpError(401, "unauthorized", message, _CHALLENGE)


def _not_valid() -> HttpError:
    return unauthorized("the key is not valid: unknown, revoked or expired")
