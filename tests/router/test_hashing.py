"""Units get the slots that other products give them: published vectors, and what our own hash promises."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router import hashing
from router.document import PolicyError
from router.hashing import HASHES, SLOTS, murmur3, placer, u60, unleash_number
from tests.router.documents import read

# Each block names where the numbers were published, and their licence.

# Austin Appleby's reference implementation, public domain.
MURMUR3 = [(b"", 0, 0), (b"", 1, 0x514E28B7), (b"hello", 0, 0x248BFA47)]

# launchdarkly/python-server-sdk: ldclient/testing/impl/test_evaluator_bucketing.py (Apache-2.0), to 1e-6.
# Salt = "<flag key>.<salt>" or the seed.
LAUNCHDARKLY = [
    ("hashKey.saltyA", "userKeyA", 0.42157587),
    ("hashKey.saltyA", "userKeyB", 0.6708485),
    ("hashKey.saltyA", "userKeyC", 0.10343106),
    ("61", "userKeyA", 0.09801207),
    ("61", "userKeyB", 0.14483777),
    ("61", "userKeyC", 0.9242641),
    ("hashKey.saltyA", "33333", 0.54771423),
]

# growthbook/growthbook-python: tests/cases.json, "hash", version 2 (MIT).
GROWTHBOOK = [
    ("seed", "a", 0.0505),
    ("seed", "b", 0.2696),
    ("foo", "ab", 0.2575),
    ("foo", "def", 0.2019),
    ("89123klj", "8952klfjas09ujkasdf", 0.124),
    ("90850943850283058242805", "123", 0.7516),
    ("()**(%$##$%#$#", '___)((*":&', 0.0128),
]
# The same file, version 1: fnv32a(value + seed) % 1000. It checks our FNV-1a.
GROWTHBOOK_V1 = [
    ("", "a", 220),
    ("", "b", 77),
    ("b", "a", 946),
    ("ef", "d", 652),
    ("asdf", "8952klfjas09ujk", 549),
    ("", "123", 11),
    ("", '___)((*":&', 563),
]

# optimizely/python-sdk: tests/test_bucketing.py (Apache-2.0). Salt = the parent's id.
OPTIMIZELY = [
    ("1886780721", "ppid1", 5254),
    ("1886780721", "ppid2", 4299),
    ("1886780722", "ppid2", 2434),
    ("1886780721", "ppid3", 5439),
]

# Unleash/unleash-client-node: src/test/strategy/util.test.ts, and client-specification 03 (Apache-2.0).
UNLEASH = [("gr1", "123", 73), ("groupX", "999", 25), ("AB12A", "122", 23), ("AB12A", "155", 100)]
# client-specification 08, Feature.Variants.C: three variants of weight 33, seed for variants.
UNLEASH_VARIANTS = [("232", 18), ("607", 58), ("656", 94)]

# open-feature/flagd-testbed: evaluator/gherkin/fractional.feature (Apache-2.0). Cards in order, 25 each.
CARDS = ("clubs", "diamonds", "hearts", "spades")
FLAGD = [("jack", "hearts"), ("queen", "spades"), ("ten", "clubs"), ("nine", "diamonds"), ("3", "clubs")]

# facebook/planout: python/planout/test/test_assignment.py (BSD-3-Clause); the same 60 bits as LaunchDarkly's.
PLANOUT = [("foo", 2, 1), ("bar", 2, 0), ("baz", 2, 0), ("foo", 8, 7)]


def slot(name: str, salt: str, unit: str) -> int:
    return placer(name, salt)(unit.encode())[0]


@pytest.mark.parametrize(("data", "seed", "expected"), MURMUR3)
def test_murmur3(data: bytes, seed: int, expected: int) -> None:
    assert murmur3(data, seed) == expected


@pytest.mark.parametrize(("salt", "unit", "expected"), LAUNCHDARKLY)
def test_launchdarkly(salt: str, unit: str, expected: float) -> None:
    assert u60(salt.encode(), unit.encode()) / (2**60 - 1) == pytest.approx(expected, abs=1e-6)
    assert slot("launchdarkly", salt, unit) == int(expected * SLOTS)


@pytest.mark.parametrize(("name", "choices", "expected"), PLANOUT)
def test_planout(name: str, choices: int, expected: int) -> None:
    assert u60(f"test_salt.{name}".encode(), b"4") % choices == expected


@pytest.mark.parametrize(("seed", "unit", "expected"), GROWTHBOOK)
def test_growthbook(seed: str, unit: str, expected: float) -> None:
    assert slot("growthbook-v2", seed, unit) == round(expected * SLOTS)


@pytest.mark.parametrize(("seed", "unit", "expected"), GROWTHBOOK_V1)
def test_fnv(seed: str, unit: str, expected: int) -> None:
    assert hashing.fnv32a((unit + seed).encode()) % 1000 == expected


def test_growthbook_hashes_utf16_as_its_sdk_for_browsers_does() -> None:
    # One code unit 0xE9, not the two bytes of UTF-8.
    inner = hashing.fnv32a([ord("s"), 0xE9])
    assert slot("growthbook-v2", "s", "\u00e9") == hashing.fnv32a(str(inner).encode()) % 10_000
    assert 0 <= placer("growthbook-v2", "s")(b"\xff\xfe")[0] < SLOTS


@pytest.mark.parametrize(("parent", "unit", "expected"), OPTIMIZELY)
def test_optimizely(parent: str, unit: str, expected: int) -> None:
    assert slot("optimizely", parent, unit) == expected


@pytest.mark.parametrize(("group", "unit", "expected"), UNLEASH)
def test_unleash(group: str, unit: str, expected: int) -> None:
    assert unleash_number(group.encode(), unit.encode()) == expected
    # The first p % of the slots are the users whom Unleash counts among p %.
    assert slot("unleash", group, unit) // 100 + 1 == expected


@pytest.mark.parametrize(("unit", "expected"), UNLEASH_VARIANTS)
def test_unleash_variants(unit: str, expected: int) -> None:
    assert unleash_number(b"Feature.Variants.C", unit.encode(), 99, seed=86028157) == expected


@pytest.mark.parametrize(("unit", "card"), FLAGD)
def test_flagd(unit: str, card: str) -> None:
    assert CARDS[slot("flagd-v2", "fractional-flag", unit) // 2500] == card


@pytest.mark.parametrize(("unit", "side"), [("jon@company.com", 0), ("jane@company.com", 1)])
def test_flagd_shorthand(unit: str, side: int) -> None:
    assert slot("flagd-v2", "fractional-flag-shorthand", unit) // 5000 == side


@pytest.mark.parametrize("name", ["growthbook-v99", "growthbook", "growthbook-v1", ""])
def test_an_unknown_version_of_a_hash_is_refused_and_never_guessed(name: str) -> None:
    """Of GrowthBook's vectors: version 99 gives null, no variant."""
    with pytest.raises(PolicyError, match=r"spec\.unit\.hash: expected one of sha1-60, growthbook-v2"):
        read(unit={"from": [{"header": "x-user-id"}], "hash": name})
    with pytest.raises(KeyError):
        placer(name, "seed")


