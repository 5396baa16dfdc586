"""Labels that come later: counted exactly, a drop that they prove, and a training asked for because of it."""

import base64
import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from gateway.predictions import ID_CHARS
from tests.monitor.alarm_servers import Server
from tests.process import monitored
from tests.process.callers import apply, policy
from tests.process.monitored import (
    ANALYSIS,
    BEFORE,
    NAME,
    Sender,
    as_json,
    binary,
    put,
    seen,
    series,
    until_counted,
    until_watched,
)
from tests.tree import Tree, serve

pytestmark = pytest.mark.process
SPAN_S = 900
"""Of a cohort with the default settings."""


class Prediction(NamedTuple):
    id: str
    decision: int
    time_s: int
    truth: int


def predict(sender: Sender, rows: range) -> list[Prediction]:
    """One-row requests, one by one."""
    found = []
    for at in rows:
        answer = sender.ask(as_json(BEFORE[at : at + 1]))
        assert answer.status == 200, answer
        score = json.loads(answer.body)["outputs"][0]["data"][0]
        id = answer.headers["x-prediction-id"]
        time_s = int.from_bytes(base64.urlsafe_b64decode(id)[11:15], "big")
        found.append(Prediction(id, int(score >= 0.5), time_s, int(ANALYSIS.repaid[at])))
    sender.rows += len(found)
    return found


def label(tree: Tree, items: Sequence[tuple[str, object]]) -> dict[str, int]:
    """Send labels; the counts of what became of them."""
    found: dict[str, int] = {}
    for at in range(0, len(items), 500):
        body = [{"prediction_id": id, "label": value} for id, value in items[at : at + 500]]
        status, answer = tree.call("POST", "/v1/feedback", body)
        assert status == 200, answer
        for kind, count in json.loads(answer)["counts"].items():
            found[kind] = found.get(kind, 0) + count
    return found


def cohorts(tree: Tree) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = series(seen(tree)).get("cohorts", [])
    return found


def truth(predictions: Sequence[Prediction], labels: dict[str, int]) -> tuple[dict[str, float], list[float]]:
    """Accuracy and precision, each decision class weighed by its predictions; coverage of each class."""
    right, coverage, shares = [], [], []
    for decision in (0, 1):
        mine = [one for one in predictions if one.decision == decision]
        known = [labels[one.id] for one in mine if one.id in labels]
        right.append(sum(value == decision for value in known) / len(known))
        coverage.append(len(known) / len(mine))
        shares.append(len(mine) / len(predictions))
    return {"accuracy": sum(a * b for a, b in zip(right, shares, strict=True)), "precision": right[1]}, coverage


def test_labels_are_counted_exactly_however_they_come(tmp_path: Path) -> None:
    with serve(monitored.repository(tmp_path), "--workers", "2", models__quiet_period_ms=0) as tree:
        put(tree, window={"rows": 400}, labels={"min_coverage": 0.5})
        until_watched(tree)
        tree.until("the middle of a cohort", lambda: 5 < time.time() % SPAN_S < SPAN_S - 60, 80)
        senders = [Sender(tree), Sender(tree)]
        known = predict(senders[0], range(400)) + predict(senders[1], range(400, 800))
        until_counted(tree, 800)
        labels = {one.id: one.truth for one in known[:700]}

        def exact() -> bool:
            wanted, coverage = truth(known, labels)
            (cohort,) = cohorts(tree)
            found = {name: cohort["values"].get(name) for name in wanted}
            return bool(
                (cohort["predictions"], cohort["rows"]) == (len(known), len(labels))
                and cohort["coverage"] == pytest.approx(coverage)
                and found == pytest.approx(wanted)
            )

        assert label(tree, [(id, str(value)) for id, value in labels.items()]) == {"new": 700}
        tree.until("all labels", exact)
        # Again, in another form of the same value; in a list with ids that are not ours.
        assert label(tree, list(labels.items())[:50])["replaced"] == 50
        assert label(tree, [("x" * ID_CHARS, 1), (known[0].id, known[0].truth)]) == {"forged": 1, "duplicate": 1}
        tree.until("the same", exact)
        for one in known[100:160]:
            labels[one.id] = 1 - labels[one.id]
        assert label(tree, [(one.id, labels[one.id]) for one in known[100:160]]) == {"replaced": 60}
        tree.until("others instead", exact)
        late = {one.id: one.truth for one in known[700:]}
        labels |= late
        assert label(tree, list(late.items())) == {"new": 100}
        tree.until("and the rest", exact)
        delays = series(seen(tree))["label_delay_s"]
        assert 1.0 <= delays["0.5"] <= 60.0
        told = seen(tree)["versions"]["1"]["labels"]
        assert (told["too_late"], told["unplaced"]) == (0, 0)
        for sender in senders:
            sender.close()


