"""Tables into tensors: by name, in the model's datatypes, and with the place of whatever does not fit."""

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.monitor import tables
from gateway.monitor.tables import Table, TableRefused, from_csv, from_npz, tensors
from runtimes.tensors import DATATYPES, DYNAMIC, TensorSpec, f32_from_bf16
from tests.monitor.counting_models import signature, spec


def test_csv_is_read_as_it_is_written() -> None:
    table = from_csv('a,b,"c d"\r\n1,"x, y",\r\n2,"say ""ä""",3\r\n\r\n')
    assert table.columns == {"a": ["1", "2"], "b": ["x, y", 'say "ä"'], "c d": ["", "3"]}
    assert table.rows == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "first line that names the columns"),
        ("a,a\n1,2\n", "each once"),
        ("a,b\n", "expected rows after the line that names the columns, got none"),
        ("a,b", "got none"),
        ("a,b\n1,2\n3\n", "row 2: expected 2 values, got 1"),
    ],
)
def test_what_is_no_table_is_told_with_its_row(text: str, message: str) -> None:
    with pytest.raises(TableRefused, match=message):
        from_csv(text)


def archive(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def test_archives_hold_columns_or_whole_inputs_and_no_objects() -> None:
    assert from_npz(archive(x=np.zeros((4, 3)), y=np.arange(4))).rows == 4
    for content, message in (
        (archive(x=np.array([{}], object)), "without pickled objects"),
        (archive(x=np.float64(1)), "a single value"),
        (archive(x=np.zeros(2), y=np.zeros(3)), "columns of one length"),
        (b"PK", "not a numpy archive"),
    ):
        with pytest.raises(TableRefused, match=message):
            from_npz(content)


def test_columns_find_their_inputs_by_name_then_by_the_config_then_by_order() -> None:
    table = from_csv("b,a,score\n1,2,9\n3,4,9\n")
    one_each, _ = tensors(table, signature(spec("a"), spec("b", "INT64", 1)), {}, ["score"])
    assert one_each[0].tolist() == [2, 4]  # type: ignore[union-attr]
    assert one_each[1].tolist() == [[1], [3]]  # type: ignore[union-attr]
    wide = signature(spec("features", "FP32", 2))
    named, said = tensors(table, wide, {"features": ["a", "b"]})
    assert named[0].tolist() == [[2, 1], [4, 3]]  # type: ignore[union-attr]
    assert said == ["columns that are no input: score"]
    ordered, said = tensors(table, wide, {}, ["score"])
    assert ordered[0].tolist() == [[1, 2], [3, 4]]  # type: ignore[union-attr]
    assert "in their order: b, a" in said[0]
    whole, _ = tensors(Table({"features": np.eye(2)}), wide, {})
    assert whole[0].dtype == np.float32  # type: ignore[union-attr]


def test_values_take_the_datatype_of_their_input() -> None:
    table = Table(
        {"flag": ["true", "False", "1"], "text": ["a", "", "ä"], "big": [str(2**62 + 1)] * 3, "x": ["0.5", "", "1"]}
    )
    model = signature(spec("flag", "BOOL"), spec("text", "BYTES"), spec("big", "INT64"), spec("x", "BF16"))
    flag, text, big, x = (np.asarray(array) for array in tensors(table, model, {})[0])
    assert flag.tolist() == [True, False, True]
    assert text.tolist() == [b"a", b"", "ä".encode()]
    assert big.tolist() == [2**62 + 1] * 3
    assert np.isnan(f32_from_bf16(x)[1])
    assert f32_from_bf16(x)[[0, 2]].tolist() == [0.5, 1.0]


@pytest.mark.parametrize(
    ("column", "datatype", "message"),
    [
        (["1", "x"], "FP32", "column 'a', row 2: expected a number, got 'x'; texts need an input of datatype BYTES"),
        (["1", ""], "INT64", "column 'a', row 2: expected INT64, got nan"),
        (["1", "300"], "UINT8", "column 'a', row 2: expected UINT8, got 300"),
        (["1.5", "2"], "INT32", "column 'a', row 1: expected INT32, got 1.5"),
        (np.array([1, 2**40]), "INT32", "row 2: expected INT32, got 1099511627776"),
    ],
)
def test_values_that_do_not_fit_are_told_with_column_and_row(column: Any, datatype: str, message: str) -> None:
    with pytest.raises(TableRefused, match=message):
        tensors(Table({"a": column}), signature(spec("a", datatype)), {})


def test_missing_columns_are_told_and_optional_inputs_may_be_left_out() -> None:
    table = from_csv("a\n1\n")
    with pytest.raises(TableRefused, match=r"input 'b': expected a column of its name, .*; the data has a"):
        tensors(table, signature(spec("a"), spec("b")), {})
    with pytest.raises(TableRefused, match="expected column 'z'"):
        tensors(table, signature(spec("w", "FP32", 2)), {"w": ["a", "z"]})
    with pytest.raises(TableRefused, match=r"expected rows of shape \[3\], got \[1\] from a"):
        tensors(table, signature(spec("w", "FP32", 3)), {})
    optional = TensorSpec("k", DATATYPES["FP32"], (DYNAMIC,), optional=True)
    assert tensors(table, signature(spec("a"), optional), {})[0][1] is None


@given(st.lists(st.floats(width=32) | st.integers(-(10**6), 10**6), min_size=1))
def test_numbers_survive_the_way_through_text(values: list[float]) -> None:
    table = Table({"x": ["" if value != value else repr(value) for value in values]})
    [found] = tensors(table, signature(spec("x")), {})[0]
    assert found is not None
    assert np.array_equal(found, np.array(values, np.float32), equal_nan=True)


def test_labels_are_positive_by_word_or_by_number() -> None:
    table = Table({"n": np.array([1.0, 0.0, np.nan]), "w": ["yes", "no", ""], "b": np.array([True, False, False])})
    assert tables.labels(table, "n", "1").tolist()[:2] == [1, 0]
    assert np.isnan(tables.labels(table, "n", "1")[2])
    assert tables.labels(table, "w", "yes").tolist()[:2] == [1, 0]
    assert np.isnan(tables.labels(table, "w", "yes")[2])
    assert tables.labels(table, "b", "1").tolist() == [1, 0, 0]
    with pytest.raises(TableRefused, match="expected a column 'z'; the data has n, w, b"):
        tables.labels(table, "z", "1")


def test_scores_are_numbers_or_texts_and_of_two_columns_the_second() -> None:
    table = Table({"p": np.array([[0.9, 0.1], [0.2, 0.8]]), "t": ["0.5", ""], "u": np.array(["1", "2"])})
    assert tables.floats(table, "p").tolist() == [0.1, 0.8]
    assert tables.floats(table, "t")[0] == 0.5
    assert np.isnan(tables.floats(table, "t")[1])
    assert tables.floats(table, "u").tolist() == [1, 2]
    with pytest.raises(TableRefused, match="expected a column 'z'"):
        tables.floats(table, "z")
