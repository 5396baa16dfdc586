"""A stage for audit tests: a policy, callers that bring traffic to it, and a receiver of webhooks."""

import http.client
import json
import random
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests import models
from tests.tree import Tree

SECRET = "a secret of the tests"


def repository(folder: Path) -> Path:
    """Versions 1 and 2 have four values and more, version 3 only two: indices 2 and 3 are refused by ONNX Runtime."""
    for version, size in ((1, 4), (2, 5), (3, 2)):
        models.write(folder, "lookup", models.lookup(size), version)
    (folder / "lookup" / "model.yaml").write_text("version_policy: {latest: 3}\n")
    return folder


def policy(canary: int = 2, *, stable: int = 1, approval: bool = False, **spec: Any) -> dict[str, Any]:
    """A rollout from version `stable` to `canary` in two steps."""
    hold: dict[str, Any] = {"minDuration": "1s"}
    if approval:
        hold["approval"] = {"by": ["local"]}
    return {
        "apiVersion": "tidegate/v1",
        "kind": "TrafficPolicy",
        "metadata": {"name": "lookup"},
        "spec": {
            "variants": [
                {"name": "stable", "model": f"lookup:{stable}"},
                {"name": "canary", "model": f"lookup:{canary}"},
            ],
            "unit": {"from": [{"header": "x-user-id"}]},
            "split": {"stable": 10_000},
            "rollout": {
                "to": "canary",
                "steps": [{"setWeight": 5_000, "hold": hold}, {"setWeight": 10_000}],
                "analysis": {"guardrails": [{"metric": "error_rate"}]},
            },
            **spec,
        },
    }


class Caller(threading.Thread):
    """Asks without a pause, each time as another user; every tenth asks for index 3."""

    def __init__(self, port: int, seed: int) -> None:
        super().__init__(daemon=True)
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        self._rng = random.Random(seed)
        self.stopping = threading.Event()

    def run(self) -> None:
        while not self.stopping.is_set():
            ask(self._connection, str(self._rng.randrange(1 << 40)), 3 if self._rng.random() < 0.1 else 1)
        self._connection.close()


def ask(connection: http.client.HTTPConnection, user: str, index: int) -> tuple[int, str, str]:
    """One request: status, variant, prediction id."""
    item = {"name": "x", "shape": [1], "datatype": "INT64", "data": [index]}
    connection.request("POST", "/v2/models/lookup/infer", json.dumps({"inputs": [item]}), {"x-user-id": user})
    answer = connection.getresponse()
    answer.read()
    return answer.status, answer.getheader("x-tidegate-variant", ""), answer.getheader("x-prediction-id", "")


class Traffic:
    """Callers while the block lasts."""

    def __init__(self, tree: Tree, count: int = 4) -> None:
        self._callers = [Caller(tree.port, seed) for seed in range(count)]

    def __enter__(self) -> None:
        for caller in self._callers:
            caller.start()

    def __exit__(self, *_: object) -> None:
        for caller in self._callers:
            caller.stopping.set()
        for caller in self._callers:
            caller.join(20)


def apply(tree: Tree, document: dict[str, Any]) -> dict[str, Any]:
    """Put a policy in force, whatever is there."""
    base = f"http://127.0.0.1:{tree.admin_port}/admin/v1/policies/lookup"
    status, body = tree.get("/admin/v1/policies/lookup", admin=True)
    headers = {"if-match": f'"{json.loads(body)["generation"]}"'} if status == 200 else {}
    request = urllib.request.Request(base, json.dumps(document).encode(), headers, method="PUT")
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.loads(answer.read())
    except urllib.error.HTTPError as error:
        raise AssertionError(error.read().decode()) from error


def admin(tree: Tree, method: str, path: str, body: object = None) -> Any:
    """A call of the admin port that has to succeed."""
    status, content = tree.call(method, f"/admin/v1/{path}", body, admin=True)
    assert status == 200, content
    return json.loads(content)


def phase(tree: Tree) -> str:
    status, body = tree.get("/admin/v1/rollouts/lookup", admin=True)
    return json.loads(body)["phase"] if status == 200 else ""


@contextmanager
def no_threads() -> Iterator[Callable[[], object]]:
    """The system gives no thread, until what this gives is called: each would need more memory than has addresses."""
    before = threading.stack_size(1 << 47)
    try:
        yield lambda: threading.stack_size(before)
    finally:
        threading.stack_size(before)


class Receiver:
    """A webhook's receiver that keeps what it gets.

    Attributes:
        got: (headers, body), in order.
        statuses: answers to give first; 204 after them.
    """

    def __init__(self, statuses: list[int] | None = None) -> None:
        receiver = self
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.statuses = statuses or []
        self.asked = 0
        self.gate = threading.Event()
        self.gate.set()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.gate.wait(20)
                receiver.asked += 1
                status = receiver.statuses.pop(0) if receiver.statuses else 204
                if status == 204:
                    receiver.got.append(({key.lower(): value for key, value in self.headers.items()}, body))
                self.send_response(status)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/events"

    def __enter__(self) -> "Receiver":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.gate.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, body in self.got]
