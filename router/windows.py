"""When steps of a rollout may advance: spans of the week, and frozen spans of time. No clock and no zone data here.

The caller looks up the zone's local time; here it is only decided what it means.
"""

import re
from dataclasses import dataclass
from typing import Final

from router.moments import read_moment

DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_DAY: Final = "|".join(DAYS)
_WEEKLY: Final = re.compile(
    rf"(?P<days>(?:{_DAY})(?:-(?:{_DAY}))?(?:,(?:{_DAY})(?:-(?:{_DAY}))?){{0,6}}) "
    r"(?P<start>[0-9]{2}:[0-9]{2})-(?P<stop>[0-9]{2}:[0-9]{2}) "
    r"(?P<zone>[A-Za-z][A-Za-z0-9_+-]{0,31}(?:/[A-Za-z0-9_+-]{1,32}){0,2})\Z"
)
_DAY_MINUTES: Final = 24 * 60


@dataclass(frozen=True, slots=True)
class Weekly:
    """A span of the week in one zone.

    Attributes:
        days: 0 = Monday.
        start_minute, stop_minute: of the local day; the stop is not part of it, 1440 = midnight.
        zone: IANA name; whether it exists, the caller finds out.
    """

    days: frozenset[int]
    start_minute: int
    stop_minute: int
    zone: str

    def holds(self, weekday: int, minute: int) -> bool:
        """Whether a local time lies in it: weekday 0 to 6, minute of the day 0 to 1439."""
        return weekday in self.days and self.start_minute <= minute < self.stop_minute


def read_weekly(text: str) -> Weekly:
    """A span such as `Mon-Thu 09:00-16:00 Europe/Berlin` or `Mon,Wed-Fri 08:00-24:00 UTC`.

    Raises:
        ValueError: expected versus got; also for a span that ends before it starts.
    """
    found = _WEEKLY.match(text)
    if found is None:
        raise ValueError(f"expected days, times and zone as `Mon-Thu 09:00-16:00 Europe/Berlin`, got {text[:80]!r}")
    start, stop = _minute(found["start"]), _minute(found["stop"])
    if not start < stop:
        raise ValueError(f"expected an end after {found['start']} on the same day, got {found['stop']}")
    days: set[int] = set()
    for part in found["days"].split(","):
        first, _, last = part.partition("-")
        begin = DAYS.index(first)
        span = (DAYS.index(last or first) - begin) % 7
        days |= {(begin + day) % 7 for day in range(span + 1)}
    return Weekly(frozenset(days), start, stop, found["zone"])


def _minute(text: str) -> int:
    hours, minutes = int(text[:2]), int(text[3:])
    total = hours * 60 + minutes
    if minutes > 59 or total > _DAY_MINUTES:
        raise ValueError(f"expected a time from 00:00 to 24:00, got {text}")
    return total


def read_freeze_end(text: str) -> int:
    """Milliseconds since 1970 of a date and time with its zone's offset (ISO 8601).

    Raises:
        ValueError: no such time, or none that says in which zone.
    """
    try:
        when = read_moment(text)
    except ValueError:
        raise ValueError(f"expected a time such as 2026-12-20T08:00:00+01:00, got {text[:40]!r}") from None
    if when.tzinfo is None:
        raise ValueError(f"expected a time with a zone, such as {text[:40]}+00:00, got none")
    return round(when.timestamp() * 1000)
