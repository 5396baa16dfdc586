"""Something on the admin port, watched: one picture that changes in a terminal, a line for each change in a pipe."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, Final

from gateway.cli.client import Refused, call
from gateway.cli.output import Failure, print

Shown = dict[str, Any]
_LOOK_S: Final = 0.5
_PATIENCE_S: Final = 30.0
"""A control that was killed is back long before."""


def follow(url: str, is_over: Callable[[Shown], bool], view: ModuleType, as_json: bool) -> Shown:
    """Show it until it is over; what it was then.

    Args:
        view: with `render(shown, now_s, trouble)`, `line` of the same, and `place(shown)`: what a change is.

    Raises:
        Failure: it is refused, or has been away for too long.
    """
    looks = _looks(url, is_over)
    return _live(looks, view) if sys.stdout.isatty() and not as_json else _lines(looks, view, as_json)


def _looks(url: str, is_over: Callable[[Shown], bool]) -> Iterator[tuple[Shown, str]]:
    """It again and again, with "" or why it cannot be had just now."""
    shown: Shown = call("GET", url).json()
    away_since: float | None = None
    trouble, clock = "", threading.Event()
    while True:
        yield shown, trouble
        if not trouble and is_over(shown):
            return
        clock.wait(_LOOK_S)
        try:
            shown, trouble, away_since = call("GET", url).json(), "", None
        except Failure as failure:
            if isinstance(failure, Refused) and failure.status < 500:
                raise
            away_since = time.monotonic() if away_since is None else away_since
            if time.monotonic() - away_since > _PATIENCE_S:
                raise
            trouble = failure.message


def _live(looks: Iterator[tuple[Shown, str]], view: ModuleType) -> Shown:
    from rich.console import Console
    from rich.live import Live

    console = Console(highlight=False)
    shown: Shown = {}
    with Live(console=console, auto_refresh=False, screen=False, vertical_overflow="crop") as live:
        for shown, trouble in looks:
            live.update(view.render(shown, time.time(), trouble), refresh=True)
    return shown


def _lines(looks: Iterator[tuple[Shown, str]], view: ModuleType, as_json: bool) -> Shown:
    import json

    shown: Shown = {}
    before: object = None
    for shown, trouble in looks:
        now = (view.place(shown), trouble)
        if now != before:
            print(json.dumps(shown) if as_json else view.line(shown, time.time(), trouble))
        before = now
    return shown
