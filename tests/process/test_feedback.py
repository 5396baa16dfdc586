"""Feedback and reports against a real server: what was answered, what was kept, what the report says of it."""

import http.client
import json
import os
import re
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests import models
from tests.process.callers import cli
from tests.store.places import RedisServer
from tests.tree import PATIENCE_S, TIDEGATE, Tree, serve

pytestmark = pytest.mark.process
POLICY = {
    "apiVersion": "tidegate/v1",
    "kind": "TrafficPolicy",
    "metadata": {"name": "fraud"},
    "spec": {
        "variants": [{"name": "old", "model": "fraud:1"}, {"name": "new", "model": "fraud:2"}],
        "unit": {"from": [{"header": "x-user-id"}]},
        "split": {"old": 5000, "new": 5000},
        "shadow": {"variant": "new", "percent": 100, "compare": {"atol": 0.001}},
        "experiment": {
            "control": "old",
            "hypothesis": "<i>new</i> wins",
            "goals": [{"metric": "reward.paid", "type": "proportion", "direction": "up", "mde": 0.05}],
        },
    },
}


def repository(folder: Path) -> Path:
    for version in (1, 2):
        path = folder / "fraud" / str(version)
        path.mkdir(parents=True)
        (path / "model.onnx").write_bytes(models.affine(scale=float(version)))
    return folder


