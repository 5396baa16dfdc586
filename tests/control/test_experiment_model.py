"""What a report says of the models themselves: what the shadow and the monitor know, or why they know nothing."""

from dataclasses import replace
from itertools import product
from typing import Any

import msgspec
import numpy as np
import pytest

from gateway.cli.experiment import _print
from gateway.control.experimentmodel import NO_SHADOW, calibration_of, model_of
from gateway.control.experimentpage import page_of
from gateway.control.experimenttrail import with_trail
from gateway.control.monitorheld import Held, Progress
from gateway.control.shadowreport import compared
from gateway.monitor.book import ModelMonitor, Roles
from gateway.monitor.plan import LABEL_BINS
from gateway.monitor.realised import Cohort, Labelled
from gateway.monitor.reference import Binding, Reference, identified
from gateway.monitor.settings import Labels, Spec, Window
from gateway.shadowfields import ARGMAX, COMPARED, DISAGREED, FIELDS, MICRO, ROWS, SHIFT, SHIFTS
from tests.control.studies import study
from tests.control.test_experiments import Strict, full_report
from tests.monitor.page_world import NOW_MS, ROWS_OF, counts, plan_of

SPEC = Spec(window=Window(rows=ROWS_OF), labels=Labels())
START_S = NOW_MS // 1_000
LATER_MS = NOW_MS + 30 * 3_600_000


def shadow_of() -> dict[str, Any]:
    values = [0] * len(FIELDS)
    for at, value in ((COMPARED, 400), (DISAGREED, 40), (ROWS, 800), (ARGMAX, 30), (SHIFT, 80 * MICRO)):
        values[at] = value
    values[SHIFTS + 10], values[SHIFTS + 15] = 700, 100
    variants = [compared("new", values)]
    return {"name": "fraud", "scope": "node", "shadow_slots": 10, "variant": "new", "variants": variants}


def watched(*, shift: float = 0.0, labels: int = 0, decisions: tuple[int, ...] = (1,)) -> Held:
    """Both versions have one reference; of the new one a window closes, and labels come for both."""
    plan = plan_of(2, "f")
    reference = identified(Reference(plan, counts(plan, 20_000), Binding("0" * 64, (), ())))
    monitor = ModelMonitor("fraud", SPEC)
    monitor.watch({"1": reference, "2": reference})
    held = Held(SPEC, monitor, roles=Roles(champion=("1", "old"), live=frozenset({("1", "old"), ("2", "new")})))
    monitor.turn([("2", "new", counts(reference.plan, ROWS_OF, shift=shift))], held.roles, NOW_MS)
    for number, decision in product(range(labels), decisions):
        item = Labelled(
            predicted_s=float(START_S), observed_s=float(START_S + 60), variant="new", group=0, decision=decision,
            bin=25 + 200 * decision, label=int(number % 4 > 0),
        )  # fmt: skip
        monitor.versions["2"].label(item, NOW_MS + 60_000)
    return held


def test_without_a_shadow_or_a_monitor_it_says_why() -> None:
    found = model_of(study(), shadow_of() | {"variants": []}, "nobody wrote one", NOW_MS)
    assert found == {
        "shadow": None, "shadow_missing": NO_SHADOW, "arms": None, "arms_missing": "nobody wrote one",
    }  # fmt: skip
    assert model_of(study(), "no policy", "none", NOW_MS)["shadow_missing"] == "no policy"


def test_the_shadow_tells_agreement_and_shift() -> None:
    found = model_of(study(), shadow_of(), "none", NOW_MS)["shadow"]
    assert found["scope"] == "node"
    assert (found["variants"][0]["agreement"], found["variants"][0]["shift_mean"]) == (0.9, pytest.approx(0.1))


def test_each_variant_drifts_from_the_reference_of_its_own_version() -> None:
    old, new = model_of(study(), NO_SHADOW, watched(shift=0.4), NOW_MS + 1_000)["arms"]
    assert (old["version"], old["drift"], old["missing"]) == ("1", None, "no row of this variant was counted")
    assert (new["version"], new["missing"]) == ("2", "")
    assert (new["drift"]["rows"], new["drift"]["reference"]["rows"]) == (ROWS_OF, 20_000)
    assert {one["name"] for one in new["drift"]["features"]} == {"f0", "f1"}
    assert new["drift"]["features"][0]["psi"] > 0.2
    assert new["drift"]["score_psi"] == pytest.approx(0.0, abs=1e-6)
    assert {"input_drift", "prediction_drift"} <= new["signals"].keys()
    calm = model_of(study(), NO_SHADOW, watched(), NOW_MS + 1_000)["arms"][1]["drift"]["features"]
    assert max(one["psi"] for one in calm) < 0.01


