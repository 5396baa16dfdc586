"""docs/policies.md names every field with its default and meaning, and its examples are right."""

import re
from collections.abc import Iterator
from typing import Any, get_args, get_origin

import msgspec
import pytest

from router.compiled import compile_policy
from router.diff import compare, next_slots
from router.document import Section
from router.hashing import HASHES
from router.policy import REFUSALS, PlainTextTest, PlainValueTest, TextTest, TrafficPolicy, ValueTest, parse
from router.quantities import duration_text
from router.schema import descriptions
from router.slots import rebalance
from runtimes.registry.strictyaml import load
from tests.docs.tables import DOCS, code, rows

TEXT = (DOCS / "policies.md").read_text()
EXAMPLES = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)


def fields(kind: type[Section], path: str) -> Iterator[tuple[str, str, str]]:
    """(path, default, meaning) of every field below a place; tests of texts and values have tables of their own."""
    texts = descriptions(kind)
    for field in msgspec.structs.fields(kind):
        name = f"{path}.{field.encode_name}" if path else field.encode_name
        inner, suffix = section(field.type)
        if inner is None or inner in (PlainTextTest, PlainValueTest, TextTest, ValueTest):
            yield name, default(field), texts[field.encode_name]
        else:
            yield from fields(inner, name + suffix)


def section(kind: Any) -> tuple[type[Section] | None, str]:
    """The struct that a field holds, with `[]` or `.NAME` for one of many."""
    if isinstance(kind, type) and issubclass(kind, Section):
        return kind, ""
    for part in get_args(kind):
        found, suffix = section(part)
        if found is not None:
            return found, {tuple: "[]", dict: ".NAME"}.get(get_origin(kind), "") + suffix
    return None, ""


def default(field: msgspec.structs.FieldInfo) -> str:
    """As the table writes it."""
    if field.required:
        return "required"
    value = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    if value is None or value in ((), {}, ""):
        return "none"
    if field.name.endswith("_ms"):
        return f"`{duration_text(value)}`"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


EXPECTED = [
    *fields(TrafficPolicy, ""),
    *fields(TextTest, "TEXT"),
    *fields(ValueTest, "VALUE"),
]


def test_every_field_stands_there_with_its_default_and_meaning() -> None:
    written = [(code(row[0]), row[1], row[2]) for row in rows(TEXT, "field")]
    assert sorted(written) == sorted(EXPECTED)


@pytest.mark.parametrize("text", EXAMPLES, ids=range(len(EXAMPLES)))
def test_an_example_is_right(text: str) -> None:
    policy = parse(load(text, "policy.yaml"))
    assert compile_policy(policy, next_slots(None, None, policy)).names == policy.names


def test_the_story_goes_from_one_example_to_the_next() -> None:
    story = [parse(load(text, "policy.yaml")) for text in EXAMPLES[:4]]
    table = next_slots(None, None, story[0])
    for old, new, plan in zip(story, story[1:], re.findall(r"```text\n(.*?)```", TEXT, re.DOTALL), strict=False):
        assert "\n".join(compare(old, table, new).lines()) + "\n" == plan
        table = next_slots(old, table, new)
        if new.spec.rollout is not None:
            # It comes to its end before the next document.
            table = rebalance(table, [0, 10_000])


def test_every_hash_and_every_refusal_stands_there() -> None:
    assert [code(row[0]) for row in rows(TEXT, "hash")] == list(HASHES)
    refused = {name for row in rows(TEXT, "not offered") for name in re.findall(r"`([^`]+)`", row[0])}
    assert set(REFUSALS) - {"status", "revision"} <= refused
