"""Alertmanager: a real one takes an alert and its end; each of several is kept up to date; failures are waited for."""

import asyncio
import json
import shutil
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from gateway.control.outside import post
from gateway.monitor.alertmanager import ALERTS, ATTEMPTS, VALID_S, Alertmanager, url_of
from gateway.monitor.attribution import Attribution
from gateway.monitor.incidents import Ledger, turn
from gateway.monitor.notices import Alert, Outlets
from gateway.monitor.words import Finding, State
from tests.monitor.alarm_servers import ALERTMANAGER, Server, alertmanager

NOW_S = 1_767_225_600.0


class Clock:
    def __init__(self) -> None:
        self.now_s = NOW_S
        self.waits: list[float] = []

    def __call__(self) -> float:
        return self.now_s

    async def pause(self, seconds: float) -> None:
        self.waits.append(seconds)


def sender(clock: Clock, *urls: str) -> Alertmanager:
    return Alertmanager([url_of(url) for url in urls], now_s=clock, send=post, pause=clock.pause)


def push(manager: Alertmanager) -> None:
    asyncio.run(asyncio.wait_for(manager.push(), 20))


def alert(name: str = "TidegateInputDrift", **more: Any) -> Alert:
    return Alert(labels={"alertname": name, "model": "credit"}, annotations={"summary": "s"}, starts_s=NOW_S, **more)


def sent(server: Server) -> list[list[tuple[str, str]]]:
    return [[(one["labels"]["alertname"], one["endsAt"][11:19]) for one in asked.json] for asked in server.asked]


def test_the_body():
    clock = Clock()
    with Server() as server:
        manager = sender(clock, server.url + "/prefix/")
        manager.set("credit", (alert(link="http://127.0.0.1/x"),))
        push(manager)
    (asked,) = server.asked
    assert (asked.method, asked.path) == ("POST", "/prefix/api/v2/alerts")
    assert asked.headers["content-type"] == "application/json"
    assert asked.json == [
        {
            "labels": {"alertname": "TidegateInputDrift", "model": "credit"},
            "annotations": {"summary": "s"},
            "startsAt": "2026-01-01T00:00:00.000+00:00",
            "endsAt": "2026-01-01T00:05:00.000+00:00",
            "generatorURL": "http://127.0.0.1/x",
        }
    ]


def test_what_is_on_is_sent_again_and_its_end_once():
    clock = Clock()
    with Server() as server:
        manager = sender(clock, server.url)
        push(manager)
        assert server.asked == [], "nothing is on"
        for _ in range(3):
            manager.set("credit", (alert(),))
            push(manager)
            clock.now_s += 60
        manager.set("credit", (alert("Other"),))
        push(manager)
        clock.now_s += 60
        push(manager)
        manager.set("credit", ())
        push(manager)
        push(manager)
    assert sent(server) == [
        [("TidegateInputDrift", "00:05:00")],
        [("TidegateInputDrift", "00:06:00")],
        [("TidegateInputDrift", "00:07:00")],
        [("Other", "00:08:00"), ("TidegateInputDrift", "00:03:00")],
        [("Other", "00:09:00")],
        [("Other", "00:04:00")],
    ]


def test_who_leads_no_more_says_neither_that_it_is_on_nor_that_it_is_over():
    clock = Clock()
    with Server() as server:
        manager = sender(clock, server.url)
        manager.set("credit", (alert(),))
        push(manager)
        manager.leave()
        clock.now_s += 60.0
        push(manager)
        assert len(server.asked) == 1
        manager.set("credit", (alert(),))
        push(manager)
    assert len(server.asked) == 2, "it leads again"


def test_the_end_is_sent_until_it_is_taken_or_has_come_by_itself():
    clock = Clock()
    with Server() as server:
        manager = sender(clock, server.url)
        manager.set("credit", (alert(),))
        push(manager)
        manager.set("credit", ())
        server.answers = [(503, {})] * ATTEMPTS
        push(manager)
        assert clock.waits == [0.5, 1.0]
        clock.now_s += 60
        push(manager)
        assert sent(server)[-1] == [("TidegateInputDrift", "00:00:00")], "the time of the end stays"
        count = len(server.asked)
        push(manager)
        assert len(server.asked) == count
        manager.set("credit", (alert(),))
        push(manager)
        manager.set("credit", ())
        server.answers = [(400, {})]
        push(manager)
        clock.now_s += VALID_S + 1
        count = len(server.asked)
        push(manager)
        assert len(server.asked) == count
    assert manager.status()["targets"][0]["over"] == 0


def test_each_of_several_is_kept_up_to_date_by_itself(caplog: pytest.LogCaptureFixture):
    clock = Clock()
    with Server() as gone:
        url = gone.url
    with Server() as up:
        manager = sender(clock, url, up.url)
        manager.set("credit", (alert(),))
        for _ in range(3):
            push(manager)
        status = manager.status()
    assert len(up.asked) == 3
    assert [(target["delivered"], target["failed"]) for target in status["targets"]] == [(0, 3), (3, 0)]
    assert "refused" in status["targets"][0]["reason"]
    assert [record.getMessage() for record in caplog.records] == ["alertmanager_refused"], "the log is told once"
    manager.set("credit", ())
    with Server() as _:
        assert not any(target["over"] for target in manager.status()["targets"]), "never told it, no end to tell"


