"""The bank's office, for the monitor's act: applications go in, and what became of the loans is reported later.

Each request is one applicant, whose age group is a header; labels go to POST /v1/feedback by the prediction's id.
`python -m examples.credit.office HOST:PORT` sends them to a server that runs; `--campaign` as after the campaign.
"""

import argparse
import itertools
import json
import multiprocessing
import random
import signal
import sys
import time
from collections import Counter, deque
from collections.abc import Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from threading import BrokenBarrierError
from typing import Any, Final

import numpy as np

from examples.credit.applicants import GROUPS, campaign, held_out, moved
from examples.credit.build import CREDIT, INPUT
from examples.credit.crowd import CUSTOMERS, TIMEOUT_S, Address, Line

PROCESSES: Final = 2
CONNECTIONS: Final = 4
"""Per process; each has one request under way."""
PER_SECOND: Final = 1_600
"""Applications of all processes together, where the machine can."""
VARIANTS: Final = 10
"""Of each loan of the held-out data, with other durations and amounts."""
LABEL_AFTER_S: Final = 4.0
"""From the decision until it is known whether the loan was repaid; months, in life."""
LABELS_AT_ONCE: Final = 500
GROUP_HEADER: Final = "x-age-group"
ROUND_S: Final = PROCESSES * CONNECTIONS / PER_SECOND


@dataclass
class Told:
    """What the office got; of one process or of all.

    Attributes:
        requests: sent. failed: no answer, or another status than 200.
        answers: with status 200, by variant and version.
        labels: outcome -> how many.
        problem: the first failure, in words.
    """

    requests: int = 0
    failed: int = 0
    answers: Counter[tuple[str, str]] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    problem: str = ""


def merged(parts: Iterable[Told]) -> Told:
    """All processes."""
    whole = Told()
    for part in parts:
        whole.requests += part.requests
        whole.failed += part.failed
        whole.answers += part.answers
        whole.labels += part.labels
        whole.problem = whole.problem or part.problem
    return whole


def application(row: list[float], group: str) -> bytes:
    """Everything of a request behind the customer's number."""
    shape = [1, len(row)]
    body = json.dumps({"inputs": [{"name": INPUT, "datatype": "FP32", "shape": shape, "data": row}]}).encode()
    return b"\r\n%s: %s\r\ncontent-length: %d\r\n\r\n%s" % (GROUP_HEADER.encode(), group.encode(), len(body), body)


def report(labels: Iterable[tuple[bytes, int]]) -> bytes:
    """A request that says what became of predictions."""
    items = [{"prediction_id": id.decode(), "label": label} for id, label in labels]
    body = json.dumps(items).encode()
    head = b"POST /v1/feedback HTTP/1.1\r\nhost: bank\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    return head % len(body) + body


class Clerk:
    """One process: asks on all its lines, then hears all of them; sends labels on a line of its own."""

    def __init__(self, address: Address, seed: int) -> None:
        self.told = Told()
        self._random = random.Random(seed)
        self._lines = [Line(address) for _ in range(CONNECTIONS)]
        self._reports = Line(address)
        self._reported = 0
        pool, rng = held_out(), np.random.default_rng(seed)
        variants = [moved(pool, rng).inputs.tolist() for _ in range(VARIANTS)]
        groups = [GROUPS[group] for group in pool.groups.tolist()]
        self._applications = [[application(rows[at], group) for rows in variants] for at, group in enumerate(groups)]
        self._labels = [int(one) for one in pool.defaulted.tolist()]
        self._everybody = range(len(groups))
        self._weights = list(itertools.accumulate(campaign(pool).tolist()))
        self._due: deque[tuple[float, bytes, int]] = deque()

    def round(self, changed: bool, now_s: float) -> None:
        """One request on each line."""
        draw = self._random
        weights = self._weights if changed else None
        chosen = draw.choices(self._everybody, cum_weights=weights, k=len(self._lines))
        for line, at in zip(self._lines, chosen, strict=True):
            head = b"POST /v2/models/%s/infer HTTP/1.1\r\nhost: bank\r\nx-user-id: customer-%d"
            line.send(head % (CREDIT.encode(), draw.randrange(CUSTOMERS)) + draw.choice(self._applications[at]))
        self.told.requests += len(chosen)
        for line, at in zip(self._lines, chosen, strict=True):
            self.note(self._labels[at], now_s, *line.receive())

    def note(self, label: int, now_s: float, status: int, headers: dict[bytes, bytes], body: bytes) -> None:
        """An answer; its label is due later."""
        told = self.told
        if status != 200:
            told.failed += 1
            told.problem = told.problem or f"status {status}: {body[:200]!r}"
            return
        variant = headers.get(b"x-tidegate-variant", b"-").decode()
        told.answers[variant, headers[b"x-tidegate-model"].rpartition(b":")[2].decode()] += 1
        id = headers.get(b"x-prediction-id")
        if id is not None:
            self._due.append((now_s + LABEL_AFTER_S, id, label))

    def report(self, now_s: float) -> None:
        """Send labels that are due, once there are enough for a body and the last body was answered."""
        if self._reported:
            self._hear()
        ready: list[tuple[bytes, int]] = []
        while self._due and self._due[0][0] <= now_s and len(ready) < LABELS_AT_ONCE:
            _, id, label = self._due.popleft()
            ready.append((id, label))
        if ready:
            self._reports.send(report(ready))
            self._reported = len(ready)

    def _hear(self) -> None:
        status, _, body = self._reports.receive()
        if status == 200:
            self.told.labels.update(json.loads(body)["counts"])
        else:
            self.told.labels["refused"] += self._reported
            self.told.problem = self.told.problem or f"feedback: status {status}: {body[:200]!r}"
        self._reported = 0

    def close(self) -> None:
        """Hang up."""
        if self._reported:
            self._hear()
        for line in (*self._lines, self._reports):
            line.close()


