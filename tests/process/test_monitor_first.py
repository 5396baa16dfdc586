"""A version without a reference behind a real server: its first rows become one, and a drift is found against it."""

import json
import os
import shutil
import signal
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.process import monitored
from tests.process.monitored import AFTER, BEFORE, NAME, Sender, put, seen, series, until_counted, until_watched
from tests.store.places import RedisServer
from tests.tree import Tree, serve

pytestmark = pytest.mark.process
WINDOW = 200
FIRST = 10 * WINDOW
SPEC = {"reference": {"first": FIRST}, "window": {"rows": WINDOW}}


def collected(tree: Tree) -> int:
    """Rows that are there; -1 = nothing is collected."""
    return int(seen(tree).get("collecting", {}).get("1", {"rows": -1})["rows"])


def until_collecting(tree: Tree) -> None:
    """Wait until every worker sends what it answers."""
    tree.until("it collects", lambda: collected(tree) >= 0)
    tree.until("workers know", lambda: len({worker["revision"] for worker in tree.workers()}) == 1)


def windows(tree: Tree, sender: Sender, rows: "np.ndarray[Any, Any]", before: int) -> dict[str, Any]:
    """Three windows of rows, one after the other: what comes within one look of control is one window."""
    found: dict[str, Any] = {}
    for at in range(0, 3 * WINDOW, WINDOW):
        sender.again()
        sender.send(rows[at : at + WINDOW])
        found = until_counted(tree, before + at + WINDOW)
    return found


def test_first_rows_become_a_reference_that_finds_a_drift_and_outlives_a_restart(tmp_path: Path) -> None:
    folder, data = monitored.repository(tmp_path, references=False), str(tmp_path / "data")
    with serve(folder, "--workers", "2", "--data-dir", data, models__quiet_period_ms=0) as tree:
        senders = [Sender(tree) for _ in range(8)]
        senders[0].send(BEFORE[:500])
        put(tree, **SPEC)
        until_collecting(tree)
        assert collected(tree) == 0, "nobody asked for rows before"
        for number, sender in enumerate(senders):
            sender.send(BEFORE[number * 50 : number * 50 + 50], each=1)
        tree.until("400 rows", lambda: collected(tree) == 400)
        # Rows are in control's memory alone: another control begins anew.
        control = tree.control_pid()
        os.kill(control, signal.SIGKILL)
        tree.until("another control", lambda: control not in tree.pids() and collected(tree) == 0)
        until_collecting(tree)
        for number, sender in enumerate(senders):
            sender.again()  # it was idle for as long as a control takes to start
            sender.send(BEFORE[number * 300 : number * 300 + 300], each=37)
        until_watched(tree)
        reference = seen(tree)["versions"]["1"]["reference"]
        assert (reference["rows"], reference["origin"], reference["provisional"]) == (FIRST, "first", True)
        assert reference["since_s"] > 0
        assert collected(tree) == -1
        before = seen(tree)["rows"]
        found = windows(tree, senders[0], BEFORE[5_000:], before)
        assert found["incident"] is None
        estimated = series(found)["signals"]["performance_estimated"]
        assert estimated["state"] == "unknown", "without labels there is no calibration"
        found = windows(tree, senders[1], AFTER, found["rows"])
        assert found["incident"] is not None
        assert series(found)["signals"]["input_drift"]["state"] == "firing"
        assert "salary_range" in series(found)["signals"]["input_drift"]["keys"]
        explained = json.loads(tree.get(f"/admin/v1/monitors/{NAME}/explain", admin=True)[1])["versions"]["1"]
        assert explained["reference"]["made from"].startswith("the first 2,000 rows since 2")
        page = tree.get(f"/admin/v1/monitors/{NAME}?format=html", admin=True)[1].decode()
        assert "provisional, from the first 2,000 rows since 2" in page
        for sender in senders:
            sender.close()
        assert tree.logged("control_failed") == []
    with serve(folder, "--workers", "1", "--data-dir", data, models__quiet_period_ms=0) as tree:
        until_watched(tree)
        again = seen(tree)
        assert again["versions"]["1"]["reference"] == reference
        assert again["incident"] is not None


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")
def test_gateways_that_share_a_store_count_by_the_reference_of_who_had_enough_first(tmp_path: Path) -> None:
    server = RedisServer(tmp_path, "--save", "")
    server.start()
    folder = monitored.repository(tmp_path, references=False)
    try:
        with ExitStack() as stack:
            settings = {"store__url": server.url, "models__quiet_period_ms": 0}
            one, two = (stack.enter_context(serve(folder, "--workers", "1", **settings)) for _ in range(2))
            put(one, **SPEC)
            for tree in (one, two):
                until_collecting(tree)
            slow, fast = Sender(one), Sender(two)
            slow.send(BEFORE[:300])
            one.until("300 rows", lambda: collected(one) == 300)
            fast.send(BEFORE[:FIRST])
            for tree in (one, two):
                tree.until("a reference", lambda t=tree: "1" in seen(t)["versions"])
                tree.until("it counts", lambda t=tree: monitored.counts(t, NAME, [1]))
            ids = {seen(tree)["versions"]["1"]["reference"]["id"] for tree in (one, two)}
            assert len(ids) == 1
            for sender in (slow, fast):
                sender.send(BEFORE[5_000:5_300])
            leader = one if seen(one)["leads"] else two
            leader.until("rows of both", lambda: seen(leader)["rows"] == 600)
            slow.close()
            fast.close()
    finally:
        server.stop()
