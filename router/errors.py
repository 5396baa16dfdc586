"""What the router can refuse: pure values, no HTTP."""

from difflib import get_close_matches


class UnknownRoute(LookupError):
    """No such model, version or alias.

    Attributes:
        message: names the nearest known one; bounded, whatever the caller sent.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


def nearest(name: str, known: list[str]) -> str:
    """ "; did you mean 'x'?" or ""; the search is bounded to 1,000 known names and 128 characters."""
    found = get_close_matches(name[:128], known[:1000], n=1, cutoff=0.6)
    return f"; did you mean {found[0]!r}?" if found else ""
