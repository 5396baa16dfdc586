"""Bad events of canary and stable, judged at any time: event-share e-processes. Pure.

The question is never "is the rate high" but "whose are the bad events". A request goes to the canary with chance w,
so of all bad events a share q(R) = R w / (R w + 1 - w) is the canary's when its rate is R times stable's. Whatever
both variants suffer together, now or an hour ago, leaves that share alone. Hence ramps and shared incidents, which make
every pooled comparison of rates wrong, cost nothing here.

For one ratio R against the worst allowed R0, an event multiplies the likelihood ratio by q(R)/q(R0) when it is the
canary's and by (1-q(R))/(1-q(R0)) when it is stable's, with the w in force *when the request was routed*. The mean over
a grid of ratios, mixed over start times, is a process E that starts at 1 and whose mean never grows while the true
ratio is on the allowed side of R0. So P(E ever reaches 1/alpha) <= alpha (Ville), however often anybody looks, and w
may be chosen from what was seen.

Source: the conditional test of counts in Lindon and Malek, "Anytime-Valid Inference for Multinomial Count Data" (2022);
margin, changing weights and starts follow from the argument above. What counts as an event: docs/evidence.md.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypedDict

from router.evidence.checks import check_open, count, fields, number, numbers
from router.evidence.special import log_add, log_sum

HARM_MULTIPLES: Final = (1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0)
"""Ratios looked for, in multiples of the margin: a fault between two of them is found nearly as fast."""
SHIFT_MULTIPLES: Final = (1.25, 1.5, 2.0, 4.0)
"""Changes of a score bin's share looked for in either direction."""
EVENTS_PER_START: Final = 50
_WEIGHTS_REMEMBERED: Final = 64


class EventShareState(TypedDict):
    """All of an `EventShare`, as JSON holds it exactly."""

    null_ratio: float
    ratios: list[float]
    events_per_start: int
    starts: int
    since_start: int
    canary_events: int
    all_events: int
    log_likelihoods: list[float]
    log_starts: list[float]
    log_e: float
    peak_log_e: float


def log_threshold(alpha: float, guardrails: int = 1) -> float:
    """What `log_e` must reach: ln(guardrails / alpha), an equal share of alpha for each declared guardrail.

    Raises:
        ValueError: alpha is not within 0..1 (exclusive) or there is no guardrail.
    """
    check_open(alpha, "alpha", 1.0)
    if guardrails < 1:
        raise ValueError(f"guardrails: expected at least 1, got {guardrails}")
    return math.log(guardrails / alpha)


