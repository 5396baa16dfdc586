"""Debian's Prometheus and a gateway that watches a model: the dashboard of drift fills, and the right alerts fire."""

from pathlib import Path

import pytest

from tests.deploy.files import queries, rules
from tests.deploy.programs import needs_prometheus, prometheus
from tests.process import monitored
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

            # No rollout: the monitor acted on none, and there is no canary to compare with.
            of_rollouts = ("rollout_actions", "latency_shift")
            shown = [one for _, one in queries("drift.json") if not any(name in one for name in of_rollouts)]
            server.until_there(shown, more_rows)
            found = server.query(f'tidegate_drift_state{{model="{NAME}",signal="input_drift"}}')
            assert [value for _, value in found] == [4]
            names = lambda: {name for name, rule in server.rules().items() if rule.get("state") == "firing"}  # noqa: E731
            server.until("an alert", lambda: "ModelInputDriftCritical" in names())
            assert names() <= set(ALERTS)
            quiet = {"ModelMonitorBlind", "ModelReferenceMissing", "ModelMonitorSkipsRows", "ModelAlertsDropped"}
            assert quiet & names() == set()
        sender.close()
