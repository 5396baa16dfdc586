"""What a label says: the positive class, the other one, or nothing. Pure.

Labels come as JSON values by feedback and as texts in the columns of files; both are read here, so that a model is
judged online by what its reference was made from. Numbers, truth values and texts that say the same are the same: 1,
1.0, true, "1", " 1.00" and "True". Blanks around a text do not count. What is empty or says that nothing is known is no
label at all. Every other text is the negative class: which words stand for it is the owner's affair.
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


def label_of(value: object, positive: str) -> int | None:
    """1 = the positive class, 0 = the other one, None = not known. Args: positive: may itself be a word for unknown."""
    if isinstance(value, str) and value.strip() == positive.strip():
        return 1
    said = meaning(value)
    return None if said is None else int(said == meaning(positive))
