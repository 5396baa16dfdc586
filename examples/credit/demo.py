"""The demo: train models, start a server, send traffic, check every answer, print a report, stop the server.

`python -m examples.credit.demo`, or `make demo`. KEEP=1 in the environment leaves the server running on 8080 and 8081.
The exit status is 0 only when everything was right.
"""

import json
import os
import signal
import sys
import time
from collections import Counter
from concurrent.futures import BrokenExecutor
from pathlib import Path
from threading import BrokenBarrierError
from typing import Final

from rich.console import Console

from examples.credit import report, traffic
from examples.credit.build import CREDIT, INPUT, build
from examples.credit.server import POLL_SECONDS, Served, Server, ServerProblem, choose_ports, start

FOLDER: Final = Path("demo-data")
SETTLE_SECONDS: Final = 2.0
"""A worker counts an answer just after sending it, so the last ones may be missing for a moment."""


def settled_counts(server: Server, wanted: Counter[Served]) -> Counter[Served]:
    """The server's count of answers; asked again for a moment while it differs from the clients'."""
    until = time.monotonic() + SETTLE_SECONDS
    while (counts := server.answered()) != wanted and time.monotonic() < until:
        time.sleep(POLL_SECONDS)
    return +counts


def exercise(server: Server, repository: Path, screen: Console) -> list[report.Check]:
    """Send the traffic and report it from both sides."""
    todo = traffic.jobs()
    screen.print(f"sending {sum(job.requests for job in todo) * traffic.PROCESSES:,} requests "
                 f"of 1 to {traffic.MAX_ROWS} rows from {traffic.PROCESSES} processes ...\n")  # fmt: skip
    tallies = traffic.send(server.address, repository, todo)
    screen.print(report.traffic_table(todo, tallies, traffic.PROCESSES))
    requests, rows = report.client_counts(todo, tallies)
    counted = settled_counts(server, requests)
    statistics = server.statistics()
    screen.print(report.statistics_table(statistics))
    screen.print(report.workers_table(server.workers()))
    for problem in report.problems(todo, tallies):
        screen.print(f"problem: {problem}")
    served = Counter({(one["name"], one["version"]): int(one["inference_count"]) for one in statistics})
    return [
        *report.traffic_checks(tallies),
        report.count_check("answers (tidegate_requests_total)", requests, counted),
        report.count_check("rows (inference_count)", rows, +served),
    ]


def curl(server: Server) -> str:
    """A call to paste into a shell: one real application."""
    row = [round(value, 4) for value in traffic.sample_rows(CREDIT)[0].tolist()]
    body = {"inputs": [{"name": INPUT, "shape": [1, len(row)], "datatype": "FP32", "data": row}]}
    return f"curl -s {server.url}/v2/models/{CREDIT}/infer -d '{json.dumps(body, separators=(',', ':'))}'"


def farewell(server: Server, screen: Console) -> None:
    """How to go on with a server that stays."""
    screen.print(f"\nthe server goes on: {server.url} (admin {server.admin_url}, metrics {server.url}/metrics)")
    screen.print(f"stop it with: kill {server.process.pid}\ntry:")
    screen.print(curl(server), soft_wrap=True)


def run(keep: bool, screen: Console) -> list[report.Check]:
    """Everything; the server ends with it unless it is kept and all is well."""
    repository = FOLDER / "models"
    build(repository, lambda line: screen.print(f"  {line}"))
    ports = choose_ports(keep)
    log = FOLDER / f"server-{ports[0]}.log"  # that of a server kept earlier stays
    server = start(repository, FOLDER / "state", log, ports)
    try:
        screen.print(f"\nserver {server.url} (process {server.process.pid}, log {log}) ...")
        screen.print(f"ready after {server.wait_ready():.1f} s")
        checks = exercise(server, repository, screen)
    except BaseException:
        server.end()
        raise
    if keep and all(good for _, good in checks):
        farewell(server, screen)
        return checks
    return [*checks, (f"the server stopped with status 0, {server.stop():.1f} s after SIGTERM", True)]


def main() -> int:
    """Exit status."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    screen, started = report.console(), time.monotonic()
    screen.print(f"building models in {FOLDER / 'models'}")
    try:
        checks = run(os.environ.get("KEEP", "") not in ("", "0"), screen)
    except (ServerProblem, BrokenExecutor, BrokenBarrierError, OSError) as problem:
        checks = [(str(problem) or type(problem).__name__, False)]
    screen.print()
    for sentence, good in checks:
        screen.print(f"{'ok    ' if good else 'FAILED'}  {sentence}", soft_wrap=True)
    screen.print(f"\n{time.monotonic() - started:.1f} s in all")
    return 0 if all(good for _, good in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
