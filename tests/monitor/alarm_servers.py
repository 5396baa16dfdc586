"""A real HTTP server that answers by a script and keeps what it was asked; a real Alertmanager."""

import json
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

PATIENCE_S = 20.0


@dataclass(frozen=True)
class Asked:
    """One request."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Server:
    """Answers on loopback.

    Attributes:
        asked: all requests, in order.
        answers: what to answer next: status and body; (200, {}) after them.
    """

    def __init__(self, *answers: tuple[int, object]) -> None:
        server = self
        self.asked: list[Asked] = []
        self.answers = list(answers)
        self.more = threading.Condition()

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                headers = {key.lower(): value for key, value in self.headers.items()}
                with server.more:
                    status, content = server.answers.pop(0) if server.answers else (200, {})
                    server.asked.append(Asked(self.command, self.path, headers, body))
                    server.more.notify_all()
                text = b"" if status == 204 else json.dumps(content).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            do_GET = do_POST = answer

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "Server":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    def until(self, count: int) -> None:
        """Wait for so many requests."""
        with self.more:
            assert self.more.wait_for(lambda: len(self.asked) >= count, PATIENCE_S), self.asked


ALERTMANAGER = "prometheus-alertmanager"
_CONFIG = """
route:
  receiver: page
  group_by: [model]
  group_wait: 10ms
  group_interval: 50ms
  repeat_interval: 1h
receivers:
  - name: page
    webhook_configs:
      - url: {url}/page
        send_resolved: true
"""


@contextmanager
def alertmanager(folder: Path, receiver: str) -> Iterator[str]:
    """A real Alertmanager that notifies a receiver; gives its address."""
    (folder / "alertmanager.yml").write_text(_CONFIG.format(url=receiver))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    command = [
        ALERTMANAGER, f"--config.file={folder / 'alertmanager.yml'}", f"--storage.path={folder / 'data'}",
        f"--web.listen-address={address}", "--cluster.listen-address=",
    ]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            lines = []
            for line in process.stderr:
                lines.append(line)
                if f"address={address}" in line and "Listening" in line:
                    break
            else:
                raise AssertionError("".join(lines))
            drain = threading.Thread(target=process.stderr.read, daemon=True)
            drain.start()
            yield f"http://{address}"
        finally:
            process.terminate()
            process.wait(PATIENCE_S)
