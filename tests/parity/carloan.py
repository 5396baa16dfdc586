"""NannyML's figures for its car loans, and where ours differ. Runs in the environment of `parity.py`."""

import math
from typing import Any

import numpy as np
import pandas as pd

from gateway.monitor import confusion, isotonic, reconstruction
from tests.monitor.carloan_rows import DATA, estimates, fitted, labelled
from tests.parity import compat, streams

CHUNK = 5_000
PUBLISHED_JS = [0.031661, 0.030011, 0.031129, 0.029464, 0.030809, 0.028681, 0.043628, 0.029253, 0.030628, 0.028330]
PUBLISHED_PCA = [1.14152, 1.13064, 1.13891, 1.14504, 1.13756, 1.24921, 1.24310, 1.25815, 1.22818, 1.25988]
FEATURES = (
    "car_value",
    "salary_range",
    "debt_to_income_ratio",
    "loan_length",
    "repaid_loan_on_prev_car",
    "size_of_downpayment",
    "driver_tenure",
)
"""NannyML's notebooks publish JS of the debt ratio, and reconstruction errors, of chunks of 5,000 rows."""
COLUMNS = {"y_pred_proba": "y_pred_proba", "y_pred": "y_pred", "y_true": "repaid"}
SETTINGS: dict[str, Any] = {"problem_type": "classification_binary", "chunk_size": CHUNK}
RANKED = ("roc_auc", "average_precision")
"""Before these NannyML rounds cumulated masses to 5 places."""


def drift_errors() -> list[str]:
    """Where our figures of drift are not those it publishes."""
    import nannyml

    reference, analysis, _ = nannyml.load_synthetic_car_loan_dataset()
    debt = reference["debt_to_income_ratio"].to_numpy(float)
    words = [name for name in FEATURES if not pd.api.types.is_float_dtype(reference[name])]
    numbers = [name for name in FEATURES if name not in words]
    shares = {name: reference[name].value_counts(normalize=True) for name in words}

    def encoded(rows: pd.DataFrame) -> np.ndarray:
        """No category of these loans is missing."""
        return np.column_stack([rows[numbers].to_numpy(float), *(rows[name].map(shares[name]) for name in words)])

    columns = encoded(reference)
    model = reconstruction.fit(columns, np.full(columns.shape[1], np.nan))
    wrong = []
    for at, (js, error) in enumerate(zip(PUBLISHED_JS, PUBLISHED_PCA, strict=True)):
        chunk = analysis.iloc[at * CHUNK : (at + 1) * CHUNK]
        found = compat.nannyml_js(debt, chunk["debt_to_income_ratio"].to_numpy(float), True)
        rebuilt = float(model.errors(encoded(chunk)).mean())
        wrong += [f"car loan chunk {at}: JS {found}, published {js}"] if abs(found - js) > 1e-6 else []
        wrong += [f"car loan chunk {at}: error {rebuilt}, published {error}"] if abs(rebuilt - error) > 1e-5 else []
    return wrong


def performance() -> dict[str, Any]:
    """What its CBPE estimates, what came true, its thresholds, and the calibration that all rests on."""
    import nannyml

    reference, analysis, targets = nannyml.load_synthetic_car_loan_dataset()
    metrics = list(confusion.METRICS)
    # It draws samples for the error of the average precision.
    np.random.seed(0)
    estimator = nannyml.CBPE(metrics=metrics, **COLUMNS, **SETTINGS).fit(reference)
    estimated = estimator.estimate(analysis).filter(period="analysis").to_df()
    calculator = nannyml.PerformanceCalculator(metrics=metrics, **COLUMNS, **SETTINGS).fit(reference)
    joined = analysis.merge(targets, left_index=True, right_index=True)
    realised = calculator.calculate(joined).filter(period="analysis").to_df()

    def column(frame: pd.DataFrame, metric: str, name: str) -> list[Any]:
        return frame[(metric, name)].tolist()

    regressor = estimator.calibrator._regressor
    return {
        "needs": bool(estimator.needs_calibration),
        "points": [[float(x), float(y)] for x, y in zip(regressor.X_thresholds_, regressor.y_thresholds_, strict=True)],
        "metrics": {
            metric: {
                "estimated": column(estimated, metric, "value"),
                "realised": column(realised, metric, "value"),
                "sampling_error": column(estimated, metric, "sampling_error")[0],
                "lower": column(estimated, metric, "lower_threshold")[0],
                "upper": column(estimated, metric, "upper_threshold")[0],
                "alert": column(estimated, metric, "alert"),
            }
            for metric in metrics
        },
    }


def performance_errors(theirs: dict[str, Any]) -> list[str]:
    """Where ours, from counts, are not these."""
    wrong, ours = [], estimates()
    for metric, figures in theirs["metrics"].items():
        for at, (estimate, was) in enumerate(zip(ours, figures["estimated"], strict=True)):
            value = estimate.values[metric]
            if abs(value - was) > (1e-8 if metric in RANKED else 1e-9):
                wrong.append(f"car loan chunk {at}: estimated {metric} {was}, ours {value}")
            value = confusion.metrics(confusion.counted(labelled(DATA["analysis"][at : at + 1])))[metric]
            if abs(value - figures["realised"][at]) > 1e-12:
                wrong.append(f"car loan chunk {at}: realised {metric} {figures['realised'][at]}, ours {value}")
    if not np.allclose(theirs["points"], fitted(), rtol=0.0, atol=1e-12):
        wrong.append("car loan: the calibration has other points")
    return wrong


def calibrations() -> dict[str, dict[str, Any]]:
    """Whether NannyML calibrates the scores of a case, and what it makes of others then."""
    from nannyml.calibration import IsotonicCalibrator, needs_calibration

    found = {}
    for name, (scores, labels) in streams.scored().items():
        needs = needs_calibration(labels, scores, IsotonicCalibrator())
        fitted_to = IsotonicCalibrator()
        fitted_to.fit(scores, labels)
        found[name] = {
            "needs": bool(needs),
            "calibrated": [float(value) for value in fitted_to.calibrate(streams.SCORES)],
        }
    return found


def calibration_errors(theirs: dict[str, dict[str, Any]]) -> list[str]:
    """Where our lines are not these. Whether they are used, is decided otherwise: gateway/monitor/calibration.py."""
    wrong = []
    for name, (scores, labels) in streams.scored().items():
        ours = isotonic.applied(isotonic.fit(scores, labels), streams.SCORES)
        for score, value, was in zip(streams.SCORES, ours, theirs[name]["calibrated"], strict=True):
            if not math.isclose(value, was, abs_tol=1e-12):
                wrong.append(f"calibration, {name}: {score} is {was}, ours {value}")
    return wrong
