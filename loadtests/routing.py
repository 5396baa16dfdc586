"""What a traffic policy costs: the same model with a policy and without, in one server, in turn."""

import json
import time
import urllib.request
from contextlib import ExitStack
from functools import partial
from typing import Any

from loadtests import models, verdicts, wrk
from loadtests.processes import Serve, Server
from loadtests.rounds import LoadRound, Record, Settings, load_round, quiet
from loadtests.verdicts import Verdict, series

WORK, REACH, LEAST = "routing on against off, 1x24 JSON, 32 connections", ">= 0.96 x requests/s", 0.96
UNNAMED_WORK = "the same, answers without prediction ids"
SPLIT_WORK = "the same with 10 % of the users on a second version"
_PATIENCE_S = 30.0


def policy(name: str, shares: dict[str, int], *, ids: bool = True) -> dict[str, Any]:
    """A sticky user in a header and five header rules that do not match."""
    rules = [
        {"name": f"r{i}", "match": [{"headers": {f"x-rule-{i}": {"exact": "1"}}}], "route": {"variant": "stable"}}
        for i in range(5)
    ]
    variants = [{"name": "stable", "model": f"{name}:1"}, {"name": "canary", "model": f"{name}:2"}]
    spec: dict[str, Any] = {"variants": variants, "unit": {"from": [{"header": "x-user-id"}]}, "rules": rules}
    spec |= {"split": shares, "feedback": {"ids": ids}}
    return {"apiVersion": "tidegate/v1", "kind": "TrafficPolicy", "metadata": {"name": name}, "spec": spec}


def put(server: Server, name: str, shares: dict[str, int], *, ids: bool = True) -> None:
    """Apply a policy and wait until every worker acts on it."""
    body = json.dumps(policy(name, shares, ids=ids)).encode()
    url = f"http://127.0.0.1:{server.admin_port}/admin/v1/policies/{name}"
    end = time.monotonic() + _PATIENCE_S
    while True:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, body, method="PUT"), timeout=10) as answer:
                if json.loads(answer.read())["in_force_everywhere"]:
                    return
        except OSError as error:
            if time.monotonic() > end:
                raise RuntimeError(f"the policy was not put in force: {error}") from error


def measure(serve: Serve, settings: Settings, record: Record) -> list[Verdict]:
    """Interleaved rounds: without, with one variant, with it and no ids, with two."""
    repository = serve.folder / "routing-models"
    kept: dict[str, list[LoadRound]] = {"plain": [], "routed": [], "unnamed": [], "split": []}
    for name in kept:
        for version in (1, 2):
            models.put_version(repository, name, version, models.tiny(models.SEED + version))
        (repository / name / "model.yaml").write_text("version_policy:\n  all: true\n")
    try:
        with ExitStack() as stack:
            server = stack.enter_context(serve.server(repository, serve.folder / "data-routing"))
            server.wait_ready()
            put(server, "routed", {"stable": 10_000})
            put(server, "unnamed", {"stable": 10_000}, ids=False)
            put(server, "split", {"stable": 9_000, "canary": 1_000})
            payloads = {name: models.json_payload(name, models.TINY_SIZES[0]) for name in kept}
            for payload in payloads.values():
                wrk.run(payload, server.port, 32, 1, settings.folder)
            for _ in range(settings.rounds):
                for name, payload in payloads.items():
                    run = quiet(f"routing {name}", settings, record, partial(load_round, server, payload, 32, settings))
                    kept[name] += [run] if run is not None else []
    except (RuntimeError, OSError) as error:
        return verdicts.unmeasured({WORK: REACH, UNNAMED_WORK: REACH}, str(error))
    return [
        judged(WORK, REACH, kept["routed"], kept["plain"]),
        judged(UNNAMED_WORK, REACH, kept["unnamed"], kept["plain"]),
        judged(SPLIT_WORK, "", kept["split"], kept["plain"]),
    ]


def judged(work: str, reach: str, on: list[LoadRound], off: list[LoadRound]) -> Verdict:
    """Ratio of medians."""
    rates = [one.requests_per_second for one in on], [one.requests_per_second for one in off]
    ratio = verdicts.median(rates[0]) / verdicts.median(rates[1])
    outcome = verdicts.at_least(ratio, LEAST) if reach else verdicts.PASS
    errors = sum(one.errors for one in (*on, *off))
    costs = [one.cpu_us_per_request for one in on], [one.cpu_us_per_request for one in off]
    lines = (
        f"on req/s {series(rates[0])}",
        f"off req/s {series(rates[1])}",
        f"on CPU us {series(costs[0], 1)}",
        f"off CPU us {series(costs[1], 1)}",
    )
    shown = verdicts.shown(ratio, 3, "x requests/s")
    return Verdict(work, reach or "-", shown, verdicts.faultless(outcome, errors), lines)
