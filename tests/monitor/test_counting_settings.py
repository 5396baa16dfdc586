"""The Monitor document: everything has a default, and what is wrong is told with its place."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.cli.documents import problems_of
from gateway.monitor import settings
from gateway.monitor.burnrate import RULES, WINDOWS_S, burning
from gateway.monitor.settings import DAY_MS, Monitor, PolicyError, defaults, parse, resolved
from gateway.monitor.significance import REFERENCE_PER_WINDOW
from runtimes.registry import strictyaml

FULL = """
apiVersion: tidegate/v1
kind: Monitor
metadata: {name: credit}
spec:
  reference: {first: 50000}
  window: {rows: 5000, time: 1h}
  min_rows: 300
  false_alarms: {at_most_one_per: 30d}
  floors: {psi: 0.1, quality: 0.005, performance_drop: 0.02, disparate_impact: 0.8}
  groups: {header: x-group, values: [female, male], min_size: 100}
  labels: {positive: "1", min_coverage: 0.6, mature_after: 1h}
  latency: {slo_ms: 50, objective: 0.995}
  actions: {on_drift_of_canary: observe, cooldown: 30m}
  alerts: {webhook: "https://example.org/hook", alertmanager: "http://localhost:9093"}
  retrain: {preset: airflow, url: "https://example.org/api", cooldown: 24h, per_day: 1, dry_run: false, approval: auto}
