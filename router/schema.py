"""JSON schema of a document for editors, made from the types and their docstrings."""

from collections.abc import Iterator
from typing import Annotated, Any, get_args, get_origin

import msgspec

from router.document import Section
from router.policy import TrafficPolicy


def schema(document: type[Section] = TrafficPolicy) -> dict[str, Any]:
    """JSON schema (2020-12) of a kind of document: every field with its description and default.

    What holds between fields only the document's `parse` knows.
    """
    found: dict[str, Any] = msgspec.json.schema(document)
    for kind in sections(document):
        described = found["$defs"][kind.__name__]
        described["description"] = (kind.__doc__ or "").partition("\n")[0]
        texts = descriptions(kind)
        for field in msgspec.structs.fields(kind):
            place = described["properties"][field.encode_name]
            written = _written(field.type)
            if written:
                place = written
            elif isinstance(place.get("default"), dict | list):
                # Defaults of whole sections are in slots and milliseconds, which is not how they are written.
                place = {key: item for key, item in place.items() if key != "default"}
            if items := _written_items(field.type):
                place = place | {"items": items}
            described["properties"][field.encode_name] = place | {"description": texts[field.encode_name]}
    # Defaults may be tuples; a schema is plain JSON.
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(found | {"title": document.__name__}))
    return plain


def sections(document: type[Section] = TrafficPolicy) -> list[type[Section]]:
    """Every struct that a document is made of."""
    found: list[type[Section]] = []
    waiting: list[type[Section]] = [document]
    while waiting:
        kind = waiting.pop()
        if kind not in found:
            found.append(kind)
            for field in msgspec.structs.fields(kind):
                waiting += _inner(field.type)
    return found


def _inner(kind: Any) -> Iterator[type[Section]]:
    if isinstance(kind, type) and issubclass(kind, Section):
        yield kind
    for part in get_args(kind):
        yield from _inner(part)


def _written(kind: Any) -> dict[str, Any]:
    """How a field with a reader is written; {} = as its type says."""
    for part in get_args(kind):
        if isinstance(part, msgspec.Meta) and part.extra is not None:
            return dict(part.extra["schema"])
        if get_origin(part) is Annotated and _written(part):
            return _written(part)
    return {}


def _written_items(kind: Any) -> dict[str, Any]:
    """The same of what a list holds."""
    return next((_written(part) for part in get_args(kind) if get_origin(part) is tuple), {})


def descriptions(kind: type[Section]) -> dict[str, str]:
    """Field as written -> the sentence in the docstring of its class or a base."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if issubclass(base, Section):
            found |= _attributes(base.__doc__ or "")
    return found


def _attributes(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    name = ""
    for line in text.partition("Attributes:\n")[2].splitlines():
        if line.startswith("            "):
            found[name] += " " + line.strip()
        elif line.startswith("        "):
            name, _, sentence = line.strip().partition(": ")
            found[name] = sentence
    return found
