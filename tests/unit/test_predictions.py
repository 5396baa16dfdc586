"""Prediction ids: what is signed is read back, and nothing else is."""

import base64
import hashlib
import struct
from collections.abc import Sequence
from typing import Any, cast

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC
from hypothesis import given
from hypothesis import strategies as st

from gateway.exchange import Exchange, Placed
from gateway.predictions import (
    ID_CHARS,
    MOST_CHARS,
    MOST_GROUPS,
    NO_MARK,
    NO_POLICY,
    TOLD_ROWS,
    UNCOUNTED,
    ForgedId,
    mark,
    mark_of_rows,
    read,
)
from gateway.predictions import signed as signed_bits
from gateway.signing import Clock, Signer
from gateway.tally import Tally, place_of
from tests.ids import id_by

KEYS = {1: b"k" * 32, 2: b"n" * 32}
DIGESTS = ["sha256:" + "ab" * 32, "sha256:" + "0123456789" * 6 + "0123"]


def signed(key: int = 1, variant: int = 0, unit: int = 7, revision: int = 41, sequence: int = 5) -> str:
    signer = Signer(key, KEYS[key], revision, DIGESTS, clock=Clock(1_800_000_000), sequence=sequence)
    return id_by(signer, variant, unit)


def signed_rows(rows: Sequence[tuple[int, int] | None], group: int = 0) -> str:
    """Of a request whose rows have these score bins and decisions; None = not known."""
    signer = Signer(1, KEYS[1], 41, DIGESTS, clock=Clock(1_800_000_000), sequence=5)
    marked = mark_of_rows([NO_MARK if row is None else mark(*row, 0) for row in rows]) | group << 2
    return id_by(signer, 1, 7, 2, marked)


ROWS = st.lists(st.none() | st.tuples(st.integers(0, 249), st.integers(0, 1)), min_size=2, max_size=TOLD_ROWS)


@given(st.integers(0, 1), st.integers(0, 2**64 - 1), st.integers(1, 2**32 - 1), st.sampled_from([1, 2]))
def test_what_was_signed_is_read_back(variant: int, unit: int, revision: int, key: int) -> None:
    found = read(signed(key, variant, unit, revision), KEYS)
    assert (found.variant, found.unit, found.revision) == (variant, unit, revision)
    assert found.digest == DIGESTS[variant].removeprefix("sha256:")[:8]
    assert (found.time_s, found.sequence) == (1_800_000_000, 6)
    assert (found.score_bin, found.decision, found.group, found.row) == (None, None, None, None)


@given(st.integers(0, 249), st.integers(0, 1), st.integers(0, MOST_GROUPS - 1))
def test_the_mark_of_a_score_is_read_back(score_bin: int, decision: int, group: int) -> None:
    signer = Signer(1, KEYS[1], 3, DIGESTS, clock=Clock(1_800_000_000), sequence=5)
    text = id_by(signer, 1, 7, 2, mark(score_bin, decision, group))
    found = read(text, KEYS)
    assert (found.score_bin, found.decision, found.group, found.stratum) == (score_bin, decision, group, 2)


def test_without_a_policy_there_is_no_variant() -> None:
    assert read(signed(revision=0), KEYS).variant == NO_POLICY


def test_a_key_is_of_one_length() -> None:
    for size in (31, 33):
        with pytest.raises(AssertionError):
            Signer(1, b"k" * size, 1, DIGESTS, clock=Clock(1), sequence=0)


@pytest.mark.parametrize(
    "old",
    [
        "AQEBI0VnAAAAKQFrSdIAAgAABgAAAAAAAAAHfQ0gzfbj2Id-LTh1",
        "AwEBI0VnAAAAKQFrSdIAAgAABgAAAAAAAAAHfQ1ffvw7a_6vuzlV",
        "BAEBI0VnAAAAKQFrSdIAAgAABgAAAAAAAAAH_w_sLlbbaY4bm3r9BH0E__kJ",
    ],
)
def test_ids_of_earlier_layouts_are_not_valid_any_more(old: str) -> None:
    with pytest.raises(ForgedId, match=r"version|56 characters"):
        read(old, KEYS)


def test_ids_of_one_signer_differ() -> None:
    signer = Signer(1, KEYS[1], 1, DIGESTS, clock=Clock(1), sequence=2**47 - 2)
    assert len({id_by(signer, 0, 7) for _ in range(1000)}) == 1000


@given(st.integers(0, ID_CHARS - 1), st.characters(codec="ascii", categories=("Lu", "Ll", "Nd")))
def test_any_other_character_anywhere_is_noticed(at: int, character: str) -> None:
    good = signed()
    changed = good[:at] + character + good[at + 1 :]
    if changed != good:
        with pytest.raises(ForgedId):
            read(changed, KEYS)


