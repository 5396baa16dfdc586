"""What is learnt of a model before it serves."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtimes.execution.graph import operators
from runtimes.execution.session import OnnxSession, RunControl
from runtimes.execution.warmup import Learnt, warm_up
from tests import models


def learn(tmp_path: Path, model: bytes) -> Learnt:
    path = tmp_path / "model.onnx"
    path.write_bytes(model)
    session = OnnxSession(path)
    control = RunControl()
    return warm_up(
        session.signature, lambda inputs: session.run(inputs, control), batch_sizes=[1, 2, 8], dynamic_size=4
    )


@pytest.mark.parametrize(
    "model", [models.mlp(), models.identity("BYTES"), models.add_and_sub(), models.lookup(), models.dynamic_width()]
)
def test_models_of_independent_rows_may_be_merged(tmp_path: Path, model: bytes) -> None:
    learnt = learn(tmp_path, model)
    assert learnt.independent, learnt.note
    assert sorted(learnt.run_ns) == [1, 2, 8]


def test_a_model_that_looks_at_its_batch_mates_is_found_out(tmp_path: Path) -> None:
    learnt = learn(tmp_path, models.centred())
    assert not learnt.independent
    assert "'y' depends on the other rows" in learnt.note


def test_a_model_that_refuses_made_up_values_is_served_unmerged(tmp_path: Path) -> None:
    learnt = learn(tmp_path, models.divide())
    assert not learnt.independent
    assert "rows are not merged" in learnt.note


def test_unbatched_models_are_run_once_per_repeat(tmp_path: Path) -> None:
    assert sorted(learn(tmp_path, models.fixed_batch()).run_ns) == [1]


def test_operators_are_found_in_nested_graphs_too(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(models.endless())
    assert operators(path) == {"Loop", "Identity", "Add"}


@given(st.binary(min_size=1, max_size=300))
def test_any_bytes_give_some_set_of_operators(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("bytes") / "model.onnx"
    path.write_bytes(content)
    assert isinstance(operators(path), frozenset)
