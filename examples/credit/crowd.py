"""Customers of a bank: processes that call one or more gateways, and note who answered whom.

Each request is one loan of one customer, whose id is a header. Plain sockets: a client library would take longer than
the gateway, and evidence is wanted within seconds. `python -m examples.credit.crowd HOST:PORT` sends them to a server
that runs.
"""

import argparse
import json
import multiprocessing
import random
import signal
import socket
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from threading import BrokenBarrierError
from typing import Any, Final

from examples.credit.build import CREDIT, INPUT
from examples.credit.features import FEATURE_NAMES, load

PROCESSES: Final = 3
CONNECTIONS: Final = 4
"""Per process; each has one request under way."""
PER_SECOND: Final = 4_000
"""Requests of all processes together, where the machine can: enough for evidence, and not all that it has."""
CUSTOMERS: Final = 40_000
CHOSEN: Final = 100
"""Customers whose every answer is looked at. Customer numbers from 0."""
CHOSEN_SHARE: Final = 0.03
LARGE_DM: Final = 30_000
"""Amount of a loan such as no training row has."""
TIMEOUT_S: Final = 20.0
ROUND_S: Final = PROCESSES * CONNECTIONS / PER_SECOND
"""Between the beginnings of two rounds of a process."""
ENDS: Final = ("PROMOTED", "ROLLED_BACK")
"""States of a rollout that has come to its end."""
_BODIES: Final = 200

Address = tuple[str, int]
Who = tuple[int, str, str]
"""Revision of the policy, variant, version."""


@dataclass
class Heard:
    """What the customers got; of one process or of all.

    Attributes:
        requests: sent.
        failed: no answer, or another status than 200.
        fallbacks: answered by stable because the canary had failed.
        answers: with status 200, by who gave them.
        chosen: (customer, revision) -> the variants that answered.
        problem: the first failure, in words.
    """

    requests: int = 0
    failed: int = 0
    fallbacks: int = 0
    answers: Counter[Who] = field(default_factory=Counter)
    chosen: dict[tuple[int, int], set[str]] = field(default_factory=dict)
    problem: str = ""


def merged(parts: Iterable[Heard]) -> Heard:
    """All processes."""
    whole = Heard()
    for part in parts:
        whole.requests += part.requests
        whole.failed += part.failed
        whole.fallbacks += part.fallbacks
        whole.answers += part.answers
        for key, variants in part.chosen.items():
            whole.chosen.setdefault(key, set()).update(variants)
        whole.problem = whole.problem or part.problem
    return whole


