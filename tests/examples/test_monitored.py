"""Act three of the demo: what must alarm does, what must not does not, events are checked, and the checks can fail."""

import json
import socket
import time
import urllib.request
from collections import Counter as Counts
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from examples.credit import build, monitored, office, validated
from examples.credit.applicants import GROUPS, JITTER, campaign, drawn, held_out, moved
from examples.credit.crowd import Line
from examples.credit.receiver import FRESH_S, Note, Receiver, is_ours, receiver
from gateway.monitor.counting import Counter, empty
from gateway.monitor.engine import Engine
from gateway.monitor.reference import FILE_NAME, Reference, loaded
from gateway.monitor.retrain import Settings
from gateway.monitor.retraincalls import KIND, check, request_of
from gateway.monitor.settings import Spec
from gateway.monitordocument import read_monitor
from router.policy import parse
from runtimes.registry.strictyaml import load as load_yaml
from tests.monitor.test_retrain_calls import FACTS

SECRET = b"0123456789abcdef"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("watched")
    validated.models(root)
    return root / build.CREDIT


def reference(repository: Path, version: int) -> Reference:
    return loaded((repository / str(version) / FILE_NAME).read_bytes())


def spec() -> Spec:
    with receiver(SECRET) as told:
        text = monitored.document(told, Path("/nowhere")).decode()
    found = read_monitor(text)
    assert not found.problems
    assert found.value is not None
    return found.value.spec


def test_the_document_can_be_applied_and_retraining_can_be_asked_for() -> None:
    found = spec()
    assert found.retrain is not None
    assert found.retrain.secret_file == "/nowhere"
    check(Settings(preset=found.retrain.preset, url=found.retrain.url, secret_file=found.retrain.secret_file))
    assert found.groups is not None
    assert found.groups.values == GROUPS
    assert found.groups.header == office.GROUP_HEADER


@pytest.mark.parametrize("version", [2, 3])
def test_policies_try_the_version_that_they_are_named_for(version: int) -> None:
    policy = parse(load_yaml((monitored.DOCUMENTS / f"version-{version}.yaml").read_text(), "the policy"))
    assert policy.metadata.name == build.CREDIT
    assert [one.model for one in policy.spec.variants] == [f"{build.CREDIT}:1", f"{build.CREDIT}:{version}"]


# ---- applicants and versions ----


def test_applicants_are_the_held_out_loans_moved_a_little() -> None:
    pool, found = held_out(), drawn(held_out(), 200, seed=3)
    assert len(pool.inputs) == 300
    for row, defaulted, group in zip(found.inputs, found.defaulted, found.groups, strict=True):
        near = np.abs(pool.inputs - row) <= JITTER * np.abs(pool.inputs) + 0.1
        at = np.flatnonzero(near.all(axis=1) & (pool.defaulted == defaulted) & (pool.groups == group))
        assert len(at)


def test_the_campaign_brings_larger_and_longer_loans() -> None:
    pool, weights = held_out(), campaign(held_out())
    assert weights.mean() == pytest.approx(1)
    for column in (0, 1):
        assert np.average(pool.inputs[:, column], weights=weights) > 1.4 * pool.inputs[:, column].mean()


def log_odds(scores: Any) -> Any:
    return np.log(scores / (1 - scores))


def test_version_3_answers_otherwise_than_its_reference_says(repository: Path) -> None:
    rows = drawn(held_out(), 500, seed=1)
    given = validated.answers(repository / "3" / "model.onnx", rows)
    notebook = validated.answers(repository / "2" / "model.onnx", rows)
    assert np.allclose(log_odds(given) - log_odds(notebook), np.log(validated.REPAID_TO_DEFAULTED), atol=1e-3)
    one, other = reference(repository, 2), reference(repository, 3)
    assert np.array_equal(one.counts, other.counts)
    assert one.binding.digest != other.binding.digest


def windows(repository: Path, version: int, rows: int, weights: Any, count: int, seed: int) -> list[dict[str, str]]:
    """States of each signal's family after windows of applicants."""
    found, rng, pool = reference(repository, version), np.random.default_rng(seed), held_out()
    engine, counter = Engine(found, spec()), Counter(found.plan)
    states: list[dict[str, str]] = []
    share = None if weights is None else weights / weights.sum()
    for at in range(count):
        chosen = moved(pool.chosen(rng.choice(len(pool.inputs), rows, p=share)), rng)
        vector = empty(found.plan)
        scores = validated.answers(repository / str(version) / "model.onnx", chosen)
        counter.count([chosen.inputs], [scores], chosen.groups, vector)
        for closed in engine.take("-", vector, 2_000 * (at + 1)):
            result = closed.result
            assert result.performance is not None
            states.append({one.family: one.state for one in result.families} | {"estimated": result.performance.state})
    return states


