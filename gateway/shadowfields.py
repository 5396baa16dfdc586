"""Layout of a shadow's counts: written by `gateway.shadow` in workers, read by control, which executes nothing."""

from collections.abc import Sequence
from typing import Final

SHIFT_BINS: Final = 21
"""Of the score's shift: from -1 to 1 in steps of 0.1, clipped; the middle one is no shift."""
MICRO: Final = 1_000_000
CLASSES: Final = 4
"""Of the matrix of classes: 0, 1, 2, and all others together."""
FIELDS: Final = (
    "compared", "disagreed", "failed", "dropped", "rows", "argmax", "tolerance", "topk", "shift_micro",
    "shift_squared_micro", *(f"shift_{i}" for i in range(SHIFT_BINS)),
    *(f"class_{a}_{b}" for a in range(CLASSES) for b in range(CLASSES)),
)  # fmt: skip
"""Requests compared, and of those that disagreed; that failed in the shadow; that were not tried. Then rows: compared,
of another argmax, outside the tolerance, of another top k; sums of the score's shift and its square in millionths; its
histogram; rows by the class that was answered and the shadow's."""
COMPARED, DISAGREED, FAILED, DROPPED, ROWS, ARGMAX, TOLERANCE, TOPK, SHIFT, SHIFT_SQUARED, SHIFTS = range(11)
MATRIX: Final = SHIFTS + SHIFT_BINS


def whole(counts: Sequence[int]) -> list[int]:
    """Counts that an earlier build kept have fewer fields."""
    return [*counts, *[0] * (len(FIELDS) - len(counts))]


def pairs(counts: Sequence[int]) -> tuple[int, int]:
    """Requests that a shadow was asked, and those that it answered otherwise. A failed copy is another answer: what was
    copied had been answered."""
    return counts[COMPARED] + counts[FAILED], counts[DISAGREED] + counts[FAILED]
