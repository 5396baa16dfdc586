"""A document from its text: the document, and every problem with the line it stands on. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from gateway.control.plans import not_offered
from router.document import PolicyError
from router.policy import TrafficPolicy, parse
from runtimes.registry import strictyaml
from runtimes.registry.strictyaml import DocumentError

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Located:
    """One thing that is wrong.

    Attributes:
        line: counted from 1; None where no single line is at fault.
        path: keys down to the place; "" = the document itself.
    """

    line: int | None
    path: str
    message: str

    def __str__(self) -> str:
        place = f"line {self.line}: " if self.line is not None else ""
        return f"{place}{self.path}: {self.message}" if self.path else place + self.message


@dataclass(frozen=True, slots=True)
class Read(Generic[Value]):
    """What a text says.

    Attributes:
        kind: of the document, as it says, also where that is wrong; "" = it says none.
        name: the model name that it is about, also where the rest is wrong; "" = it names none.
        document: plain values; None where it is not YAML as we read it.
        value: None where there are problems.
    """

    kind: str
    name: str
    document: object
    value: Value | None
    problems: tuple[Located, ...]


def read_policy(text: str) -> Read[TrafficPolicy]:
    """Read a text as a policy; what is wrong with it is in the answer."""
    return read_document(text, "the policy", parse, not_offered)


def read_document(
    text: str,
    what: str,
    parse: Callable[[object], Value],
    lacks: Callable[[Value], Sequence[str]] = lambda value: (),
) -> Read[Value]:
    """Read a text as a document of one kind.

    Args:
        what: it is, in words.
        parse: raises PolicyError.
        lacks: what of it this version does not offer, each as `PATH: MESSAGE`.
    """
    try:
        node = strictyaml.parse(text, what)
    except DocumentError as error:
        message = str(error).partition(": ")[2]
        return Read("", "", None, None, (Located(error.line, "", message),))
    document = strictyaml.plain(node)
    kind, name = kind_in(document), name_in(document)
    try:
        value = parse(document)
    except PolicyError as error:
        found = tuple(Located(strictyaml.line_of(node, one.path), one.path, one.message) for one in error.problems)
        return Read(kind, name, document, None, found)
    missing = tuple(_located(node, line) for line in lacks(value))
    return Read(kind, name, document, None if missing else value, missing)


def _located(node: strictyaml.Node, sentence: str) -> Located:
    path, _, message = sentence.partition(": ")
    return Located(strictyaml.line_of(node, path), path, message)


def kind_in(document: object) -> str:
    """The kind that a document says it is; "" = it says none."""
    kind = document.get("kind") if isinstance(document, dict) else None
    return kind[:128] if isinstance(kind, str) else ""


def name_in(document: object) -> str:
    """The model name that a document is about, whatever else it is; "" = it names none."""
    metadata = document.get("metadata") if isinstance(document, dict) else None
    name = metadata.get("name") if isinstance(metadata, dict) else None
    return name[:128] if isinstance(name, str) else ""