class Client:
    """Asks as an application does, and remembers which variant answered whom."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self._headers = {"authorization": f"Bearer {tree.key}"} if tree.key else {}

    def _asked(self, path: str, data: Any, headers: dict[str, str]) -> tuple[http.client.HTTPResponse, bytes]:
        """On a connection of its own: either worker may answer."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.tree.port, timeout=PATIENCE_S)) as connection:
            connection.request("POST", path, data, self._headers | headers)
            answer = connection.getresponse()
            return answer, answer.read()

    def infer(self, user: str, rows: int = 1, path: str = "/v2/models/fraud/infer") -> tuple[str, str]:
        """The prediction's id and the variant."""
        item = {"name": "x", "shape": [rows, 2], "datatype": "FP32", "data": [1.0, 3.0] * rows}
        headers = {"x-user-id": user} if user else {}
        answer, text = self._asked(path, json.dumps({"inputs": [item]}), headers)
        assert answer.status == 200, text
        return answer.getheader("x-prediction-id") or "", answer.getheader("x-tidegate-variant") or ""

    def feedback(self, body: Any) -> tuple[int, dict[str, Any], str | None]:
        """Status, body, retry-after."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        answer, text = self._asked("/v1/feedback", data, {})
        return answer.status, json.loads(text), answer.getheader("retry-after")

    def kept(self, body: Any) -> list[str]:
        status, found, _ = self.feedback(body)
        assert status == 200, found
        outcomes: list[str] = found["outcomes"]
        assert sum(found["counts"].values()) == len(outcomes)
        return outcomes


def apply(tree: Tree, policy: dict[str, Any] = POLICY) -> None:
    status, body = tree.call("PUT", f"/admin/v1/policies/{policy['metadata']['name']}", policy, admin=True)
    assert status == 200, body
    assert json.loads(body)["in_force_everywhere"]
    tree.until("the experiment", lambda: tree.get("/admin/v1/experiments/fraud", admin=True)[0] == 200)


def report(tree: Tree) -> dict[str, Any]:
    status, body = tree.get("/admin/v1/experiments/fraud", admin=True)
    assert status == 200, body
    found: dict[str, Any] = json.loads(body)
    return found


def arms(tree: Tree) -> dict[str, tuple[int, float | None]]:
    return {arm["variant"]: (arm["units"], arm["mean"]) for arm in report(tree)["goals"][0]["arms"]}


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    with serve(repository(tmp_path / "models"), "--workers", "2", models__quiet_period_ms=0) as found:
        apply(found)
        yield found


def item(prediction: str, paid: float = 1.0, **more: Any) -> dict[str, Any]:
    return {"prediction_id": prediction, "reward": {"paid": paid}, **more}


def forged(prediction: str) -> str:
    return prediction[:-1] + ("A" if prediction[-1] != "A" else "B")


def test_feedback_joins_its_prediction_and_survives_control(tree: Tree):
    client = Client(tree)
    asked = {user: client.infer(f"u{user}") for user in range(60)}
    paid = {user: float(user % 3 == 0) for user in asked}
    body = [item(prediction, paid[user], label="NO") for user, (prediction, _) in asked.items()]
    assert client.kept(body) == ["new"] * 60
    assert client.kept(body) == ["duplicate"] * 60
    wanted = {}
    for variant in ("old", "new"):
        values = [paid[user] for user, (_, found) in asked.items() if found == variant]
        wanted[variant] = (len(values), pytest.approx(sum(values) / len(values)))
    assert arms(tree) == wanted
    tree.until(
        "all requests in the report",
        lambda: sum(arm["requests"] for arm in report(tree)["health"]["arms"]) == 60,
    )
    health = report(tree)["health"]
    assert [arm["units"] for arm in health["arms"]] == [wanted["old"][0], wanted["new"][0]]
    assert [arm["join_rate"] for arm in health["arms"]] == [1.0, 1.0]
    # The last value wins, and who changed it is in the audit trail.
    assert client.kept(item(asked[1][0], 1.0)) == ["replaced"]
    paid[1] = 1.0
    before = arms(tree)
    assert before != wanted
    os.kill(tree.control_pid(), signal.SIGKILL)
    # Sums that are made anew may differ in their last digit.
    same = {variant: (units, pytest.approx(mean)) for variant, (units, mean) in before.items()}
    tree.until("the same report", lambda: _arms_or_none(tree) == same)
    assert client.kept(item(asked[1][0], 1.0)) == ["duplicate"]


def test_counts_of_the_last_seconds_outlive_the_server(tmp_path: Path):
    found, data = repository(tmp_path / "models"), ("--data-dir", str(tmp_path / "data"))
    with serve(found, *data, models__quiet_period_ms=0) as tree:
        apply(tree)
        for user in range(20):
            Client(tree).infer(f"u{user}")
        tree.until("all are counted", lambda: _requests(tree) == 20)
        assert tree.stop() == 0
    with serve(found, *data, models__quiet_period_ms=0) as tree:
        tree.until("the experiment", lambda: tree.get("/admin/v1/experiments/fraud", admin=True)[0] == 200)
        assert _requests(tree) == 20


def test_a_user_is_erased_at_whichever_gateway_is_asked(tmp_path: Path, redis: RedisServer):
    settings = {"store__url": redis.url, "models__quiet_period_ms": 0}
    found = repository(tmp_path / "models")
    with serve(found, **settings) as one, serve(found, **settings) as two:
        apply(one)
        two.until("the experiment", lambda: two.get("/admin/v1/experiments/fraud", admin=True)[0] == 200)
        client = Client(one)
        asked = [client.infer(f"u{user}")[0] for user in range(6)]
        assert client.kept([item(prediction) for prediction in asked]) == ["new"] * 6
        for tree in (one, two):
            tree.until("all are counted", lambda t=tree: _units(t) == (6, 6))
        for left, tree in ((5, one), (4, two)):
            body = {"unit": f"u{left}", "model": "fraud"}
            status, told = tree.call("POST", "/admin/v1/data/forget", body, admin=True)
            assert (status, json.loads(told)["erased"]["experiment_entries"]) == (200, 1), told
            for other in (one, two):
                assert _units(other) == (left, left)


def _units(tree: Tree) -> tuple[int, int]:
    """With rewards, and with requests."""
    found = report(tree)
    return sum(units for units, _ in arms(tree).values()), sum(arm["units"] for arm in found["health"]["arms"])


def _requests(tree: Tree) -> int:
    return sum(int(arm["requests"]) for arm in report(tree)["health"]["arms"])


def _arms_or_none(tree: Tree) -> Any:
    return arms(tree) if tree.get("/admin/v1/experiments/fraud", admin=True)[0] == 200 else None


def test_what_is_refused_and_what_is_no_evidence(tree: Tree):
    client = Client(tree)
    good, _ = client.infer("ann")
    many, _ = client.infer("bob", rows=3)
    without, _ = client.infer("")
    assert client.infer("ann", path="/v2/models/fraud/versions/1/infer")[0] == ""
    told = client.kept(
        [
            item(forged(good)), item(good), item(good), item(good, 0.0), item("x"), item(without),
            *(item(f"{many}/{row}", float(row == 2)) for row in range(3)), item(f"{many}/x"), item(good, model="loans"),
        ]
    )  # fmt: skip
    assert told == [
        "forged", "new", "duplicate", "replaced", "forged", "new", "new", "new", "new", "forged", "unknown_model",
    ]  # fmt: skip
    # ann's last value is 0, bob paid once in three rows, and who has no unit is not compared.
    assert sum(units for units, _ in arms(tree).values()) == 2
    for body, says in (
        ([item(good), {"prediction_id": good, "reward": {"paid": "1"}}], "[1].reward.paid: expected a number"),
        (b"[{", "not valid JSON"),
        (b"", "not valid JSON"),
        ([], "1 to 1,000 items"),
        ([item(good)] * 1_001, "1 to 1,000 items"),
    ):
        status, found, _ = client.feedback(body)
        assert (status, found["code"]) == (400, "invalid_input")
        assert says in found["error"]
    assert client.feedback(b" " * (1024 * 1024 + 1))[0] == 413
    assert tree.call("GET", "/v1/feedback")[0] == 405


def test_while_the_store_is_held_nothing_is_acknowledged(tree: Tree):
    client = Client(tree)
    prediction, _ = client.infer("ann")
    (path,) = [one for one in tree.data_dir.iterdir() if one.is_file() and one.read_bytes()[:15] == b"SQLite format 3"]
    holder = sqlite3.connect(path, isolation_level=None, timeout=20)
    holder.execute("BEGIN IMMEDIATE")
    status, found, retry = client.feedback(item(prediction))
    assert (status, found["code"]) == (503, "store_away")
    assert retry is not None
    holder.execute("ROLLBACK")
    holder.close()
    tree.until("the store is back", lambda: client.feedback(item(prediction))[0] == 200)
    assert client.kept(item(prediction)) == ["duplicate"]
    assert sum(units for units, _ in arms(tree).values()) == 1


def test_another_split_is_another_epoch(tree: Tree):
    client = Client(tree)
    early = [client.infer(f"u{user}")[0] for user in range(20)]
    spec = POLICY["spec"] | {"split": {"old": 1000, "new": 9000}}  # type: ignore[operator]
    with closing(http.client.HTTPConnection("127.0.0.1", tree.admin_port, timeout=PATIENCE_S)) as connection:
        connection.request("PUT", "/admin/v1/policies/fraud", json.dumps(POLICY | {"spec": spec}), {"if-match": '"1"'})
        answer = connection.getresponse()
        assert (answer.status, json.loads(answer.read())["in_force_everywhere"]) == (200, True)
    late = [client.infer(f"v{user}")[0] for user in range(20)]
    assert client.kept([item(one) for one in early + late]) == ["new"] * 40
    epochs = report(tree)["goals"][0]["epochs"]
    assert [sum(arm["units"] for arm in epoch["arms"]) for epoch in epochs if epoch["shares"]["new"] == 9000] == [20]
    assert sum(arm["units"] for epoch in epochs for arm in epoch["arms"]) == 40


def test_the_command_line(tree: Tree, tmp_path: Path):
    client = Client(tree)
    ids = [client.infer(f"u{user}")[0] for user in range(6)]
    table = tmp_path / "paid.csv"
    lines = [f"{one},NO,{user % 2},2026-01-01T00:00:00Z" for user, one in enumerate(ids[:3])]
    table.write_text("prediction_id,label,reward.paid,timestamp\n" + "\n".join(lines) + "\n")
    done = cli(tree, "feedback", "send", str(table), "--json")
    assert (done.returncode, json.loads(done.stdout)) == (0, {"new": 3})
    lines = [json.dumps(item(one)) for one in ids[3:]]
    done = cli(tree, "feedback", "send", "-", "--json", text="\n".join([*lines, "", json.dumps(item(forged(ids[0])))]))
    assert (done.returncode, json.loads(done.stdout)) == (1, {"forged": 1, "new": 3})
    done = cli(tree, "feedback", "send", "-", text='{"prediction_id": "x", "label": []}')
    assert done.returncode == 1
    assert "line 1: label: expected text" in done.stderr

    page = tmp_path / "report.html"
    done = cli(tree, "experiment", "report", "fraud", "--html", str(page))
    assert done.returncode == 0, done.stderr
    assert "goal paid" in done.stdout
    assert re.search(r"share of failed requests per unit\s+variant +requests +units +mean ", done.stdout)
    assert "&lt;i&gt;new&lt;/i&gt; wins" in page.read_text()
    assert "who changed it" in done.stdout
    assert re.search(r"main/\d+ .* apply +", done.stdout)
    done = cli(tree, "experiment", "report", "fraud", "--json")
    found = json.loads(done.stdout)
    assert found["decision"]["variants"] == {"new": "undecided"}
    skew = found["health"]["revision_skew"]
    assert (skew["nodes"], skew["nodes_behind"], skew["workers"], skew["workers_behind"]) == (1, [], 2, 0)
    shown = json.loads(cli(tree, "audit", "show", found["audit"][0]["id"]).stdout)
    assert shown["record"]["document"]["spec"]["experiment"]
    assert (found["state"], found["stop_reason"]) == ("running", "")
    assert cli(tree, "experiment", "report", "loans").returncode == 1
    assert re.search(r"fraud +running ", cli(tree, "experiment", "ls").stdout)

    old = sum(client.infer(f"s{user}")[1] == "old" for user in range(30))
    tree.until("the shadow", lambda: _shadow(tree)["requests"] >= old)
    shown = _shadow(tree)
    assert shown["agreement"] == 0.0, "version 2 answers twice as much"
    assert 0.1 < shown["disagreement"]["low"] < shown["disagreement"]["high"] == 1.0
    assert shown["rows_outside_tolerance"] == shown["rows"] == shown["requests"]
    assert sum(one["rows"] for one in shown["shift_histogram"]) == shown["rows"]
    assert "agreement" in cli(tree, "shadow", "report", "fraud").stdout
    model = report(tree)["model"]
    assert model["shadow"]["variants"][0]["agreement"] == 0.0
    assert (model["arms"], model["arms_missing"][:21]) == (None, "no monitor of 'fraud'")

    gone = cli(tree, "policy", "delete", "fraud", "--force")
    assert gone.returncode == 0, gone.stderr
    assert re.search(r"fraud +ended ", cli(tree, "experiment", "ls").stdout)
    ended = report(tree)
    assert ended["stop_reason"].startswith("delete by ")
    assert (ended["health"]["revision_skew"], ended["model"]["shadow"]) == (None, None)
    assert "delete by " in cli(tree, "experiment", "report", "fraud").stdout


def test_an_experiment_with_data_begins_anew_only_when_somebody_says_so(tree: Tree, tmp_path: Path):
    client, file = Client(tree), tmp_path / "other.json"
    client.kept([item(client.infer(f"u{user}")[0]) for user in range(6)])
    spec = POLICY["spec"] | {"unit": {"from": [{"header": "x-user-id"}], "salt": "another"}}
    file.write_text(json.dumps(POLICY | {"spec": spec}))
    found = json.loads(cli(tree, "policy", "plan", str(file), "--json").stdout)["experiment_dropped"]
    assert (found["changed"], found["rewards"], found["running"]) == (["salt"], 6, True)
    told = cli(tree, "policy", "plan", str(file)).stdout
    assert "the experiment begins anew (another salt); 6 rewards are dropped" in told
    refused = cli(tree, "policy", "apply", str(file), "--force")
    assert (refused.returncode, "Say reset (--reset" in refused.stderr) == (1, True), refused.stderr
    assert sum(units for units, _ in arms(tree).values()) == 6
    done = cli(tree, "policy", "apply", str(file), "--reset", "--reason", "wrong salt")
    assert done.returncode == 0, done.stderr
    assert sum(units for units, _ in arms(tree).values()) == 0
    newest = json.loads(cli(tree, "audit", "ls", "--what", "apply", "--json").stdout)[0]
    assert (newest["reason"], newest["experiment_dropped"]["rewards"]) == ("wrong salt", 6)


def _shadow(tree: Tree) -> dict[str, Any]:
    found = json.loads(cli(tree, "shadow", "report", "fraud", "--json").stdout)
    return next((one for one in found["variants"] if one["variant"] == "new"), {"requests": -1})


def keys(tree: Tree, name: str, *arguments: str) -> str:
    command = [TIDEGATE, "keys", "create", name, *arguments, "--data-dir", str(tree.data_dir)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_keys(tmp_path: Path):
    with serve(repository(tmp_path / "models"), server__auth="keys", models__quiet_period_ms=0) as tree:
        admin = keys(tree, "root", *(part for scope in ("route", "view", "infer") for part in ("--scope", scope)))
        right = keys(tree, "right", "--scope", "feedback", "--model", "fr*")
        wrong = keys(tree, "wrong", "--scope", "feedback", "--model", "loans")
        tree.key = wrong
        # The last that was made: when it is known, all are.
        tree.until("the keys", lambda: [tree.get("/v2")[0] != 401 for _ in range(8)] == [True] * 8)
        tree.key = admin
        apply(tree)
        prediction, _ = Client(tree).infer("ann")
        told = {}
        for name, key in (("right", right), ("wrong", wrong), ("root", admin), ("none", "")):
            tree.key = key
            status, found, _ = Client(tree).feedback(item(prediction))
            told[name] = (status, found.get("outcomes"))
        assert told == {
            "right": (200, ["new"]),
            "wrong": (200, ["forbidden"]),
            "root": (403, None),
            "none": (401, None),
        }
        tree.key = right
        assert tree.get("/admin/v1/experiments/fraud", admin=True)[0] == 403
