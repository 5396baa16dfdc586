"""Keys of prediction ids, and the one that units are hashed with: made by the first node, the same on all."""

from collections.abc import Callable
from typing import Final

import msgspec

from gateway.control.messages import SigningKey
from gateway.store.base import Stale, Store

SECRETS: Final = "secrets"
_SIGNING: Final = "predictions"
_UNITS: Final = "units"

Secrets = tuple[tuple[SigningKey, ...], bytes]
"""Keys of prediction ids, the one that signs first; the key of units."""


async def from_store(store: Store, known: Secrets, random_bytes: Callable[[int], bytes]) -> Secrets:
    """What all nodes use. Raises StoreAway.

    Args:
        known: by this node. A store that has lost its keys gets them back: ids that were given go on joining.
    """
    signing = known[0] or (SigningKey(1, random_bytes(32)),)
    found = await _kept(store, _SIGNING, msgspec.json.encode(signing))
    units = await _kept(store, _UNITS, known[1] or random_bytes(32))
    return msgspec.json.decode(found, type=tuple[SigningKey, ...]), units


async def _kept(store: Store, name: str, first: bytes) -> bytes:
    document = await store.get(SECRETS, name)
    if document is None:
        try:
            document = await store.put(SECRETS, name, first, expected=0)
        except Stale:
            document = await store.get(SECRETS, name)
    assert document is not None, "it was there a moment ago"
    return document.body
