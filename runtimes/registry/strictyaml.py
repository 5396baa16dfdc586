"""YAML as people mean it: the types of the YAML 1.2 core schema, and nothing that surprises.

PyYAML resolves YAML 1.1, where NO is false, 1.10 is 1.1 and 012 is ten. Here its parser only gives events; the types
are resolved from the core schema (https://yaml.org/spec/1.2.2/#103-core-schema). Anchors, aliases and tags are
refused, because a few bytes of them can make a huge or a foreign object; duplicate keys, because one would silently
win. A mapping's keys are always text.
"""

import difflib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import msgspec
import yaml

MAX_DOCUMENT_BYTES: Final = 1024 * 1024
_MAX_DEPTH: Final = 32

_NULL: Final = frozenset({"", "~", "null", "Null", "NULL"})
_BOOL: Final = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT: Final = re.compile(r"[-+]?[0-9]{1,4000}\Z")
_BASED: Final = re.compile(r"0o[0-7]{1,64}\Z|0x[0-9a-fA-F]{1,64}\Z")
_FLOAT: Final = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z")
_INF_NAN: Final = re.compile(r"[-+]?\.(inf|Inf|INF)\Z|\.(nan|NaN|NAN)\Z")

_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml when PyYAML was built with it: 1 MiB in a tenth of the time."""

T = TypeVar("T")


class DocumentError(ValueError):
    """A document that cannot be used as written.

    Attributes:
        what: name of the document, for people.
        line: counted from 1; None when no single line is at fault.
        path: keys down to the place, e.g. "batching.max_batch_size"; "" for the document itself.
    """

    def __init__(self, message: str, *, what: str, line: int | None = None, path: str = "") -> None:
        place = what if line is None else f"{what}, line {line}"
        super().__init__(f"{place}: {path}: {message}" if path else f"{place}: {message}")
        self.what = what
        self.line = line
        self.path = path


@dataclass(frozen=True, slots=True)
class Scalar:
    """A value as written (`text`) and as the core schema reads it (`value`)."""

    value: str | int | float | bool | None
    text: str
    line: int


@dataclass(frozen=True, slots=True)
class Sequence:
    """Items in order."""

    items: tuple["Node", ...]
    line: int


@dataclass(frozen=True, slots=True)
class Mapping:
    """Entries in order; `lines` tells where each key stands."""

    entries: dict[str, "Node"]
    lines: dict[str, int]
    line: int


Node = Scalar | Sequence | Mapping


def load(text: str, what: str) -> object:
    """Read one YAML document into dicts, lists, str, int, float, bool and None; None when it is empty.

    Args:
        what: how messages call the document, e.g. "model.yaml".

    Raises:
        DocumentError: with the line.
    """
    return plain(parse(text, what))


def decode(text: str, what: str, kind: type[T]) -> T:
    """Read one YAML document into a msgspec type, an empty one as an empty mapping.

    Where the type wants text a number stays as it was written: `1.10` is "1.10".

    Raises:
        DocumentError: also for an unknown key, with the nearest known one, and for a value that does not fit.
    """
    return convert(parse(text, what), what, kind)


def convert(node: Node, what: str, kind: type[T]) -> T:
    """Fit a parsed document to a msgspec type; see `decode`."""
    if isinstance(node, Scalar) and node.value is None:
        node = Mapping({}, {}, node.line)
    data = _fitted(node, msgspec.inspect.type_info(kind), what, "")
    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        message, _, place = str(error).partition(" - at `")
        message = message.replace("`object`", "a mapping").replace("`array`", "a list")
        path = place.rstrip("`").removeprefix("$").removeprefix(".")
        raise DocumentError(message, what=what, line=line_of(node, path), path=path) from error


def suggestion(key: str, known: Iterable[str]) -> str:
    """A sentence on what an unknown key may have meant: the nearest known one, else all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(key, names, n=1)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"known here: {', '.join(names)}" if names else "nothing is known here"


def parse(text: str, what: str) -> Node:
    """Read one YAML document into nodes that remember their lines.

    Raises:
        DocumentError
    """
    if len(text.encode("utf-8", "surrogatepass")) > MAX_DOCUMENT_BYTES:
        raise DocumentError(f"longer than {MAX_DOCUMENT_BYTES} bytes", what=what)
    try:
        events = yaml.parse(text, Loader=_LOADER)
        return _Builder(events, what).document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = None if mark is None else mark.line + 1
        raise DocumentError(error.problem or "not YAML", what=what, line=line) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise DocumentError("a character that YAML does not allow", what=what, line=line) from error


