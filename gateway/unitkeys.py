"""Units as they leave the worker that placed them: hashes under a secret of the store, the same on all nodes. Pure.

Ids of predictions, evidence, experiments, the ledger of feedback, samples and decision logs have this hash, no other:
whoever holds any of them, and the policy with its salt, cannot find out whom they are about, nor by trying names.
"""

from collections.abc import Callable
from hashlib import blake2s

Keyed = Callable[[int], int]
"""`router.hashing.unit_hash` of a unit -> 64 bits that stand for it, unsigned."""


def keyed(key: bytes, model: str) -> Keyed:
    """How units of a model are hashed: BLAKE2s in its keyed mode (RFC 7693), 0.8 us.

    Args:
        key: 32 bytes, of the store.
        model: name of the policy.
    """
    prepared = blake2s(b"unit\0%s\0" % model.encode(), key=key, digest_size=8)

    def of(unit_hash: int) -> int:
        copy = prepared.copy()
        copy.update(b"%016x" % unit_hash)
        return int.from_bytes(copy.digest(), "big")

    return of


def unit_text(unit: int) -> str:
    """A keyed unit as text, wherever one is written or shown: 16 hexadecimal digits."""
    return f"{unit:016x}"
