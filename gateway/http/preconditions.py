"""Which generation of a document a caller has seen: If-Match and If-None-Match, RFC 9110 section 13.1."""

import re
from typing import Final

from starlette.requests import Request

from gateway.control.documents import ANY
from gateway.errors import HttpError
from runtimes.errors import InvalidInput

_OURS: Final = re.compile(r'(")?(?P<generation>[0-9]{1,9})(?(1)")')
_TAG: Final = re.compile(r'(W/)?"[\x21\x23-\x7e]*"')


def generation_seen(request: Request) -> int | None:
    """The generation that has to be in force; ANY = one has to be; 0 = none may be; None = the caller does not say.

    Raises:
        HttpError: 412, a tag that no generation has. A weak one never matches (8.8.3.2): two may name one document.
        InvalidInput: no single tag; an If-None-Match with one, or beside an If-Match: nothing here is asked that way.
    """
    given = request.headers.get("if-match")
    none = request.headers.get("if-none-match")
    if none is not None:
        if none.strip() != "*" or given is not None:
            raise InvalidInput(f"If-None-Match: expected * and no If-Match: make a first one; got {none[:40]!r}")
        return 0
    if given is None:
        return None
    if given.strip() == "*":
        return ANY
    ours = _OURS.fullmatch(given.strip())
    if ours is not None:
        return int(ours["generation"])
    message = f'If-Match: expected the ETag as it was given, such as "3", got {given[:40]!r}'
    if _TAG.fullmatch(given.strip()):
        raise HttpError(412, "stale", message)
    raise InvalidInput(message)
