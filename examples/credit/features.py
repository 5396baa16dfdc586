"""From a loan application to 24 named numbers; protected attributes are kept apart.

Numbers stay in their own units (months, DM), so that a monitor shows what a person understands; the models scale them.
"""

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

DATA_FILE: Final = Path(__file__).parent / "data" / "german_credit.csv"
YOUNG_BELOW_YEARS: Final = 26
"""Border of the age groups that studies of this data use (Kamiran and Calders, 2009: 25 years)."""

Row = Mapping[str, str]
Floats = NDArray[np.float32]

_SAVINGS: Final = ("unknown", "below_100", "below_500", "below_1000", "from_1000")
_EMPLOYMENT: Final = ("unemployed", "below_1_year", "below_4_years", "below_7_years", "from_7_years")


def _number(column: str) -> Callable[[Row], float]:
    """The column itself."""
    return lambda row: float(row[column])


def _level(column: str, order: Sequence[str]) -> Callable[[Row], float]:
    """Place of the value in its order, from 0."""
    places = {value: float(place) for place, value in enumerate(order)}
    return lambda row: places[row[column]]


def _one_of(column: str, *values: str) -> Callable[[Row], float]:
    """1 when the column has one of the values, else 0."""
    return lambda row: float(row[column] in values)


_FEATURES: Final[dict[str, Callable[[Row], float]]] = {
    "duration_months": _number("duration_months"),
    "credit_amount_dm": _number("credit_amount_dm"),
    "installment_rate": _number("installment_rate"),
    "residence_since": _number("residence_since"),
    "existing_credits": _number("existing_credits"),
    "dependants": _number("dependants"),
    "checking_none": _one_of("checking", "none"),
    "checking_negative": _one_of("checking", "negative"),
    "checking_below_200": _one_of("checking", "below_200"),
    "savings_level": _level("savings", _SAVINGS),
    "savings_unknown": _one_of("savings", "unknown"),
    "employment_level": _level("employment", _EMPLOYMENT),
    "history_critical": _one_of("credit_history", "critical"),
    "history_delayed": _one_of("credit_history", "delayed"),
    "history_none_open": _one_of("credit_history", "none_taken", "all_paid_here"),
    "purpose_new_car": _one_of("purpose", "new_car"),
    "purpose_used_car": _one_of("purpose", "used_car"),
    "purpose_radio_tv": _one_of("purpose", "radio_tv"),
    "purpose_education": _one_of("purpose", "education"),
    "property_real_estate": _one_of("property", "real_estate"),
    "property_none": _one_of("property", "none"),
    "other_plans": _one_of("other_plans", "bank", "stores"),
    "housing_own": _one_of("housing", "own"),
    "guarantor": _one_of("other_debtors", "guarantor"),
}
FEATURE_NAMES: Final[tuple[str, ...]] = tuple(_FEATURES)


@dataclass(frozen=True)
class Protected:
    """What a fairness study groups by; one entry per row. No model sees it."""

    age_group: tuple[str, ...]
    foreign_worker: tuple[str, ...]


@dataclass(frozen=True)
class Credit:
    """The data set.

    Attributes:
        inputs: [rows, 24] float32, columns as FEATURE_NAMES.
        defaulted: [rows] float32; 1 = the loan was not repaid.
    """

    inputs: Floats
    defaulted: Floats
    protected: Protected


def encode(rows: Sequence[Row]) -> Floats:
    """[rows, 24] float32.

    Raises:
        KeyError: a column is missing, or a value has no place in its order.
        ValueError: not a number.
    """
    values = [[feature(row) for feature in _FEATURES.values()] for row in rows]
    return np.asarray(values, np.float32).reshape(len(rows), len(FEATURE_NAMES))


def age_group(row: Row) -> str:
    """`young` or `older`."""
    return "young" if int(row["age_years"]) < YOUNG_BELOW_YEARS else "older"


def protected(rows: Sequence[Row]) -> Protected:
    """The protected attributes of the rows."""
    return Protected(tuple(age_group(row) for row in rows), tuple(row["foreign_worker"] for row in rows))


def read_rows(path: Path = DATA_FILE) -> list[Row]:
    """The file's rows, column -> value."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def load(path: Path = DATA_FILE) -> Credit:
    """Read and encode the file."""
    rows = read_rows(path)
    defaulted = np.asarray([row["credit_risk"] == "bad" for row in rows], np.float32)
    return Credit(encode(rows), defaulted, protected(rows))
