"""Audit chains in Redis, one per name: their ends, pages over all of them, and their verification."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from gateway.store import merge, records
from gateway.store.base import AuditPage, AuditRecord, StoreUnusable, Verified
from gateway.store.redis import RedisLink, ours

SCAN_ROWS: Final = 10_000
PAGE_ROWS: Final = 100
LEAST_ROWS: Final = 8


class End(NamedTuple):
    """Where a chain and its documents stood when they were read.

    Attributes:
        revision: of the last write of the name, in digits.
        now_ms: Redis's clock.
    """

    head: records.Head
    revision: bytes
    now_ms: int


async def end_of(link: RedisLink, head_key: str, field: tuple[str, str] | None) -> tuple[End, bytes | None]:
    """The end of a chain, and a hash field of the same moment. Errors as `RedisLink.command`."""
    asked: list[Sequence[str]] = [("HGETALL", head_key), ("TIME",)]
    answers = await link.commands([*asked, ("HGET", *field)] if field else asked, atomic=True)
    found, (seconds, micros) = answers[0], answers[1]
    end = End(_head(found), found.get(b"rev", b"0"), int(seconds) * 1_000 + int(micros) // 1_000)
    return end, answers[2] if field else None


def _head(found: Mapping[bytes, bytes]) -> records.Head:
    if b"seq" not in found:
        return records.Head()
    with ours("audit chain"):
        return records.Head(int(found[b"seq"]), found[b"hash"], int(found[b"time"]))


def words(made: AuditRecord, end: End) -> tuple[str | bytes | int, ...]:
    """What the scripts want to know of a record: body, hash, time, and seq, revision and hash it was made for."""
    previous = end.head.hash if end.head.seq else b""
    return made.body, bytes.fromhex(made.hash), made.time_ms, end.head.seq, end.revision, previous


async def read(
    link: RedisLink,
    chains: Mapping[str, str],
    place: merge.Place | None,
    limit: int,
    newest: bool,
    span_ms: tuple[int, int],
    where: Mapping[str, str] | None,
) -> AuditPage:
    """A page over several chains.

    Args:
        chains: name -> key of its stream.
    """
    found: list[AuditRecord] = []
    looked = 0
    each = min(PAGE_ROWS, max(LEAST_ROWS, limit // max(1, len(chains)) + 1))
    command = "XREVRANGE" if newest else "XRANGE"
    while looked < SCAN_ROWS:
        spans = [(key, *merge.span(name, place, newest, *span_ms)) for name, key in chains.items()]
        answers = await link.commands([(command, *one, "COUNT", each) for one in spans])
        rows, more = merge.merged([[_record(row) for row in answer] for answer in answers], each, newest)
        for record in rows:
            place = merge.place_of(record)
            if records.matches(record, where):
                found.append(record)
            if len(found) == limit:
                return AuditPage(tuple(found), merge.to_cursor(place))
        looked += len(rows)
        if not more:
            return AuditPage(tuple(found), None)
    return AuditPage(tuple(found), merge.to_cursor(place) if place else None)


def _record(row: Any) -> AuditRecord:
    entry_id, fields = row
    try:
        return records.read_record(fields[b"b"], fields[b"h"])
    except (KeyError, ValueError) as error:
        raise StoreUnusable(
            f"audit record {entry_id.decode()} cannot be read; `store check` names the first one"
        ) from error


async def verify(link: RedisLink, chains: Mapping[str, tuple[str, str]]) -> Verified:
    """Each chain from its start to the end that was noted.

    Args:
        chains: name -> keys of its head and its stream.
    """
    total = 0
    heads: dict[str, str] = {}
    for name, (head_key, key) in chains.items():
        # The note first: what is written meanwhile lies behind it.
        noted = _head(await link.command("HGETALL", head_key))
        at, broken = await _walk(link, name, key, noted)
        total += at.seq
        if broken:
            return Verified(total, heads, broken)
        if at.seq:
            heads[name] = at.hash.hex()
    return Verified(total, heads, None)


async def _walk(link: RedisLink, name: str, key: str, noted: records.Head) -> tuple[records.Head, str | None]:
    at, start, reached = records.Head(), "-", noted.seq == 0
    while rows := await link.command("XRANGE", key, start, "+", "COUNT", PAGE_ROWS):
        for _, fields in rows:
            body, digest = fields.get(b"b", b""), fields.get(b"h", b"")
            if broken := records.wrong(at, name, body, digest):
                return at, broken
            at = records.Head(at.seq + 1, digest)
            reached = reached or (at.seq == noted.seq and at.hash == noted.hash)
        start = f"({rows[-1][0].decode()}"
    if not reached:
        place = records.name_of_record(name, at.seq + 1)
        return at, f"{place}: the chain should end at {noted.seq}, it ends at {at.seq}"
    return at, None
