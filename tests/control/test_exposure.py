"""Whom a rollout has shown its canary: exactly the slots that it ever had."""

import hashlib

import pytest

from gateway.control.exposure import MOST, Exposure, described, in_words, members, widened
from router import slots as tables
from tests.router.documents import read

TENTH = tables.fresh([9_000, 1_000])


@pytest.fixture
def shown() -> tuple[Exposure, ...]:
    """5 %, then 10 % of the users, then none."""
    wanted = read()
    owned = tables.Ownership.first([10_000, 0])
    found: tuple[Exposure, ...] = ()
    for slots in (500, 1_000, 0):
        owned = owned.weighted(1, 0, slots) if slots else owned.without(1, 0)
        found = widened(found, "one", wanted, owned.owner, 1)
    return found


def test_the_largest_share_counts_also_after_it_was_taken_back(shown: tuple[Exposure, ...]) -> None:
    (found,) = described(shown, "one", read())
    assert found["share"] == 0.1
    assert found["unit"] == "header x-user-id"


def test_another_canary_begins_anew(shown: tuple[Exposure, ...]) -> None:
    (found,) = widened(shown, "two", read(), TENTH, 1)
    assert (found.digest, found.slots) == ("two", ((9_000, 9_999),))
    assert described(shown, "two", read()) == []


def test_who_was_shown_it_under_another_hash_stays_known(shown: tuple[Exposure, ...]) -> None:
    unit = {"from": [{"header": "x-user-id"}, {"cookie": "sid"}], "salt": "s", "hash": "flagd-v2"}
    edited = read(unit=unit)
    found = described(widened(shown, "one", edited, TENTH, 1), "one", edited)
    assert [(one["hash"], one["unit"]) for one in found] == [
        ("sha1-60", "header x-user-id"),
        ("flagd-v2", "header x-user-id, else cookie sid"),
    ]
    users = [f"user-{number}" for number in range(3_000)]
    assert set(members(found, users)) == set(members(found[:1], users)) | set(members(found[1:], users))
    for number in range(2 * MOST):
        shown = widened(shown, "one", read(unit={**unit, "salt": f"s{number}"}), TENTH, 1)
    assert len(shown) == MOST


def test_without_a_unit_requests_are_drawn_by_their_id() -> None:
    wanted = read(unit=None)
    (found,) = described(widened((), "one", wanted, TENTH, 1), "one", wanted)
    assert found["unit"] == "x-request-id"


def test_users_are_told_by_the_published_hash(shown: tuple[Exposure, ...]) -> None:
    (found,) = described(shown, "one", read())
    users = [f"user-{number}" for number in range(5_000)]
    inside = set(members([found], users))
    for user in users:
        digest = hashlib.sha1(f"{found['salt']}.{user}".encode()).hexdigest()
        slot = (int(digest[:15], 16) * 10_000) >> 60
        assert (user in inside) == any(first <= slot <= last for first, last in found["slots"])
    assert 400 < len(inside) < 600


def test_what_is_said_of_it() -> None:
    found = {
        "unit": "header x-user-id", "hash": "sha1-60", "salt": "m", "of": 10_000, "share": 0.0501,
        "slots": [[9_000, 9_499], [7, 7]], "rules": ["staff"],
    }  # fmt: skip
    assert in_words(found) == (
        "units (header x-user-id) of the slots 9000-9499, 7 of 10000 (5.01%; sha1-60, salt 'm'), and requests that "
        "staff sent there"
    )
