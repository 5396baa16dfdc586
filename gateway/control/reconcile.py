"""From what is wanted and what workers hold to what they should hold and how names answer. Pure.

A new version is loaded beside what serves; when it is READY on the node the routes move to it, and in the same
snapshot the old one is no longer wanted: a worker swaps its routes before it drains. A failed load never removes what
serves.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec

from gateway.control.messages import (
    ModelState,
    PolicyState,
    Route,
    SigningKey,
    Snapshot,
    Status,
    WantedModel,
)
from runtimes.registry.modelconfig import ModelConfig

READY: Final = "READY"
LOADING: Final = "LOADING"
UNAVAILABLE: Final = "UNAVAILABLE"

Key = tuple[str, int, str, int]


def key_of(model: WantedModel | ModelState) -> Key:
    """Identity of a load."""
    return (model.name, model.version, model.digest, model.generation)


@dataclass(frozen=True, slots=True)
class Desired:
    """What the repository wants of one name.

    Attributes:
        targets: versions selected, copied and probed.
        pending: selected versions that are still being copied or probed.
        failed: selected versions that cannot be loaded -> reason.
        offered: every version in the repository.
        banned: digests that no worker may hold.
    """

    config: ModelConfig
    targets: tuple[WantedModel, ...] = ()
    pending: frozenset[int] = frozenset()
    failed: Mapping[int, str] = field(default_factory=dict)
    offered: frozenset[int] = frozenset()
    banned: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class NodeView:
    """What the workers that count say: those that listen, or all while none does.

    Attributes:
        ready: loads that are READY in every one.
        serving: (name, version) that is READY in every one, whichever load it is.
        held: (name, version) that is READY in at least one.
        failed: loads that failed in one of them -> reason.
        load_ns: the longest time that a load took.
    """

    ready: frozenset[Key] = frozenset()
    serving: frozenset[tuple[str, int]] = frozenset()
    held: frozenset[tuple[str, int]] = frozenset()
    failed: Mapping[Key, str] = field(default_factory=dict)
    load_ns: Mapping[Key, int] = field(default_factory=dict)


def view_of(statuses: Iterable[Status]) -> NodeView:
    """Put the workers' words together."""
    everyone = list(statuses)
    counted = [status for status in everyone if status.listening] or everyone
    if not counted:
        return NodeView()
    ready = [{key_of(state) for state in status.models if state.state == READY} for status in counted]
    serving = [{key[:2] for key in keys} for keys in ready]
    states = [state for status in counted for state in status.models]
    return NodeView(
        frozenset(set.intersection(*ready)),
        frozenset(set.intersection(*serving)),
        frozenset(set.union(*serving)),
        {key_of(state): state.reason for state in states if state.state == UNAVAILABLE},
        {key_of(state): state.load_ns for state in sorted(states, key=lambda state: state.load_ns)},
    )


@dataclass(frozen=True, slots=True)
class Traffic:
    """What policies add to a snapshot; see `Snapshot`."""

    policies: tuple[PolicyState, ...] = ()
    signing: tuple[SigningKey, ...] = ()
    cleared: tuple[str, ...] = ()
    unit_key: bytes = b""


def decide(
    desired: Mapping[str, Desired], before: Snapshot, view: NodeView, *, ready: bool, traffic: Traffic | None = None
) -> Snapshot:
    """The next snapshot; its revision is that of `before` when nothing has changed, else one more.

    Args:
        ready: the latch of readiness, see `is_ready`.
    """
    traffic = traffic or Traffic()
    models: list[WantedModel] = []
    routes: dict[str, Route] = {}
    states: list[ModelState] = []
    for name in sorted(desired):
        wanted = desired[name]
        kept = _kept(name, wanted, before, view)
        models += [*wanted.targets, *kept]
        routes[name] = _route(name, wanted, kept, before, view)
        states += _states(name, wanted, kept, view)
    after = Snapshot(
        before.revision,
        tuple(models),
        routes,
        ready,
        tuple(states),
        tuple([one for state in traffic.policies if (one := _in_turn(state, before, view)) is not None]),
        traffic.signing,
        traffic.cleared,
        before.keys,
        traffic.unit_key or before.unit_key,
        before.watched,
        before.collected,
    )
    return before if after == before else msgspec.structs.replace(after, revision=before.revision + 1)


def _in_turn(state: PolicyState, before: Snapshot, view: NodeView) -> PolicyState | None:
    """A policy as workers act on it now: another document waits until its stable version is here, and what answered
    before goes on, the document before or none.

    Nothing waits where nobody answers, as at a start: the newest version must not answer everybody in between.
    """
    was = next((one for one in before.policies if one.name == state.name), None)
    pin = state.variants[state.stable]
    here = (pin.name, pin.version, pin.digest) in {key[:3] for key in view.ready}
    route = before.routes.get(state.name)
    answered = route is not None and route.default is not None
    if here or not answered or (was is not None and _is_step(was, state)):
        return state
    return None if was is None else _until_then(was, state)


def _is_step(was: PolicyState, state: PolicyState) -> bool:
    """The same document goes on, or another one with the same stable version: waiting would help nobody."""
    same = (was.document, was.variants) == (state.document, state.variants)
    return same or was.variants[was.stable] == state.variants[state.stable]


