"""Models with a reference behind a real server, callers that send rows, and what the server's monitor says of them."""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from examples.carloan import build, loans, profile
from gateway.monitor.reference import dumped
from tests.process.callers import Answer, Caller
from tests.tree import Tree

NAME = build.NAME
ALL = loans.load()
ANALYSIS = ALL[loans.ANALYSIS]
BEFORE, AFTER = ANALYSIS.inputs[: loans.CHANGE], ANALYSIS.inputs[loans.CHANGE :]


@cache
def reference_bytes() -> bytes:
    """reference.npz of the car loans."""
    return dumped(profile.profile(build.MODEL, ALL[loans.REFERENCE]).reference)


def repository(folder: Path, versions: Sequence[int] = (1,), more: str = "", *, references: bool = True) -> Path:
    """The car loans' model, watched where it has references."""
    root = folder / "models" / NAME
    root.mkdir(parents=True)
    (root / "model.yaml").write_text(build.model_yaml() + more)
    for version in versions:
        (root / str(version)).mkdir()
        if references:
            (root / str(version) / "reference.npz").write_bytes(reference_bytes())
        (root / str(version) / "model.onnx").write_bytes(build.MODEL.read_bytes())
    return folder / "models"


def document(name: str = NAME, **spec: Any) -> dict[str, Any]:
    """A Monitor document."""
    return {"apiVersion": "tidegate/v1", "kind": "Monitor", "metadata": {"name": name}, "spec": spec}


def put(tree: Tree, name: str = NAME, **spec: Any) -> None:
    """Put a monitor's settings in force, and wait until they are."""
    status, body = tree.call("PUT", f"/admin/v1/monitors/{name}", document(name, **spec), admin=True)
    assert status == 200, body
    wanted = json.loads(body)["generation"]
    tree.until("the settings", lambda: seen(tree, name).get("generation") == wanted)


def seen(tree: Tree, name: str = NAME) -> dict[str, Any]:
    """`GET /admin/v1/monitors/NAME`; without it, only the status."""
    status, body = tree.get(f"/admin/v1/monitors/{name}", admin=True)
    return json.loads(body) if status == 200 else {"status": status, "rows": -1, "versions": {}, "problems": {}}


def series(found: dict[str, Any], version: str = "1", variant: str = "-") -> dict[str, Any]:
    """One variant's part."""
    nothing = {"rows": 0, "skipped": 0, "open_rows": 0, "windows": [], "signals": {}}
    return found["versions"].get(version, {"variants": {}})["variants"].get(variant, nothing)


def until_watched(tree: Tree, name: str = NAME, versions: Sequence[int] = (1,)) -> None:
    """Wait until workers count these versions' rows."""
    wanted = {str(version) for version in versions}
    tree.until("a monitor", lambda: set(seen(tree, name)["versions"]) >= wanted and seen(tree, name)["leads"])
    tree.until("they count", lambda: counts(tree, name, versions))


def counts(tree: Tree, name: str, versions: Sequence[int]) -> bool:
    """Each worker has a place for these versions' counts: then its page shows it, and its snapshot is the newest."""
    status, body = tree.get("/metrics", admin=True)
    assert status == 200, body
    lines = [line for line in body.decode().splitlines() if line.startswith("tidegate_monitor_rows_observed_total{")]
    there = all(any(f'model="{name}"' in line and f'version="{v}"' in line for line in lines) for v in versions)
    return there and len({worker["revision"] for worker in tree.workers()}) == 1


def binary(rows: "np.ndarray[Any, Any]", name: str = build.INPUT, datatype: str = "FP32") -> tuple[bytes, str]:
    """A binary request: body and headers."""
    raw = np.ascontiguousarray(rows).tobytes()
    item = {"name": name, "shape": list(rows.shape), "datatype": datatype, "parameters": {"binary_data_size": len(raw)}}
    head = json.dumps({"inputs": [item]}).encode()
    return head + raw, f"inference-header-content-length: {len(head)}\r\n"


def as_json(rows: "np.ndarray[Any, Any]", name: str = build.INPUT, datatype: str = "FP32") -> bytes:
    """A JSON request."""
    item = {"name": name, "shape": list(rows.shape), "datatype": datatype, "data": rows.ravel().tolist()}
    return json.dumps({"inputs": [item]}).encode()


class Sender:
    """An application: one connection, opened anew when the server asks for it; knows what was answered.

    Attributes:
        rows: that were answered with 200.
    """

    def __init__(self, tree: Tree, model: str = NAME, headers: str = "") -> None:
        self.rows = 0
        self._port, self._model, self._headers = tree.port, model, headers
        self._caller = Caller(tree.port, model)

    def ask(self, body: bytes, headers: str = "") -> Answer:
        """One request."""
        answer = self._caller.ask(body, self._headers + headers)
        if answer.headers.get("connection") == "close":
            self.again()
        return answer

    def again(self) -> None:
        """A new connection."""
        self._caller.close()
        self._caller = Caller(self._port, self._model)

    def send(self, rows: "np.ndarray[Any, Any]", each: int = 500) -> None:
        """All rows in order, binary, `each` in a request."""
        for at in range(0, len(rows), each):
            part = rows[at : at + each]
            answer = self.ask(*binary(part))
            assert answer.status == 200, answer
            self.rows += len(part)

    def close(self) -> None:
        self._caller.close()


def until_counted(tree: Tree, rows: int, name: str = NAME) -> dict[str, Any]:
    """Wait until the monitor has taken so many rows, and not one more; what it says then."""
    found: dict[str, Any] = {}

    def there() -> bool:
        nonlocal found
        found = seen(tree, name)
        assert found["rows"] <= rows, f"{found['rows']} rows of {rows} that were sent"
        return bool(found["rows"] == rows)

    try:
        tree.until(f"{rows} rows", there)
    except AssertionError as error:
        raise AssertionError(f"{found.get('rows')} rows of {rows}\n{error}") from None
    return found
