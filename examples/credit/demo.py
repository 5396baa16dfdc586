"""The demo, in four acts: models are served and every answer is checked; evidence decides which of three new versions
becomes stable; the drift monitor tells a bad version from a changed world; two gateways that share a Redis decide
together.

`python -m examples.credit.demo`, or `make demo`. KEEP=1 in the environment leaves the server of act three running on
8080 and 8081. The exit status is 0 only when everything was right.
"""

import json
import os
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import BrokenExecutor
from pathlib import Path
from threading import BrokenBarrierError
from typing import Final

from rich.console import Console

from examples.credit import bank, monitored, report, shared, traffic, validated
from examples.credit.build import CREDIT, INPUT, build
from examples.credit.receiver import receiver
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


def farewell(server: Server, screen: Console) -> None:
    """How to go on with a server that stays."""
    monitor = f"{server.admin_url}/admin/v1/monitors/{CREDIT}"
    screen.print(f"\nthe server of act three goes on: {server.url}")
    screen.print(f"admin: {server.admin_url}, metrics: {server.url}/metrics")
    screen.print(f"monitor: {monitor}?format=html\n  as JSON: {monitor}\n  why it says so: {monitor}/explain")
    screen.print(f"stop it with: kill {server.process.pid}")
    screen.print("try more applicants, a customer's loan, the monitor, the rollout, the policy in force:")
    for command in tries(server):
        screen.print(command, soft_wrap=True)


def tries(server: Server) -> list[str]:
    """Commands to paste into a shell."""
    row = [round(value, 4) for value in traffic.sample_rows(CREDIT)[0].tolist()]
    body = {"inputs": [{"name": INPUT, "shape": [1, len(row)], "datatype": "FP32", "data": row}]}
    loan = json.dumps(body, separators=(",", ":"))
    return [
        f"{sys.executable} -m examples.credit.office {server.address} --seconds 10",
        f"curl -si {server.url}/v2/models/{CREDIT}/infer -H 'x-user-id: customer-7' -d '{loan}'",
        f"{Path(sys.executable).with_name('tidegate')} monitor status {CREDIT}",
        f"curl -s {server.admin_url}/admin/v1/monitors/{CREDIT}",
        f"curl -s {server.admin_url}/admin/v1/rollouts/{CREDIT}",
        f"curl -s {server.admin_url}/admin/v1/policies/{CREDIT}",
    ]


def fresh(folder: Path) -> Path:
    """The folder, with nothing in it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def launch(repository: Path, ports: tuple[int, int], screen: Console, **settings: str) -> Server:
    """A server that is ready, with a new data folder; those of a server kept earlier stay, for it has other ports.

    Args:
        settings: further ones, as variables of its environment.
    """
    log = FOLDER / f"server-{ports[0]}.log"
    server = start(repository, fresh(FOLDER / f"state-{ports[0]}"), log, ports, settings=settings)
    screen.print(f"\nserver {server.url} (process {server.process.pid}, log {log}) ...")
    try:
        screen.print(f"ready after {server.wait_ready():.1f} s")
    except BaseException:
        server.end()
        raise
    return server


def stopped(server: Server) -> report.Check:
    """Stop it; raises ServerProblem when it does not stop as it should."""
    return f"the server stopped with status 0, {server.stop():.1f} s after SIGTERM", True


def act_one(ports: tuple[int, int], screen: Console) -> list[report.Check]:
    """Models are served, and every answer is checked."""
    screen.print(
        f"Act one: two versions of a model, and every answer is checked\n\nbuilding models in {FOLDER / 'models'}"
    )
    repository = FOLDER / "models"
    build(repository, lambda line: screen.print(f"  {line}"))
    server = launch(repository, ports, screen)
    try:
        checks = exercise(server, repository, screen)
    except BaseException:
        server.end()
        raise
    return [*checks, stopped(server)]


def act_two(ports: tuple[int, int], screen: Console) -> list[report.Check]:
    """New versions are tried on customers."""
    screen.print("\nAct two: a bank tries three new versions on its customers, and evidence decides")
    bank.models(FOLDER / "bank")
    server = launch(FOLDER / "bank", ports, screen)
    try:
        checks = bank.play([server], bank.PLANS, screen)[1]
    except BaseException:
        server.end()
        raise
    return [*checks, stopped(server)]


def act_three(ports: tuple[int, int], screen: Console) -> tuple[Server, list[report.Check]]:
    """The drift monitor watches; the server goes on."""
    screen.print("\nAct three: the drift monitor tells a bad version from a changed world")
    validated.models(FOLDER / "watched")
    secret = FOLDER.absolute() / "webhook-secret"
    secret.touch(0o600)
    secret.write_text(secrets.token_hex(16))
    server = launch(FOLDER / "watched", ports, screen, TIDEGATE_ALERTS__WEBHOOK_SECRET_FILE=str(secret))
    try:
        with receiver(secret.read_bytes()) as told:
            return server, monitored.act(server, told, secret, screen)
    except BaseException:
        server.end()
        raise


def act_four(screen: Console) -> list[report.Check]:
    """Two gateways, one store."""
    screen.print("\nAct four: act two again, decided by two gateways that share a Redis")
    with tempfile.TemporaryDirectory(prefix="shared-", dir=FOLDER) as folder:
        return shared.act(FOLDER / "bank", Path(folder), screen)


def run(keep: bool, screen: Console) -> list[report.Check]:
    """Everything; all servers end with it, but that of act three when it is kept and all is well."""
    ports = choose_ports(keep)
    checks = [*act_one(ports, screen), *act_two(ports, screen)]
    server, watched = act_three(ports, screen)
    checks += watched
    if not keep:
        return [*checks, stopped(server), *act_four(screen)]
    try:
        checks += act_four(screen)
    except BaseException:
        server.end()
        raise
    if not all(good for _, good in checks):
        return [*checks, stopped(server)]
    farewell(server, screen)
    return checks


def main() -> int:
    """Exit status."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    screen, started = report.console(), time.monotonic()
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
