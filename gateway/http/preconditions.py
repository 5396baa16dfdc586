"""Which generation of a document a caller has seen: If-Match and If-None-Match, RFC 9110 section 13.1."""

import re
from typing import Final

from starlette.requests import Request

from gateway.control.documents import ANY, Seen
from gateway.errors import HttpError
from runtimes.errors import InvalidInput

_OURS: Final = re.compile(r"0|[1-9][0-9]{0,8}")
_TAG: Final = re.compile(r'(?P<weak>W/)?"(?P<text>[\x21\x23-\x7e]*)"')


def generation_seen(request: Request, least: int = 1) -> Seen:
    """The generation that has to be in force, or one of several; see `Seen`.

    Args:
        least: the lowest generation that is given as an ETag; `If-Match` is false where there is nothing (13.1.1).

    Raises:
        HttpError: 412, tags that no generation has. A weak one never matches (8.8.3.2): two may name one document.
        InvalidInput: no tag; an If-None-Match with one, or beside an If-Match: nothing here is asked that way.
    """
    given, none = _header(request, "if-match"), _header(request, "if-none-match")
    if none is not None:
        if none != "*" or given is not None:
            raise InvalidInput(f"If-None-Match: expected * and no If-Match: make a first one; got {none[:40]!r}")
        return 0
    if given is None:
        return None
    if given == "*":
        return ANY
    text = f'"{given}"' if _OURS.fullmatch(given) else given
    tags = [one["text"] for one in _TAG.finditer(text) if not one["weak"]]
    known = {int(tag) for tag in tags if _OURS.fullmatch(tag) and int(tag) >= least}
    if _is_list(text) and known:
        return known.pop() if len(known) == 1 else frozenset(known)
    message = 'If-Match: expected the ETag as it was given, such as "3" (If-None-Match: * makes a first one)'
    message += f", got {given[:40]!r}"
    raise HttpError(412, "stale", message) if _is_list(text) else InvalidInput(message)


def _header(request: Request, name: str) -> str | None:
    """All lines of a header, which are one list (5.3)."""
    lines = request.headers.getlist(name)
    return ", ".join(lines).strip() if lines else None


def _is_list(text: str) -> bool:
    """Whether it is tags with commas between them; empty places in a list say nothing (5.6.1)."""
    places = [place.strip(" \t") for place in _TAG.sub('""', text).split(",")]
    return '""' in places and set(places) <= {"", '""'}
