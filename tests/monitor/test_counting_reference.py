"""reference.npz: what is written is read, what is damaged or of another model is refused."""

import io
import re
import zipfile
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.monitor.plan import CountPlan
from gateway.monitor.reference import (
    MAX_BYTES,
    Reference,
    ReferenceRefused,
    dumped,
    identified,
    loaded,
    refuse_other_signature,
    without_score,
)
from tests.monitor.counting_models import DIGEST, fitted, signature, spec, texts


def made() -> Reference:
    rng = np.random.default_rng(0)
    rows = 3000
    return fitted(
        {"x": rng.normal(size=rows), "word": texts(rng.choice(list("abc"), rows)), "flag": rng.random(rows) < 0.1},
        rng.random(rows),
        rng.integers(0, 2, rows),
        groups=("f", "m"),
        indices=rng.integers(0, 3, rows),
    ).reference


REFERENCE = made()
CONTENT = dumped(REFERENCE)


def test_what_is_written_is_read_and_equal_references_give_equal_bytes() -> None:
    found = loaded(CONTENT)
    assert found.plan == REFERENCE.plan
    assert found.binding == REFERENCE.binding
    assert np.array_equal(found.counts, REFERENCE.counts)
    assert found.labels is not None
    assert REFERENCE.labels is not None
    assert np.array_equal(found.labels, REFERENCE.labels)
    assert (found.overdispersion, found.score_overdispersion) == (
        REFERENCE.overdispersion,
        REFERENCE.score_overdispersion,
    )
    assert dumped(found) == CONTENT == dumped(made())


def test_the_archive_opens_without_pickle_and_is_small() -> None:
    with np.load(io.BytesIO(CONTENT), allow_pickle=False) as arrays:
        assert set(arrays.files) == {"format", "about", "counts", "labels", "multivariate"}
    assert len(CONTENT) < 40_000


@given(st.binary(max_size=200))
def test_no_bytes_but_its_own_are_a_reference(content: bytes) -> None:
    with pytest.raises(ReferenceRefused):
        loaded(content)


@given(st.integers(0, len(CONTENT) - 1), st.integers(1, 255))
def test_a_damaged_file_is_refused_or_reads_as_it_was(at: int, flip: int) -> None:
    damaged = bytearray(CONTENT)
    damaged[at] ^= flip
    try:
        found = loaded(bytes(damaged))
    except ReferenceRefused:
        return
    # A byte that no content depends on: a time in the archive, say.
    assert found.id == REFERENCE.id
    assert np.array_equal(found.counts, REFERENCE.counts)


def archive(**arrays: object) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def test_other_archives_are_refused_by_name() -> None:
    with np.load(io.BytesIO(CONTENT), allow_pickle=False) as arrays:
        parts = dict(arrays)
    cases = [
        (archive(x=np.zeros(3)), "no format number"),
        (archive(**{**parts, "format": np.int64(2)}), "expected format 1, got 2"),
        (archive(**{**parts, "counts": parts["counts"][1:]}), "expected counts as int64"),
        (archive(**{**parts, "counts": parts["counts"].astype(float)}), "expected counts as int64"),
        (archive(**{**parts, "counts": -parts["counts"]}), "counts below 0"),
        (archive(**{**parts, "counts": parts["counts"] + 1}), "does not give its id"),
        (archive(**{**parts, "about": np.zeros(3, np.uint8)}), "damaged"),
        (archive(**{name: array for name, array in parts.items() if name != "about"}), "is missing"),
        (archive(**{**parts, "x": np.array([{}], object)}), "without pickled objects"),
        (archive(**{**parts, "x": np.zeros(MAX_BYTES // 8 + 1)}), "expected at most"),
    ]
    for content, message in cases:
        with pytest.raises(ReferenceRefused, match=message):
            loaded(content)


def test_a_plan_that_cannot_be_is_refused_although_its_id_is_right() -> None:
    plan = REFERENCE.plan
    x, word = plan.features[0], plan.features[1]
    score = plan.score
    assert score is not None
    changes: list[tuple[CountPlan, str]] = [
        (_with(plan, msgspec.structs.replace(x, edges=x.edges[::-1])), "ascending edges"),
        (_with(plan, msgspec.structs.replace(x, input=3)), "an input that the model does not have"),
        (_with(plan, msgspec.structs.replace(word, values=("a", "a", "b"))), "each once"),
        (_with(plan, msgspec.structs.replace(word, values=("a", 1.0))), "mixes text and numbers"),
        (_with(plan, msgspec.structs.replace(word, other=True)), "a bin for other categories, or none"),
        (msgspec.structs.replace(plan, score=msgspec.structs.replace(score, output=1)), "an output that the model"),
        (
            msgspec.structs.replace(plan, score=msgspec.structs.replace(score, calibration=((0.5, 0.9), (0.6, 0.1)))),
            "a calibration rises",
        ),
        (
            msgspec.structs.replace(plan, score=msgspec.structs.replace(score, calibration=((0.5, 0.1), (0.5, 0.2)))),
            "a calibration rises",
        ),
    ]
    for changed, message in changes:
        broken = replace(REFERENCE, plan=changed, counts=np.zeros(changed.size, np.int64), labels=None)
        with pytest.raises(ReferenceRefused, match=message):
            loaded(dumped(identified(broken)))


def _with(plan: CountPlan, first: object) -> CountPlan:
    return msgspec.structs.replace(plan, features=(first, *plan.features[1:]))


def test_a_reference_fits_its_model_and_names_what_differs_of_another() -> None:
    own = signature(spec("x"), spec("word", "BYTES"), spec("flag", "BOOL"))
    refuse_other_signature(REFERENCE, own, DIGEST)
    cases = [
        (signature(spec("x")), DIGEST, "expects the inputs x FP32[-1], word BYTES[-1], flag BOOL[-1]; the model has x"),
        (signature(spec("x", "FP64"), *own.inputs[1:]), DIGEST, "input 0 to be x FP32[-1]; the model has x FP64[-1]"),
        (signature(*own.inputs, output=spec("score", "FP32", 2)), DIGEST, "output 0 to be score FP32[-1, 1]; the"),
        (own, "cd" * 32, "sha256 abababababab..., this one has cdcdcdcdcdcd...; make one for it"),
    ]
    for other, digest, message in cases:
        with pytest.raises(ReferenceRefused, match=re.escape(message)):
            refuse_other_signature(REFERENCE, other, digest)
    refuse_other_signature(REFERENCE, own)


def test_counts_of_others_take_its_place_without_its_labels() -> None:
    other = REFERENCE.with_counts(REFERENCE.counts * 2, "champion")
    assert (other.rows, other.provisional, other.labels, other.phi(0)) == (6000, True, None, 1.0)
    assert other.id == REFERENCE.id


def test_without_its_score_the_features_are_the_same() -> None:
    found = without_score(REFERENCE)
    assert found.plan.features == REFERENCE.plan.features
    assert found.plan.size == len(found.counts) == REFERENCE.plan.score_at
    assert loaded(dumped(found)).id == found.id != REFERENCE.id


def test_a_bomb_is_not_unpacked() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("counts.npy", bytes(MAX_BYTES + 1))
    assert len(buffer.getvalue()) < MAX_BYTES // 100
    with pytest.raises(ReferenceRefused, match="expected at most"):
        loaded(buffer.getvalue())
