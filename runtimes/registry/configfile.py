"""A model's settings from its `model.yaml` and, for those who come from Triton, its `config.pbtxt`.

Of config.pbtxt the fields that mean something here are honoured and each of the others gives a warning. Where both
files set the same thing, model.yaml wins.
"""

from dataclasses import dataclass
from typing import Final

from runtimes.registry import pbtxt
from runtimes.registry.modelconfig import ModelConfig
from runtimes.registry.names import ALIAS_RULE, is_alias
from runtimes.registry.strictyaml import DocumentError, Mapping, Node, Scalar, Sequence, convert, parse

YAML_FILE: Final = "model.yaml"
PBTXT_FILE: Final = "config.pbtxt"

_IGNORED: Final = {
    "input": "inputs are taken from the model itself",
    "output": "outputs are taken from the model itself",
    "instance_group": "the node plans its threads itself",
    "model_warmup": "the batch sizes in use are warmed up anyway",
    "dynamic_batching.preferred_batch_size": "a batch takes what is waiting",
    "dynamic_batching.default_queue_policy": "set batching.max_queue_rows and deadline_ms in model.yaml",
}
_BACKENDS: Final = {"backend": "onnxruntime", "platform": "onnxruntime_onnx"}


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """What the files of a model say, and what in them is not acted on."""

    config: ModelConfig
    warnings: tuple[str, ...] = ()


def read_config(name: str, yaml_text: str | None, pbtxt_text: str | None) -> ConfigFile:
    """Read a model's settings; None stands for a file that is not there.

    Raises:
        DocumentError: with file and line.
    """
    node: Node = Mapping({}, {}, 1)
    warnings: list[str] = []
    if pbtxt_text is not None:
        node = _from_pbtxt(pbtxt.parse(pbtxt_text, PBTXT_FILE), name, warnings)
        convert(node, PBTXT_FILE, ModelConfig)
    what = PBTXT_FILE
    if yaml_text is not None:
        what = YAML_FILE
        written = parse(yaml_text, YAML_FILE)
        # Checked alone first, so that an error names the file it is in.
        _check(convert(written, YAML_FILE, ModelConfig), YAML_FILE)
        node = _merged(node, written)
    config = convert(node, what, ModelConfig)
    _check(config, what)
    return ConfigFile(config, tuple(warnings))


def _check(config: ModelConfig, what: str) -> None:
    """Rules that span several keys."""
    policy = config.version_policy
    if (policy.latest is not None) + policy.all + bool(policy.specific) > 1:
        raise DocumentError("only one of latest, all, specific", what=what, path="version_policy")
    levels, default = config.batching.priority_levels, config.batching.default_priority
    if default is not None and default > levels:
        message = f"{default} is not one of the {levels} levels of priority_levels"
        raise DocumentError(message, what=what, path="batching.default_priority")
    too_large = [size for size in config.warmup.batch_sizes if size > config.batching.max_batch_size]
    if too_large:
        message = f"{too_large[0]} is above batching.max_batch_size {config.batching.max_batch_size}"
        raise DocumentError(message, what=what, path="warmup.batch_sizes")
    for alias in config.aliases:
        if not is_alias(alias):
            raise DocumentError(f"{alias[:80]!r} is no alias: expected {ALIAS_RULE}", what=what, path="aliases")


def _merged(below: Node, above: Node) -> Node:
    """Mappings joined key by key; elsewhere what is above wins. One kind of version policy replaces another."""
    if not isinstance(below, Mapping) or not isinstance(above, Mapping):
        return below if isinstance(above, Scalar) and above.value is None else above
    entries = dict(below.entries)
    for key, value in above.entries.items():
        joins = key in entries and key != "version_policy"
        entries[key] = _merged(entries[key], value) if joins else value
    return Mapping(entries, below.lines | above.lines, above.line)


