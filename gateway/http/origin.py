"""Who a browser may speak for on the admin port: nobody from elsewhere. Pure.

A page of any site can make its visitor's browser send requests to 127.0.0.1. Those carry the site's name: in `origin`
or `referer`, or, when its name was pointed here meanwhile (DNS rebinding), in `host`.
"""

import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import urlsplit

from gateway.config import is_address, is_loopback
from gateway.errors import HttpError

_HOST: Final = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>\d{0,5}))?")

Headers = Iterable[tuple[bytes, bytes]]


class Names:
    """The names that this port answers to.

    Args:
        host: what it is bound to.
        others: names that the configuration allows, without a port.
    """

    def __init__(self, host: str, others: Iterable[str] = ()) -> None:
        self._loopback = is_loopback(host)
        self._known = {other.lower().strip("[]") for other in others} | {host.lower()}

    def check(self, headers: Headers) -> None:
        """Raises HttpError: 400 for a Host that is none, 403 for one that is not ours or a page of another one."""
        named: dict[bytes, list[str]] = {}
        for header, value in headers:
            if header in (b"host", b"origin", b"referer"):
                named.setdefault(header, []).append(value.decode("latin-1"))
        hosts = named.get(b"host", [])
        found = _HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
        if found is None:
            raise HttpError(400, "bad_http", "host: expected one name or address, with or without a port")
        name = found["name"].lower().strip("[]").removesuffix(".")
        if not self._answers_to(name):
            raise HttpError(
                403, "forbidden", f"host: this port does not answer to {name[:128]!r}; server.admin_hosts names more"
            )
        refuse_pages_of_others(hosts[0], named.get(b"origin", []), named.get(b"referer", []))

    def _answers_to(self, name: str) -> bool:
        if is_loopback(name) or name in self._known:
            return True
        # An address cannot be pointed elsewhere, so it needs no list where others reach this port by it.
        return not self._loopback and is_address(name)


def refuse_pages_of_others(host: str, origins: list[str], referers: list[str]) -> None:
    """Raises HttpError 403 when a browser says that a page of another host makes the request."""
    for what, values in (("origin", origins), ("referer", referers)):
        for value in values:
            if _authority(value) != host.lower():
                raise HttpError(403, "forbidden", f"{what}: pages of other hosts may not use this port")


def _authority(url: str) -> str | None:
    try:
        return urlsplit(url).netloc.lower()
    except ValueError:
        return None
