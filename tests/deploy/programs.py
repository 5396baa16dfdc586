"""A real Prometheus on a free port, with the shipped files, and a page for it to scrape."""

import json
import re
import shutil
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.files import PROMETHEUS, RULES

PATIENCE_S = 40.0
needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None or shutil.which("promtool") is None,
    reason="prometheus and promtool are not installed (Debian package prometheus)",
)


class Prometheus:
    """A running Prometheus, asked by its HTTP API."""

    def __init__(self, process: "subprocess.Popen[str]", log: Path) -> None:
        self.process, self._log = process, log
        self.port = 0

    @property
    def log(self) -> str:
        return self._log.read_text()

    def api(self, path: str, **arguments: str) -> Any:
        """`data` of an answer. Raises AssertionError with Prometheus' own words."""
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(arguments)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{arguments}: {error.read().decode()}") from None

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Samples of an expression at this moment."""
        found = self.api("query", query=expression)["result"]
        return [(one["metric"], float(one["value"][1])) for one in found]

    def rules(self) -> dict[str, dict[str, Any]]:
        """All loaded rules by name."""
        return {rule["name"]: rule for group in self.api("rules")["groups"] for rule in group["rules"]}

    def until(self, what: str, true: Callable[[], object], patience_s: float = PATIENCE_S) -> None:
        """Wait for a condition."""
        started = time.monotonic()
        while not true():
            assert time.monotonic() - started < patience_s, f"{what} did not come true\n{self.log[-3000:]}"
            assert self.process.poll() is None, f"Prometheus ended\n{self.log[-3000:]}"
            time.sleep(0.05)

    def until_there(self, expressions: list[str], between: Callable[[], object] = lambda: None) -> None:
        """Wait until each of these has a sample that is a number; `between` makes something to see."""
        missing = list(expressions)

        def none_missing() -> bool:
            between()
            missing[:] = [one for one in missing if not any(value == value for _, value in self.query(one))]
            return not missing

        try:
            self.until("data", none_missing)
        except AssertionError as error:
            raise AssertionError(f"no data: {missing}\n{error}") from None


@contextmanager
def prometheus(folder: Path, admin: int, data: int, *, hold: bool = True) -> Iterator[Prometheus]:
    """Prometheus with the shipped configuration on other ports, and quicker.

    Args:
        hold: False = alerts fire at once, without their `for`.
    """
    (folder / "rules").mkdir()
    for name in ("recording.yml", "alerts.yml"):
        text = (RULES / name).read_text()
        (folder / "rules" / name).write_text(text if hold else re.sub(r"\n +for: \w+", "", text))
    text = (PROMETHEUS / "prometheus.yml").read_text()
    for shipped, here in ((":8081", f":{admin}"), (":8080", f":{data}"), ("interval: 15s", "interval: 250ms")):
        assert shipped in text, shipped
        text = text.replace(shipped, here).replace("localhost", "127.0.0.1")
    (folder / "prometheus.yml").write_text(text)
    log = folder / "log"
    command = ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    with log.open("w") as out:
        process = subprocess.Popen(
            [*command, "--web.listen-address=127.0.0.1:0", "--log.level=info"], stdout=out, stderr=out, text=True
        )
    running = Prometheus(process, log)
    try:
        running.until("a port", lambda: "Server is ready" in running.log)
        running.port = int(re.findall(r'msg="Listening on" address=127.0.0.1:(\d+)', running.log)[0])
        yield running
    finally:
        process.kill()
        process.wait()


@contextmanager
def page(render: Callable[[], bytes], content_type: str) -> Iterator[int]:
    """A server whose every answer is `render()`; gives its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = render()
            self.send_response(200)
            self.send_header("content-type", content_type)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            with suppress(ConnectionError):  # it was ended in the middle of a scrape
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Not into the output of tests."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
