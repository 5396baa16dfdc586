"""Numbers among the cuts of their features, as a look-up in each feature's cuts places them; scores, as arrays do."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.monitor.counting import empty
from gateway.monitor.placing import Cuts, Places
from gateway.monitor.plan import CountPlan, ScorePlan
from gateway.monitor.scored import Scored

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


LINE = ((0.05, 0.0), (0.3, 0.1), (0.3000001, 0.1), (0.5, 0.75), (0.999, 0.9))


@pytest.mark.parametrize("groups", [(), ("a", "b")])
@pytest.mark.parametrize("points", [(), LINE, LINE[:1], LINE[:2]])
@given(
    scores=st.lists(
        st.sampled_from([0.0, -0.0, 1.0, 0.5, 0.999, 0.05, 5e-324, INF, -INF, np.nan, *np.arange(0, 1, 0.001)])
        | st.floats(-0.5, 1.5)
        | st.floats(),
        min_size=1,
    ),
    threshold=st.sampled_from([0.5, 0.0, 1.0, 0.3]),
    seed=st.integers(0, 99),
)
def test_scores_one_by_one_count_as_they_do_as_arrays(
    groups: tuple[str, ...], points: tuple[tuple[float, float], ...], scores: list[float], threshold: float, seed: int
) -> None:
    score = ScorePlan(0, -1, "probability", threshold, points)
    plan = CountPlan("0" * 16, (), score, groups)
    scored, numbers = Scored(plan, score), np.array(scores)
    whose = np.random.default_rng(seed).integers(-2, 5, len(scores))
    found = []
    for way in (scored._placed, scored._compared):
        counts = empty(plan)
        for _ in way(numbers, whose, *np.split(counts[plan.score_at :], 2)):
            pass
        found.append(counts.tolist())
    assert found[0] == found[1]
    assert sum(found[0][plan.score_at :][: plan.score_values]) == np.isfinite(numbers).sum()