def test_whatever_one_of_them_meets_the_others_are_told(caplog: pytest.LogCaptureFixture):
    """Anything but an OSError ended the loop, and nobody was told of anything any more."""
    clock = Clock()
    with Server() as up:

        def send(url: str, body: bytes, headers: Mapping[str, str]) -> int:
            if not url.startswith(up.url):
                raise LookupError("nobody thought of it")
            return post(url, body, headers)

        urls = [url_of("http://127.0.0.1:9"), url_of(up.url)]
        manager = Alertmanager(urls, now_s=clock, send=send, pause=clock.pause)
        manager.set("credit", (alert(),))
        for _ in range(2):
            push(manager)
        status = manager.status()["targets"]
    assert [(target["delivered"], target["failed"]) for target in status] == [(0, 2), (2, 0)]
    assert status[0]["reason"] == "unexpected: LookupError"
    assert [record.getMessage() for record in caplog.records] == ["alertmanager_refused"]
    assert caplog.records[0].exc_info is not None


@pytest.mark.parametrize(("status", "asked"), [(400, 1), (422, 1), (429, ATTEMPTS), (500, ATTEMPTS)])
def test_which_answers_are_asked_again(status: int, asked: int):
    clock = Clock()
    with Server(*[(status, {})] * asked) as server:
        manager = sender(clock, server.url)
        manager.set("credit", (alert(),))
        push(manager)
        assert len(server.asked) == asked
        push(manager)
        assert manager.status()["targets"][0]["delivered"] == 1


def test_bounded():
    manager = sender(Clock())
    alerts = tuple(alert(f"a{number}") for number in range(ALERTS + 7))
    manager.set("credit", alerts)
    manager.set("other", alerts[:2])
    assert (manager.status()["on"], manager.dropped) == (ALERTS, 9)
    for _ in range(3):  # each turn says what is on
        manager.set("credit", alerts)
        manager.set("other", alerts[:2])
    assert manager.dropped == 9, "each once while it is left out"
    manager.set("credit", ())
    manager.set("other", alerts[:2])
    assert (manager.status()["on"], manager.dropped) == (2, 9)
    manager.set("credit", alerts)
    assert manager.dropped == 18, "it was over and is left out anew"


@pytest.mark.parametrize(
    ("base", "url"),
    [
        ("http://127.0.0.1:9093", "http://127.0.0.1:9093/api/v2/alerts"),
        ("https://am.example/x/", "https://am.example/x/api/v2/alerts"),
        ("http://am/api/v2/alerts", "http://am/api/v2/alerts"),
    ],
)
def test_addresses(base: str, url: str):
    assert url_of(base) == url


@pytest.mark.parametrize(
    "base", ["", "am:9093", "ftp://am", "http://", "http://u:p@am", "http://am/?x=1", "http://a m"]
)
def test_addresses_that_cannot_work(base: str):
    with pytest.raises(ValueError, match="expected"):
        url_of(base)


@pytest.mark.skipif(shutil.which(ALERTMANAGER) is None, reason="prometheus-alertmanager is not installed: make tools")
def test_a_real_alertmanager_tells_of_an_alert_and_of_its_end(tmp_path: Path):
    world = Attribution(verdict="world", action="page", sentence="The inputs have shifted.")
    drift = {"signal": "input_drift", "version": "2", "keys": ("age",), "text": "PSI 0.31"}

    def finding(state: State) -> Finding:
        return Finding(state=state, **drift)  # type: ignore[arg-type]

    with Server() as page, alertmanager(tmp_path, page.url) as address:

        async def scene() -> None:
            import time

            manager = Alertmanager([url_of(address)], now_s=time.time, send=post)
            outlets = Outlets(alerted=manager, link="http://127.0.0.1:8081/")
            sending = asyncio.create_task(manager.run())
            found = turn(Ledger(model="credit"), [finding("firing")], world, time.time())
            outlets.tell(found.ledger, found.events)
            await asyncio.to_thread(page.until, 1)
            listed = await asyncio.to_thread(_alerts, address)
            assert [one["labels"]["signal"] for one in listed] == ["input_drift"]
            for _ in range(2):
                found = turn(found.ledger, [finding("ok")], world, time.time())
                outlets.tell(found.ledger, found.events)
            await asyncio.to_thread(page.until, 2)
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            assert [target["failed"] for target in manager.status()["targets"]] == [0]

        asyncio.run(asyncio.wait_for(scene(), 60))
    firing, resolved = page.asked[0].json, page.asked[1].json
    assert (firing["status"], resolved["status"]) == ("firing", "resolved")
    (one,) = firing["alerts"]
    assert one["labels"] == {
        "alertname": "TidegateInputDrift", "model": "credit", "version": "2", "variant": "-",
        "signal": "input_drift", "severity": "warning",
    }  # fmt: skip
    assert one["annotations"]["sentence"] == "The inputs have shifted."
    assert one["generatorURL"] == "http://127.0.0.1:8081/"
    assert [alert["labels"] for alert in resolved["alerts"]] == [one["labels"]]


def _alerts(address: str) -> list[dict[str, Any]]:
    with urllib.request.urlopen(f"{address}/api/v2/alerts", timeout=20) as answer:
        found: list[dict[str, Any]] = json.loads(answer.read())
    return found
