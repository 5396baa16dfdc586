"""YAML 1.2 core types, nothing magic, and errors that name the line."""

import contextlib
import json
import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtimes.registry.modelconfig import ModelConfig
from runtimes.registry.strictyaml import DocumentError, decode, load, suggestion


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("NO", "NO"),
        ("yes", "yes"),
        ("on", "on"),
        ("True", True),
        ("012", 12),
        ("0o14", 12),
        ("0x1F", 31),
        ("0b11", "0b11"),
        ("1_000", "1_000"),
        ("190:20:30", "190:20:30"),
        ("2020-01-01", "2020-01-01"),
        ("'1'", "1"),
        ("~", None),
        ("", None),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("+.INF", math.inf),
        ("-.inf", -math.inf),
        ("1.10", 1.1),
        ("<<", "<<"),
    ],
)
def test_core_schema(text: str, value: object) -> None:
    assert load(f"a: {text}\n", "x") == {"a": value}


def test_not_a_number() -> None:
    loaded = load(".nan", "x")
    assert isinstance(loaded, float)
    assert math.isnan(loaded)


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("a: 1\nb: &x 2\n", 2, "anchors (&x)"),
        ("a: 1\nb: *x\n", 2, "aliases (*x)"),
        ("a: !!python/object:os.system 1\n", 1, "tags"),
        ("a: !mine 1\n", 1, "tags"),
        ("a: 1\nb: 2\na: 3\n", 3, "stands twice, first on line 1"),
        ("a: {b: 1, b: 2}\n", 1, "'b' stands twice"),
        ("1: a\n1: b\n", 2, "'1' stands twice"),
        ("a: 1\n--- \nb: 2\n", 2, "second document"),
        ("? [a]\n: 1\n", 1, "a key must be text"),
        ("a:\n\t- 1\n", 2, "token"),
        ("a: [1,\n", 2, ""),
        ("a: 1\nb: \x00\n", 2, "does not allow"),
        ("[" * 50 + "]" * 50, 1, "nested deeper"),
    ],
)
def test_what_is_refused_names_its_line(text: str, line: int, says: str) -> None:
    with pytest.raises(DocumentError) as caught:
        load(text, "model.yaml")
    assert caught.value.line == line
    assert says in str(caught.value)
    assert str(caught.value).startswith(f"model.yaml, line {line}: ")


def test_a_document_has_a_size_limit() -> None:
    with pytest.raises(DocumentError, match="longer than"):
        load("a" * (1024 * 1024 + 1), "x")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text("abNO.019é ", max_size=8),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc", min_size=1), inner, max_size=4),
        max_leaves=20,
    )
)
def test_json_is_read_as_itself(value: object) -> None:
    # JSON is YAML 1.2; only its infinities are spelt otherwise.
    text = json.dumps(value).replace("-Infinity", "-.inf").replace("Infinity", ".inf")
    assert load(text, "x") == value


@given(st.text(max_size=60))
def test_any_text_is_a_value_or_a_document_error(text: str) -> None:
    with contextlib.suppress(DocumentError):
        load(text, "x")


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str = ""
    label: str | None = None
    level: int | None = None
    factor: int | float = 1


def test_a_number_stays_text_where_text_is_wanted() -> None:
    assert decode("name: 1.10\nlabel: 007\nlevel: 7\nfactor: 1.5", "x", Limits) == Limits("1.10", "007", 7, 1.5)
    config = decode("feature_names: {x: [1.10, NO, 3]}", "x", ModelConfig)
    assert config.feature_names == {"x": ("1.10", "NO", "3")}


def test_an_empty_document_is_the_default() -> None:
    assert decode("# nothing\n", "x", ModelConfig) == ModelConfig()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\n", "x, line 1: unknown key 'a'; known here: "),
        ("deadline_ms: 5\nbatchin: {}\n", "x, line 2: unknown key 'batchin'; did you mean 'batching'?"),
        ("batching:\n  max_batchsize: 3\n", "x, line 2: batching: unknown key 'max_batchsize'; did you mean"),
        ("batching:\n\n  max_batch_size: 0\n", "x, line 3: batching.max_batch_size: Expected `int` >= 1"),
        ("warmup:\n  batch_sizes:\n  - 1\n  - 0\n", "x, line 4: warmup.batch_sizes[1]: Expected `int` >= 1"),
        ("batching: 3", "x, line 1: batching: Expected a mapping, got `int`"),
        ("- 3", "x, line 1: Expected a mapping, got a list"),
    ],
)
def test_what_does_not_fit_is_named(text: str, message: str) -> None:
    with pytest.raises(DocumentError) as caught:
        decode(text, "x", ModelConfig)
    assert str(caught.value).startswith(message)


def test_suggestions() -> None:
    assert suggestion("prot", ["port", "host"]) == "did you mean 'port'?"
    assert suggestion("zzz", ["port", "host"]) == "known here: host, port"
    assert suggestion("zzz", []) == "nothing is known here"
