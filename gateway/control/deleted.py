"""Policies that were deleted: one that comes back goes on from their numbers, which workers and callers have seen."""

from collections.abc import Mapping
from typing import Final

import msgspec

from gateway.control.record import PolicyRecord, decode_record, encode
from gateway.control.restoring import deleted_at
from gateway.store.base import Store
from router.rollout.status import RolloutStatus

MOST: Final = 100
"""Records kept beside the store; those deleted longest ago go first. The audit trail has the numbers of them all, until
somebody restores a backup."""


class Deleted:
    """What is known of them, by name.

    Attributes:
        records: the last of each, without what it was that could do no harm; oldest first.
    """

    def __init__(self) -> None:
        self.records: dict[str, PolicyRecord] = {}
        self._numbers: dict[str, tuple[int, int]] = {}

    def add(self, name: str, record: PolicyRecord) -> None:
        """It is gone."""
        self.records.pop(name, None)
        self.records[name] = _remains(record)
        if len(self.records) > MOST:
            del self.records[next(iter(self.records))]
        self._numbers[name] = record.revision, record.generation

    async def numbers(self, store: Store, name: str) -> tuple[int, int]:
        """Routing revision and generation at which it was deleted; 0 = never. Raises StoreAway."""
        if name not in self._numbers:
            self._numbers[name] = await deleted_at(store, name)
        return self._numbers[name]

    def kept(self) -> dict[str, bytes]:
        """As they are kept beside the store."""
        return {name: encode(record) for name, record in self.records.items()}

    def recall(self, kept: Mapping[str, bytes]) -> None:
        """Take over what was kept; what cannot be read is left out."""
        for name, body in kept.items():
            try:
                self.add(name, decode_record(body))
            except msgspec.DecodeError:
                continue


def _remains(record: PolicyRecord) -> PolicyRecord:
    """Its numbers, and what stopped harm: kills, a pause, latches."""
    status = record.status
    return PolicyRecord(
        document={},
        revision=record.revision,
        generation=record.generation,
        applied_by=record.applied_by,
        applied_ms=record.applied_ms,
        variants=(),
        slots="",
        before="",
        stable=record.stable,
        killed=record.killed,
        status=RolloutStatus(identity=status.identity, paused=status.paused, latches=status.latches),
    )
