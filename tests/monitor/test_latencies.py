"""The canary's latencies beside the champion's: no alarm for what hits both, soon one where the canary is slower."""

import math

import msgspec
import numpy as np
import pytest

from gateway.monitor.apart import p_value as pooled
from gateway.monitor.latencies import DURATION_BOUNDS_NS, LEAST_SLOTS, LONGEST_MS, SLOT_MS, Judged
from gateway.monitor.words import Finding
from tests.monitor.latencies_world import World, arm, pair, run

WINDOW_MS = (LEAST_SLOTS + 1) * SLOT_MS
ALIKE = {
    "independent answers": World(),
    "a canary of 1 %": World(answers=3_000, share=0.01),
    "a canary of 90 %": World(answers=300, share=0.9),
    "batches": World(batch=8),
    "batches, a canary of 90 %": World(batch=32, share=0.9),
    "load spikes": World(batch=8, spike=0.1),
    "a ramp of load and of the canary": World(batch=4, ramp=10.0, share=0.4),
    "pauses of either arm": World(batch=4, pause=0.1, share=0.5),
    "pauses that a small stable arm has not had yet": World(batch=4, pause=0.05, share=0.9),
    "a handful of answers": World(answers=80),
    "two nodes": World(answers=300, batch=4, nodes=2),
}


def at_least(hits: int, of: int, alpha: float) -> float:
    """P(so many hits or more), if each comes with probability alpha."""
    below = math.fsum(math.comb(of, k) * alpha**k * (1.0 - alpha) ** (of - k) for k in range(hits))
    return 1.0 - below


def judged(world: World, windows: int, seed: int) -> list[Judged]:
    """That many windows, each on its own."""
    rng, found = np.random.default_rng(seed), []
    while len(found) < windows:
        one = pair(least=100)
        run(world, one, 2 * LEAST_SLOTS, rng)
        assert one.last is not None
        found.append(one.last)
    return found


@pytest.mark.parametrize("name", ALIKE)
def test_identical_arms_are_found_apart_no_more_often_than_the_level_says(name: str) -> None:
    found = judged(ALIKE[name], 200, seed=len(name))
    for alpha in (0.05, 0.01):
        hits = sum(one.p_value <= alpha for one in found)
        print(f"{name}: {hits} of {len(found)} windows at {alpha}")
        assert at_least(hits, len(found), alpha) > 0.001, f"{hits} of {len(found)} windows at {alpha}"


def test_counting_answers_as_if_they_were_independent_would_blame_identical_arms() -> None:
    # What the slots are for: the same worlds, their answers pooled over time.
    for name, least in (("batches", 0.5), ("a ramp of load and of the canary", 0.9)):
        world, rng, hits = ALIKE[name], np.random.default_rng(3), 0
        for _ in range(50):
            totals = [np.zeros(len(DURATION_BOUNDS_NS) + 1), np.zeros(len(DURATION_BOUNDS_NS) + 1)]
            for at in range(LEAST_SLOTS):
                scale, share = 1.0 + (world.ramp - 1.0) * at / LEAST_SLOTS, world.share
                share *= 1.0 + at / LEAST_SLOTS if world.ramp > 1.0 else 1.0
                totals[0] += arm(world, rng, world.answers * (1 - share), scale)
                totals[1] += arm(world, rng, world.answers * share, scale)
            hits += pooled(*(one.tolist() for one in totals)) <= 0.01
        assert hits >= 50 * least, name


@pytest.mark.parametrize(
    "world",
    [
        World(batch=8, slower=1.5),
        World(batch=4, slower=1.5, ramp=10.0),
        World(batch=8, slower=1.5, share=0.9),
        World(answers=3_000, batch=4, slower=2.0, share=0.01),
    ],
)
def test_a_canary_that_is_half_as_slow_again_fires_with_the_second_window(world: World) -> None:
    one = pair(floor=0.2, least=100)
    states = run(world, one, 4 * LEAST_SLOTS, np.random.default_rng(5))
    assert states[:3] == ["pending", "firing", "firing"]
    assert one.last is not None
    assert one.last.worst is not None
    assert one.last.worst.effect > 0.2
    assert one.last.worst.name in one.last.text


def test_a_faster_canary_and_a_difference_that_does_not_matter_never_fire() -> None:
    rng = np.random.default_rng(6)
    for slower in (0.5, 1.05):
        one = pair(floor=0.2)
        states = run(World(answers=10_000, share=0.5, slower=slower), one, 6 * LEAST_SLOTS, rng)
        assert set(states) == {"ok"}
        assert one.last is not None
        assert (one.last.p_value < 1e-6) == (slower > 1.0), "sure, and too small"


