"""The pages on alerts and retraining: bodies are those that are sent, numbers those of the code."""

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.monitor import alertmanager, apart, incidents, leases, retrain, retrainer
from gateway.monitor.attribution import Arm, Attribution, Compared, attribute
from gateway.monitor.cloudevents import encoded, envelope, signed
from gateway.monitor.incidents import Ledger, turn
from gateway.monitor.notices import ALERT_NAMES, alerts_of, facts_of
from gateway.monitor.retrain import Facts, Settings
from gateway.monitor.retraincalls import data_of, request_of
from gateway.monitor.words import PERFORMANCE, Finding, Signal, State

DOCS = Path(__file__).parents[2] / "docs"
ALERTS = (DOCS / "alerts.md").read_text()
RETRAINING = (DOCS / "retraining.md").read_text()
NOW_S = 1_767_225_600.0


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def world(retrain: bool) -> Attribution:
    states: dict[Signal, State] = {"input_drift": "firing"}
    if retrain:
        states[PERFORMANCE[0]] = "firing"
    return attribute(Arm(variant="stable", states=states), Arm(variant="canary", states=states), Compared())


def opened() -> incidents.Turn:
    finding = Finding(
        signal="input_drift", state="firing", version="2", variant="canary", keys=("age", "income"),
        text="PSI 0.31, floor 0.1",
    )  # fmt: skip
    return turn(Ledger(model="credit"), [finding], world(False), NOW_S)


def test_the_event_is_the_one_that_is_sent():
    (event,) = opened().events
    made = envelope(
        f"incident.{event.kind}", "credit", event.id, facts_of(event), source="/tidegate/node-1", now_s=NOW_S
    )
    assert json.loads(blocks(ALERTS, "json")[0]) == made
    assert all(f"`{kind}`" in ALERTS for kind in ("opened", "changed", "again", "closed"))


def test_the_alert_is_the_one_that_is_sent():
    (alert,) = alerts_of(opened().ledger)
    assert json.loads(blocks(ALERTS, "json")[1]) == [alertmanager.encoded(alert, NOW_S + alertmanager.VALID_S)]
    assert all(f"`{name}`" in ALERTS for name in ALERT_NAMES.values())


def test_the_check_of_a_signature_checks():
    (code,) = blocks(ALERTS, "python")
    space: dict[str, Any] = {}
    exec(code, space)  # a page that does not run is wrong
    secret, body = b"a secret of the tests", encoded({"id": "1"})
    header = signed(body, secret, int(NOW_S))["x-tidegate-signature"]
    assert space["is_ours"](secret, header, body, NOW_S + 299)
    assert not space["is_ours"](secret, header, body, NOW_S + 301)
    assert not space["is_ours"](secret, header, body + b" ", NOW_S)
    assert not space["is_ours"](b"another secret", header, body, NOW_S)
    assert not space["is_ours"](secret, header, body), "now is later"


FACTS = Facts(
    model="credit", version="2", incident="credit/1767225600", verdict="world", sentence=world(True).sentence,
    signals=("input_drift", "performance_realised"), features=("age", "income"), reference="0123456789abcdef",
    metric="roc_auc", realised_drop=0.04, window_from_s=NOW_S - 7200, window_to_s=NOW_S, rows=10_000,
)  # fmt: skip


def filled(text: str) -> Any:
    text = text.replace('"FACTS"', json.dumps(data_of(FACTS))).replace("KEY16", FACTS.key[:16])
    return json.loads(text.replace("KEY", FACTS.key).replace("SENTENCE", FACTS.sentence))


def test_the_facts_are_those_that_are_sent():
    assert filled(blocks(RETRAINING, "json")[0]) == data_of(FACTS)


@pytest.mark.parametrize(
    ("place", "preset", "target"),
    [(1, "airflow", "d"), (2, "prefect", "f/d"), (3, "kubeflow", "P/V"), (4, "github", "o/r"), (5, "webhook", "")],
)
def test_the_bodies_are_those_that_are_sent(place: int, preset: Any, target: str):
    settings = Settings(preset=preset, url="http://127.0.0.1", target=target)
    call = request_of(preset, settings, FACTS, secret="s", found="7", source="/tidegate/node-1", now_s=NOW_S)
    assert call.body is not None
    assert filled(blocks(RETRAINING, "json")[place]) == json.loads(call.body)


@pytest.mark.parametrize(
    ("said", "page"),
    [
        (f"for {incidents.AGAIN_S / 3600:g} hours", ALERTS),
        (f"under {incidents.CLEAN_LEVEL} of its floor", ALERTS),
        (f"keeps {incidents.TIMELINE} lines of its story, the first {incidents.TIMELINE_HEAD}", ALERTS),
        (f"last {incidents.CLOSED} closed incidents are kept with {incidents.CLOSED_TIMELINE} lines", ALERTS),
        (f"at most {incidents.KEYS}, the worst first", ALERTS),
        (f"in {apart.NEEDED} of {apart.OF} windows at {apart.ALPHA}", ALERTS),
        (f"a lease of {leases.TTL_S / 60:g} minutes", ALERTS),
        (f"`cooldown` ({leases.COOLDOWN_S / 60:g} minutes)", ALERTS),
        (f"an end {alertmanager.VALID_S / 60:g} minutes ahead", ALERTS),
        (f"At most {alertmanager.ALERTS:,} alerts", ALERTS),
        (f"`cooldown` ({msgspec.structs.fields(Settings)[7].default / 3600:g} h)", RETRAINING),
        (f"for {retrain.PENDING_S / retrain.DAY_S:g} days", RETRAINING),
        (f"every {retrain.RETRY_S / 60:g} minutes", RETRAINING),
        (f"The last {retrain.KEPT} requests", RETRAINING),
    ],
)
def test_the_numbers_are_those_of_the_code(said: str, page: str):
    assert said in " ".join(page.split())


def test_counts_in_words():
    assert (retrainer.ATTEMPTS, retrain.RETRIES, alertmanager.ATTEMPTS, incidents.CLEAN_WINDOWS) == (4, 5, 3, 2)
