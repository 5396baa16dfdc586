"""A canary whose answers shift, as the monitor sees it, and what it writes down, as the trail gives it back."""

import copy
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np

from gateway.control.monitorheld import Held
from gateway.control.replay import Replay, replay
from gateway.monitor.book import ModelMonitor, Outcome
from gateway.monitor.settings import Actions, Spec, Window
from tests.audit.test_replay import linked
from tests.monitor.test_champion import CANARY, PLAN, ROLES, STABLE, counts, referenced

SPEC = Spec(window=Window(rows=1000), actions=Actions(on_drift_of_canary="rollback"))
MINUTE_MS = 60_000


def watched(spec: Spec = SPEC, plan: Any = PLAN) -> Held:
    """A monitor of two versions."""
    monitor = ModelMonitor("m", spec)
    monitor.watch({"1": referenced(plan, "x"), "2": referenced(plan, "y")})
    return Held(spec, monitor)


def turns(
    held: Held, *, shift: float = 0.0, score: float = 0.0, plan: Any = PLAN, most: int = 200
) -> Iterator[Outcome]:
    """A turn each minute: inputs of both are shifted, answers of the canary alone."""
    rng = np.random.default_rng(7)
    for minute in range(most):
        deltas = [
            (*CANARY, counts(rng, 50, shift=shift, score=score, plan=plan)),
            (*STABLE, counts(rng, 50, shift=shift, plan=plan)),
        ]
        outcome = held.monitor.turn(deltas, ROLES, minute * MINUTE_MS, token=1)
        held.notes.take(outcome.events, held.monitor)
        yield outcome


def read_back(record: dict[str, Any]) -> dict[str, Any]:
    """As the trail gives it: from JSON, whose objects are sorted."""
    found: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(record, order="deterministic"))
    return found


def replayed(record: dict[str, Any]) -> Replay:
    """Of a record that stands by itself."""
    return replay(linked(record, kind="monitor-state"), None)


def numbers(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where numbers stand in a plain value."""
    if isinstance(value, dict | list):
        for place, one in value.items() if isinstance(value, dict) else enumerate(value):
            yield from numbers(one, (*at, place))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield at


def edited(record: dict[str, Any], at: tuple[Any, ...], by: Any) -> dict[str, Any]:
    """Another record: a value replaced. Args: by: of the value before, or the new one."""
    found = copy.deepcopy(record)
    holder = found
    for place in at[:-1]:
        holder = holder[place]
    holder[at[-1]] = by(holder[at[-1]]) if callable(by) else by
    return found
