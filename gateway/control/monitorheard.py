"""What nodes tell each other through streams, and what of it is new. What cannot be read is passed over."""

import logging
from collections.abc import Mapping
from typing import Final

import msgspec

from gateway.control.monitorheld import Held
from gateway.control.monitorinputs import Answers, Series, Totals, joined
from gateway.monitor.counting import Counts
from gateway.monitor.plan import ROWS, SKIPPED

UNREADABLE: Final = (msgspec.MsgspecError, ValueError, TypeError, OverflowError)
"""What reading somebody else's entry may raise."""
RUNS: Final = 8
"""Starts of a node before its last one that are known to be over."""
_log: Final = logging.getLogger(__name__)


def hear(
    name: str,
    held: Held,
    body: bytes,
    vectors: dict[tuple[str, str, Series], Counts],
    answers: dict[tuple[str, str, str, str], list[int]],
) -> None:
    """Add one entry of another node to what is to be taken. Raises UNREADABLE."""
    one = _decoded(body)
    if isinstance(one, Answers):
        answers[one.node, one.run, one.version, one.variant] = one.buckets
        return
    key = (one.node, one.run, Series(name, one.version, one.variant, one.plan))
    parts = [*held.parts.pop(key, []), one] if one.part else [one]
    if len(parts) < one.parts:
        held.parts[key] = parts
    else:
        vectors[key] = joined(parts)


def taken(held: Held, vectors: Mapping[tuple[str, str, Series], Counts], here: str) -> list[tuple[str, str, Counts]]:
    """What totals add to those that were seen: (version, variant, delta), each row once however they come.

    Totals of one start of a node only grow, so the one with more rows is the newer: what comes again, or late, adds
    nothing. Once a node has told of another start, the one before is over.

    Args:
        here: this node, which tells its totals each second whether they have grown or not.
    """
    found = []
    for key, counts in vectors.items():
        node, run, series = key
        watching = held.monitor.versions.get(series.version)
        if watching is None or watching.reference.id != series.plan or len(counts) != watching.reference.plan.size:
            continue
        seen = held.seen.get(key)
        if run in held.over.get(node, ()) or (seen is not None and _told(counts) <= _told(seen)):
            held.duplicated += node != here
            continue
        if seen is None:
            _begun(held, node, run)
        delta = counts if seen is None else counts - seen
        if delta.any():
            held.seen[key] = counts
            found.append((series.version, series.variant, delta))
    return found


def _told(counts: Counts) -> int:
    return int(counts[ROWS] + counts[SKIPPED])


def _begun(held: Held, node: str, run: str) -> None:
    """A node that was started anew counts from nothing."""
    before = {key[1] for key in held.seen if key[0] == node and key[1] != run}
    if before:
        held.over[node] = [*held.over.get(node, ()), *sorted(before)][-RUNS:]
        held.seen = {key: value for key, value in held.seen.items() if key[0] != node or key[1] == run}
        held.answers = {key: value for key, value in held.answers.items() if key[0] != node or key[1] == run}


def unreadable(held: Held, name: str, stream: str, node: str, error: Exception) -> None:
    """An entry that cannot be read is passed over: a node of another release must not end this one's control."""
    held.missed += 1
    facts = {"model": name, "stream": stream, "node": node, "reason": str(error)[:200] or type(error).__name__}
    _log.error("monitor_entry_unreadable", extra={"facts": facts})


def _decoded(body: bytes) -> Totals | Answers:
    """An entry of the stream: an array of ten is Totals, of five Answers."""
    found = msgspec.msgpack.decode(body)
    if len(found) == len(Answers.__struct_fields__):
        return msgspec.convert(found, Answers)
    return msgspec.convert(found, Totals)