@pytest.mark.parametrize(
    "text", ["", "x", "a" * 56, "a" * 5000, signed() + "=", signed()[:-1], "ü" * 56, signed() + "/"]
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


# ---- requests of several rows ----


@given(ROWS, st.integers(0, MOST_GROUPS - 1))
def test_each_row_of_a_larger_request_is_read_back(rows: list[tuple[int, int] | None], group: int) -> None:
    text = signed_rows(rows, group)
    for at, row in enumerate(rows):
        found = read(f"{text}/{at}", KEYS)
        assert ((found.score_bin, found.decision), found.group, found.row) == (row or (None, None), group, at)
        assert (found.id, found.unit, found.stratum, found.variant) == (text[:ID_CHARS], 7, 2, 1)
    whole = read(text, KEYS)
    assert (whole.score_bin, whole.decision, whole.group, whole.row) == (None, None, group, None)


def test_an_id_is_never_longer_than_feedback_takes() -> None:
    sizes = [len(signed_rows([(1, 1)] * rows)) for rows in range(2, TOLD_ROWS + 1)]
    assert sizes == sorted(sizes)
    assert (sizes[0], sizes[6], sizes[-1]) == (64, 72, 156)
    assert sizes[-1] + len("/63") <= MOST_CHARS


@given(ROWS, st.data())
def test_any_other_bit_of_a_larger_id_is_noticed(rows: list[tuple[int, int] | None], data: st.DataObject) -> None:
    raw = bytearray(base64.urlsafe_b64decode(signed_rows(rows)))
    bit = data.draw(st.integers(0, 8 * len(raw) - 1))
    raw[bit // 8] ^= 1 << bit % 8
    with pytest.raises(ForgedId):
        read(base64.urlsafe_b64encode(raw).decode() + "/0", KEYS)


def test_a_tail_belongs_to_its_id() -> None:
    two, other, one = signed_rows([(1, 1), (2, 0)]), signed_rows([(1, 1), (2, 1)]), signed()
    for text in (two[:ID_CHARS], two[:-4], two + "AAAA", two[:ID_CHARS] + other[ID_CHARS:], one + two[ID_CHARS:]):
        for row in ("", "/0"):
            with pytest.raises(ForgedId):
                read(text + row, KEYS)


def test_base64_has_one_form() -> None:
    """The text is the key of the ledger: with a second one, a label would count twice."""
    texts = [signed_rows([(k, 1), (255 - k, 0)]) for k in range(6, 60)]
    dashed = [text for text in texts if "-" in text]
    assert dashed
    for text in dashed:
        with pytest.raises(ForgedId):
            read(text.replace("-", "+"), KEYS)
    with pytest.raises(ForgedId):
        read(texts[0][:-1] + "=", KEYS)


def test_a_row_that_the_request_did_not_have() -> None:
    text = signed_rows([(1, 1), (2, 0), (3, 0)])
    assert read(text + "/2", KEYS).score_bin == 3
    with pytest.raises(ForgedId, match="3 rows"):
        read(text + "/3", KEYS)


def test_the_only_row_is_the_request() -> None:
    signer = Signer(1, KEYS[1], 3, DIGESTS, clock=Clock(1_800_000_000), sequence=5)
    text = id_by(signer, 1, 7, 2, mark(125, 1, 3))
    assert read(text + "/0", KEYS) == read(text, KEYS)
    with pytest.raises(ForgedId, match="one row"):
        read(text + "/1", KEYS)


def by_the_page(body: bytes, tail: bytes = b"") -> str:
    """An id as the module's docstring says, by other code: the CBC mode of the cipher, whose last block is the MAC."""
    if tail:
        mac = hashlib.blake2s(KEYS[1] + body + tail, digest_size=10).digest()
    else:
        own = hashlib.blake2s(key=KEYS[1], person=b"pred-id").digest()
        mac = Cipher(AES(own), CBC(bytes(16))).encryptor().update(body)[16:26]
    return base64.urlsafe_b64encode(body + mac + tail).decode()


def test_vectors() -> None:
    """Ids live for 90 days with the callers: these bytes do not change within a version."""
    signer = Signer(1, KEYS[1], 41, DIGESTS, clock=Clock(1_800_000_000), sequence=5)
    one = id_by(signer, 1, 7, 2, mark(125, 1, 3))
    body = struct.pack(">BB4sIBIBQIH", 5, 1, bytes.fromhex("01234567"), 41, 1, 1_800_000_000, 2, 7, 0, 6)
    assert one == by_the_page(body + bytes([125, 3 << 2 | 1]))
    assert one == "BQEBI0VnAAAAKQFrSdIAAgAAAAAAAAAHAAAAAAAGfQ1j8R3JaJecTbAU"
    # Rows: 125 and 1, 4 and 0, not known, 249 and 1.
    four = signed_rows([(125, 1), (4, 0), None, (249, 1)], 3)
    assert four == by_the_page(b"\6" + body[1:] + bytes([255, 3 << 2 | 3]), bytes([4, 125, 4, 255, 249, 0b1001]))
    assert four == "BgEBI0VnAAAAKQFrSdIAAgAAAAAAAAAHAAAAAAAG_w--MMMCJlY-76Y_BH0E__kJ"


# ---- batches ----

JOBS = st.lists(
    st.tuples(
        st.integers(0, 1),
        st.integers(0, 2**64 - 1),
        st.sampled_from([0, 1, 127, UNCOUNTED]),
        st.sampled_from([NO_MARK, mark(0, 0, 0), mark(249, 1, 62), mark_of_rows([mark(9, 1, 0)] * 3)]),
        st.integers(0, 1),
    ),
    max_size=40,
)


@given(JOBS, st.integers(0, 2**47 - 1))
def test_each_of_a_batch_is_named_as_it_would_be_alone(wanted: list[tuple[int, ...]], sequence: int) -> None:
    """Whatever variant, stratum, second and rows its neighbours have."""
    clock, other = Clock(1_800_000_000), Clock(1_800_000_000)
    together = Signer(1, KEYS[1], 41, DIGESTS, clock=clock, sequence=sequence)
    alone = Signer(1, KEYS[1], 41, DIGESTS, clock=other, sequence=sequence)
    jobs = [Exchange() for _ in wanted]
    expected = []
    for job, (variant, unit, stratum, marked, later) in zip(jobs, wanted, strict=True):
        clock.seconds += later
        other.seconds += later
        together.add(job, variant, signed_bits(unit), stratum, marked)
        expected.append(id_by(alone, variant, unit, stratum, marked))
    together.sign()
    assert [job.prediction.decode() for job in jobs] == expected
    for text, (variant, unit, stratum, _, _) in zip(expected, wanted, strict=True):
        found = read(text, KEYS)
        assert (found.variant, found.unit) == (variant, unit)
        assert found.stratum == (None if stratum == UNCOUNTED else stratum)
    assert len(set(expected)) == len(expected)


def test_a_batch_is_signed_once() -> None:
    signer = Signer(1, KEYS[1], 41, DIGESTS, clock=Clock(1_800_000_000), sequence=5)
    first, second = Exchange(), Exchange()
    signer.add(first, 0, 7, 0, NO_MARK)
    signer.sign()
    was = first.prediction
    signer.add(second, 0, 7, 0, NO_MARK)
    signer.sign()
    signer.sign()
    assert (first.prediction, read(second.prediction.decode(), KEYS).sequence) == (was, 7)


def test_what_no_policy_decided_is_named_after_the_worker() -> None:
    origin, jobs = 2**64 - 3, [Exchange(), Exchange()]
    signer = Signer(1, KEYS[1], 0, DIGESTS[:1], clock=Clock(1_800_000_000), sequence=5, origin=origin)
    signer.name(jobs, 0, [mark(9, 1, 0), NO_MARK])
    found = [read(job.prediction.decode(), KEYS) for job in jobs]
    assert [(one.unit, one.stratum, one.variant) for one in found] == [(origin, None, NO_POLICY)] * 2
    assert [(one.sequence, one.score_bin) for one in found] == [(6, 9), (7, None)]


@pytest.mark.interpreted
def test_under_a_policy_what_it_did_not_place_has_no_name() -> None:
    placed = Placed(cast(Any, None), Tally(memoryview(b"")), place_of(1, 41, 2, 1), 7, False, False)
    jobs = [Exchange(), Exchange(), Exchange()]
    jobs[1].placed = placed
    Signer(1, KEYS[1], 41, DIGESTS, clock=Clock(1_800_000_000), sequence=5).name(jobs, 1, [NO_MARK] * 3)
    assert [bool(job.prediction) for job in jobs] == [False, True, False]
    found = read(jobs[1].prediction.decode(), KEYS)
    assert (found.unit, found.stratum, found.variant) == (7, 2, 1)


@pytest.mark.interpreted
def test_a_batch_that_cannot_be_named_costs_the_next_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    signer = Signer(1, KEYS[1], 41, DIGESTS, clock=Clock(1_800_000_000), sequence=5)
    id_by(signer, 0, 7)
    first, second = Exchange(), Exchange()

    def full(_: bytes) -> bytes:
        raise MemoryError

    with monkeypatch.context() as broken:
        broken.setattr(signer, "_encrypt", full)
        signer.add(first, 0, 7, UNCOUNTED, NO_MARK)
        with pytest.raises(MemoryError):
            signer.sign()
    signer.add(second, 0, 7, UNCOUNTED, NO_MARK)
    signer.sign()
    assert (first.prediction, read(second.prediction.decode(), KEYS).sequence) == (b"", 8)


def test_parts_of_two_ids_are_no_third() -> None:
    """Both blocks are under the MAC, and in their order."""
    signer = Signer(1, KEYS[1], 41, DIGESTS, clock=Clock(1_800_000_000), sequence=5)
    one, two = (base64.urlsafe_b64decode(id_by(signer, variant, 7 + variant)) for variant in (0, 1))
    for forged in (one[:16] + two[16:], one[:32] + two[32:], one[16:32] + one[:16] + one[32:]):
        with pytest.raises(ForgedId):
            read(base64.urlsafe_b64encode(forged).decode(), KEYS)