class EventShare:
    """E-process against "the canary's rate of events is at most (or at least) `null_ratio` times stable's".

    Ratios above `null_ratio` look for harm, ratios below speak for safety. With `events_per_start` = n the process is
    a mixture over start times: one at the begin and one at the first batch boundary after every n further events, start
    j with weight 1/((j+1)(j+2)); the weight of starts still to come stays at 1. So a long healthy past cannot hide a
    late fault, and alpha is spent once. 0: a single start.

    Per ratio R two numbers are kept: L_R, the log likelihood ratio since the begin, and
    S_R = ln(sum of weight_j exp(-L_R at start j)); then ln E_R = L_R + S_R.

    Raises:
        ValueError: ratios that are not positive, finite, and all on one side of `null_ratio`.
    """

    __slots__ = (
        "_steps",
        "all_events",
        "canary_events",
        "events_per_start",
        "log_e",
        "log_likelihoods",
        "log_starts",
        "null_ratio",
        "peak_log_e",
        "ratios",
        "since_start",
        "starts",
    )

    def __init__(
        self, null_ratio: float = 1.0, ratios: Sequence[float] = (), events_per_start: int = EVENTS_PER_START
    ) -> None:
        self.null_ratio = float(null_ratio)
        self.ratios = tuple(float(ratio) for ratio in ratios) or tuple(null_ratio * m for m in HARM_MULTIPLES)
        self.events_per_start = events_per_start
        _check_ratios(self.null_ratio, self.ratios, events_per_start)
        self.starts = 1
        self.since_start = 0
        self.canary_events = 0
        self.all_events = 0
        self.log_likelihoods = [0.0] * len(self.ratios)
        self.log_starts = [math.log(0.5) if events_per_start else 0.0] * len(self.ratios)
        self.log_e = 0.0
        self.peak_log_e = 0.0
        self._steps: dict[float, tuple[tuple[float, float], ...]] = {}

    def add(self, weight: float, canary_events: int, all_events: int) -> float:
        """Take in one batch: the bad events of one (revision, stratum) since the last call. Returns `log_e`.

        The batches of one tick go in an order that does not follow from their counts: a start may fall between them.

        Args:
            weight: the canary's share, 0..1, in force when the requests were routed. At 0 and 1 nothing was randomised:
                such a batch is no evidence and is not counted.
            canary_events: the canary's among them.
            all_events: those of both variants.

        Raises:
            ValueError: a weight outside 0..1, or counts without 0 <= canary_events <= all_events.
        """
        _check_batch(weight, canary_events, all_events)
        if all_events == 0 or weight <= 0.0 or weight >= 1.0:
            return self.log_e
        self.canary_events += int(canary_events)
        self.all_events += int(all_events)
        steps = self._steps.get(weight) or self._new_steps(weight)
        self.log_likelihoods = [
            before + canary_events * of_canary - all_events * of_each
            for before, (of_canary, of_each) in zip(self.log_likelihoods, steps, strict=True)
        ]
        self.since_start += int(all_events)
        if self.events_per_start and self.since_start >= self.events_per_start:
            self._start()
        self.log_e = self._log_mixture()
        self.peak_log_e = max(self.peak_log_e, self.log_e)
        return self.log_e

    @property
    def min_p(self) -> float:
        """The smallest p-value so far, which is valid at any time: 1 / (largest E)."""
        return math.exp(-self.peak_log_e)

    @property
    def log_e_values(self) -> list[float]:
        """ln of each ratio's mixture over the starts that have begun; `log_e` is made of their mean."""
        return [now + begun for now, begun in zip(self.log_likelihoods, self.log_starts, strict=True)]

    def crossed(self, alpha: float, guardrails: int = 1) -> bool:
        """Whether E ever reached guardrails / alpha. Once true, it stays true."""
        return self.peak_log_e >= log_threshold(alpha, guardrails)

    def state(self) -> EventShareState:
        """Everything, for `from_state`: a restored process goes on to the bit."""
        return EventShareState(
            null_ratio=self.null_ratio,
            ratios=list(self.ratios),
            events_per_start=self.events_per_start,
            starts=self.starts,
            since_start=self.since_start,
            canary_events=self.canary_events,
            all_events=self.all_events,
            log_likelihoods=list(self.log_likelihoods),
            log_starts=list(self.log_starts),
            log_e=self.log_e,
            peak_log_e=self.peak_log_e,
        )

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "EventShare":
        """The process that `state` was taken from.

        Raises:
            ValueError: a field is missing, of another type, not finite, or does not fit the others.
        """
        fields(state, set(EventShareState.__annotations__))
        ratios = numbers(state, "ratios", 0)
        process = cls(number(state, "null_ratio"), ratios, count(state, "events_per_start"))
        for name in ("starts", "since_start", "canary_events", "all_events"):
            setattr(process, name, count(state, name))
        _check_batch(0.5, process.canary_events, process.all_events)
        if process.starts < 1:
            raise ValueError(f"state: starts: expected at least 1, got {process.starts}")
        process.log_likelihoods = numbers(state, "log_likelihoods", len(ratios))
        process.log_starts = numbers(state, "log_starts", len(ratios))
        process.log_e = number(state, "log_e")
        process.peak_log_e = number(state, "peak_log_e")
        return process

    def _new_steps(self, weight: float) -> tuple[tuple[float, float], ...]:
        """Per ratio: what a canary event adds to L_R, and what every event takes from it."""
        null = math.log1p((self.null_ratio - 1.0) * weight)
        steps = tuple(
            (math.log(ratio / self.null_ratio), math.log1p((ratio - 1.0) * weight) - null) for ratio in self.ratios
        )
        if len(self._steps) >= _WEIGHTS_REMEMBERED:
            self._steps.clear()
        self._steps[weight] = steps
        return steps

    def _start(self) -> None:
        share = -math.log((self.starts + 1.0) * (self.starts + 2.0))
        self.log_starts = [
            log_add(before, share - now) for before, now in zip(self.log_starts, self.log_likelihoods, strict=True)
        ]
        self.starts += 1
        self.since_start = 0

    def _log_mixture(self) -> float:
        each = self.log_e_values
        top = max(each)
        begun = top + math.log(sum([math.exp(one - top) for one in each]) / len(each))
        # Starts 0..n-1 hold 1 - 1/(n+1) of the weight; the rest has not begun and is worth what it cost.
        return log_add(begun, -math.log(self.starts + 1.0)) if self.events_per_start else begun


