"""What answers on this worker: built from a snapshot and the runtimes that are here, swapped as one reference."""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from gateway.control.messages import Collected, PolicyState, SigningKey, Snapshot, Watched
from gateway.counters import CounterPage
from gateway.decisions import DecisionLog
from gateway.failing import Failing
from gateway.logs import RequestLog
from gateway.monitor.tap import Tap
from gateway.policyroute import PolicyRoute, Terms
from gateway.served import Codec, Named, Results, ServedVersion
from gateway.shadow import Comparison, Shadow, shadow_counts
from gateway.signing import Clock, Signer
from gateway.tally import NoteRing, Routings
from gateway.unitkeys import keyed
from gateway.wire.request import Limits
from router.compiled import CompiledPolicy, compile_policy
from router.policy import Compare, TrafficPolicy, parse
from router.table import ModelRoute, RoutingTable
from runtimes.fleet import Fleet
from runtimes.runtime import Runtime

if TYPE_CHECKING:
    from gateway.monitor.firsttap import FirstTap
    from gateway.samples import Outbox, Sampler

Selector = tuple[str, str]
"""Model name, and what stands where the version stands."""


@dataclass(frozen=True, slots=True)
class Routes:
    """Everything that one snapshot says about who answers.

    Attributes:
        served: (model name, selector) -> what answers, or the policy that decides.
        policies: in force here, by model name.
        paths: raw URL -> (model name, selector) of every infer URL that resolves: the fast lane's table.
        header_names: lower-case names of the headers that policies read.
        explicit: model name -> `scope` or `refuse`, where its policy does not let everybody name a version.
    """

    table: RoutingTable
    served: Mapping[Selector, ServedVersion | PolicyRoute] = field(default_factory=dict)
    policies: Mapping[str, PolicyRoute] = field(default_factory=dict)
    paths: Mapping[bytes, Selector] = field(default_factory=dict)
    header_names: frozenset[bytes] = frozenset()
    explicit: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Facts:
    """What a policy's route is made of.

    Attributes:
        beside: a header that the monitor reads.
        labelled: of each variant, whether the monitor waits for labels of its answers.
        key: signs its predictions; None = there is none yet.
        unit_key: keys the hashes of its units; b"" = there is none yet.
    """

    state: PolicyState
    codecs: tuple[Codec | None, ...]
    beside: bytes
    labelled: tuple[bool, ...]
    key: SigningKey | None
    unit_key: bytes


NO_ROUTES: Final = Routes(RoutingTable({}, 0))
DEFAULT_INFLIGHT: Final = 32
"""Copies that wait or run at once, where the policy says nothing."""


