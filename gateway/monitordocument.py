"""A Monitor document from its text: the document, and every problem with the line it stands on. Pure."""

from gateway.control.reading import Read, read_document
from gateway.monitor.settings import Monitor, parse


def read_monitor(text: str) -> Read[Monitor]:
    """Read a text as a Monitor document; what is wrong with it is in the answer."""
    return read_document(text, "the monitor", parse)
