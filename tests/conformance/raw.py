"""A client that sends any bytes: raw sockets, no politeness. Answers are read strictly."""

import contextlib
import socket
import struct
from dataclasses import dataclass, field

PATIENCE_S = 15.0


class WrongAnswer(AssertionError):
    """The server sent something that is no HTTP/1.1 answer."""


@dataclass(frozen=True)
class Answer:
    """One answer.

    Attributes:
        headers: in the order they came, names as sent.
        interim: statuses of the 1xx answers before it.
    """

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    interim: tuple[int, ...] = field(default=())

    def header(self, name: str) -> str | None:
        """The value of a header that may stand once at most."""
        found = [value for key, value in self.headers if key == name]
        assert len(found) < 2, f"{name} stands {len(found)} times"
        return found[0] if found else None


class Raw:
    """A connection. Use as a context manager."""

    def __init__(self, port: int, *, receive_buffer: int = 0, patience_s: float = PATIENCE_S) -> None:
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.settimeout(patience_s)
        self.socket.connect(("127.0.0.1", port))
        self._buffer = b""

    def __enter__(self) -> "Raw":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> bool:
        """Send all of it; False when the server closed before it had taken everything."""
        try:
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def half_close(self) -> None:
        """End our side and go on reading."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Vanish with a TCP reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def answer(self, *, head: bool = False) -> Answer | None:
        """The next answer; None when the server closed instead.

        Args:
            head: it answers a HEAD request, so no body follows.

        Raises:
            TimeoutError: nothing came.
            WrongAnswer: what came is cut short or no answer.
        """
        interim: list[int] = []
        while True:
            status, headers = self._head()
            if status == 0:
                return None
            if status >= 200:
                break
            interim.append(status)
        named = [value for key, value in headers if key == "content-length"]
        if len(named) != 1:
            raise WrongAnswer(f"{len(named)} content-length headers")
        body = b"" if head else self._exactly(int(named[0]))
        return Answer(status, headers, body, tuple(interim))

    def answers(self, count: int) -> list[Answer]:
        """So many answers; fewer when the server closed before."""
        found: list[Answer] = []
        while len(found) < count and (answer := self.answer()) is not None:
            found.append(answer)
        return found

    def is_closed(self) -> bool:
        """Whether the server ends the connection, with nothing more sent; waits for it."""
        return not self._buffer and not self._more()

    def _head(self) -> tuple[int, tuple[tuple[str, str], ...]]:
        while b"\r\n\r\n" not in self._buffer:
            if not self._more():
                if self._buffer:
                    raise WrongAnswer(f"closed inside an answer: {self._buffer[:200]!r}")
                return 0, ()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        version, status, _ = first.split(" ", 2)
        if version != "HTTP/1.1":
            raise WrongAnswer(first)
        pairs = [line.split(": ", 1) for line in lines]
        return int(status), tuple((name, value) for name, value in pairs)

    def _exactly(self, size: int) -> bytes:
        parts = [self._buffer]
        have = len(self._buffer)
        while have < size:
            self._buffer = b""
            if not self._more():
                raise WrongAnswer(f"closed after {have} of {size} bytes of a body")
            parts.append(self._buffer)
            have += len(self._buffer)
        whole = b"".join(parts)
        self._buffer = whole[size:]
        return whole[:size]

    def _more(self) -> bool:
        try:
            data = self.socket.recv(1 << 20)
        except (ConnectionResetError, BrokenPipeError):
            return False
        self._buffer += data
        return bool(data)
