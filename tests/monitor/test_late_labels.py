"""From the feedback call to the cohorts: labels of a canary stay the canary's, whatever became of its document."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from gateway.control.monitorheld import Held
from gateway.monitor.book import ModelMonitor
from gateway.monitor.settings import Spec
from gateway.store.sqlite import SqliteStore
from tests.control.test_feedback_desk import NOW_MS, on_a_store
from tests.control.test_revisions import ONE, TWO, Desk, label
from tests.monitor.test_monitors_loop import monitors_on, references


def cohorts(held: Held) -> dict[tuple[str, str], int]:
    """(version, variant) -> labels."""
    return {
        (version, variant): int(cohort.labels.sum())
        for version, watching in held.monitor.versions.items()
        for _, variant, cohort in watching.cohorts.items()
    }


def test_labels_of_a_canary_stay_its_own_after_a_rollback_and_in_another_order(tmp_path: Path) -> None:
    async def work(store: SqliteStore) -> None:
        desk, monitors = Desk(store), monitors_on(store)
        await desk.experiments.tick()
        models = [SimpleNamespace(name="fraud", digest=digest, version=at + 1) for at, digest in enumerate((ONE, TWO))]
        service: Any = SimpleNamespace(snapshot=SimpleNamespace(models=models))
        monitors._service, monitors._policies = service, desk.policies
        held = monitors.held["fraud"] = Held(Spec(), ModelMonitor("fraud", Spec()))
        held.monitor.watch(references(np.random.default_rng(7)))

        await desk.put(1, ("stable", ONE), ("canary", TWO))
        placed = {"group": 0}
        stable, canary = ("1", "stable"), ("2", "canary")
        await desk.take(label(1, 1, 0, ONE, **placed), label(2, 1, 1, TWO, **placed))
        await monitors._labels("fraud", held, NOW_MS)
        assert cohorts(held) == {stable: 1, canary: 1}
        await desk.put(2, ("canary", TWO), ("stable", ONE))
        await desk.take(label(3, 1, 0, ONE, **placed), label(4, 1, 1, TWO, **placed))
        await monitors._labels("fraud", held, NOW_MS)
        assert cohorts(held) == {stable: 2, canary: 2}
        await desk.put(3, ("stable", ONE))
        await desk.take(label(5, 1, 0, ONE, **placed), label(6, 1, 1, TWO, **placed), label(7, 0, 0, TWO, **placed))
        await monitors._labels("fraud", held, NOW_MS)
        assert cohorts(held) == {stable: 3, canary: 3}
        assert held.monitor.versions["2"].cohorts.unplaced == 1, "of a revision that nobody knows"

    on_a_store(tmp_path, work)
