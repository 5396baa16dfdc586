"""Ask Evidently, NannyML, River and SciPy for the figures that ours have to agree with; writes golden.json.

    python -m venv /tmp/parity && /tmp/parity/bin/pip install -r tests/parity/requirements.txt
    PYTHONHASHSEED=0 /tmp/parity/bin/python -m tests.parity.parity    # Evidently adds up sets of texts in their order

Ends with 1 if ours, run in that environment too, differ from them, or if NannyML no longer gives its published figures.
The tests in tests/monitor compare ours with golden.json and need none of the libraries.
"""

import json
import math
import os
import platform
import sys
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tests.parity import carloan, compat, employment, streams

os.environ["NML_DISABLE_USAGE_LOGGING"] = "1"
GOLDEN = Path(__file__).with_name("golden.json")
LIBRARIES = ("evidently", "nannyml", "river", "scipy", "numpy", "pandas", "scikit-learn", "category_encoders")


def exact_ks(case: streams.Case) -> bool:
    """Whether Evidently gives an exact p-value of the Kolmogorov-Smirnov distance."""
    return case.numeric and max(len(case.reference), len(case.current)) <= compat.EVIDENTLY_EXACT_TO


def evidently_figures(case: streams.Case) -> dict[str, float]:
    """What Evidently's tests say of a case."""
    from evidently.legacy.calculations.stattests import registry
    from evidently.legacy.core import ColumnType

    kind = ColumnType.Numerical if case.numeric else ColumnType.Categorical
    names = ["psi", "kl_div", "jensenshannon", "hellinger"]
    names += ["wasserstein"] if case.numeric else ["chisquare", "z"]
    names += ["ks"] if exact_ks(case) else []
    found = {}
    for name in names:
        test = registry.get_registered_stattest(name, kind)
        before, now = pd.Series(case.reference.copy()), pd.Series(case.current.copy())
        found[name] = float(test(before, now, kind, 0.1).drift_score)
    # Chi-square of a single value is NaN there and "no drift" here.
    return {name: 1.0 if math.isnan(value) else value for name, value in found.items()}


def evidently_defaults() -> list[list[Any]]:
    """[rows of the reference, different values, numeric, the test taken]."""
    from evidently.legacy.calculations.stattests import registry
    from evidently.legacy.core import ColumnType

    found = []
    for rows in (999, 1_000, 1_001):
        for values in (2, 3, 5, 6):
            for numeric in (True, False):
                column = pd.Series(np.arange(rows) % values)
                kind = ColumnType.Numerical if numeric else ColumnType.Categorical
                found.append([rows, values, numeric, registry.get_stattest(column, column, kind, None).name])
    return found


def nannyml_figures(case: streams.Case) -> dict[str, float]:
    """What NannyML's methods say of a case."""
    from nannyml.chunk import CountBasedChunker
    from nannyml.drift.univariate.methods import FeatureType, MethodFactory
    from nannyml.thresholds import StandardDeviationThreshold

    kind = FeatureType.CONTINUOUS if case.numeric else FeatureType.CATEGORICAL
    names = ["kolmogorov_smirnov", "wasserstein"] if case.numeric else ["chi2", "l_infinity"]
    found = {}
    for name in ["jensen_shannon", "hellinger", *names]:
        method = MethodFactory.create(
            name, kind, chunker=CountBasedChunker(chunk_number=5), threshold=StandardDeviationThreshold()
        )
        method.fit(pd.Series(case.reference.copy(), name="column"))
        found[name] = float(method.calculate(pd.Series(case.current.copy(), name="column")))
        if name == "chi2":
            found["chi2 p"] = float(method._p_value)
    return found


def ours(case: streams.Case) -> tuple[dict[str, float], dict[str, float]]:
    """The same, by us: Evidently's, NannyML's."""
    pair, numeric = (case.reference, case.current), case.numeric
    theirs = {
        "psi": compat.evidently_psi(*pair, numeric),
        "kl_div": compat.evidently_kl(*pair, numeric),
        "jensenshannon": compat.evidently_js(*pair, numeric),
        "hellinger": compat.evidently_hellinger(*pair, numeric),
    }
    others = {
        "jensen_shannon": compat.nannyml_js(*pair, numeric),
        "hellinger": compat.nannyml_hellinger(*pair, numeric),
    }
    if numeric:
        theirs["wasserstein"] = compat.evidently_wasserstein(*pair)
        theirs |= {"ks": compat.evidently_ks(*pair)} if exact_ks(case) else {}
        others["kolmogorov_smirnov"] = compat.nannyml_ks(*pair)
        others["wasserstein"] = compat.nannyml_wasserstein(*pair)
        return theirs, others
    theirs["chisquare"], theirs["z"] = compat.evidently_chi_square(*pair), compat.evidently_z(*pair)
    others["chi2"], others["chi2 p"] = compat.nannyml_chi_square(*pair)
    others["l_infinity"] = compat.nannyml_l_infinity(*pair)
    return theirs, others