class ScoreBins:
    """Do the scores of the variants differ? Mean over score bins of two-sided event-share e-processes.

    An event is "the score of a unit fell in bin b", at most one per unit. Under equal outputs each bin's events are the
    canary's with chance w, whatever the world does to both. `margin` m allows shares of 1/m to m times stable's.

    Raises:
        ValueError: fewer than 2 bins or a margin below 1.
    """

    __slots__ = ("_down", "_up", "log_e", "margin", "peak_log_e")

    def __init__(self, bins: int, margin: float = 1.0, events_per_start: int = EVENTS_PER_START) -> None:
        if bins < 2 or not (1.0 <= margin < math.inf):
            raise ValueError(f"expected at least 2 bins and a margin of at least 1, got {bins} and {margin}")
        above = [margin * m for m in SHIFT_MULTIPLES]
        below = [1.0 / ratio for ratio in above]
        self.margin = float(margin)
        self._up = [EventShare(margin, above, events_per_start) for _ in range(bins)]
        self._down = [EventShare(1.0 / margin, below, events_per_start) for _ in range(bins)]
        self.log_e = 0.0
        self.peak_log_e = 0.0

    def add(self, weight: float, canary_counts: Sequence[int], all_counts: Sequence[int]) -> float:
        """Take in the units of one (revision, stratum) since the last call, per bin. Returns `log_e`.

        Raises:
            ValueError: not one count per bin, or as `EventShare.add`.
        """
        if not len(canary_counts) == len(all_counts) == len(self._up):
            raise ValueError(f"expected {len(self._up)} bins, got {len(canary_counts)} and {len(all_counts)}")
        for canary, every in zip(canary_counts, all_counts, strict=True):
            _check_batch(weight, canary, every)
        for i, (canary, every) in enumerate(zip(canary_counts, all_counts, strict=True)):
            self._up[i].add(weight, canary, every)
            self._down[i].add(weight, canary, every)
        sides = [side.log_e for side in (*self._up, *self._down)]
        self.log_e = log_sum(sides) - math.log(len(sides))
        self.peak_log_e = max(self.peak_log_e, self.log_e)
        return self.log_e

    @property
    def min_p(self) -> float:
        """As `EventShare.min_p`."""
        return math.exp(-self.peak_log_e)

    def crossed(self, alpha: float, guardrails: int = 1) -> bool:
        """As `EventShare.crossed`."""
        return self.peak_log_e >= log_threshold(alpha, guardrails)

    def state(self) -> dict[str, Any]:
        """Everything, for `from_state`, as JSON holds it exactly."""
        return {
            "margin": self.margin,
            "up": [one.state() for one in self._up],
            "down": [one.state() for one in self._down],
            "log_e": self.log_e,
            "peak_log_e": self.peak_log_e,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "ScoreBins":
        """The process that `state` was taken from.

        Raises:
            ValueError: as `EventShare.from_state`.
        """
        fields(state, {"margin", "up", "down", "log_e", "peak_log_e"})
        up, down = state["up"], state["down"]
        if not isinstance(up, list) or not isinstance(down, list) or len(up) != len(down):
            raise ValueError(f"state: expected lists up and down of equal length, got {up!r} and {down!r}")
        process = cls(len(up), number(state, "margin"))
        process._up = [EventShare.from_state(one) for one in up]
        process._down = [EventShare.from_state(one) for one in down]
        process.log_e = number(state, "log_e")
        process.peak_log_e = number(state, "peak_log_e")
        return process


def _check_ratios(null_ratio: float, ratios: Sequence[float], events_per_start: int) -> None:
    check_open(null_ratio, "null_ratio", math.inf)
    for ratio in ratios:
        check_open(ratio, "ratio", math.inf)
    if not (min(ratios) > null_ratio or max(ratios) < null_ratio):
        raise ValueError(f"ratios: expected all above or all below {null_ratio}, got {list(ratios)}")
    if events_per_start < 0:
        raise ValueError(f"events_per_start: expected at least 0, got {events_per_start}")


def _check_batch(weight: float, canary_events: int, all_events: int) -> None:
    if not 0.0 <= weight <= 1.0:
        raise ValueError(f"weight: expected 0 to 1, got {weight}")
    if not 0 <= canary_events <= all_events:
        raise ValueError(f"expected 0 <= canary_events <= all_events, got {canary_events} of {all_events}")