def predict_together(sender: Sender, at: int, size: int, headers: str = "") -> list[Prediction]:
    """One request of several rows, each with its own id."""
    answer = sender.ask(as_json(BEFORE[at : at + size]), headers)
    assert answer.status == 200, answer
    scores = json.loads(answer.body)["outputs"][0]["data"]
    id = answer.headers["x-prediction-id"]
    time_s = int.from_bytes(base64.urlsafe_b64decode(id)[11:15], "big")
    truths = ANALYSIS.repaid[at : at + size].tolist()
    sender.rows += size
    return [
        Prediction(id if size == 1 else f"{id}/{k}", int(score >= 0.5), time_s, int(true))
        for k, (score, true) in enumerate(zip(scores, truths, strict=True))
    ]


def test_rows_of_larger_requests_have_labels_of_their_own(tmp_path: Path) -> None:
    with serve(monitored.repository(tmp_path), "--workers", "2", models__quiet_period_ms=0) as tree:
        put(tree, window={"rows": 400}, labels={"min_coverage": 0.5})
        until_watched(tree)
        tree.until("the middle of a cohort", lambda: 5 < time.time() % SPAN_S < SPAN_S - 60, 80)
        sender, known, at = Sender(tree), list[Prediction](), 0
        for size in (1, 2, 8, 1, 31, 64) * 8:
            known += predict_together(sender, at, size)
            at += size
        too_large = predict_together(sender, at, 144)
        known_rows, rows = len(known), len(known) + len(too_large)
        assert {len(one.id.partition("/")[0]) for one in too_large} == {ID_CHARS}
        assert max(len(one.id.partition("/")[0]) for one in known) == 156
        until_counted(tree, rows)

        def exact(labels: dict[str, int]) -> bool:
            # Rows without a score in their id are predictions too, and none of their labels count.
            wanted, coverage = truth(known + too_large, labels)
            (cohort,) = cohorts(tree)
            found = {name: cohort["values"].get(name) for name in wanted}
            return bool(
                (cohort["predictions"], cohort["rows"]) == (rows, len(labels))
                and cohort["coverage"] == pytest.approx(coverage)
                and found == pytest.approx(wanted)
            )

        labels = {one.id: one.truth for one in known}
        assert label(tree, list(labels.items())) == {"new": known_rows}
        tree.until("all rows", lambda: exact(labels))
        # Once more; one of them instead; a row that was not there; an id without its tail; a tail of another answer.
        assert label(tree, list(labels.items())[:100]) == {"duplicate": 100}
        first, second = known[1].id.partition("/")[0], known[3].id.partition("/")[0]
        mixed = [one[:ID_CHARS] + other[ID_CHARS:] for one, other in ((first, second), (second, first))]
        bad = [f"{first}/2", *[f"{one}/0" for one in (first[:ID_CHARS], *mixed)]]
        assert label(tree, [(id, 1) for id in bad]) == {"forged": 4}
        for one in known[60:90]:
            labels[one.id] = 1 - labels[one.id]
        assert label(tree, [(one.id, labels[one.id]) for one in known[60:90]]) == {"replaced": 30}
        tree.until("others instead", lambda: exact(labels))
        # More rows than an id has room for: kept, not placed, and counted as such.
        assert label(tree, [(one.id, one.truth) for one in too_large]) == {"new": len(too_large)}
        tree.until("they are counted", lambda: seen(tree)["versions"]["1"]["labels"]["unplaced"] == len(too_large))
        assert exact(labels)
        sender.close()


