"""The report of an experiment in a terminal: it says what the JSON says."""

from typing import Any

import pytest

from gateway.cli.experiment import _print
from gateway.control.experimentmodel import NO_SHADOW, model_of
from gateway.control.experimentpage import e_value
from gateway.control.experimenttrail import with_trail
from tests.control.studies import study
from tests.control.test_experiments import full_report


def printed(capsys: pytest.CaptureFixture[str], **changes: Any) -> str:
    model = model_of(study(), NO_SHADOW, "nobody watches it", 0)
    _print({**with_trail(full_report(), study(), None), "model": model, **changes})
    return capsys.readouterr().out


def test_what_is_compared_stands_first(capsys: pytest.CaptureFixture[str]) -> None:
    head = printed(capsys).partition("health")[0]
    for words in (
        "owner risk", "in force since 1970-01-01 00:00 UTC", "variant new version 2, sha256:b2b2b2b2", "salt fraud",
        "policy revisions 1 to 2", "expected units 500 per variant; intervals are narrowest at N* = 1,000",
        "asymptotic confidence sequence, alpha 0.05, 0.05 per comparison",
    ):  # fmt: skip
        assert words in " ".join(head.split())


def test_nodes_that_are_behind_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    shown = printed(capsys)
    assert "nodes behind the newest revision: 2 of 3 (revision 7; 1 of 2 workers of this node)" in shown
    assert "older one: n1, n3." in shown


def test_each_comparison_has_an_e_value(capsys: pytest.CaptureFixture[str]) -> None:
    goals = printed(capsys).partition("goal paid")[2]
    assert goals.split("\n")[2].split()[-6:] == ["p", "e-value", "would", "have", "seen", "decision"]
    wanted = e_value(full_report()["goals"][0]["comparisons"][0]["log_e"])
    assert f" {wanted} " in goals


def test_latency_and_waits_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    told = printed(capsys).partition("whole requests")[2]
    assert "0.7071 (0.5 to 1)" in told
    assert "wait for an execution" in told
    assert "it decides nothing" in told


def test_without_a_shadow_or_a_monitor_it_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    told = printed(capsys)
    assert f"no shadow report: {NO_SHADOW}" in told
    assert "no word of a monitor: nobody watches it" in told


def test_it_says_until_when_it_was_in_force(capsys: pytest.CaptureFixture[str]) -> None:
    shown = printed(capsys, state="ended", ended_ms=86_400_000, stop_reason="delete by ann (main/7)")
    assert "in force 1970-01-01 00:00 UTC until 1970-01-02 00:00 UTC" in " ".join(shown.split())
    assert "delete by ann (main/7)" in shown