def _from_pbtxt(message: pbtxt.Message, name: str, warnings: list[str]) -> Mapping:
    """The fields of Triton's ModelConfig that mean something here, as model.yaml would say them."""
    batching: dict[str, Node] = {}
    policy: Node | None = None
    for field in message:
        if field.name == "name":
            if (given := _text(field)) != name:
                warnings.append(f"{PBTXT_FILE}, line {field.line}: name {given[:80]!r} is not the folder's; ignored")
        elif field.name in _BACKENDS:
            _check_backend(field)
        elif field.name == "max_batch_size":
            size = _number(field)
            # Triton's 0: the model does not batch.
            batching |= {"max_batch_size": size} if size.value else {"enabled": Scalar(False, "false", field.line)}
        elif field.name == "dynamic_batching":
            batching |= _dynamic_batching(field, warnings)
        elif field.name == "version_policy":
            policy = _version_policy(field)
        elif field.name == "default_model_filename" and _text(field) == "model.onnx":
            continue
        else:
            _warn(field, field.name, warnings)
    sections: dict[str, Node] = {}
    if batching:
        sections["batching"] = _mapping(batching)
    if policy is not None:
        sections["version_policy"] = policy
    return _mapping(sections)


def _dynamic_batching(field: pbtxt.Field, warnings: list[str]) -> dict[str, Node]:
    ours = {
        "max_queue_delay_microseconds": "max_queue_delay_us",
        "priority_levels": "priority_levels",
        "default_priority_level": "default_priority",
    }
    found: dict[str, Node] = {}
    for inner in _message(field):
        if inner.name in ours:
            number = _number(inner)
            # Triton's 0 is "not set" for levels and "no delay" for the delay.
            if number.value or inner.name == "max_queue_delay_microseconds":
                found[ours[inner.name]] = number
        else:
            _warn(inner, f"{field.name}.{inner.name}", warnings)
    return found


def _version_policy(field: pbtxt.Field) -> Mapping:
    policy: dict[str, Node] = {}
    for kind in _message(field):
        if kind.name == "all":
            policy["all"] = Scalar(True, "true", kind.line)
        elif kind.name == "latest":
            counts = [_number(inner) for inner in _message(kind) if inner.name == "num_versions"]
            policy["latest"] = counts[-1] if counts else Scalar(1, "1", kind.line)
        elif kind.name == "specific":
            versions = [_number(inner) for inner in _message(kind) if inner.name == "versions"]
            policy["specific"] = Sequence(tuple(versions), kind.line)
        else:
            raise _wrong(kind, "latest, all or specific is expected")
    return _mapping(policy)


def _check_backend(field: pbtxt.Field) -> None:
    served = _BACKENDS[field.name]
    given = _text(field)
    if given not in ("", served):
        raise _wrong(field, f"{given[:80]!r} is not served; {served!r} is")


def _warn(field: pbtxt.Field, path: str, warnings: list[str]) -> None:
    reason = _IGNORED.get(path, "not acted on here")
    text = f"{PBTXT_FILE}, line {field.line}: {path[:80]} is ignored: {reason}"
    same = f": {path[:80]} is ignored: "
    if not any(same in earlier for earlier in warnings):
        warnings.append(text)


def _mapping(entries: dict[str, Node]) -> Mapping:
    return Mapping(entries, {key: node.line for key, node in entries.items()}, 1)


def _message(field: pbtxt.Field) -> pbtxt.Message:
    if isinstance(field.value, pbtxt.Text):
        raise _wrong(field, f"a message in braces is expected, got {field.value.text[:80]!r}")
    return field.value


def _text(field: pbtxt.Field) -> str:
    if not isinstance(field.value, pbtxt.Text):
        raise _wrong(field, "a value is expected, got a message")
    return field.value.text


def _number(field: pbtxt.Field) -> Scalar:
    text = _text(field)
    if not (text.isascii() and text.lstrip("-").isdigit() and len(text) < 20):
        raise _wrong(field, f"a whole number is expected, got {text[:80]!r}")
    return Scalar(int(text), text, field.line)


def _wrong(field: pbtxt.Field, message: str) -> DocumentError:
    return DocumentError(message, what=PBTXT_FILE, line=field.line, path=field.name)
