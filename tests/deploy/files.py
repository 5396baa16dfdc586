"""What deploy/ ships, as data, and the PromQL in it."""

import importlib.util
import json
import re
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import yaml

from tests.docs.tables import DOCS, ROOT

PROMETHEUS = ROOT / "deploy" / "prometheus"
GRAFANA = ROOT / "deploy" / "grafana"
RULES = PROMETHEUS / "rules"
VARIABLES = {"$__rate_interval": "5s", "$model": ".*", "$version": ".*", "$variant": ".*"}
"""What Grafana would put in."""
_METRIC = re.compile(r"\b(?:up|nv_\w+|(?:(?:variant|node):)?tidegate_[a-z0-9_:]*[a-z0-9])\b(?:\{[^}]*\})?")


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


def queries(name: str) -> Iterator[tuple[str, str]]:
    """(panel, PromQL with the variables put in) of a dashboard."""
    for panel in dashboard(name)["panels"]:
        for target in panel.get("targets", []):
            expression = target["expr"]
            for variable, value in VARIABLES.items():
                expression = expression.replace(variable, value)
            yield panel["title"], expression


def selectors(expression: str) -> list[str]:
    """The series that an expression reads."""
    return _METRIC.findall(expression)


def names(expression: str) -> set[str]:
    """The metrics that an expression reads."""
    return {one.partition("{")[0] for one in selectors(expression)}


def anchors(page: str) -> set[str]:
    """Anchors of the headings of a page of docs/, as GitHub makes them."""
    heads = re.findall(r"^#+ (.+)$", (DOCS / page).read_text(), re.MULTILINE)
    return {re.sub(r"[^a-z0-9 _-]", "", head.lower()).replace(" ", "-") for head in heads}
