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


def test_a_hundred_seeds() -> None:
    run_seeds(range(100))


@pytest.mark.sim
@pytest.mark.timeout(600)
def test_four_thousand_seeds() -> None:
    run_seeds(range(100, 4_100))
