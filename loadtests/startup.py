"""Start to ready, digest seen before or not, and memory per worker before traffic."""

import json
import shutil
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from loadtests import models, verdicts
from loadtests.processes import CpuWatch, Serve, Server, get
from loadtests.rounds import Record, Settings, quiet
from loadtests.verdicts import Verdict, series

WORKS = {
    "first": ("start to ready, tiny model, first time", "< 1.5 s", 1.5),
    "again": ("start to ready, tiny model, digest seen before", "< 1 s", 1.0),
}
MEMORY = ("memory per worker, tiny model, no traffic yet", "< 100 MB", 100e6)


@dataclass(frozen=True)
class StartRound:
    """One start; `rss_bytes` is that of the largest worker, None where the admin port did not say."""

    kind: str
    ready_s: float
    rss_bytes: int | None
    memory_note: str
    foreign_share: float


def measure(serve: Serve, settings: Settings, record: Record) -> list[Verdict]:
    """Starts in turn: with a fresh data directory, then again with the same."""
    print("start: start to ready", flush=True)
    repository = serve.folder / "start-models"
    models.put_version(repository, "tiny", 1, models.tiny())
    data_dir = serve.folder / "data-start"
    kept: list[StartRound] = []
    try:
        for _ in range(settings.rounds):
            for kind in WORKS:
                one = quiet("start", settings, record, partial(start_round, kind, serve, repository, data_dir))
                kept += [one] if one is not None else []
    except (RuntimeError, OSError) as error:
        works = {work: reach for work, reach, _ in (*WORKS.values(), MEMORY)}
        return verdicts.unmeasured(works, str(error))
    thrown = record.thrown_note("start", settings.max_foreign)
    return [start_verdict(kind, kept, thrown) for kind in WORKS] + [memory_verdict(kept, thrown)]


def start_round(kind: str, serve: Serve, repository: Path, data_dir: Path) -> StartRound:
    """From starting the command to the first 200 of the readiness page."""
    if kind == "first":
        shutil.rmtree(data_dir, ignore_errors=True)
    server = serve.server(repository, data_dir)
    started = time.monotonic()
    with server:
        watch = CpuWatch(server.pid)
        server.wait_ready()
        ready_s = time.monotonic() - started
        foreign = watch.spent().foreign_share
        rss, note = worker_memory(server)
    return StartRound(kind, ready_s, rss, note, foreign)


def worker_memory(server: Server) -> tuple[int | None, str]:
    """The largest worker's rss_bytes from the admin port, or None and why."""
    if server.admin_port is None:
        return None, "this server has no admin port"
    try:
        status, body = get(server.admin_port, "/admin/v1/workers")
        found = numbers_named("rss_bytes", json.loads(body)) if status == 200 else []
    except (OSError, ValueError) as error:
        return None, f"GET /admin/v1/workers: {error}"
    return (max(found), "") if found else (None, f"GET /admin/v1/workers: status {status}, no rss_bytes")


def numbers_named(name: str, value: Any) -> list[int]:
    """Every whole number under this key, however deep."""
    if isinstance(value, list):
        return [found for one in value for found in numbers_named(name, one)]
    if not isinstance(value, dict):
        return []
    here = [value[name]] if isinstance(value.get(name), int) else []
    return here + [found for one in value.values() for found in numbers_named(name, one)]


def start_verdict(kind: str, kept: list[StartRound], thrown: str) -> Verdict:
    """The median start of one kind."""
    work, reach, limit = WORKS[kind]
    seconds = [one.ready_s for one in kept if one.kind == kind]
    middle = verdicts.median(seconds)
    return Verdict(
        work,
        reach,
        verdicts.shown(middle, 2, "s"),
        verdicts.at_most(middle, limit),
        (f"s {series(seconds, 2)}", thrown),
    )


def memory_verdict(kept: list[StartRound], thrown: str) -> Verdict:
    """The median over starts of the largest worker."""
    work, reach, limit = MEMORY
    sizes = [float(one.rss_bytes) for one in kept if one.rss_bytes is not None]
    middle = verdicts.median(sizes)
    notes = tuple(sorted({one.memory_note for one in kept if one.memory_note}))
    values = (f"MB {series([size / 1e6 for size in sizes], 1)}", *notes, thrown)
    return Verdict(work, reach, verdicts.shown(middle / 1e6, 1, "MB"), verdicts.at_most(middle, limit), values)
