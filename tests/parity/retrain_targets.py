"""Requests for retraining against Prefect's and Airflow's own servers, on loopback; `make targets` runs it.

Each target is asked twice with the same key, as after a lost answer, and must have started one run with the facts.
Ends with 1 if anything is otherwise. Nothing of it is needed to run or to test Tidegate.
"""

import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from gateway.control.outside import call
from gateway.monitor.retrain import Facts, Settings
from gateway.monitor.retraincalls import check, data_of
from gateway.monitor.retrainer import deliver

PATIENCE_S = 180.0
NOW_S = 1_767_225_600.0
FACTS = Facts(
    model="credit", version="2", incident="credit/1767225600", verdict="world", sentence="The inputs have shifted.",
    signals=("input_drift", "performance_realised"), features=("age", "income"), reference="0123456789abcdef",
    metric="auc", realised_drop=0.04, window_from_s=NOW_S - 7200, window_to_s=NOW_S, rows=10_000,
)  # fmt: skip
DAG = """
from airflow.sdk import dag, task

@dag(dag_id="retrain", schedule=None)
def retrain():
    @task
    def train():
        pass
    train()

retrain()
"""


def ask(method: str, url: str, body: object = None, headers: Mapping[str, str] | None = None) -> tuple[int, Any]:
    """Status and JSON answer."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json", **(headers or {})}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.loads(answer.read() or b"null")
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(errors="replace")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def server(words: list[str], environment: Mapping[str, str], folder: Path, healthy: str) -> Iterator[None]:
    """A program of this environment until the end of the block; it is ready when `healthy` answers 200."""
    log = folder / "server.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", *words], env={**os.environ, **environment}, stdout=out, stderr=out, cwd=folder
        )
        try:
            until_s = time.monotonic() + PATIENCE_S
            while not is_healthy(healthy):
                if process.poll() is not None or time.monotonic() > until_s:
                    raise SystemExit(f"{words} did not start\n{log.read_text()[-3000:]}")
                time.sleep(0.5)
            yield
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def is_healthy(url: str) -> bool:
    try:
        return ask("GET", url)[0] == 200
    except OSError:
        return False


def deliver_twice(settings: Settings, secret: str) -> list[tuple[bool, str]]:
    check(settings)

    async def both() -> list[tuple[bool, str]]:
        return [
            await deliver(settings, FACTS, ask=call, secret=lambda: secret, source="/tidegate/n", now_s=lambda: NOW_S)
            for _ in range(2)
        ]

    return asyncio.run(both())


def prefect(folder: Path) -> list[str]:
    """What is wrong with the preset `prefect`."""
    port = free_port()
    api = f"http://127.0.0.1:{port}/api"
    environment = {
        "PREFECT_HOME": str(folder / "home"),
        "PREFECT_API_URL": api,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_API_AUTH_STRING": "admin:a-password",
    }
    words = ["prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    basic = {"authorization": "Basic YWRtaW46YS1wYXNzd29yZA=="}
    with server(words, environment, folder, f"{api}/health"):
        _, flow = ask("POST", f"{api}/flows/", {"name": "retrain"}, basic)
        schema = {"type": "object", "properties": {"tidegate": {"type": "object", "title": "tidegate"}}}
        wanted = {"name": "credit", "flow_id": flow["id"], "parameter_openapi_schema": schema}
        _, deployment = ask("POST", f"{api}/deployments/", wanted, basic)
        settings = Settings(preset="prefect", url=api, target="retrain/credit", user="admin", secret_env="S")
        told = deliver_twice(settings, "a-password")
        _, runs = ask("POST", f"{api}/flow_runs/filter", {}, basic)
        refused = deliver_twice(settings, "another")
    found = [run["parameters"].get("tidegate") for run in runs if run["deployment_id"] == deployment["id"]]
    return problems(told, refused, found)


def airflow(folder: Path) -> list[str]:
    """What is wrong with the preset `airflow`."""
    port, home = free_port(), folder / "home"
    (home / "dags").mkdir(parents=True)
    (home / "dags/retrain.py").write_text(DAG)
    passwords = home / "passwords.json"
    passwords.write_text('{"admin": "a-password"}')
    environment = {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "false",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": "admin:admin",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(passwords),
        "AIRFLOW__API_AUTH__JWT_SECRET": "a-secret-of-this-run-that-is-long-enough-for-it-and-more-than-64-bytes",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "false",
    }
    for words in (["db", "migrate"], ["dags", "reserialize"]):
        done = subprocess.run(
            [sys.executable, "-m", "airflow", *words], env={**os.environ, **environment}, capture_output=True, text=True
        )
        if done.returncode:
            raise SystemExit(f"airflow {words}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    url = f"http://127.0.0.1:{port}"
    words = ["airflow", "api-server", "--host", "127.0.0.1", "--port", str(port)]
    with server(words, environment, folder, f"{url}/api/v2/monitor/health"):
        settings = Settings(preset="airflow", url=url, target="retrain", user="admin", secret_env="S")
        told = deliver_twice(settings, "a-password")
        _, token = ask("POST", f"{url}/auth/token", {"username": "admin", "password": "a-password"})
        bearer = {"authorization": f"Bearer {token['access_token']}"}
        _, runs = ask("GET", f"{url}/api/v2/dags/retrain/dagRuns", None, bearer)
        refused = deliver_twice(settings, "another")
    return problems(told, refused, [run["conf"].get("tidegate") for run in runs["dag_runs"]])


def problems(told: list[tuple[bool, str]], refused: list[tuple[bool, str]], runs: list[Any]) -> list[str]:
    """Args: told, refused: of deliveries with a right and a wrong password; runs: facts of those that were started."""
    found = [f"not taken: {note}" for taken, note in told if not taken]
    found += [f"taken with a wrong password: {note}" for taken, note in refused if taken]
    if runs != [json.loads(json.dumps(data_of(FACTS)))]:
        found.append(f"expected one run with the facts, got {runs}")
    return found


def main() -> int:
    """Try what is installed here."""
    status = 0
    for name, package, attempt in (("prefect", "prefect", prefect), ("airflow", "apache-airflow-core", airflow)):
        if name not in sys.argv[1:]:
            continue
        with tempfile.TemporaryDirectory() as folder:
            found = attempt(Path(folder))
        print(f"{package} {version(package)}: {'; '.join(found) or 'one run, twice asked for, with the facts'}")
        status |= bool(found)
    return status


if __name__ == "__main__":
    sys.exit(main())