class Line:
    """One connection, one request at a time."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._socket = socket.create_connection(address, TIMEOUT_S)
        self._rest = b""

    def send(self, request: bytes) -> None:
        """Ask."""
        self._socket.sendall(request)

    def receive(self) -> tuple[int, dict[bytes, bytes], bytes]:
        """Status, headers with lower-case names, body. Opens anew when the server wants that.

        Raises:
            OSError: nothing came within `TIMEOUT_S`, or the connection broke.
        """
        head, body = self._until(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        pairs = (line.split(b": ", 1) for line in lines[1:])
        headers = {name.lower(): value for name, value in pairs}
        length = int(headers[b"content-length"])
        while len(body) < length:
            body += self._more()
        self._rest = body[length:]
        if headers.get(b"connection", b"").lower() == b"close":
            self.close()
            self._socket, self._rest = socket.create_connection(self._address, TIMEOUT_S), b""
        return int(lines[0].split(b" ", 2)[1]), headers, body[:length]

    def _until(self, mark: bytes) -> tuple[bytes, bytes]:
        data = self._rest
        while mark not in data:
            data += self._more()
        head, _, rest = data.partition(mark)
        return head, rest

    def _more(self) -> bytes:
        data = self._socket.recv(65536)
        if not data:
            raise ConnectionError("the server closed the connection before it had answered")
        return data

    def close(self) -> None:
        """Hang up."""
        self._socket.close()


def bodies(large: bool) -> list[bytes]:
    """Loans to ask for, as they go over the wire; `large` ones are above every loan of the data."""
    rows = load().inputs[:_BODIES].copy()
    if large:
        rows[:, FEATURE_NAMES.index("credit_amount_dm")] += LARGE_DM
    shape = [1, rows.shape[1]]
    return [
        json.dumps({"inputs": [{"name": INPUT, "datatype": "FP32", "shape": shape, "data": row}]}).encode()
        for row in rows.tolist()
    ]


def request(customer: int, body: bytes) -> bytes:
    """A loan of a customer."""
    return (
        b"POST /v2/models/%s/infer HTTP/1.1\r\nhost: bank\r\nx-user-id: customer-%d\r\ncontent-length: %d\r\n\r\n%s"
        % (
            CREDIT.encode(),
            customer,
            len(body),
            body,
        )
    )


class Caller:
    """One process: asks on all its lines, then hears all of them."""

    def __init__(self, addresses: Sequence[Address], seed: int) -> None:
        self.heard = Heard()
        self._random = random.Random(seed)
        self._lines = [Line(addresses[number % len(addresses)]) for number in range(CONNECTIONS)]
        self._usual, self._large = bodies(large=False), bodies(large=True)

    def round(self, large_permille: int) -> None:
        """One request on each line."""
        draw = self._random
        customers = []
        for line in self._lines:
            chosen = draw.random() < CHOSEN_SHARE
            customer = draw.randrange(CHOSEN) if chosen else draw.randrange(CUSTOMERS)
            loans = self._large if draw.randrange(1000) < large_permille else self._usual
            line.send(request(customer, loans[draw.randrange(_BODIES)]))
            customers.append(customer)
        self.heard.requests += len(customers)
        for line, customer in zip(self._lines, customers, strict=True):
            self.note(customer, *line.receive())

    def note(self, customer: int, status: int, headers: dict[bytes, bytes], body: bytes) -> None:
        """An answer."""
        heard = self.heard
        if status != 200:
            heard.failed += 1
            heard.problem = heard.problem or f"status {status}: {body[:200]!r}"
            return
        revision = int(headers.get(b"x-tidegate-revision", b"0"))
        variant = headers.get(b"x-tidegate-variant", b"-").decode()
        heard.answers[revision, variant, headers[b"x-tidegate-model"].rpartition(b":")[2].decode()] += 1
        if b"x-served-by" in headers:
            heard.fallbacks += 1
        elif customer < CHOSEN:
            heard.chosen.setdefault((customer, revision), set()).add(variant)

    def close(self) -> None:
        """Hang up."""
        for line in self._lines:
            line.close()


_shared: tuple[Any, ...]
"""Whether to stop, large loans of 1000, requests by process, all are there; set in each process by `_prepare`."""


def _prepare(*shared: Any) -> None:
    global _shared
    _shared = shared
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; who began this ends it


def _work(addresses: Sequence[Address], number: int) -> Heard:
    """One process, until it is told to stop."""
    stop, large, sent, everybody = _shared
    caller = Caller(addresses, seed=number)
    try:
        everybody.wait(TIMEOUT_S)  # a process that starts takes time from those that ask, and they would seem slow
        due_s = time.monotonic()
        while not stop.is_set():
            caller.round(large.value)
            sent[number] = caller.heard.requests
            due_s = max(due_s + ROUND_S, time.monotonic() - ROUND_S)
            time.sleep(max(0.0, due_s - time.monotonic()))
    except (OSError, ValueError, KeyError, BrokenBarrierError) as problem:
        caller.heard.failed += 1
        caller.heard.problem = caller.heard.problem or f"{type(problem).__name__}: {problem}"
    finally:
        caller.close()
    return caller.heard


class Crowd:
    """All processes, from `__enter__` until `end`."""

    def __init__(self, addresses: Sequence[Address]) -> None:
        self._addresses = tuple(addresses)
        context = multiprocessing.get_context("spawn")
        self._stop, self._large = context.Event(), context.Value("i", 0, lock=False)
        self._sent = context.Array("q", PROCESSES, lock=False)
        self._pool = ProcessPoolExecutor(
            PROCESSES,
            context,
            initializer=_prepare,
            initargs=(self._stop, self._large, self._sent, context.Barrier(PROCESSES)),
        )
        self._work: list[Future[Heard]] = []

    def __enter__(self) -> "Crowd":
        """Begin to call."""
        self._work = [self._pool.submit(_work, self._addresses, number) for number in range(PROCESSES)]
        return self

    def __exit__(self, *error: object) -> None:
        """End, whatever happened."""
        self._stop.set()
        self._pool.shutdown()

    @property
    def sent(self) -> int:
        """Requests so far."""
        return sum(self._sent)

    def wait(self, requests: int = 1) -> None:
        """Until so many were sent, or nobody calls any more, or `TIMEOUT_S` are over."""
        until_s = time.monotonic() + TIMEOUT_S
        while self.sent < requests and time.monotonic() < until_s and not all(work.done() for work in self._work):
            time.sleep(ROUND_S)

    def ask_for_large_loans(self, permille: int) -> None:
        """From now on so many of 1000 requests are for a loan that is larger than any before."""
        self._large.value = permille

    def end(self) -> Heard:
        """Stop calling; what all have heard. A process that died raises."""
        self._stop.set()
        return merged(work.result() for work in self._work)


def main() -> int:
    """The command line; the exit status is 1 when a request failed."""
    parser = argparse.ArgumentParser(description="Send loans of customers to a server, and count who answers.")
    parser.add_argument("address", metavar="HOST:PORT", help="data port")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long [10]")
    parser.add_argument("--admin", metavar="HOST:PORT", help="admin port; ends as soon as the rollout has")
    given = parser.parse_args()
    host, _, port = given.address.rpartition(":")
    with Crowd([(host, int(port))]) as crowd:
        crowd.wait()
        until_s = time.monotonic() + given.seconds
        while time.monotonic() < until_s and not (given.admin and is_over(given.admin)):
            time.sleep(0.2)
        heard = crowd.end()
    for (revision, variant, version), count in sorted(heard.answers.items()):
        print(f"revision {revision}  {variant:8} version {version}  {count:>8,} answers")
    print(f"{heard.requests:,} requests, {heard.failed} failed {heard.problem}".rstrip())
    return 1 if heard.failed else 0


def is_over(admin: str) -> bool:
    """Whether the rollout has come to its end."""
    with urllib.request.urlopen(f"http://{admin}/admin/v1/rollouts", timeout=10) as answer:
        return any(one["name"] == CREDIT and one["state"] in ENDS for one in json.loads(answer.read()))


if __name__ == "__main__":
    sys.exit(main())
