"""Reading many audit chains as one history, by time, then name, then number. Pure."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from gateway.store.allowed import INTEGER_MAX
from gateway.store.base import AuditRecord


class Place(NamedTuple):
    """Where a record stands in the history of all chains."""

    time_ms: int
    name: str
    seq: int


FIRST: Final = Place(0, "", 0)
LAST: Final = Place(INTEGER_MAX, "\U0010ffff", INTEGER_MAX)


def place_of(record: AuditRecord) -> Place:
    """Of a record."""
    return Place(record.time_ms, record.chain, record.seq)


def to_cursor(place: Place) -> str:
    """As text for callers."""
    return f"{place.time_ms}-{place.seq}-{place.name}"


def from_cursor(cursor: str) -> Place:
    """From `to_cursor`.

    Raises:
        ValueError: made by somebody else.
    """
    time_ms, _, rest = cursor.partition("-")
    seq, _, name = rest.partition("-")
    if not (time_ms.isdecimal() and seq.isdecimal() and name):
        raise ValueError(f"after: expected the cursor of a page, got {cursor!r:.80}")
    return Place(int(time_ms), name, int(seq))


def span(name: str, at: Place | None, newest: bool, since_ms: int, until_ms: int) -> tuple[str, str]:
    """First and last id of a chain's stream that lie behind the cursor, in reading order, for XRANGE or XREVRANGE."""
    low, high = str(since_ms), str(until_ms)
    if at is not None and newest:
        high = f"({at.time_ms}-{at.seq}" if name == at.name else str(at.time_ms if name < at.name else at.time_ms - 1)
    elif at is not None:
        low = f"({at.time_ms}-{at.seq}" if name == at.name else str(at.time_ms if name > at.name else at.time_ms + 1)
    return (high, low) if newest else (low, high)


def merged(parts: Sequence[Sequence[AuditRecord]], each: int, newest: bool) -> tuple[list[AuditRecord], bool]:
    """Records in order as far as they are sure, and whether more follow.

    Args:
        parts: the next records of each chain, at most `each`; a part of that length may go on.
    """
    going_on = [part for part in parts if len(part) == each]
    every = sorted((record for part in parts for record in part), key=place_of, reverse=newest)
    if not going_on:
        return every, False
    ends = [place_of(part[-1]) for part in going_on]
    if newest:
        horizon = max(ends)
        return [record for record in every if place_of(record) >= horizon], True
    horizon = min(ends)
    return [record for record in every if place_of(record) <= horizon], True
