"""Debian's Prometheus and a gateway that watches a model: the dashboard of drift fills, and the right alerts fire."""

from pathlib import Path

import pytest

from gateway.control.counts import total
from gateway.control.monitorviews import facts
from gateway.metrics import CONTENT_TYPE, MetricsPage, Node
from gateway.monitor.facts import Series
from tests.deploy.files import MONITORS, of_monitor, placed, queries, rules, unlimited
from tests.deploy.programs import Prometheus, needs_prometheus, page, prometheus
from tests.monitor.test_latency_story import ROLES, Story
from tests.monitor.test_monitors_loop import CANARY, STABLE, counts
from tests.process import monitored
from tests.process.callers import apply, policy
from tests.process.monitored import (
    AFTER,
    NAME,
    Sender,
    as_json,
    binary,
    put,
    seen,
    until_counted,
    until_watched,
)
from tests.tree import serve

pytestmark = [pytest.mark.process, needs_prometheus]
ALERTS = rules("alerts.yml", "alert")
RECORDED = rules("recording.yml", "record")
SERIES = (NAME, "1", "stable")
OF_ROLLOUTS = ("rollout_actions", "degrade_flags", "latency_shift")
"""No rollout here: the monitor acts on none, and there is no canary to compare with."""


def of_rollouts(expression: str) -> bool:
    return any(name in expression for name in OF_ROLLOUTS)


def labels_are_as_placed(server: Prometheus) -> None:
    """What the tests of rules make up is labelled as a gateway labels it, and joins find what they join."""
    for name, family in MONITORS.items():
        found: set[Series] = {(one["model"], one["version"], one["variant"]) for one, _ in server.query(name)}
        # The variant `-` may be there, too: before the policy, nothing decided.
        assert found == {placed(family.name, one) for one in found}, name
        assert of_rollouts(name) or placed(family.name, SERIES) in found, name


def test_a_watched_model_fills_the_dashboard_of_drift_and_fires_its_alerts(tmp_path: Path) -> None:
    spec = {
        "window": {"rows": 1_000},
        "groups": {"header": "x-group", "values": ["women", "men"]},
        "labels": {"mature_after": "4s", "min_coverage": 0.0},
        "latency": {"slo_ms": 50},
        "retrain": {"preset": "airflow", "url": "http://127.0.0.1:9", "target": "train", "dry_run": True},
    }
    folder = tmp_path / "prometheus"
    folder.mkdir()
    with serve(monitored.repository(tmp_path), "--workers", "1", models__quiet_period_ms=0) as tree:
        put(tree, **spec)
        apply(tree, policy(NAME, variants=("1",), users=False))
        until_watched(tree)
        sender, sent = Sender(tree), 0
        with prometheus(folder, tree.admin_port, tree.port, hold=False) as server:
            for _ in range(3):
                ids = [
                    sender.ask(as_json(AFTER[n : n + 1]), f"x-group: {('women', 'men')[n % 2]}\r\n").headers[
                        "x-prediction-id"
                    ]
                    for n in range(400)
                ]
                body = [{"prediction_id": id, "label": n // 2 % 2} for n, id in enumerate(ids)]
                assert tree.call("POST", "/v1/feedback", body)[0] == 200
                for group in ("women", "men"):
                    content, more = binary(AFTER[:300])
                    assert sender.ask(content, f"{more}x-group: {group}\r\n").status == 200
                sent += 1_000
                until_counted(tree, sent)
            tree.until("an incident", lambda: seen(tree)["incident"] is not None)

            def more_rows() -> None:
                for group in ("women", "men"):
                    content, more = binary(AFTER[:150])
                    assert sender.ask(content, f"{more}x-group: {group}\r\n").status == 200

            picked = dict(zip(("model", "version", "variant"), SERIES, strict=True))
            shown = [one for _, one in queries("drift.json", picked) if not of_rollouts(one)]
            server.until_there(shown, more_rows)
            labels_are_as_placed(server)
            joined = [unlimited(rule["expr"]) for rule in ALERTS.values()]
            wanted = [*(one for one in joined if of_monitor(one)), *filter(of_monitor, RECORDED)]
            server.until_there([one for one in wanted if not of_rollouts(one)], more_rows)
            found = server.query(f'tidegate_drift_state{{model="{NAME}",signal="input_drift"}}')
            assert [value for _, value in found] == [4]
            names = lambda: {name for name, rule in server.rules().items() if rule.get("state") == "firing"}  # noqa: E731
            server.until("an alert", lambda: "ModelInputDriftCritical" in names())
            assert names() <= set(ALERTS)
            quiet = {"ModelMonitorBlind", "ModelReferenceMissing", "ModelMonitorSkipsRows", "ModelAlertsDropped"}
            assert quiet & names() == set()
        sender.close()


def test_a_canary_that_is_slower_fires_the_alerts_of_canaries_on_the_page_of_its_monitor(tmp_path: Path) -> None:
    """The page is a monitor's own, of a rollout: its windows take five minutes each, so its clock is turned."""
    story = Story()
    rows = [(*series, counts(story.rng, 100)) for series in (STABLE, CANARY)]
    story.held.monitor.turn(rows, ROLES, story.now_ms)
    story.go_on(2)

    def render() -> bytes:
        found = facts({"m": story.held}, {}, {}, {}, dropped=0, overhead_s=0.0, leads=True, now_ms=story.now_ms)
        return MetricsPage().render(Node(total([]), [], [], {"version": "0"}, False, monitor=found))

    names = ("ModelCanarySlower", "ModelCanaryDegraded")
    with page(render, CONTENT_TYPE) as port, prometheus(tmp_path, port, port, hold=False) as server:
        joined = [unlimited(ALERTS[name]["expr"]) for name in names]
        server.until_there(joined)
        for name in names:
            assert server.query(ALERTS[name]["expr"]) == [], f"{name}: the canary is as fast as stable"
        story.go_on(3, canary=2.0)
        for name, more in zip(names, ({"signal": "latency"}, {"level": "rollback"}), strict=True):
            asked = ALERTS[name]["expr"]
            server.until_there([asked])
            ((labels, _),) = server.query(asked)
            assert labels.items() >= {"model": "m", "version": "2", "variant": "canary", "job": "tidegate"}.items()
            assert labels.items() >= more.items()
            server.until("the alert", lambda name=name: server.rules()[name].get("state") == "firing")
            (alert,) = server.rules()[name]["alerts"]
            assert alert["annotations"]["summary"].startswith("m version 2, variant canary: ")
