"""A real rollout leaves a whole trail: each decision is in audit, log and webhook, and would be taken again."""

import hashlib
import hmac
import http.client
import json
import re
import sqlite3
import subprocess
from pathlib import Path
from typing import Any

import pytest

from gateway.control.policycache import PolicyCache
from gateway.decisionfiles import keyed_prediction
from gateway.unitkeys import keyed, unit_text
from router.hashing import placer
from tests.audit.stage import SECRET, Receiver, Traffic, admin, apply, ask, phase, policy, repository
from tests.tree import TIDEGATE, Tree, serve

pytestmark = pytest.mark.process


@pytest.fixture
def place(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    (tmp_path / "secret").write_text(SECRET + "\n")
    return repository(tmp_path / "models"), {"alerts__webhook_secret_file": str(tmp_path / "secret")}


def records(tree: Tree, query: str = "") -> list[dict[str, Any]]:
    found = admin(tree, "GET", f"audit?order=oldest&limit=1000{query}")
    assert found["next"] is None
    return found["records"]


def test_every_decision_is_told_everywhere_and_decided_again(place: tuple[Path, dict[str, Any]], tmp_path: Path):
    folder, settings = place
    with (
        Receiver() as receiver,
        serve(
            folder, "--workers", "1", "--data-dir", str(tmp_path / "data"), alerts__webhook_url=receiver.url, **settings
        ) as tree,
    ):
        with Traffic(tree):
            apply(tree, policy(2, approval=True))
            tree.until("a step that waits", lambda: phase(tree) in ("BAKING", "DECIDING"))
            admin(tree, "POST", "rollouts/lookup/pause", {"reason": "lunch"})
            admin(tree, "POST", "rollouts/lookup/resume", {"reason": "back"})
            admin(tree, "POST", "rollouts/lookup/approve", {"reason": "fine"})
            tree.until("promotion", lambda: phase(tree) == "PROMOTED")
            apply(tree, policy(3, stable=2))
            tree.until("a rollback", lambda: phase(tree) == "ROLLED_BACK")
        admin(tree, "POST", "policies/lookup/kill", {"variant": "canary", "reason": "to be sure"})
        admin(tree, "POST", "policies/lookup/kill", {"variant": "canary", "killed": False})
        admin(tree, "POST", "policies/lookup/rollback", {"reason": "the one before"})
        admin(tree, "DELETE", "policies/lookup?force=1&reason=over")

        found = records(tree)
        done = [record["what"] for record in found]
        for what in ("apply", "step", "pause", "resume", "approve", "promoting", "promoted", "abort", "kill", "unkill"):
            assert what in done, done
        assert done[-2:] == ["rollback", "delete"] or done[-1] == "delete"
        abort = next(record for record in found if record["what"] == "abort")
        assert abort["actor"] == "auto:guardrail:error_rate"
        for record in found:
            assert {"actor", "what", "reason", "revision_before", "revision_after"} <= set(record), record
            replayed = admin(tree, "POST", f"audit/replay/{record['id']}")
            assert replayed["same"], replayed["text"]
        assert len(admin(tree, "POST", f"audit/replay/{abort['id']}")["checks"]) > 20
        assert admin(tree, "GET", "audit/verify")["ok"]

        by_command(tree, abort["id"], tmp_path / "rollout.html")
        logged = [line["what"] for line in tree.logged("policy_audited")]
        assert logged == done
        tree.until("the last event", lambda: receiver.got and receiver.events()[-1]["type"] == "tidegate.policy.delete")
        events = receiver.events()
        told = [event["data"]["what"] for event in events if "what" in event["data"]]
        assert told == done
        assert len({event["id"] for event in events}) == len(events)
        assert {"tidegate.rollout.started", "tidegate.rollout.rolled_back"} <= {event["type"] for event in events}
        for headers, body in receiver.got:
            assert headers["content-type"].startswith("application/cloudevents+json")
            stamp, sent = headers["x-tidegate-signature"].removeprefix("t=").split(",v1=")
            wanted = hmac.new(SECRET.encode(), f"{stamp}.".encode() + body, hashlib.sha256).hexdigest()
            assert hmac.compare_digest(sent, wanted)
        tree.stop()

    tampered(tmp_path / "data", abort["id"])
    with serve(folder, "--workers", "1", "--data-dir", str(tmp_path / "data")) as tree:
        verified = admin(tree, "GET", "audit/verify")
        assert not verified["ok"]
        # Its own hash was made to fit, so the next record is the first that does not.
        assert f"main/{int(abort['id'].partition('/')[2]) + 1}:" in verified["broken"]
        replayed = admin(tree, "POST", f"audit/replay/{abort['id']}")
        assert "log likelihood ratio" in replayed["text"]


def command(tree: Tree, *arguments: str) -> subprocess.CompletedProcess[str]:
    url = f"http://127.0.0.1:{tree.admin_port}"
    line = [TIDEGATE, *arguments, "--admin-url", url]
    return subprocess.run(line, capture_output=True, text=True, timeout=60)


def by_command(tree: Tree, record: str, page: Path) -> None:
    """The same on the command line, and the page for an auditor."""
    listed = command(tree, "audit", "ls", "--what", "abort", "--since", "1h")
    assert record in listed.stdout, listed.stderr
    assert command(tree, "audit", "verify").returncode == 0
    replayed = command(tree, "audit", "replay", record)
    assert (replayed.returncode, replayed.stdout.splitlines()[-1]) == (0, "same verdict"), replayed.stderr
    shown = json.loads(command(tree, "audit", "show", record).stdout)
    assert shown["record"]["evidence"]["rails"]["error_rate"]["harm"]["canary_events"] > 0
    missing = command(tree, "audit", "replay", "main/99999")
    assert (missing.returncode, "no audit record main/99999" in missing.stderr) == (1, True)
    assert command(tree, "audit", "replay", "abc").returncode == 2
    done = command(tree, "audit", "export", "--rollout", "lookup", "--out", str(page))
    assert done.returncode == 0, done.stderr
    text = page.read_text()
    assert "Outcome: rolled back" in text
    assert "by the guardrail <b>error_rate</b>" in text
    assert "<script" not in text
    assert not re.search(r"(?:src|href|url)\s*[=(]", text)
    assert text.count("same verdict") >= 3


def test_a_prediction_and_a_user_are_found_and_a_user_is_forgotten(tmp_path: Path):
    folder = repository(tmp_path / "models")
    with serve(folder, "--workers", "2", decisions__log=True, decisions__outputs=["y"]) as tree:
        apply(tree, policy(2))
        connection = http.client.HTTPConnection("127.0.0.1", tree.port, timeout=20)
        first = [ask(connection, "alice", 1) for _ in range(3)]
        ask(connection, "bob", 2)
        connection.close()
        assert {status for status, _, _ in first} == {200}

        def lines(user: str) -> list[dict[str, Any]]:
            return admin(tree, "POST", "audit/find", {"unit": user, "model": "lookup"})["decisions"]

        tree.until("lines", lambda: len(lines("alice")) == 3 and len(lines("bob")) == 1)
        assert {line["variant"] for line in lines("alice")} == {first[0][1]}
        assert lines("bob")[0]["outputs"] == {"y": 20.0}
        found = admin(tree, "POST", "audit/find", {"prediction_id": first[1][2]})
        assert [line["variant"] for line in found["decisions"]] == [first[1][1]]
        assert (found["model"], found["log"]) == ("lookup", "files")
        made = admin(tree, "GET", f"audit?prediction_id={first[1][2]}")["records"]
        assert [record["revision_after"] for record in made] == [found["revision"]]
        text = b"".join(path.read_bytes() for path in (tree.data_dir / "decisions").glob("*.jsonl"))
        assert b"alice" not in text
        assert first[1][2].encode() not in text
        assert tree.counter("tidegate_decisions_written_total") == 4

        told = command(tree, "data", "forget", "--unit", "alice", "--model", "lookup")
        assert "decision lines erased: 3" in told.stdout, told.stderr
        assert lines("alice") == []
        assert len(lines("bob")) == 1
        assert admin(tree, "POST", "audit/find", {"prediction_id": first[1][2]})["decisions"] == []
        assert "alice" not in json.dumps(admin(tree, "GET", "audit"))
        status, body = tree.call("POST", "/admin/v1/audit/find", {"prediction_id": "x" * 56}, admin=True)
        assert (status, json.loads(body)["code"]) == (400, "invalid_input")


def test_what_is_done_to_data_is_told_everywhere_and_names_nobody(place: tuple[Path, dict[str, Any]]):
    folder, settings = place
    document = policy(2)
    del document["spec"]["rollout"]
    with (
        Receiver() as receiver,
        serve(folder, "--workers", "1", alerts__webhook_url=receiver.url, **settings) as tree,
    ):
        apply(tree, document)
        connection = http.client.HTTPConnection("127.0.0.1", tree.port, timeout=20)
        _, _, prediction = ask(connection, "alice", 1)
        connection.close()
        for label in ("worthy", "unworthy"):
            status, body = tree.call("POST", "/v1/feedback", {"prediction_id": prediction, "label": label})
            assert status == 200, body
        assert json.loads(body)["outcomes"] == ["replaced"]
        admin(tree, "POST", "data/forget", {"unit": "alice", "model": "lookup"})

        found = records(tree)
        done = ["apply", "feedback_replaced", "forget"]
        assert [record["what"] for record in found] == done
        logged = tree.logged("policy_audited")
        assert [line["what"] for line in logged] == done
        tree.until("the last event", lambda: len(receiver.got) == len(done))
        events = receiver.events()
        assert [event["type"].removeprefix("tidegate.policy.") for event in events] == done
        assert len({event["id"] for event in events}) == len(events)
        assert (logged[1]["count"], events[1]["data"]["count"], events[2]["data"]["feedback_rows"]) == (1, 1, 1)

        whole = [admin(tree, "GET", f"audit/{record['id']}") for record in found]
        assert all(admin(tree, "POST", f"audit/replay/{record['id']}")["same"] for record in found)
        secret = PolicyCache(tree.data_dir).read().unit_key
        assert whole[1]["record"]["replaced"] == [
            {"prediction": keyed_prediction(secret, prediction.encode()), "slot": "label"}
        ]
        unit = unit_text(keyed(secret, "lookup")(placer("sha1-60", "lookup")(b"alice")[1]))
        told = json.dumps([whole, logged, events])
        assert [text for text in (prediction, "worthy", "alice", unit) if text in told] == []


def tampered(data: Path, record: str) -> None:
    """One event of stable more than there was, and the hash of the record made to fit."""
    (path,) = data.rglob("*.db")
    seq = int(record.partition("/")[2])
    with sqlite3.connect(path) as db:
        body, _ = db.execute("SELECT body, hash FROM audit WHERE seq = ?", (seq,)).fetchone()
        document = json.loads(body)
        evidence = json.loads(document["record"]["evidence"])
        events = evidence["rails"]["error_rate"]["events"]
        next(iter(events.values()))[1] += 1
        document["record"]["evidence"] = json.dumps(evidence)
        edited = json.dumps(document, separators=(",", ":"), sort_keys=True).encode()
        digest = hashlib.sha256(bytes.fromhex(document["prev"]) + edited).digest()
        db.execute("UPDATE audit SET body = ?, hash = ? WHERE seq = ?", (edited, digest, seq))
