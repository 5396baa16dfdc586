"""Prediction ids: what is signed is read back, and nothing else is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.predictions import MOST_GROUPS, NO_POLICY, Clock, ForgedId, Signer, mark, read

KEYS = {1: b"k" * 32, 2: b"n" * 32}
DIGESTS = ["sha256:" + "ab" * 32, "sha256:" + "0123456789" * 6 + "0123"]


def signed(key: int = 1, variant: int = 0, unit: int = 7, revision: int = 41, sequence: int = 5) -> str:
    signer = Signer(key, KEYS[key], revision, DIGESTS, now_s=Clock(1_800_000_000), sequence=sequence)
    return signer.sign(variant, unit).partition(b"\r\n")[0].decode()


@given(st.integers(0, 1), st.integers(0, 2**64 - 1), st.integers(1, 2**32 - 1), st.sampled_from([1, 2]))
def test_what_was_signed_is_read_back(variant: int, unit: int, revision: int, key: int) -> None:
    found = read(signed(key, variant, unit, revision), KEYS)
    assert (found.variant, found.unit, found.revision) == (variant, unit, revision)
    assert found.digest == DIGESTS[variant].removeprefix("sha256:")[:8]
    assert (found.time_s, found.sequence) == (1_800_000_000, 6)
    assert (found.score_bin, found.decision, found.group, found.row) == (None, None, None, None)


@given(st.integers(0, 249), st.integers(0, 1), st.integers(0, MOST_GROUPS - 1))
def test_the_mark_of_a_score_is_read_back(score_bin: int, decision: int, group: int) -> None:
    signer = Signer(1, KEYS[1], 3, DIGESTS, now_s=Clock(1_800_000_000), sequence=5)
    text = signer.sign(1, 7, 2, mark(score_bin, decision, group)).partition(b"\r\n")[0].decode()
    found = read(text, KEYS)
    assert (found.score_bin, found.decision, found.group, found.stratum) == (score_bin, decision, group, 2)


def test_without_a_policy_there_is_no_variant() -> None:
    assert read(signed(revision=0), KEYS).variant == NO_POLICY


def test_ids_of_one_signer_differ() -> None:
    signer = Signer(1, KEYS[1], 1, DIGESTS, now_s=Clock(1), sequence=2**32 - 2)
    assert len({signer.sign(0, 7) for _ in range(1000)}) == 1000


@given(st.integers(0, 51), st.characters(codec="ascii", categories=("Lu", "Ll", "Nd")))
def test_any_other_character_anywhere_is_noticed(at: int, character: str) -> None:
    good = signed()
    changed = good[:at] + character + good[at + 1 :]
    if changed != good:
        with pytest.raises(ForgedId):
            read(changed, KEYS)


@pytest.mark.parametrize(
    "text", ["", "x", "a" * 52, "a" * 5000, signed() + "=", signed()[:-1], "ü" * 52, signed() + "/"]
)
def test_what_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(ForgedId):
        read(text, KEYS)


def test_a_row_of_a_larger_request() -> None:
    assert read(signed() + "/12", KEYS).row == 12
    for row in ("-1", "1.0", "01x", "99999999", "٣"):
        with pytest.raises(ForgedId, match="number"):
            read(f"{signed()}/{row}", KEYS)


def test_a_key_that_is_not_valid_any_more() -> None:
    with pytest.raises(ForgedId, match="not valid"):
        read(signed(key=2), {1: KEYS[1]})
    with pytest.raises(ForgedId, match="signature"):
        read(signed(key=2), {2: KEYS[1]})
