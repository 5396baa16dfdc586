"""Who is told: an address that is not named any more hears that it is over; an event is sent until it is taken."""

import asyncio
import threading
from datetime import datetime

import pytest

from gateway.control.alerts import Webhook, address_of
from gateway.control.monitorheld import Held, encoded_state, restore_state
from gateway.control.monitornotes import UNTOLD
from gateway.control.monitortold import Told
from gateway.monitor.attribution import Attribution
from gateway.monitor.book import ModelMonitor, Outcome
from gateway.monitor.incidents import turn
from gateway.monitor.settings import Alerts, Spec
from gateway.monitor.words import Finding
from tests.audit.stage import Receiver
from tests.monitor.alarm_servers import Asked, Server

SECRET = b"a secret of the tests"
NOW_S = 1_767_225_600.0
WORLD = Attribution(verdict="world", action="page", sentence="The inputs have shifted.")
OF_INPUTS = Finding(signal="input_drift", state="firing", version="1", variant="-", keys=("age",), text="PSI 0.3")


def told_of(webhook: Webhook | None = None) -> Told:
    return Told(webhook, SECRET, source="/test", now_s=lambda: NOW_S)


def held_of(name: str, alerts: Alerts) -> Held:
    spec = Spec(alerts=alerts)
    return Held(spec, ModelMonitor(name, spec))


def alarmed(name: str, alerts: Alerts) -> Held:
    """A monitor with an open incident, whose event is to be told."""
    held = held_of(name, alerts)
    found = turn(held.monitor.ledger, [OF_INPUTS], WORLD, NOW_S - 60)
    held.monitor.ledger = found.ledger
    held.notes.take(found.events, held.monitor)
    return held


def started(held: Held) -> Held:
    """As after a start of control."""
    again = held_of(held.monitor.name, held.spec.alerts)
    assert restore_state(again, encoded_state(held)) == ""
    return again


def untold(held: Held) -> list[str]:
    return [note.id for note in held.notes.untold]


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


# ---- events ----


def told_to(server: Server) -> list[tuple[str, str, str]]:
    def facts(asked: Asked) -> tuple[str, str, str]:
        return asked.json["type"], asked.json["id"], asked.json["time"]

    return [facts(asked) for asked in server.asked]


OPENED = ("tidegate.incident.opened", "credit/1767225540/1", "2025-12-31T23:59:00.000+00:00")


def test_an_event_that_nobody_had_taken_when_control_ended_is_sent_after_the_start() -> None:
    with Server((503, {})) as server:

        async def scene() -> None:
            told, held = told_of(), alarmed("credit", Alerts(webhook=server.url))
            told.tell(held, Outcome())
            await asyncio.to_thread(server.until, 1)
            told.tell(held, Outcome())
            assert untold(held) == [OPENED[1]], "it is in hand"
            told.close()
            held, told = started(held), told_of()
            told.tell(held, Outcome())
            await asyncio.to_thread(server.until, 2)
            await until_taken(told, held)
            assert (untold(held), held.moved) == ([], True)
            told.close()
            told = told_of()
            told.tell(started(held), Outcome())
            assert told.status()[0]["waiting"] == 0
            told.close()

        asyncio.run(scene())
        assert told_to(server) == [OPENED, OPENED]


async def until_taken(told: Told, held: Held) -> None:
    """Until a turn finds that webhooks have answered."""
    async with asyncio.timeout(20):
        for _ in range(100_000):
            await asyncio.sleep(0)
            told.tell(held, Outcome())
            if not held.notes.untold:
                return
    raise AssertionError(told.status())


def test_an_event_is_told_once_every_webhook_has_taken_or_refused_it() -> None:
    with Server() as own, Server((400, {})) as named:

        async def scene() -> None:
            node = Webhook(own.url, SECRET, source="/test", now_s=lambda: NOW_S)
            told, held = told_of(node), alarmed("credit", Alerts(webhook=named.url))
            told.tell(held, Outcome())
            await asyncio.to_thread(named.until, 1)
            told.tell(held, Outcome())
            assert untold(held) == [OPENED[1]], "the node's own webhook does not run"
            await node.deliver()
            await until_taken(told, held)
            assert told.dropped == 1, "the other one refused it: a dead letter"
            told.close()

        asyncio.run(scene())
        assert (told_to(own), told_to(named)) == ([OPENED], [OPENED])


