"""A rollback that was decided while the store was away: it is held until somebody has written it. Pure."""

from collections.abc import Iterable
from typing import Final

import msgspec

from gateway.control.documents import Kept
from gateway.control.record import PolicyRecord
from router.rollout.observed import Command
from router.rollout.status import RolloutStatus, Said, recover

COMMAND_LIVES_MS: Final = 600_000
"""Whoever gave a command was told after ten seconds that nobody did it; clocks may differ by less than this."""


def with_pending(record: PolicyRecord, local: PolicyRecord) -> PolicyRecord:
    """The store's record, with a rollback of the same rollout that this node decided without it."""
    if local.status.pending_abort is None or local.status.revision > record.status.revision:
        return record
    return msgspec.structs.replace(record, status=recover(record.status, local.status))


def carried_over(kept: Kept, local: PolicyRecord) -> Kept:
    """The same, with what this node had written beside the store before it died."""
    return Kept(kept.revision, with_pending(kept.record, local), kept.policy)


def holding(kept: Kept, said: Said | None) -> Kept:
    """A policy whose rollback waits for the store; None = it waits no longer."""
    status = msgspec.structs.replace(kept.record.status, pending_abort=said)
    return Kept(kept.revision, msgspec.structs.replace(kept.record, status=status), kept.policy)


def abort_of(status: RolloutStatus, said: Said, node: str) -> Command:
    """What asks another node to write it, once."""
    id = f"{node}/{status.identity}/pending"
    return Command(id=id, kind="abort", actor=said.actor, reason=said.reason, identity=status.identity)


def recent(commands: Iterable[Command], now_ms: int, lives_ms: int = COMMAND_LIVES_MS) -> list[Command]:
    """Who leads anew reads a stream from its beginning, and of old commands nobody remembers that they were done."""
    return [one for one in commands if not one.at_ms or now_ms - one.at_ms < lives_ms]
