"""One thing that was recorded, held against what it is. Pure."""

import math
from collections.abc import Iterator
from typing import Any, Final

from msgspec import Struct

CLOSE: Final = 1e-6


class Check(Struct, frozen=True):
    """One number or fact: as it was recorded, and as it is."""

    what: str
    recorded: Any
    recomputed: Any
    ok: bool


def same(what: str, recorded: object, recomputed: object, close: float = CLOSE) -> Check:
    """Whether they agree. Args: close: of numbers, so far apart at most; 0 = they are equal."""
    if close and _is_number(recorded) and _is_number(recomputed):
        ok = math.isclose(recorded, recomputed, rel_tol=close, abs_tol=close)  # type: ignore[arg-type]
    else:
        ok = recorded == recomputed
    return Check(what, recorded, recomputed, ok)


def alike(what: str, recorded: Any, recomputed: Any, close: float) -> Iterator[Check]:
    """The same of values with others in them: one check if all agree, else one for each that does not."""
    if not isinstance(recorded, dict | list) or type(recorded) is not type(recomputed):
        yield same(what, recorded, recomputed, close)
        return
    parts = list(_leaves(recorded, recomputed))
    wrong = [one for one in (same(f"{what}{at}", one, other, close) for at, one, other in parts) if not one.ok]
    if wrong:
        yield from wrong
    else:
        yield Check(what, f"{len(parts)} values", f"{len(parts)} values", True)


def _leaves(recorded: Any, recomputed: Any, at: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Where, and the two values there. What one side lacks is None."""
    if isinstance(recorded, dict) and isinstance(recomputed, dict):
        for name in dict.fromkeys((*recorded, *recomputed)):
            yield from _leaves(recorded.get(name), recomputed.get(name), f"{at}, {name}")
    elif isinstance(recorded, list) and isinstance(recomputed, list) and len(recorded) == len(recomputed):
        for place, pair in enumerate(zip(recorded, recomputed, strict=True)):
            yield from _leaves(*pair, f"{at}, {place}")
    else:
        yield at, recorded, recomputed


def _is_number(value: object) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool)
