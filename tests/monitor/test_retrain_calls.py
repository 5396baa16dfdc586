"""The exact request of each target, asked of a real server; secrets stay where they belong."""

import asyncio
import base64
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from gateway.control.outside import call
from gateway.monitor.cloudevents import signature
from gateway.monitor.retrain import Facts, Settings
from gateway.monitor.retraincalls import check, check_secret, data_of, found_in, lookup_of, request_of
from gateway.monitor.retrainer import ATTEMPTS, deliver, read_secret
from tests.monitor.alarm_servers import Server

NOW_S = 1_767_225_600.0
SECRET = "a-secret-of-the-tests"
FACTS = Facts(
    model="credit", version="2", incident="credit/1767225600", verdict="world", sentence="The inputs have shifted.",
    signals=("input_drift", "performance_realised"), features=("age", "income"), reference="0123456789abcdef",
    metric="roc_auc", realised_drop=0.04, window_from_s=NOW_S - 7200, window_to_s=NOW_S, rows=10_000,
)  # fmt: skip
DATA = {
    "key": FACTS.key,
    "model": "credit",
    "version": "2",
    "incident": "credit/1767225600",
    "verdict": "world",
    "sentence": "The inputs have shifted.",
    "signals": ["input_drift", "performance_realised"],
    "features": ["age", "income"],
    "reference": "0123456789abcdef",
    "metric": "roc_auc",
    "estimated_drop": None,
    "realised_drop": 0.04,
    "rows": 10_000,
    "window_from": "2025-12-31T22:00:00.000+00:00",
    "window_to": "2026-01-01T00:00:00.000+00:00",
}


def sent(
    settings: Settings, server: Server, secret: str = SECRET, waits: list[float] | None = None
) -> tuple[bool, str]:
    async def pause(seconds: float) -> None:
        if waits is not None:
            waits.append(seconds)

    check(settings)
    delivery = deliver(
        settings, FACTS, ask=call, secret=lambda: secret, source="/tidegate/n", now_s=lambda: NOW_S, pause=pause
    )
    return asyncio.run(asyncio.wait_for(delivery, 20))


def made(preset: Any, server: Server, target: str = "", **more: Any) -> Settings:
    return Settings(preset=preset, url=server.url, target=target, **{"secret_env": "S", **more})


def test_data():
    assert data_of(FACTS) == DATA
    assert (
        data_of(
            Facts(**{**{name: getattr(FACTS, name) for name in FACTS.__struct_fields__}, "features": ("x" * 999,) * 99})
        )["features"]
        == ["x" * 200] * 20
    )


def test_airflow_with_a_token():
    with Server() as server:
        assert sent(made("airflow", server, "retrain credit"), server) == (True, "HTTP 200")
    (asked,) = server.asked
    assert (asked.method, asked.path) == ("POST", "/api/v2/dags/retrain%20credit/dagRuns")
    assert asked.headers["authorization"] == f"Bearer {SECRET}"
    assert asked.headers["content-type"] == "application/json"
    assert asked.json == {
        "dag_run_id": f"tidegate__{FACTS.key}",
        "logical_date": None,
        "conf": {"tidegate": DATA},
        "note": "credit:2, incident credit/1767225600: The inputs have shifted.",
    }


@pytest.mark.parametrize("field", ["access_token", "jwt_token"])
def test_airflow_with_a_user(field: str):
    with Server((201, {field: "T0KEN"})) as server:
        assert sent(made("airflow", server, "retrain", user="tidegate"), server)[0]
    token, run = server.asked
    assert (token.method, token.path) == ("POST", "/auth/token")
    assert token.json == {"username": "tidegate", "password": SECRET}
    assert run.headers["authorization"] == "Bearer T0KEN"
    assert SECRET.encode() not in run.body


def test_airflow_knows_a_run_by_its_id():
    with Server((409, {})) as server:
        assert sent(made("airflow", server, "retrain"), server) == (True, "HTTP 409")


@pytest.mark.parametrize("user", ["", "admin"])
def test_prefect(user: str):
    with Server((200, {"id": "0a-1b"})) as server:
        assert sent(made("prefect", server, "train/credit model", user=user, parameter="why"), server)[0]
    lookup, run = server.asked
    assert (lookup.method, lookup.path, lookup.body) == ("GET", "/deployments/name/train/credit%20model", b"")
    assert (run.method, run.path) == ("POST", "/deployments/0a-1b/create_flow_run")
    assert run.json == {
        "name": f"tidegate-{FACTS.key[:16]}",
        "parameters": {"why": DATA},
        "tags": ["tidegate", "model:credit"],
        "idempotency_key": FACTS.key,
    }
    basic = base64.b64encode(f"admin:{SECRET}".encode()).decode()
    expected = f"Basic {basic}" if user else f"Bearer {SECRET}"
    assert {asked.headers["authorization"] for asked in server.asked} == {expected}


