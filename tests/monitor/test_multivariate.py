"""Features together: found when each alone looks right, silent without a change, and nothing where nobody asks."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.monitor.comparing import quality_keys
from gateway.monitor.counting import Counter, empty, feature_counts
from gateway.monitor.explaining import explained
from gateway.monitor.fit import Rows, regrouped
from gateway.monitor.multivariate import MAX_COLUMNS
from gateway.monitor.plan import MULTIVARIATE, ROWS, FeaturePlan
from gateway.monitor.reference import Reference, ReferenceRefused, dumped, identified, loaded, without_score
from gateway.monitor.replaying import replay
from gateway.monitor.rowerrors import RowMatrix, scattered
from gateway.monitor.settings import PolicyError, Spec, parse, resolved, schema
from gateway.monitor.significance import homogeneity
from gateway.monitor.tap import Tap
from gateway.monitor.together import asked_for, with_multivariate
from runtimes.tensors import DATATYPES, Signature, TensorSpec
from tests.monitor.counting_models import fitted, texts

OLD = Path(__file__).parent / "data" / "reference-before-multivariate.npz"
HOUR_MS = 3_600_000


def spec_of(**spec: Any) -> Spec:
    return parse({"apiVersion": "tidegate/v1", "kind": "Monitor", "metadata": {"name": "m"}, "spec": spec}).spec


def tied(rng: np.random.Generator, rows: int, tie: float) -> dict[str, Any]:
    """Two normal numbers that are tied, a category that follows the first, a flag, and a number of its own."""
    first, noise = rng.standard_normal((2, rows))
    ups = np.where(rng.random(rows) < abs(tie), first, rng.standard_normal(rows)) > 0.5
    return {
        "first": first,
        "second": tie * first + math.sqrt(1.0 - tie**2) * noise,
        "word": texts(np.where(ups, "high", "low")),
        "flag": rng.random(rows) < 0.3,
        "own": rng.exponential(size=rows),
    }


def inputs_of(columns: dict[str, Any]) -> list[np.ndarray]:
    return [array.astype(np.float32) if array.dtype.kind == "f" else array for array in columns.values()]


REFERENCE = fitted(tied(np.random.default_rng(0), 10_000, 0.9)).reference


def replayed(spec: Spec, columns: dict[str, Any]) -> list[Any]:
    rows = len(columns["own"])
    times = np.arange(rows, dtype=np.int64) * (HOUR_MS // 1_000)
    return [one.result for one in replay(REFERENCE, spec, Rows(inputs_of(columns), [None]), times)]


# ---- what it sees ----


@pytest.mark.parametrize("asked", [True, {"sample": 0.3}])
def test_a_change_of_what_goes_together_alone_is_found_by_this_alone(asked: Any) -> None:
    columns = tied(np.random.default_rng(1), 5_000, 0.0)
    alone = replayed(spec_of(window={"rows": 1_000}), columns)
    together = replayed(spec_of(window={"rows": 1_000}, multivariate=asked), columns)
    assert len(alone) == len(together) == 5
    assert not any(result.firing for result in alone)
    assert [result.family("input").state for result in together] == ["pending", *["firing"] * 4]
    assert together[1].family("input").named == (MULTIVARIATE,)
    # Nothing but one more feature.
    for one, other in zip(alone, together, strict=True):
        assert one.features == other.features[:-1]
    assert other.features[-1].name == MULTIVARIATE


def test_what_goes_together_as_before_alarms_nobody() -> None:
    found = replayed(spec_of(window={"rows": 1_000}, multivariate=True), tied(np.random.default_rng(2), 20_000, 0.9))
    assert len(found) == 20
    assert not any(result.firing for result in found)


def below(level: float, features: int, rows: int, worlds: int) -> tuple[int, int]:
    """Windows of `rows` whose p-value is at most the level, and all; references of ten times as many, no change."""
    hits, windows = 0, 8
    for seed in range(worlds):
        rng = np.random.default_rng([features, rows, seed])
        mixed = np.eye(features) + rng.standard_normal((features, features)) / math.sqrt(features)

        def columns(count: int, rng: np.random.Generator = rng, mixed: Any = mixed) -> dict[str, Any]:
            return {f"f{at}": one for at, one in enumerate((rng.standard_normal((count, features)) @ mixed).T)}

        reference = with_multivariate(fitted(columns(10 * rows)).reference, 1.0)
        counter = Counter(reference.plan)
        *_, (_, before, _) = feature_counts(reference.plan, reference.counts)
        for _ in range(windows):
            vector = empty(reference.plan)
            counter.count(inputs_of(columns(rows)), [np.zeros(rows)], np.zeros(rows, np.int64), vector)
            *_, (_, now, _) = feature_counts(reference.plan, vector)
            hits += homogeneity(before, now, True, reference.phi(features)).p_value <= level
    return hits, windows * worlds


def deviations(hits: int, windows: int, level: float) -> float:
    """By how many standard deviations of a binomial there are more hits than the level says."""
    return (hits - level * windows) / math.sqrt(windows * level * (1.0 - level))


def test_windows_without_a_change_are_below_a_level_as_often_as_it_says() -> None:
    hits, windows = below(0.05, features=60, rows=200, worlds=12)
    assert deviations(hits, windows, 0.05) <= 3.0


@pytest.mark.sim
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("features", "rows", "worlds"), [(5, 200, 300), (60, 200, 300), (20, 1_000, 100)])
def test_the_level_holds_with_few_and_many_features(features: int, rows: int, worlds: int) -> None:
    for level in (0.05, 0.01):
        hits, windows = below(level, features, rows, worlds)
        print(f"{features} features, {rows} rows: {hits / windows:.4f} of {windows} windows at level {level}")
        # Overdispersion is estimated, and never below 1: fewer hits are fine, none are not.
        assert -8.0 <= deviations(hits, windows, level) <= 3.0


# ---- what is counted ----


def test_each_row_has_a_bin_whatever_it_holds() -> None:
    reference = with_multivariate(REFERENCE, 1.0)
    counter, vector = Counter(reference.plan), empty(reference.plan)
    odd = np.array([math.nan, math.inf, -math.inf, 3e38, 0.0], np.float32)
    words, flags = texts(["", "never seen", "high", "low", "high"]), np.ones(5, bool)
    for inputs in (
        [odd, odd, words, flags, odd],
        [None] * 5,
        [odd, odd, odd, odd, odd],
        [words, words, words, words, words],
        [np.zeros((5, 0), np.float32), odd, words, flags, odd],
        [],
    ):
        counter.count(inputs, [np.zeros(5)], np.zeros(5, np.int64), vector)
    *_, (feature, data, quality) = feature_counts(reference.plan, vector)
    assert (feature.name, feature.kind) == (MULTIVARIATE, "multivariate")
    assert int(data.sum()) == vector[ROWS] == 30
    assert not quality.any()
    assert not any(key.name.startswith(MULTIVARIATE) for key in quality_keys(reference, vector, 0.0))


@given(st.lists(st.integers(1, 400), min_size=1, max_size=6))
def test_the_same_rows_are_sampled_however_they_are_cut_into_batches(sizes: list[int]) -> None:
    reference = with_multivariate(REFERENCE, 0.2)
    counter, whole, parts = Counter(reference.plan), empty(reference.plan), empty(reference.plan)
    rows = sum(sizes)
    inputs = inputs_of(tied(np.random.default_rng(rows), rows, 0.5))
    counter.count(inputs, [np.zeros(rows)], np.zeros(rows, np.int64), whole)
    at = 0
    for size in sizes:
        part = [array[at : at + size] for array in inputs]
        counter.count(part, [np.zeros(size)], np.zeros(size, np.int64), parts)
        at += size
    assert np.array_equal(whole, parts)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=40))
def test_slices_of_few_rows_sample_the_same_rows(sizes: list[int]) -> None:
    plan = with_multivariate(REFERENCE, 0.2).plan
    counter, whole, slices = Counter(plan), empty(plan), empty(plan)
    rows = sum(sizes)
    inputs = inputs_of(tied(np.random.default_rng(rows), rows, 0.5))
    counter.count(inputs, [np.zeros(rows)], np.zeros(rows, np.int64), whole)
    kinds = [
        DATATYPES["BYTES" if array.dtype == object else "BOOL" if array.dtype == bool else "FP32"] for array in inputs
    ]
    specs = tuple(TensorSpec(f"x{at}", kind, (-1,)) for at, kind in enumerate(kinds))
    signature = Signature(specs, (TensorSpec("y", DATATYPES["FP64"], (-1,)),), True)
    tap, at = Tap(counter, slices, memoryview(bytearray(16)).cast("q"), signature), 0
    for size in sizes:
        tap.take([], [array[at : at + size] for array in inputs], [np.zeros(size)])
        at += size
        while tap.work():
            pass
    assert np.array_equal(whole, slices)


@pytest.mark.parametrize("every", [1, 2, 10, 64, 1_000])
def test_the_sample_follows_no_rhythm(every: int) -> None:
    found = scattered(0, 500_000)[::every] < np.uint64(0.1 * 2.0**64)
    assert abs(found.mean() - 0.1) < 4 * math.sqrt(0.09 / len(found))


def test_categories_are_read_as_they_are_counted() -> None:
    word = FeaturePlan("w", "categorical", 0, -1, values=("b", "a"), other=True, others=("c",))
    digit = FeaturePlan("d", "categorical", 1, -1, values=(7.0, 3.0))
    flag = FeaturePlan("f", "boolean", 2, -1, values=(0.0, 1.0))
    number = FeaturePlan("n", "numeric", 3, 1, edges=(0.0, 1.0))
    matrix = RowMatrix([word, digit, flag, number], [[0.6, 0.3, 0.1], [0.8, 0.2], [], []])
    every = np.arange(4)
    pairs = np.array([[0, 1.5], [0, math.nan], [0, -2], [0, math.inf]], np.float32)
    found = matrix.of([texts("bacx"), np.array([3, 7, 5, 3]), np.array([0, 1, 1, 0], bool), pairs], every)
    expected = [[0.6, 0.2, 0, 1.5], [0.3, 0.8, 1, math.nan], [0.1, 0, 1, -2], [0, 0.2, 0, math.inf]]
    np.testing.assert_array_equal(found, expected)
    said = matrix.of(
        [texts(["", "a", "b", "b"]), texts(["3", "7.0", "", "x"]), texts(["true", "0", "", "2"]), None], every
    )
    np.testing.assert_array_equal(
        said,
        [[math.nan, 0.2, 1, math.nan], [0.3, 0.8, 0, math.nan], [0.6, *[math.nan] * 3], [0.6, *[math.nan] * 3]],
    )


# ---- what is kept ----


def test_a_file_of_before_is_read_as_it_was_and_has_no_such_signal() -> None:
    found = loaded(OLD.read_bytes())
    assert (found.id, found.multivariate) == ("15fdde4ba231f561", None)
    asked = spec_of(multivariate=True)
    assert asked_for(found, asked) is found
    assert any("the reference has no components" in note for note in explained(found, asked)["notes"])


def test_nothing_is_added_where_nobody_asks() -> None:
    assert asked_for(REFERENCE, spec_of()) is REFERENCE
    assert asked_for(REFERENCE, spec_of(multivariate=False)) is REFERENCE
    assert all(feature.name != MULTIVARIATE for feature in REFERENCE.plan.features)


def test_it_is_kept_beside_the_plan_and_survives_other_changes() -> None:
    found = loaded(dumped(REFERENCE))
    assert found.multivariate == REFERENCE.multivariate is not None
    assert sum(found.multivariate.counts) == 8_000
    plain, asked = with_multivariate(found, 1.0), with_multivariate(regrouped(without_score(found), ("f", "m")), 1.0)
    assert plain.plan.features == asked.plan.features
    assert np.array_equal(plain.counts, asked.counts)
    assert len({found.id, plain.id, asked.id, with_multivariate(found, 0.5).id}) == 4
    with pytest.raises(ReferenceRefused, match="kept"):
        loaded(dumped(plain))


def test_what_cannot_be_is_refused_although_its_id_is_right() -> None:
    found = REFERENCE.multivariate
    assert found is not None
    made = found.plan
    changes = [
        (_of(found, features=(0, 0, 2, 3, 4)), "each once"),
        (_of(found, features=(0, 1, 2, 3, 9)), "no feature that can have one"),
        (_of(found, centre=made.centre[1:]), "as many numbers"),
        (_of(found, weights=(made.weights[0][1:],)), "as many numbers"),
        (_of(found, shares=((),) * 5), "as many numbers"),
        (_of(found, sample=0.0), "a sample"),
        (msgspec.structs.replace(found, edges=found.edges[::-1]), "ascending edges"),
        (msgspec.structs.replace(found, counts=found.counts[1:]), "one more than counts"),
        (msgspec.structs.replace(found, counts=(-1, *found.counts[1:])), "expected counts"),
        (msgspec.structs.replace(found, overdispersion=0.5), "an overdispersion"),
    ]
    for changed, message in changes:
        with pytest.raises(ReferenceRefused, match=message):
            loaded(dumped(identified(replace(REFERENCE, multivariate=changed))))


def _of(found: Any, **changed: Any) -> Any:
    return msgspec.structs.replace(found, plan=msgspec.structs.replace(found.plan, **changed))


def _reason(columns: dict[str, Any]) -> tuple[Reference, str]:
    found = fitted(columns)
    return found.reference, next(note for note in found.warnings if "together" in note)


@pytest.mark.parametrize(
    ("columns", "rows", "message"),
    [(1, 1_000, "1 features"), (MAX_COLUMNS + 1, 500, "201 features"), (3, 400, "400 rows"), (2, 1_000, "any row")],
)
def test_a_reference_that_can_have_none_says_why(columns: int, rows: int, message: str) -> None:
    rng = np.random.default_rng(0)
    reference, why = _reason({f"f{at}": rng.standard_normal(rows) for at in range(columns)})
    assert reference.multivariate is None
    assert message in why


def test_two_that_were_one_are_seen_to_part() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 2_000))
    reference = with_multivariate(fitted({"x": x, "same": x}).reference, 1.0)
    counts = []
    for other in (x, y):
        vector = empty(reference.plan)
        Counter(reference.plan).count(
            inputs_of({"x": x, "same": other}), [np.zeros(2_000)], np.zeros(2_000, int), vector
        )
        *_, (_, data, _) = feature_counts(reference.plan, vector)
        counts.append(data.tolist())
    *_, (_, before, _) = feature_counts(reference.plan, reference.counts)
    assert before.tolist() == [1_600, 0]
    assert counts == [[2_000, 0], [0, 2_000]]


def test_no_feature_of_a_model_may_have_its_name() -> None:
    with pytest.raises(ReferenceRefused, match="no feature may be called"):
        fitted({MULTIVARIATE: np.arange(100.0)})


# ---- what is asked for ----


def test_it_is_asked_for_by_a_word_or_a_sample() -> None:
    assert resolved(spec_of())["multivariate"] is None
    assert resolved(spec_of(multivariate=True))["multivariate.sample"] == 1
    assert resolved(spec_of(multivariate={"sample": 0.1}))["multivariate.sample"] == 0.1
    for wrong, place in (
        ({"sample": 0}, "spec.multivariate.sample"),
        ("yes", "spec.multivariate"),
        ({"rows": 1}, "rows"),
    ):
        with pytest.raises(PolicyError, match=place):
            spec_of(multivariate=wrong)
    assert {"type": "boolean"} in schema()["$defs"]["Spec"]["properties"]["multivariate"]["anyOf"]


def test_it_is_explained_as_a_feature() -> None:
    shown = explained(REFERENCE, spec_of(multivariate={"sample": 0.1}))["features"][-1]
    assert (shown["name"], shown["kind"], shown["rows"]) == (MULTIVARIATE, "multivariate", 8_000)
    whole = explained(REFERENCE, spec_of(multivariate=True))["features"][-1]
    assert whole["psi"] < shown["psi"]


def test_of_many_columns_fewer_rows_are_looked_at() -> None:
    rng = np.random.default_rng(0)
    reference = fitted({f"f{at}": one for at, one in enumerate(rng.standard_normal((MAX_COLUMNS, 600)))}).reference
    made = with_multivariate(reference, 1.0).plan.multivariate
    assert made is not None
    assert made.sample < 0.5
    assert any(
        "of the rows are looked at" in note for note in explained(reference, spec_of(multivariate=True))["notes"]
    )