def test_a_webhook_that_is_the_nodes_own_gets_each_event_once() -> None:
    with Server() as server:

        async def scene() -> None:
            node = Webhook(server.url, SECRET, source="/test", now_s=lambda: NOW_S)
            told, held = told_of(node), alarmed("credit", Alerts(webhook=server.url.replace("http", "HTTP") + "/"))
            told.tell(held, Outcome())
            assert told.status() == []
            await node.deliver()
            told.tell(held, Outcome())
            assert untold(held) == []
            told.close()

        asyncio.run(scene())
        assert told_to(server) == [OPENED]


def test_a_webhook_that_is_not_named_any_more_is_let_go_of_once_nothing_waits_for_it() -> None:
    """It was kept, with its task, for as long as the node ran."""
    with Receiver([400]) as receiver:
        receiver.gate.clear()

        async def scene() -> None:
            told, named = told_of(), Alerts(webhook=receiver.url)
            told.tell(alarmed("credit", named), Outcome())
            told.tell(alarmed("credit", Alerts()), Outcome())
            for _ in range(10):
                await asyncio.sleep(0)
            assert [one["waiting"] for one in told.status()] == [1], "it has the event in hand"
            receiver.gate.set()
            await ended(told)
            assert (told.status(), told._tasks, told.dropped) == ([], set(), 1)
            told.tell(alarmed("credit", named), Outcome())
            told.tell(alarmed("loans", named), Outcome())
            told.forget("credit")
            for _ in range(10):
                await asyncio.sleep(0)
            assert len(told.status()) == 1, "another model names it"
            told.tell(alarmed("loans", Alerts(webhook=receiver.url + "/x")), Outcome())
            told.tell(alarmed("loans", named), Outcome())
            told.forget("loans")
            async with asyncio.timeout(20):
                while told._tasks:
                    await ended(told)
            assert (told.status(), told.dropped) == ([], 1)

        asyncio.run(scene())
        assert [event["subject"] for event in receiver.events()] == ["loans"], "each was sent once"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("http://a.example", "http://A.example:80/"),
        ("https://a.example/x?y=1", "https://a.example:443/x?y=1#z"),
        ("http://u:p@a.example/", "http://u:p@a.example"),
    ],
)
def test_spellings_of_one_address(one: str, other: str) -> None:
    assert address_of(one) == address_of(other)
    assert address_of(one) not in map(address_of, (one + "x", "https://b.example/", "http://a.example:81/"))


@pytest.mark.parametrize("url", ["ftp://a.example/", "http://", "http://a.example:99999/", "http://a.example/\u00e9"])
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(ValueError, match=r"expected http|Port"):
        address_of(url)


def test_without_a_webhook_nothing_waits_and_with_one_not_without_bound() -> None:
    async def scene() -> None:
        told, held = told_of(), alarmed("credit", Alerts())
        told.tell(held, Outcome())
        assert untold(held) == []
        held = held_of("credit", Alerts())
        for at in range(UNTOLD + 5):
            found = turn(held.monitor.ledger, [OF_INPUTS], WORLD, NOW_S + at)
            held.notes.take(found.events, held.monitor)
        assert len(untold(held)) == UNTOLD
        assert untold(held)[-1] == f"credit/{NOW_S + UNTOLD + 4:.0f}/1"

    asyncio.run(scene())


def test_receivers_that_are_silent_hold_up_nothing_else() -> None:
    """They took all threads that control has: a look at the keys waited half a minute for 40 of them."""

    async def story() -> None:
        silent = threading.Event()

        def send(*_: object) -> int:
            silent.wait(20)
            return 204

        hooks = [Webhook(f"http://r{n}.example", SECRET, source="/", now_s=lambda: NOW_S, send=send) for n in range(40)]
        for hook in hooks:
            hook.offer("rollout.abort", "m", "1", {})
        tasks = [asyncio.create_task(hook.deliver()) for hook in hooks]
        await asyncio.sleep(0)
        try:
            async with asyncio.timeout(5):
                assert await asyncio.to_thread(lambda: "looked")
        finally:
            silent.set()
        await asyncio.gather(*tasks)
        assert [hook.counts["delivered"] for hook in hooks] == [1] * 40

    asyncio.run(story())