@pytest.mark.parametrize("version", [1, 2])
def test_usual_applicants_never_alarm_and_the_campaign_does_at_the_second_window(
    repository: Path, version: int
) -> None:
    calm = windows(repository, version, 1_000, None, 30, seed=5)
    assert len(calm) == 30
    assert not any("firing" in states.values() for states in calm)
    after = windows(repository, version, 1_000, campaign(held_out()), 2, seed=6)[-1]
    assert {after[name] for name in ("input", "prediction", "estimated")} == {"firing"}


def test_the_answers_of_version_3_alarm_at_the_second_window_and_its_inputs_do_not(repository: Path) -> None:
    after = windows(repository, 3, 1_000, None, 2, seed=7)[-1]
    assert (after["prediction"], after["input"]) == ("firing", "ok")


# ---- the receiver ----


def signed(now_s: float, secret: str = SECRET.decode()) -> Any:
    settings = Settings(preset="webhook", url="http://127.0.0.1/retrain", secret_file="f")
    return request_of("webhook", settings, FACTS, secret=secret, now_s=now_s)


def test_an_event_is_ours_by_its_secret_and_its_time() -> None:
    call = signed(1_000)
    header = call.headers["x-tidegate-signature"]
    assert is_ours(SECRET, header, call.body, 1_000 + FRESH_S)
    assert not is_ours(SECRET, header, call.body, 1_001 + FRESH_S)
    assert not is_ours(SECRET, header, call.body + b" ", 1_000)
    assert not is_ours(b"another secret..", header, call.body, 1_000)
    assert not any(is_ours(SECRET, bad, call.body, 1_000) for bad in ("", "t=x,v1=y", "v1=y", "nothing"))


def send(told: Receiver, secret: str) -> None:
    call = signed(int(time.time()), secret)
    request = urllib.request.Request(f"{told.url}/retrain", call.body, call.headers)
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.status == 202


def test_what_came_is_noted_with_whether_it_was_signed() -> None:
    with receiver(SECRET) as told:
        send(told, SECRET.decode())
        send(told, "another secret..")
    assert [(note.kind, note.signed) for note in told.notes] == [(KIND, True), (KIND, False)]
    assert monitored.told(told.notes[0]).startswith(f"asked to train {FACTS.model}:{FACTS.version} anew")
    assert monitored.retrainings(told.notes) == told.notes
    assert monitored.signature_check(told.notes[:1])[1]
    assert not monitored.signature_check(told.notes)[1]
    assert not monitored.signature_check([])[1]


# ---- the office ----


