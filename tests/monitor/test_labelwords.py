"""What labels say: the same by feedback as in a file."""

import json
from typing import Any

import numpy as np
import pytest

from gateway.monitor import tables
from gateway.monitor.labelwords import label_of
from gateway.monitor.tables import Table


@pytest.mark.parametrize(
    ("value", "positive", "label"),
    [
        (1, "1", 1), (1.0, "1", 1), ("1", "1", 1), (True, "1", 1), (True, "true", 1), (False, "1", 0), (0, "1", 0),
        ("good", "good", 1), ("bad", "good", 0), (True, "0", 0), (2, "1", 0), (1.5, "1.5", 1), (False, "0", 1),
        ("1.0", "1", 1), ("1.00", "1", 1), (" 1", "1", 1), ("true", "1", 1), ("True", "1", 1), ("YES", "1", 1),
        ("false", "1", 0), ("no", "1", 0), ("0.0", "1", 0), (0, "no", 1), (" good ", "good", 1), ("Good", "good", 0),
        ("", "1", None), ("  ", "1", None), ("nan", "1", None), (float("nan"), "1", None), (None, "1", None),
        ("NA", "1", None), ("N/A", "1", None), ("null", "1", None), ("None", "1", None), ("NA", "NA", 1),
        ("inf", "1", 0), (10**400, "1", 0), ("maybe", "1", 0),
    ],
)  # fmt: skip
def test_labels_are_read_as_people_mean_them(value: Any, positive: str, label: int | None) -> None:
    assert label_of(value, positive) == label


@pytest.mark.parametrize(
    ("value", "label"),
    [("bad", 0), ("good", 1), (" bad ", 0), ("banana", None), (0, None), ("", None), ("Bad", None), (7, None)],
)
def test_what_is_neither_word_says_nothing(value: Any, label: int | None) -> None:
    assert label_of(value, "good", "bad") == label


def test_the_other_word_may_be_a_number_or_one_for_unknown() -> None:
    assert [label_of(value, "1", "0") for value in (0, "0.0", False, "no", 2, "yes", None)] == [
        0,
        0,
        0,
        0,
        None,
        1,
        None,
    ]
    assert [label_of(value, "1", "NA") for value in ("NA", "na", "", 0)] == [0, None, None, None]


@pytest.mark.parametrize("positive", ["1", "true", "yes", "good", "0", "2.5"])
def test_a_file_and_feedback_say_the_same(positive: str) -> None:
    values = [1, 0, 2.5, True, False, "1.0", "0", " 1", "yes", "No", "good", "bad", "", "nan", "NA"]
    of_file = tables.labels(Table({"y": [str(value) for value in values]}), "y", positive)
    of_feedback = [label_of(json.loads(json.dumps(value)), positive) for value in values]
    assert np.array_equal(of_file, np.array(of_feedback, np.float64), equal_nan=True)


def test_words_that_mean_the_same_are_one_negative() -> None:
    column = ["1", "0", "0", "0.0", "false", "NA", "", "refused", "refused", "lost"]
    found = tables.negatives(Table({"y": column}), "y", "1")
    assert found == {"0": 4, "refused": 2, "lost": 1}
