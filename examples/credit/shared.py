"""Act four of the demo: two gateways that share a Redis decide act two again together."""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from examples.credit.admin import Admin
from examples.credit.bank import PLANS, play
from examples.credit.report import Check
from examples.credit.server import HOST, POLL_SECONDS, Server, ServerProblem, any_two_ports, start

GATEWAYS: Final = 2
AGREE_SECONDS: Final = 5.0
_START_SECONDS: Final = 10.0
AGREED: Final = ("identity", "state", "revision", "generation", "slots", "stable", "canary")
"""What two nodes must say alike of a rollout."""


@contextmanager
def redis(folder: Path) -> Iterator[str]:
    """A redis-server of its own, in memory; its URL.

    Raises:
        ServerProblem: it does not answer.
    """
    port = any_two_ports()[0]
    command = [
        "redis-server",
        "--port",
        str(port),
        "--bind",
        HOST,
        "--save",
        "",
        "--appendonly",
        "no",
        "--dir",
        str(folder),
    ]
    with (folder / "redis.log").open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        until = time.monotonic() + _START_SECONDS
        while not _answers(port):
            if process.poll() is not None or time.monotonic() > until:
                raise ServerProblem(f"redis-server did not start; see {folder / 'redis.log'}")
            time.sleep(POLL_SECONDS)
        yield f"redis://{HOST}:{port}/0"
    finally:
        process.terminate()
        process.wait()


def _answers(port: int) -> bool:
    try:
        with socket.create_connection((HOST, port), 1) as line:
            line.sendall(b"PING\r\n")
            return line.recv(16).startswith(b"+PONG")
    except OSError:
        return False


def act(repository: Path, folder: Path, screen: Console) -> list[Check]:
    """Versions 2 to 4 tried by two gateways; one line instead where there is no redis-server."""
    if shutil.which("redis-server") is None:
        screen.print("skipped: there is no redis-server on this machine, so two gateways have no store to share")
        return []
    with redis(folder) as url:
        servers: list[Server] = []
        try:
            for number in range(GATEWAYS):
                state = folder / f"gateway-{number + 1}"
                servers.append(
                    start(repository, state, state.with_suffix(".log"), any_two_ports(), workers=1, store=url)
                )
            for server in servers:
                server.wait_ready()
            screen.print(f"two gateways with the store {url}: {' and '.join(server.url for server in servers)}")
            _, checks = play(servers, PLANS, screen)
            checks += agreement(servers)
        except BaseException:
            for server in servers:
                server.end()
            raise
        for server in servers:
            server.stop()
    checks.append(("both stopped with status 0", True))
    return [(f"two gateways: {sentence}", good) for sentence, good in checks]


def agreement(servers: list[Server]) -> list[Check]:
    """Both say the same of the rollout, one of them leads, and both have answered customers."""
    until = time.monotonic() + AGREE_SECONDS
    while not is_agreed(views := [Admin(server.admin_url).rollout() for server in servers]):
        if time.monotonic() > until:
            break
        time.sleep(POLL_SECONDS)
    said = {name: [view[name] for view in views] for name in AGREED}
    answered = [server.answered().total() for server in servers]
    leaders = sum(bool(view["leads"]) for view in views)
    return [
        (f"both say {said['state'][0]} at revision {said['revision'][0]}, and {leaders} of them leads",
         is_agreed(views) and leaders == 1),
        (f"both answered customers: {answered[0]:,} and {answered[1]:,}", min(answered) > 0),
    ]  # fmt: skip


def is_agreed(views: list[dict[str, Any]]) -> bool:
    """All say the same."""
    return all(view[name] == views[0][name] for view in views for name in AGREED)
