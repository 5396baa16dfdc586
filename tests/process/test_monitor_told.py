"""Groups that are treated unequally, and who is told: fairness by header, a real Alertmanager, a real Prometheus."""

import base64
import json
import shutil
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from examples.carloan import build, profile
from tests.monitor.alarm_servers import ALERTMANAGER, Server, alertmanager
from tests.process import monitored
from tests.process.callers import apply, policy
from tests.process.monitored import (
    AFTER,
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
from tests.tree import serve

pytestmark = pytest.mark.process
GROUPS = {"header": "X-Group", "values": ["women", "men"], "min_size": 100}
SCORES = profile.scores(build.MODEL, monitored.ANALYSIS[slice(0, 4_000)]).ravel()
GOOD, POOR = BEFORE[:4_000][SCORES >= 0.5], BEFORE[:4_000][SCORES < 0.5]


def marks(id: str) -> dict[str, int]:
    """What an id says, read as its form is written down."""
    raw = base64.urlsafe_b64decode(id)
    mark = int.from_bytes(raw[30:32], "big")
    return {"variant": raw[10], "stratum": raw[15], "decision": mark & 3, "group": mark >> 2 & 63, "bin": mark >> 8}


def mixed(share: float, rows: int) -> "np.ndarray[Any, Any]":
    """Rows of which such a share is accepted."""
    return np.concatenate([GOOD[: int(share * rows)], POOR[: rows - int(share * rows)]])


@pytest.mark.parametrize("sticky", [pytest.param(False, marks=pytest.mark.sim), True])
def test_a_group_that_is_accepted_less(tmp_path: Path, sticky: bool) -> None:
    folder = monitored.repository(tmp_path, (1, 2) if sticky else (1,), "version_policy: {all: true}\n")
    if sticky:
        (folder / NAME / "2" / "note.txt").write_text("another version of the same\n")
    with serve(folder, "--workers", "1", models__quiet_period_ms=0) as tree:
        put(tree, window={"rows": 1_000}, groups=GROUPS)
        if sticky:
            apply(tree, policy(NAME, split={"stable": 10_000}))
        until_watched(tree)
        variant = "stable" if sticky else "-"
        sender, sent = Sender(tree, headers="x-user-id: u7\r\n"), 0
        for share in (0.55, 0.2, 0.2, 0.2):
            for group, rows in (("women", mixed(share, 400)), ("men", mixed(0.55, 400)), ("", mixed(0.5, 200))):
                header = f"x-group: {group}\r\n" if group else ""
                body, more = binary(rows)
                assert sender.ask(body, more + header).status == 200
                sent += len(rows)
            found = until_counted(tree, sent)
            if share == 0.55:
                assert series(found, variant=variant)["signals"]["fairness"]["state"] == "ok"
        told = series(found, variant=variant)
        assert told["signals"]["fairness"]["state"] == "firing", told["signals"]
        assert told["signals"]["fairness"]["keys"] == ["women"]
        impact = {one["group"]: one["disparate_impact"] for one in told["fairness"]}
        assert impact["women"] == pytest.approx(0.2 / 0.55, abs=0.01)
        assert tree.counter("tidegate_fairness_disparate_impact", model=NAME, group="women") == pytest.approx(
            impact["women"]
        )
        for at, group in enumerate(("women", "men", "somebody")):
            answer = sender.ask(as_json(POOR[:1]), f"x-group: {group}\r\n")
            said = marks(answer.headers["x-prediction-id"])
            assert (said["group"], said["decision"]) == (at, 0)
            assert said["bin"] == int(SCORES[SCORES < 0.5][0] * 250)
            assert (said["variant"], answer.headers["x-tidegate-variant"]) == ((0, "stable") if sticky else (255, "-"))
        sender.close()


def alerts(url: str) -> dict[str, str]:
    """What an Alertmanager holds as active: signal -> severity."""
    with urllib.request.urlopen(f"{url}/api/v2/alerts?active=true", timeout=10) as answer:
        return {one["labels"]["signal"]: one["labels"]["severity"] for one in json.load(answer)}


@pytest.mark.skipif(shutil.which(ALERTMANAGER) is None, reason="prometheus-alertmanager is not installed")
def test_a_real_alertmanager_is_told_of_an_incident_and_of_its_end(tmp_path: Path) -> None:
    with (
        Server() as page,
        alertmanager(tmp_path, page.url) as url,
        serve(monitored.repository(tmp_path), "--workers", "1", models__quiet_period_ms=0) as tree,
    ):
        put(tree, window={"rows": 1_000}, alerts={"alertmanager": url})
        until_watched(tree)
        sender, sent = Sender(tree), 0

        def send(rows: "np.ndarray[Any, Any]") -> None:
            nonlocal sent
            sender.send(rows)
            sent += len(rows)
            until_counted(tree, sent)

        for at in range(0, 3_000, 1_000):
            send(AFTER[at : at + 1_000])
        tree.until("an alert", lambda: "input_drift" in alerts(url))
        page.until(1)
        assert page.asked[0].json["status"] == "firing"
        assert page.asked[0].json["groupLabels"] == {"model": NAME}
        for at in range(0, 10_000, 1_000):
            if seen(tree)["incident"] is not None:
                send(BEFORE[at : at + 1_000])
        assert seen(tree)["incident"] is None
        tree.until("its end", lambda: alerts(url) == {})
        tree.until("it is told", lambda: any(one.json["status"] == "resolved" for one in page.asked))
        sender.close()
