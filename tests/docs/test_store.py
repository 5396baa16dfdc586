"""docs/store.md says what is so."""

from dataclasses import fields
from pathlib import Path

from gateway.store.addresses import SCHEMES
from gateway.store.base import Limits
from tests.docs.tables import code, rows

TEXT = (Path(__file__).parents[2] / "docs/store.md").read_text()
UNITS = {"": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}


def number(text: str) -> int:
    amount, _, unit = text.partition(" ")
    return int(amount.replace(",", "")) * UNITS[unit]


def test_every_bound_is_documented_with_its_default():
    documented = {code(row[0]): number(row[2]) for row in rows(TEXT, "limit")}
    assert documented == {field.name: field.default for field in fields(Limits)}


def test_every_scheme_is_documented():
    assert all(f"`{scheme}://" in TEXT for scheme in SCHEMES)
