"""Debian's Prometheus with the shipped files: scrapes a running gateway, and every query finds what it asks for."""

import random
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import pytest

from gateway.control.counts import total
from gateway.metrics import CONTENT_TYPE, MetricsPage, Node
from gateway.monitor.facts import BURN_WINDOWS, FAMILIES, SIGNALS, MonitorFacts, Samples
from tests import models
from tests.deploy.files import dashboard, of_monitor, placed, queries, rules, selectors, unlimited
from tests.deploy.programs import Prometheus, needs_prometheus, page, prometheus
from tests.process.callers import Answer, Caller, apply, command, policy, tensor
from tests.tree import Tree, serve

pytestmark = [pytest.mark.process, needs_prometheus]
ALERTS, RECORDED = rules("alerts.yml", "alert"), rules("recording.yml", "record")
STEPS = [{"setWeight": 5000, "hold": {"minDuration": "10m"}}, {"setWeight": 10000}]


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    for version, size in ((1, 1000), (2, 1001)):
        models.write(tmp_path / "models", "table", models.lookup(size), version, "version_policy: {all: true}\n")
    models.write(tmp_path / "models", "slow", models.slow())
    with serve(tmp_path / "models", "--workers", "2", models__quiet_period_ms=0) as running:
        yield running


def ask(tree: Tree, model: str, body: bytes, headers: str) -> Answer:
    """One request on a connection of its own: a worker that has many asks callers to leave."""
    caller = Caller(tree.port, model)
    try:
        return caller.ask(body, headers)
    finally:
        caller.close()


@pytest.fixture
def visit(tree: Tree) -> Callable[[], None]:
    """Some requests: good ones of many users, and one that has too little time."""
    rng = random.Random(7)

    def some() -> None:
        for _ in range(20):
            user = f"x-user-id: u{rng.randrange(10**6)}\r\n"
            assert ask(tree, "table", tensor([rng.randrange(1000)]), user).status == 200
        late = ask(tree, "slow", tensor([1.0], "FP32", shape=[1, 1]), "x-request-timeout-ms: 1\r\n")
        assert late.status in (429, 504), late

    return some


def no_rule_fails(server: Prometheus) -> None:
    """Every shipped rule was evaluated, and none with an error."""
    wanted = set(ALERTS) | set(RECORDED)
    server.until("all rules", lambda: all(one["health"] != "unknown" for one in server.rules().values()))
    found = server.rules()
    assert set(found) == wanted
    assert {name: one.get("lastError") for name, one in found.items() if one["health"] != "ok"} == {}


def firing(server: Prometheus) -> set[str]:
    """Names of the alerts that fire."""
    return {name for name, rule in server.rules().items() if rule.get("state") == "firing"}


def values(server: Prometheus, board: str) -> dict[str, list[str]]:
    """What Grafana would offer for each variable of a dashboard."""
    metric = dashboard(board)["templating"]["list"][1]["definition"].partition("(")[2].partition(",")[0]
    names = ("model", "version", "variant")
    return {name: server.api(f"label/{name}/values", **{"match[]": metric}) for name in names}


def test_a_running_gateway_fills_the_serving_dashboard_and_only_its_rollback_is_told(
    tree: Tree, visit: Callable[[], None], tmp_path: Path
) -> None:
    apply(tree, policy("table", steps=STEPS))
    folder = tmp_path / "prometheus"
    folder.mkdir()
    with prometheus(folder, tree.admin_port, tree.port) as server:
        server.until("two targets", lambda: [one[1] for one in server.query("up")] == [1, 1])
        # One copy of the page: the data port is asked whether it answers, and no more.
        assert {labels["job"] for labels, _ in server.query("tidegate_build_info")} == {"tidegate"}
        server.until_there([expression for _, expression in queries("serving.json")], visit)
        server.until_there([name for name in RECORDED if not of_monitor(name)], visit)
        no_rule_fails(server)
        # An alert of a healthy gateway is silent because it compares, and not because what it reads is not there.
        expressions = [rule["expr"] for rule in ALERTS.values() if not of_monitor(rule["expr"])]
        assert len(expressions) > 6
        server.until_there(sorted({one for expression in expressions for one in selectors(expression)}), visit)
        server.until_there([unlimited(expression) for expression in expressions], visit)
        assert firing(server) == set()
        offered = values(server, "serving.json")
        picks = [dict(zip(offered, one, strict=True)) for one in product(*offered.values())]
        for queried in zip(*(queries("serving.json", picked) for picked in picks), strict=True):
            assert any(server.query(expression) for _, expression in queried), queried[0]
        assert offered["model"] == ["slow", "table"]
        assert set(offered["variant"]) == {"-", "stable", "canary"}
        # Nobody asks any more: the next scrape has what callers saw, once.
        answered = 'sum(tidegate_requests_total{model="table",code="200"})'
        wanted = tree.counter("tidegate_requests_total", model="table", code="200")
        server.until("the same count", lambda: [value for _, value in server.query(answered)] == [wanted])
        status, body = command(tree, "table", "abort", reason="tried")
        assert status in (200, 202), body
        server.until("an alert", lambda: firing(server) == {"ModelCanaryRolledBack"})
        (alert,) = server.rules()["ModelCanaryRolledBack"]["alerts"]
        assert alert["annotations"]["summary"] == "The canary of table was rolled back"


