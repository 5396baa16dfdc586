"""Entries of the streams that nodes tell each other their counts and labels by. What cannot be read is passed over."""

import logging
from typing import Final

import msgspec

from gateway.control.monitorheld import Held
from gateway.control.monitorinputs import Answers, Series, Totals, joined
from gateway.monitor.counting import Counts

UNREADABLE: Final = (msgspec.MsgspecError, ValueError, TypeError, OverflowError)
"""What reading somebody else's entry may raise."""
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