@pytest.mark.parametrize(
    ("target", "reference"),
    [("p-1", {"pipeline_id": "p-1"}), ("p-1/v-2", {"pipeline_id": "p-1", "pipeline_version_id": "v-2"})],
)
def test_kubeflow(target: str, reference: dict[str, str]):
    with Server() as server:
        assert sent(made("kubeflow", server, target, user="ml@bank"), server)[0]
    (asked,) = server.asked
    assert (asked.method, asked.path) == ("POST", "/apis/v2beta1/runs")
    assert asked.json == {
        "display_name": f"tidegate credit:2 {FACTS.key[:16]}",
        "pipeline_version_reference": reference,
        "runtime_config": {"parameters": {"tidegate": DATA}},
    }
    assert (asked.headers["kubeflow-userid"], asked.headers["authorization"]) == ("ml@bank", f"Bearer {SECRET}")


def test_github():
    with Server((204, {})) as server:
        assert sent(made("github", server, "bank/models"), server) == (True, "HTTP 204")
    (asked,) = server.asked
    assert (asked.method, asked.path) == ("POST", "/repos/bank/models/dispatches")
    assert asked.json == {"event_type": "tidegate-retrain", "client_payload": {"tidegate": DATA}}
    assert asked.headers["accept"] == "application/vnd.github+json"
    assert asked.headers["x-github-api-version"] == "2022-11-28"
    assert request_of("github", Settings(preset="github", target="a/b"), FACTS).url == (
        "https://api.github.com/repos/a/b/dispatches"
    )


def test_webhook():
    with Server() as server:
        settings = Settings(preset="webhook", url=f"{server.url}/hook?x=1", secret_env="S")
        assert sent(settings, server)[0]
    (asked,) = server.asked
    assert asked.path == "/hook?x=1"
    assert asked.headers["content-type"].startswith("application/cloudevents+json")
    expected = signature(SECRET.encode(), int(NOW_S), asked.body)
    assert asked.headers["x-tidegate-signature"] == f"t={NOW_S:.0f},v1={expected}"
    assert asked.json == {
        "specversion": "1.0",
        "id": FACTS.key,
        "source": "/tidegate/n",
        "type": "tidegate.model.retrain.requested",
        "subject": "credit",
        "time": "2026-01-01T00:00:00.000+00:00",
        "datacontenttype": "application/json",
        "data": DATA,
    }


@pytest.mark.parametrize(
    ("statuses", "taken", "note", "waits"),
    [
        ([503, 429], True, "HTTP 200", [0.5, 1.0]),
        ([503] * ATTEMPTS, False, "HTTP 503", [0.5, 1.0, 2.0]),
        ([422], False, "HTTP 422", []),
        ([410], False, "HTTP 410", []),
        ([302], False, "HTTP 302", []),
    ],
)
def test_which_answers_are_asked_again(statuses: list[int], taken: bool, note: str, waits: list[float]):
    got: list[float] = []
    with Server(*[(status, {}) for status in statuses]) as server:
        assert sent(made("webhook", server), server, waits=got) == (taken, note)
    assert got == waits
    assert len({asked.body for asked in server.asked}) == 1


@pytest.mark.parametrize(
    ("answer", "note"),
    [
        ((401, {}), "POST of the token: HTTP 401"),
        ((200, {"token": SECRET}), "the answer has no access_token or jwt_token"),
        ((200, {"access_token": "a\r\nx: y"}), "the answer has no access_token or jwt_token"),
        ((200, [SECRET]), "the answer has no access_token or jwt_token"),
    ],
)
def test_a_token_that_cannot_be_had(answer: tuple[int, object], note: str):
    with Server(answer) as server:
        assert sent(made("airflow", server, "retrain", user="u"), server) == (False, note)
    assert len(server.asked) == 1


def test_nobody_there():
    with Server() as server:
        settings = made("webhook", server)
    taken, note = sent(settings, server)
    assert not taken
    assert "refused" in note


def test_no_answer_is_repeated():
    with pytest.raises(ValueError, match=r"^the answer is nested too deep$"):
        found_in("airflow", b"[" * 200_000)
    with pytest.raises(ValueError, match=r"^the answer is not JSON$"):
        found_in("airflow", SECRET.encode())


# ---- secrets ----


def test_secrets_are_named_and_read(tmp_path: Path):
    path = tmp_path / "secret"
    path.write_text(f" {SECRET}\n")
    assert read_secret(Settings(preset="webhook", secret_file=str(path)), {}) == SECRET
    assert read_secret(Settings(preset="airflow", secret_env="TOKEN"), {"TOKEN": SECRET}) == SECRET
    assert read_secret(Settings(preset="airflow"), {"TOKEN": SECRET}) == ""


