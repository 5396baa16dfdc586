"""Is it one host? The champion's rows of each host, over the same time, against the reference. Pure.

No alarm comes from here, so nothing of the allowed false alarms is spent: when the champion's inputs or answers fire,
this says whether they do on one host alone. All hosts are judged at once, when each has rows enough: were one judged
before a shift and another after it, the shift would look like the fault of a host.
"""

from collections.abc import Mapping
from typing import Any, Final

from gateway.monitor.comparing import input_keys, prediction_keys, quality_keys
from gateway.monitor.counting import Counts
from gateway.monitor.families import Key
from gateway.monitor.plan import ROWS
from gateway.monitor.reference import Reference
from gateway.monitor.settings import Floors
from gateway.monitor.words import State

LEAST_HOSTS: Final = 3
"""Of two hosts nobody can say which is the odd one."""
MOST_HOSTS: Final = 32
"""A vector of counts is kept for each; of a model on more hosts nothing is said."""
LEAST_ROWS: Final = 1_000
"""Of each host. With ten bins PSI is then 0.009 by chance, well below half of its default floor."""
OLD_MS: Final = 3_600_000
"""A host that told no rows for so long is waited for no more; a verdict of before then says nothing."""
ALPHA: Final = 0.001
"""A host is off when one of its keys is below this, divided by their number, and over its floor."""
UNSURE: Final = 0.01
"""A key below this and over half its floor: such a host is neither off nor well."""


class Hosts:
    """Hosts of one model.

    Attributes:
        states: firing, pending or ok, of the hosts when they were judged last; empty = nobody can say.
    """

    def __init__(self) -> None:
        self._begin(("", "", ""))

    def _begin(self, series: tuple[str, str, str]) -> None:
        self.states: dict[str, State] = {}
        self._series = series
        self._judged_ms = 0
        self._counts: dict[str, Counts] = {}
        self._told: set[str] = set()
        self._heard_ms: dict[str, int] = {}

    def meet(self, version: str, variant: str, reference: str) -> None:
        """Who the champion is, and the id of its reference; what was counted of another is forgotten."""
        if self._series != (version, variant, reference):
            self._begin((version, variant, reference))

    def take(self, host: str, version: str, variant: str, reference: str, counts: Counts) -> None:
        """Add counts of one host; those of others than the champion are passed over."""
        if self._series != (version, variant, reference):
            return
        self._told.add(host)
        known = self._counts.get(host)
        if known is not None:
            self._counts[host] = known + counts
        elif len(self._counts) < MOST_HOSTS:
            self._counts[host] = counts.copy()

    def judge(self, reference: Reference, floors: Floors, now_ms: int) -> None:
        """A window of the champion has closed: judge the hosts, if each has rows enough."""
        self._heard_ms |= dict.fromkeys(self._told, now_ms)
        self._told.clear()
        self._heard_ms = {host: at for host, at in self._heard_ms.items() if now_ms - at < OLD_MS}
        self._counts = {host: counts for host, counts in self._counts.items() if host in self._heard_ms}
        if not LEAST_HOSTS <= len(self._heard_ms) <= MOST_HOSTS:
            self.states, self._counts = {}, {}
        elif all(self._rows(host) >= LEAST_ROWS for host in self._heard_ms):
            self.states = {host: state_of(reference, counts, floors) for host, counts in self._counts.items()}
            self._judged_ms, self._counts = now_ms, {}
        elif now_ms - self._judged_ms >= OLD_MS:
            self.states = {}

    def _rows(self, host: str) -> int:
        return int(self._counts[host][ROWS]) if host in self._counts else 0

    def plain(self) -> dict[str, Any]:
        """The last verdict, and whom it waits for; rows since then are not kept: the next verdict is of rows that come
        from now on."""
        verdict = {"states": self.states, "judged_ms": self._judged_ms}
        return {"series": self._series, **verdict, "heard_ms": self._heard_ms}

    def restore(self, plain: Mapping[str, Any]) -> None:
        """Go on where `plain` was taken."""
        version, variant, reference = plain["series"]
        self._series = version, variant, reference
        self.states, self._judged_ms = dict(plain["states"]), plain["judged_ms"]
        # Builds before this one did not say: whom they judged was heard by then.
        self._heard_ms = dict(plain.get("heard_ms") or dict.fromkeys(self.states, self._judged_ms))


def state_of(reference: Reference, counts: Counts, floors: Floors) -> State:
    """Of one host: firing = surely unlike the reference, ok = surely not by much, pending = neither."""
    keys: list[Key] = [
        *input_keys(reference, counts, floors.psi)[0],
        *prediction_keys(reference, counts, floors.psi)[0],
        *quality_keys(reference, counts, floors.quality),
    ]
    if any(key.matters and key.p_value <= ALPHA / len(keys) for key in keys):
        return "firing"
    unsure = any(key.effect >= key.floor / 2 and key.p_value <= UNSURE for key in keys)
    return "pending" if unsure else "ok"
