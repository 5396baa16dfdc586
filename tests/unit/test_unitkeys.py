"""Units as they leave a worker: a hash under a secret, which the salt gives nobody."""

from hashlib import blake2s

from gateway.unitkeys import keyed, unit_text
from router.hashing import placer

KEY = b"k" * 32


def test_a_unit_is_hashed_as_rfc_7693_says():
    whole = blake2s(b"unit\0credit\0%016x" % (1 << 63 | 5), key=KEY, digest_size=8)
    assert unit_text(keyed(KEY, "credit")(1 << 63 | 5)) == whole.hexdigest()


def test_it_depends_on_key_model_and_unit_alone():
    ways = [keyed(KEY, "m"), keyed(KEY, "n"), keyed(bytes(32), "m")]
    found = [way(unit) for way in ways for unit in (1, 2)]
    assert len(set(found)) == 6
    assert [way(unit) for way in ways for unit in (1, 2)] == found


def test_all_64_bits_of_it_are_even():
    of, place = keyed(KEY, "m"), placer("sha1-60", "m")
    found = [of(place(b"user-%d" % user)[1]) for user in range(4_000)]
    # 64 bits, each a half: 5 standard deviations of 4,000 tosses are 158.
    assert all(abs(sum(unit >> bit & 1 for unit in found) - 2_000) < 158 for bit in range(64))


def test_the_text_is_16_digits():
    assert unit_text(255) == "00000000000000ff"
