"""Labels of rows of requests of any size: tap, signed id, feedback, performance; held against the rows themselves."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest

from gateway.control.labelnotes import note_of, notes_in
from gateway.control.monitorinputs import labelled
from gateway.feedback import facts_of, item_of
from gateway.monitor.fairness import realised_fairness
from gateway.monitor.realised import Cohorts, performance
from gateway.predictions import ID_CHARS, NO_MARK, TOLD_ROWS, UNCOUNTED
from gateway.signing import Clock, Signer
from tests.ids import id_by
from tests.monitor.test_tap import GROUPS, job, plan_of, tap_of

KEY = b"k" * 32
NOW = 1_800_000_000
VARIANTS = ["stable", "canary"]
DIGESTS = ["sha256:" + "ab" * 32, "sha256:" + "cd" * 32]


class Row(NamedTuple):
    id: str
    variant: int
    group: int
    decision: int
    truth: int


def answered(seed: int, largest: int, batches: int = 150) -> Iterator[Row]:
    """Batches of requests of 1 to `largest` rows to two variants, of two groups and of nobody's."""
    rng = np.random.default_rng(seed)
    signer = Signer(1, KEY, 3, DIGESTS, clock=Clock(NOW), sequence=seed)
    tap = tap_of(plan_of(GROUPS))
    for _ in range(batches):
        sizes = rng.integers(1, largest + 1, rng.integers(1, 5)).tolist()
        groups = rng.integers(0, 3, len(sizes)).tolist()
        scores = rng.beta(1.2, 1.1, (sum(sizes), 1)).astype(np.float32)
        truths = (rng.random(len(scores)) < scores[:, 0]).astype(int).tolist()
        jobs = [job([[0.5, 5.0]] * n, (*GROUPS, "?")[g].encode()) for n, g in zip(sizes, groups, strict=True)]
        marks = tap.marks(jobs, [scores]) or [NO_MARK] * len(jobs)
        at, variant = 0, int(rng.integers(0, 2))
        for size, group, marked in zip(sizes, groups, marks, strict=True):
            id = id_by(signer, variant, 7, UNCOUNTED, marked)
            for k in range(size):
                decision = int(scores[at, 0] >= 0.5)
                yield Row(id if size == 1 else f"{id}/{k}", variant, group, decision, truths[at])
                at += 1


def counted(rows: list[Row]) -> Cohorts:
    """Cohorts of these rows, each sent back with its label."""
    cohorts = Cohorts(groups=3)
    cohorts.advance(NOW)
    for row in rows:
        one = np.zeros((3, 2), np.int64)
        one[row.group, row.decision] = 1
        cohorts.predict(NOW, VARIANTS[row.variant], one)
        facts = facts_of(item_of({"prediction_id": row.id, "label": row.truth}), {1: KEY})
        assert facts is not None
        ((note, before),) = notes_in(note_of(facts, VARIANTS[row.variant], row.truth, NOW + 60.0))
        cohorts.label(labelled(note, before, "1"))
    return cohorts


def by_numpy(rows: list[Row]) -> dict[str, float]:
    said, true = (np.array([getattr(row, name) for row in rows]) for name in ("decision", "truth"))
    return {
        "accuracy": float((said == true).mean()),
        "precision": float(true[said == 1].mean()),
        "recall": float(said[true == 1].mean()),
        "specificity": float(1 - said[true == 0].mean()),
    }


@pytest.mark.parametrize("largest", [1, 3, TOLD_ROWS])
def test_performance_and_fairness_are_those_of_the_rows(largest: int) -> None:
    rows = list(answered(largest, largest))
    cohorts = counted(rows)
    assert (cohorts.unplaced, len({row.id for row in rows})) == (0, len(rows))
    for _, name, cohort in cohorts.items():
        mine = [row for row in rows if VARIANTS[row.variant] == name]
        assert cohort.coverage() == (1.0, 1.0)
        came_true = performance(cohort, min_rows=1)
        assert {key: came_true.values[key] for key in by_numpy(mine)} == pytest.approx(by_numpy(mine), abs=1e-12)
        fair: Any = realised_fairness(cohort, GROUPS, min_coverage=0.6, min_size=1)
        for at, group in enumerate(fair.groups):
            own = by_numpy([row for row in mine if row.group == at])
            assert (group.tpr, group.fpr) == pytest.approx((own["recall"], 1 - own["specificity"]), abs=1e-12)


def test_labels_of_requests_that_are_too_large_are_counted_as_such() -> None:
    rows = list(answered(5, TOLD_ROWS + 40, 20))
    large = sum(1 for row in rows if len(row.id.partition("/")[0]) == ID_CHARS and "/" in row.id)
    assert large
    cohorts = counted(rows)
    assert cohorts.unplaced == large
    assert sum(int(cohort.labels.sum()) for _, _, cohort in cohorts.items()) == len(rows) - large
