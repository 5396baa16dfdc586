"""What the demo prints: tables that stay readable in a file, and the checks that decide its exit status."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from rich import box
from rich.console import Console
from rich.table import Table

from examples.credit.server import Served
from examples.credit.traffic import TOLERANCE, Job, Tally

COLUMNS: Final = 120
"""Least width of the tables."""

Check = tuple[str, bool]
"""A sentence, and whether it holds."""


def console() -> Console:
    """For this terminal or a file, never so narrow that numbers are cut. No markup: messages may hold brackets."""
    plain = partial(Console, markup=False, highlight=False, emoji=False)
    found = plain()
    return found if found.is_terminal and found.width > COLUMNS else plain(width=COLUMNS)


def table(title: str, names: Sequence[str], rows: Iterable[Sequence[str]], words: int) -> Table:
    """The first `words` columns hold words, the others numbers."""
    found = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE, collapse_padding=True)
    for place, name in enumerate(names):
        found.add_column(name, justify="left" if place < words else "right", no_wrap=True)
    for row in rows:
        found.add_row(*row)
    return found


def number(value: float, digits: int = 2) -> str:
    """With thousands separated; - where there is none."""
    return "-" if math.isnan(value) else f"{value:,.{digits}f}"


def traffic_table(todo: Sequence[Job], tallies: Sequence[Tally], processes: int) -> Table:
    """One line per job."""
    names = ["model", "asked", "version", "encoding", "requests", "rows", "errors", "wrong",
             "p50 ms", "p95 ms", "p99 ms", "req/s"]  # fmt: skip
    rows = [
        [job.model, job.asked or "-", job.version, job.encoding]
        + [number(value, 0) for value in (tally.requests, tally.rows, tally.errors, tally.wrong)]
        + [number(tally.percentile_ms(share)) for share in (50, 95, 99)]
        + [number(tally.per_second, 0)]
        for job, tally in zip(todo, tallies, strict=True)
    ]
    return table(f"Traffic, seen by {processes} client processes (tritonclient's own time included)", names, rows, 4)


def _mean(total: float, count: float) -> float:
    return total / count if count else float("nan")


def _statistics_row(one: Mapping[str, Any]) -> list[str]:
    parts, rows, executions = one["inference_stats"], one["inference_count"], one["execution_count"]
    means_us = [_mean(parts[name]["ns"], parts[name]["count"]) / 1e3 for name in ("success", "queue", "compute_infer")]
    counts = [number(value, 0) for value in (parts["success"]["count"], rows, executions)]
    return [one["name"], one["version"], *counts, number(_mean(rows, executions)), *(number(us, 0) for us in means_us)]


def statistics_table(statistics: Iterable[Mapping[str, Any]]) -> Table:
    """One line per model version."""
    names = ["model", "version", "requests", "rows", "executions", "rows/exec.", "answer us", "queue us", "run us"]
    title = "The same, seen by the server (/v2/models/stats; times are means per request)"
    return table(title, names, map(_statistics_row, statistics), 2)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return number(value)
    if isinstance(value, list | dict):
        return str(len(value))
    return "-" if value in (None, "") else str(value)


def workers_table(workers: Sequence[Mapping[str, Any]]) -> Table:
    """Whatever the admin port says of each worker; lists as their length."""
    names = list(workers[0]) if workers else []
    rows = ([_cell(worker.get(name)) for name in names] for worker in workers)
    return table("Workers (/admin/v1/workers)", names, rows, 0)


def client_counts(todo: Sequence[Job], tallies: Sequence[Tally]) -> tuple[Counter[Served], Counter[Served]]:
    """Answered requests and their rows per model version, as the clients counted them."""
    requests: Counter[Served] = Counter()
    rows: Counter[Served] = Counter()
    for job, tally in zip(todo, tallies, strict=True):
        requests[job.model, job.version] += tally.answered
        rows[job.model, job.version] += tally.ok_rows
    return requests, rows


def traffic_checks(tallies: Sequence[Tally]) -> list[Check]:
    """Nothing failed, nothing was wrong."""
    total, errors, wrong = (sum(getattr(one, name) for one in tallies) for name in ("requests", "errors", "wrong"))
    difference = max((one.max_difference for one in tallies), default=0.0)
    return [
        (f"{total:,} requests sent, {errors} errors", total > 0 and errors == 0),
        (
            f"every answer compared with ONNX Runtime here: {wrong} wrong, "
            f"largest difference {difference:.1e} (allowed {TOLERANCE:.0e})",
            wrong == 0,
        ),
    ]


def count_check(what: str, clients: Counter[Served], server: Counter[Served]) -> Check:
    """Client and server counted the same, per model version."""
    if clients == server:
        return f"clients and server count the same {what}: {clients.total():,}", True
    differing = sorted({key for key in clients | server if clients[key] != server[key]})
    shown = ", ".join(
        f"{name}:{version} {clients[name, version]} / {server[name, version]}" for name, version in differing
    )
    return f"clients and server count different {what}: {shown}", False


def problems(todo: Sequence[Job], tallies: Sequence[Tally]) -> list[str]:
    """The first error or wrong answer of each job that had any."""
    return [
        f"{job.model} {job.asked or '-'} {job.encoding}: {tally.problem}"
        for job, tally in zip(todo, tallies, strict=True)
        if tally.problem
    ]
