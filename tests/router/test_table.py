"""Which version answers: names, versions, aliases, and errors that help."""

import pytest

from router.errors import UnknownRoute
from router.table import ModelRoute, RoutingTable

TABLE = RoutingTable(
    {
        "credit": ModelRoute(3, (1, 3), {"stable": 1, "gone": 2}),
        "loading": ModelRoute(None, (), {}, "it is loading"),
        "half": ModelRoute(1, (1,), {"next": 2, "now": 1}, "", {1: "it is ready", 2: "session: no"}),
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


@pytest.mark.parametrize("selector", ["2", "next"])
def test_a_version_that_is_wanted_and_not_there_says_why(selector: str) -> None:
    target = TABLE.decide("half", selector)
    assert (target.version, target.explicit, target.reason) == (None, True, "version 2: session: no")
    assert TABLE.decide("half", "now").version == 1
    assert ("half", selector) not in TABLE.selectors()


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
        *[("half", selector) for selector in ("", "1", "now")],
    }
    for name, selector in listed:
        TABLE.decide(name, selector)
