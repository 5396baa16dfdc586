"""What people see of a rollout, from what the server says: without a server."""

import io
from typing import Any

import pytest
from rich.console import Console

from gateway.cli.policy import after, percent
from gateway.cli.rollout import share_of_canary
from gateway.cli.rollout_view import line, place, render

NOW_S = 1_700_000_100.0


def shown(**other: Any) -> dict[str, Any]:
    """A rollout in its second step."""
    evidence = {"log_e": 1.0, "peak_log_e": 2.3, "threshold": 4.6}
    rail = {
        "name": "error_rate",
        "metric": "error_rate",
        "state": "undecided",
        "counts": {"canary": {"bad": 3, "requests": 1_500}, "stable": {"bad": 0, "requests": 0}},
        "harm": evidence,
        "safety": {"log_e": 14.0, "peak_log_e": 14.0, "threshold": 3.0},
        "detectable_ratio": None,
    }
    return {
        "name": "m", "identity": "i", "state": "BAKING", "phase": "BAKING", "step": 1, "steps": 3, "reason": "why",
        "entered_at_ms": round(NOW_S * 1000) - 90_000, "held_ms": 5_000, "shadow_slots": 0, "generation": 2,
        "applied_by": "ann", "stable": "old", "canary": "new", "store_away": "", "paused": None, "killed": [],
        "pending_abort": None, "unacknowledged": [], "exposed": [],
        "cleared": False, "units": None, "holding": {}, "approvals": [], "waits": ["waits for 5 s of 10 s under watch"],
        "variants": [{"variant": "old", "version": 1}, {"variant": "new", "version": 2}],
        "weights": {"intended": {"old": 0.5, "new": 0.5}, "in_force": {"old": 0.5, "new": 0.5}},
        "plan_of_steps": [
            {"step": 1, "weight": None, "shadow": 0.1, "hold": "200 compared requests"},
            {"step": 2, "weight": 0.5, "shadow": None, "hold": "10 s"},
            {"step": 3, "weight": 1.0, "shadow": None, "hold": ""},
        ],
        "guardrails": [rail],
        "signals": [{"name": "compute_time", "state": "speaks", "text": "of 9 slow executions 7 were the canary's"}],
        "history": [{"at_ms": 0, "phase": "BAKING", "step": 1, "reason": f"reason {n}", "actor": ""} for n in range(9)],
        **other,
    }  # fmt: skip


def text(width: int = 120, trouble: str = "", **other: Any) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(render(shown(**other), NOW_S, trouble))
    found: str = console.file.getvalue()  # type: ignore[attr-defined]
    return found


def test_everything_that_matters_is_in_the_picture() -> None:
    found = text()
    for part in (
        "m  BAKING  for 1.5 min", "canary: new, version 2, stable: old, version 1", "● shadow 10 %",
        "◐ 50 %          10 s  5 s under watch", "○ 100 %", "new gets ██████████░░░░░░░░░░ 50 %\n",
        "  5 s of 10 s under watch", "3 of 1,500  0.20%", "0 of 0  -",
        "compute_time  speaks  of 9 slow executions 7",
        "██████░░░░░░ 2.7 of 99", "████████████ 1e6 of 20", "reason 8",
    ):  # fmt: skip
        assert part in found, part
    assert "reason 2" not in found  # the last lines of the history
    assert max(map(len, found.splitlines())) <= 120


