"""Talking to a running server: standard library only, errors as one line."""

import http.client
import json
import os
import urllib.error
import urllib.request
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

import typer

from gateway.cli.output import Failure

Url = Annotated[str | None, typer.Option("--url", help="Data port [TIDEGATE_URL, http://127.0.0.1:8080].")]
AdminUrl = Annotated[
    str | None, typer.Option("--admin-url", help="Admin port [TIDEGATE_ADMIN_URL, http://127.0.0.1:8081].")
]
TIMEOUT_S: Final = 30.0
ADMIN: Final = "/admin/v1/"
"""Begins the paths of the admin port."""
NO_PATH: Final = "Not Found"
"""What either port says of a path that it does not know."""


def data_url(given: str | None) -> str:
    """Where the data port is. Raises Failure: that is no address."""
    return _address(given, "--url", "TIDEGATE_URL", "http://127.0.0.1:8080")


def admin_url(given: str | None) -> str:
    """Where the admin port is. Raises Failure: that is no address."""
    return _address(given, "--admin-url", "TIDEGATE_ADMIN_URL", "http://127.0.0.1:8081")


def _address(given: str | None, option: str, variable: str, usual: str) -> str:
    """The option, else the variable, else what is usual."""
    url, said_by = (given, option) if given else (os.environ.get(variable) or usual, variable)
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, or brackets that do not close
        known = False
    if not known:
        raise Failure(f"{said_by}: expected http://HOST:PORT, such as {usual}, got {url[:80]!r}", 2)
    return url.rstrip("/")


def key_header() -> dict[str, str]:
    """The header that shows the key of TIDEGATE_KEY; nothing without one. Raises Failure, which never tells the key."""
    key = os.environ.get("TIDEGATE_KEY", "")
    if not key:
        return {}
    from gateway.keys import KEY

    if not KEY.fullmatch(key):
        raise Failure("TIDEGATE_KEY holds no key: expected tg_ and 43 of A-Z a-z 0-9 - _", 2)
    return {"authorization": f"Bearer {key}"}


class Refused(Failure):
    """The server answered with an error.

    Attributes:
        status: of HTTP.
        body: of the answer, as far as it is a JSON object.
    """

    def __init__(self, message: str, status: int, body: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.body = body or {}


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Our servers send nobody elsewhere, and a key is shown to nobody else."""

    def redirect_request(self, *_: Any) -> None:
        """No."""


class Answer:
    """An HTTP answer."""

    def __init__(self, status: int, headers: Any, body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    def json(self) -> Any:
        """The body as JSON. Raises Failure."""
        try:
            return json.loads(self.body)
        except ValueError as error:
            raise Failure(f"the server answered {self.status} with something that is not JSON") from error


def call(
    method: str,
    url: str,
    body: object = None,
    timeout_s: float = TIMEOUT_S,
    *,
    text: str | None = None,
    headers: dict[str, str] | None = None,
) -> Answer:
    """Call the server; proxies of the environment are not asked.

    Args:
        body: sent as JSON, where there is no `text`.
        text: sent as it is: a YAML document.
        headers: beside the usual ones.

    Raises:
        Failure: nobody answers, or an error comes back (`Refused`); its message is the server's.
    """
    data = text.encode() if text is not None else None if body is None else json.dumps(body).encode()
    kind = "application/yaml" if text is not None else "application/json"
    try:
        request = urllib.request.Request(
            url, data, {"content-type": kind, **(headers or {}), **key_header()}, method=method
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirects)
        with opener.open(request, timeout=timeout_s) as answer:
            return Answer(answer.status, answer.headers, answer.read())
    except urllib.error.HTTPError as error:
        found = Answer(error.code, error.headers, error.read())
        told: Any = None
        try:
            told = json.loads(found.body)
            message = told["error"]
        except (ValueError, KeyError, TypeError):
            message = found.body[:200].decode("utf-8", "replace")
        hint = "; the key is read from TIDEGATE_KEY" if error.code == 401 else ""
        if error.code == 404 and message == NO_PATH and ADMIN in url:
            hint = "; is that the data port? The admin port is another one: see --admin-url"
        raise Refused(
            f"{message} (HTTP {error.code}){hint}", error.code, told if isinstance(told, dict) else None
        ) from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise Failure(f"no server answers at {url}: {reason}; start one with `tidegate serve`") from error
