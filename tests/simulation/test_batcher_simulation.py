"""The real batcher under a virtual clock: cancels, poison, deadlines, drains."""

import numpy as np
import pytest

from tests.simulation import world


def run_seeds(seeds: range) -> None:
    for seed in seeds:
        try:
            world.World(seed).run()
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error


def still_world(seed: int = 0) -> world.World:
    """A world whose batcher is plain: batches of 8, no delay, runs on the loop."""
    still = world.World(seed)
    still.bounds = world.Bounds(8, 4096, 1 << 30)
    still.batcher.bounds = still.bounds
    still.batcher.cost = world.CostModel(10_000, 1_000)
    still.batcher._lane_fixed = False
    still.batcher._choose_lane()
    still.base_ns, still.per_row_ns = 10_000, 1_000
    return still


def test_one_of_three_in_a_batch_is_cancelled_and_its_neighbours_do_not_notice() -> None:
    still = still_world()
    callers = [world.Caller(n, 1, 2, False) for n in (1, 2, 3)]
    for caller in callers:
        still.submit(caller)
    still.cancel(callers[1])
    still.loop.run(still.check)
    assert [caller.answers for caller in callers] == [1, 0, 1]
    assert np.array_equal(callers[2].outputs, [[0.0, 6.0]])
    assert still.executed_rows == 2


def test_a_poisoned_request_among_32_fails_alone_in_at_most_ten_more_runs() -> None:
    still = still_world()
    still.bounds = still.batcher.bounds = world.Bounds(32, 4096, 1 << 30)
    callers = [world.Caller(n, 1, 2, n == 17) for n in range(1, 33)]
    for caller in callers:
        still.submit(caller)
    still.loop.run(still.check)
    assert [caller.name for caller in callers if caller.error] == [17]
    assert sum(caller.answers for caller in callers) == 32
    assert still.executions <= 1 + 10


def test_a_request_larger_than_a_batch_is_cut_and_joined_in_order() -> None:
    still = still_world()
    caller = world.Caller(7, 21, 2, False)
    still.submit(caller)
    still.loop.run(still.check)
    assert still.executions == 3
    assert np.array_equal(caller.outputs[:, 0], 2.0 * np.arange(21))


def test_the_same_seed_is_the_same_world() -> None:
    first, second = world.World(11).run(), world.World(11).run()
    assert (first.executions, first.loop.now) == (second.executions, second.loop.now)


def test_a_thousand_seeds() -> None:
    run_seeds(range(1_000))


@pytest.mark.sim
@pytest.mark.timeout(300)
def test_ten_thousand_seeds() -> None:
    run_seeds(range(1_000, 11_000))