class _Builder:
    """Events to nodes. It sees what a composed document no longer shows: anchors, aliases and tags."""

    def __init__(self, events: Iterator[Any], what: str) -> None:
        self._events = events
        self._what = what

    def document(self) -> Node:
        next(self._events)  # stream start
        event = next(self._events)
        if isinstance(event, yaml.StreamEndEvent):
            return Scalar(None, "", 1)
        node = self._node(next(self._events), 0)
        next(self._events)  # document end
        event = next(self._events)
        if not isinstance(event, yaml.StreamEndEvent):
            raise self._error("a second document; one is expected", event)
        return node

    def _node(self, event: Any, depth: int) -> Node:
        self._refuse_magic(event)
        if depth > _MAX_DEPTH:
            raise self._error(f"nested deeper than {_MAX_DEPTH} levels", event)
        line = event.start_mark.line + 1
        if isinstance(event, yaml.ScalarEvent):
            return Scalar(self._value(event), event.value, line)
        if isinstance(event, yaml.SequenceStartEvent):
            items = []
            while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
                items.append(self._node(event, depth + 1))
            return Sequence(tuple(items), line)
        return self._mapping(line, depth)

    def _mapping(self, line: int, depth: int) -> Mapping:
        entries: dict[str, Node] = {}
        lines: dict[str, int] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key = self._node(event, depth + 1)
            if not isinstance(key, Scalar) or key.value is None:
                raise self._error("a key must be text", event)
            if key.text in entries:
                before = lines[key.text]
                raise self._error(f"key {key.text[:80]!r} stands twice, first on line {before}", event)
            lines[key.text] = key.line
            entries[key.text] = self._node(next(self._events), depth + 1)
        return Mapping(entries, lines, line)

    def _refuse_magic(self, event: Any) -> None:
        if isinstance(event, yaml.AliasEvent):
            raise self._error(f"aliases (*{str(event.anchor)[:80]}) are not allowed; write the value out", event)
        if event.anchor is not None:
            raise self._error(f"anchors (&{event.anchor[:80]}) are not allowed", event)
        if event.tag is not None:
            raise self._error(f"tags ({event.tag[:80]}) are not allowed", event)

    def _value(self, event: Any) -> str | int | float | bool | None:
        text: str = event.value
        # A quoted or block scalar is text, whatever it looks like.
        if not event.implicit[0]:
            return text
        if text in _NULL:
            return None
        if text in _BOOL:
            return _BOOL[text]
        if _INT.match(text):
            return int(text)
        if _BASED.match(text):
            return int(text, 0)
        if _FLOAT.match(text):
            return float(text)
        if _INF_NAN.match(text):
            return float(text.replace(".", ""))
        return text

    def _error(self, message: str, event: Any) -> DocumentError:
        return DocumentError(message, what=self._what, line=event.start_mark.line + 1)


def plain(node: Node) -> Any:
    """Nodes as dicts, lists, str, int, float, bool and None."""
    if isinstance(node, Scalar):
        return node.value
    if isinstance(node, Sequence):
        return [plain(item) for item in node.items]
    return {key: plain(value) for key, value in node.entries.items()}


def _fitted(node: Node, kind: msgspec.inspect.Type, what: str, path: str) -> Any:
    """Plain data with numbers left as text where `kind` wants text, after a check of the keys."""
    kind = _bare(kind, node)
    if isinstance(node, Scalar):
        wants_text = isinstance(kind, msgspec.inspect.StrType | msgspec.inspect.LiteralType)
        is_number = isinstance(node.value, int | float) and not isinstance(node.value, bool)
        return node.text if wants_text and is_number else node.value
    if isinstance(node, Sequence):
        item = getattr(kind, "item_type", msgspec.inspect.AnyType())
        return [_fitted(child, item, what, f"{path}[{i}]") for i, child in enumerate(node.items)]
    if isinstance(kind, msgspec.inspect.StructType):
        fields = {field.encode_name: field.type for field in kind.fields}
        for key in node.entries:
            if key not in fields:
                message = f"unknown key {key[:80]!r}; {suggestion(key, fields)}"
                raise DocumentError(message, what=what, line=node.lines[key], path=path)
        return {key: _fitted(child, fields[key], what, _join(path, key)) for key, child in node.entries.items()}
    item = getattr(kind, "value_type", msgspec.inspect.AnyType())
    return {key: _fitted(child, item, what, _join(path, key)) for key, child in node.entries.items()}


def _bare(kind: msgspec.inspect.Type, node: Node) -> msgspec.inspect.Type:
    """The member of a union that a node can only mean: its struct or mapping for a mapping, and so on.

    A number stays a number as soon as any member takes numbers.
    """
    while isinstance(kind, msgspec.inspect.Metadata):
        kind = kind.type
    if not isinstance(kind, msgspec.inspect.UnionType):
        return kind
    members = [_bare(member, node) for member in kind.types]
    fitting = [member for member in members if _could_be(member, node)]
    fitting += [member for member in members if isinstance(member, msgspec.inspect.StrType)]
    return fitting[0] if fitting else msgspec.inspect.AnyType()


def _could_be(kind: msgspec.inspect.Type, node: Node) -> bool:
    if isinstance(node, Mapping):
        return isinstance(kind, msgspec.inspect.StructType | msgspec.inspect.DictType)
    if isinstance(node, Sequence):
        return hasattr(kind, "item_type")
    if isinstance(node.value, int | float):
        return isinstance(kind, msgspec.inspect.IntType | msgspec.inspect.FloatType)
    return False


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def line_of(node: Node, path: str) -> int:
    """Line of the deepest node that a path such as `a.b[2]` leads to."""
    line = node.line
    for step in re.findall(r"\[(\d+|\.\.\.)\]|([^.\[\]]+)", path):
        index, key = step
        if isinstance(node, Mapping) and key in node.entries:
            line, node = node.lines[key], node.entries[key]
        elif isinstance(node, Sequence) and index and index.isdigit():
            node = node.items[int(index)]
            line = node.line
        else:
            break
    return line
