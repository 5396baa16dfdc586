"""The version policy."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtimes.registry.modelconfig import VersionPolicy
from runtimes.registry.versions import missing, selected

OFFERED = st.lists(st.integers(1, 50), unique=True)


@pytest.mark.parametrize(
    ("policy", "serves", "lacks"),
    [
        (VersionPolicy(), (7,), ()),
        (VersionPolicy(latest=2), (3, 7), ()),
        (VersionPolicy(latest=9), (1, 3, 7), ()),
        (VersionPolicy(all=True), (1, 3, 7), ()),
        (VersionPolicy(specific=(7, 2, 1)), (1, 7), (2,)),
        (VersionPolicy(specific=(9, 8, 9)), (), (8, 9)),
    ],
)
def test_policies(policy: VersionPolicy, serves: tuple[int, ...], lacks: tuple[int, ...]) -> None:
    assert selected(policy, [7, 1, 3]) == serves
    assert missing(policy, [7, 1, 3]) == lacks


def test_nothing_is_offered() -> None:
    assert selected(VersionPolicy(), []) == ()
    assert missing(VersionPolicy(), []) == ()


@given(OFFERED, st.integers(1, 60))
def test_the_latest_are_the_highest(offered: list[int], count: int) -> None:
    chosen = selected(VersionPolicy(latest=count), offered)
    assert list(chosen) == sorted(chosen)
    assert len(chosen) == min(count, len(offered))
    assert all(left < min(chosen) for left in set(offered) - set(chosen))


@given(OFFERED, st.lists(st.integers(1, 50), min_size=1))
def test_specific_versions_are_served_or_missing(offered: list[int], named: list[int]) -> None:
    policy = VersionPolicy(specific=tuple(named))
    assert set(selected(policy, offered)) | set(missing(policy, offered)) == set(named)
    assert set(selected(policy, offered)) == set(named) & set(offered)
