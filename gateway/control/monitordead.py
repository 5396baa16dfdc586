"""Entries of a monitor's streams that nobody can read: counted by reason, and the last ones kept to be looked at. Pure.

Who writes into a stream may be of another release, or nobody we know. What it wrote counts nothing and ends nothing.
"""

from collections import Counter
from collections.abc import Mapping
from itertools import product
from typing import Any, Final, Literal, get_args

import msgspec

from gateway.store.base import StreamEntry

UNREADABLE: Final = (msgspec.MsgspecError, ValueError, TypeError, OverflowError, RecursionError)
"""What reading somebody else's entry may raise."""
LISTED: Final = 20
SHOWN_BYTES: Final = 64
Stream = Literal["drift", "labels"]
Reason = Literal["bytes", "schema", "counts"]
KINDS: Final = tuple(product(get_args(Stream), get_args(Reason)))


class DeadLetter(msgspec.Struct, frozen=True):
    """One entry.

    Attributes:
        id: in its stream, as the store numbers them.
        node: that is said to have written it.
        why: for people.
        begins: its first bytes in hexadecimal digits; "" of labels, which may hold what callers know of people.
    """

    at_ms: int
    stream: Stream
    id: int
    node: str
    reason: Reason
    why: str
    size: int
    begins: str


class DeadLetters:
    """Of one model.

    Attributes:
        counts: (stream, reason) -> entries.
        last: the newest, oldest first.
    """

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self.last: list[DeadLetter] = []

    def bury(self, stream: Stream, entry: StreamEntry, error: Exception, now_ms: int) -> DeadLetter:
        """Count an entry, and keep what tells where it came from."""
        begins = entry.body[:SHOWN_BYTES].hex() if stream == "drift" else ""
        why = str(error)[:200] or type(error).__name__
        letter = DeadLetter(
            now_ms, stream, entry.id, entry.replica[:128], reason_of(error), why, len(entry.body), begins
        )
        self.counts[stream, letter.reason] += 1
        self.last = [*self.last, letter][-LISTED:]
        return letter

    def plain(self) -> dict[str, Any]:
        """As it is saved, and shown."""
        counts = [{"stream": stream, "reason": reason, "count": n} for (stream, reason), n in self.counts.items()]
        return {"counts": counts, "last": msgspec.to_builtins(self.last)}


def dead_letters_of(plain: Mapping[str, Any]) -> DeadLetters:
    """What `plain` was made of."""
    found = DeadLetters()
    found.counts.update({(one["stream"], one["reason"]): one["count"] for one in plain["counts"]})
    found.last = msgspec.convert(plain["last"], list[DeadLetter])
    return found


def reason_of(error: Exception) -> Reason:
    """bytes = not in our encoding, schema = in it and none of our entries, counts = ours, and impossible."""
    if isinstance(error, msgspec.ValidationError | TypeError):
        return "schema"
    if isinstance(error, msgspec.MsgspecError | UnicodeError | RecursionError):
        return "bytes"
    return "counts"
