"""One policy in force on this worker: which variant a request goes to, and how it fared there.

The decision itself is `router.compiled`; here it meets runtimes. A canary whose runtime is missing, or that was zeroed
here, is replaced by stable, and such a request is no evidence. A request that failed on the canary is answered by
stable when the policy says so. Nothing here awaits, logs or touches a store.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, cast

from gateway.counters import CounterPage
from gateway.exchange import Exchange
from gateway.predictions import Signer
from gateway.served import Codec, ServedVersion
from gateway.shadow import Shadow
from gateway.tally import (
    BAD,
    FALLBACK,
    NEUTRAL,
    NOTE_BAD,
    NOTE_SEEN,
    NOTE_SLOW,
    OK,
    ROUTED,
    SLOW,
    UNCOUNTED,
    NoteRing,
    place_of,
    tally,
)
from router.compiled import REFUSED, CompiledPolicy
from router.hashing import INDEX_BITS
from router.view import RequestView
from runtimes.batching.job import NEW
from runtimes.errors import InvalidInput, ServingError
from runtimes.runtime import READY, Runtime
from runtimes.tensors import Array

ATTEMPT_SHARE: Final = 0.6
"""Of the time left, for an attempt on a canary that stable stands behind."""
FALLBACK_SHARE: Final = 0.2
"""Fallbacks over answers of stable; above it the canary is zeroed here."""
_TOKENS: Final = 20.0
CONSECUTIVE: Final = 20
"""So many failures of a canary in a row zero it here: about one in 10^20 at a bad rate of 10 %."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a policy says beside its routing table.

    Attributes:
        name, number, revision: of the policy; the number is this node's.
        stable, canary: indices of the variants in these roles; canary -1 = no rollout is under way.
        slow_ns: requests that take longer are slow; 0 = not judged.
        fallback: stable answers what failed on the canary.
        zeroed: the canary gets nothing, here or anywhere.
        doublings: units of a share of 1/2^doublings are noted one by one.
    """

    name: str
    number: int
    revision: int
    stable: int
    canary: int = -1
    slow_ns: int = 0
    fallback: bool = False
    zeroed: bool = False
    doublings: int = 0


class Arm:
    """One variant of one revision: counts how its requests fared.

    Attributes:
        served: answers for it; None = its runtime is not here.
        tallies: counts by stratum; the last is that of requests that are no evidence.
        places: where requests of each stratum were routed.
    """

    def __init__(self, route: "PolicyRoute", index: int, variant: str, page: CounterPage) -> None:
        terms, strata = route.terms, route.compiled.strata
        self.served: ServedVersion | None = None
        names = [stratum.rule for stratum in strata] + [UNCOUNTED]
        self.tallies = [tally(page, terms.name, terms.revision, name, variant) for name in names]
        self.places = [place_of(terms.number, terms.revision, stratum.index, index) for stratum in strata]
        self.is_canary = index == terms.canary
        self._route = route
        self._slow_ns = terms.slow_ns
        self._mask = ((1 << terms.doublings) - 1) << INDEX_BITS
        self._ring = route.ring
        self._signer = route.signer
        self._index = index
        self._failures = 0

    def answered(self, jobs: Sequence[Exchange], outputs: Sequence[Array], now: int) -> None:
        """Requests of one batch are about to be answered: count them and name each prediction."""
        slow_ns, sign, mask = self._slow_ns, self._signer.sign, self._mask
        self._failures = 0
        for job in jobs:
            counts = job.tally
            if counts is None:
                continue
            counts[OK] += 1
            job.tally = None
            unit = job.unit
            place = job.place
            if not place:
                job.lead = sign(self._index, unit)
                continue
            job.lead = sign(self._index, unit, place >> 15 & 0x7F)
            if slow_ns and now - job.started_ns > slow_ns:
                counts[SLOW] += 1
                self._ring.write(NOTE_SLOW | (0 if unit & mask else NOTE_SEEN), place, unit)
            elif not unit & mask:
                self._ring.write(NOTE_SEEN, place, unit)
        route = self._route
        if not self.is_canary and route.terms.fallback:
            route.earn(len(jobs))
        if route.shadow is not None:
            route.shadow.offer(jobs, outputs, self._index)

    def failed(self, exchange: Exchange, error: ServingError) -> bool:
        """One failed; True = stable answers it."""
        counts = exchange.tally
        assert counts is not None, "a request counts once"
        exchange.tally = None
        if not error.executed:
            counts[NEUTRAL] += 1
            return False
        counts[BAD] += 1
        place, unit = exchange.place, exchange.unit
        if not place:
            return False
        self._ring.write(NOTE_BAD | (0 if unit & self._mask else NOTE_SEEN), place, unit)
        if not self.is_canary:
            return False
        self._failures += 1
        if self._failures >= CONSECUTIVE:
            self._route.zero(f"{CONSECUTIVE} requests failed in a row")
        if not self._route.fall_back(exchange):
            return False
        counts[FALLBACK] += 1
        return True

    def left(self, exchange: Exchange) -> None:
        """The caller of one has gone."""
        counts = exchange.tally
        if counts is not None:
            counts[NEUTRAL] += 1
            exchange.tally = None


class PolicyRoute:
    """One revision of a policy on this worker.

    Args:
        codecs: of each variant, in the policy's order; None = its runtime is not here.
        serve: makes a `ServedVersion`: (codec, variant, arm, further headers).
        on_zeroed: told why the canary was zeroed here.

    Attributes:
        unrouted: answers what is refused before a variant was chosen.
        zeroed: why the canary gets nothing here; "" = it does.
    """

    def __init__(
        self,
        compiled: CompiledPolicy,
        terms: Terms,
        codecs: Sequence[Codec | None],
        *,
        page: CounterPage,
        ring: NoteRing,
        signer: Signer,
        shadow: Shadow | None,
        serve: Callable[..., ServedVersion],
        now_ns: Callable[[], int],
        on_zeroed: Callable[[str], None],
    ) -> None:
        self.compiled = compiled
        self.terms = terms
        self.ring = ring
        self.signer = signer
        self.shadow = shadow
        self.zeroed = "zeroed by control" if terms.zeroed else ""
        self.needs_body = compiled.needs_body
        self._now_ns = now_ns
        self._on_zeroed = on_zeroed
        self._tokens = _TOKENS
        revision = (b"x-tidegate-revision", b"%d" % terms.revision)
        self.arms: list[Arm] = []
        for index, (variant, codec) in enumerate(zip(compiled.names, codecs, strict=True)):
            arm = Arm(self, index, variant, page)
            if codec is not None:
                arm.served = serve(codec, variant=variant, evidence=arm, more=(revision,))
                arm.served.second_chance = terms.fallback and arm.is_canary
            self.arms.append(arm)
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
        # An exchange has the shape of a view, and a view of its own would cost 0.4 us.
        decision = self.compiled.decide(cast(RequestView, exchange))
        if decision.variant == REFUSED:
            raise InvalidInput(f"the traffic policy of {self.terms.name!r} wants a unit, and the request carries none")
        arm = self.arms[decision.variant]
        served = arm.served
        exchange.unit = decision.unit_hash
        if served is None or not _answers(served.runtime) or (self.zeroed and arm.is_canary):
            arm = self._stable
            served = arm.served
            assert served is not None, "checked in the constructor"
            counts = arm.tallies[-1]
        elif decision.counted:
            counts = arm.tallies[decision.stratum]
            exchange.place = arm.places[decision.stratum]
        else:
            counts = arm.tallies[-1]
        counts[ROUTED] += 1
        exchange.tally = counts
        exchange.shadowed = decision.shadow >= 0
        return served

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
        exchange.place = 0
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
            self._on_zeroed(reason)


def _answers(runtime: Runtime) -> bool:
    """READY, and not held back for executions that had to be ended."""
    return runtime.state == READY and (not runtime.terminations or runtime.refusal() is None)
