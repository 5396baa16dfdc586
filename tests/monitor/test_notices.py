"""What is told: one JSON line, a signed event, alerts whose labels are an identity."""

import asyncio
import io
import json
import logging
from typing import Any

import pytest

from gateway import logs
from gateway.control.alerts import Webhook
from gateway.monitor.attribution import Attribution
from gateway.monitor.cloudevents import signature
from gateway.monitor.incidents import Event, Ledger, turn
from gateway.monitor.notices import ALERT_NAMES, Alert, Outlets, alerts_of, facts_of
from gateway.monitor.words import FAMILIES, Finding
from tests.audit.stage import SECRET, Receiver

WORLD = Attribution(verdict="world", action="page", sentence="The inputs have shifted.")
NOW_S = 1_767_225_600.0


def opened(**more: Any) -> tuple[Ledger, tuple[Event, ...]]:
    finding = Finding(
        signal="input_drift", state="firing", version="2", variant="canary", keys=("age", "income"),
        text="PSI 0.31 of 0.1", **more,
    )  # fmt: skip
    found = turn(Ledger(model="credit"), [finding], WORLD, NOW_S)
    return found.ledger, found.events


EXPECTED = {
    "incident": "credit/1767225600",
    "id": "credit/1767225600/1",
    "kind": "opened",
    "reason": "input_drift of canary (age, income) fires, warning",
    "model": "credit",
    "severity": "warning",
    "opened": "2026-01-01T00:00:00.000+00:00",
    "closed": None,
    "verdict": "world",
    "recommended": "page",
    "sentence": "The inputs have shifted.",
    "signals": [
        {
            "signal": "input_drift",
            "version": "2",
            "variant": "canary",
            "severity": "warning",
            "keys": ["age", "income"],
            "text": "PSI 0.31 of 0.1",
            "since": "2026-01-01T00:00:00.000+00:00",
        }
    ],
}


def test_facts():
    _, (event,) = opened()
    assert facts_of(event) == EXPECTED
    assert json.loads(json.dumps(facts_of(event))) == EXPECTED


class Kept:
    def __init__(self) -> None:
        self.on: dict[str, tuple[Alert, ...]] = {}

    def set(self, model: str, alerts: tuple[Alert, ...]) -> None:
        self.on[model] = alerts


def test_everybody_is_told(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO)
    ledger, events = opened()
    kept = Kept()
    with Receiver() as receiver:
        webhook = Webhook(receiver.url, SECRET.encode(), source="/tidegate/n", now_s=lambda: NOW_S)
        outlets = Outlets(alerted=kept)
        outlets.tell(ledger, events)
        webhook.offer("incident.opened", "credit", events[0].id, facts_of(events[0]))
        asyncio.run(asyncio.wait_for(webhook.deliver(), 20))
    (headers, body), event = receiver.got[0], receiver.events()[0]
    assert headers["x-tidegate-signature"] == f"t={NOW_S:.0f},v1={signature(SECRET.encode(), int(NOW_S), body)}"
    assert (event["type"], event["subject"], event["id"]) == ("tidegate.incident.opened", "credit", EXPECTED["id"])
    assert event["data"] == EXPECTED
    (record,) = caplog.records
    assert (record.levelno, record.getMessage(), record.facts) == (logging.WARNING, "monitor_alert", EXPECTED)  # type: ignore[attr-defined]
    assert kept.on == {"credit": alerts_of(ledger)}
    assert outlets.counts == {("input_drift", "warning"): 1}
    # The end: told, not counted as an alarm, and nothing is on.
    clean = Finding(signal="input_drift", state="ok", version="2", variant="canary")
    for _ in range(2):
        found = turn(ledger, [clean], WORLD, NOW_S + 60)
        ledger = found.ledger
        outlets.tell(ledger, found.events)
    assert caplog.records[-1].levelno == logging.INFO
    assert (kept.on, outlets.counts) == ({"credit": ()}, {("input_drift", "warning"): 1})


def test_one_line_of_the_log():
    stream = io.StringIO()
    logs.write("warning", "monitor_alert", facts_of(opened()[1][0]), stream)
    (line,) = stream.getvalue().splitlines()
    assert json.loads(line)["event"] == "monitor_alert"
    assert json.loads(line) == json.loads(line) | EXPECTED, "no field hides another"


def test_labels_are_an_identity():
    first = alerts_of(opened(level=3.1)[0], "http://127.0.0.1:8081/monitors/credit")[0]
    assert first.labels == {
        "alertname": "TidegateInputDrift", "model": "credit", "version": "2", "variant": "canary",
        "signal": "input_drift", "severity": "warning",
    }  # fmt: skip
    assert first.annotations["summary"] == "credit: input_drift of age, income"
    assert first.annotations["description"] == "PSI 0.31 of 0.1"
    assert alerts_of(opened(level=7.0)[0])[0].key == first.key
    assert alerts_of(opened(severity="critical")[0])[0].key != first.key
    assert alerts_of(Ledger(model="credit")) == ()


def test_each_signal_has_a_name_and_a_family():
    assert ALERT_NAMES.keys() == FAMILIES.keys()
    assert len(set(ALERT_NAMES.values())) == len(ALERT_NAMES)
