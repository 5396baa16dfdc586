"""From plain values (dicts, lists, scalars) to frozen structs, with every problem found at once.

msgspec stops at the first problem; a person who edits a policy wants them all. So the walk over structs, lists and
mappings is ours, and msgspec judges the leaves. A field may name a reader for what people write (`5m`, `0.5%`):
`Annotated[int, reads("duration")]`.
"""

import functools
import math
import operator
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Annotated, Any, Final, Literal, TypeVar, Union, get_args, get_origin

import msgspec
from msgspec import Meta, Struct

from router import quantities
from router.quantities import shown

MAX_PROBLEMS: Final = 50
_PERCENT: Final = r"^[0-9]+(\.[0-9]+)? ?%$"
_READERS: Final[dict[str, tuple[Callable[[object], object], dict[str, Any]]]] = {
    "slots": (quantities.read_slots, {"type": ["integer", "string"], "pattern": _PERCENT}),
    "percent": (quantities.read_percent, {"type": ["number", "string"], "pattern": _PERCENT}),
    "split": (
        quantities.read_split,
        {"type": "object", "additionalProperties": {"type": ["integer", "string"], "pattern": _PERCENT}},
    ),
    "duration": (quantities.read_duration, {"type": "string", "pattern": "^[0-9]+(ms|s|m|h|d)$"}),
    "model": (quantities.read_model, {"type": "string"}),
    "name": (quantities.read_name, {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"}),
    "model name": (quantities.read_model_name, {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"}),
    "approver": (
        quantities.read_approver,
        {"type": "string", "pattern": "^((key|label|group):)?[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"},
    ),
    "header": (quantities.read_header, {"type": "string"}),
    "method": (quantities.read_method, {"enum": ["asympcs"]}),
}
"""Name -> (how it is read, how JSON schema says what may be written)."""


def written(name: str) -> str:
    """The name in a document of a field: units are in what is written, so the name goes without; then camel case."""
    first, *rest = name.removesuffix("_ms").removesuffix("_slots").strip("_").split("_")
    return first + "".join(word.capitalize() for word in rest)


class Section(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename=written):
    """Base of everything in a document."""

    def check(self) -> Iterator[tuple[str, str]]:
        """What is wrong between its own fields: (path below it, message)."""
        return iter(())


S = TypeVar("S", bound=Section)


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong in a document.

    Attributes:
        path: from the document's root, e.g. `spec.rules[2].match`; "" = the document itself.
    """

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class PolicyError(ValueError):
    """A document that cannot be used as written.

    Attributes:
        problems: all that were found, in the order of the document; at most 50.
        path, message: of the first.
    """

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = tuple(problems[:MAX_PROBLEMS])
        self.path, self.message = problems[0].path, problems[0].message
        super().__init__("\n".join(str(problem) for problem in self.problems))


def reads(reader: str) -> Meta:
    """The annotation of a field whose written form a reader turns into its value."""
    return Meta(extra={"reads": reader, "schema": _READERS[reader][1]})


def join(path: str, key: str) -> str:
    """The path of a key in a mapping at `path`."""
    return f"{path}.{key}" if path else key


class Reading:
    """One walk over a document, with its list of problems.

    Args:
        refusals: path pattern -> why a key that is not known there is refused, for features people may look for.
    """

    def __init__(self, refusals: Mapping[str, str]) -> None:
        self.problems: list[Problem] = []
        self._refusals = refusals

    def problem(self, path: str, message: str) -> None:
        """Note a problem; those beyond the bound are dropped."""
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(Problem(path[:256], message))

    def struct(self, value: object, kind: type[S], path: str) -> S | None:
        """A value as a struct; None when something in it was wrong, which is then noted."""
        if not isinstance(value, dict):
            self.problem(path, f"expected a mapping, got {shown(value)}")
            return None
        known = {field.encode_name: field for field in msgspec.structs.fields(kind)}
        before = len(self.problems)
        self._unknown_keys(value, known, path)
        given: dict[str, Any] = {}
        for name, field in known.items():
            if name in value:
                given[field.name] = self.value(value[name], field.type, join(path, name))
            elif field.required:
                self.problem(join(path, name), "is missing")
        if len(self.problems) > before:
            return None
        section = kind(**given)
        for below, message in section.check():
            self.problem(join(path, below) if below else path, message)
        return section

    def _unknown_keys(self, value: dict[Any, Any], known: Mapping[str, object], path: str) -> None:
        for key in value:
            if key in known:
                continue
            text = repr(str(key)[:64])[1:-1]
            why = self._refusals.get(text)
            if why is None:
                near = get_close_matches(text, list(known), n=1)
                more = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(known)}"
                why = f"unknown field; {more}"
            self.problem(join(path, text), why)

    def value(self, value: object, kind: Any, path: str) -> Any:
        """A value as any annotated type that policies are made of; None when it was wrong, which is then noted."""
        metas: tuple[Any, ...] = ()
        if get_origin(kind) is Annotated:
            kind, *rest = get_args(kind)
            metas = tuple(rest)
        origin = get_origin(kind)
        if origin in (Union, types.UnionType) and type(None) in get_args(kind):
            if value is None:
                return None
            inner = [one for one in get_args(kind) if one is not type(None)]
            return self.value(value, _annotated(functools.reduce(operator.or_, inner), metas), path)
        if any(meta.extra for meta in metas):
            return self._leaf(value, kind, metas, path)
        if isinstance(kind, type) and issubclass(kind, Section):
            return self.struct(value, kind, path)
        if origin is tuple:
            return self._items(value, get_args(kind)[0], metas, path)
        if origin is dict:
            return self._entries(value, get_args(kind)[1], metas, path)
        return self._leaf(value, kind, metas, path)

    def _items(self, value: object, kind: Any, metas: tuple[Any, ...], path: str) -> Any:
        if not isinstance(value, list):
            self.problem(path, f"expected a list, got {shown(value)}")
            return None
        if not self._fits(len(value), metas, path):
            return None
        return tuple(self.value(item, kind, f"{path}[{at}]") for at, item in enumerate(value))

    def _entries(self, value: object, kind: Any, metas: tuple[Any, ...], path: str) -> Any:
        if not isinstance(value, dict):
            self.problem(path, f"expected a mapping, got {shown(value)}")
            return None
        if not self._fits(len(value), metas, path):
            return None
        found = {}
        for key, item in value.items():
            if isinstance(key, str) and 0 < len(key) <= 128 and quantities.is_text(key):
                found[key] = self.value(item, kind, join(path, key))
            else:
                self.problem(path, f"expected keys of 1 to 128 characters, got {shown(key)}")
        return found

    def _fits(self, size: int, metas: tuple[Any, ...], path: str) -> bool:
        for meta in metas:
            low, high = meta.min_length or 0, meta.max_length
            if size < low or (high is not None and size > high):
                self.problem(path, f"expected {low} to {high} entries, got {size:,}")
                return False
        return True

    def _leaf(self, value: object, kind: Any, metas: tuple[Any, ...], path: str) -> Any:
        try:
            quantities.check_text(value)
            for meta in metas:
                if meta.extra and "reads" in meta.extra:
                    return _READERS[meta.extra["reads"]][0](value)
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"expected a finite number, got {value}")
            return _plain_leaf(value, kind, metas)
        except ValueError as error:
            self.problem(path, str(error))
            return None


def _annotated(kind: Any, metas: tuple[Any, ...]) -> Any:
    for meta in metas:
        kind = Annotated[kind, meta]
    return kind


def _plain_leaf(value: object, kind: Any, metas: tuple[Any, ...]) -> Any:
    """A scalar by msgspec's strict rules, in our words. Raises ValueError."""
    if get_origin(kind) is Literal and value not in get_args(kind):
        names = [str(name) for name in get_args(kind)]
        near = get_close_matches(value[:64], names, n=1) if isinstance(value, str) else []
        more = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"expected one of {', '.join(names)}, got {shown(value)}{more}")
    try:
        return msgspec.convert(value, _annotated(kind, metas))
    except msgspec.ValidationError as error:
        expected = str(error).removeprefix("Expected ").partition(", got")[0].replace("`", "").replace(" | ", " or ")
        for name, word in _TYPE_WORDS.items():
            expected = expected.replace(name, word)
        raise ValueError(f"expected {expected}, got {shown(value)}") from None


_TYPE_WORDS: Final = {"str": "text", "int": "a whole number", "float": "a number", "bool": "true or false"}
