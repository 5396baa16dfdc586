"""`tidegate monitor` as data scientists call it: from files, without a server."""

import gzip
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from examples.carloan import build
from examples.carloan.loans import DRIFTED
from gateway.cli import application
from gateway.cli.output import Failure
from gateway.monitor.reference import loaded
from tests import models


def mixed_model() -> bytes:
    """p = sigmoid(amount + 1 where the word is good)."""
    labels = {"keys_strings": ["good"], "values_floats": [1.0], "default_float": 0.0}
    nodes = [
        helper.make_node("LabelEncoder", ["word"], ["is_good"], domain="ai.onnx.ml", **labels),
        helper.make_node("Add", ["is_good", "amount"], ["both"]),
        helper.make_node("Sigmoid", ["both"], ["p"]),
    ]
    types = {"amount": TensorProto.FLOAT, "word": TensorProto.STRING, "p": TensorProto.FLOAT}
    amount, word, p = (helper.make_tensor_value_info(name, kind, ["N"]) for name, kind in types.items())
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 2)]
    graph = helper.make_graph(nodes, "mixed", [amount, word], [p])
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())


@pytest.fixture(scope="module")
def loans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("loans")
    build.build(folder)
    return folder


def tidegate(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    application()([str(one) for one in arguments], standalone_mode=False)
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], code: int, *arguments: object) -> str:
    with pytest.raises(Failure) as caught:
        tidegate(capsys, *arguments)
    assert caught.value.exit_code == code
    return caught.value.message


def csv_of(rows: int, seed: int = 0, shift: float = 0.0) -> str:
    rng = np.random.default_rng(seed)
    lines = ["when,amount,word,sex,paid,note"]
    for at in range(rows):
        amount = rng.normal(shift)
        word = rng.choice(["good", "bad"])
        paid = int(rng.random() < 1 / (1 + np.exp(-(amount + (word == "good")))))
        lines.append(f"{at * 60},{amount:.4f},{word},{rng.choice(['f', 'm'])},{paid if at % 3 else ''},x")
    return "\n".join(lines) + "\n"


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    models.write(tmp_path, "mixed", mixed_model())
    (tmp_path / "held_out.csv").write_text(csv_of(4000))
    return tmp_path


def fit(capsys: pytest.CaptureFixture[str], folder: Path, *more: object) -> dict[str, Any]:
    common = ("--data", folder / "held_out.csv", "--model", folder / "mixed", "--out", folder / "r.npz", "--json")
    return json.loads(tidegate(capsys, "monitor", "fit", *common, *more))  # type: ignore[no-any-return]


