"""What the drift monitor costs: the same model with a reference and without, and with a policy besides, in turn."""

import csv
import json
import subprocess
import sys
import urllib.request
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np

from loadtests import models, verdicts, wrk
from loadtests.processes import Serve, Server, echo_server
from loadtests.rounds import LoadRound, Record, Settings, load_round, quiet
from loadtests.routing import put
from loadtests.verdicts import Verdict, series

FEATURES, ROWS = 20, 20_000
WORK, REACH, LEAST = f"monitor on against off, 1x{FEATURES} JSON, 32 connections", ">= 0.96 x requests/s", 0.96
ALL_WORK, ALL_REACH, ALL_LEAST = "policy, metrics and monitor on against off", ">= 0.87 x requests/s", 0.87
UNNAMED_WORK = "the same, answers without prediction ids"
ECHO_WORK, ECHO_REACH, ECHO_LEAST = "policy, metrics and monitor on, 1x20 JSON, 32 connections", ">= 1.2 x echo", 1.2
SIZES = (FEATURES, 32, 1)
NAMES = ("plain", "watched", "unnamed", "all")


def with_reference(repository: Path, name: str, folder: Path) -> None:
    """Make a reference of normal rows, as its owner would: with the command."""
    table = folder / "held_out.csv"
    if not table.exists():
        rows = np.random.default_rng(models.SEED).standard_normal((ROWS, FEATURES)).astype(np.float32)
        with table.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow([f"f{at}" for at in range(FEATURES)])
            writer.writerows(rows.tolist())
    command = [str(Path(sys.executable).with_name("tidegate")), "monitor", "fit", "--data", str(table)]
    version = repository / name / "1"
    subprocess.run(
        [*command, "--model", str(version), "--out", str(version / "reference.npz")], check=True, capture_output=True
    )


def measure(serve: Serve, settings: Settings, record: Record) -> list[Verdict]:
    """Interleaved rounds: without, with the monitor, with it and no ids, with monitor and policy, and echo.

    Two starts of one build differ by 2 % in what a path costs: where its memory lies. Rounds of all starts count alike.
    """
    repository = serve.folder / "monitor-models"
    kept: dict[str, list[LoadRound]] = {name: [] for name in (*NAMES, "echo")}
    try:
        for name in NAMES:
            put_model(repository, name, serve.folder)
        for start in range(settings.starts):
            one_start(serve, repository, start, settings, record, kept)
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        return verdicts.unmeasured(
            {WORK: REACH, UNNAMED_WORK: REACH, ALL_WORK: ALL_REACH, ECHO_WORK: ECHO_REACH}, str(error)
        )
    return [
        judged(WORK, REACH, LEAST, kept["watched"], kept["plain"]),
        judged(UNNAMED_WORK, REACH, LEAST, kept["unnamed"], kept["plain"]),
        judged(ALL_WORK, ALL_REACH, ALL_LEAST, kept["all"], kept["plain"]),
        judged(ECHO_WORK, ECHO_REACH, ECHO_LEAST, kept["all"], kept["echo"]),
    ]


def put_model(repository: Path, name: str, folder: Path) -> None:
    """Two versions; but for the plain model, the first has a reference."""
    for version in (1, 2):
        model = models.dense(SIZES, models.SEED + version, sigmoid=True)
        models.put_version(repository, name, version, model)
    features = ", ".join(f"f{at}" for at in range(FEATURES))
    said = f"version_policy:\n  specific: [1, 2]\nfeature_names:\n  x: [{features}]\n"
    (repository / name / "model.yaml").write_text(said)
    if name != "plain":
        with_reference(repository, name, folder)


def one_start(
    serve: Serve, repository: Path, start: int, settings: Settings, record: Record, kept: dict[str, list[LoadRound]]
) -> None:
    """All rounds of one start of the server, added to `kept`."""
    with ExitStack() as stack:
        server = stack.enter_context(serve.server(repository, serve.folder / f"data-monitor-{start}"))
        server.wait_ready()
        echo = stack.enter_context(echo_server(serve.folder))
        echo.wait_ready()
        put(server, "all", {"stable": 10_000})
        without_ids(server, "unnamed")
        payloads = {name: models.json_payload(name, FEATURES) for name in NAMES}
        for name in ("plain", "watched", "unnamed"):
            # The version that has a reference: without a policy the newest one would answer.
            payload = payloads[name]
            path = payload.path.replace("/infer", "/versions/1/infer")
            payloads[name] = models.Payload(path, payload.body, payload.headers)
        for payload in payloads.values():
            wrk.run(payload, server.port, 32, 1, settings.folder)
        sides = [(name, server, payload) for name, payload in payloads.items()]
        sides.append(("echo", echo, payloads["all"]))
        for _ in range(settings.rounds):
            for name, side, payload in sides:
                run = quiet(f"monitor {name}", settings, record, partial(load_round, side, payload, 32, settings))
                kept[name].extend([run] if run is not None else [])


def without_ids(server: Server, name: str) -> None:
    """Ask the monitor for no labels; before the rounds are warm its workers know."""
    head = {"apiVersion": "tidegate/v1", "kind": "Monitor", "metadata": {"name": name}}
    body = json.dumps({**head, "spec": {"labels": {"ids": False}}}).encode()
    url = f"http://127.0.0.1:{server.admin_port}/admin/v1/monitors/{name}"
    with urllib.request.urlopen(urllib.request.Request(url, body, method="PUT"), timeout=10):
        pass


def judged(work: str, reach: str, least: float, on: list[LoadRound], off: list[LoadRound]) -> Verdict:
    """Ratio of medians."""
    rates = [one.requests_per_second for one in on], [one.requests_per_second for one in off]
    ratio = verdicts.median(rates[0]) / verdicts.median(rates[1])
    errors = sum(one.errors for one in (*on, *off))
    lines = (
        f"on req/s {series(rates[0])}",
        f"off req/s {series(rates[1])}",
        f"on CPU us {series([one.cpu_us_per_request for one in on], 1)}",
        f"off CPU us {series([one.cpu_us_per_request for one in off], 1)}",
        f"on p99 us {series([one.p99_us for one in on])}",
        f"off p99 us {series([one.p99_us for one in off])}",
    )
    outcome = verdicts.faultless(verdicts.at_least(ratio, least), errors)
    return Verdict(work, reach, verdicts.shown(ratio, 3, "x requests/s"), outcome, lines)