class RouteBook:
    """Keeps what outlives a snapshot: codecs with what they remember, counts, policies that have not changed.

    Attributes:
        clock: Unix time in whole seconds; its owner ticks.
        routings: requests that policies routed and are not in the page yet.
        zeroed: (policy, rollout) whose canary this worker gives nothing, by its own decision -> why.
        on_zeroed: called when that has grown.
        failing: the last requests that failed on a canary.
        decisions: the decision log; None = there is none.
        collected: versions whose first rows the monitor wants, with what they answered.
        outbox: samples of shadows on their way to control; None = no policy has asked for any.
    """

    def __init__(
        self,
        page: CounterPage,
        limits: Limits,
        log: RequestLog,
        now_ns: Callable[[], int],
        now_ms: Callable[[], int],
    ) -> None:
        self.clock = Clock(now_ms() // 1000)
        self.zeroed: dict[tuple[str, str], str] = {}
        self.on_zeroed: Callable[[], None] = lambda: None
        self.failing = Failing()
        self.decisions: DecisionLog | None = None
        self.collected: list[tuple[Collected, FirstTap]] = []
        self.outbox: Outbox | None = None
        self._page = page
        self._limits = limits
        self._log = log
        self._now_ns = now_ns
        self._now_ms = now_ms
        self._ring = NoteRing(page)
        self.routings = Routings()
        self._codecs: dict[Runtime, Codec] = {}
        self._plain: dict[Runtime, ServedVersion] = {}
        self._named: dict[Runtime, ServedVersion] = {}
        self._key: SigningKey | None = None
        self._known: dict[str, tuple[_Facts, PolicyRoute | None]] = {}

    @property
    def inflight(self) -> int:
        """Requests that found a version and are not answered yet."""
        return sum(meter.inflight for codec in self._codecs.values() for meter in codec.meters.values())

    def sink_for(self, runtime: Runtime) -> Results:
        """The receiver of a new runtime's results."""
        for known in [known for known in self._codecs if known.state == "CLOSED"]:
            self._codecs[known].watch(None)
            del self._codecs[known], self._plain[known]
        codec = self._codecs[runtime] = Codec(runtime, self._page, self._limits)
        self._plain[runtime] = self._serve(codec)
        return Results()

    def build(self, snapshot: Snapshot, fleet: Fleet) -> Routes:
        """The routes of a snapshot, with the runtimes that are here now."""
        table = _table(snapshot)
        if self.decisions is not None:
            self.decisions.key = snapshot.unit_key
        self._watch(snapshot)
        served: dict[Selector, ServedVersion | PolicyRoute] = {}
        for name, selector in table.selectors():
            version = table.decide(name, selector).version
            runtime = fleet.get(name, version) if version is not None else None
            if runtime is not None:
                served[name, selector] = self._named.get(runtime) or self._plain[runtime]
        self._forget_zeroed(snapshot)
        policies = self._in_force(snapshot, fleet)
        for state in snapshot.policies:
            route = policies.get(state.name)
            if route is not None:
                served[state.name, ""] = route
            else:
                # Not in force yet: the newest version, perhaps a canary, must not answer everybody.
                served.pop((state.name, ""), None)
        names = frozenset().union(*(route.compiled.header_names for route in policies.values()))
        names |= {one.header.encode() for one in snapshot.watched if one.header}
        rules = {name: route.compiled.policy.spec.explicit_versions for name, route in policies.items()}
        explicit = {name: rule for name, rule in rules.items() if rule != "allow"}
        # A caller who names a version there is asked who it is, which the fast lane does not do.
        paths = {_path(*place): place for place in served if not (place[1] and place[0] in explicit)}
        return Routes(table, served, policies, paths, names, explicit)

    def _watch(self, snapshot: Snapshot) -> None:
        """Let the monitor see what it watches or collects; answers that it watches name their prediction, if asked."""
        wanted: tuple[Watched | Collected, ...] = (*snapshot.collected, *snapshot.watched)
        watched = {(one.name, one.version, one.digest): one for one in wanted}
        named: dict[Runtime, ServedVersion] = {}
        self.collected = []
        for runtime, codec in self._codecs.items():
            one = watched.get((runtime.name, runtime.version, runtime.digest))
            codec.watch(one)
            if isinstance(one, Collected) and codec.first is not None:
                self.collected.append((one, codec.first))
            if isinstance(one, Watched) and one.ids and snapshot.signing:
                key = snapshot.signing[0]
                known = self._named.get(runtime)
                named[runtime] = known if known is not None and self._key == key else self._name(codec, key)
        self._named, self._key = named, snapshot.signing[0] if snapshot.signing else None

    def _name(self, codec: Codec, key: SigningKey) -> ServedVersion:
        origin = int.from_bytes(os.urandom(8), "big")
        signer = Signer(key.id, key.secret, 0, [codec.runtime.digest], clock=self.clock, sequence=origin, origin=origin)
        return self._serve(codec, evidence=Named(codec, signer))

    @property
    def taps(self) -> Iterator[Tap]:
        """Of every version that the monitor watches."""
        for codec in self._codecs.values():
            yield from codec.counting

    def _forget_zeroed(self, snapshot: Snapshot) -> None:
        """What this worker zeroed holds for that rollout, until control clears it; what failed, while there is one."""
        kept = {(state.name, state.rollout) for state in snapshot.policies if state.rollout not in snapshot.cleared}
        self.zeroed = {place: reason for place, reason in self.zeroed.items() if place in kept}
        self.failing.keep({(state.name, state.rollout) for state in snapshot.policies})

    def _serve(self, codec: Codec, **variant: Any) -> ServedVersion:
        return ServedVersion(codec, self._log, self._now_ns, self._now_ms, **variant)

    def _in_force(self, snapshot: Snapshot, fleet: Fleet) -> dict[str, PolicyRoute]:
        """Policies whose stable variant is here; one that has not changed goes on as it is."""
        known = self._known
        self._known = {}
        found: dict[str, PolicyRoute] = {}
        asked = {(one.name, one.version, one.digest) for one in snapshot.watched if one.ids}
        key = snapshot.signing[0] if snapshot.signing else None
        for state in snapshot.policies:
            codecs = tuple([self._codec(fleet.get(pin.name, pin.version), pin.digest) for pin in state.variants])
            beside = next((one.header for one in snapshot.watched if one.name == state.name), "").encode()
            labelled = tuple([(pin.name, pin.version, pin.digest) in asked for pin in state.variants])
            facts = _Facts(state, codecs, beside, labelled, key, snapshot.unit_key)
            was = known.get(state.name)
            route = was[1] if was is not None and was[0] == facts else self._route(facts)
            self._known[state.name] = (facts, route)
            if route is not None:
                found[state.name] = route
        return found

    def _route(self, facts: "_Facts") -> PolicyRoute | None:
        """A policy as it decides here; None while its stable variant is not here: the default version then answers."""
        state, codecs, key = facts.state, facts.codecs, facts.key
        if codecs[state.stable] is None or key is None or not facts.unit_key:
            return None
        policy = parse(state.document)
        names = tuple(pin.variant for pin in state.variants)
        canary = names[state.canary] if state.canary >= 0 else ""
        taken_out = frozenset({*state.killed, *([canary] if state.zeroed else [])}) - {""}
        compiled = compile_policy(
            policy, state.slots, revision=state.revision, killed=taken_out, shadow_slots=state.shadow_slots
        )
        signer = Signer(
            key.id,
            key.secret,
            state.revision,
            [pin.digest for pin in state.variants],
            clock=self.clock,
            sequence=int.from_bytes(os.urandom(6), "big"),
        )
        rollout = policy.spec.rollout
        terms = Terms(
            name=state.name,
            number=state.number,
            revision=state.revision,
            stable=state.stable,
            canary=state.canary,
            slow_ns=state.slow_ns,
            wait_ns=state.wait_ns,
            run_ns=state.run_ns,
            fallback=rollout is not None and rollout.on_failure.fallback_to_stable,
            zeroed=state.zeroed,
            zeroed_here=(state.name, state.rollout) in self.zeroed,
            doublings=state.doublings,
        )

        def on_zeroed(reason: str) -> None:
            self.zeroed[state.name, state.rollout] = reason
            self.on_zeroed()

        return PolicyRoute(
            compiled,
            terms,
            codecs,
            [policy.spec.feedback.ids or one for one in facts.labelled],
            page=self._page,
            ring=self._ring,
            routings=self.routings,
            signer=signer,
            shadow=self._shadow(policy, compiled, state, codecs),
            decisions=self.decisions,
            keyed=keyed(facts.unit_key, state.name),
            serve=self._serve,
            now_ns=self._now_ns,
            on_zeroed=on_zeroed,
            on_failed=partial(self.failing.note, state.name, state.rollout),
            beside=facts.beside,
        )

    def _shadow(
        self, policy: TrafficPolicy, compiled: CompiledPolicy, state: PolicyState, codecs: tuple[Codec | None, ...]
    ) -> Shadow | None:
        """Who answers unseen: the document's shadow, or the canary in a rollout."""
        wanted = policy.spec.shadow
        index = compiled.names.index(wanted.variant) if wanted is not None else state.canary
        codec = codecs[index] if index >= 0 else None
        if codec is None or not state.shadow_slots:
            return None
        compare = wanted.compare if wanted is not None else Compare()
        return Shadow(
            codec,
            index,
            Comparison(compare.argmax, compare.atol, compare.rtol, compare.topk or 0),
            counts=shadow_counts(self._page, state.name, state.revision, compiled.names[index]),
            most_inflight=wanted.max_inflight if wanted is not None else DEFAULT_INFLIGHT,
            now_ns=self._now_ns,
            now_ms=self._now_ms,
            samples=self._sampler(state, compiled.names[index], codec) if wanted and wanted.samples else None,
        )

    def _sampler(self, state: PolicyState, variant: str, codec: Codec) -> "Sampler":
        from gateway.samples import Outbox, Sampler  # noqa: PLC0415  # few ask for samples

        if self.outbox is None:
            self.outbox = Outbox()
        return Sampler(self.outbox, state.name, state.revision, variant, codec.runtime.signature)

    def _codec(self, runtime: Runtime | None, digest: str) -> Codec | None:
        """A variant is pinned to a digest: a version of the same number with other bytes is not it."""
        return self._codecs[runtime] if runtime is not None and runtime.digest == digest else None


def _table(snapshot: Snapshot) -> RoutingTable:
    waiting: dict[str, dict[int, str]] = {}
    for state in snapshot.states:
        waiting.setdefault(state.name, {})[state.version] = state.reason or f"it is {state.state.lower()}"
    routes = {
        name: ModelRoute(route.default, route.versions, route.aliases, route.reason, waiting.get(name, {}))
        for name, route in snapshot.routes.items()
    }
    return RoutingTable(routes, snapshot.revision)


def _path(name: str, selector: str) -> bytes:
    middle = f"/versions/{selector}" if selector else ""
    return f"/v2/models/{name}{middle}/infer".encode()
