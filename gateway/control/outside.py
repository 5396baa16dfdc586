"""How this node asks anybody outside: no proxies of the environment, no redirects, a time limit, a bounded answer."""

import base64
import http.client
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final
from urllib.parse import unquote, urlsplit

TIMEOUT_S: Final = 5.0
"""Without a byte."""
WHOLE_S: Final = 15.0
"""For all of a call: an answer may come byte by byte."""
MOST_ANSWER: Final = 1024 * 1024


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A signed event, or a token, goes where it was meant to, or nowhere: not even the new address is read."""

    def _no(self, *_: Any) -> None:
        """The answer stays as it came."""

    http_error_301: Any = _no
    http_error_302: Any = _no
    http_error_303: Any = _no
    http_error_307: Any = _no
    http_error_308: Any = _no


class _Ended(threading.Timer):
    """Ends the connections of one call when its time is over."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds, self._end)
        self.daemon = True
        self.sockets: list[socket.socket] = []
        self.over = False
        self._over_at = time.monotonic() + seconds

    def connect(self, address: tuple[str, int], timeout: float, *_: Any) -> socket.socket:
        """To the first address of a host that answers; all of them together have no more time than the call."""
        found: OSError | None = None
        for family, kind, protocol, _name, place in socket.getaddrinfo(*address, 0, socket.SOCK_STREAM):
            left_s = self._over_at - time.monotonic()
            if left_s <= 0:
                break
            one = None
            try:
                one = socket.socket(family, kind, protocol)
                one.settimeout(min(timeout, left_s))
                one.connect(place)
            except OSError as error:  # also of a family that is not known here
                found = error
                if one is not None:
                    one.close()
            else:
                one.settimeout(timeout)
                return one
        self.over = self.over or time.monotonic() >= self._over_at
        raise found or OSError("no address")

    def _end(self) -> None:
        self.over = True
        for one in self.sockets:
            with suppress(OSError):
                # Not the method of a TLS socket, which would say goodbye first.
                socket.socket.shutdown(one, socket.SHUT_RDWR)


class _Plain(urllib.request.HTTPHandler):
    def __init__(self, ended: _Ended) -> None:
        super().__init__()
        self._ended = ended

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        """Connect."""
        return self.do_open(_noting(http.client.HTTPConnection, self._ended), req)


class _Secure(urllib.request.HTTPSHandler):
    def __init__(self, ended: _Ended) -> None:
        super().__init__()
        self._ended = ended

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        """Connect."""
        return self.do_open(_noting(http.client.HTTPSConnection, self._ended), req)


def _noting(kind: type[http.client.HTTPConnection], ended: _Ended) -> Any:
    """Connections of this kind, whose socket is noted."""

    class Connection(kind):  # type: ignore[valid-type,misc]
        def connect(self) -> None:
            self._create_connection = ended.connect
            super().connect()
            ended.sockets.append(self.sock)
            if ended.over:
                raise TimeoutError("connected too late")

    return Connection


def call(
    method: str,
    url: str,
    body: bytes | None,
    headers: Mapping[str, str],
    most: int = MOST_ANSWER,
    whole_s: float = WHOLE_S,
) -> tuple[int, bytes]:
    """Ask; gives the status and at most so many bytes of a good answer. Blocks: call it in a thread. Raises OSError."""
    ended = _Ended(whole_s)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirects, _Plain(ended), _Secure(ended))
    try:
        ended.start()
    except RuntimeError as error:
        raise OSError(str(error)) from error  # no thread to be had now: who asks tries again, as where nobody answers
    try:
        place, more = _without_user(url)
        request = urllib.request.Request(place, body, {**more, **headers}, method=method)
        with opener.open(request, timeout=TIMEOUT_S) as answer:
            text = answer.read(most)
            if ended.over or (len(text) < most and answer.length):
                raise OSError("the answer was cut")
            return int(answer.status), text
    except urllib.error.HTTPError as error:
        with error:
            return error.code, b""
    except (http.client.HTTPException, ValueError, OSError) as error:
        if ended.over:
            raise TimeoutError(f"no whole answer in {whole_s:g} s") from error
        if isinstance(error, OSError):
            raise
        raise OSError(f"no HTTP answer: {type(error).__name__}") from error
    finally:
        ended.cancel()


def _without_user(url: str) -> tuple[str, dict[str, str]]:
    """An address without `USER:PASSWORD@`, and the header that says the same. Raises ValueError."""
    user, at, _ = urlsplit(url).netloc.rpartition("@")
    if not at:
        return url, {}
    said = base64.b64encode(unquote(user).encode()).decode()
    return url.replace(f"{user}@", "", 1), {"authorization": f"Basic {said}"}


def post(url: str, body: bytes, headers: Mapping[str, str]) -> int:
    """Send; gives the status. As `call`."""
    return call("POST", url, body, headers, 0)[0]
