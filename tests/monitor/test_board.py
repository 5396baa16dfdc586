"""What windows said last, and for how long it holds."""

import pytest

from gateway.monitor.board import LEAST_S, Board
from gateway.monitor.words import Finding, State


def word(state: State, from_s: float = 0.0, to_s: float = 10.0) -> Finding:
    return Finding(signal="input_drift", state=state, version="1", window_from_s=from_s, window_to_s=to_s)


def shown(state: State, now_s: float) -> State:
    """How a word of the window from 0 to 10 s is shown."""
    (found,) = Board().take([word(state)]).shown(now_s)
    return found.state


def test_a_finding_holds_for_two_windows_from_when_it_was_said():
    window = Finding(signal="input_drift", state="firing", version="1", window_from_s=0, window_to_s=10)
    labels = Finding(
        signal="performance_realised", state="firing", version="1", window_from_s=0, window_to_s=10, told_s=100
    )
    board = Board().take([window, labels])
    assert board.arm("1", "-", 30.0).fires("input_drift")
    assert not board.arm("1", "-", 30.1).fires("input_drift")
    assert board.arm("1", "-", 120.0).fires("performance_realised")
    assert not board.arm("1", "-", 120.1).fires("performance_realised")


@pytest.mark.parametrize("state", ["ok", "resolved", "insufficient"])
def test_what_is_shown_lapses_as_what_is_decided_by(state: State):
    board = Board().take([word(state)])
    for now_s, wanted in ((30.0, state), (30.1, "unknown")):
        assert (shown(state, now_s), board.arm("1", "-", now_s).states["input_drift"]) == (wanted, wanted)


@pytest.mark.parametrize("state", ["firing", "pending"])
def test_what_alarms_is_shown_until_something_else_is_said_and_decides_nothing(state: State):
    board = Board().take([word(state)])
    assert shown(state, 1e6) == state
    assert board.arm("1", "-", 1e6).states["input_drift"] == "unknown"


def test_a_window_of_one_burst_holds_for_a_while():
    board = Board().take([word("ok", 10.0, 10.0)])
    assert [one.state for one in board.shown(10.0 + LEAST_S)] == ["ok"]
    assert [one.state for one in board.shown(10.1 + LEAST_S)] == ["unknown"]


def test_a_word_that_has_lapsed_tells_no_numbers_of_its_window():
    told = Finding(signal="input_drift", state="ok", version="1", keys=("a",), text="PSI 0.3", window_to_s=1)
    (found,) = Board().take([told]).shown(1e6)
    assert (found.keys, found.text) == ((), "nothing was said for 2 windows; it was ok")


@pytest.mark.parametrize(("state", "wanted"), [("ok", "unknown"), ("resolved", "unknown"), ("firing", "firing")])
def test_a_window_that_closed_while_a_node_was_silent_is_not_clean(state: State, wanted: State):
    board = Board().take([word(state)])
    for silent_s, found in ((0.0, state), (4.9, state), (5.1, wanted)):
        assert [one.state for one in board.shown(15.0, silent_s)] == [found]
        assert board.arm("1", "-", 15.0, silent_s).states["input_drift"] == found
        assert board.others([], 15.0, silent_s)[0].states["input_drift"] == found
