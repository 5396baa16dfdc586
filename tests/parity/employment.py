"""NannyML's figures for employment in Massachusetts. Runs in the environment of `parity.py`.

/tmp/parity/bin/python -m tests.parity.employment    # counts its rows anew: tests/monitor/data/employment_chunks.npz
"""

from typing import Any

import numpy as np
import pandas as pd

from tests.monitor.employment_rows import CHUNK, FILE, SCORES

FEATURES = ["AGEP", "SCHL", "MAR", "RELP", "DIS", "ESP", "CIT", "MIG", "MIL", "ANC", "NATIVITY", "DEAR", "DEYE", "DREM",
            "SEX", "RAC1P"]  # fmt: skip
SETTINGS: dict[str, Any] = {
    "problem_type": "classification_binary",
    "y_pred_proba": "predicted_probability",
    "y_pred": "prediction",
    "y_true": "employed",
    "metrics": ["roc_auc"],
    "chunk_size": CHUNK,
}


def people() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Those of 2015, and those of 2016 to 2018; both with what came true."""
    import nannyml

    reference, analysis, targets = nannyml.load_us_census_ma_employment_data()
    return reference, analysis.merge(targets, on="id")


def figures() -> dict[str, Any]:
    """Chunks in which a feature's Jensen-Shannon distance is too high, and the ROC AUC estimated and come true."""
    import nannyml

    reference, analysis = people()
    drift = nannyml.UnivariateDriftCalculator(column_names=FEATURES, chunk_size=CHUNK).fit(reference)
    distances = drift.calculate(analysis).filter(period="analysis").to_df()
    estimated = nannyml.CBPE(**SETTINGS).fit(reference).estimate(analysis).filter(period="analysis").to_df()
    calculator = nannyml.PerformanceCalculator(**SETTINGS).fit(reference)
    realised = calculator.calculate(analysis).filter(period="analysis").to_df()
    auc = {"estimated": estimated["roc_auc"], "realised": realised["roc_auc"]}
    return {
        "js_alerts": {name: np.flatnonzero(distances[(name, "jensen_shannon", "alert")]).tolist() for name in FEATURES},
        "roc_auc": {name: one["value"].astype(float).tolist() for name, one in auc.items()},
        "roc_auc_alerts": {name: np.flatnonzero(one["alert"]).tolist() for name, one in auc.items()},
    }


def counted() -> dict[str, np.ndarray]:
    """Rows by chunk and value of each feature, and by chunk, label and bin of the score."""
    reference, analysis = people()
    chunk = np.concatenate([np.arange(len(reference)) // CHUNK, np.arange(len(analysis)) // CHUNK])
    chunk[len(reference) :] += chunk[len(reference) - 1] + 1
    found = {"reference_chunks": np.array(chunk[len(reference) - 1] + 1)}
    everybody = pd.concat([reference, analysis], ignore_index=True)
    for name in FEATURES:
        values, at = np.unique(everybody[name].astype(float), return_inverse=True)
        counts = np.zeros((chunk[-1] + 1, len(values)), np.int32)
        np.add.at(counts, (chunk, at), 1)
        found |= {f"{name}_values": values, name: counts}
    scores = np.zeros((chunk[-1] + 1, 2, SCORES), np.int32)
    place = np.minimum((everybody["predicted_probability"] * SCORES).astype(int), SCORES - 1)
    np.add.at(scores, (chunk, everybody["employed"], place), 1)
    return found | {"scores": scores}


if __name__ == "__main__":
    np.savez_compressed(FILE, allow_pickle=False, **counted())
