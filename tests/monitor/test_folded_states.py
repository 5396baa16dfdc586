"""Several states told as one: what is not known is never hidden behind an ok."""

from itertools import permutations
from typing import Any, get_args

import msgspec
import numpy as np
import pytest

from gateway.cli.monitor_view import line
from gateway.cli.monitoronline import _loud
from gateway.control.monitorviews import worst_states
from gateway.control.monitorwords import headline
from gateway.monitor.board import Board
from gateway.monitor.realised import Labelled
from gateway.monitor.words import NOT_KNOWN, WORST_FIRST, Finding, State, worst_of
from tests.monitor.page_world import NOW_MS, ROWS_OF, held_of, page, plan_of
from tests.monitor.test_fairness_by_labels import HOUR_S, cohort, watching

CALM = [(ROWS_OF, 0.0), (ROWS_OF, 0.0)]


def test_every_state_has_its_place() -> None:
    assert sorted(WORST_FIRST) == sorted(get_args(State))


@pytest.mark.parametrize("unknown", sorted(NOT_KNOWN))
def test_what_is_not_known_among_oks_is_not_ok(unknown: State) -> None:
    some: tuple[State, ...] = ("ok", "resolved", "ok", unknown)
    assert {worst_of(states) for states in permutations(some)} == {unknown}
    assert worst_of([*some, "pending", "firing"]) == "firing"


@pytest.mark.parametrize("order", [("ok", "unknown"), ("unknown", "ok")])
def test_the_list_tells_of_a_version_of_which_nothing_is_known(order: tuple[State, State]) -> None:
    held = held_of(plan_of(1, "f"), CALM)
    at_s = NOW_MS / 1000
    held.monitor.board = Board().take(
        Finding(signal="latency", state=state, version="1", variant=variant, window_from_s=at_s - 60, window_to_s=at_s)
        for variant, state in zip("ab", order, strict=True)
    )
    assert worst_states(held, NOW_MS)["latency"] == "unknown"


def test_too_few_rows_are_not_called_ok_in_the_list() -> None:
    assert _loud({"states": {"input_drift": "ok", "latency": "ok"}}) == "ok"
    assert _loud({"states": {"input_drift": "ok", "latency": "insufficient"}}) == "latency insufficient"


def shown(**states: State) -> dict[str, Any]:
    """A calm view, and these states of some of its signals."""
    view: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(page(held_of(plan_of(2, "f"), CALM))[1]))
    for signal, state in states.items():
        view["versions"]["1"]["variants"]["-"]["signals"][signal]["state"] = state
    return view


def test_the_headline_names_what_is_not_known_and_the_page_is_not_green() -> None:
    calm, dark = shown(), shown(input_drift="unknown")
    assert headline(calm) == "No incident: nothing fires."
    assert headline(dark) == "No incident: nothing fires; not known: input drift of version 1."
    assert "[version 1: input_drift insufficient]" in line(shown(input_drift="insufficient"), 0.0)
    held = held_of(plan_of(2, "f"), CALM)
    assert 'class="verdict calm"' in page(held, versions=calm["versions"])[0]
    assert 'class="verdict unsure"' in page(held, versions=dark["versions"])[0]


def test_errors_of_a_decision_without_labels_are_said_to_be_unknown() -> None:
    watched = watching()
    watched.cohorts.advance(1.0)
    watched.cohorts.predict(1.0, "stable", np.array([[400, 400], [0, 0], [0, 0]]))
    for k in range(400):
        watched.label(Labelled(1.0, 61.0, "stable", 0, 1, 10, int(k < 300)), 1_000)
    (said,) = [one for one in watched.findings([], 6 * HOUR_S * 1000) if one.signal == "concept_drift"]
    assert (said.state, said.text) == ("ok", "errors of decision 0 are not known: too few labels")


def test_groups_that_cannot_be_compared_are_told_beside_what_can() -> None:
    watched = watching()
    assert watched.spec.groups is not None
    watched.spec = msgspec.structs.replace(
        watched.spec, groups=msgspec.structs.replace(watched.spec.groups, min_size=10_000)
    )
    told = cohort(watched, 0, (0.8, 0.8))
    assert (told.state, told.text) == (
        "insufficient",
        "groups cannot be compared by labels: fewer than two have enough rows and labels",
    )
