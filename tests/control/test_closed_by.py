"""Why no step may advance now: freezes, spans of the week where clocks change, zones that a node does not know."""

import asyncio
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from gateway.control.documents import readable
from gateway.control.observing import Circle, observed_by
from gateway.control.plans import NOTHING_KNOWN, closed_by, past_freezes
from router.policy import parse
from router.rollout_document import Window
from router.windows import read_freeze_end
from tests.control.test_policies_lost import opened
from tests.control.test_superseded import document

STEPS = {"to": "canary", "steps": [{"setWeight": 1000}, {"setWeight": 10000}]}
ALWAYS = "Mon-Sun 00:00-24:00"


def window(**spec: Any) -> Window:
    found = parse(document(rollout=STEPS | {"window": spec})).spec.rollout
    assert found is not None
    return found.window


def minutes_open(span: str, day: tuple[int, int, int]) -> int:
    begin = int(datetime(*day, tzinfo=ZoneInfo("UTC")).timestamp()) - 12 * 3600
    one = window(notBefore=[span])
    return sum(not closed_by(one, at_s) for at_s in range(begin, begin + 48 * 3600, 60))


@pytest.mark.parametrize(
    ("span", "day", "minutes"),
    [
        ("Sun 02:00-03:00 Europe/Berlin", (2027, 3, 28), 0),  # there is no such hour
        ("Sun 01:30-03:30 Europe/Berlin", (2027, 3, 28), 60),
        ("Sun 02:00-03:00 Europe/Berlin", (2026, 10, 25), 120),  # there are two
        ("Sun 02:00-03:00 Europe/Berlin", (2026, 11, 1), 60),
    ],
)
def test_a_span_is_of_local_time_where_clocks_change(span: str, day: tuple[int, int, int], minutes: int) -> None:
    assert minutes_open(span, day) == minutes


def test_who_waits_is_told_for_what() -> None:
    """The reason of a freeze was shown to nobody."""
    christmas = {"from": "2026-12-20T00:00:00+01:00", "until": "2026-12-27T00:00:00+01:00", "reason": "Christmas"}
    within = {"from": "2026-12-21T00:00:00Z", "until": "2026-12-22T00:00:00Z", "reason": "audit"}
    at_s = datetime.fromisoformat("2026-12-21T12:00:00+00:00").timestamp()  # a Monday
    said = closed_by(window(freeze=[within, christmas]), at_s)
    assert said == "a freeze is on until 2026-12-27T00:00:00+01:00: Christmas"
    assert closed_by(window(freeze=[christmas]), at_s + 7 * 86_400) == ""
    said = closed_by(window(notBefore=["Tue-Thu 09:00-16:00 Europe/Berlin"]), at_s)
    assert said == "the release window is closed; it opens Tue-Thu 09:00-16:00 Europe/Berlin"
    said = closed_by(window(notBefore=[f"{day} 09:00-16:00 UTC" for day in ("Tue", "Wed", "Thu", "Fri")]), at_s)
    assert said.endswith("Thu 09:00-16:00 UTC and 1 more")


def test_a_zone_that_this_node_does_not_know_is_closed_and_rolls_back_all_the_same(tmp_path: Path) -> None:
    """Another node took it. Each turn of the rollout ended in an error: no abort was carried out, no harm was found."""
    strange = f"{ALWAYS} Mars/Olympus_Mons"
    assert "does not know the time zone of" in closed_by(window(notBefore=[strange]), 0.0)
    assert closed_by(window(notBefore=[strange, f"{ALWAYS} UTC"]), 0.0) == ""

    async def story() -> None:
        policies = await opened(tmp_path / "a.db", tmp_path)
        kept, _ = await policies.apply(document(rollout=STEPS), actor="ada")
        theirs = replace(kept, policy=parse(document(rollout=STEPS | {"window": {"notBefore": [strange]}})))
        observed = observed_by(1, theirs, None, Circle({}), (), NOTHING_KNOWN, 0, store=True)
        assert (observed.window_open, strange in observed.closed_by) == (False, True)
        await policies.store.close()

    asyncio.run(story())


def test_a_freeze_that_is_over_is_warned_of_and_no_error() -> None:
    """A file of a watched folder must not become invalid because time passes."""
    freezes = [
        {"from": "2025-12-20T00:00:00Z", "until": "2026-01-02T00:00:00+01:00"},
        {"from": "2026-12-20T00:00:00Z", "until": "2027-01-02T00:00:00Z"},
    ]
    policy = readable(document(rollout=STEPS | {"window": {"freeze": freezes}}))
    end_ms = read_freeze_end(freezes[0]["until"])
    assert past_freezes(policy, end_ms - 1) == []
    assert past_freezes(policy, end_ms) == [
        "spec.rollout.window.freeze[0] was over at 2026-01-02T00:00:00+01:00: it holds nothing"
    ]
    assert past_freezes(readable(document()), end_ms) == []