def _until_then(was: PolicyState, state: PolicyState) -> PolicyState:
    """The document before, while the stable version of the next one is loaded.

    With another stable version its rollout is over, so its canary has nothing at once; nor has what was killed since.
    """
    stable = was.variants[was.stable].variant
    # By name and by what it is: the document before may call it otherwise.
    out = {*was.killed, *state.killed, *(pin.digest for pin in state.variants if pin.variant in state.killed)}
    killed = {pin.variant for pin in was.variants if {pin.variant, pin.digest} & out} - {stable}
    return msgspec.structs.replace(was, zeroed=was.zeroed or was.canary >= 0, killed=tuple(sorted(killed)))


def stables_of(states: Iterable[PolicyState]) -> dict[str, int]:
    """Policy -> the version without which it refuses everybody."""
    return {state.name: state.variants[state.stable].version for state in states}


def is_ready(
    desired: Mapping[str, Desired], names: Iterable[str], view: NodeView, stables: Mapping[str, int], *, degraded: bool
) -> bool:
    """Whether every name wanted at start has a version READY, or (`degraded`) has failed with a reason.

    Args:
        stables: by name the version that has to be; other names may have any.
    """
    return all(
        _is_up(desired.get(name), view, stables.get(name))
        or (degraded and _is_down(desired.get(name), view, stables.get(name)))
        for name in names
    )


def _is_up(wanted: Desired | None, view: NodeView, stable: int | None) -> bool:
    return any(key_of(target) in view.ready for target in _needed(wanted, stable))


def _is_down(wanted: Desired | None, view: NodeView, stable: int | None) -> bool:
    pending = wanted is not None and wanted.pending
    return not pending and all(key_of(target) in view.failed for target in _needed(wanted, stable))


def _needed(wanted: Desired | None, stable: int | None) -> list[WantedModel]:
    targets = wanted.targets if wanted is not None else ()
    return [target for target in targets if stable in (None, target.version)]


def waits_for(names: Iterable[str], snapshot: Snapshot) -> list[str]:
    """What was wanted at the start and is not there, each with its reason."""
    stables = stables_of(snapshot.policies)
    states = {(one.name, one.version): one for one in snapshot.states}
    found = []
    for name in names:
        route, stable = snapshot.routes.get(name), stables.get(name)
        if route is None or route.default is None:
            found.append(f"{name}: {route.reason if route else 'not in the repository'}")
        elif stable is not None and ((one := states.get((name, stable))) is None or one.state != READY):
            reason = "not in the repository" if one is None else one.reason or "it is loading"
            found.append(f"{name}: version {stable}, stable in its policy: {reason}")
    return found


def _kept(name: str, wanted: Desired, before: Snapshot, view: NodeView) -> list[WantedModel]:
    """What serves and is not selected any more, but whose successors are not there yet."""
    versions = {target.version for target in wanted.targets}
    up = [key_of(target) in view.ready for target in wanted.targets]
    complete = all(up) and bool(up) and not wanted.pending and not wanted.failed
    return [
        model
        for model in before.models
        if model.name == name
        and model.version not in versions
        and model.digest not in wanted.banned
        and (name, model.version) in view.held
        and not (any(up) and (complete or model.version not in wanted.offered))
    ]


def _route(name: str, wanted: Desired, kept: list[WantedModel], before: Snapshot, view: NodeView) -> Route:
    was = before.routes.get(name)
    routed = set(was.versions) if was else set()

    def answers(model: WantedModel) -> bool:
        # Once routed, a version stays so while any worker has it: a respawn that cannot load it takes it from nobody.
        place = (name, model.version)
        return place in view.serving or (model.version in routed and place in view.held)

    current = [target.version for target in wanted.targets if answers(target)]
    old = [model.version for model in kept if answers(model)]
    default = max(current or old, default=None)
    reason = "" if default is not None else _reason(wanted, view)
    return Route(default, tuple(sorted({*current, *old})), dict(wanted.config.aliases), reason)


def _reason(wanted: Desired, view: NodeView) -> str:
    failures = [*wanted.failed.values(), *(view.failed.get(key_of(target), "") for target in wanted.targets)]
    return next(filter(None, failures), "it is loading" if wanted.targets or wanted.pending else "no version of it")


def _states(name: str, wanted: Desired, kept: list[WantedModel], view: NodeView) -> list[ModelState]:
    states: list[ModelState] = []
    for model in [*wanted.targets, *kept]:
        key = key_of(model)
        reason = view.failed.get(key, "")
        if key in view.ready or (model in kept and key[:2] in view.held):
            state, reason = READY, wanted.failed.get(model.version, "")
        else:
            state = UNAVAILABLE if reason else LOADING
        states.append(ModelState(*key, state, reason, view.load_ns.get(key, 0)))
    told = {state.version for state in states}
    states += [ModelState(name, v, "", 0, LOADING) for v in sorted(wanted.pending - told)]
    states += [ModelState(name, v, "", 0, UNAVAILABLE, r) for v, r in sorted(wanted.failed.items()) if v not in told]
    return states