def test_an_alarm_is_over_after_two_clean_windows() -> None:
    one, rng = pair(floor=0.2), np.random.default_rng(7)
    assert run(World(batch=4, slower=2.0), one, 2 * LEAST_SLOTS + 1, rng)[-1] == "firing"
    later_ms = (2 * LEAST_SLOTS + 1) * SLOT_MS
    assert run(World(batch=4), one, 2 * LEAST_SLOTS + 1, rng, later_ms) == ["firing", "resolved"]


def test_a_node_that_is_slow_for_both_is_nobodys_fault() -> None:
    # Most of the canary's answers are of the slow node, so pooled over the nodes it would be far slower.
    one, rng, world = pair(), np.random.default_rng(8), World(batch=4)
    for at in range(2 * LEAST_SLOTS):
        for node, scale, champion, canary in (("slow", 5.0, 200, 400), ("fast", 1.0, 800, 100)):
            one.take("champion", node, arm(world, rng, champion, scale).tolist(), at * SLOT_MS)
            one.take("canary", node, arm(world, rng, canary, scale).tolist(), at * SLOT_MS)
    assert one.last is not None
    assert one.last.p_value > 0.01
    assert abs(one.last.worst.effect if one.last.worst else 1.0) < 0.1


def test_a_window_needs_slots_and_answers_of_both_arms() -> None:
    rng = np.random.default_rng(9)
    alone = pair()
    for at in range(2 * LEAST_SLOTS):
        alone.take("champion", "n", arm(World(), rng, 1_000, 1.0).tolist(), at * SLOT_MS)
    assert alone.last is None
    assert alone.state(2 * LEAST_SLOTS * SLOT_MS) == "insufficient"
    few = pair(least=10_000)
    run(World(), few, 2 * LEAST_SLOTS, rng)
    assert few.last is None
    run(World(), few, 1, rng, 2 * LONGEST_MS)
    run(World(answers=10_000), few, LEAST_SLOTS - 2, rng, 2 * LONGEST_MS + SLOT_MS)
    assert few.last is None, "what did not come together in a day is not part of a window"


def test_a_verdict_holds_for_twice_its_window() -> None:
    one = pair(floor=0.2)
    run(World(slower=3.0), one, 2 * LEAST_SLOTS + 1, np.random.default_rng(10))
    assert one.last is not None
    closed_ms, lasted_ms = one.last.closed_ms, one.last.closed_ms - one.last.opened_ms
    assert one.state(closed_ms + 2 * lasted_ms) == "firing"
    assert one.state(closed_ms + 2 * lasted_ms + 1) == "insufficient"


def test_what_was_judged_survives_a_restart() -> None:
    one, rng = pair(floor=0.2), np.random.default_rng(11)
    run(World(slower=3.0), one, LEAST_SLOTS + 1, rng)
    again = pair(floor=0.2)
    again.restore(msgspec.json.decode(msgspec.json.encode(one.plain())))
    assert again.last == one.last
    assert run(World(slower=3.0), again, LEAST_SLOTS + 1, rng, WINDOW_MS) == ["firing"], "the second of two"


def test_the_comparison_and_the_budget_speak_as_one_signal() -> None:
    burns = Finding(signal="latency", state="firing", severity="critical", text="burns")
    clean = Finding(signal="latency", state="ok")
    one, rng = pair(floor=0.2), np.random.default_rng(12)
    assert one.beside(clean, 0) == clean
    assert one.beside(burns, 0) == burns
    run(World(slower=3.0), one, LEAST_SLOTS + 1, rng)
    assert one.beside(clean, WINDOW_MS).state == "pending", "not clean"
    assert one.beside(burns, WINDOW_MS) == burns
    run(World(slower=3.0), one, LEAST_SLOTS + 1, rng, WINDOW_MS)
    assert one.last is not None
    slow, both = one.beside(clean, one.last.closed_ms), one.beside(burns, one.last.closed_ms)
    assert (slow.state, slow.severity, slow.text) == ("firing", "warning", one.last.text)
    assert (both.state, both.severity, both.text) == ("firing", "critical", f"burns; {one.last.text}")
    assert slow.level is not None
    assert slow.level > 1.0
    assert one.beside(clean, one.last.closed_ms + LONGEST_MS).state == "insufficient", "silence does not end an alarm"
    run(World(), one, 2 * LEAST_SLOTS + 1, rng, one.last.closed_ms)
    assert one.last.state == "resolved"
    assert one.beside(clean, one.last.closed_ms) == clean
