"""The alarm on performance: reference minus value of a metric, window by window. Pure.

A window is a hit for a metric if it is worse than the reference by at least the floor (`performance_drop`) and by at
least 3 standard errors of the difference; 2 hits in the last 3 windows fire (evidence.md D6). A metric that fires
resolves after 2 windows in a row whose drop is under 0.8 of that limit, so that it does not flap at the limit.

What is estimated and what came true are watched apart, by one `Watch` each: an estimate knows nothing of a changed
meaning of the inputs, so it warns and never takes traffic away. A window without a performance of all its rows (too
few, untrusted, selective labels) is neither a hit nor clean: it changes nothing.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import msgspec

from gateway.monitor.cbpe import Basis, Performance
from gateway.monitor.confusion import METRICS
from gateway.monitor.families import Persistence
from gateway.monitor.words import State, worst_of

DROP: Final = 0.02
TIMES: Final = 3.0
"""Standard errors. By chance one window in 740 is a hit, so 2 of 3 of one metric come once in 180,000 windows."""
NEARLY: Final = 0.8
_ROUNDING: Final = 1e-12
"""0.95 - 0.93 is a drop of 0.02, whatever floats say."""


class Drop(msgspec.Struct, frozen=True):
    """One metric in one window.

    Attributes:
        drop: reference minus value: positive = worse.
        limit: a drop of at least this is a hit.
        state: of this metric after the window.
    """

    metric: str
    reference: float
    value: float
    drop: float
    limit: float
    hit: bool
    state: State


class Verdict(msgspec.Struct, frozen=True):
    """What one window says about performance.

    Attributes:
        signal: performance_estimated or performance_realised.
        state: the worst of the metrics'.
        fired: a metric began to fire with this window.
        reason: why nothing was judged; "" = it was.
        firing: names of the metrics that fire.
        may_roll_back: this may take traffic from a variant: it fires, and it came true.
    """

    signal: Literal["performance_estimated", "performance_realised"]
    state: State
    severity: Literal["info", "warning", "critical"]
    fired: bool
    reason: str
    firing: tuple[str, ...]
    may_roll_back: bool
    drops: tuple[Drop, ...] = ()


class Watch:
    """Watches one basis of one series. Feed it each closed window once, in order.

    Args:
        drop: the floor: smaller drops do not matter.
        metrics: those that may alarm.
    """

    def __init__(self, basis: Basis, drop: float = DROP, metrics: Sequence[str] = METRICS) -> None:
        assert drop >= 0.0, "a drop is a loss"
        self.basis = basis
        self.drop = drop
        self._metrics: dict[str, Persistence] = {name: Persistence() for name in metrics}
        self._judged = False

    def __repr__(self) -> str:
        return f"Watch({self.basis}, {self.state}, {self._metrics})"

    @property
    def state(self) -> State:
        """After the last closed window that could be judged; "unknown" before the first."""
        return worst_of(one.state for one in self._metrics.values()) if self._judged else "unknown"

    def close(self, window: Performance, reference: Performance) -> Verdict:
        """One more closed window.

        Args:
            reference: the same basis of the reference's rows: an estimate is compared with an estimate.
        """
        assert window.basis == reference.basis == self.basis, "only the same basis is compared"
        reason = window.reason or reference.reason or window.state
        if window.state != "ok" or reference.state != "ok":
            return self._verdict(reason, ())
        before = self._firing()
        names = [name for name in self._metrics if name in window.values and name in reference.values]
        if not names:
            return self._verdict("few_rows", ())
        self._judged = True
        drops = tuple(self._closed(name, window, reference) for name in names)
        return self._verdict("", drops, fired=bool(self._firing() - before))

    def _closed(self, name: str, window: Performance, reference: Performance) -> Drop:
        persistence = self._metrics[name]
        was, is_now = reference.values[name], window.values[name]
        drop = was - is_now
        limit = max(self.drop, TIMES * math.hypot(window.errors[name], reference.errors[name]))
        hit = drop >= limit - _ROUNDING
        nearly = drop >= NEARLY * limit if persistence.state == "firing" else hit
        state = persistence.close(hit, nearly)
        return Drop(name, was, is_now, drop, limit, hit, state)

    def _firing(self) -> set[str]:
        return {name for name, persistence in self._metrics.items() if persistence.state == "firing"}

    def _verdict(self, reason: str, drops: tuple[Drop, ...], *, fired: bool = False) -> Verdict:
        firing = tuple(name for name in self._metrics if name in self._firing())
        state = self.state
        if reason and not firing:
            state = "insufficient" if reason in ("few_rows", "few_labels") else "unknown"
        realised = self.basis == "realised"
        return Verdict(
            signal="performance_realised" if realised else "performance_estimated",
            state=state,
            severity="info" if not firing else "critical" if realised else "warning",
            fired=fired,
            reason=reason,
            firing=firing,
            may_roll_back=realised and bool(firing),
            drops=drops,
        )

    def plain(self) -> dict[str, Any]:
        """All of it in plain values (JSON, msgpack)."""
        metrics = {name: persistence.plain() for name, persistence in self._metrics.items()}
        return {"basis": self.basis, "judged": self._judged, "metrics": metrics}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any], drop: float = DROP) -> "Watch":
        """What was seen in `plain`; the floor is a setting, not something seen."""
        found = cls(plain["basis"], drop, tuple(plain["metrics"]))
        found._judged = plain["judged"]
        for name, persistence in plain["metrics"].items():
            found._metrics[name].restore(persistence)
        return found
