"""Car loans through a running gateway: silent before the world changes, an incident with the second window after it."""

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


def fired(found: dict[str, Any]) -> list[str]:
    return [signal for signal, state in found["states"].items() if state == "firing"]


def named(found: dict[str, Any]) -> set[str]:
    return set(series(found)["signals"]["input_drift"]["keys"])


def accuracy(found: dict[str, Any]) -> list[float]:
    """Estimated without labels, by window."""
    return [one["estimated"]["values"]["accuracy"] for one in series(found)["windows"]]


def through(tree: Tree, window: int, before: int, senders: list[Sender]) -> None:
    """Some windows before the change and four behind it, one after the other.

    25,000 is a whole number of windows of 1,000 and of 2,500, so that those behind the change hold no row before it.
    """
    assert CHANGE % window == 0
    sent = 0
    for at in range(CHANGE - before * window, CHANGE + 4 * window, window):
        part = ANALYSIS.inputs[at : at + window]
        for number, sender in enumerate(senders):
            sender.send(part[number :: len(senders)], each=125)
        sent += window
        found = until_counted(tree, sent)
        assert [one["rows"] for one in series(found)["windows"]] == [window] * (sent // window)
        after = sent // window - before
        if after <= 0:
            assert (found["incident"], fired(found)) == (None, [])
        if after >= 2:
            assert found["incident"] is not None, f"silent after {after} windows"
        if after == 3:
            assert named(found) == DRIFTED
    told = accuracy(found)
    # The true accuracy falls by 0.03; not one label has come.
    assert max(told[before:]) < min(told[:before])


@pytest.mark.parametrize("window", [pytest.param(1_000, marks=pytest.mark.sim), 2_500])
def test_one_worker(tmp_path: Path, window: int) -> None:
    with serve(monitored.repository(tmp_path), "--workers", "1", models__quiet_period_ms=0) as tree:
        put(tree, window={"rows": window})
        until_watched(tree)
        sender = Sender(tree)
        through(tree, window, 6, [sender])
        sender.close()
        found = seen(tree)
        assert found["verdict"] == "world"
        assert found["incident"]["alarms"][0]["signal"] == "input_drift"
        assert series(found)["skipped"] == 0


def test_two_workers_in_no_order(tmp_path: Path) -> None:
    with serve(monitored.repository(tmp_path), "--workers", "2", models__quiet_period_ms=0) as tree:
        put(tree, window={"rows": 2_500})
        until_watched(tree)
        senders = [Sender(tree), Sender(tree)]
        through(tree, 2_500, 3, senders)
        assert sum(sender.rows for sender in senders) == seen(tree)["rows"]
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