def test_a_narrow_terminal_cuts_and_does_not_wrap_the_table() -> None:
    lines = text(60).splitlines()
    assert max(map(len, lines)) <= 60
    assert len([one for one in lines if "error_rate" in one]) == 1


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"weights": {"intended": {"new": 0.5}, "in_force": {"new": 0.0}}}, "of 50 % that are intended"),
        ({"paused": {"actor": "ann", "reason": "lunch"}, "state": "PAUSED"}, "PAUSED (BAKING)"),
        ({"paused": {"actor": "ann", "reason": "lunch"}, "state": "PAUSED"}, "paused by ann: lunch"),
        (
            {"store_away": "timeout", "pending_abort": {"actor": "ann", "reason": "harm"}},
            "aborted by ann: harm; it is written when the store is back",
        ),
        ({"store_away": "timeout"}, "the store is away, nothing is decided: timeout"),
        ({"killed": ["new"]}, "killed: new"),
        ({"unacknowledged": ["node-2"]}, "not reached: node-2"),
        ({"shadow_slots": 1000}, "copies of 10 % in the shadow"),
        ({"waits": [], "reason": "all is well"}, "all is well"),
        ({"cleared": True}, "all passed before the canary got everybody"),
        ({"units": {"canary": 405, "stable": 1_595}}, "this step has had 405 users on canary, 1,595 on stable"),
        ({"state": "PROMOTED", "phase": "PROMOTED", "waits": [], "canary": ""}, "● 100 %"),
    ],
)
def test_what_is_out_of_the_ordinary_is_told(other: dict[str, Any], told: str) -> None:
    assert told in text(**other)
    assert "no news: connection refused" in text(trouble="connection refused", **other)


def test_a_shadow_shows_how_many_answers_differ() -> None:
    rail = {"name": "shadow", "state": "passes", "compared": 2_000, "disagreed": 10, "max": 0.02}
    assert "10 of 2,000 differ" in text(guardrails=[rail])
    assert "0.50% of 2.00%" in text(guardrails=[rail])
    assert "- of 2.00%" in text(guardrails=[rail | {"compared": 0, "disagreed": 0}])


def test_fallbacks_show_how_many_and_how_many_may() -> None:
    against = {"log_e": 1.0, "peak_log_e": 2.0, "threshold": 4.0}
    rail = {"name": "fallback_ratio", "state": "undecided", "max": 0.05, "harm": against, "safety": against}
    found = text(guardrails=[rail | {"fell_back": {"bad": 3, "requests": 200}}])
    assert "3 of 200  1.50%" in found
    assert "5.00% may" in found


def test_a_line_for_each_change_and_none_for_numbers_that_grow() -> None:
    first = line(shown(), NOW_S)
    assert first.endswith("m BAKING step 2/3 new 50 % [error_rate undecided] waits for 5 s of 10 s under watch")
    assert place(shown()) == place(shown(held_ms=9_000, waits=["waits for 1 s of 10 s under watch"]))
    for other in (
        {"state": "HOLDING"},
        {"step": 2},
        {"killed": ["new"]},
        {"holding": {"srm": "x"}},
        {"store_away": "x"},
    ):
        assert place(shown()) != place(shown(**other))
    assert line(shown(), NOW_S, "gone").endswith(" no news: gone")


def test_numbers_for_people() -> None:
    assert [percent(share) for share in (0.0, 0.00015, 0.005, 0.1, 1.0)] == ["0 %", "0.015 %", "0.5 %", "10 %", "100 %"]
    assert (after(None, None), after(None, 1_200), after(90.0, 1_200)) == ("never", "1,200 requests", "1.5 min")
    assert (after(None, 1_200, {"enough": False}), after(9.0, 1_200, {"enough": None})) == ("too few units", "9 s")


def test_a_promoted_canary_has_what_stable_has() -> None:
    weights = {"in_force": {"old": 0.25, "new": 0.75}}
    pins = [{"variant": "old", "digest": "sha256:aa"}, {"variant": "new", "digest": "sha256:bb"}]
    under_way = shown(variants=pins, weights=weights, canary_digest="sha256:bb")
    assert share_of_canary(under_way) == share_of_canary({**under_way, "canary": "", "stable": "new"}) == 0.75
    # Written as stable since, under another name.
    renamed = {**under_way, "canary": "", "variants": [{"variant": "old", "digest": "sha256:bb"}]}
    assert share_of_canary(renamed) == 0.25
    assert share_of_canary({**under_way, "canary": "", "canary_digest": ""}) == 0.0
