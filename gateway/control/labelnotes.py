"""Labels on their way to the monitor: what the ledger of feedback took, and what it had before, in the same step.

The store writes a note into the stream `labels/MODEL` exactly when the row it belongs to changes the ledger, so a label
that was kept is heard once, whatever became of the answer to its caller. No prediction id and no unit is in it.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from gateway.monitor.plan import LABEL_BINS
from gateway.predictions import MOST_GROUPS

NOBODY: Final = "-"
"""Variant of what no policy decided,"""
UNKNOWN: Final = ""
"""and of what was decided by a document that nobody knows any more."""


class LabelNote(msgspec.Struct, frozen=True, array_like=True):
    """One label.

    Attributes:
        digest: of the version, its first hexadecimal digits, as the prediction id has them.
        variant: name of the one that answered, or NOBODY, or UNKNOWN.
        predicted_s, observed_s: Unix times of the prediction and of the label.
        group, decision, score_bin: of the prediction; None = its id does not say.
        value: as the caller gave it.
    """

    digest: str
    variant: str
    predicted_s: float
    observed_s: float
    group: int | None
    decision: int | None
    score_bin: int | None
    value: Any


class _Replaced(msgspec.Struct, frozen=True):
    value: Any


def note_of(facts: Mapping[str, Any], variant: str, value: Any, now_s: float) -> bytes:
    """A note for the ledger's row. Args: facts: of the prediction id; variant: as of `LabelNote`."""
    observed_s = now_s if facts["at_s"] is None else facts["at_s"]
    place = facts["group"], facts["decision"], facts["score_bin"]
    return msgspec.json.encode(LabelNote(facts["digest"], variant, facts["time_s"], observed_s, *place, value))


def notes_in(entry: bytes) -> list[tuple[LabelNote, Any]]:
    """Notes of an entry, each with the value that was replaced; None = none was.

    Raises:
        msgspec.MsgspecError: it is none of ours.
        ValueError: no prediction id says so.
    """
    found = []
    for line in entry.split(b"\n"):
        note, _, before = line.partition(b"\t")
        value = msgspec.json.decode(before, type=_Replaced).value if before else None
        found.append((_possible(msgspec.json.decode(note, type=LabelNote)), value))
    return found


def _possible(note: LabelNote) -> LabelNote:
    bounds = ((note.decision, 2), (note.score_bin, LABEL_BINS), (note.group, MOST_GROUPS), (note.predicted_s, 1 << 32))
    if not all(value is None or 0 <= value < bound for value, bound in bounds):
        raise ValueError("no prediction of this decision, score, group or time")
    return note
