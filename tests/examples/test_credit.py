"""The credit example: features, training, the built repository, and that the demo's checks can fail."""

import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from examples.credit import build, report, traffic, train
from examples.credit.features import FEATURE_NAMES, age_group, encode, load, protected, read_rows
from runtimes.registry.directory import DirectorySource


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    build.build(root, lambda line: None)
    return root


def test_the_data_is_whole() -> None:
    credit = load()
    assert credit.inputs.shape == (1000, 24)
    assert credit.inputs.dtype == np.float32
    assert np.isfinite(credit.inputs).all()
    assert credit.defaulted.sum() == 300


def test_features_have_different_names_and_none_is_protected() -> None:
    assert len(set(FEATURE_NAMES)) == 24
    assert not {"age_years", "foreign_worker"} & set(FEATURE_NAMES)


def test_first_row_by_hand() -> None:
    row = read_rows()[0]
    found = dict(zip(FEATURE_NAMES, encode([row])[0].tolist(), strict=True))
    assert {name: value for name, value in found.items() if value} == {
        "duration_months": 6, "credit_amount_dm": 1169, "installment_rate": 4, "residence_since": 4,
        "existing_credits": 2, "dependants": 1, "checking_negative": 1, "savings_unknown": 1, "employment_level": 4,
        "history_critical": 1, "purpose_radio_tv": 1, "property_real_estate": 1, "housing_own": 1,
    }  # fmt: skip
    assert protected([row]).foreign_worker == ("yes",)


def test_protected_attributes_do_not_change_the_inputs() -> None:
    row = read_rows()[0]
    other = {**row, "age_years": "20", "foreign_worker": "no"}
    assert np.array_equal(encode([row]), encode([other]))
    assert (age_group(row), age_group(other)) == ("older", "young")


def test_unknown_level_is_refused() -> None:
    with pytest.raises(KeyError, match="gold"):
        encode([{**read_rows()[0], "savings": "gold"}])


@pytest.mark.parametrize("recipe", [train.LOGISTIC, train.MLP], ids=["logistic", "mlp"])
def test_training_is_deterministic_and_useful(recipe: train.Recipe) -> None:
    credit = load()
    network, quality = train.train(credit, recipe)
    again, _ = train.train(credit, recipe)
    for one, other in zip(network, again, strict=True):
        assert np.array_equal(one.weights, other.weights)
        assert np.array_equal(one.bias, other.bias)
    assert quality.auc > 0.7
    assert quality.accuracy > 0.7  # the share of loans that were repaid: what always saying "good" reaches
    assert quality.calibration_error < 0.1


def test_training_and_test_rows_are_apart() -> None:
    parts = train.split(1000)
    assert sorted([*parts.train.tolist(), *parts.test.tolist()]) == list(range(1000))


@pytest.mark.parametrize("version", [1, 2])
def test_onnx_equals_numpy(repository: Path, version: int) -> None:
    data = traffic.expected(repository, traffic.Job(build.CREDIT, "", str(version), True, 1))
    network, _ = train.train(load(), build.RECIPES[version][1])
    assert data.outputs.shape == (1000, 1)
    assert np.abs(data.outputs[:, 0] - train.predict(network, data.inputs)).max() < 1e-5


def test_large_model_gives_probabilities(repository: Path) -> None:
    data = traffic.expected(repository, traffic.Job(build.DENSE, "", "1", True, 1))
    assert data.outputs.shape == (len(data.inputs), 10)
    assert np.abs(data.outputs.sum(axis=1) - 1).max() < 1e-5


def test_the_registry_takes_the_repository(repository: Path) -> None:
    source = DirectorySource(repository, 0, monotonic_ns=time.monotonic_ns, wall_ns=time.time_ns)
    models = source.scan().models
    credit = models[build.CREDIT]
    versions = {name: [one.version for one in model.versions] for name, model in models.items()}
    assert versions == {build.CREDIT: [1, 2], build.DENSE: [1]}
    assert not any(one.problem for model in models.values() for one in model.versions)
    assert credit.config is not None
    assert credit.config.aliases == {"stable": 1, "candidate": 2}
    assert credit.config.feature_names == {build.INPUT: FEATURE_NAMES}


def test_building_again_leaves_files_alone(repository: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in repository.rglob("*") if path.is_file()}
    build.build(repository, lambda line: None)
    assert before == {path: path.stat().st_mtime_ns for path in repository.rglob("*") if path.is_file()}


class Answer:
    """What tritonclient would give back."""

    def __init__(self, version: str, values: np.ndarray | None) -> None:
        self._version, self._values = version, values

    def get_response(self) -> dict[str, str]:
        return {"model_version": self._version}

    def as_numpy(self, name: str) -> np.ndarray | None:
        return self._values


WANTED = np.float32([[0.25], [0.5]])


@pytest.mark.parametrize(
    ("version", "values", "said"),
    [
        ("1", WANTED, ""),
        ("2", WANTED, "version 2"),
        ("1", None, "no output"),
        ("1", WANTED[:1], "no output"),
        ("1", WANTED + np.float32(1e-4), "differs"),
        ("1", WANTED * np.float32("nan"), "differs"),
    ],
)
def test_wrong_answers_are_seen(version: str, values: np.ndarray | None, said: str) -> None:
    job = traffic.Job(build.CREDIT, "stable", "1", True, 1)
    _, problem = traffic.problem_of(Answer(version, values), job, WANTED)
    assert problem.startswith(said)
    assert bool(problem) == bool(said)


def test_errors_wrong_answers_and_counts_fail_the_demo() -> None:
    good = traffic.Tally(requests=2, rows=5, ok_rows=5)
    assert all(holds for _, holds in report.traffic_checks([good]))
    assert not all(holds for _, holds in report.traffic_checks([]))
    assert not all(holds for _, holds in report.traffic_checks([good, traffic.Tally(requests=1, errors=1)]))
    assert not all(holds for _, holds in report.traffic_checks([good, traffic.Tally(requests=1, wrong=1)]))
    assert report.count_check("answers", Counter({("m", "1"): 2}), Counter({("m", "1"): 2}))[1]
    assert not report.count_check("answers", Counter({("m", "1"): 2}), Counter({("m", "2"): 2}))[1]


def test_tallies_of_processes_add_up() -> None:
    parts = [
        traffic.Tally(2, 5, 1, 0, 3, 1e-7, [1.0], started_s=1.0, ended_s=2.0),
        traffic.Tally(2, 4, 0, 1, 4, 2e-7, [2.0, 3.0], started_s=1.5, ended_s=4.0, problem="bad"),
    ]
    assert traffic.merged(parts) == traffic.Tally(4, 9, 1, 1, 7, 2e-7, [1.0, 2.0, 3.0], 1.0, 4.0, "bad")
    assert traffic.merged(parts).per_second == pytest.approx(1.0)
