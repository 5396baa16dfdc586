"""What deploy/ ships, as data, and the PromQL in it."""

import importlib.util
import json
import re
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

import yaml

from gateway.monitor.facts import FAMILIES, Series
from tests.docs.tables import DOCS, ROOT

PROMETHEUS = ROOT / "deploy" / "prometheus"
GRAFANA = ROOT / "deploy" / "grafana"
RULES = PROMETHEUS / "rules"
ALL = {"model": ".*", "version": ".*", "variant": ".*"}
"""What Grafana would put in where the reader picks nothing."""
MONITORS = {f"tidegate_{one.name}" + ("_total" if one.kind == "counter" else ""): one for one in FAMILIES}
"""Families that only a monitor gives, by their names on the page."""
OF_NODE = ("monitor_overhead_seconds", "alerts_dropped")
OF_MODEL = (
    "monitor_lag_seconds", "monitor_deltas_gap", "monitor_deltas_duplicated", "monitor_dead_letters", "alerts",
    "retrain_requests",
)  # fmt: skip
OF_VERSION = ("monitor_reference_missing",)
_METRIC = re.compile(r"\b(?:up|nv_\w+|(?:(?:variant|node):)?tidegate_[a-z0-9_:]*[a-z0-9])\b(?:\{[^}]*\})?")


def placed(family: str, series: Series) -> Series:
    """Model, version and variant as the page writes them: `-` for each that the family is not of."""
    known = 0 if family in OF_NODE else 1 if family in OF_MODEL else 2 if family in OF_VERSION else 3
    model, version, variant = (one if at < known else "-" for at, one in enumerate(series))
    return model, version, variant


def rules(name: str, kind: str) -> dict[str, dict[str, Any]]:
    """Rules of a file by name; kind: alert or record."""
    groups = yaml.safe_load((RULES / name).read_text())["groups"]
    return {rule[kind]: rule for group in groups for rule in group["rules"]}


def generator() -> ModuleType:
    """deploy/grafana/generate.py."""
    spec = importlib.util.spec_from_file_location("generate", GRAFANA / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def dashboard(name: str) -> dict[str, Any]:
    """A committed dashboard."""
    return json.loads((GRAFANA / "dashboards" / name).read_text())


def queries(name: str, picked: Mapping[str, str] = ALL) -> Iterator[tuple[str, str]]:
    """(panel, PromQL with the variables put in) of a dashboard.

    Args:
        picked: by the reader, at the top of the dashboard.
    """
    for panel in dashboard(name)["panels"]:
        for target in panel.get("targets", []):
            expression = target["expr"]
            for variable, value in {"__rate_interval": "5s", **picked}.items():
                expression = expression.replace(f"${variable}", value)
            yield panel["title"], expression


def selectors(expression: str) -> list[str]:
    """The series that an expression reads."""
    return _METRIC.findall(expression)


def names(expression: str) -> set[str]:
    """The metrics that an expression reads."""
    return {one.partition("{")[0] for one in selectors(expression)}


def of_monitor(expression: str) -> bool:
    """Reads what only a monitor gives, itself or by what is recorded."""
    recorded = rules("recording.yml", "record")
    read = " ".join([expression, *(rule["expr"] for name, rule in recorded.items() if name in expression)])
    return any(name in read for name in MONITORS)


def unlimited(expression: str) -> str:
    """An alert without its limits: it has a sample wherever what it joins has the same labels."""
    return re.sub(r" (?:>=?|==) [\d.]+", "", expression)


def anchors(page: str) -> set[str]:
    """Anchors of the headings of a page of docs/, as GitHub makes them."""
    heads = re.findall(r"^#+ (.+)$", (DOCS / page).read_text(), re.MULTILINE)
    return {re.sub(r"[^a-z0-9 _-]", "", head.lower()).replace(" ", "-") for head in heads}
