"""Applications that call a gateway, and keep their own count of what answered; and release managers with policies."""

import json
import os
import random
import socket
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tests.tree import PATIENCE_S, TIDEGATE, Tree

ABSENT = "-"


class Answer(NamedTuple):
    """What a client sees of an answer."""

    status: int
    variant: str
    revision: int
    served_by: str
    headers: dict[str, str]
    body: bytes


class Caller:
    """One connection that is kept open."""

    def __init__(self, port: int, model: str) -> None:
        self.port, self.model = port, model
        self.connection = socket.create_connection(("127.0.0.1", port), timeout=20)
        self._buffer = b""

    def send(self, body: bytes, headers: str = "", path: str = "") -> None:
        """Write a request; several may follow each other."""
        line = f"POST {path or f'/v2/models/{self.model}/infer'} HTTP/1.1\r\nhost: x\r\n"
        self.connection.sendall(f"{line}{headers}content-length: {len(body)}\r\n\r\n".encode() + body)

    def read(self) -> Answer:
        """The next answer. Raises ConnectionError when there is none."""
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            self._more()
        lines = self._buffer[:end].decode("latin-1").split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines[1:])
        whole = end + 4 + int(headers["content-length"])
        while len(self._buffer) < whole:
            self._more()
        body, self._buffer = self._buffer[end + 4 : whole], self._buffer[whole:]
        variant, revision = headers.get("x-tidegate-variant", ABSENT), headers.get("x-tidegate-revision", "0")
        served_by = headers.get("x-served-by", "")
        return Answer(int(lines[0].split()[1]), variant, int(revision), served_by, headers, body)

    def _more(self) -> None:
        data = self.connection.recv(65536)
        if not data:
            raise ConnectionError("the server closed the connection")
        self._buffer += data

    def ask(self, body: bytes, headers: str = "", path: str = "") -> Answer:
        """One request and its answer."""
        self.send(body, headers, path)
        return self.read()

    def close(self) -> None:
        self.connection.close()


def tensor(data: list[Any], datatype: str = "INT64", name: str = "x", shape: list[int] | None = None) -> bytes:
    """A JSON body with one input, a vector unless `shape` says otherwise."""
    item = {"name": name, "shape": [len(data)] if shape is None else shape, "datatype": datatype, "data": data}
    return json.dumps({"inputs": [item]}).encode()


@dataclass
class Seen:
    """The count of all callers together.

    Attributes:
        tally: (status, variant, revision, x-served-by) -> answers.
        moves: user -> variants in the order in which it got them.
        broken: what was no answer.
        cut: requests that were sent whole, and whose connection was closed before an answer was read.
    """

    tally: Counter[tuple[int, str, int, str]] = field(default_factory=Counter)
    moves: dict[str, list[str]] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    cut: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, user: str, answer: Answer) -> None:
        with self.lock:
            self.tally[answer.status, answer.variant, answer.revision, answer.served_by] += 1
            if user and not answer.served_by:
                moves = self.moves.setdefault(user, [])
                if moves[-1:] != [answer.variant]:
                    moves.append(answer.variant)

    def count(self, **wanted: object) -> int:
        """Answers with these values of status, variant, revision, served_by."""
        names = ("status", "variant", "revision", "served_by")
        with self.lock:
            tally = self.tally.copy()
        places = {names.index(name): value for name, value in wanted.items()}
        return sum(n for key, n in tally.items() if all(key[at] == value for at, value in places.items()))

    def statuses(self) -> set[int]:
        with self.lock:
            return {key[0] for key in self.tally}


