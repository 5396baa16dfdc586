"""Debian's Prometheus and a gateway that watches a model: the dashboard of drift fills, and the right alerts fire."""

from pathlib import Path

import pytest

from gateway.monitor.facts import Series
from tests.deploy.files import MONITORS, of_monitor, placed, queries, rules, unlimited
from tests.deploy.programs import Prometheus, needs_prometheus, prometheus
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
