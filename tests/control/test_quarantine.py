"""Who is to blame for a dead worker, and how long a version is held back."""

import pytest

from gateway.control.messages import ModelState, Snapshot, Status, WantedModel
from gateway.control.quarantine import CRASHES, HELD_S, REASON, WINDOW_S, Quarantine, blamed, summary, withhold
from gateway.control.reconcile import Desired, decide, view_of
from gateway.counters import CounterPage, running
from runtimes.registry.modelconfig import ModelConfig

A, B = ("sha256:a", "a", 1), ("sha256:b", "b", 2)
TRACE = b"""Fatal Python error: Floating point exception

Thread 0x00007f0000000020 (most recent call first):
  File "pool.py", line 3 in get

Current thread 0x00007f0000000010 (most recent call first):
  File "session.py", line 115 in run
  File "runtime.py", line 2 in _run

Thread 0x00007f0000000030 (most recent call first):
  File "main.py", line 1 in main
"""
HERE, ELSEWHERE = 0x7F0000000010, 0x7F0000000020


def page(**threads: int) -> CounterPage:
    """A page on which versions a and b were being executed by these threads."""
    found = CounterPage(memoryview(bytearray(65536)))
    for key in (A, B):
        running(found, *key)[0] = threads.get(key[1], 0)
    return found


def named(key: tuple[str, str, int]) -> tuple[str, str, str]:
    return key[0], key[1], str(key[2])


def test_the_thread_that_crashed_tells_which_of_two() -> None:
    assert blamed(page(a=HERE, b=ELSEWHERE), TRACE, hung=False) == named(A)
    assert blamed(page(a=ELSEWHERE, b=HERE), TRACE, hung=False) == named(B)


def test_the_log_says_what_crashed_where() -> None:
    told = summary(TRACE)
    assert told.startswith("Fatal Python error: Floating point exception\nCurrent thread")
    assert "session.py" in told
    assert "pool.py" not in told
    assert "main.py" not in told


def test_a_load_is_to_blame_too() -> None:
    found = page(b=ELSEWHERE)
    running(found, *A)[1] = HERE
    assert blamed(found, TRACE, hung=False) == named(A)


def test_a_crash_outside_of_any_execution_is_nobodys() -> None:
    assert blamed(page(a=ELSEWHERE), TRACE, hung=False) is None
    assert blamed(page(), TRACE, hung=False) is None


def test_without_a_thread_only_a_single_one_can_be_blamed() -> None:
    no_thread = b"Fatal Python error: Segmentation fault\n\n"
    assert blamed(page(a=ELSEWHERE), no_thread, hung=False) == named(A)
    assert blamed(page(a=HERE, b=ELSEWHERE), no_thread, hung=False) is None
    assert blamed(page(a=HERE), b"", hung=True) == named(A)


def test_who_was_killed_by_others_blames_nobody() -> None:
    assert blamed(page(a=HERE), b"", hung=False) is None


def test_marks_of_a_full_page_are_private() -> None:
    full = CounterPage(memoryview(bytearray(16 * 1024)))
    for number in range(500):
        running(full, "sha256:c", "c", number)[0] = HERE
    overflow = [values for key, values in full.blocks() if key == ("overflow",)]
    assert [any(values) for values in overflow] == [False]


@pytest.mark.parametrize(
    ("times", "held"),
    [
        ([0, 1], False),
        ([0, 1, 2], True),
        ([0, 1, WINDOW_S], True),
        ([0, 1, WINDOW_S + 1], False),
        ([0, 40, 80, 100], True),
        ([0, 40, 80, 120], False),
    ],
)
def test_three_within_the_window(times: list[float], held: bool) -> None:
    found = Quarantine({})
    for at in times:
        found.crashed("d", at)
    assert ("d" in found.held(times[-1])) is held
    again = Quarantine(found.crashes)
    assert again.held(times[-1]) == found.held(times[-1])


def test_it_ends_by_itself_and_by_an_operators_word() -> None:
    found = Quarantine({"d": [1.0] * CRASHES, "e": [1.0] * CRASHES})
    assert found.held(HELD_S) == {"d": 1 + HELD_S, "e": 1 + HELD_S}
    found.release("d")
    assert set(found.held(HELD_S)) == {"e"}
    assert not found.held(HELD_S + 1)
    found.crashed("f", HELD_S + 1)
    assert set(found.crashes) == {"f"}, "old crashes are kept for ever"


def test_a_version_held_back_leaves_every_worker_at_once_and_others_stay() -> None:
    wanted = [WantedModel("m", version, f"d{version}", "/c", "model.onnx", ModelConfig()) for version in (1, 2)]
    desired = {"m": Desired(ModelConfig(), tuple(wanted), offered=frozenset({1, 2}))}
    ready = Status(1, True, tuple(ModelState("m", v, f"d{v}", 0, "READY") for v in (1, 2)), True)
    before = decide(desired, Snapshot(0, (), {}, True), view_of([ready]), ready=True)
    assert before.routes["m"].versions == (1, 2)
    without, withheld = withhold(desired, {"d2"})
    after = decide(without, before, view_of([ready]), ready=True)
    assert withheld == [wanted[1]]
    assert [model.version for model in after.models] == [1]
    assert after.routes["m"].versions == (1,)
    assert {state.version: state.reason for state in after.states} == {1: "", 2: REASON}
