"""Bodies of `POST /v1/feedback`, and the signed ids in them."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.feedback import LARGEST, MOST_ITEMS, facts_of, item_of, listed
from gateway.predictions import UNCOUNTED, ForgedId, read
from gateway.signing import Clock, Signer
from runtimes.errors import InvalidInput
from tests.ids import id_by

KEYS = {1: b"k" * 32, 2: b"n" * 32}
DIGEST = "sha256:" + "ab" * 32


def signed(
    variant: int = 0, unit: int = 7, stratum: int = 0, *, key: int = 1, revision: int = 3, time_s: int = 100
) -> str:
    signer = Signer(key, KEYS[key], revision, [DIGEST, DIGEST], clock=Clock(time_s), sequence=5)
    return id_by(signer, variant, unit, stratum)


@given(
    st.integers(0, 1), st.integers(0, 2**64 - 1), st.integers(0, 127), st.integers(1, 2**32 - 1),
    st.sampled_from([1, 2]),
)  # fmt: skip
def test_an_id_says_what_was_signed(variant, unit, stratum, revision, key):
    found = read(signed(variant, unit, stratum, key=key, revision=revision), KEYS)
    assert (found.variant, found.unit, found.stratum, found.revision) == (variant, unit, stratum, revision)
    assert (found.digest, found.time_s, found.sequence, found.row) == ("abababab", 100, 6, None)


def test_an_id_of_what_was_not_randomised_says_so():
    assert read(signed(stratum=UNCOUNTED), KEYS).stratum is None


@given(st.integers(0, 51), st.sampled_from("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"))
def test_an_id_with_another_character_is_forged(at, character):
    text = signed()
    changed = text[:at] + character + text[at + 1 :]
    if changed == text:
        return
    with pytest.raises(ForgedId):
        read(changed, KEYS)
    assert facts_of(item_of({"prediction_id": changed, "label": 1}), KEYS) is None


@pytest.mark.parametrize("text", ["", "x", "A" * 56, signed() + "/", signed() + "/x", signed() + "/1000000", "é" * 56])
def test_other_texts_are_forged(text):
    with pytest.raises(ForgedId):
        read(text, KEYS)


def test_a_key_that_is_not_valid_any_more_signs_nothing():
    with pytest.raises(ForgedId):
        read(signed(key=2), {1: KEYS[1]})


def test_a_row_of_a_larger_request():
    facts = facts_of(item_of({"prediction_id": signed() + "/12", "reward": {"paid": 1}, "label": "NO"}), KEYS)
    assert facts is not None
    assert (facts["row"], facts["id"]) == (12, signed())
    assert facts["slots"] == {"reward.paid": 1.0, "label": "NO"}


BAD: list[tuple[Any, str]] = [
    (3, "expected an object or a list"),
    ([], "1 to 1,000 items, got 0"),
    ([{}] * (MOST_ITEMS + 1), "1 to 1,000 items"),
    ([{"prediction_id": "x", "label": 1}, 7], "[1]: expected an object"),
    ({"label": 1}, "prediction_id: expected"),
    ({"prediction_id": 5, "label": 1}, "prediction_id: expected"),
    ({"prediction_id": "x" * 161, "label": 1}, "prediction_id: expected"),
    ({"prediction_id": "x"}, "the item: expected reward, label or both"),
    ([{"prediction_id": "x", "label": None}], "[0]: expected reward, label or both"),
    ({"prediction_id": "x", "reward": {}}, "reward: expected an object of 1 to 16"),
    ({"prediction_id": "x", "reward": 1}, "reward: expected an object"),
    ([{"prediction_id": "x", "reward": {"a b": 1}}], "[0].reward.a b: expected a name"),
    ({"prediction_id": "x", "reward": {"a\n": 1}}, "expected a name"),
    ({"prediction_id": "x", "reward": {"a": True}}, "reward.a: expected a number, got True"),
    ({"prediction_id": "x", "reward": {"a": "1"}}, "reward.a: expected a number"),
    ({"prediction_id": "x", "reward": {"a": float("inf")}}, "reward.a: expected a finite number"),
    ({"prediction_id": "x", "reward": {"a": float("nan")}}, "reward.a: expected a finite number"),
    ({"prediction_id": "x", "reward": {"a": 10**400}}, "reward.a: expected a finite number"),
    ({"prediction_id": "x", "reward": {"a": LARGEST * 2}}, "within 1e+12"),
    ({"prediction_id": "x", "label": [1]}, "label: expected text"),
    ({"prediction_id": "x", "label": "y" * 257}, "label: expected at most 256"),
    ({"prediction_id": "x", "label": 2**60}, "label: expected a whole number within 2^53"),
    ({"prediction_id": "x", "label": float("nan")}, "label: expected a finite number"),
    ({"prediction_id": "x", "label": 1, "timestamp": "yesterday"}, "timestamp: expected RFC 3339"),
    ({"prediction_id": "x", "label": 1, "timestamp": "2026-01-01T00:00:00"}, "timestamp: expected RFC 3339"),
    ({"prediction_id": "x", "label": 1, "timestamp": 1767225600000}, "timestamp: expected a time from 1970"),
    ({"prediction_id": "x", "label": 1, "timestamp": "0001-01-01T00:00:00Z"}, "timestamp: expected a time from 1970"),
    ({"prediction_id": "x", "label": 1, "timestamp": "9999-12-31T00:00:00Z"}, "timestamp: expected a time from 1970"),
    ({"prediction_id": "x", "label": 1, "model": 3}, "model: expected"),
    ({"prediction_id": "x", "label": 1, "lable": 1}, "lable: unknown field"),
]


@pytest.mark.parametrize(("body", "says"), BAD)
def test_a_malformed_body_is_refused_with_the_place(body, says):
    with pytest.raises(InvalidInput) as caught:
        [item_of(value, path) for path, value in listed(body)]
    assert says in caught.value.message


@pytest.mark.parametrize("label", ["", "good", 0, 1, -3, 0.25, True, False])
def test_labels_are_kept_as_they_are(label):
    found = item_of({"prediction_id": "x", "label": label}).slots()["label"]
    assert found == label
    assert type(found) is type(label)


@pytest.mark.parametrize(
    "time",
    [1767225600, 1767225600.0, "2026-01-01T00:00:00Z", "2026-01-01T01:00:00+01:00", "2026-01-01t00:00:00.000z"],
)
def test_times(time):
    assert item_of({"prediction_id": "x", "label": 1, "timestamp": time}).timestamp_s == 1767225600.0
