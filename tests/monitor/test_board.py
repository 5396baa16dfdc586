"""What windows said last, and for how long it holds."""

from gateway.monitor.board import Board
from gateway.monitor.words import Finding


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
