"""Policies as plain values, as a YAML parser gives them."""

from typing import Any

from router.compiled import CompiledPolicy, compile_policy
from router.policy import TrafficPolicy, parse
from router.slots import fresh


def policy(**spec: Any) -> dict[str, Any]:
    """A small right document with these parts in its spec; None takes a part away."""
    parts: dict[str, Any] = {
        "variants": [{"name": "stable", "model": "m:1"}, {"name": "canary", "model": "m:2"}],
        "unit": {"from": [{"header": "x-user-id"}], "salt": "s"},
        "split": {"stable": 9000, "canary": 1000},
    } | spec
    return {
        "apiVersion": "tidegate/v1",
        "kind": "TrafficPolicy",
        "metadata": {"name": "m"},
        "spec": {name: part for name, part in parts.items() if part is not None},
    }


def read(**spec: Any) -> TrafficPolicy:
    """The same, parsed."""
    return parse(policy(**spec))


def ready(*, killed: frozenset[str] = frozenset(), shadow_slots: int | None = None, **spec: Any) -> CompiledPolicy:
    """The same, compiled with a table of its split."""
    document = read(**spec)
    return compile_policy(document, fresh(document.counts()), killed=killed, shadow_slots=shadow_slots)