"""


def document(**spec: Any) -> dict[str, Any]:
    return {"apiVersion": "tidegate/v1", "kind": "Monitor", "metadata": {"name": "credit"}, "spec": spec}


def problems(value: object) -> list[str]:
    with pytest.raises(PolicyError) as caught:
        parse(value)
    return [str(problem) for problem in caught.value.problems]


def test_a_whole_document_is_read() -> None:
    spec = parse(strictyaml.load(FULL, "monitor")).spec
    assert (spec.window.rows, spec.window.time_ms, spec.min_rows) == (5000, 3_600_000, 300)
    assert (spec.reference.mode, spec.reference.first) == ("first", 50_000)
    assert spec.false_alarms.at_most_one_per_ms == 30 * DAY_MS
    assert spec.groups is not None
    assert spec.groups.values == ("female", "male")
    assert spec.retrain is not None
    assert spec.retrain.cooldown_ms == DAY_MS
    assert spec.latency is not None
    assert spec.latency.slo_ms == 50


def test_nothing_is_needed_but_a_name() -> None:
    assert parse(document()) == defaults("credit")
    assert parse({key: item for key, item in document().items() if key != "spec"}) == defaults("credit")
    assert defaults("credit").spec.window.rows == 5000


@pytest.mark.parametrize(
    ("written", "mode", "text"),
    [
        ("model", "model", "model"),
        ("champion", "champion", "champion"),
        ({"file": "a.npz"}, "file", "file a.npz"),
        ({"previous": "1d"}, "previous", "previous 1d"),
        ({"first": 50_000}, "first", "first 50000"),
    ],
)
def test_a_reference_comes_from_one_place(written: object, mode: str, text: str) -> None:
    spec = parse(document(reference=written)).spec
    assert spec.reference.mode == mode
    assert resolved(spec)["reference"] == text


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"reference": "modle"}, "spec.reference: expected model, champion or a mapping"),
        ({"reference": {"first": 5, "file": "x"}}, "spec.reference: expected exactly one of"),
        ({"reference": {}}, "spec.reference: expected exactly one of"),
        ({"reference": {"first": 49_999}}, "spec.reference.first: expected the rows of at least 10 windows, which are"),
        ({"reference": {"first": 1_999}, "window": {"time": "1h"}}, "which are 2,000, got 1,999; 50,000 is a good"),
        ({"windows": {}}, "spec.windows: unknown field; did you mean 'window'?"),
        ({"window": {}}, "spec.window: expected rows, time or both"),
        ({"window": {"rows": 100}}, "spec.window.rows: expected at least min_rows"),
        ({"window": {"time": 60}}, "spec.window.time: expected a time such as 30s"),
        ({"window": {"time_ms": 60}}, "spec.window.time_ms: unknown field; did you mean 'time'?"),
        ({"floors": {"psi": -1}}, "spec.floors.psi: expected"),
        ({"floors": {"psi": "0.1"}}, "spec.floors.psi: expected a number"),
        ({"groups": {"header": "x-group"}}, "spec.groups.values: is missing"),
        ({"groups": {"header": "x-group", "values": ["a", "a"]}}, "spec.groups.values[1]: 'a' stands twice"),
        ({"alerts": {"webhook": "ftp://x"}}, "spec.alerts.webhook: expected"),
        ({"actions": {"on_drift_of_canary": "rolback"}}, "did you mean 'rollback'?"),
        ({"groups": {"header": "x-group", "values": ["a", " b"]}}, "spec.groups.values[1]: no header says ' b'"),
        ({"groups": {"header": "x-group", "values": ["a\nb"]}}, "spec.groups.values[0]: no header says 'a\\nb'"),
        ({"window": {"time": "9s"}}, "spec.window.time: expected at least 10s, got 9s"),
        ({"latency": {"objective": 1.0}}, "spec.latency.objective: expected"),
        ({"labels": {"positive": "1", "negative": "yes"}}, "spec.labels.negative: expected another label than"),
        ({"latency": {"objective": 0.8}}, "spec.latency.objective: expected at least 0.8334, got 0.8: even if every"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(spec: dict[str, Any], expected: str) -> None:
    assert any(expected in problem for problem in problems(document(**spec)))


def test_an_objective_that_is_taken_can_page() -> None:
    assert min(rule.factor for rule in RULES if rule.severity == "critical") == settings.SLOWEST_PAGE
    for objective in (0.8334, 5 / 6, 0.9306, 0.995):
        assert parse(document(latency={"objective": objective})).spec.latency is not None
        events = dict.fromkeys(WINDOWS_S, (1_000, 1_000))
        assert "critical" in {burn.rule.severity for burn in burning(events, objective)}


def test_first_rows_are_as_many_as_a_reference_needs() -> None:
    assert settings.FIRST_WINDOWS == REFERENCE_PER_WINDOW
    assert parse(document(reference={"first": 2_000}, window={"rows": 200})).spec.reference.first == 2_000
    assert parse(document(reference={"first": settings.FIRST_ROWS})).spec.window == defaults("x").spec.window


def test_every_problem_is_found_at_once() -> None:
    found = problems(document(window={"time": "soon"}, min_rows=0, colour="red") | {"kind": "Policy"})
    assert len(found) == 4


@pytest.mark.parametrize("value", [None, [], "x", {"spec": []}, {"spec": {"reference": []}}])
def test_no_document_at_all_is_a_problem_and_not_a_crash(value: object) -> None:
    assert problems(value)


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), lambda v: st.dictionaries(st.text(), v)))
def test_whatever_is_written_is_answered(value: object) -> None:
    assert problems(document(window=value, reference=value) if value is not None else value)


def test_what_is_in_force_is_shown_as_it_would_be_written() -> None:
    shown = resolved(parse(strictyaml.load(FULL, "monitor")).spec)
    assert shown["window.time"] == "1h"
    assert shown["false_alarms.at_most_one_per"] == "30d"
    assert shown["groups.values"] == ["female", "male"]
    assert shown["labels.mature_after"] == "1h"
    assert (shown["floors.psi"], shown["latency.slo_ms"]) == (0.1, 50)
    assert resolved(defaults("x").spec)["retrain"] is None


def test_the_schema_describes_every_field_in_the_words_of_the_document() -> None:
    found = settings.schema()
    assert found["title"] == "Monitor"
    for name, kind in found["$defs"].items():
        for field, place in kind["properties"].items():
            assert place.get("description"), f"{name}.{field}"
            assert not field.endswith("_ms") or field == "slo_ms"
    assert found["$defs"]["Window"]["properties"]["time"]["pattern"]
    assert {"enum": ["model", "champion"]} in found["$defs"]["Spec"]["properties"]["reference"]["anyOf"]
    assert isinstance(defaults("credit"), Monitor)


def test_validate_knows_monitors_and_gives_the_line_of_what_is_wrong() -> None:
    head = "apiVersion: tidegate/v1\nkind: Monitor\nmetadata: {name: credit}\n"
    assert problems_of(head + "spec:\n  min_rows: 300\n") == []
    [problem] = problems_of(head + "spec:\n  min_rowz: 300\n")
    assert (problem["line"], problem["path"]) == (5, "spec.min_rowz")
