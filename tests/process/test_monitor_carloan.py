"""Car loans through a running gateway: silent before the world changes, an incident with the second window after it."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from examples.carloan.loans import CHANGE, DRIFTED
from gateway.monitor.plan import MULTIVARIATE
from tests.process import monitored
from tests.process.monitored import AFTER, ANALYSIS, BEFORE, Sender, put, seen, series, until_counted, until_watched
from tests.tree import Tree, serve

pytestmark = pytest.mark.process
Rows = np.ndarray[Any, Any]


def fired(found: dict[str, Any]) -> list[str]:
    return [signal for signal, state in found["states"].items() if state == "firing"]


def named(found: dict[str, Any]) -> set[str]:
    return set(series(found)["signals"]["input_drift"]["keys"])


def accuracy(found: dict[str, Any]) -> float:
    """Of the newest window, estimated; not one label has come."""
    newest = series(found)["windows"][-1]
    assert newest["estimated"]["basis"] == "estimated"
    assert [cohort["coverage"] for cohort in series(found)["cohorts"]] == [[0.0, 0.0]] * len(series(found)["cohorts"])
    return float(newest["estimated"]["values"]["accuracy"])


def all_of_them(tree: Tree, window: int, send: Callable[[Rows], None]) -> dict[str, Any]:
    """The whole analysis, one window after the other; each is looked at before the next is sent."""
    # So those behind the change hold no row before it.
    assert CHANGE % window == 0
    before: list[float] = []
    for number in range(len(ANALYSIS.inputs) // window):
        send(ANALYSIS.inputs[number * window : (number + 1) * window])
        found = until_counted(tree, (number + 1) * window)
        newest = series(found)["windows"][-1]
        assert (newest["index"], newest["rows"]) == (number, window)
        after = number + 1 - CHANGE // window
        if after <= 0:
            assert (found["incident"], fired(found)) == (None, [])
            before.append(accuracy(found))
            continue
        # What is true falls by 0.03.
        assert accuracy(found) < min(before)
        if after >= 2:
            assert found["incident"] is not None, f"silent after {after} windows"
        if after >= 3:
            assert named(found) == DRIFTED
    assert found["rows"] == len(ANALYSIS.inputs)
    assert found["verdict"] == "world"
    assert found["incident"]["alarms"][0]["signal"] == "input_drift"
    assert len(found["incidents"]) <= 1, "one change, one incident"
    assert series(found)["skipped"] == 0
    return found


windows = pytest.mark.parametrize("window", [5_000, pytest.param(1_000, marks=pytest.mark.sim)])


@windows
def test_one_worker(tmp_path: Path, window: int) -> None:
    with serve(monitored.repository(tmp_path), "--workers", "1", models__quiet_period_ms=0) as tree:
        put(tree, window={"rows": window})
        until_watched(tree)
        sender = Sender(tree)
        all_of_them(tree, window, lambda rows: sender.send(rows, each=125))
        sender.close()


@windows
def test_two_workers_in_no_order(tmp_path: Path, window: int) -> None:
    rng = np.random.default_rng(5)
    with serve(monitored.repository(tmp_path), "--workers", "2", models__quiet_period_ms=0) as tree:
        put(tree, window={"rows": window})
        until_watched(tree)
        senders = [Sender(tree) for _ in range(12)]
        tree.until("connections to both", lambda: all(worker["connections"] for worker in tree.workers()))

        def send(rows: Rows) -> None:
            """Requests of 1 to some 200 rows, in any order, from all connections at once."""
            cuts = np.sort(rng.choice(np.arange(1, len(rows)), len(rows) // 40, replace=False))
            parts = np.split(rows, cuts)
            order = rng.permutation(len(parts))
            with ThreadPoolExecutor(len(senders)) as pool:
                mine = [order[at :: len(senders)] for at in range(len(senders))]
                list(pool.map(lambda sender, own: [sender.send(parts[one]) for one in own], senders, mine))

        all_of_them(tree, window, send)
        for sender in senders:
            sender.close()


def test_loans_whose_features_no_longer_belong_together(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    # Each column is the same as before, in an order of its own.
    mixed = np.column_stack([rng.permutation(column) for column in BEFORE.T]).astype(BEFORE.dtype)
    with serve(monitored.repository(tmp_path), "--workers", "1", models__quiet_period_ms=0) as tree:
        until_watched(tree)
        before = tree.workers()[0]["revision"]
        put(tree, window={"rows": 1_000}, multivariate={"sample": 0.5})
        tree.until("a worker that was told", lambda: tree.workers()[0]["revision"] > before)
        sender, sent = Sender(tree), 0
        for part in (BEFORE[:1_000], BEFORE[1_000:2_000], mixed[:1_000], mixed[1_000:2_000]):
            assert seen(tree)["incident"] is None
            sender.send(part, each=250)
            sent += len(part)
            found = until_counted(tree, sent)
        sender.close()
        assert "input_drift" in fired(found)
        assert named(found) == {MULTIVARIATE}
        assert 350 < series(found)["windows"][-1]["features"][-1]["rows"] < 650
        status, page = tree.get(f"/admin/v1/monitors/{monitored.NAME}?format=html", admin=True)
        assert status == 200
        assert MULTIVARIATE.encode() in page
        status, explained = tree.get(f"/admin/v1/monitors/{monitored.NAME}/explain", admin=True)
        assert status == 200
        assert MULTIVARIATE.encode() in explained


@pytest.mark.sim
def test_it_is_over_when_the_world_is_as_before(tmp_path: Path) -> None:
    with serve(monitored.repository(tmp_path), "--workers", "1", models__quiet_period_ms=0) as tree:
        put(tree, window={"rows": 1_000})
        until_watched(tree)
        sender, sent = Sender(tree), 0
        for at in range(0, 3_000, 1_000):
            sender.send(AFTER[at : at + 1_000])
            sent += 1_000
            found = until_counted(tree, sent)
        assert found["incident"] is not None
        for at in range(0, 6_000, 1_000):
            sender.send(BEFORE[at : at + 1_000])
            sent += 1_000
            found = until_counted(tree, sent)
        sender.close()
        assert found["incident"] is None, found["incident"]
        assert [one["closed_s"] is not None for one in found["incidents"]] == [True]
        assert fired(found) == []
