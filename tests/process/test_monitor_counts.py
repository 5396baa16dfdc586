"""The monitor's counts are those of its callers: on many connections, in every form, whoever is killed."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton

from examples.carloan.build import INPUT
from gateway.monitor.facts import STATES
from tests.process import monitored
from tests.process.callers import Crowd
from tests.process.monitored import (
    AFTER,
    BEFORE,
    NAME,
    Sender,
    as_json,
    put,
    seen,
    series,
    until_counted,
    until_watched,
)
from tests.tree import Tree, serve

pytestmark = pytest.mark.process
WINDOW = 1_000


@contextmanager
def gateway(tmp_path: Path, workers: int = 2, **settings: object) -> Iterator[Tree]:
    folder = monitored.repository(tmp_path)
    with serve(folder, "--workers", str(workers), models__quiet_period_ms=0, **settings) as tree:
        put(tree, window={"rows": WINDOW})
        until_watched(tree)
        yield tree


def spread(tree: Tree) -> list[Sender]:
    """Connections to each worker."""
    return [Sender(tree) for _ in range(16)]


def told(tree: Tree) -> tuple[int, int]:
    """Rows that this node counted, and that it says it did not, on the metrics page."""
    observed = tree.counter("tidegate_monitor_rows_observed_total", model=NAME)
    return int(observed), int(tree.counter("tidegate_monitor_rows_skipped_total", model=NAME))


def drift_states(tree: Tree) -> set[int]:
    """Of all signals, on the metrics page."""
    lines = tree.get("/metrics", admin=True)[1].decode().splitlines()
    return {int(float(line.split()[-1])) for line in lines if line.startswith("tidegate_drift_state{")}


def consistent(found: dict[str, Any]) -> None:
    """Each row that was taken is in one window."""
    mine = series(found)
    assert sum(one["rows"] for one in mine["windows"]) + mine["open_rows"] == mine["rows"]
    assert [one["index"] for one in mine["windows"]] == list(range(len(mine["windows"])))


def test_every_form_of_request_on_many_connections(tmp_path: Path) -> None:
    with gateway(tmp_path) as tree:
        senders = spread(tree)
        rng = np.random.default_rng(1)
        for number in range(400):
            sender, row = senders[number % len(senders)], BEFORE[number : number + 1]
            assert sender.ask(as_json(row)).status == 200
            sender.rows += 1
        for sender in senders:
            part = BEFORE[rng.integers(0, 20_000, 37)]
            assert sender.ask(as_json(part)).status == 200
            sender.rows += len(part)
            sender.send(part, each=11)
        sent = sum(sender.rows for sender in senders)
        client = triton.InferenceServerClient(f"127.0.0.1:{tree.port}")
        for rows in (1, 2, 64, 300):
            for binary in (True, False):
                value = triton.InferInput(INPUT, [rows, 7], "FP32")
                value.set_data_from_numpy(BEFORE[:rows], binary_data=binary)
                client.infer(NAME, [value])
                sent += rows
        client.close()
        # What was refused has no row.
        assert senders[0].ask(as_json(BEFORE[:3, :5])).status == 400
        assert senders[0].ask(b"{").status == 400
        found = until_counted(tree, sent)
        consistent(found)
        assert told(tree) == (sent, 0)
        assert len({pid["pid"] for pid in tree.workers()}) == 2
        for sender in senders:
            sender.close()


def test_a_killed_worker_loses_no_row_unseen(tmp_path: Path) -> None:
    with gateway(tmp_path) as tree:
        bodies = [as_json(BEFORE[at : at + 1]) for at in range(500)]
        for _ in range(2):
            crowd = Crowd(tree.port, NAME, lambda rng: bodies[rng.randrange(500)], callers=6)
            before = sum(told(tree))
            with crowd:
                tree.until("traffic", lambda c=crowd: c.seen.count(status=200) > 500)
                victim = tree.workers()[0]["pid"]
                os.kill(victim, signal.SIGKILL)
                tree.until("it is gone", lambda v=victim: v not in tree.pids())
                tree.until("two listen", lambda: [w["listening"] for w in tree.workers()] == [True, True], 30)
                at = crowd.seen.count(status=200)
                tree.until("traffic", lambda c=crowd, n=at: c.seen.count(status=200) > n + 300)
            answered = crowd.seen.count(status=200)
            # An answer that was written and not read is counted, and no caller knows of it.
            most = answered + len(crowd.seen.broken)
            tree.until(
                f"{answered} to {most} rows", lambda a=answered, m=most, b=before: a <= sum(told(tree)) - b <= m, 10
            )
            observed, _ = told(tree)
            consistent(until_counted(tree, observed))


@pytest.mark.sim
def test_a_killed_control_counts_nothing_twice_and_nothing_not_at_all(tmp_path: Path) -> None:
    with gateway(tmp_path) as tree:
        sender, sent = Sender(tree), 0
        for kill in (False, True, True):
            if kill:
                control = tree.control_pid()
                os.kill(control, signal.SIGKILL)
                tree.until("another control", lambda c=control: c not in tree.pids() and bool(seen(tree).get("leads")))
                consistent(until_counted(tree, sent))
            for part in range(3):
                at = sent % 20_000
                sender.send(BEFORE[at : at + WINDOW // 2])
                sent += WINDOW // 2
                # The last one is killed right after a window closed, the first one within one.
                if part < 2:
                    until_counted(tree, sent)
            if not kill:
                until_counted(tree, sent)
        found = until_counted(tree, sent)
        consistent(found)
        assert series(found)["windows"][0]["rows"] == WINDOW
        assert told(tree) == (sent, 0)
        sender.close()


def test_control_is_killed_while_windows_close_and_an_incident_is_open(tmp_path: Path) -> None:
    with gateway(tmp_path, workers=1) as tree:
        sender, sent = Sender(tree), 0
        for _ in range(2):
            sender.send(AFTER[sent : sent + WINDOW])
            sent += WINDOW
            until_counted(tree, sent)
        opened = seen(tree)["incident"]["id"]
        bodies = [as_json(AFTER[at : at + 1]) for at in range(500)]
        crowd = Crowd(tree.port, NAME, lambda rng: bodies[rng.randrange(500)], callers=3)
        with crowd:
            for _ in range(2):
                at = len(series(seen(tree))["windows"])
                tree.until("a window", lambda n=at: len(series(seen(tree))["windows"]) > n)
                control = tree.control_pid()
                os.kill(control, signal.SIGKILL)
                tree.until("another control", lambda c=control: c not in tree.pids() and bool(seen(tree).get("leads")))
        assert (crowd.seen.broken, crowd.seen.statuses()) == ([], {200})
        sent += crowd.seen.count(status=200)
        found = until_counted(tree, sent)
        consistent(found)
        assert found["incident"]["id"] == opened
        assert [one["id"] for one in found["incidents"]] == []
        sender.close()


@pytest.mark.sim
def test_a_control_that_stands_still_hinders_nobody(tmp_path: Path) -> None:
    with gateway(tmp_path) as tree:
        bodies = [as_json(BEFORE[at : at + 1]) for at in range(500)]
        crowd = Crowd(tree.port, NAME, lambda rng: bodies[rng.randrange(500)], callers=4)
        with crowd:
            control = tree.control_pid()
            os.kill(control, signal.SIGSTOP)
            at = crowd.seen.count()
            waited = threading.Event()
            tree.until("three thousand answers", lambda: crowd.seen.count() > at + 3_000 or waited.wait(0.01))
            os.kill(control, signal.SIGCONT)
        assert (crowd.seen.broken, crowd.seen.statuses()) == ([], {200})
        assert control in tree.pids()
        found = until_counted(tree, crowd.seen.count(status=200))
        consistent(found)
        observed, skipped = told(tree)
        assert (observed, skipped) == (crowd.seen.count(status=200), 0)
        tree.until("nothing is ok without rows", lambda: "ok" not in seen(tree)["states"].values())
        assert {one["state"] for one in series(seen(tree))["signals"].values()} == set(seen(tree)["states"].values())
        assert STATES.index("ok") not in drift_states(tree)


def test_a_server_that_is_started_anew_goes_on_with_its_windows_and_its_incident(tmp_path: Path) -> None:
    folder, data = monitored.repository(tmp_path), str(tmp_path / "data")
    with serve(folder, "--workers", "1", "--data-dir", data, models__quiet_period_ms=0) as tree:
        put(tree, window={"rows": WINDOW})
        until_watched(tree)
        sender = Sender(tree)
        for at in range(0, 2 * WINDOW, WINDOW):
            sender.send(AFTER[at : at + WINDOW])
            before = until_counted(tree, at + WINDOW)
        sender.send(AFTER[: WINDOW // 2])
        until_counted(tree, 2 * WINDOW + WINDOW // 2)
        sender.close()
        assert tree.stop() == 0
    with serve(folder, "--workers", "1", "--data-dir", data, models__quiet_period_ms=0) as tree:
        until_watched(tree)
        found = seen(tree)
        assert found["incident"]["id"] == before["incident"]["id"]
        assert [one["rows"] for one in series(found)["windows"]] == [WINDOW, WINDOW]
        assert series(found)["open_rows"] == WINDOW // 2
        sender = Sender(tree)
        sender.send(AFTER[: WINDOW // 2])
        tree.until("the window closes", lambda: len(series(seen(tree))["windows"]) == 3)
        assert series(seen(tree))["windows"][-1]["rows"] == WINDOW
        sender.close()
