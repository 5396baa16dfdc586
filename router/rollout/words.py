"""Numbers and times as a release manager reads them. Pure."""

from collections.abc import Iterable
from typing import Final

_UNITS: Final = ((86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1_000, "s"))


def duration(ms: int) -> str:
    """`90 s` is `1.5 min`: the largest unit that is reached, one digit behind the point where it says something."""
    for unit_ms, unit in _UNITS:
        if ms >= unit_ms:
            return f"{ms / unit_ms:.1f}".removesuffix(".0") + f" {unit}"
    return f"{ms} ms"


def share(slots: int) -> str:
    """Slots of 10,000 in percent."""
    return f"{slots / 100:g} %"


def listed(names: Iterable[str], most: int = 5) -> str:
    """Names in a row, the first `most` of them."""
    every = list(names)
    rest = f" and {len(every) - most} more" if len(every) > most else ""
    return ", ".join(every[:most]) + rest
