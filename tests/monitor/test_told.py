"""Who is told while settings change: an address that nobody names any more hears that it is over, and nothing after."""

import asyncio
from datetime import datetime

import pytest

from gateway.control.monitortold import Told
from gateway.monitor.attribution import Attribution
from gateway.monitor.book import ModelMonitor, Outcome
from gateway.monitor.incidents import Ledger, turn
from gateway.monitor.settings import Alerts, Spec
from gateway.monitor.words import Finding
from tests.monitor.alarm_servers import Server

NOW_S = 1_767_225_600.0
WORLD = Attribution(verdict="world", action="page", sentence="The inputs have shifted.")
OF_INPUTS = Finding(signal="input_drift", state="firing", version="1", variant="-", keys=("age",), text="PSI 0.3")


def told_of() -> Told:
    return Told(None, b"", source="/test", now_s=lambda: NOW_S)


def alarmed(name: str, alerts: Alerts) -> ModelMonitor:
    """A monitor with an open incident."""
    monitor = ModelMonitor(name, Spec(alerts=alerts))
    monitor.ledger = turn(Ledger(model=name), [OF_INPUTS], WORLD, NOW_S - 60).ledger
    return monitor


def addresses(told: Told) -> list[str]:
    return [target["host"] for one in told.status() for target in one.get("targets", ())]


async def ended(told: Told) -> None:
    """Until one that is told has come to its end."""
    async with asyncio.timeout(20):
        await asyncio.wait(set(told._tasks), return_when=asyncio.FIRST_COMPLETED)


def ends(server: Server) -> list[list[tuple[str, float]]]:
    """Per request: model and how long its alert goes on, in seconds."""
    return [
        [(one["labels"]["model"], datetime.fromisoformat(one["endsAt"]).timestamp() - NOW_S) for one in asked.json]
        for asked in server.asked
    ]


@pytest.mark.parametrize("how", ["another address", "no address", "not served"])
def test_an_alertmanager_that_is_not_named_any_more_is_told_the_end_once_and_dropped(how: str) -> None:
    with Server() as old, Server() as new:
        host = old.url.removeprefix("http://")

        async def scene() -> None:
            told, before = told_of(), alarmed("credit", Alerts(alertmanager=old.url))
            told.tell(before, Outcome())
            await asyncio.to_thread(old.until, 1)
            if how == "not served":
                told.forget("credit")
            else:
                alerts = Alerts(alertmanager=new.url) if how == "another address" else Alerts()
                told.tell(alarmed("credit", alerts), Outcome())
            await ended(told)
            assert host not in addresses(told)
            if how == "another address":
                await asyncio.to_thread(new.until, 1)
            told.close()

        asyncio.run(scene())
        assert ends(old) == [[("credit", 300.0)], [("credit", 0.0)]]
        assert ends(new) == ([[("credit", 300.0)]] if how == "another address" else [])


def test_an_end_that_an_alertmanager_does_not_take_is_tried_again_and_another_model_keeps_it() -> None:
    with Server() as server:

        async def scene() -> None:
            told, named = told_of(), Alerts(alertmanager=server.url)
            told.tell(alarmed("credit", named), Outcome())
            await asyncio.to_thread(server.until, 1)
            server.answers = [(400, {})]
            told.tell(alarmed("credit", Alerts()), Outcome())
            await asyncio.to_thread(server.until, 2)
            assert len(addresses(told)) == 1, "its end was not taken"
            told.tell(alarmed("loans", named), Outcome())
            await asyncio.to_thread(server.until, 3)
            assert ends(server)[-1] == [("loans", 300.0), ("credit", 0.0)]
            told.tell(alarmed("credit", named), Outcome())
            told.tell(alarmed("loans", Alerts()), Outcome())
            await asyncio.to_thread(server.until, 4)
            assert ends(server)[-1] == [("credit", 300.0), ("loans", 0.0)]
            assert len(addresses(told)) == 1, "a model names it still"
            told.close()

        asyncio.run(scene())