def test_the_car_loans_from_end_to_end(loans: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = loans / "fitted.npz"
    model = loans / "car-loan"
    held_out, analysis = loans / "held_out.npz", loans / "analysis.npz"
    said = tidegate(
        capsys, "monitor", "fit", "--data", held_out, "--model", model, "--label", "repaid", "--out", out
    )  # fmt: skip
    assert "loan_length" in said
    assert "categorical" in said
    assert "0.9419" in said
    assert out.read_bytes() == (model / "1" / "reference.npz").read_bytes()
    common = ("--reference", out, "--data", analysis, "--model", model, "--label", "repaid")
    said = tidegate(capsys, "monitor", "replay", *common, "--window-rows", "1000")
    assert "50 windows" in said
    assert "alarm at row 27,000: input: " in said
    found = json.loads(tidegate(capsys, "monitor", "replay", *common, "--json"))
    assert found["alarms"][0]["row"] == 30_000
    assert set(found["alarms"][0]["names"]) == DRIFTED
    assert found["windows"][0]["realised"]["accuracy"] > 0.9
    explained = json.loads(tidegate(capsys, "monitor", "explain", "--reference", out, "--json"))
    assert explained["window"]["closes at rows"] == 2500
    assert all(0.005 < one["psi"] < 0.02 for one in explained["features"])
    assert "windows close at 2,500 rows, not 5,000" in explained["notes"][0]
    assert "smallest psi seen" in tidegate(capsys, "monitor", "explain", "--reference", out)


def test_a_csv_of_words_and_numbers_gives_a_reference_with_groups_and_labels(
    mixed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = fit(capsys, mixed, "--label", "paid", "--group", "sex")
    kinds = {one["name"]: (one["kind"], one["bins"]) for one in found["features"]}
    assert kinds == {"amount": ("numeric", 10), "word": ("categorical", 2)}
    assert set(found["baselines"]) == {"all", "f", "m", "everybody else"}
    assert found["notes"] == [
        "columns that are no input: when, note",
        "features together are not looked at (spec.multivariate): every component is needed to explain 65%, and so "
        "rebuilds any row",
    ]
    reference = loaded((mixed / "r.npz").read_bytes())
    assert reference.labels is not None
    assert reference.labels.sum() == 4000 - 1334
    assert reference.plan.groups == ("f", "m")
    model = mixed / "mixed" / "1" / "model.onnx"
    assert reference.binding.digest == hashlib.sha256(model.read_bytes()).hexdigest()


def test_a_schema_decides_and_its_errors_have_a_line(mixed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    schema = mixed / "schema.yaml"
    schema.write_text("word: ignore\n")
    assert [one["name"] for one in fit(capsys, mixed, "--schema", schema)["features"]] == ["amount"]
    schema.write_text("word: categoric\n")
    common = ("monitor", "fit", "--data", mixed / "held_out.csv", "--model", mixed / "mixed", "--out", mixed / "r.npz")
    assert "schema.yaml, line 1: word: did you mean 'categorical'?" in refused(capsys, 2, *common, "--schema", schema)
    schema.write_text("wort: ignore\n")
    assert "'wort', which is no feature" in refused(capsys, 2, *common, "--schema", schema)


def test_scores_of_the_data_are_taken_where_they_are_given(mixed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = (mixed / "held_out.csv").read_text().splitlines()
    scored = [lines[0] + ",mine", *(f"{line},{at % 100 / 100}" for at, line in enumerate(lines[1:]))]
    (mixed / "held_out.csv.gz").write_bytes(gzip.compress("\n".join(scored).encode()))
    tidegate(
        capsys, "monitor", "fit", "--data", mixed / "held_out.csv.gz", "--model", mixed / "mixed" / "1",
        "--score", "mine", "--out", mixed / "r.npz",
    )  # fmt: skip
    reference = loaded((mixed / "r.npz").read_bytes())
    assert reference.plan.score is not None
    cells = reference.counts[reference.plan.score_at :][: reference.plan.score_values].reshape(2, 1000)
    assert int(cells[0].sum()) == 2000
    # As FP32, which is what the model's output is: 0.13 is a little less than 0.13, in the bin below.
    as_given = np.float32(np.arange(100) / 100).astype(float)
    assert set(np.flatnonzero(cells.sum(axis=0))) == set((as_given * 1000).astype(int))


def test_words_that_count_as_negative_are_told_and_unknown_ones_do_not_count(
    mixed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = fit(capsys, mixed, "--label", "paid")
    assert not any("count as negative" in note for note in known["notes"])
    lines = (mixed / "held_out.csv").read_text().splitlines()
    unknown = [line if line.split(",")[4] else line.replace(",,x", ",N/A,x") for line in lines]
    (mixed / "held_out.csv").write_text("\n".join(unknown))
    assert fit(capsys, mixed, "--label", "paid")["baselines"] == known["baselines"]
    (mixed / "held_out.csv").write_text("\n".join(unknown).replace(",N/A,x", ",open,x"))
    notes = fit(capsys, mixed, "--label", "paid")["notes"]
    (note,) = [note for note in notes if "count as negative" in note]
    assert "not '1'" in note
    assert "'open' (1,334)" in note
    assert "'0' (" in note


def test_replay_takes_times_and_documents(mixed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(capsys, mixed)
    (mixed / "later.csv").write_text(csv_of(3000, seed=1, shift=1.0))
    (mixed / "monitor.yaml").write_text(
        "apiVersion: tidegate/v1\nkind: Monitor\nmetadata: {name: mixed}\nspec: {window: {time: 5h}}\n"
    )
    common = ("monitor", "replay", "--reference", mixed / "r.npz", "--data", mixed / "later.csv", "--time", "when")
    found = json.loads(tidegate(capsys, *common, "--config", mixed / "monitor.yaml", "--json"))
    assert [one["rows"] for one in found["windows"]][:2] == [300, 300]
    assert found["windows"][0]["closed_ms"] == 5 * 3_600_000
    assert found["alarms"][0] == {"row": 600, "family": "input", "names": ["amount"], "closed_ms": 10 * 3_600_000}
    assert "without --model or --score COLUMN predictions and performance are not judged" in found["notes"]
    assert found["windows"][0]["score"] is None
    assert (found["verdict"], found["judged"], found["rows_left"]) == ("alarm", 9, 300)
    assert "the last 300 rows close no window, and are not judged" in found["notes"]


@pytest.mark.parametrize("when", ["inf", "-inf", "1e300", "nan", "1767225600000", "yesterday", ""])
def test_a_time_that_is_none_is_told_with_its_row(mixed: Path, when: str, capsys: pytest.CaptureFixture[str]) -> None:
    fit(capsys, mixed)
    (mixed / "later.csv").write_text(f"when,amount,word\n0,1,good\n{when},1,good\n")
    common = ("--reference", mixed / "r.npz", "--data", mixed / "later.csv", "--time", "when")
    message = refused(capsys, 2, "monitor", "replay", *common)
    assert message == f"column 'when', row 2: expected ISO 8601 or Unix seconds, got {when!r}"


def replayed(capsys: pytest.CaptureFixture[str], folder: Path, *more: object) -> dict[str, Any]:
    common = ("--reference", folder / "r.npz", "--data", folder / "later.csv", "--model", folder / "mixed", "--json")
    return json.loads(tidegate(capsys, "monitor", "replay", *common, *more))  # type: ignore[no-any-return]


def document(folder: Path, spec: str) -> Path:
    path = folder / "monitor.yaml"
    path.write_text(f"apiVersion: tidegate/v1\nkind: Monitor\nmetadata: {{name: mixed}}\nspec: {spec}\n")
    return path


def test_where_nothing_is_judged_there_is_no_word_of_no_alarm(mixed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(capsys, mixed)
    (mixed / "later.csv").write_text(csv_of(250, seed=1))
    found = replayed(capsys, mixed)
    assert (found["verdict"], found["judged"], found["rows_left"]) == ("insufficient", 0, 250)
    common = ("--reference", mixed / "r.npz", "--data", mixed / "later.csv", "--model", mixed / "mixed")
    said = tidegate(capsys, "monitor", "replay", *common)
    assert "nothing was judged: 250 rows close no window; one closes at 400 rows" in said
    assert "no alarm" not in said
    said = tidegate(capsys, "monitor", "replay", *common, "--config", document(mixed, "{window: {time: 1h}}"),
                    "--time", "when")  # fmt: skip
    assert "nothing was judged: each of 4 windows has few rows (min_rows 200)" in said
    assert "note: the last 10 rows close no window, and are not judged" in said


def test_a_file_has_no_champion(mixed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(capsys, mixed)
    common = ("--reference", mixed / "r.npz", "--data", mixed / "held_out.csv")
    config = document(mixed, "{reference: champion}")
    message = refused(capsys, 2, "monitor", "replay", *common, "--config", config)
    assert "champion compares two variants, and rows of a file have one" in message


def test_explain_says_which_alarm_an_objective_leaves_no_room_for(
    mixed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(capsys, mixed)
    common = ("monitor", "explain", "--reference", mixed / "r.npz", "--json", "--config")
    notes = json.loads(tidegate(capsys, *common, document(mixed, "{latency: {objective: 0.9}}")))["notes"]
    (note,) = [note for note in notes if note.startswith("latency")]
    assert "never alarms at 14.4 times the budget over 60 min" in note
    assert "burns 10 times too fast at most, when every answer is slow; 0.9306 would do" in note
    notes = json.loads(tidegate(capsys, *common, document(mixed, "{latency: {objective: 0.99}}")))["notes"]
    assert not any(note.startswith("latency") for note in notes)


def test_labels_that_say_something_else_alarm_in_a_replay(mixed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (mixed / "held_out.csv").write_text(csv_of(20_000))
    fit(capsys, mixed, "--label", "paid")
    lines = csv_of(8_000, seed=1).splitlines()
    turned = [",".join([*line.split(",")[:4], "10"[int(line.split(",")[4])], "x"]) if line.split(",")[4] else line
              for line in lines[4_001:]]  # fmt: skip
    (mixed / "later.csv").write_text("\n".join([*lines[:4_001], *turned]))
    found = replayed(capsys, mixed, "--label", "paid", "--window-rows", "1000")
    assert [(one["family"], one["row"]) for one in found["alarms"]] == [
        ("concept_drift", 5_000),
        ("performance_realised", 6_000),
    ]
    assert [one["states"]["performance_realised"] for one in found["windows"]] == [
        *4 * ["ok"], "pending", *3 * ["firing"]
    ]  # fmt: skip
    config = document(mixed, "{labels: {min_coverage: 0.9}, window: {rows: 1000}}")
    found = replayed(capsys, mixed, "--label", "paid", "--config", config)
    assert not any(one["states"] for one in found["windows"]), "a third has no label"
    assert any("no window is judged by labels: each has fewer than 200, or less than 90% of" in one
               for one in found["notes"])  # fmt: skip
    found = replayed(capsys, mixed, "--window-rows", "1000")
    assert found["verdict"] == "no alarm"
    assert "without --label COLUMN performance by labels and concept drift are not judged" in found["notes"]


def test_groups_of_the_document_are_compared_in_a_replay(mixed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (mixed / "held_out.csv").write_text(csv_of(20_000))
    fit(capsys, mixed, "--group", "sex")
    lines = csv_of(6_000, seed=1).splitlines()
    worse = [line.replace(line.split(",")[1], "-3.0", 1) if ",f," in line and at % 2 else line
             for at, line in enumerate(lines)]  # fmt: skip
    (mixed / "later.csv").write_text("\n".join(worse))
    config = document(mixed, "{groups: {header: x-sex, values: [m, f]}, latency: {}, window: {rows: 1000}}")
    found = replayed(capsys, mixed, "--group", "sex", "--config", config)
    (alarm,) = [one for one in found["alarms"] if one["family"] == "fairness"]
    assert (alarm["row"], alarm["names"]) == (2_000, ["f"])
    assert "latency is not judged: a file does not say how long answers took" in found["notes"]
    notes = replayed(capsys, mixed, "--config", config)["notes"]
    assert "without --group COLUMN fairness is not judged" in notes


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("when,amount\n1,2\n", "input 'word': expected a column of its name"),
        ("amount,word\nx,good\n", "column 'amount', row 1: expected a number, got 'x'"),
        ("amount,word\n1\n", "row 1: expected 2 values, got 1"),
        ("amount,word\n", "held_out.csv: expected rows after the line that names the columns, got none"),
    ],
)
def test_data_that_does_not_fit_is_one_line_with_exit_2(
    mixed: Path, content: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (mixed / "held_out.csv").write_text(content)
    common = ("--data", mixed / "held_out.csv", "--model", mixed / "mixed", "--out", mixed / "r.npz")
    assert message in refused(capsys, 2, "monitor", "fit", *common)
    assert not (mixed / "r.npz").exists()


def test_a_reference_of_another_model_is_refused(mixed: Path, loans: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(capsys, mixed)
    common = ("monitor", "replay", "--reference", mixed / "r.npz", "--data", mixed / "held_out.csv")
    message = refused(capsys, 2, *common, "--model", loans / "car-loan")
    assert (
        "the reference expects the inputs amount FP32[-1], word BYTES[-1]; the model has features FP32[-1, 7]"
        in message
    )


def test_columns_that_are_no_input_of_a_wide_model_are_named_and_may_be_ignored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models.write(tmp_path, "wide", models.mlp((3, 4, 1)))
    rng = np.random.default_rng(0)
    lines = [f"{at},{','.join(f'{one:.3f}' for one in rng.normal(size=3))}" for at in range(3_000)]
    (tmp_path / "rows.csv").write_text("\n".join(["id,a,b,c", *lines]))
    reference = tmp_path / "r.npz"
    common = ("monitor", "fit", "--data", tmp_path / "rows.csv", "--model", tmp_path / "wide", "--out", reference)
    message = refused(capsys, 2, *common)
    assert "expected 3 columns, got 4: id, a, b, c; name those that are no input by --ignore COLUMN" in message
    ignored = json.loads(tidegate(capsys, *common, "--ignore", "id", "--json"))
    assert any("filled from the columns in their order: a, b, c" in note for note in ignored["notes"])
    (tmp_path / "schema.yaml").write_text("id: ignore\n")
    by_schema = json.loads(tidegate(capsys, *common, "--schema", tmp_path / "schema.yaml", "--json"))
    assert by_schema["id"] == ignored["id"]
    assert "got 'ID'; the data has id, a, b, c" in refused(capsys, 2, *common, "--ignore", "ID")
    replay = ("monitor", "replay", "--reference", reference, "--data", tmp_path / "rows.csv", "--json")
    assert "got 4: id, a, b, c" in refused(capsys, 2, *replay)
    assert json.loads(tidegate(capsys, *replay, "--ignore", "id"))["judged"] == 10


def test_an_output_without_that_column_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models.write(tmp_path, "wide", models.mlp((2, 3, 1)))
    np.savez(tmp_path / "rows.npz", x=np.zeros((300, 2), np.float32))
    common = ("monitor", "fit", "--data", tmp_path / "rows.npz", "--model", tmp_path / "wide", "--out", tmp_path / "r")
    assert refused(capsys, 2, *common, "--output", "y:5") == "--output: 'y' has no column 5: its only one is 0"


def test_what_is_not_there_or_no_reference_is_told(mixed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "cannot be read" in refused(capsys, 2, "monitor", "explain", "--reference", mixed / "none.npz")
    assert "not a numpy archive" in refused(capsys, 2, "monitor", "explain", "--reference", mixed / "held_out.csv")
    common = ("monitor", "fit", "--model", mixed / "mixed")
    assert "ends with .csv" in refused(capsys, 2, *common, "--data", mixed / "x.txt")
    assert "expected a model file" in refused(
        capsys, 2, "monitor", "fit", "--data", mixed / "held_out.csv", "--model", mixed
    )
    (mixed / "monitor.yaml").write_text(
        "apiVersion: tidegate/v1\nkind: Monitor\nmetadata: {name: m}\nspec: {windw: {}}\n"
    )
    fit(capsys, mixed)
    message = refused(
        capsys, 3, "monitor", "explain", "--reference", mixed / "r.npz", "--config", mixed / "monitor.yaml"
    )
    assert "line 4: spec.windw: unknown field; did you mean 'window'?" in message


def test_parquet_without_its_reader_says_what_to_install(
    mixed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (mixed / "x.parquet").write_bytes(b"PAR1")
    # None in sys.modules is how Python itself is told that a module cannot be imported.
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    message = refused(capsys, 2, "monitor", "fit", "--model", mixed / "mixed", "--data", mixed / "x.parquet")
    assert "pip install pyarrow" in message


def test_parquet_is_read_where_its_reader_is_there(mixed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [line.split(",") for line in (mixed / "held_out.csv").read_text().splitlines()[1:]]
    columns = {"amount": [float(row[1]) for row in rows], "word": [row[2] for row in rows]}
    parquet.write_table(pyarrow.table(columns), mixed / "held_out.parquet")
    fit(capsys, mixed)
    out = mixed / "p.npz"
    tidegate(
        capsys, "monitor", "fit", "--data", mixed / "held_out.parquet", "--model", mixed / "mixed", "--out", out
    )  # fmt: skip
    assert loaded(out.read_bytes()).id == loaded((mixed / "r.npz").read_bytes()).id


def test_the_schema_of_documents_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert json.loads(tidegate(capsys, "monitor", "schema"))["title"] == "Monitor"