class Crowd:
    """Callers that ask without a pause, each on its own connection, for users drawn at random.

    Args:
        body: makes a request's body; replaced at will while they run.
        users: how many; 0 = nobody says who they are.
    """

    def __init__(
        self,
        port: int,
        model: str,
        body: Callable[[random.Random], bytes],
        *,
        users: int = 0,
        callers: int = 4,
        headers: str = "",
        cuts: float = 0.0,
    ) -> None:
        self.seen = Seen()
        self.body = body
        self.headers = headers
        self.port, self.model, self.users, self.cuts = port, model, users, cuts
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(seed,), daemon=True) for seed in range(callers)]

    def _run(self, seed: int) -> None:
        rng, caller = random.Random(seed), Caller(self.port, self.model)
        while not self._stopping.is_set():
            user = f"u{rng.randrange(self.users)}" if self.users else ""
            headers = self.headers + (f"x-user-id: {user}\r\n" if user else "")
            try:
                if self.cuts and rng.random() < self.cuts:
                    caller.send(self.body(rng), headers)
                    caller.close()
                    with self.seen.lock:
                        self.seen.cut += 1
                    caller = Caller(self.port, self.model)
                    continue
                answer = caller.ask(self.body(rng), headers)
                self.seen.add(user, answer)
                if answer.headers.get("connection") == "close":
                    # A worker with more than its share of connections asks for that.
                    caller.close()
                    caller = Caller(self.port, self.model)
            except OSError as error:
                with self.seen.lock:
                    self.seen.broken.append(repr(error))
                caller.close()
                caller = Caller(self.port, self.model)
        caller.close()

    def __enter__(self) -> "Crowd":
        for thread in self._threads:
            thread.start()
        return self

    def stop(self) -> Seen:
        """End the callers, each after its answer."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive(), "a caller never got its answer"
        return self.seen

    def __exit__(self, *_: object) -> None:
        self.stop()


# ---- release managers ----


def rollout(steps: list[Any], **more: Any) -> dict[str, Any]:
    return {"to": "canary", "steps": steps, **more}


def policy(
    model: str,
    *,
    variants: tuple[str, ...] = ("1", "2"),
    users: bool = True,
    steps: list[Any] | None = None,
    analysis: dict[str, Any] | None = None,
    on_failure: dict[str, Any] | None = None,
    **spec: Any,
) -> dict[str, Any]:
    """A document: stable is the first version, canary the second; `spec` replaces or adds parts."""
    names = ("stable", "canary", "third")
    whole: dict[str, Any] = {
        "variants": [
            {"name": name, "model": f"{model}:{version}"} for name, version in zip(names, variants, strict=False)
        ],
        "split": {"stable": 10000},
    }
    if users:
        whole["unit"] = {"from": [{"header": "x-user-id"}]}
    if steps is not None:
        more: dict[str, Any] = {"analysis": analysis} if analysis else {}
        whole["rollout"] = rollout(steps, **more, **({"onFailure": on_failure} if on_failure else {}))
    return {"apiVersion": "tidegate/v1", "kind": "TrafficPolicy", "metadata": {"name": model}, "spec": whole | spec}


def apply(tree: Tree, document: dict[str, Any], generation: int | None = None) -> dict[str, Any]:
    """Put a policy in force; the answer."""
    name = document["metadata"]["name"]
    headers = {"if-match": f'"{generation}"'} if generation is not None else {}
    status, body = tree.call("PUT", f"/admin/v1/policies/{name}", document, admin=True, headers=headers)
    assert status == 200, body
    found: dict[str, Any] = json.loads(body)
    assert found["in_force_everywhere"], found
    return found


def shown(tree: Tree, model: str, kind: str = "rollouts") -> dict[str, Any]:
    """The rollout of a model, or its policy."""
    status, body = tree.get(f"/admin/v1/{kind}/{model}", admin=True)
    return json.loads(body) if status == 200 else {"state": "", "phase": "", "status": status}


def command(tree: Tree, model: str, kind: str, **body: Any) -> tuple[int, dict[str, Any]]:
    """approve, pause, resume, abort, promote, retry."""
    status, answer = tree.call("POST", f"/admin/v1/rollouts/{model}/{kind}", body, admin=True)
    return status, json.loads(answer)


def until(tree: Tree, model: str, *states: str, patience_s: float = 60.0) -> dict[str, Any]:
    """Wait for a state of the rollout; gives the rollout."""
    found: dict[str, Any] = {}

    def there() -> bool:
        nonlocal found
        found = shown(tree, model)
        return found["state"] in states

    try:
        tree.until(f"{states}", there, patience_s)
    except AssertionError as error:
        raise AssertionError(f"{found}\n{error}") from None
    return found


def counted(found: dict[str, Any]) -> dict[tuple[int, str], dict[str, int]]:
    """Evidence of a rollout by (revision, variant), all strata together."""
    sums: dict[tuple[int, str], dict[str, int]] = {}
    for place, counts in found["counts"].items():
        revision, _, variant = place.split("|")
        into = sums.setdefault((int(revision), variant), dict.fromkeys(counts, 0))
        for name, value in counts.items():
            into[name] += value
    return sums


@contextmanager
def slots_watched(tree: Tree, model: str) -> Iterator[list[int]]:
    """Looks at the slots all the time; gives every sum that it saw."""
    sums: list[int] = []
    stopping = threading.Event()

    def look() -> None:
        while not stopping.is_set():
            found = shown(tree, model, "policies")
            if "variants" in found:
                sums.append(sum(variant["slots"] for variant in found["variants"]))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield sums
    finally:
        stopping.set()
        thread.join(30)


def cli(tree: Tree, *arguments: str, text: str | None = None) -> "subprocess.CompletedProcess[str]":
    """A command of `tidegate`, about this server."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("TIDEGATE")}
    environment |= {"TIDEGATE_URL": tree.url, "TIDEGATE_ADMIN_URL": f"http://127.0.0.1:{tree.admin_port}"}
    return subprocess.run(
        [TIDEGATE, *arguments], capture_output=True, text=True, input=text, timeout=PATIENCE_S, env=environment
    )
