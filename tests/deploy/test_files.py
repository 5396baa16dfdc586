"""deploy/ is valid by Prometheus' own tools, complete, and says what the code and the documentation say."""

import re
import shutil
import subprocess
from itertools import combinations

import pytest
import yaml

from tests.deploy.files import (
    GRAFANA,
    MONITORS,
    PROMETHEUS,
    RULES,
    anchors,
    dashboard,
    generator,
    names,
    placed,
    queries,
    rules,
)
from tests.deploy.programs import needs_prometheus
from tests.docs.tables import DOCS, code, rows

ALERTS = rules("alerts.yml", "alert")
RECORDED = rules("recording.yml", "record")
DASHBOARDS = ("serving.json", "drift.json")


def known() -> set[str]:
    """Names that can be asked for: those of the documentation, their parts, and what is recorded."""
    found = {code(row[0]) for row in rows((DOCS / "metrics.md").read_text(), "metric")}
    parts = {name + part for name in found for part in ("_bucket", "_sum", "_count")}
    return found | parts | set(RECORDED) | {"up"}


def tool(*command: object) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@needs_prometheus
def test_promtool_accepts_the_configuration_and_both_files_of_rules() -> None:
    printed = tool("promtool", "check", "config", "--lint-fatal", PROMETHEUS / "prometheus.yml")
    assert f"{len(ALERTS)} rules found" in printed
    assert f"{len(RECORDED)} rules found" in printed


@needs_prometheus
@pytest.mark.parametrize("name", sorted(path.name for path in RULES.glob("*_test.yml")))
def test_the_rules_do_what_their_own_tests_say(name: str) -> None:
    tool("promtool", "test", "rules", RULES / name)


@pytest.mark.skipif(shutil.which("amtool") is None, reason="amtool is not installed (package prometheus-alertmanager)")
def test_amtool_accepts_the_example_for_the_alertmanager() -> None:
    tool("amtool", "check-config", PROMETHEUS / "alertmanager.yml")


def test_every_alert_is_tried_firing_and_quiet() -> None:
    groups = yaml.safe_load((RULES / "alerts_test.yml").read_text())["tests"]
    tried = {(one["alertname"], bool(one["exp_alerts"])) for group in groups for one in group["alert_rule_test"]}
    assert tried == {(name, fires) for name in ALERTS for fires in (True, False)}
    # Quiet for a whole case, and not only before it fires.
    whole = [{bool(one["exp_alerts"]) for one in group["alert_rule_test"]} for group in groups]
    assert whole.count({False}) >= len(ALERTS)


def test_series_that_the_tests_of_alerts_make_up_are_labelled_as_on_a_page() -> None:
    groups = yaml.safe_load((RULES / "alerts_test.yml").read_text())["tests"]
    made = {one["series"] for group in groups for one in group["input_series"]}
    found = [one for one in made if one.partition("{")[0] in MONITORS]
    assert len(found) > 30
    for one in found:
        family, labels = MONITORS[one.partition("{")[0]], dict(re.findall(r'(\w+)="([^"]*)"', one))
        assert set(labels) == {"job", "instance", "model", "version", "variant", *family.labels}, one
        series = labels["model"], labels["version"], labels["variant"]
        assert placed(family.name, series) == series, one


def test_every_alert_says_how_bad_it_is_and_leads_to_its_section() -> None:
    sections = anchors("monitoring.md")
    for name, rule in ALERTS.items():
        assert rule["labels"]["severity"] in ("critical", "warning"), name
        assert set(rule["annotations"]) == {"summary", "description", "runbook"}, name
        assert rule["annotations"]["runbook"] == f"docs/monitoring.md#{name.lower()}"
        assert name.lower() in sections, f"{name} has no section"


def test_the_documentation_describes_no_alert_that_is_not_there() -> None:
    text = (DOCS / "monitoring.md").read_text()
    described = [
        line.removeprefix("### ") for line in text.splitlines() if line.startswith(("### Model", "### Gateway"))
    ]
    assert described == list(ALERTS)


def test_rules_read_metrics_that_exist() -> None:
    for name, rule in (ALERTS | RECORDED).items():
        assert names(rule["expr"]), name
        assert names(rule["expr"]) <= known(), name


def test_alertmanager_inhibits_alerts_that_exist() -> None:
    text = (PROMETHEUS / "alertmanager.yml").read_text()
    for rule in yaml.safe_load(text)["inhibit_rules"]:
        for matcher in rule["source_matchers"]:
            assert matcher.removeprefix("alertname = ") in ALERTS


@pytest.mark.parametrize("name", DASHBOARDS)
def test_the_committed_dashboard_is_what_the_script_writes(name: str) -> None:
    assert (GRAFANA / "dashboards" / name).read_text() == generator().text(name)


def test_the_script_writes_all_that_is_committed() -> None:
    assert {path.name for path in (GRAFANA / "dashboards").iterdir()} == set(generator().FILES) == set(DASHBOARDS)


@pytest.mark.parametrize("name", DASHBOARDS)
def test_panels_have_their_own_place_and_number_and_say_how_to_read_them(name: str) -> None:
    panels = dashboard(name)["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [panel["gridPos"] for panel in panels]
    for one, other in combinations(places, 2):
        apart_x = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        apart_y = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert apart_x or apart_y, (one, other)
    assert all(place["x"] >= 0 and place["x"] + place["w"] <= 24 for place in places)
    for panel in panels:
        assert panel["type"] == "row" or (panel["description"].endswith(".") and panel["targets"]), panel["title"]


@pytest.mark.parametrize("name", DASHBOARDS)
def test_panels_ask_for_metrics_that_exist(name: str) -> None:
    for title, expression in queries(name):
        assert names(expression), title
        assert names(expression) <= known(), title


def test_every_metric_of_the_monitor_is_on_the_dashboard() -> None:
    monitor = (DOCS / "metrics.md").read_text().partition("## Monitor")[2].partition("## Triton")[0]
    wanted = {code(row[0]) for row in rows(monitor, "metric")}
    assert len(wanted) > 20
    assert wanted == {name for _, expression in queries("drift.json") for name in names(expression)}


@pytest.mark.parametrize("name", DASHBOARDS)
def test_variables_are_asked_of_the_source_that_the_reader_picks(name: str) -> None:
    shown = dashboard(name)
    assert [one["name"] for one in shown["templating"]["list"]] == ["datasource", "model", "version", "variant"]
    for panel in shown["panels"]:
        for target in panel.get("targets", []):
            assert target["datasource"]["uid"] == panel["datasource"]["uid"] == "${datasource}"


def test_provisioning_names_the_kinds_that_the_dashboards_use() -> None:
    (source,) = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yml").read_text())["datasources"]
    (provider,) = yaml.safe_load((GRAFANA / "provisioning/dashboards/tidegate.yml").read_text())["providers"]
    assert (source["type"], provider["type"]) == ("prometheus", "file")
    assert provider["options"]["path"].startswith("/etc/grafana/")
