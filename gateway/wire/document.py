"""Bytes to a JSON document, strictly: the parser of the reference decoder. Pure.

The standard library's parser, because it reads what others do not: bare NaN and Infinity, which Triton's client
sends, integers of any size exactly, and pairs before they become a dictionary, so that a duplicate key is seen.
"""

import json
import re
from typing import Any, Final

from gateway.wire.request import Limits, shown
from runtimes.errors import InvalidInput

_STRINGS: Final = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\Z)', re.DOTALL)
_BRACKETS: Final = re.compile(rb"[\[\]{}]")


def parse(text: bytes, limits: Limits) -> dict[str, Any]:
    """Read one JSON object.

    Raises:
        InvalidInput: not UTF-8, not JSON, not an object, a duplicate key, or nested too deep or too much.
    """
    _check_structure(text, limits)
    document = _decode(text, _PLAIN)
    if not isinstance(document, dict):
        raise InvalidInput(f"the body must be a JSON object, got {shown(document)}")
    return document


def check_no_overflow(text: bytes, name: str) -> None:
    """Raises InvalidInput, naming the input, when a literal such as 1e999 is no number; a bare Infinity is one."""
    try:
        _decode(text, _FINITE)
    except InvalidInput as error:
        raise InvalidInput(f"input {name!r}: {error.message}") from error


def _decode(text: bytes, decoder: json.JSONDecoder) -> Any:
    if not text.strip(b" \t\r\n"):
        raise InvalidInput("the body is empty: a JSON object is expected")
    try:
        return decoder.decode(text.decode())
    except UnicodeDecodeError as error:
        raise InvalidInput(f"the body is not UTF-8 (byte {error.start})") from error
    except json.JSONDecodeError as error:
        raise InvalidInput(f"the body is not valid JSON: {error.msg} (character {error.pos})") from error
    except RecursionError as error:
        raise InvalidInput("the body is nested too deep") from error
    except ValueError as error:
        # Python reads no integer of more than 4300 digits.
        raise InvalidInput("the body holds a number of too many digits") from error


def _check_structure(text: bytes, limits: Limits) -> None:
    """Depth and number of containers, before any of them is made."""
    containers = text.count(b"[") + text.count(b"{")
    if containers <= limits.json_depth:
        return
    bare = _STRINGS.sub(b"", text) if b'"' in text else text
    containers = bare.count(b"[") + bare.count(b"{")
    if containers > limits.json_containers:
        raise InvalidInput(f"{containers} lists and objects, at most {limits.json_containers} are read")
    depth = 0
    for match in _BRACKETS.finditer(bare):
        depth += 1 if match.group() in (b"[", b"{") else -1
        if depth > limits.json_depth:
            raise InvalidInput(f"the body is nested deeper than {limits.json_depth} levels")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise InvalidInput(f"key {shown(twice)} stands twice")
    return found


def _finite(literal: str) -> float:
    value = float(literal)
    if value in (float("inf"), float("-inf")):
        raise InvalidInput(f"number {literal[:40]} is too large")
    return value


_PLAIN: Final = json.JSONDecoder(object_pairs_hook=_unique)
_FINITE: Final = json.JSONDecoder(object_pairs_hook=_unique, parse_float=_finite)