_shared: tuple[Any, ...]
"""Whether to stop, whether applicants have changed, requests by process, all are there; set by `_prepare`."""
_REPORT_S: Final = 0.25


def _prepare(*shared: Any) -> None:
    global _shared
    _shared = shared
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; who began this ends it


def _work(address: Address, number: int) -> Told:
    """One process, until it is told to stop."""
    stop, changed, sent, everybody = _shared
    clerk = Clerk(address, seed=number + 1)
    try:
        everybody.wait(TIMEOUT_S)
        due_s = reports_s = time.monotonic()
        while not stop.is_set():
            now_s = time.monotonic()
            clerk.round(bool(changed.value), now_s)
            if now_s >= reports_s:
                clerk.report(now_s)
                reports_s = now_s + _REPORT_S
            sent[number] = clerk.told.requests
            due_s = max(due_s + ROUND_S, time.monotonic() - ROUND_S)
            time.sleep(max(0.0, due_s - time.monotonic()))
        clerk.close()
    except (OSError, ValueError, KeyError, BrokenBarrierError) as problem:
        clerk.told.failed += 1
        clerk.told.problem = clerk.told.problem or f"{type(problem).__name__}: {problem}"
    return clerk.told


class Office:
    """All processes, from `__enter__` until `end`."""

    def __init__(self, address: Address) -> None:
        self._address = address
        context = multiprocessing.get_context("spawn")
        self._stop, self._changed = context.Event(), context.Value("i", 0, lock=False)
        self._sent = context.Array("q", PROCESSES, lock=False)
        shared = (self._stop, self._changed, self._sent, context.Barrier(PROCESSES))
        self._pool = ProcessPoolExecutor(PROCESSES, context, initializer=_prepare, initargs=shared)
        self._work: list[Future[Told]] = []

    def __enter__(self) -> "Office":
        """Begin to ask."""
        self._work = [self._pool.submit(_work, self._address, number) for number in range(PROCESSES)]
        return self

    def __exit__(self, *error: object) -> None:
        """End, whatever happened."""
        self._stop.set()
        self._pool.shutdown()

    @property
    def sent(self) -> int:
        """Applications so far."""
        return sum(self._sent)

    @property
    def is_over(self) -> bool:
        """Nobody asks any more."""
        return all(work.done() for work in self._work)

    def begin_campaign(self) -> None:
        """From now on other people ask."""
        self._changed.value = 1

    def end(self) -> Told:
        """Stop asking; what all were told. A process that died raises."""
        self._stop.set()
        return merged(work.result() for work in self._work)


def main() -> int:
    """The command line; the exit status is 1 when a request failed."""
    parser = argparse.ArgumentParser(description="Send loan applications to a server, and later what became of them.")
    parser.add_argument("address", metavar="HOST:PORT", help="data port")
    parser.add_argument("--seconds", type=float, default=30.0, help="how long [30]")
    parser.add_argument("--campaign", action="store_true", help="after the campaign: larger loans over a longer time")
    given = parser.parse_args()
    host, _, port = given.address.rpartition(":")
    with Office((host, int(port))) as office:
        if given.campaign:
            office.begin_campaign()
        until_s = time.monotonic() + given.seconds
        while time.monotonic() < until_s and not office.is_over:
            time.sleep(0.2)
        told = office.end()
    for (variant, version), count in sorted(told.answers.items()):
        print(f"{variant:8} version {version}  {count:>8,} answers")
    labels = ", ".join(f"{count:,} {outcome}" for outcome, count in sorted(told.labels.items()))
    print(f"{told.requests:,} requests, {told.failed} failed; labels: {labels or 'none'} {told.problem}".rstrip())
    return 1 if told.failed else 0


if __name__ == "__main__":
    sys.exit(main())
