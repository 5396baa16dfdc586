"""Employment in Massachusetts: NannyML alerts on features in most chunks, while the model is worse in two of 42.

Published in NannyML's quickstart (Apache-2.0); tests/parity/employment.py has asked the library itself.
"""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from gateway.monitor import cbpe, confusion, isotonic
from gateway.monitor.fit import Rows
from gateway.monitor.replaying import Replayed, replay
from gateway.monitor.settings import parse
from tests.monitor.counting_models import fitted
from tests.monitor.employment_rows import CHUNK, SCORES, column, counts, features
from tests.monitor.performance_rows import sums_of_centres
from tests.parity import compat

NANNYML = json.loads((Path(__file__).parents[1] / "parity" / "golden.json").read_text())["nannyml_employment"]
CHUNKS = int(counts()["reference_chunks"])
BEFORE, AFTER = slice(0, CHUNKS), slice(CHUNKS, None)
PUBLISHED = {"ANC": 37, "AGEP": 29, "RELP": 28, "MAR": 28, "DREM": 28}
"""Chunks with an alert, of 42."""
WORSE = [27, 28]


def limits(values: list[float]) -> tuple[float, float]:
    return compat.nannyml_limits(np.array(values))


@pytest.mark.parametrize("name", features())
def test_alerts_by_jensen_shannon(name: str) -> None:
    reference, numeric = np.concatenate(column(name, BEFORE)), name == "AGEP"
    before, after = (
        [compat.nannyml_js(reference, chunk, numeric) for chunk in column(name, part)] for part in (BEFORE, AFTER)
    )
    alerts = np.flatnonzero(np.array(after) > limits(before)[1]).tolist()
    assert alerts == NANNYML["js_alerts"][name]
    assert len(alerts) == PUBLISHED.get(name, len(alerts))


def cells(chunk: np.ndarray) -> np.ndarray:
    """Counts [decision, bin] of one label; 1 is decided from the middle."""
    decided = np.arange(SCORES) >= SCORES // 2
    return np.stack([np.where(decided, 0, chunk), np.where(decided, chunk, 0)]).astype(np.int64)


def test_the_model_is_worse_in_two_chunks_and_the_estimate_knows_which() -> None:
    scores = counts()["scores"].astype(np.int64)
    rows = scores[BEFORE].sum(axis=(0, 1))
    some = np.flatnonzero(rows)
    points = isotonic.fit((some + 0.5) / SCORES, scores[BEFORE, 1].sum(axis=0)[some] / rows[some], rows[some])

    def estimated(chunk: np.ndarray) -> float:
        both = cells(chunk.sum(axis=0))
        return cbpe.estimate(both, sums_of_centres(both, points), calibration=points, outside=0.0).values["roc_auc"]

    def realised(chunk: np.ndarray) -> float:
        table = np.stack([cells(chunk[0]), cells(chunk[1])], axis=-1)
        return confusion.metrics(confusion.counted(table))["roc_auc"]

    likely, true = ([of(chunk) for chunk in scores[AFTER]] for of in (estimated, realised))
    # Scores are known to a thousandth here, and a calibration made of such.
    assert likely == pytest.approx(NANNYML["roc_auc"]["estimated"], abs=2e-4)
    assert true == pytest.approx(NANNYML["roc_auc"]["realised"], abs=2e-4)
    low, high = limits([realised(chunk) for chunk in scores[BEFORE]])
    assert [chunk for chunk, auc in enumerate(likely) if not low <= auc <= high] == WORSE
    assert NANNYML["roc_auc_alerts"]["estimated"] == WORSE
    assert [chunk for chunk, auc in enumerate(true) if auc < low] == WORSE


@cache
def replayed() -> list[Replayed]:
    """By our rules, windows as large as the chunks. Within a chunk people are in an order of our own."""
    rng = np.random.default_rng(0)

    def inputs(part: slice) -> dict[str, np.ndarray]:
        kinds = {name: np.float32 if name == "AGEP" else np.int64 for name in features()}
        return {
            name: np.concatenate([rng.permutation(chunk) for chunk in column(name, part)]).astype(kind)
            for name, kind in kinds.items()
        }

    def scored(part: slice) -> tuple[np.ndarray, np.ndarray]:
        found = []
        for chunk in counts()["scores"][part]:
            label, place = np.indices(chunk.shape).reshape(2, -1)
            people = np.repeat(np.stack([(place + 0.5) / SCORES, label]), chunk.ravel(), axis=1)
            found.append(rng.permutation(people, axis=1))
        return tuple(np.concatenate(found, axis=1))

    schema = {name: "categorical" for name in features() if name != "AGEP"}
    reference = fitted(inputs(BEFORE), *scored(BEFORE), schema=schema).reference
    document = {"apiVersion": "tidegate/v1", "kind": "Monitor", "metadata": {"name": "employment"}}
    spec = parse(document | {"spec": {"window": {"rows": CHUNK}}}).spec
    scores, labels = scored(AFTER)
    rows = Rows(list(inputs(AFTER).values()), [scores.astype(np.float32)[:, None]], labels=labels)
    return replay(reference, spec, rows, np.arange(len(labels), dtype=np.int64) * 1_000)


def test_there_is_one_incident_and_it_is_one_of_performance_when_the_model_is_worse() -> None:
    firing = [bool(one.result.firing) for one in replayed()]
    begins = [at for at in range(1, len(firing)) if firing[at] and not firing[at - 1]]
    # Relations in households (RELP) are others from 2017 on, and stay so; that is one piece of news, told once.
    assert (len(begins), firing[0], firing[begins[0] :]) == (1, False, [True] * (len(firing) - begins[0]))
    worse = [at for at, one in enumerate(replayed()) if "performance" in one.result.firing]
    assert worse == [*WORSE, WORSE[-1] + 1], "the last of three windows is clean again"
    named = {name for one in replayed()[: WORSE[0]] for name in one.result.family("input").named}
    assert named == {"RELP"}
    # These NannyML's text blames, though its table ranks others before SCHL.
    assert replayed()[WORSE[-1]].result.family("input").named[:3] == ("RELP", "AGEP", "SCHL")
