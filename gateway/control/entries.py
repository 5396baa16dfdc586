"""Entries of the store's streams that are none of ours, or of another version: passed over, and said."""

import logging
from collections.abc import Callable
from typing import Final, TypeVar

import msgspec

from gateway.store.base import StreamEntry

T = TypeVar("T")
_log: Final = logging.getLogger(__name__)


def read_entry(entry: StreamEntry, stream: str, decode: Callable[[bytes], T]) -> T | None:
    """What an entry holds; None = it cannot be read. Nobody who writes into a stream ends who reads it."""
    try:
        return decode(entry.body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        facts = {"stream": stream, "node": entry.replica, "reason": str(error)[:200]}
        _log.error("entry_unreadable", extra={"facts": facts})
        return None