SERIES = ("credit", "3", "canary")


class Monitor:
    """A monitor in whose world everything goes wrong; its counters grow with each scrape."""

    def __init__(self) -> None:
        self.scrapes = 0

    def render(self) -> bytes:
        """The page of the next scrape."""
        self.scrapes += 1
        node = Node(total([]), [], [], {"version": "0"}, False, monitor=self._facts())
        return MetricsPage().render(node) + self._requests()

    def _requests(self) -> bytes:
        labels = 'model="credit",version="3",variant="canary"'
        return f"""# TYPE tidegate_requests_total counter
tidegate_requests_total{{{labels},code="200"}} {100 * self.scrapes}
# TYPE tidegate_inferences_total counter
tidegate_inferences_total{{{labels}}} {100 * self.scrapes}
""".encode()

    def _facts(self) -> MonitorFacts:
        names = {"quantile": "0.5", "feature": "feature_1"}
        once: dict[str, Samples] = {
            family.name: (
                (*placed(family.name, SERIES), *(names.get(label, f"a_{label}") for label in family.labels), 1.0),
            )
            for family in FAMILIES
        }
        growing: dict[str, Samples] = {
            family.name: ((*once[family.name][0][:-1], 3.0 * self.scrapes),)
            for family in FAMILIES
            if family.kind == "counter"
        }
        special: dict[str, Samples] = {
            "drift_state": tuple((*SERIES, signal, 4) for signal in SIGNALS),
            "drift_score": tuple((*SERIES, f"feature_{n}", "psi", 0.01 * n) for n in range(60)),
            "slo_burn_rate": tuple((*SERIES, window, 20.0) for window in BURN_WINDOWS),
            "monitor_lag_seconds": ((*placed("monitor_lag_seconds", SERIES), 1000.0),),
            # Version 3 is watched, and version 4 cannot be.
            "monitor_reference_missing": (("credit", "3", "-", 0.0), ("credit", "4", "-", 1.0)),
        }
        return MonitorFacts(**(once | growing | special))


def test_a_monitors_page_fills_the_drift_dashboard_and_fires_each_of_its_alerts(tmp_path: Path) -> None:
    monitor = Monitor()
    with page(monitor.render, CONTENT_TYPE) as port, prometheus(tmp_path, port, port, hold=False) as server:
        server.until_there([expression for _, expression in queries("drift.json")])
        server.until_there([name for name in RECORDED if of_monitor(name)])
        no_rule_fails(server)
        wanted = {name for name, rule in ALERTS.items() if of_monitor(rule["expr"])}
        assert len(wanted) == 17
        try:
            server.until("alerts", lambda: firing(server) >= wanted)
        except AssertionError as error:
            raise AssertionError(f"silent: {wanted - firing(server)}\n{error}") from None
        assert firing(server) == wanted, "and nothing is said of what serves well"
        for name in sorted(wanted):
            for alert in server.rules()[name]["alerts"]:
                told = alert["labels"] | alert["annotations"]
                assert alert["labels"]["model"] == ("-" if name == "ModelAlertsDropped" else "credit"), name
                assert "<no value>" not in " ".join(told.values()), told
                assert "{{" not in " ".join(told.values()), told
        # Ten features have no series of their own.
        assert len(server.query("tidegate_drift_score")) == 50
        assert [value for _, value in server.query("tidegate_monitor_features_hidden")] == [10]
        assert values(server, "drift.json") == {"model": ["credit"], "version": ["3"], "variant": ["canary"]}
