"""Which version answers: names, versions, aliases, and errors that help."""

import pytest

from router.errors import UnknownRoute
from router.table import ModelRoute, RoutingTable

TABLE = RoutingTable(
    {
        "credit": ModelRoute(3, (1, 3), {"stable": 1, "gone": 2}),
        "loading": ModelRoute(None, (), {}, "it is loading"),
    },
    7,
)


@pytest.mark.parametrize(
    ("selector", "version", "explicit"), [("", 3, False), ("1", 1, True), ("3", 3, True), ("stable", 1, True)]
)
def test_what_resolves(selector: str, version: int, explicit: bool) -> None:
    target = TABLE.decide("credit", selector)
    assert (target.name, target.version, target.explicit) == ("credit", version, explicit)


def test_nothing_ready_is_no_error_but_a_reason() -> None:
    assert TABLE.decide("loading", "") == TABLE.decide("loading", "")
    assert (TABLE.decide("loading", "").version, TABLE.decide("loading", "").reason) == (None, "it is loading")


@pytest.mark.parametrize(
    ("name", "selector", "message"),
    [
        ("credti", "", "did you mean 'credit'?"),
        ("x" * 10_000, "", "is not found"),
        ("credit", "stabel", "known aliases: gone, stable"),
        ("credit", "2", "available versions: 1, 3"),
        ("credit", "gone", "available versions: 1, 3"),
        *[("credit", text, "no version or alias") for text in ("01", "0", "-1", "1e3", "9" * 30, "٣", "1 ", "latest")],
    ],
)
def test_what_does_not(name: str, selector: str, message: str) -> None:
    with pytest.raises(UnknownRoute) as error:
        TABLE.decide(name, selector)
    assert message in error.value.message
    assert len(error.value.message) < 400


def test_every_selector_that_is_listed_resolves() -> None:
    listed = TABLE.selectors()
    assert set(listed) == {
        *[("credit", selector) for selector in ("", "1", "3", "stable")],
        ("loading", ""),
    }
    for name, selector in listed:
        TABLE.decide(name, selector)
