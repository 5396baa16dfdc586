"""docs/configuration.md names every setting with its default, every flag, and examples that are right."""

import json
import re
from typing import Any

import msgspec
import pytest
import typer.main
import yaml
from msgspec import Struct

from gateway.cli import application
from gateway.config import Config
from gateway.configfile import load_config
from runtimes.registry.configfile import read_config
from runtimes.registry.modelconfig import ModelConfig
from tests.docs.tables import DOCS, code, rows

TEXT = (DOCS / "configuration.md").read_text()
SETTINGS, MODEL = TEXT.split("## model.yaml")
MODEL_ROWS = rows(MODEL, "key")
SCOPES = {"node", "worker", "connection", "request"}


def leaves(value: Struct, prefix: str = "") -> dict[str, Any]:
    """Dotted key -> default, as JSON would carry it."""
    found: dict[str, Any] = {}
    for field in msgspec.structs.fields(value):
        inner = getattr(value, field.name)
        if isinstance(inner, Struct):
            found |= leaves(inner, f"{prefix}{field.name}.")
        else:
            found[prefix + field.name] = msgspec.to_builtins(inner)
    return found


def defaults(text: str) -> dict[str, Any]:
    return {code(key): json.loads(code(default)) for key, default, *_ in rows(text, "key")}


def same(found: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(found))


def test_every_setting_stands_there_with_its_default():
    assert defaults(SETTINGS) == same(leaves(Config()))


def test_every_key_of_model_yaml_stands_there_with_its_default():
    assert defaults(MODEL) == same(leaves(ModelConfig()))


def test_no_key_stands_there_twice():
    keys = [code(row[0]) for row in rows(TEXT.replace("## model.yaml", "## model.yaml\n"), "key")]
    assert len(keys) == len(leaves(Config())) + len(leaves(ModelConfig()))


def test_every_setting_has_a_scope_and_a_reason():
    for key, _, scope, reason in rows(SETTINGS, "key"):
        assert scope in SCOPES, key
        assert reason.endswith("."), key


@pytest.mark.parametrize("row", MODEL_ROWS, ids=lambda row: code(row[0]))
def test_the_example_of_a_key_sets_it(row: list[str]):
    key, default, _, example = row
    text = code(example)
    config = read_config("m", text, None).config
    assert same(leaves(config))[code(key)] != json.loads(code(default))


def test_every_flag_of_serve_stands_there():
    serve = typer.main.get_command(application()).commands["serve"]  # type: ignore[attr-defined]
    flags = {option for parameter in serve.params for option in parameter.opts if option.startswith("--")}
    written = set(re.findall(r"`(--[a-z-]+)`", "".join(row[0] for row in rows(TEXT, "flag"))))
    assert flags - {"--help"} == written


def test_every_flag_sets_a_key_that_exists():
    keys = set(leaves(Config()))
    named = {code(row[-1]) for row in rows(TEXT, "flag") if "`" in row[-1]}
    assert named <= keys


def test_the_file_in_the_text_is_right(tmp_path):
    file = tmp_path / "tidegate.yaml"
    file.write_text(re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)[0])
    config = load_config({}, {}, str(file)).config
    assert config.server.workers == yaml.safe_load(file.read_text())["server"]["workers"]


def test_the_environment_in_the_text_is_right():
    found = dict(re.findall(r"`(TIDEGATE_[A-Z]+__[A-Z]+)='?([^`']+)'?`", TEXT.partition("## Server")[0]))
    assert len(found) == 2
    config = load_config({}, found | {"TIDEGATE_MODELS__CONTROL_MODE": "explicit"}, None).config
    assert (config.server.port, config.models.load) == (9000, ("a", "b"))


def test_the_fields_of_config_pbtxt_are_honoured_without_a_warning():
    text = (
        'name: "m" backend: "onnxruntime" platform: "onnxruntime_onnx" max_batch_size: 8 '
        "version_policy { latest { num_versions: 2 } } dynamic_batching { max_queue_delay_microseconds: 100 "
        "priority_levels: 3 default_priority_level: 2 }"
    )
    read = read_config("m", None, text)
    assert read.warnings == ()
    changed = {key for key, value in leaves(read.config).items() if value != leaves(ModelConfig())[key]}
    became = {code(row[1]) for row in rows(TEXT, "field")}
    assert all(any(key == name or key.startswith(f"{name}.") for name in became) for key in changed)
    assert len(changed) == len(became)
