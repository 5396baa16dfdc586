"""NannyML's figures for its car loans, and where ours differ. Runs in the environment of `parity.py`."""

import math
from typing import Any

import numpy as np
import pandas as pd

from examples.carloan.loans import FEATURE_NAMES
from gateway.monitor import confusion, isotonic
from tests.monitor.carloan_rows import DATA, estimates, fitted, labelled
from tests.parity import published, streams

CHUNK = 5_000
COLUMNS = {"y_pred_proba": "y_pred_proba", "y_pred": "y_pred", "y_true": "repaid"}
SETTINGS: dict[str, Any] = {"problem_type": "classification_binary", "chunk_size": CHUNK}
RANKED = ("roc_auc", "average_precision")
"""Before these NannyML rounds cumulated masses to 5 places."""


def drift() -> dict[str, Any]:
    """Distances of the debt ratio, chunks of each column with an alert, and errors of rebuilt rows."""
    import nannyml

    reference, analysis, targets = nannyml.load_synthetic_car_loan_dataset()
    analysis = analysis.merge(targets, left_index=True, right_index=True)
    names, methods = list(published.JS_ALERTS), ["jensen_shannon", "kolmogorov_smirnov"]
    columns = nannyml.UnivariateDriftCalculator(column_names=names, continuous_methods=methods, chunk_size=CHUNK)
    found = columns.fit(reference).calculate(analysis).filter(period="analysis").to_df()
    rows = nannyml.DataReconstructionDriftCalculator(column_names=list(FEATURE_NAMES), chunk_size=CHUNK)
    errors = rows.fit(reference).calculate(analysis).to_df()["reconstruction_error"]
    debt = found["debt_to_income_ratio"]
    return {
        "js": debt[("jensen_shannon", "value")].astype(float).tolist(),
        "js_limit": float(debt[("jensen_shannon", "upper_threshold")].iloc[0]),
        "ks": debt[("kolmogorov_smirnov", "value")].astype(float).tolist(),
        "ks_limit": float(debt[("kolmogorov_smirnov", "upper_threshold")].iloc[0]),
        "js_alerts": {name: np.flatnonzero(found[(name, "jensen_shannon", "alert")]).tolist() for name in names},
        "errors": errors["value"].astype(float).tolist(),
        "error_limits": [float(errors[f"{side}_threshold"].iloc[0]) for side in ("lower", "upper")],
    }


def drift_errors(theirs: dict[str, Any]) -> list[str]:
    """Where these are not the figures it publishes."""
    said = {
        "js": published.JS,
        "js_limit": published.JS_LIMIT,
        "ks": published.KS,
        "ks_limit": published.KS_LIMIT,
        "errors": published.ERRORS_BEFORE + published.ERRORS,
        "error_limits": published.ERROR_LIMITS,
    }
    wrong = [
        f"car loan: {name} {theirs[name]}, published {value}"
        for name, value in said.items()
        if not np.allclose(theirs[name], value, rtol=0.0, atol=6e-6)
    ]
    counts = {name: len(chunks) for name, chunks in theirs["js_alerts"].items()}
    return wrong + ([] if counts == published.JS_ALERTS else [f"car loan: alerts {counts}"])


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
