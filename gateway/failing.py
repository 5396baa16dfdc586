"""The last requests that failed on a canary, by the ids that callers and traces know them by.

A rollback quotes them, so that whoever looks into it has a place to begin (routing.md 2.3, R9). No inputs, no units.
"""

from collections import deque
from collections.abc import Callable, Set
from typing import Final

from gateway.exchange import Exchange

MOST: Final = 20
"""Per rollout."""
_TRACE_DIGITS: Final = 32

Failed = tuple[str, str]
"""Request id, and the trace id of its `traceparent`; "" where it had none."""


class Failing:
    """Those of one worker.

    Attributes:
        news: there are some that nobody was told.
        on_first: called at the first of a rollout: the verdict may come before the next beat, and should quote some.
    """

    def __init__(self) -> None:
        self.news = False
        self.on_first: Callable[[], object] = lambda: None
        self._last: dict[tuple[str, str], deque[Failed]] = {}

    def note(self, policy: str, rollout: str, exchange: Exchange) -> None:
        """One failed; the oldest makes room."""
        last = self._last.get((policy, rollout))
        if last is None:
            last = self._last[policy, rollout] = deque(maxlen=MOST)
            self.on_first()
        last.append((exchange.request_id.decode("ascii", "replace"), trace_id(exchange.trace)))
        self.news = True

    def keep(self, places: Set[tuple[str, str]]) -> None:
        """Forget those of other (policy, rollout)."""
        self._last = {place: last for place, last in self._last.items() if place in places}

    def told(self) -> tuple[tuple[str, str, tuple[Failed, ...]], ...]:
        """(policy, rollout, requests), oldest first."""
        self.news = False
        return tuple((*place, tuple(last)) for place, last in self._last.items())


def trace_id(traceparent: bytes) -> str:
    """The second part of a W3C `traceparent`; "" where it has another form."""
    parts = traceparent.split(b"-")
    return parts[1].decode("ascii", "replace") if len(parts) > 3 and len(parts[1]) == _TRACE_DIGITS else ""
