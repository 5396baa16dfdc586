"""What `tidegate monitor status` shows, from what a server may say."""

from typing import Any

import pytest
from rich.console import Console

from gateway.cli.monitor_view import line, place, render
from gateway.monitor.settings import Spec, Window
from tests.monitor.page_world import NASTY, NOW_MS, ROWS_OF, held_of, page, plan_of

CALM = [(ROWS_OF, 0.0), (ROWS_OF, 0.0)]
DRIFTED = [(ROWS_OF, 0.0), (ROWS_OF, 0.6), (ROWS_OF, 0.6)]


def shown(windows: list[tuple[int, float]], name: str = "f") -> dict[str, Any]:
    return page(held_of(plan_of(3, name), windows))[1]


def text(view: dict[str, Any], width: int = 120, trouble: str = "") -> str:
    console = Console(width=width, color_system=None, highlight=False)
    with console.capture() as got:
        console.print(render(view, NOW_MS / 1000 + 600, trouble))
    return got.get()


def test_a_calm_monitor_has_no_incident_and_no_timeline() -> None:
    told = text(shown(CALM))
    assert "loans  no incident" in told
    assert "No incident: nothing fires." in told
    assert "timeline" not in told
    assert "largest: f" in told


def test_what_nobody_knows_is_not_called_calm() -> None:
    view = shown(CALM)
    for each in view["versions"].values():
        for one in each["variants"].values():
            one["signals"] = {signal: told | {"state": "unknown"} for signal, told in one["signals"].items()}
    assert "nothing can be said now" in text(view)


def test_an_incident_comes_first_with_what_is_said_of_it() -> None:
    told = text(shown(DRIFTED))
    assert "loans  incident, critical  for 8 min" in told
    assert told.index("incident, critical") < told.index("Version 1: inputs have drifted") < told.index("input_drift")
    assert "input_drift of version 1: f" in told
    assert "timeline" in told


@pytest.mark.parametrize("width", [40, 80, 200])
def test_it_fits_any_terminal(width: int) -> None:
    assert all(len(one) <= width for one in text(shown(DRIFTED), width).splitlines())


def test_what_has_marks_in_it_is_shown_as_it_is() -> None:
    view = shown(DRIFTED, "[bold]x[/bold]")
    assert "[bold]x[/bold]0" in text(view)
    assert NASTY in text(view | {"leases": [{"version": "1", "variant": NASTY, "level": "freeze", "expires_at": 1.0,
                                             "reason": NASTY}]}, 200)  # fmt: skip


def test_requests_that_wait_say_how_they_are_let_go() -> None:
    asked = {"key": "c0ffee", "status": "pending", "at_s": 1.0, "by": "", "note": ""}
    assert "tidegate monitor approve loans REQUEST" in text(shown(CALM) | {"retraining": [asked]})
    assert "REQUEST" not in text(shown(CALM) | {"retraining": [asked | {"status": "sent"}]})


def test_an_untrusted_estimate_is_no_number() -> None:
    view = shown(CALM)
    last = view["versions"]["1"]["variants"]["-"]["windows"][-1]
    last["estimated"] |= {"state": "untrusted", "reason": "no_calibrator", "values": {"accuracy": 0.87654}}
    told = text(view)
    assert "0.8765" not in told
    assert "the estimate is withheld: untrusted: the scores are not calibrated" in told


def test_windows_with_too_few_rows_say_so() -> None:
    held = held_of(plan_of(3, "f"), [(50, 0.5)], Spec(window=Window(rows=None, time_ms=1_000), min_rows=200))
    held.monitor.turn([], held.roles, NOW_MS + 3_600_000)
    assert "not judged: too few" in text(page(held)[1])


def test_a_line_is_told_for_what_changes_and_not_for_more_rows() -> None:
    before, after = shown(CALM), shown(DRIFTED)
    assert place(before) == place(before | {"rows": 10**6, "lag_ms": 5})
    assert place(before) != place(after)
    assert "loans no incident No incident: nothing fires." in line(before, 0.0)
    assert "loans incident critical [version 1: " in line(after, 0.0)
    assert line(after, 0.0, "gone").endswith("no news: gone")