def scipy_figures() -> dict[str, Any]:
    """Laws that ours write out: beta-binomial, noncentral chi-square, homogeneity, false discovery rate."""
    from scipy import stats

    tests = []
    for k, n, k_ref, m in streams.COUNTS:
        law = stats.betabinom(n, k_ref + 1, m - k_ref + 1)
        tests.append([k, n, k_ref, m, min(1.0, 2.0 * min(float(law.sf(k - 1)), float(law.cdf(k))))])
    table = [[120, 80, 40, 11], [33, 10, 9, 14]]
    homogeneity = {
        name: [float(value) for value in stats.chi2_contingency(table, correction=False, lambda_=power)[:2]]
        for name, power in (("pearson", 1.0), ("g", 0.0), ("power", 1.0 / 3.0))
    }
    p_values = [0.001, 0.008, 0.039, 0.041, 0.042, 0.06, 0.074, 0.205, 0.212, 0.216, 0.012, 0.02]
    return {
        "beta_binomial": tests,
        "homogeneity": {"table": table, **homogeneity},
        "noncentral": [
            [x, df, nc, float(stats.ncx2.sf(x, df, nc))] for x, df, nc in ((10, 9, 3), (27, 9, 28), (3, 1, 0.5))
        ],
        "quantile": [[alpha, df, float(stats.chi2.isf(alpha, df))] for alpha, df in ((0.05, 1), (1e-4, 9), (1e-9, 30))],
        "p_values": p_values,
        "adjusted": [float(p) for p in stats.false_discovery_control(p_values)],
    }


def river_figures() -> list[list[int]]:
    """Indices at which River's ADWIN finds a change."""
    from river import drift

    found = []
    for settings, stream in streams.error_streams():
        detector, changes = drift.ADWIN(**settings), []
        for at, value in enumerate(stream):
            detector.update(value)
            if detector.drift_detected:
                changes.append(at)
        found.append(changes)
    return found


def reconstruction_figures() -> dict[str, Any]:
    """Errors of NannyML's data reconstruction for chunks of a table whose columns come apart."""
    import nannyml

    before, now = streams.table(1, 2_000, 0.9), streams.table(2, 1_000, -0.2)

    def frame(one: streams.Table) -> pd.DataFrame:
        columns = {f"n{at}": one.numbers[:, at] for at in range(one.numbers.shape[1])}
        # NaN, not None: its imputer takes None for one more category.
        words = [pd.Series(values, dtype=object).where(lambda v: v.notna(), np.nan) for values in one.categories]
        return pd.DataFrame(columns | {f"c{at}": values for at, values in enumerate(words)})

    calculator = nannyml.DataReconstructionDriftCalculator(column_names=list(frame(before)), chunk_size=500)
    calculator.fit(frame(before))
    result = calculator.calculate(frame(now)).to_df()["reconstruction_error"]
    return {
        "value": [float(value) for value in result["value"]],
        "standard_error": [float(value) for value in result["sampling_error"]],
        "rows": 500,
    }


def differences(name: str, theirs: dict[str, float], mine: dict[str, float]) -> list[str]:
    """Figures that differ by more than rounding."""
    assert theirs.keys() == mine.keys(), name
    return [
        f"{name}, {key}: {theirs[key]!r}, ours {mine[key]!r}"
        for key in theirs
        if not math.isclose(theirs[key], mine[key], rel_tol=1e-10, abs_tol=1e-12)
    ]


def main(say: Callable[[str], None] = print) -> int:
    """Write golden.json and compare."""
    warnings.simplefilter("ignore")
    figures, drift = {}, carloan.drift()
    wrong = carloan.drift_errors(drift)
    for case in streams.cases():
        evidently, nannyml = evidently_figures(case), nannyml_figures(case)
        figures[case.name] = {"evidently": evidently, "nannyml": nannyml}
        mine = ours(case)
        wrong += differences(f"evidently, {case.name}", evidently, mine[0])
        wrong += differences(f"nannyml, {case.name}", nannyml, mine[1])
    calibrations, performance = carloan.calibrations(), carloan.performance()
    wrong += carloan.calibration_errors(calibrations) + carloan.performance_errors(performance)
    golden = {
        "versions": {"python": platform.python_version()} | {name: version(name) for name in LIBRARIES},
        "cases": figures,
        "evidently_defaults": evidently_defaults(),
        "scipy": scipy_figures(),
        "river_adwin": river_figures(),
        "nannyml_reconstruction": reconstruction_figures(),
        "nannyml_calibration": calibrations,
        "nannyml_car_loan": {"drift": drift} | performance,
        "nannyml_employment": employment.figures(),
    }
    GOLDEN.write_text(json.dumps(golden, indent=1) + "\n")
    say("\n".join(wrong) or f"ours agree with {', '.join(f'{n} {v}' for n, v in golden['versions'].items())}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
