"""Whether to look for the next request rather than sleep, once all are answered. Pure; no clock.

A loop that sleeps until a socket wakes it pays for the wake-up, and runs on a processor that has forgotten it: 58 us of
197 for a lone caller (ADR 12). To look for about as long as that costs is never much worse than the best choice would
have been (ski rental; Karlin, Manasse, McGeoch and Owicki, 1990), and it is done only where it has paid: here are the
rules for that.
"""

from typing import Final

NEAR_NS: Final = 250_000
"""A request that came so soon, the wake-up and its parsing included, might have been found by looking."""
TRIES_AFTER: Final = 64
"""So many that came soon, one after the other, and looking is tried."""
MISS: Final = 16
"""So many good looks make up for one in vain. A worker that looks all the time has no claim on a processor that others
want too: it is for callers who come back at once, not for many who come at random."""
_MOST: Final = 4 * MISS


class Linger:
    """What looking has been worth of late.

    Attributes:
        pays: look.
    """

    __slots__ = ("_credit", "_soon", "pays")

    def __init__(self) -> None:
        self.pays = False
        self._credit = 0
        self._soon = 0

    def came(self, waited_ns: int) -> None:
        """The first request after a turn, so long after it."""
        if self.pays:
            self._credit = min(_MOST, self._credit + 1)
        elif waited_ns > NEAR_NS:
            self._soon = 0
        else:
            self._soon += 1
            if self._soon == TRIES_AFTER:
                self.pays, self._credit, self._soon = True, MISS, 0

    def missed(self) -> None:
        """Looking was in vain."""
        self._credit -= MISS
        self.pays = self._credit > 0
