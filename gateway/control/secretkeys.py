"""Keys of prediction ids, and the one that units are hashed with: made by the first node, the same on all."""

from collections.abc import Callable
from typing import Final

import msgspec

from gateway.control.messages import SigningKey
from gateway.predictions import KEY_BYTES
from gateway.store.base import Document, Stale, Store

SECRETS: Final = "secrets"
_SIGNING: Final = "predictions"
_UNITS: Final = "units"

MOST_KEYS: Final = 16
"""Of prediction ids; beyond it the oldest go."""

Secrets = tuple[tuple[SigningKey, ...], bytes]
"""Keys of prediction ids, the one that signs first; the key of units."""


async def from_store(store: Store, known: Secrets, random_bytes: Callable[[int], bytes]) -> Secrets:
    """What all nodes use. Raises StoreAway.

    Args:
        known: by this node. A store that has lost its keys gets them back, also where a node that knew nothing has made
            new ones meanwhile: ids that were given go on joining. Of two keys for units the store's stands.
    """
    # A number by chance: keys that two nodes made without knowing of each other are then told apart.
    first = known[0] or (SigningKey(1 + random_bytes(1)[0] % 255, random_bytes(KEY_BYTES)),)
    while True:
        document = await _kept(store, _SIGNING, msgspec.json.encode(first))
        signing = merged(_usable(document.body), known[0]) or first
        body = msgspec.json.encode(signing)
        try:
            if body != document.body:
                await store.put(SECRETS, _SIGNING, body, expected=document.revision)
            return signing, await _units_key(store, known[1] or random_bytes(KEY_BYTES))
        except Stale:
            continue


def _usable(body: bytes) -> tuple[SigningKey, ...]:
    """Keys that a worker can sign with: what somebody else wrote into the store ends no process."""
    try:
        found = msgspec.json.decode(body, type=tuple[SigningKey, ...])
    except msgspec.MsgspecError:
        return ()
    return tuple(key for key in found if len(key.secret) == KEY_BYTES and 0 <= key.id <= 255)


async def _units_key(store: Store, own: bytes) -> bytes:
    """The store's, or this node's own where that is none. Raises StoreAway, Stale."""
    document = await _kept(store, _UNITS, own)
    if len(document.body) == KEY_BYTES:
        return document.body
    await store.put(SECRETS, _UNITS, own, expected=document.revision)
    return own


def merged(found: tuple[SigningKey, ...], known: tuple[SigningKey, ...]) -> tuple[SigningKey, ...]:
    """The store's keys, and behind them those that it lacks. Of two with one number the store's stands."""
    numbers = {key.id for key in found}
    return (*found, *(key for key in known if key.id not in numbers))[:MOST_KEYS]


async def _kept(store: Store, name: str, first: bytes) -> Document:
    document = await store.get(SECRETS, name)
    if document is None:
        try:
            document = await store.put(SECRETS, name, first, expected=0)
        except Stale:
            document = await store.get(SECRETS, name)
    assert document is not None, "it was there a moment ago"
    return document
