"""A Monitor document from its text: the document, and every problem with the line it stands on. Pure."""

from dataclasses import dataclass

from gateway.control.reading import Located, name_in
from gateway.monitor.settings import Monitor, PolicyError, parse
from runtimes.registry import strictyaml
from runtimes.registry.strictyaml import DocumentError


@dataclass(frozen=True, slots=True)
class ReadMonitor:
    """What a text says.

    Attributes:
        name: the model name that it is about, also where the rest is wrong; "" = it names none.
        document: plain values; None where it is not YAML as we read it.
        monitor: None where there are problems.
    """

    name: str
    document: object
    monitor: Monitor | None
    problems: tuple[Located, ...]


def read_monitor(text: str) -> ReadMonitor:
    """Read a text; what is wrong with it is in the answer."""
    try:
        node = strictyaml.parse(text, "the monitor")
    except DocumentError as error:
        return ReadMonitor("", None, None, (Located(error.line, "", str(error).partition(": ")[2]),))
    document = strictyaml.plain(node)
    try:
        monitor = parse(document)
    except PolicyError as error:
        found = tuple(Located(strictyaml.line_of(node, one.path), one.path, one.message) for one in error.problems)
        return ReadMonitor(name_in(document), document, None, found)
    return ReadMonitor(monitor.metadata.name, document, monitor, ())
