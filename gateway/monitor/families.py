"""From many p-values per window to few alarms: families of keys, and alarms that persist. Pure.

The user says "at most one false alarm in D days". Each family of keys (input, prediction, quality, performance) has a
share of that. A closed window of a family has one p-value, Simes' over its keys; it is a hit if that is at most alpha.
The family fires when 2 of its last 3 windows are hits, so alpha comes from P(2 of 3) = share x window / D. Alarms that
follow each other are one episode, so without drift episodes come about 1.5 times as rarely as asked for.

Statistics say that something changed; floors say that it matters. Named are the keys that were in Benjamini-Hochberg's
selection and over their floor in 2 of the last 3 windows. If there is none, as when two windows hit by different keys,
it is those that are selected now and were over their floor in 2 of 3: with floors of 0 that is always one, or alarms
would come far more rarely than asked, and the more so the more keys there are. If there is none of these either, the
family stays silent. Windows must not overlap.

    ok -> pending -> firing -> resolved -> ok      pending: one hit; resolved: after 2 clean windows, for one window
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

SHARES: Final[Mapping[str, float]] = {"input": 0.4, "prediction": 0.2, "quality": 0.2, "performance": 0.2}
"""Of the allowed false alarms, per family."""
NEEDED, OF, CLEAN, Q = 2, 3, 2, 0.05
_LOWEST: Final = 1e-300

State = Literal["insufficient", "ok", "pending", "firing", "resolved"]


def simes(p_values: Sequence[float]) -> float:
    """One p-value for "none of them": the least of count x p_(i) / i; 1 for none. Simes (1986)."""
    count = len(p_values)
    return min((count * p / rank for rank, p in enumerate(sorted(p_values), 1)), default=1.0)


def benjamini_hochberg(p_values: Sequence[float], q: float = Q) -> list[bool]:
    """Which are selected so that at most a share q of the selected are false. Benjamini and Hochberg (1995)."""
    count = len(p_values)
    limit = max((p for rank, p in enumerate(sorted(p_values), 1) if p <= q * rank / count), default=-1.0)
    return [p <= limit for p in p_values]


def binomial_at_least(needed: int, of: int, alpha: float) -> float:
    """P(at least `needed` of `of` independent windows are hits)."""
    return math.fsum(math.comb(of, k) * alpha**k * (1.0 - alpha) ** (of - k) for k in range(needed, of + 1))


def window_alpha(share: float, window_days: float, distance_days: float, needed: int = NEEDED, of: int = OF) -> float:
    """The level of one window of a family, so that P(needed of the last `of`) = share x window / distance.

    Args:
        share: of the allowed false alarms, 0..1; over all series and families of a model they sum to 1.
        window_days: what a window lasts.
        distance_days: between two false alarms of the model.

    Returns:
        0..1; 1 if the window is longer than the family's own distance.

    Raises:
        ValueError: a share outside 0..1, or a time that is not positive.
    """
    if not 0.0 <= share <= 1.0 or window_days <= 0.0 or distance_days <= 0.0 or not 0 < needed <= of:
        raise ValueError(f"expected a share 0..1 and positive times, got {share}, {window_days}, {distance_days}")
    target = share * window_days / distance_days
    if target >= 1.0:
        return 1.0
    low, high = _LOWEST, 1.0
    for _ in range(2_000):
        # By ratio: alpha may be tiny, and has to be right in its digits.
        middle = math.sqrt(low * high)
        low, high = (middle, high) if binomial_at_least(needed, of, middle) < target else (low, middle)
        if high <= low * (1.0 + 1e-14):
            break
    return low


class Persistence:
    """Hits of closed windows in, states out: fires at `needed` of the last `of`, resolves after `clean` without.

    Serves whatever is judged per window; `FamilyState` adds keys and floors.
    """

    def __init__(self, needed: int = NEEDED, of: int = OF, clean: int = CLEAN) -> None:
        self.needed, self.of, self.clean = needed, of, clean
        self.state: State = "ok"
        self.hits: list[bool] = []
        self.clean_windows = 0

    def __repr__(self) -> str:
        return f"Persistence({self.state}, hits={self.hits}, clean_windows={self.clean_windows})"

    def close(self, hit: bool, pending: bool | None = None, may_fire: bool = True) -> State:
        """The state after one more closed window.

        Args:
            hit: counts for `needed` of `of`.
            pending: not clean; by default the same as `hit`.
            may_fire: False holds back a new alarm.
        """
        pending = hit if pending is None else pending
        self.hits = [*self.hits, hit][-self.of :]
        self.clean_windows = 0 if pending else self.clean_windows + 1
        if self.state == "firing":
            self.state = "resolved" if self.clean_windows >= self.clean else "firing"
        elif sum(self.hits) >= self.needed and may_fire:
            self.state = "firing"
        else:
            self.state = "pending" if pending else "ok"
        return self.state

    def plain(self) -> dict[str, Any]:
        """All of it in plain values."""
        return {"state": self.state, "hits": self.hits, "clean_windows": self.clean_windows}

    def restore(self, plain: Mapping[str, Any]) -> None:
        """Become what `plain` was."""
        self.state, self.hits = plain["state"], list(plain["hits"])
        self.clean_windows = plain["clean_windows"]


@dataclass(frozen=True, slots=True)
class Key:
    """One thing tested in a window: a feature, a quality bin of a feature, a score.

    Attributes:
        name: unique in its family.
        p_value: 0..1.
        effect: how large the change is, in the unit of `floor` (PSI, or the rise of a rate).
        floor: an effect of at least this matters.
    """

    name: str
    p_value: float
    effect: float
    floor: float = 0.0

    def __post_init__(self) -> None:
        assert 0.0 <= self.p_value <= 1.0, "a p-value lies in 0..1"

    @property
    def matters(self) -> bool:
        """Over its floor."""
        return self.effect >= self.floor


@dataclass(frozen=True, slots=True)
class FamilyVerdict:
    """What a closed window says about a family.

    Attributes:
        state: after the window.
        fired: this window began an alarm.
        p_value: Simes' over the keys; 1 if there are none.
        alpha: the level it is held against.
        selected: names in Benjamini-Hochberg's selection, by p-value.
        named: what an alarm names, see above, by effect.
    """

    state: State
    fired: bool
    p_value: float
    alpha: float
    selected: tuple[str, ...] = ()
    named: tuple[str, ...] = ()


class FamilyState:
    """The alarm of one family of one series. Feed it each closed window once, in order."""

    def __init__(self, needed: int = NEEDED, of: int = OF, clean: int = CLEAN, q: float = Q) -> None:
        self._persistence = Persistence(needed, of, clean)
        self._q = q
        self._over: list[list[str]] = []
        self._found: list[list[str]] = []

    def __repr__(self) -> str:
        return f"FamilyState({self._persistence!r}, over={self._over}, found={self._found})"

    @property
    def state(self) -> State:
        """After the last closed window."""
        return self._persistence.state

    def close(self, keys: Sequence[Key], alpha: float) -> FamilyVerdict:
        """One more closed window. Without keys it counts for nothing: see `skip`.

        Args:
            keys: every key of the family that was tested, alarming or not.
            alpha: of this window, from `window_alpha`.
        """
        if not keys:
            return self.skip(alpha)
        p_value = simes([key.p_value for key in keys])
        # At least alpha: whatever makes Simes' value a hit is then selected, too.
        chosen = benjamini_hochberg([key.p_value for key in keys], max(self._q, alpha))
        selected = sorted((key for key, yes in zip(keys, chosen, strict=True) if yes), key=lambda key: key.p_value)
        self._over = self._kept(self._over, [key.name for key in keys if key.matters])
        self._found = self._kept(self._found, [key.name for key in selected if key.matters])
        lasting = [key for key in keys if self._often(key.name, self._found)]
        named = lasting or [key for key in selected if self._often(key.name, self._over)]
        named.sort(key=lambda key: -key.effect)
        before = self.state
        hit = p_value <= alpha
        pending = hit and any(key.matters for key in selected)
        state = self._persistence.close(hit, pending, may_fire=bool(named))
        names = tuple(key.name for key in selected), tuple(key.name for key in named)
        return FamilyVerdict(state, before != "firing" and state == "firing", p_value, alpha, *names)

    def skip(self, alpha: float = 0.0) -> FamilyVerdict:
        """A window with too few rows to judge: says so, and changes nothing. An open alarm stays open."""
        state: State = "firing" if self.state == "firing" else "insufficient"
        return FamilyVerdict(state, False, 1.0, alpha)

    def _kept(self, windows: list[list[str]], latest: list[str]) -> list[list[str]]:
        return [*windows, latest][-self._persistence.of :]

    def _often(self, name: str, windows: list[list[str]]) -> bool:
        return sum(name in names for names in windows) >= self._persistence.needed

    def plain(self) -> dict[str, Any]:
        """All of it in plain values (JSON, msgpack)."""
        return {**self._persistence.plain(), "over": self._over, "found": self._found}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any], **rules: Any) -> "FamilyState":
        """What `plain` was; `rules` as for the constructor."""
        found = cls(**rules)
        found._persistence.restore(plain)
        found._over = [list(names) for names in plain["over"]]
        found._found = [list(names) for names in plain["found"]]
        return found
