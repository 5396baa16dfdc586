"""How many requests a second each model gets: from the node's totals, over the last half minute. For plans."""

from collections import deque
from collections.abc import Callable
from typing import Final

from gateway.control.counts import Totals
from gateway.counters import CODE_INDEX

SPAN_S: Final = 30.0
TICK_S: Final = 3.0
SHADOW: Final = "shadow"


class RequestRates:
    """Looks at the totals now and then.

    Args:
        totals: counts of the node now.
    """

    def __init__(self, totals: Callable[[], Totals]) -> None:
        self._totals = totals
        self._seen: deque[tuple[float, dict[str, int]]] = deque(maxlen=int(SPAN_S / TICK_S) + 1)

    def tick(self, now_s: float) -> dict[str, float]:
        """Requests per second of each model since the oldest look that is kept; {} at the first one.

        Copies of requests in the shadow are nobody's requests.

        Args:
            now_s: of a clock that does not jump.
        """
        now = self._requests()
        self._seen.append((now_s, now))
        then_s, then = self._seen[0]
        if now_s <= then_s:
            return {}
        # A worker that dies hands its counts to the finals; a count never falls by more than that moment.
        return {name: max(0, count - then.get(name, 0)) / (now_s - then_s) for name, count in now.items()}

    def _requests(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for (name, _, variant), values in self._totals().models.items():
            if variant != SHADOW:
                found[name] = found.get(name, 0) + sum(int(values[at]) for at in CODE_INDEX.values())
        return found
