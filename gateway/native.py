"""Whether the hot path runs compiled or interpreted: the same source either way (docs/adr/013-compiled.md)."""

from functools import cache
from importlib.util import find_spec


@cache
def is_compiled() -> bool:
    """Asks where the module would come from; it is not imported."""
    found = find_spec("gateway.exchange")
    return found is not None and not str(found.origin).endswith(".py")


def in_words() -> str:
    """For people and for the metrics page."""
    return "compiled" if is_compiled() else "interpreted"
