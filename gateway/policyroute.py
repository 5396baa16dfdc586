"""One policy in force on this worker: which variant a request goes to, and how it fared there.

The decision itself is `router.compiled`; here it meets runtimes. A canary whose runtime is missing, or that was zeroed
here, is replaced by stable, and such a request is no evidence. A request that failed on the canary is answered by
stable when the policy says so. Nothing here awaits, logs or touches a store.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.counters import CounterPage
from gateway.decisions import DecisionLog, Facts
from gateway.exchange import Exchange, Placed
from gateway.monitor.plan import LABEL_BINS
from gateway.predictions import NO_MARK
from gateway.served import Codec, ServedVersion
from gateway.shadow import Shadow
from gateway.signing import Signer
from gateway.tally import (
    BAD,
    FALLBACK,
    NEUTRAL,
    NOTE_BAD,
    NOTE_SEEN,
    NOTE_SLOW,
    NOTE_WAITED,
    OK,
    SLOW,
    UNCOUNTED,
    Executions,
    NoteRing,
    Routings,
    Tally,
    place_of,
    score_flags,
    tally_block,
)
from gateway.unitkeys import Keyed
from router.compiled import CompiledPolicy
from router.decision import REFUSED
from router.hashing import INDEX_BITS
from runtimes.batching.job import NEW
from runtimes.errors import InvalidInput, ServingError
from runtimes.runtime import READY, Runtime
from runtimes.tensors import Array

ATTEMPT_SHARE: Final = 0.6
"""Of the time left, for an attempt on a canary that stable stands behind."""
FALLBACK_SHARE: Final = 0.2
"""Fallbacks over answers of stable; above it the canary is zeroed here."""
_TOKENS: Final = 20.0
_SCORE_FLAGS: Final = [score_flags((place + 0.5) / LABEL_BINS) for place in range(LABEL_BINS)] + [0] * (
    256 - LABEL_BINS
)
"""By the score bin of an id: what a note says of it."""
_PLACED: Final = 16_384
"""Units kept per revision with their places, about 4 MiB; when full, all are forgotten."""
CONSECUTIVE: Final = 20
"""So many failures of a canary in a row zero it here: about one in 10^20 at a bad rate of 10 %."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a policy says beside its routing table.

    Attributes:
        name, number, revision: of the policy; the number is this node's.
        stable, canary: indices of the variants in these roles; canary -1 = no rollout is under way.
        slow_ns: requests that take longer are slow; 0 = not judged.
        wait_ns: requests that wait longer for their execution wait long; 0 = not judged.
        run_ns: executions that take longer are slow, by batch size, 0 = not known yet; () = not judged.
        fallback: stable answers what failed on the canary.
        zeroed: the canary gets nothing anywhere, and the weights of the revision say so.
        zeroed_here: this worker gives it nothing, by its own decision.
        doublings: units of a share of 1/2^doublings are noted one by one; -1 = none.
    """

    name: str
    number: int
    revision: int
    stable: int
    canary: int = -1
    slow_ns: int = 0
    wait_ns: int = 0
    run_ns: tuple[int, ...] = ()
    fallback: bool = False
    zeroed: bool = False
    zeroed_here: bool = False
    doublings: int = 0


class Arm:
    """One variant of one revision: counts how its requests fared.

    Args:
        named: its answers name their prediction.

    Attributes:
        served: answers for it; None = its runtime is not here.
        tallies: counts by stratum; the last is that of requests that are no evidence.
        places: where requests of each stratum were routed.
    """

    def __init__(self, route: "PolicyRoute", index: int, variant: str, page: CounterPage, *, named: bool) -> None:
        terms, strata = route.terms, route.compiled.strata
        self.served: ServedVersion | None = None
        names = [stratum.rule for stratum in strata] + [UNCOUNTED]
        self.tallies = [Tally(tally_block(page, terms.name, terms.revision, name, variant)) for name in names]
        self.places = [place_of(terms.number, terms.revision, stratum.index, index) for stratum in strata]
        self.is_canary = index == terms.canary
        self._route = route
        self._slow_ns = terms.slow_ns
        self._wait_ns = terms.wait_ns
        # Without a rollout or an experiment nobody reads notes of single requests.
        self._mask = ((1 << terms.doublings) - 1) << INDEX_BITS if terms.doublings >= 0 else -1
        self._notes = terms.doublings >= 0 or terms.slow_ns > 0 or terms.wait_ns > 0
        self._ring = route.ring
        self._signer = route.signer if named else None
        self._index = index
        self._failures = 0
        self._decisions = route.decisions
        self.facts = Facts(terms.name, terms.revision, variant, "", ())
        self.outputs: tuple[int, ...] = ()

    def logged(self, served: ServedVersion, wanted: Sequence[str]) -> None:
        """What its lines in the decision log say, now that its runtime is known."""
        names = [spec.name for spec in served.runtime.signature.outputs]
        places = [(name, names.index(name)) for name in wanted if name in names]
        self.outputs = tuple(place for _, place in places)
        terms = self._route.terms
        outputs = [name for name, _ in places]
        self.facts = Facts(terms.name, terms.revision, self.facts.variant, served.runtime.digest, outputs)

    def answered(self, jobs: Sequence[Exchange], outputs: Sequence[Array], started_ns: int, now: int) -> None:
        """Requests of one batch are about to be answered: count them and name each prediction."""
        self._failures = 0
        # A turn has done so before it executed them; what has no rows is answered without one.
        self._route.routings.write()
        notes = self._notes
        if notes or self._signer is not None:
            marks = self._marks(jobs, outputs)
            if self._signer is not None:
                self._signer.name(jobs, self._index, marks)
            if notes:
                self._note(jobs, marks, started_ns, now)
        _count_ok(jobs)
        if self._decisions is not None:
            self._decisions.answered(self.facts, self.outputs, jobs, outputs, now)
        route = self._route
        if not self.is_canary and route.terms.fallback:
            route.earn(len(jobs))
        if route.shadow is not None:
            route.shadow.offer(jobs, outputs, self._index)

    def _note(self, jobs: Sequence[Exchange], marks: list[int], started_ns: int, now: int) -> None:
        """Slow requests, those that waited long, and those of the sampled units."""
        slow_ns, wait_ns, mask = self._slow_ns, self._wait_ns, self._mask
        for job, marked in zip(jobs, marks, strict=True):
            placed = job.placed
            if placed is None or not placed.place:
                continue
            unit = placed.unit
            if wait_ns and started_ns - job.enqueued_ns > wait_ns:
                self._ring.write(NOTE_WAITED, placed.place, unit)
            seen = 0 if unit & mask else NOTE_SEEN | _SCORE_FLAGS[marked >> 8 & 0xFF]
            if slow_ns and now - job.started_ns > slow_ns:
                tally = job.tally
                assert tally is not None, "a request counts once"
                tally.counts[SLOW] += 1
                self._ring.write(NOTE_SLOW | seen, placed.place, unit)
            elif seen:
                self._ring.write(seen, placed.place, unit)

    def _marks(self, jobs: Sequence[Exchange], outputs: Sequence[Array]) -> list[int]:
        """What each id says of its scores: nothing, unless the monitor watches the version."""
        served = self.served
        tap = served.codec.taps.get(served.variant) if served is not None else None
        return (tap.marks(jobs, outputs) if tap is not None else None) or [NO_MARK] * len(jobs)

    def failed(self, exchange: Exchange, error: ServingError) -> bool:
        """One failed; True = stable answers it."""
        placed = exchange.placed
        helped = self._failed(exchange, error)
        if self._decisions is not None and placed is not None:
            outcome = "fallback" if helped else "bad" if error.executed else "neutral"
            self._decisions.ended(self.facts, outcome, exchange.request_id, placed)
        return helped

    def _failed(self, exchange: Exchange, error: ServingError) -> bool:
        tally = exchange.tally
        assert tally is not None, "a request counts once"
        exchange.tally = None
        self._route.routings.write()
        counts = tally.counts
        if not error.executed:
            counts[NEUTRAL] += 1
            return False
        counts[BAD] += 1
        placed = exchange.placed
        assert placed is not None, "a tally comes with a place"
        place, unit = placed.place, placed.unit
        if not place:
            return False
        self._ring.write(NOTE_BAD | (0 if unit & self._mask else NOTE_SEEN), place, unit)
        if not self.is_canary:
            return False
        self._route.on_failed(exchange)
        self._failures += 1
        if self._failures >= CONSECUTIVE:
            self._route.zero(f"{CONSECUTIVE} requests failed in a row")
        if not self._route.fall_back(exchange):
            return False
        counts[FALLBACK] += 1
        return True

    def left(self, exchange: Exchange) -> None:
        """The caller of one has gone."""
        tally = exchange.tally
        if tally is not None:
            self._route.routings.write()
            tally.counts[NEUTRAL] += 1
            exchange.tally = None
            if self._decisions is not None and exchange.placed is not None:
                self._decisions.ended(self.facts, "left", exchange.request_id, exchange.placed)


def _count_ok(jobs: Sequence[Exchange]) -> None:
    """Add the answers of a batch; mostly all count in one place."""
    first = jobs[0].tally
    if first is not None and all(job.tally is first for job in jobs):
        first.counts[OK] += len(jobs)
        return
    for job in jobs:
        if job.tally is not None:
            job.tally.counts[OK] += 1


class PolicyRoute:
    """One revision of a policy on this worker.

    Args:
        codecs: of each variant, in the policy's order; None = its runtime is not here.
        named: whether answers of each variant name their prediction.
        decisions: gets a line for each request; None = nobody asked for that.
        keyed: makes of a unit's hash what leaves this worker of it.
        serve: makes a `ServedVersion`: (codec, variant, arm, further headers).
        on_zeroed: told why the canary was zeroed here.
        on_failed: told of requests that failed on the canary.
        beside: a header that the monitor reads and the policy does not; b"" = there is none.

    Attributes:
        unrouted: answers what is refused before a variant was chosen.
        zeroed: why the canary gets nothing here; "" = it does.
    """

    def __init__(
        self,
        compiled: CompiledPolicy,
        terms: Terms,
        codecs: Sequence[Codec | None],
        named: Sequence[bool],
        *,
        page: CounterPage,
        ring: NoteRing,
        routings: Routings,
        signer: Signer,
        shadow: Shadow | None,
        decisions: DecisionLog | None,
        keyed: Keyed,
        serve: Callable[..., ServedVersion],
        now_ns: Callable[[], int],
        on_zeroed: Callable[[str], None],
        on_failed: Callable[[Exchange], None],
        beside: bytes = b"",
    ) -> None:
        self._beside = beside if beside not in compiled.header_names else b""
        self.compiled = compiled
        self.terms = terms
        self.ring = ring
        self.routings = routings
        self.signer = signer
        self.shadow = shadow
        self.decisions = decisions
        self.zeroed = "zeroed by control" if terms.zeroed else "zeroed here" if terms.zeroed_here else ""
        self.needs_body = compiled.needs_body
        self._keyed = keyed
        self._now_ns = now_ns
        self._on_zeroed = on_zeroed
        self.on_failed = on_failed
        self._tokens = _TOKENS
        self._unit_header = _only_unit_header(compiled)
        self._placed: dict[bytes, Placed] = {}
        revision = (b"x-tidegate-revision", b"%d" % terms.revision)
        self.arms: list[Arm] = []
        for index, (variant, codec) in enumerate(zip(compiled.names, codecs, strict=True)):
            arm = Arm(self, index, variant, page, named=named[index])
            if codec is not None:
                arm.served = serve(codec, variant=variant, evidence=arm, more=(revision,))
                arm.served.second_chance = terms.fallback and arm.is_canary
                if terms.run_ns:
                    version = codec.runtime.version_text
                    arm.served.executions = Executions(
                        page, terms.name, terms.revision, variant, version, terms.run_ns, len(compiled.strata)
                    )
                if decisions is not None:
                    arm.logged(arm.served, decisions.outputs)
            self.arms.append(arm)
        # While stable answers for the canary here, its own users are no evidence either: the arms would not be alike.
        away = terms.canary >= 0 and codecs[terms.canary] is None
        self._apart = (away or terms.zeroed_here) and not terms.zeroed
        stable = codecs[terms.stable]
        assert stable is not None, "a policy is in force only where stable is"
        self._stable = self.arms[terms.stable]
        more = (revision, (b"x-served-by", b"stable; fallback"))
        self._fallback = serve(stable, variant=compiled.names[terms.stable], more=more)
        self.unrouted = serve(stable)

    @property
    def runtime(self) -> Runtime:
        """Stable's: what metadata of the model describe."""
        return self.unrouted.runtime

    def choose(self, exchange: Exchange) -> ServedVersion:
        """Decide, and count the request as routed.

        Raises:
            InvalidInput: the policy wants a unit, and the request carries none.
        """
        alone = self._alone(exchange)
        placed = self._placed.get(alone) if alone is not None else None
        if placed is None:
            placed = self._place(exchange, alone)
        served = placed.served
        if self._apart or not served.readiness.clear or (placed.of_canary and self.zeroed):
            placed = self._instead(placed)
            served = placed.served
        self.routings.add(placed.tally)
        exchange.tally = placed.tally
        exchange.placed = placed
        return served

    def _alone(self, exchange: Exchange) -> bytes | None:
        """The unit, where it is all that the policy reads of this request: then the same unit means the same."""
        name = exchange.only_name
        if name is not None:
            return exchange.only_value if name == self._unit_header else None
        headers = exchange.headers
        few = len(headers) == 1 or (len(headers) == 2 and self._beside in headers)
        return headers.get(self._unit_header) if few else None

    def _place(self, exchange: Exchange, alone: bytes | None) -> Placed:
        """Where the policy puts a request; kept for users that come again. Raises InvalidInput.

        Args:
            alone: see `_alone`.
        """
        decision = self.compiled.decide(exchange)
        if decision.variant == REFUSED:
            raise InvalidInput(f"the traffic policy of {self.terms.name!r} wants a unit, and the request carries none")
        arm = self.arms[decision.variant]
        shadowed = decision.shadow >= 0
        unit = self._keyed(decision.unit_hash)
        if arm.served is None:
            return self._on_stable(unit, shadowed, decision.rule)
        at = decision.stratum if decision.counted else -1
        place = arm.places[decision.stratum] if decision.counted else 0
        placed = Placed(arm.served, arm.tallies[at], place, unit, shadowed, arm.is_canary, decision.rule)
        if alone is not None and decision.has_unit:
            if len(self._placed) >= _PLACED:
                self._placed.clear()
            self._placed[alone] = placed
        return placed

    def _instead(self, placed: Placed) -> Placed:
        """Stable in place of a variant that cannot answer now; as it is where nothing is in its way after all."""
        answers, own = _answers(placed.served.runtime), placed.served is self._stable.served
        if placed.of_canary and not self.terms.zeroed:
            self._apart = bool(self.zeroed) or not answers
        if answers and not (placed.of_canary and self.zeroed) and not (own and self._apart):
            return placed
        return self._on_stable(placed.unit, placed.shadowed, placed.rule)

    def _on_stable(self, unit: int, shadowed: bool, rule: str) -> Placed:
        """An override: no evidence."""
        served = self._stable.served
        assert served is not None, "checked in the constructor"
        return Placed(served, self._stable.tallies[-1], 0, unit, shadowed, False, rule)

    def earn(self, answers: int) -> None:
        """Stable has answered: so much more may fall back."""
        self._tokens = min(_TOKENS, self._tokens + FALLBACK_SHARE * answers)

    def fall_back(self, exchange: Exchange) -> bool:
        """Give a request that failed on the canary to stable; False = no time, no leave, or too many did."""
        if not self.terms.fallback or exchange.final_deadline_ns <= self._now_ns():
            return False
        if self._tokens < 1:
            self.zero(f"fallbacks above {FALLBACK_SHARE:.0%} of stable's answers")
            return False
        self._tokens -= 1
        assert exchange.served is not None, "it was attempted"
        exchange.served.meter.left()
        exchange.served = served = self._fallback
        exchange.deadline_ns = exchange.final_deadline_ns
        exchange.placed = None
        exchange.parts = ()
        exchange.state = NEW
        served.begin()
        try:
            served.runtime.batcher.submit(exchange, self._now_ns())
        except ServingError as error:
            served.failed(exchange, error)
        return True

    def zero(self, reason: str) -> None:
        """Nothing more to the canary on this worker, until control says otherwise."""
        if not self.zeroed:
            self.zeroed = reason
            self._apart = True
            self._on_zeroed(reason)


def _only_unit_header(compiled: CompiledPolicy) -> bytes:
    """The header that alone decides when no other one that the policy reads is there; b"" = there is more to it."""
    sources = compiled.policy.spec.unit.from_
    if compiled.needs_body or compiled.reads_query or len(sources) != 1 or sources[0].header is None:
        return b""
    return sources[0].header.lower().encode()


def _answers(runtime: Runtime) -> bool:
    """READY, and not held back for executions that had to be ended."""
    return runtime.state == READY and (not runtime.terminations or runtime.refusal() is None)
