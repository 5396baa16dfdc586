"""What every process of evidence checks of its arguments and of a stored state. Pure."""

import math
from collections.abc import Mapping, Set
from typing import Any


def check_open(value: float, name: str, top: float = math.inf) -> None:
    """Refuse what is not strictly between 0 and `top`.

    Raises:
        ValueError: so.
    """
    if not 0.0 < value < top:
        raise ValueError(f"{name}: expected a number between 0 and {top:g}, both excluded, got {value}")


def fields(value: Any, names: Set[str]) -> Mapping[str, Any]:
    """A stored state with exactly these fields.

    Raises:
        ValueError: it is something else.
    """
    if not isinstance(value, Mapping) or set(value) != names:
        got = sorted(value) if isinstance(value, Mapping) else repr(value)
        raise ValueError(f"state: expected the fields {sorted(names)}, got {got}")
    return value


def number(state: Mapping[str, Any], name: str) -> float:
    """A finite number of a stored state.

    Raises:
        ValueError: it is missing or something else.
    """
    value = state.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"state: {name}: expected a finite number, got {value!r}")
    return float(value)


def count(state: Mapping[str, Any], name: str) -> int:
    """A whole number of at least 0 of a stored state.

    Raises:
        ValueError: it is missing or something else.
    """
    value = state.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"state: {name}: expected a count, got {value!r}")
    return value


def numbers(state: Mapping[str, Any], name: str, length: int) -> list[float]:
    """A list of so many finite numbers (0 = any but none) of a stored state.

    Raises:
        ValueError: it is missing or something else.
    """
    values = state.get(name)
    if not isinstance(values, list) or not values or (length and len(values) != length):
        raise ValueError(f"state: {name}: expected a list of {length or 'some'} numbers, got {values!r}")
    return [number({name: value}, name) for value in values]
