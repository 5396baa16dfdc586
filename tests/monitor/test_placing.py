"""Numbers among the cuts of their features: as a look-up in each feature's cuts places them."""

import numpy as np

from gateway.monitor.placing import Cuts, Places

INF = float("inf")
CUTS = ([-1.0, 0.0, 0.5], [0.25], [-3e38, -2.0, -1.0, 0.0, 1.0, 2.0, INF])


def test_each_number_has_the_place_that_a_look_up_gives_it() -> None:
    rng = np.random.default_rng(7)
    numbers = rng.choice([*np.concatenate(CUTS), 0.1, -7.0, 0.25000003, -INF, INF, np.nan], (300, 3)).astype("<f4")
    cuts = Cuts(CUTS)
    places = Places(cuts)
    places.add(numbers[:100, :1].tobytes(), 0, 1)
    places.add(numbers[:100, 1:].tobytes(), 1, 2)
    places.add(numbers[100:].tobytes(), 0, 3)
    assert cuts.size == 8
    expected = np.zeros((3, cuts.size + 1), np.int64)
    for line, some, column in zip(expected, CUTS, numbers.T.astype(np.float64), strict=True):
        found = np.searchsorted(some, column, "right")
        np.add.at(line, np.where(np.isnan(column), cuts.size, found), 1)
    assert places.counts() == expected.ravel().tolist()


def test_a_feature_with_as_many_cuts_as_fit() -> None:
    every = [float(cut) for cut in range(7)]
    places = Places(Cuts([every]))
    places.add(np.array([-1.0, 0.0, 6.0, 5.5], "<f4").tobytes(), 0, 1)
    assert places.counts() == [1, 1, 0, 0, 0, 0, 1, 1, 0]
