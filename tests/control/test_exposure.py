"""Whom a rollout has shown its canary: exactly the slots that it ever had."""

import hashlib

import pytest

from gateway.control.exposure import Exposure, described, in_words, members, widened
from router import slots as tables
from tests.router.documents import read


@pytest.fixture
def shown() -> Exposure:
    """5 %, then 10 % of the users, then none."""
    wanted = read()
    owned = tables.Ownership.first([10_000, 0])
    found: Exposure | None = None
    for slots in (500, 1_000, 0):
        owned = owned.weighted(1, 0, slots) if slots else owned.without(1, 0)
        found = widened(found, "one", wanted, owned.owner, 1)
    assert found is not None
    return found


def test_the_largest_share_counts_also_after_it_was_taken_back(shown: Exposure) -> None:
    assert sum(last + 1 - first for first, last in shown.slots) == 1_000


def test_another_rollout_or_salt_begins_anew(shown: Exposure) -> None:
    table = tables.fresh([9_000, 1_000])
    assert widened(shown, "two", read(), table, 1).slots == ((9_000, 9_999),)
    salted = read(unit={"from": [{"header": "x-user-id"}], "salt": "other"})
    assert widened(shown, "one", salted, table, 1).slots == ((9_000, 9_999),)
    assert described(shown, "two", read()) is None


def test_users_are_told_by_the_published_hash(shown: Exposure) -> None:
    found = described(shown, "one", read())
    assert found is not None
    users = [f"user-{number}" for number in range(5_000)]
    inside = set(members(found, users))
    for user in users:
        digest = hashlib.sha1(f"{found['salt']}.{user}".encode()).hexdigest()
        slot = (int(digest[:15], 16) * 10_000) >> 60
        assert (user in inside) == any(first <= slot <= last for first, last in found["slots"])
    assert 400 < len(inside) < 600


def test_what_is_said_of_it() -> None:
    found = {
        "hash": "sha1-60",
        "salt": "m",
        "of": 10_000,
        "share": 0.0501,
        "slots": [[9_000, 9_499], [7, 7]],
        "rules": ["staff"],
    }
    assert in_words(found) == (
        "units of the slots 9000-9499, 7 of 10000 (5.01%; sha1-60, salt 'm'), and requests that staff sent there"
    )