def test_gaps_by_labels_are_shown_and_exported_once_a_cohort_has_matured(tmp_path: Path) -> None:
    groups = {"header": "x-group", "values": ["men", "women"], "min_size": 30}
    with serve(monitored.repository(tmp_path), "--workers", "1", models__quiet_period_ms=0) as tree:
        put(tree, window={"rows": 400}, labels={"min_coverage": 0.2, "mature_after": "16s"}, groups=groups)
        until_watched(tree)
        sender, at, known = Sender(tree), 0, dict[str, list[Prediction]](men=[], women=[])
        # Of 4 s. The clock of ids is 0.1 s late at most, and rows are counted within a second.
        tree.until("the first half of a cohort", lambda: 0.5 < time.time() % 4 < 1.5, 20)
        for size in (32,) * 24:
            group = ("men", "women")[at // size % 2]
            known[group] += predict_together(sender, at, size, f"x-group: {group}\r\n")
            at += size
        # Men get what they were given; of women every label is the other one.
        labels = [(one.id, one.decision) for one in known["men"]] + [
            (one.id, 1 - one.decision) for one in known["women"]
        ]
        assert label(tree, labels) == {"new": len(labels)}
        found: dict[str, dict[str, Any]] = {}

        def gaps() -> bool:
            nonlocal found
            found = {one["group"]: one for one in series(seen(tree)).get("fairness_by_labels", [])}
            return bool(found)

        tree.until("a matured cohort", gaps, 60)
        assert (found["men"]["tpr"], found["men"]["fpr"]) == (1.0, 0.0)
        assert (found["women"]["tpr"], found["women"]["fpr"]) == (0.0, 1.0)
        shown = series(seen(tree))
        realised = {one["group"]: one["realised"] for one in shown["groups"]}
        assert (realised["men"]["values"]["accuracy"], realised["women"]["values"]["accuracy"]) == (1.0, 0.0)
        assert all(one["coverage"] == [1.0, 1.0] and one["label_delay_s"] for one in shown["groups"])
        # The first answers of a node are where it begins to count; each of these was executed alone.
        counted = {one["stage"]: one["counted"] for one in shown["stages"]}
        assert 0 < counted["request"] == counted["queue"] == counted["execution"] <= 24
        page = tree.get("/metrics", admin=True)[1]
        text = page.decode() if isinstance(page, bytes) else page
        assert {line.rsplit(" ", 1)[1] for line in text.splitlines() if line.startswith("tidegate_fairness_gap{")} <= {
            "0.0", "1.0", "-1.0",
        }  # fmt: skip
        assert "tidegate_fairness_gap{" in text
        sender.close()


def test_rows_of_larger_requests_count_in_the_variant_that_answered(tmp_path: Path) -> None:
    folder = monitored.repository(tmp_path, (1, 2), "version_policy: {all: true}\n")
    (folder / NAME / "2" / "note.txt").write_text("another version of the same\n")
    with serve(folder, "--workers", "1", models__quiet_period_ms=0) as tree:
        put(tree, window={"rows": 100}, labels={"min_coverage": 0.5}, min_rows=1)
        # The policy wants no ids; the monitor does, and one that does is enough.
        apply(tree, policy(NAME, split={"stable": 5_000, "canary": 5_000}, feedback={"ids": False}))
        until_watched(tree, versions=(1, 2))
        tree.until("the middle of a cohort", lambda: 5 < time.time() % SPAN_S < SPAN_S - 60, 80)
        sender, known = Sender(tree), dict[str, list[Prediction]](stable=[], canary=[])
        for user in range(80):
            rows = predict_together(sender, user * 5, 5, f"x-user-id: u{user}\r\n")
            known[("stable", "canary")[base64.urlsafe_b64decode(rows[0].id.partition("/")[0])[10]]] += rows
        assert min(map(len, known.values())) >= 100
        until_counted(tree, sender.rows)
        labels = {one.id: one.truth for one in known["stable"]} | {one.id: 1 - one.truth for one in known["canary"]}
        assert label(tree, list(labels.items())) == {"new": sender.rows}

        def exact(version: str, variant: str) -> bool:
            (cohort,) = series(seen(tree), version, variant)["cohorts"]
            mine = known[variant]
            wanted, _ = truth(mine, labels)
            found = {name: cohort["values"].get(name) for name in wanted}
            return (cohort["predictions"], cohort["rows"], found) == (len(mine), len(mine), pytest.approx(wanted))

        tree.until("stable's rows", lambda: exact("1", "stable"))
        tree.until("the canary's", lambda: exact("2", "canary"))
        sender.close()


def test_where_no_labels_come_answers_have_no_ids_and_all_else_goes_on(tmp_path: Path) -> None:
    with serve(monitored.repository(tmp_path), "--workers", "1", models__quiet_period_ms=0) as tree:
        until_watched(tree)
        sender = Sender(tree)
        predict(sender, range(10))

        def is_named() -> bool:
            answer = sender.ask(as_json(BEFORE[:1]))
            assert answer.status == 200, answer
            sender.rows += 1
            return "x-prediction-id" in answer.headers

        put(tree, labels={"ids": False})
        tree.until("no id", lambda: not is_named())
        until_counted(tree, sender.rows)
        put(tree, labels={"ids": True})
        tree.until("an id", is_named)
        until_counted(tree, sender.rows)
        sender.close()


@contextmanager
def traffic(tree: Tree) -> Iterator[None]:
    """Rows of the same world, so that windows go on."""
    stopping = threading.Event()

    def run() -> None:
        sender, at = Sender(tree), 0
        while not stopping.wait(0.02):
            at = (at + 10) % 20_000
            assert sender.ask(*binary(BEFORE[at : at + 10])).status == 200
        sender.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join(30)


def asked(tree: Tree) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = seen(tree)["retraining"]
    return found


def test_a_drop_that_labels_prove_asks_for_a_training_once_a_person_agrees(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("0123456789abcdef0123456789abcdef\n")
    with (
        Server() as trainer,
        serve(monitored.repository(tmp_path), "--workers", "1", models__quiet_period_ms=0) as tree,
    ):
        retrain = {"preset": "webhook", "url": trainer.url + "/train", "approval": "manual"}
        retrain["secret_file"] = str(tmp_path / "secret")
        # The labels are of rows of one request each, and the traffic beside them has none.
        labels = {"mature_after": "8s", "min_coverage": 0.05}
        put(tree, window={"rows": 400}, labels=labels, retrain=retrain)
        until_watched(tree)
        sender = Sender(tree)
        with traffic(tree):
            for part in range(6):
                known = predict(sender, range(part * 300, part * 300 + 300))
                wrong = {one.id: one.truth if n % 3 else 1 - one.truth for n, one in enumerate(known)}
                assert label(tree, list(wrong.items())) == {"new": 300}
                tree.until("the next second", lambda s=known[0].time_s: time.time() >= s + 2)
            assert seen(tree)["incident"] is None, "no label is mature"
            assert asked(tree) == []
            tree.until("an incident", lambda: seen(tree)["incident"] is not None)
            tree.until("a request that waits", lambda: [one["status"] for one in asked(tree)] == ["pending"])
            found = seen(tree)
            assert found["incident"]["families"] == ["performance"]
            assert found["incident"]["attribution"]["verdict"] == "concept"
            assert trainer.asked == []
            key = asked(tree)[0]["key"]
            where = f"/admin/v1/monitors/{NAME}/retraining/approve"
            assert tree.call("POST", where, {"request": "another"}, admin=True)[0] == 409
            status, body = tree.call("POST", where, {"request": key}, admin=True)
            assert (status, json.loads(body)) == (200, {"outcome": "send"})
            trainer.until(1)
            tree.until("it was delivered", lambda: asked(tree)[0]["status"] == "sent")
            assert tree.call("POST", where, {"request": key}, admin=True)[0] == 409
        (call,) = trainer.asked
        assert (call.method, call.path) == ("POST", "/train")
        assert call.headers["x-tidegate-signature"].startswith("t=")
        assert call.json["data"]["key"] == key
        assert tree.counter("tidegate_retrain_requests_total", model=NAME, outcome="send") == 1
        sender.close()