@pytest.fixture
def clerk() -> Iterator[tuple[office.Clerk, socket.socket]]:
    """Without applications, and the server's end of its line for labels."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        made = office.Clerk.__new__(office.Clerk)
        made.told, made._lines, made._due, made._reported = office.Told(), [], deque(), 0
        made._reports = Line(server.getsockname())
        accepted, _ = server.accept()
        with accepted:
            yield made, accepted
        made._reports.close()


def head(id: bytes) -> dict[bytes, bytes]:
    return {b"x-tidegate-model": b"credit-scoring:2", b"x-tidegate-variant": b"canary", b"x-prediction-id": id}


def test_labels_are_sent_by_id_when_they_are_due(clerk: tuple[office.Clerk, socket.socket]) -> None:
    made, server = clerk
    made.note(1, 0.0, 200, head(b"Ab"), b"")
    made.note(0, 2.0, 200, head(b"cD"), b"")
    made.note(0, 0.0, 503, {}, b"away")
    made.report(office.LABEL_AFTER_S)
    body = server.recv(65536).partition(b"\r\n\r\n")[2]
    assert json.loads(body) == [{"prediction_id": "Ab", "label": 1}]
    answer = b'{"counts":{"new":1},"outcomes":["new"]}'
    server.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(answer), answer))
    made.report(office.LABEL_AFTER_S)
    assert made.told.labels == {"new": 1}
    assert made.told.answers == {("canary", "2"): 2}
    assert (made.told.failed, made.told.problem) == (1, "status 503: b'away'")


def test_ids_keep_their_letters_on_the_way(clerk: tuple[office.Clerk, socket.socket]) -> None:
    made, server = clerk
    server.sendall(b"HTTP/1.1 200 OK\r\nX-Prediction-Id: AbC\r\nContent-Length: 0\r\n\r\n")
    assert made._reports.receive()[1][b"x-prediction-id"] == b"AbC"


def test_an_application_names_its_group_and_its_length() -> None:
    text = office.application([1.0, 2.0], "young")
    headers, _, body = text.partition(b"\r\n\r\n")
    assert b"x-age-group: young" in headers.split(b"\r\n")
    assert b"content-length: %d" % len(body) in headers.split(b"\r\n")


def test_what_processes_were_told_adds_up() -> None:
    one = office.Told(2, 1, Counts({("-", "1"): 1}), Counts(new=1), "bad")
    other = office.Told(3, 0, Counts({("-", "1"): 3}), Counts(new=2))
    assert office.merged([one, other]) == office.Told(5, 1, Counts({("-", "1"): 4}), Counts(new=3), "bad")


# ---- what is seen, and the checks ----


def signal(state: str) -> dict[str, Any]:
    return {"state": state, "keys": []}


def view(stable: dict[str, str], canary: dict[str, str], verdict: str = "world", **rollout: Any) -> dict[str, Any]:
    def of(states: dict[str, str], variant: str) -> dict[str, Any]:
        return {"variants": {variant: {"signals": {name: signal(state) for name, state in states.items()},
                                       "windows": [{"reason": ""}] * monitored.WINDOWS}}}  # fmt: skip

    return {
        "roles": {"champion": ["1", "stable"], "canary": ["2", "canary"]},
        "versions": {"1": of(stable, "stable"), "2": of(canary, "canary")},
        "incident": {"id": "one"},
        "attribution": {"verdict": verdict},
        "rollout": {"state": "BAKING", "slots": 5000, **rollout},
    }


FIRING = {"input_drift": "firing", "performance_estimated": "firing", "performance_realised": "firing"}
CALM = dict.fromkeys(FIRING, "ok")


def test_a_change_of_one_variant_is_no_change_of_the_world() -> None:
    assert monitored.is_world(view(FIRING, FIRING))
    assert not monitored.is_world(view(FIRING, CALM))
    assert not monitored.is_world(view(FIRING, FIRING, "unclear"))
    assert not monitored.is_world(view(FIRING, FIRING) | {"incident": None})


def test_an_estimate_alone_is_not_confirmed() -> None:
    assert monitored.is_worse(view(FIRING, CALM), "stable")
    assert not monitored.is_worse(view(FIRING | {"performance_realised": "pending"}, CALM), "stable")
    assert not monitored.is_worse(view({"performance_estimated": "firing"}, CALM), "stable")


def test_pending_is_not_well_and_neither_are_few_windows() -> None:
    assert monitored.well(view(CALM, CALM), "canary")
    assert not monitored.well(view(CALM, CALM | {"fairness": "pending"}), "canary")
    few = view(CALM, CALM)
    few["versions"]["2"]["variants"]["canary"]["windows"][0]["reason"] = "few_rows"
    few["versions"]["2"]["variants"]["canary"]["windows"] = few["versions"]["2"]["variants"]["canary"]["windows"][:1]
    assert not monitored.well(few, "canary")
    assert not monitored.well(view(CALM, CALM) | {"versions": {}}, "stable")


def test_a_line_says_what_fires_and_what_the_canary_gets() -> None:
    text = monitored.line(view(FIRING | {"fairness": "pending"}, CALM))
    assert text == (
        "stable (version 1): input_drift, performance_estimated, performance_realised firing, fairness pending; "
        "canary (version 2): well; canary gets 50 %"
    )
    assert monitored.line(view(CALM, {}, state="ROLLED_BACK")).endswith(
        "canary (version 2): no window yet; rolled back"
    )


def test_an_incident_is_told_with_its_reasons() -> None:
    data = {"severity": "critical", "verdict": "model", "sentence": "Roll it back.", "reason": "a fires; b fires"}
    text = monitored.told(Note("/alerts", True, {"type": "tidegate.incident.opened", "data": data}))
    assert [line.strip() for line in text.splitlines()] == [
        "told: incident.opened, critical, verdict model: Roll it back.", "a fires", "b fires",
    ]  # fmt: skip
    closed = monitored.told(Note("/alerts", True, {"type": "tidegate.incident.closed", "data": data}))
    assert closed == "told: incident.closed: a fires; b fires"
