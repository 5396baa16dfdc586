"""Inputs that a policy reads and its model does not have: they are absent in every request. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from router.policy import TrafficPolicy

_SHOWN: Final = 12


def unreadable(
    policy: TrafficPolicy, inputs: Sequence[str], feature_names: Mapping[str, Sequence[str]]
) -> Iterator[str]:
    """Sentences on rules and units that read what the model does not have.

    Args:
        inputs: of the contract, such as "x FP32 [-1,24]".
        feature_names: input name -> names of its columns.
    """
    fields = fields_of(inputs, feature_names)
    known = ", ".join(fields[:_SHOWN]) + (", ..." if len(fields) > _SHOWN else "") if fields else "nothing"
    for what, name in _reads(policy):
        if name not in fields:
            yield f"{what} reads the input {name[:64]!r}, which no request can have; what can be read: {known}"


def fields_of(inputs: Sequence[str], feature_names: Mapping[str, Sequence[str]]) -> list[str]:
    """What can be read, as `gateway.wire.fields` finds it: named columns, and inputs with one value per row."""
    found = []
    for text in inputs:
        name, _, shape = text.rsplit(" ", 2)
        if all(size == "1" for size in shape.strip("[]").split(",")[1:]):
            found.append(name)
        found += [column for column in feature_names.get(name, ()) if column not in found]
    return found


def _reads(policy: TrafficPolicy) -> Iterator[tuple[str, str]]:
    """Who reads an input, and its name; each once."""
    found = [("the unit", source.input) for source in policy.spec.unit.from_ if source.input is not None]
    found += [(f"rule {rule.name}", name) for rule in policy.spec.rules for match in rule.match for name in match.input]
    yield from dict.fromkeys(found)
