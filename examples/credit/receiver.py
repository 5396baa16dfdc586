"""What a bank has on the other end of the monitor's webhooks: a server on loopback that checks signatures and notes."""

import hashlib
import hmac
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, Final

from examples.credit.server import HOST

FRESH_S: Final = 300
SIGNATURE: Final = "x-tidegate-signature"


@dataclass(frozen=True)
class Note:
    """One event that came.

    Attributes:
        path: where it was sent.
        signed: by who knows the secret, within FRESH_S.
        event: the CloudEvent.
    """

    path: str
    signed: bool
    event: Mapping[str, Any]

    @property
    def kind(self) -> str:
        """The event's type, without who it is from."""
        return str(self.event["type"]).removeprefix("tidegate.")

    @property
    def data(self) -> Mapping[str, Any]:
        """What it says."""
        found: Mapping[str, Any] = self.event["data"]
        return found


def is_ours(secret: bytes, header: str, body: bytes, now_s: float) -> bool:
    """Whether a body was signed with the secret and is not old: as docs/alerts.md says."""
    try:
        fields = dict(field.split("=", 1) for field in header.split(","))
        second = int(fields["t"])
    except (KeyError, ValueError):
        return False
    expected = hmac.new(secret, fields["t"].encode() + b"." + body, hashlib.sha256).hexdigest()
    return abs(now_s - second) <= FRESH_S and hmac.compare_digest(expected, fields.get("v1", ""))


class Receiver(ThreadingHTTPServer):
    """Takes every event, and says 202.

    Attributes:
        notes: what came, in order; only grows.
    """

    daemon_threads = True

    def __init__(self, secret: bytes) -> None:
        super().__init__((HOST, 0), _Handler)
        self.secret = secret
        self.notes: list[Note] = []

    @property
    def url(self) -> str:
        """Of this server."""
        return f"http://{HOST}:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        """Note it."""
        body = self.rfile.read(int(self.headers["content-length"]))
        signed = is_ours(self.server.secret, self.headers.get(SIGNATURE, ""), body, time.time())
        self.server.notes.append(Note(self.path, signed, json.loads(body)))
        self.send_response(202)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """The demo prints what came."""


@contextmanager
def receiver(secret: bytes) -> Iterator[Receiver]:
    """One that listens until the end of the block."""
    with Receiver(secret) as server:
        thread = Thread(target=server.serve_forever, name="receiver", daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
