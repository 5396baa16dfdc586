"""docs/monitor.md names every field of a Monitor with its default, every signal and state; its example is right."""

import re
from collections.abc import Iterator
from typing import Any, get_args

import msgspec

from gateway.control.firstreferences import KEPT, MOST_BYTES
from gateway.monitor.firstrows import MAX_BYTES
from gateway.monitor.realised import KEEP
from gateway.monitor.settings import Spec, parse, resolved
from gateway.monitor.words import Signal, State
from gateway.monitordocument import read_monitor
from router.document import Section
from tests.docs.tables import DOCS, code, rows

TEXT = (DOCS / "monitor.md").read_text()
(EXAMPLE,) = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
OPTIONAL = {
    "groups": {"header": "x-group", "values": ["a"]},
    "multivariate": True,
    "latency": {},
    "retrain": {"url": "https://a.example"},
}


def required(kind: type[Section], path: str) -> Iterator[str]:
    """Paths of fields that have no default."""
    for field in msgspec.structs.fields(kind):
        name = f"{path}.{field.encode_name}"
        if field.required:
            yield name
        for inner in (field.type, *get_args(field.type)):
            if isinstance(inner, type) and issubclass(inner, Section):
                yield from required(inner, name)


def written(value: Any) -> str:
    if value in (None, ""):
        return "none"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def test_every_setting_is_documented_with_its_default() -> None:
    document = {"apiVersion": "tidegate/v1", "kind": "Monitor", "metadata": {"name": "credit"}, "spec": OPTIONAL}
    expected = {f"spec.{path}": written(value) for path, value in resolved(parse(document).spec).items()}
    expected |= dict.fromkeys(required(Spec, "spec"), "required")
    assert {code(row[0]): row[1] for row in rows(TEXT, "field")} == expected


def test_what_is_optional_is_left_out_by_default() -> None:
    assert {name: getattr(Spec(), name) for name in OPTIONAL} == dict.fromkeys(OPTIONAL)
    assert "Without `groups`, `multivariate`, `latency` or `retrain`" in TEXT


def test_the_example_is_right() -> None:
    assert read_monitor(EXAMPLE).problems == ()


def test_every_signal_and_state_is_explained() -> None:
    assert [code(row[0]) for row in rows(TEXT, "signal")] == list(get_args(Signal))
    assert [code(row[0]) for row in rows(TEXT, "state")] == list(get_args(State))


def test_what_is_held_is_documented_with_its_bounds() -> None:
    text = (DOCS / "data.md").read_text()
    assert f"{KEEP} cohorts" in text
    assert f"{MAX_BYTES >> 20} MiB of a version, {MOST_BYTES >> 20} MiB of a node" in text
    assert f"{KEPT} per model" in text
    for place in ("`monitor`", "`monitor-state`", "`monitor-first`", "`drift/MODEL`", "`labels/MODEL`"):
        assert place in text
