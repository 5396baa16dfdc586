"""Settings from a YAML file, the environment and flags; errors say where. Processes that are given theirs never read.

Flags win over `TIDEGATE_SECTION__KEY`, that over the file, that over the defaults. Values in the environment are read
as YAML.
"""

from collections.abc import Mapping as AbstractMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from gateway.config import Config, ConfigError, check, sections
from runtimes.registry.strictyaml import (
    MAX_DOCUMENT_BYTES,
    DocumentError,
    Mapping,
    Node,
    Scalar,
    convert,
    parse,
    suggestion,
)

PREFIX: Final = "TIDEGATE_"


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration and where each key that is not a default came from ("server.port" -> "flag --port")."""

    config: Config
    sources: AbstractMapping[str, str]


def load_config(
    flags: AbstractMapping[str, object], environment: AbstractMapping[str, str], path: str | None = None
) -> Loaded:
    """Put the settings together.

    Args:
        flags: "section.key" -> value; None = not given.
        environment: only names with a double underscore are settings.
        path: the file; None = `TIDEGATE_CONFIG` or no file.

    Raises:
        ConfigError: unknown key, wrong value, unreadable file, values that contradict each other.
    """
    node: Node = Mapping({}, {}, 1)
    sources: dict[str, str] = {}
    path = path or environment.get("TIDEGATE_CONFIG")
    try:
        if path is not None:
            node = _read_file(path)
            sources |= {f"{section}.{key}": path for section, key, _ in _leaves(node)}
        for name in sorted(environment):
            if name.startswith(PREFIX) and "__" in name:
                key, value = _from_environment(name, environment[name])
                node = _placed(node, key, value)
                sources[key] = f"environment {name}"
        for key, given in flags.items():
            if given is not None:
                node = _placed(node, key, _as_node(given))
                sources[key] = "flag"
        config = convert(node, "the configuration", Config)
    except DocumentError as error:
        raise ConfigError(str(error)) from error
    check(config)
    return Loaded(config, sources)


def _read_file(path: str) -> Node:
    try:
        content = Path(path).expanduser().read_bytes()
        if len(content) > MAX_DOCUMENT_BYTES:
            raise ConfigError(f"{path}: longer than {MAX_DOCUMENT_BYTES} bytes")
        text = content.decode()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8") from error
    node = parse(text, path)
    convert(node, path, Config)
    return node if isinstance(node, Mapping) else Mapping({}, {}, 1)


def _from_environment(name: str, text: str) -> tuple[str, Node]:
    section, _, key = name.removeprefix(PREFIX).lower().partition("__")
    known = sections()
    if section not in known:
        raise ConfigError(f"environment {name}: unknown section {section!r}; {suggestion(section, known)}")
    fields = [field.encode_name for field in msgspec.structs.fields(known[section])]
    if key not in fields:
        raise ConfigError(f"environment {name}: unknown key {key!r}; {suggestion(key, fields)}")
    what = f"environment {name}"
    value = parse(text, what)
    convert(_placed(Mapping({}, {}, 1), f"{section}.{key}", value), what, Config)
    return f"{section}.{key}", value


def _as_node(value: object) -> Node:
    if isinstance(value, list | tuple):
        return parse(msgspec.json.encode(value).decode(), "flag")
    assert value is None or isinstance(value, str | int | float | bool), "flags are scalars or lists"
    return Scalar(value, str(value), 1)


def _placed(node: Node, key: str, value: Node) -> Node:
    """The node with one leaf set."""
    section, _, name = key.partition(".")
    entries = dict(node.entries) if isinstance(node, Mapping) else {}
    inner = entries.get(section)
    leaves = dict(inner.entries) if isinstance(inner, Mapping) else {}
    leaves[name] = value
    entries[section] = Mapping(leaves, dict.fromkeys(leaves, 1), 1)
    return Mapping(entries, dict.fromkeys(entries, 1), 1)


def _leaves(node: Node) -> list[tuple[str, str, Any]]:
    if not isinstance(node, Mapping):
        return []
    return [
        (section, key, value)
        for section, inner in node.entries.items()
        if isinstance(inner, Mapping)
        for key, value in inner.entries.items()
    ]
