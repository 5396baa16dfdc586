"""Is the canary slower than the champion? Answers of both by latency bucket, over the same slots of time. Pure.

Of each edge of the buckets it is asked whether a larger share of the canary's answers is slower than that. In one slot
of 10 s on one node both arms meet the same load. With n answers of the canary and m of the champion, and shares c and v
of them slower than the edge,

    u = n m / (n + m) (c - v)

is 0 on average when the arms are alike, whatever the load is and however it changes from slot to slot (Cochran 1954,
doi:10.2307/3001616; Mantel and Haenszel 1959). Shares pooled over time would not be: on a ramp the canary has most of
its answers late, and identical arms differ.

Answers are not independent of each other: those of one batch have one latency, and a pause hits all that wait. So
answers are not what is counted as evidence. sum(u) over the slots is held against the larger of two variances, both
from slots: sum(u^2), how the difference itself varies; and sum(n m / (n + m)) times the variance of an answer as the
share of both arms moves from one slot to the next, for a small arm may have had none of its rare slow batches yet. The
tail is the normal one, which a self-normalised sum does not exceed (Efron 1969, doi:10.2307/2283458).

Edges are the keys of a family (`families`): Simes over them, 2 of the last 3 windows, and a floor, of Cohen's h (1988):
0.2, "small", is 5 % slower than the champion's 95th percentile becoming 10.6 %. The knob is latency's own.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from gateway.counters import DURATION_BOUNDS_NS
from gateway.monitor.families import FamilyState, Key, window_alpha
from gateway.monitor.windows import DAY_MS
from gateway.monitor.words import Finding, State
from router.evidence.special import log_normal_below

SLOT_MS: Final = 10_000
LEAST_SLOTS: Final = 30
"""With answers of both arms: a window lasts 5 minutes or longer."""
LONGEST_MS: Final = DAY_MS
"""What has not come together by then is not judged."""
FLOOR: Final = 0.2
HOLDS_WINDOWS: Final = 2
"""A verdict holds for so many times its window, then nothing is known."""
_EDGES: Final = len(DURATION_BOUNDS_NS)

Shares = npt.NDArray[np.float64]
Role = Literal["champion", "canary"]


class SlowerThan(msgspec.Struct, frozen=True):
    """One edge of the buckets.

    Attributes:
        name: the edge, as 20 ms.
        champion, canary: share of answers slower than it, each slot weighing the same for both arms.
        effect: Cohen's h; positive = the canary is slower.
    """

    name: str
    champion: float
    canary: float
    p_value: float
    effect: float


class Judged(msgspec.Struct, frozen=True):
    """A closed window.

    Attributes:
        slots: with answers of both arms.
        champion, canary: answers.
        named: edges that an alarm names, the largest effect first.
        edges: those that some answers were slower than.
    """

    opened_ms: int
    closed_ms: int
    slots: int
    champion: int
    canary: int
    state: State
    p_value: float
    alpha: float
    named: tuple[str, ...]
    edges: tuple[SlowerThan, ...]

    @property
    def worst(self) -> SlowerThan | None:
        """The edge at which the canary is slower most: one that the alarm names, if it names any."""
        named = [one for one in self.edges if one.name in self.named]
        return max(named or self.edges, key=lambda one: one.effect, default=None)

    @property
    def text(self) -> str:
        """In words."""
        worst = self.worst
        if worst is None:
            return ""
        return f"{worst.canary:.2%} of answers are slower than {worst.name}, of the champion's {worst.champion:.2%}"


class Ground(msgspec.Struct, frozen=True):
    """What a window was judged by.

    Attributes:
        before: the family as it stood before (`FamilyState.plain`).
        sums: of the window (`_Window.sums`).
    """

    before: dict[str, Any]
    sums: dict[str, Any]
    closed_ms: int
    distance_ms: int
    floor: float

    def judged(self) -> Judged:
        """The verdict."""
        window, family = _Window.of(self.sums), FamilyState.from_plain(self.before)
        return judged(window, family, self.closed_ms, self.distance_ms, self.floor)


class Latencies:
    """Canary and champion beside each other. Feed it what each has answered, as it comes.

    Args:
        least: answers of each arm that a window needs.
        distance_ms: at most one false alarm in such a time.
        floor: Cohen's h that matters.

    Attributes:
        last: the window that closed last.
        ground: what that was judged by. It is not kept across restarts.
    """

    def __init__(self, *, least: int, distance_ms: int, floor: float = FLOOR) -> None:
        self.last: Judged | None = None
        self.ground: Ground | None = None
        self._least, self._distance_ms, self._floor = least, distance_ms, floor
        self._family = FamilyState()
        self._slot = -1
        self._answers: dict[str, dict[Role, Shares]] = {}
        self._window = _Window()

    def take(self, role: Role, node: str, buckets: Sequence[int], now_ms: int) -> None:
        """Answers of one arm on one node since the last call. Args: now_ms: never before that of an earlier call."""
        self._until(now_ms // SLOT_MS)
        arms = self._answers.setdefault(node, {"champion": np.zeros(_EDGES + 1), "canary": np.zeros(_EDGES + 1)})
        arms[role] += buckets

    def _until(self, slot: int) -> None:
        if slot == self._slot:
            return
        if self._answers:
            self._window.add(list(self._answers.values()), self._slot * SLOT_MS)
            self._answers = {}
        self._slot = slot
        window, now_ms = self._window, slot * SLOT_MS
        if window.slots >= LEAST_SLOTS and min(window.counts.values()) >= self._least:
            self._close(now_ms)
        elif window.slots and now_ms - window.opened_ms >= LONGEST_MS:
            self._window = _Window()

    def _close(self, now_ms: int) -> None:
        window, self._window = self._window, _Window()
        self.ground = Ground(self._family.plain(), window.sums(), now_ms, self._distance_ms, self._floor)
        self.last = judged(window, self._family, now_ms, self._distance_ms, self._floor)

    def state(self, now_ms: int) -> State:
        """Firing = the canary is slower; insufficient = nothing was judged, or not for long."""
        last = self.last
        if last is None or now_ms - last.closed_ms > HOLDS_WINDOWS * (last.closed_ms - last.opened_ms):
            return "insufficient"
        return last.state

    def beside(self, found: Finding, now_ms: int) -> Finding:
        """What the canary's budget says, and the comparison with it: either of them may fire.

        An alarm of the comparison is not over because the canary answers nothing any more.
        """
        state, last = self.state(now_ms), self.last
        if last is None or state in ("ok", "resolved") or (state == "insufficient" and last.state != "firing"):
            return found
        if state == "firing":
            text = "; ".join(part for part in (found.text, last.text) if part)
            level = last.worst.effect / FLOOR if last.worst is not None else None
            return msgspec.structs.replace(found, state="firing", text=text, keys=last.named, level=level)
        return found if found.state == "firing" else msgspec.structs.replace(found, state=state)

    # ---- across restarts ----

    def plain(self) -> dict[str, Any]:
        """Verdicts in plain values; the window that is open begins anew."""
        return {"family": self._family.plain(), "last": msgspec.to_builtins(self.last)}

    def restore(self, plain: Mapping[str, Any]) -> None:
        """Go on where `plain` was taken."""
        self._family = FamilyState.from_plain(plain["family"])
        self.last = msgspec.convert(plain["last"], Judged | None)


def judged(window: "_Window", family: FamilyState, closed_ms: int, distance_ms: int, floor: float) -> Judged:
    """The verdict on a window, which goes into the family. Args: distance_ms, floor: as of `Latencies`."""
    edges = window.edges()
    alpha = window_alpha(1.0, (closed_ms - window.opened_ms) / DAY_MS, distance_ms / DAY_MS)
    verdict = family.close([Key(one.name, one.p_value, one.effect, floor) for one in edges], alpha)
    return Judged(
        window.opened_ms,
        closed_ms,
        window.slots,
        int(window.counts["champion"]),
        int(window.counts["canary"]),
        verdict.state,
        verdict.p_value,
        alpha,
        verdict.named,
        tuple(edges),
    )


_SUMS: Final = ("sum", "squares", "moves")


class _Window:
    """Sums over the slots of the window that is open; arrays are by edge."""

    def __init__(self) -> None:
        self.slots = 0
        self.opened_ms = 0
        self.counts: dict[Role, float] = {"champion": 0.0, "canary": 0.0}
        self._weight = 0.0
        self._shares: dict[Role, Shares] = {"champion": np.zeros(_EDGES), "canary": np.zeros(_EDGES)}
        self.sum, self.squares, self.moves = np.zeros(_EDGES), np.zeros(_EDGES), np.zeros(_EDGES)
        self._before: tuple[float, Shares] | None = None

    def add(self, nodes: Sequence[Mapping[Role, Shares]], at_ms: int) -> None:
        """One slot: the answers of each node, by arm and bucket."""
        difference, slow, answers = np.zeros(_EDGES), np.zeros(_EDGES), 0.0
        for arms in nodes:
            of = {role: float(buckets.sum()) for role, buckets in arms.items()}
            if not min(of.values()):
                continue
            above = {role: _slower(buckets) for role, buckets in arms.items()}
            total = sum(of.values())
            weight = of["champion"] * of["canary"] / total
            for role in self._shares:
                self._shares[role] += weight * above[role] / of[role]
                self.counts[role] += of[role]
            self._weight += weight
            difference += weight * (above["canary"] / of["canary"] - above["champion"] / of["champion"])
            slow, answers = slow + above["champion"] + above["canary"], answers + total
        if not answers:
            return
        self.opened_ms = self.opened_ms if self.slots else at_ms
        self.slots += 1
        self.sum += difference
        self.squares += difference**2
        share = slow / answers
        if self._before is not None:
            was, before = self._before
            self.moves += (share - before) ** 2 * was * answers / (was + answers)
        self._before = answers, share

    def sums(self) -> dict[str, Any]:
        """What it is judged by, in plain values."""
        arrays = {name: getattr(self, name).tolist() for name in _SUMS}
        shares = {role: share.tolist() for role, share in self._shares.items()}
        return {"slots": self.slots, "opened_ms": self.opened_ms, "counts": dict(self.counts),
                "weight": self._weight, "shares": shares, **arrays}  # fmt: skip

    @classmethod
    def of(cls, sums: Mapping[str, Any]) -> "_Window":
        """What `sums` was taken of, to be judged."""
        found = cls()
        found.slots, found.opened_ms, found._weight = sums["slots"], sums["opened_ms"], sums["weight"]
        for role in found._shares:
            found.counts[role] = sums["counts"][role]
            found._shares[role] = np.array(sums["shares"][role], np.float64)
        for name in _SUMS:
            setattr(found, name, np.array(sums[name], np.float64))
        return found

    def edges(self) -> list[SlowerThan]:
        """The edges that some answers were slower than, each tested."""
        variance = np.maximum(self.squares, self._weight * self.moves / (self.slots - 1))
        found = []
        for at, bound_ns in enumerate(DURATION_BOUNDS_NS):
            champion, canary = (float(min(1.0, one[at] / self._weight)) for one in self._shares.values())
            if not champion and not canary:
                break
            p_value = 1.0
            if variance[at]:
                p_value = min(1.0, math.exp(log_normal_below(-float(self.sum[at]) / math.sqrt(variance[at]))))
            effect = 2.0 * (math.asin(math.sqrt(canary)) - math.asin(math.sqrt(champion)))
            found.append(SlowerThan(f"{bound_ns / 1e6:g} ms", champion, canary, p_value, effect))
        return found


def _slower(buckets: Shares) -> Shares:
    """Answers slower than each edge. Shapes: [edges + 1] -> [edges]."""
    above: Shares = buckets[::-1].cumsum()[::-1][1:]
    return above


def slow_of(buckets: Sequence[int], slo_ms: float) -> int:
    """Answers slower than an objective, which is rounded down to an edge of the buckets."""
    good = sum(bound <= slo_ms * 1e6 for bound in DURATION_BOUNDS_NS)
    return sum(buckets[good:])