@pytest.mark.parametrize(
    ("preset", "content", "message"),
    [
        ("webhook", "short", "secret_file: expected at least 16 characters, got 5"),
        ("airflow", "a b", "secret_file: expected printable ASCII without blanks"),
        ("airflow", "a\r\nx: y", "secret_file: expected printable ASCII without blanks"),
        ("airflow", " \n", "secret_file: nothing is there"),
        ("airflow", "pässword", "secret_file: expected ASCII"),
        ("airflow", None, "secret_file: cannot be read: No such file or directory"),
    ],
)
def test_secrets_that_cannot_be_used(tmp_path: Path, preset: Any, content: str | None, message: str):
    path = tmp_path / "secret"
    if content is not None:
        path.write_text(content, "utf-8")
    with pytest.raises(ValueError, match=f"^{message}$") as caught:
        read_secret(Settings(preset=preset, secret_file=str(path)), {})
    assert content is None or content.strip() == "" or content not in str(caught.value)


def test_an_unset_variable():
    with pytest.raises(ValueError, match=r"^secret_env: TOKEN: nothing is there$"):
        read_secret(Settings(preset="airflow", secret_env="TOKEN"), {})


@pytest.mark.parametrize("preset", ["airflow", "prefect", "kubeflow", "github", "webhook"])
def test_no_secret_is_shown_or_logged(preset: Any, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG)
    target = {"airflow": "d", "prefect": "f/d", "kubeflow": "p", "github": "o/r", "webhook": ""}[preset]
    with Server(*[(500, {"echo": SECRET})] * 9) as server:
        settings = made(preset, server, target, user="u" if preset in ("airflow", "prefect") else "")
        taken, note = sent(settings, server)
        before = lookup_of(settings, SECRET)
        after = request_of(preset, settings, FACTS, secret=SECRET, found="x")
    hidden = (SECRET, base64.b64encode(f"u:{SECRET}".encode()).decode())
    shown = f"{before!r} {after!r} {before} {after} {note} {settings} {caplog.text}"
    assert not taken
    assert not any(text in shown for text in hidden)


# ---- settings ----


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"preset": "airflow"}, "url"),
        ({"preset": "airflow", "url": "airflow:8080", "target": "d"}, "url"),
        ({"preset": "airflow", "url": "http://u:p@airflow", "target": "d"}, "url"),
        ({"preset": "airflow", "url": "http://airflow/?a=b", "target": "d"}, "url"),
        ({"preset": "airflow", "url": "http://air flow", "target": "d"}, "url"),
        ({"preset": "airflow", "url": "http://airflow"}, "target"),
        ({"preset": "airflow", "url": "http://airflow", "target": "a/b"}, "target"),
        ({"preset": "airflow", "url": "http://airflow", "target": ".."}, "target"),
        ({"preset": "airflow", "url": "http://airflow", "target": "d", "user": "u"}, "secret_file"),
        (
            {"preset": "airflow", "url": "http://airflow", "target": "d", "secret_env": "A", "secret_file": "b"},
            "secret",
        ),
        ({"preset": "prefect", "url": "http://prefect/api", "target": "flow"}, "target"),
        ({"preset": "prefect", "url": "http://prefect/api", "target": "flow/"}, "target"),
        ({"preset": "github", "target": "owner", "secret_env": "A"}, "target"),
        ({"preset": "github", "target": "owner/r"}, "secret_file"),
        ({"preset": "webhook", "url": "http://h/"}, "secret_file"),
        ({"preset": "webhook", "url": "http://h/", "secret_env": "A", "target": "x"}, "target"),
        ({"preset": "webhook", "url": "http://h/", "secret_env": "A", "per_day": 0}, "per_day"),
        ({"preset": "webhook", "url": "http://h/", "secret_env": "A", "parameter": "a b"}, "parameter"),
        ({"preset": "webhook", "url": "http://h/", "secret_env": "A", "user": "u"}, "user"),
        ({"preset": "kubeflow", "url": "http://k", "target": "p", "user": "a\nb"}, "user"),
    ],
)
def test_settings_that_cannot_work_are_refused(more: dict[str, Any], field: str):
    with pytest.raises(ValueError, match=f"^{field}"):
        check(Settings(**more))


def test_settings_that_work():
    check(Settings(preset="kubeflow", url="http://ml-pipeline:8888", target="p"))
    check(Settings(preset="airflow", url="https://airflow.example/prefix/", target="retrain", secret_file="x"))
    check(Settings(preset="github", target="o/r", secret_env="GITHUB_TOKEN"))
    check_secret("airflow", "x")


def test_bodies_are_small():
    many = Facts(
        model="m" * 200, version="1", incident="i" * 200, verdict="world", sentence="s" * 500,
        features=tuple("f" * 5_000 for _ in range(500)),
    )  # fmt: skip
    body = request_of("github", Settings(preset="github", target="o/r"), many).body
    assert body is not None
    assert len(body) < 64_000
    assert json.loads(body)["client_payload"]["tidegate"]["key"] == many.key
