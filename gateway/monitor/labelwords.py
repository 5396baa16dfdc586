"""What a label says: the positive class, the other one, or nothing. Pure.

Labels come as JSON values by feedback and as texts in the columns of files; both are read here, so that a model is
judged online by what its reference was made from. Numbers, truth values and texts that say the same are the same: 1,
1.0, true, "1", " 1.00" and "True". Blanks around a text do not count. What is empty or says that nothing is known is no
label at all. Every other text is the negative class, unless its owner says which word stands for it.
"""

import math
from typing import Final

TRUTHS: Final = {"true": 1.0, "yes": 1.0, "false": 0.0, "no": 0.0}
UNKNOWN: Final = frozenset({"", "nan", "na", "n/a", "<na>", "nat", "null", "none"})
"""As pandas, R, SQL and Python write what is missing; in any case of letters."""


def meaning(value: object) -> float | str | None:
    """What is compared of a label: a number, a text that is none, or None = it says nothing."""
    if value is None:
        return None
    if isinstance(value, float):
        return None if math.isnan(value) else value
    text = str(value).strip()
    word = text.lower()
    if word in UNKNOWN:
        return None
    try:
        number = TRUTHS[word] if word in TRUTHS else float(text)
    except ValueError:
        return text
    return number if math.isfinite(number) else text


def label_of(value: object, positive: str, negative: str = "") -> int | None:
    """1 = the positive class, 0 = the other one, None = not known.

    Args:
        positive, negative: may themselves be words for unknown; negative "" = whatever else is known.
    """
    if (found := _as_written(value, positive, negative)) is not None:
        return found
    said = meaning(value)
    if said is None or said == meaning(positive):
        return None if said is None else 1
    return 0 if not negative or said == meaning(negative) else None


def _as_written(value: object, positive: str, negative: str) -> int | None:
    """By the word itself, which may stand for unknown elsewhere."""
    word = value.strip() if isinstance(value, str) else None
    if word == positive.strip():
        return 1
    return 0 if negative and word == negative.strip() else None
