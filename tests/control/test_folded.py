"""Bitmaps that are folded in the midst of a rollout: equal canaries are rolled back no more often than alpha allows."""

import numpy as np

from gateway.control.units import LEAST_PLACES, Bitmap
from router.evidence.eprocess import EventShare, log_threshold

ALPHA, RUNS, WEIGHT = 0.05, 400, 0.1


def is_rolled_back(rng: np.random.Generator, ratio: float) -> bool:
    """6,000 erring units, a tenth of them the canary's or `ratio` times as many; folded after a third of them."""
    bitmap, harm = Bitmap(), EventShare()
    units = rng.integers(0, 2**63, 6_000).tolist()
    share = ratio * WEIGHT / (ratio * WEIGHT + 1 - WEIGHT)
    arms = (rng.random(6_000) < share).tolist()
    for batch in range(0, 6_000, 20):
        if batch == 2_000:
            while bitmap.places > LEAST_PLACES:
                bitmap.fold()
        counted = [arms[at] for at in range(batch, batch + 20) if bitmap.add(units[at])]
        if counted:
            harm.add(WEIGHT, sum(counted), len(counted))
    return harm.peak_log_e >= log_threshold(ALPHA)


def test_equal_canaries_are_rolled_back_as_seldom_as_alpha_says() -> None:
    rng = np.random.default_rng(7)
    false = sum(is_rolled_back(rng, 1.0) for _ in range(RUNS))
    assert false <= 35, "more than 35 of 400 at 5 % have a chance of 0.06 %"


def test_harm_is_found_still() -> None:
    rng = np.random.default_rng(8)
    assert all(is_rolled_back(rng, 2.0) for _ in range(10))
