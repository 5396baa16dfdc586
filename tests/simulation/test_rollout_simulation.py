"""The rollout machine in a seeded world: outages, lost leases, restarts between any two events, people at any time."""

import pytest

from router.rollout.spec import identity
from tests.simulation.rollout_world import World


def run_seeds(seeds: range) -> None:
    for seed in seeds:
        try:
            end(World(seed).run(120, 0.15).calm())
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error


def end(world: World) -> None:
    """In a calm world a good canary is promoted and a bad one is not, unless somebody said otherwise."""
    world.check_audit()
    status, spec = world.status, world.spec
    if spec is None:
        assert status.phase == "IDLE"
    elif spec.stable_digest == spec.canary_digest:
        assert status.phase in ("IDLE", "PROMOTED")
    else:
        assert status.identity == identity(spec)
        ends = {"ROLLED_BACK"} if world.bad[spec.canary_digest] else {"PROMOTED", "ROLLED_BACK"}
        assert status.phase in ends, f"{status.phase}: {status.waits}"
        if status.phase == "ROLLED_BACK":
            assert status.latched


def test_of_two_controllers_that_decide_on_one_revision_exactly_one_writes() -> None:
    world = World(7)
    for number in range(60):
        first, second = world.controllers
        world._lease(number % 2)
        if number % 3 == 0:
            # Both think that they have it: equal tokens are the worst that a broken lease could do.
            first.token = second.token = world.next_token
        for controller in (first, second):
            world._read(controller, 0.0)
        before, committed = world.store.document.revision, world.committed
        for controller in world.rng.sample([first, second], 2):
            world._write(controller)
        world.check()
        assert (world.store.document.revision, world.committed) == (before + 1, committed + 1)
        for worker in world.workers:
            worker.applied = world.store.document
        world.now_ms += 1_000
    assert world.store.lost_races >= 20


def test_sixty_seeds() -> None:
    run_seeds(range(60))


@pytest.mark.sim
@pytest.mark.timeout(900)
def test_two_thousand_seeds() -> None:
    run_seeds(range(60, 2_060))
