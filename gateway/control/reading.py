"""A policy document from its text: the document, and every problem with the line it stands on. Pure."""

from dataclasses import dataclass

from gateway.control.plans import not_offered
from router.document import PolicyError
from router.policy import TrafficPolicy, parse
from runtimes.registry import strictyaml
from runtimes.registry.strictyaml import DocumentError


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
class Read:
    """What a text says.

    Attributes:
        name: the model name that it is about, also where the rest is wrong; "" = it names none.
        document: plain values; None where it is not YAML as we read it.
        policy: None where there are problems.
    """

    name: str
    document: object
    policy: TrafficPolicy | None
    problems: tuple[Located, ...]


def read_policy(text: str) -> Read:
    """Read a text; what is wrong with it is in the answer."""
    try:
        node = strictyaml.parse(text, "the policy")
    except DocumentError as error:
        message = str(error).partition(": ")[2]
        return Read("", None, None, (Located(error.line, "", message),))
    document = strictyaml.plain(node)
    try:
        policy = parse(document)
    except PolicyError as error:
        found = tuple(Located(strictyaml.line_of(node, one.path), one.path, one.message) for one in error.problems)
        return Read(name_in(document), document, None, found)
    missing = tuple(_located(node, line) for line in not_offered(policy))
    return Read(policy.metadata.name, document, None if missing else policy, missing)


def _located(node: strictyaml.Node, sentence: str) -> Located:
    path, _, message = sentence.partition(": ")
    return Located(strictyaml.line_of(node, path), path, message)


def name_in(document: object) -> str:
    """The model name that a document is about, whatever else it is; "" = it names none."""
    metadata = document.get("metadata") if isinstance(document, dict) else None
    name = metadata.get("name") if isinstance(metadata, dict) else None
    return name[:128] if isinstance(name, str) else ""
