"""The latest word on each signal of each series, from which arms are made for the attribution. Pure.

Variants get rows at different rates, so their windows close at different times. A word holds until the next one, but
no longer than twice its window: after that nothing is known. Nor is a window clean that closed while a node that lives
was silent: the rows that it answered are not in it.
"""

from collections.abc import Iterable, Iterator, Set
from typing import Final

import msgspec

from gateway.monitor.attribution import Arm
from gateway.monitor.words import CLEAN, Finding, Signal, State

HOLDS_WINDOWS: Final = 2.0
LEAST_S: Final = 5.0
"""A word holds so long in any case: counts come once a second, and a window of one burst seems to last no time."""
ALARMING: Final = frozenset({"firing", "pending"})


class Board(msgspec.Struct, frozen=True):
    """The latest finding for each signal of each series; findings over mixed variants are not kept."""

    latest: tuple[Finding, ...] = ()

    def take(self, findings: Iterable[Finding], live: Set[tuple[str, str]] | None = None) -> "Board":
        """Take in what closed windows say.

        Args:
            live: series that still exist; others are forgotten. None = all do.
        """
        found = {(one.series, one.signal): one for one in (*self.latest, *findings) if not one.mixed}
        return Board(tuple(one for one in found.values() if live is None or one.series in live))

    def others(self, known: Iterable[tuple[str, str]], now_s: float, silent_s: float = 0.0) -> list[Arm]:
        """All series but these."""
        return [
            self.arm(*series, now_s, silent_s) for series in sorted({one.series for one in self.latest} - set(known))
        ]

    def keys(self, series: tuple[str, str], signal: Signal) -> tuple[str, ...]:
        """What the latest word on a signal names."""
        found = [one.keys for one in self.latest if (one.series, one.signal) == (series, signal)]
        return found[0] if found else ()

    def shown(self, now_s: float, silent_s: float = 0.0) -> Iterator[Finding]:
        """The words as people are told them now.

        What alarms stays until something else is said of it: nobody is to think that it is over. It decides nothing
        any more once it has lapsed, see `arm`.

        Args:
            silent_s: for how long a node that lives has told nothing.
        """
        for one in self.latest:
            yield one if one.state in ALARMING or _holds(one, now_s, silent_s) else _lapsed(one, silent_s)

    def arm(self, version: str, variant: str, now_s: float, silent_s: float = 0.0) -> Arm:
        """States of one series now. Args: silent_s: as of `shown`."""
        states: dict[Signal, State] = {}
        for one in self.latest:
            if one.series == (version, variant):
                states[one.signal] = one.state if _holds(one, now_s, silent_s) else "unknown"
        return Arm(variant=f"version {version}" if variant == "-" else variant, states=states)


def _holds(one: Finding, now_s: float, silent_s: float) -> bool:
    if silent_s and one.state in CLEAN and one.window_to_s > now_s - silent_s:
        return False
    held_s = max(LEAST_S, HOLDS_WINDOWS * (one.window_to_s - one.window_from_s))
    return now_s - max(one.window_to_s, one.told_s) <= held_s


def _lapsed(one: Finding, silent_s: float) -> Finding:
    """Numbers of a window that says nothing any more are not told."""
    why = (
        f"a gateway tells nothing for {silent_s:.0f} s"
        if silent_s
        else f"nothing was said for {HOLDS_WINDOWS:g} windows"
    )
    text = f"{why}; it was {one.state}"
    return msgspec.structs.replace(one, state="unknown", keys=(), text=text)