@given(st.sampled_from(sorted(HASHES)), st.text(max_size=40), st.binary(max_size=200))
def test_every_hash_is_total_and_the_same_each_time(name: str, salt: str, unit: bytes) -> None:
    salt = salt.encode("utf-8", "replace").decode()
    place = placer(name, salt)
    assert place(unit) == placer(name, salt)(unit)
    assert place(unit)[0] == HASHES[name](salt.encode(), unit)
    assert place(unit)[1] == hashing.unit_hash(salt.encode(), unit)
    assert 0 <= place(unit)[0] < SLOTS


@pytest.mark.parametrize("divisor", [hashing.SHA1_60, hashing.LAUNCHDARKLY])
def test_the_largest_hash_has_a_slot(divisor: int) -> None:
    # LaunchDarkly's divisor gives exactly 1.0 for it, where naive tables end.
    assert hashing.slot_of(2**60 - 1, divisor) == SLOTS - 1
    assert hashing.slot_of(0, divisor) == 0


def chi_square(counts: list[int]) -> float:
    expected = sum(counts) / len(counts)
    return sum((count - expected) ** 2 / expected for count in counts)


@pytest.mark.parametrize("name", sorted(HASHES))
def test_slots_are_even(name: str) -> None:
    place = placer(name, "even")
    counts = [0] * 20
    for unit in range(20_000):
        counts[place(b"user-%d" % unit)[0] // 500] += 1
    # 19 degrees of freedom: above 60 happens once in 300,000 fair draws; the draw is fixed.
    assert chi_square(counts) < 60


def test_what_evidence_is_thinned_by_is_independent_of_the_slot() -> None:
    place = placer("sha1-60", "evidence")
    placed = [place(b"user-%d" % unit) for unit in range(40_000)]
    for bit in (hashing.in_sample, lambda unit: hashing.shadow_slot(unit) < 2500, lambda unit: not unit & 7):
        chosen = [slot for slot, unit in placed if bit(unit)]
        counts = [0] * 10
        for one in chosen:
            counts[one // 1000] += 1
        assert chi_square(counts) < 40
    sampled = sum(hashing.in_sample(unit) for _, unit in placed)
    assert abs(sampled - 40_000 / 64) < 5 * (40_000 / 64) ** 0.5
    assert all(0 <= hashing.evidence_index(unit) < 2**20 for _, unit in placed)


def test_a_doubling_keeps_half_of_the_sample() -> None:
    units = [hashing.unit_hash(b"s", b"%d" % unit) for unit in range(4000)]
    kept = [{unit for unit in units if hashing.in_sample(unit, doublings)} for doublings in range(5)]
    assert kept[0] == set(units)
    for wider, narrower in itertools.pairwise(kept):
        assert narrower < wider
        assert abs(len(narrower) - len(wider) / 2) < 5 * (len(wider) / 4) ** 0.5
