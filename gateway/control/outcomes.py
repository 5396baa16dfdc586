"""How requests to stable ended on this node, for plans: by the evidence of the policy in force, and by all requests.

Both are totals of the pages, as old as the node; beside them stands what the last half minute added. Evidence is kept
by revision and variant: a revision counts for the digests that its variants had when it was seen here.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from gateway.control.counts import Totals
from gateway.control.documents import Kept
from gateway.control.rates import SHADOW, SPAN_S, TICK_S
from gateway.counters import CODE_INDEX, FAILED_RUN, CounterPage
from gateway.tally import BAD, OK, UNCOUNTED, tallies

POLICY: Final = "policy"
REQUESTS: Final = "requests"
ENOUGH_LATELY: Final = 1_000
"""Requests from which the last half minute speaks for itself: at 1 % bad it is right within two thirds."""

Place = tuple[str, str, str]
"""POLICY, model and digest; or REQUESTS, model and version."""
Ended = Mapping[Place, tuple[int, int]]
"""Requests that ended well, and badly: what failed in or after its execution, or came too late."""


@dataclass(frozen=True, slots=True)
class Counted:
    """Requests to stable, and who counted them.

    Attributes:
        source: "rollout", POLICY or REQUESTS.
        seconds: they are of so long until now; None = of all since the rollout's, or the node's, start.
    """

    source: str
    ok: int
    bad: int
    seconds: float | None = None

    @property
    def requests(self) -> int:
        """All of them."""
        return self.ok + self.bad


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What is counted: since the node's start, and in the `seconds` before now."""

    since_start: Ended = field(default_factory=dict)
    lately: Ended = field(default_factory=dict)
    seconds: float = 0.0

    def of(self, model: str, version: int, digest: str) -> list[Counted]:
        """Of one version, best first: what the policy in force counted, and all requests."""
        return [self._at((POLICY, model, digest)), self._at((REQUESTS, model, str(version)))]

    def _at(self, place: Place) -> Counted:
        found = Counted(place[0], *self.lately.get(place, (0, 0)), self.seconds)
        if found.requests >= ENOUGH_LATELY:
            return found
        return Counted(place[0], *self.since_start.get(place, (0, 0)))


class OutcomeCounts:
    """Looks at the counts now and then."""

    def __init__(self) -> None:
        self._pins: dict[tuple[str, int], dict[str, str]] = {}
        self._looks: deque[tuple[float, Ended]] = deque(maxlen=int(SPAN_S / TICK_S) + 1)

    def tick(self, now_s: float, kept: Mapping[str, Kept], totals: Totals, pages: Iterable[CounterPage]) -> Outcomes:
        """What is counted now.

        Args:
            now_s: of a clock that does not jump.
            kept: the policies in force.
        """
        self._see(kept)
        now = {**_by_version(totals), **self._by_digest(pages)}
        self._looks.append((now_s, now))
        then_s, then = self._looks[0]
        return Outcomes(now, {place: _since(then.get(place, (0, 0)), ended) for place, ended in now.items()},
                        now_s - then_s)  # fmt: skip

    def _see(self, kept: Mapping[str, Kept]) -> None:
        """The variants of each revision, while evidence of it is remembered."""
        for name, one in kept.items():
            self._pins[name, one.record.revision] = {pin.variant: pin.digest for pin in one.record.variants}
        self._pins = {
            (name, revision): pins
            for (name, revision), pins in self._pins.items()
            if name in kept and (str(revision) in kept[name].record.weights or revision == kept[name].record.revision)
        }

    def _by_digest(self, pages: Iterable[CounterPage]) -> Ended:
        found: dict[Place, tuple[int, int]] = {}
        for page in pages:
            for (name, revision, stratum, variant), values in tallies(page):
                digest = self._pins.get((name, revision), {}).get(variant)
                if digest is not None and stratum != UNCOUNTED:
                    _add(found, (POLICY, name, digest), values[OK], values[BAD])
        return found


def _by_version(totals: Totals) -> Ended:
    found: dict[Place, tuple[int, int]] = {}
    for (name, version, variant), values in totals.models.items():
        if variant != SHADOW:
            _add(found, (REQUESTS, name, version), int(values[CODE_INDEX[200]]), int(values[FAILED_RUN]))
    return found


def _add(sums: dict[Place, tuple[int, int]], place: Place, ok: int, bad: int) -> None:
    before = sums.get(place, (0, 0))
    sums[place] = before[0] + ok, before[1] + bad


def _since(then: tuple[int, int], now: tuple[int, int]) -> tuple[int, int]:
    # A worker that dies hands its counts to the finals; a count falls for that moment alone.
    return max(0, now[0] - then[0]), max(0, now[1] - then[1])
