"""Asking others: whatever they answer is a status, an answer or an OSError, within a bounded time."""

import base64
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from gateway.control.outside import call, post

SAY = Callable[[socket.socket], None]


@contextmanager
def peer(say: SAY, heard: list[bytes] | None = None) -> Iterator[str]:
    """Reads the head and the body of a request, adds it to `heard`, then does as it is told; its URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                seen = b""
                while b"\r\n\r\nbody" not in seen:
                    seen += connection.recv(65536)
                if heard is not None:
                    heard.append(seen)
                say(connection)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        thread.join(20)
        assert not thread.is_alive()


def saying(text: bytes) -> SAY:
    return lambda connection: connection.sendall(text)


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("there", ["http://[bad", "http://127.0.0.1:1/", "//", "\x00", "javascript:x", ""])
def test_a_redirect_is_an_answer_wherever_it_leads(code: int, there: str) -> None:
    with peer(saying(f"HTTP/1.1 {code} Moved\r\nlocation: {there}\r\ncontent-length: 0\r\n\r\n".encode())) as url:
        assert post(url, b"body", {}) == code


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\r\n",
        b"HTTP/1.1\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 500 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 100_000 + b"\r\n\r\n",
    ],
)
def test_what_is_no_answer_is_an_oserror(text: bytes) -> None:
    with peer(saying(text)) as url, pytest.raises(OSError):  # noqa: PT011
        call("POST", url, b"body", {})


@pytest.mark.parametrize("url", ["", "no address", "ftp:", "http://[bad", "http://127.0.0.1:99999999/", "http://a b/"])
def test_an_address_that_cannot_be_called_is_an_oserror(url: str) -> None:
    with pytest.raises(OSError):  # noqa: PT011
        post(url, b"body", {})


def test_an_answer_is_cut_where_it_is_enough() -> None:
    with peer(saying(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nanswer")) as url:
        assert call("POST", url, b"body", {}, 4) == (200, b"answ")


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 99999\r\n\r\n"])
def test_an_answer_that_comes_byte_by_byte_ends_with_the_time_for_all_of_it(head: bytes) -> None:
    """Each byte is in time, and there is no end of them."""

    def drip(connection: socket.socket) -> None:
        gone = threading.Event()
        try:
            connection.sendall(head)
            while not gone.wait(0.01):
                connection.sendall(b"x")
        except OSError:
            gone.set()

    with peer(drip) as url, pytest.raises(TimeoutError, match=r"no whole answer in 0.2 s"):
        call("POST", url, b"body", {}, whole_s=0.2)


def test_many_addresses_that_are_silent_have_one_time_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each had 5 s of its own, so a name with many addresses held up all that came after."""
    with ExitStack() as stack:
        silent = []
        for _ in range(4):
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
            silent.append((socket.AF_INET, socket.SOCK_STREAM, 0, "", listener.getsockname()))
            for _ in range(3):  # nobody accepts, so the line is full
                waiting = stack.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex(listener.getsockname())
        monkeypatch.setattr("socket.getaddrinfo", lambda *_: silent)
        monkeypatch.setattr("gateway.control.outside.TIMEOUT_S", 0.3)
        begun = time.monotonic()
        with pytest.raises(TimeoutError, match=r"no whole answer in 0.4 s"):
            call("POST", "http://many.example/", b"body", {}, whole_s=0.4)
        assert time.monotonic() - begun < 0.9


def test_the_next_address_is_asked_where_the_first_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        gone = closed.getsockname()
    with peer(saying(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nanswer")) as url:
        there = ("127.0.0.1", int(url.rstrip("/").rpartition(":")[2]))
        both = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", one) for one in (gone, there)]
        unknown = (99, socket.SOCK_STREAM, 0, "", gone)
        monkeypatch.setattr("socket.getaddrinfo", lambda *_: [unknown, *both])
        assert call("POST", "http://two.example/", b"body", {}) == (200, b"answer")


def test_a_user_in_the_address_is_told_as_a_header() -> None:
    """It was taken for a part of the host, and no event arrived."""
    seen: list[bytes] = []

    def say(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 204 No\r\n\r\n")

    with peer(say, seen) as url:
        assert post(url.replace("//", "//me:a%40b@"), b"body", {}) == 204
    head = seen[0].decode().lower()
    assert "authorization: basic " + base64.b64encode(b"me:a@b").decode().lower() in head
    assert f"host: {url.split('/')[2]}" in head
