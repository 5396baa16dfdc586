"""When to stop asking a store that does not answer, and when to try again. Pure: clock and dice are arguments."""

from dataclasses import dataclass
from typing import Final

# Five failures of 250 ms each: long enough for a hiccup, short enough that nobody queues up behind a dead server.
FAILURES: Final = 5
FIRST_WAIT_S: Final = 0.25
LONGEST_WAIT_S: Final = 5.0


def wait_s(attempt: int, dice: float) -> float:
    """How long to wait after failure number `attempt` (from 0): doubling, half of it random, so that replicas spread.

    Args:
        dice: in [0, 1).
    """
    longest = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(attempt, 16))
    return longest * (0.5 + 0.5 * dice)


@dataclass(slots=True)
class Breaker:
    """Closed: all may call. Open: nobody. Half open: one call finds out, the others wait for its end.

    Attributes:
        failures: in a row, while closed.
        opened: how often in a row it opened without a success between.
        until_s: open until then, by the caller's clock; None = closed.
        probing: one call is out.
    """

    failures: int = 0
    opened: int = 0
    until_s: float | None = None
    probing: bool = False

    def refused_s(self, now_s: float) -> float | None:
        """None = call, and say how it ended; otherwise seconds until asking again makes sense."""
        if self.until_s is None:
            return None
        if now_s < self.until_s:
            return self.until_s - now_s
        if self.probing:
            return FIRST_WAIT_S
        self.probing = True
        return None

    def succeeded(self) -> None:
        """A call was answered, be it with a refusal."""
        self.failures = self.opened = 0
        self.until_s = None
        self.probing = False

    def failed(self, now_s: float, dice: float) -> None:
        """A call was not answered."""
        self.failures += 1
        if self.until_s is not None and not self.probing:
            return  # begun before it opened
        if self.probing or self.failures >= FAILURES:
            self.until_s = now_s + wait_s(self.opened, dice)
            self.opened += 1
            self.failures = 0
        self.probing = False

    def abandoned(self) -> None:
        """A caller left before the answer: nothing is known, the next may probe."""
        self.probing = False
