"""Rewards by unit: taken once however often they come, the last one wins, sums as if added up anew."""

import random
import statistics

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.control import rewards as module
from gateway.control.rewards import SHARDS, Reward, Rewards, row_key

EPOCH = "e"


def reward(unit: int, row: int, value: float, *, goal: str = "paid", variant: int = 0, delay_s: int = 0) -> Reward:
    return Reward(goal, EPOCH, 0, variant, unit, row, value, delay_s)


def naive(taken: list[Reward], proportions: frozenset[str]) -> dict[tuple[str, int], list[float]]:
    """(goal, variant) -> a value for each unit, from the last reward of each row."""
    last: dict[tuple[str, int, int], dict[int, float]] = {}
    for one in taken:
        last.setdefault((one.goal, one.variant, one.unit), {})[one.row] = one.value
    found: dict[tuple[str, int], list[float]] = {}
    for (goal, variant, _), rows in last.items():
        values = list(rows.values())
        value = float(max(values) > 0) if goal in proportions else sum(values) / len(values)
        found.setdefault((goal, variant), []).append(value)
    return found


ONE = st.builds(
    reward, st.integers(0, 5), st.integers(0, 3), st.sampled_from([0.0, 1.0, -2.5, 1e6, 3.0]),
    goal=st.sampled_from(["paid", "profit"]), variant=st.just(0),
)  # fmt: skip


@given(st.lists(ONE, max_size=60), st.randoms(use_true_random=False))
def test_sums_are_those_of_the_last_values(taken: list[Reward], rng: random.Random):
    kept = Rewards(frozenset({"paid"}))
    for one in taken:
        kept.take(one)
        # Again, as a caller does who got no answer.
        assert not kept.take(one)
    for (goal, variant), values in naive(taken, frozenset({"paid"})).items():
        moments = kept.groups(goal)[EPOCH, 0][variant]
        assert moments.n == len(values)
        assert moments.mean == pytest.approx(statistics.fmean(values), abs=1e-6)
        assert moments.variance == pytest.approx(statistics.variance(values) if len(values) > 1 else 0, rel=1e-6, abs=1)


@given(st.lists(ONE, max_size=40))
@settings(max_examples=50)
def test_what_is_saved_goes_on_where_it_was(taken: list[Reward]):
    kept = Rewards(frozenset({"paid"}))
    for one in taken:
        kept.take(one)
    shards = [msgspec.msgpack.decode(msgspec.msgpack.encode(kept.shard(number))) for number in range(SHARDS)]
    again = Rewards(frozenset({"paid"}))
    again.restore(shards, kept.doublings, kept.overfull, kept.delays)
    assert [sorted(shard) for shard in _listed(again)] == [sorted(shard) for shard in _listed(kept)]
    assert again.kept == kept.kept
    # The same stretch of the stream, read once more.
    assert not any(again.take(one) for one in _last(taken))


def _listed(kept: Rewards) -> list[list]:
    return [[tuple(place) for place in kept.shard(number)] for number in range(SHARDS)]


def _last(taken: list[Reward]) -> list[Reward]:
    return list({(one.goal, one.unit, one.row): one for one in taken}.values())


def test_a_unit_of_a_proportion_counts_once_however_often_it_converts():
    kept = Rewards(frozenset({"paid"}))
    for row in range(10):
        kept.take(reward(1, row, 1.0))
    kept.take(reward(2, 0, 0.0))
    moments = kept.groups("paid")[EPOCH, 0][0]
    assert (moments.n, moments.mean) == (2, 0.5)


def test_rows_of_one_request_are_one_prediction():
    kept = Rewards()
    for row in range(5):
        kept.take(reward(1, row_key("ID", row), 1.0))
    kept.take(reward(1, row_key("OTHER", None), 1.0))
    assert kept.predictions("paid") == {0: 2}
    assert kept.kept == 6


def test_too_many_rewards_drop_whole_units_of_all_variants_alike(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "MOST_KEPT", 1_000)
    rng = random.Random(5)
    kept = Rewards()
    for row in range(6_000):
        kept.take(reward(rng.getrandbits(63), row, 1.0, variant=row % 2))
    assert kept.doublings >= 3
    assert kept.kept <= 1_000
    arms = kept.groups("paid")[EPOCH, 0]
    assert sum(one.n for one in arms.values()) == kept.kept
    assert abs(arms[0].n - arms[1].n) < 150
    estimate = kept.predictions("paid")
    assert abs(sum(estimate.values()) - 6_000) < 1_500


def test_a_unit_has_a_bound_and_more_is_counted():
    kept = Rewards()
    for row in range(module.MOST_OF_UNIT + 3):
        kept.take(reward(1, row, 1.0))
    assert kept.overfull == 3
    assert kept.kept == module.MOST_OF_UNIT
    assert kept.take(reward(1, 0, 2.0)), "a value that is kept may still be replaced"


def test_large_means_do_not_eat_small_differences():
    kept = Rewards()
    for unit in range(1_000):
        kept.take(reward(unit, 0, 1e9 + unit % 2))
    moments = kept.groups("paid")[EPOCH, 0][0]
    assert moments.variance == pytest.approx(0.25, rel=0.01)


def test_a_forgotten_unit_is_gone_from_everything():
    kept = Rewards()
    kept.take(reward(1, 0, 1.0))
    kept.take(reward(1, 0, 1.0, goal="profit"))
    kept.take(reward(2, 0, 3.0))
    assert kept.forget(1)
    assert not kept.forget(1)
    assert kept.groups("profit") == {}
    assert kept.groups("paid")[EPOCH, 0][0].mean == 3.0
    assert all(row[0] != 1 for number in range(SHARDS) for place in kept.shard(number) for row in place[4])