def test_a_version_that_is_not_watched_says_why() -> None:
    held = watched()
    del held.monitor.versions["1"], held.monitor.versions["2"]
    held.problems["1"], held.first["2"] = "its reference is of another model", Progress(10, 100, 0.0)
    old, new = model_of(study(), NO_SHADOW, held, NOW_MS)["arms"]
    assert old["missing"] == "its reference is of another model"
    assert new["missing"] == "its reference is being made of its first rows"
    held.problems.clear()
    assert model_of(study(), NO_SHADOW, held, NOW_MS)["arms"][0]["missing"] == "the monitor does not watch this version"


def test_calibration_counts_matured_labels_by_score() -> None:
    held = watched(labels=40)
    assert model_of(study(), NO_SHADOW, held, NOW_MS + 60_000)["arms"][1]["calibration"] is None, "too young"
    held.monitor.versions["2"].cohorts.advance(LATER_MS / 1000)
    old, new = model_of(study(), NO_SHADOW, held, LATER_MS)["arms"]
    assert old["calibration"] is None
    assert new["calibration"] == [{"score": pytest.approx(225.5 / LABEL_BINS), "labels": 40, "positive": 0.75}]


def test_without_a_score_there_is_no_calibration() -> None:
    held = watched(labels=40)
    watching = held.monitor.versions["2"]
    watching.cohorts.advance(LATER_MS / 1000)
    plan = msgspec.structs.replace(watching.reference.plan, score=None)
    watching.engine.reference = replace(watching.reference, plan=plan)
    assert model_of(study(), NO_SHADOW, held, LATER_MS)["arms"][1]["calibration"] is None


def test_bins_that_are_being_moved_say_nothing() -> None:
    cohort = Cohort.empty(1)
    assert calibration_of([]) is None
    assert calibration_of([cohort]) is None
    cohort.labels[0, 0, 3, 1], cohort.labels[0, 1, 249, 0] = 2, 6
    low, high = calibration_of([cohort]) or ()
    assert (low["labels"], low["positive"], high["labels"], high["positive"]) == (2, 1.0, 6, 0.0)
    cohort.labels[0, 0, 3, 0] = -1
    assert calibration_of([cohort]) is None


def test_labels_that_came_true_stand_beside_the_reference() -> None:
    held = watched(labels=900, decisions=(0, 1))
    watching = held.monitor.versions["2"]
    watching.findings([], LATER_MS)
    labels = np.zeros((1, 2, 1_000, 2), np.int64)
    labels[0, 1, 900] = (100, 900)
    watching.engine.reference = replace(watching.reference, labels=labels)
    found = model_of(study(), NO_SHADOW, held, LATER_MS)["arms"][1]["realised"]
    assert found["values"]["precision"] == pytest.approx(0.75)
    assert found["reference"]["precision"] == pytest.approx(0.9)


def shown(held: Held, now_ms: int) -> tuple[str, dict[str, Any]]:
    model = model_of(study(), shadow_of(), held, now_ms)
    report = {**with_trail(full_report(), study(), None), "model": model}
    parser = Strict()
    parser.feed(page_of(report))
    assert parser.open == []
    return " ".join(parser.text.split()), report


def test_the_page_and_the_terminal_say_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    held = watched(shift=0.4, labels=40)
    held.monitor.versions["2"].cohorts.advance(LATER_MS / 1000)
    page, report = shown(held, LATER_MS)
    _print(report)
    told = " ".join(capsys.readouterr().out.split())
    for words in ("90.00%", "75.00%", "tidegate shadow samples fraud", "no row of"):
        assert words in page, words
        assert words in told, words


def test_the_page_says_why_there_is_nothing() -> None:
    model = model_of(study(), NO_SHADOW, "nobody <wrote> one", NOW_MS)
    text = page_of({**with_trail(full_report(), study(), None), "model": model})
    assert "nobody &lt;wrote&gt; one" in text
    assert NO_SHADOW in text
