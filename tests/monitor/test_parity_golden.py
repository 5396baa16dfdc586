"""Ours against figures of Evidently, NannyML, River and SciPy, as tests/parity/parity.py has them from these."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gateway.monitor import distances, families, significance
from gateway.monitor.adwin import Adwin
from gateway.monitor.plan import FeaturePlan
from gateway.monitor.rowerrors import DIGITS, RowErrors
from gateway.monitor.together import components
from tests.monitor.counting_models import texts
from tests.parity import compat, streams

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parents[1] / "parity" / "golden.json").read_text())
CASES = {case.name: case for case in streams.cases()}
NUMERIC = [name for name, case in CASES.items() if case.numeric]
CATEGORICAL = [name for name, case in CASES.items() if not case.numeric]


def close(expected: float) -> Any:
    return pytest.approx(expected, rel=1e-10, abs=1e-12)


def test_golden_names_its_versions() -> None:
    assert {"evidently", "nannyml", "river", "scipy", "numpy"} <= GOLDEN["versions"].keys()
    assert GOLDEN["cases"].keys() == CASES.keys()


@pytest.mark.parametrize("name", CASES)
def test_evidently(name: str) -> None:
    case, golden = CASES[name], GOLDEN["cases"][name]["evidently"]
    pair = case.reference, case.current
    assert compat.evidently_psi(*pair, case.numeric) == close(golden["psi"])
    assert compat.evidently_kl(*pair, case.numeric) == close(golden["kl_div"])
    assert compat.evidently_js(*pair, case.numeric) == close(golden["jensenshannon"])
    assert compat.evidently_hellinger(*pair, case.numeric) == close(golden["hellinger"])


@pytest.mark.parametrize("name", NUMERIC)
def test_numbers(name: str) -> None:
    pair, golden = (CASES[name].reference, CASES[name].current), GOLDEN["cases"][name]
    assert compat.evidently_wasserstein(*pair) == close(golden["evidently"]["wasserstein"])
    assert compat.nannyml_ks(*pair) == close(golden["nannyml"]["kolmogorov_smirnov"])
    assert compat.nannyml_wasserstein(*pair) == close(golden["nannyml"]["wasserstein"])


@pytest.mark.parametrize("name", [name for name in NUMERIC if name != "large"])
def test_exact_p_value_of_kolmogorov_smirnov(name: str) -> None:
    case = CASES[name]
    assert compat.evidently_ks(case.reference, case.current) == close(GOLDEN["cases"][name]["evidently"]["ks"])


@pytest.mark.parametrize("name", CATEGORICAL)
def test_categories(name: str) -> None:
    pair, golden = (CASES[name].reference, CASES[name].current), GOLDEN["cases"][name]
    assert compat.evidently_chi_square(*pair) == close(golden["evidently"]["chisquare"])
    assert compat.evidently_z(*pair) == close(golden["evidently"]["z"])
    statistic, p_value = compat.nannyml_chi_square(*pair)
    assert (statistic, p_value) == (close(golden["nannyml"]["chi2"]), close(golden["nannyml"]["chi2 p"]))
    assert compat.nannyml_l_infinity(*pair) == close(golden["nannyml"]["l_infinity"])


@pytest.mark.parametrize("name", CASES)
def test_nannyml(name: str) -> None:
    case, golden = CASES[name], GOLDEN["cases"][name]["nannyml"]
    assert compat.nannyml_js(case.reference, case.current, case.numeric) == close(golden["jensen_shannon"])
    assert compat.nannyml_hellinger(case.reference, case.current, case.numeric) == close(golden["hellinger"])


def test_which_test_evidently_takes() -> None:
    assert len(GOLDEN["evidently_defaults"]) == 24
    for rows, values, numeric, name in GOLDEN["evidently_defaults"]:
        assert compat.evidently_default(rows, values, numeric) == name


def test_limits_of_nannyml() -> None:
    assert compat.nannyml_limits(np.array([1.0, 2.0, 3.0])) == close((2.0 - 6.0**0.5, 2.0 + 6.0**0.5))


def test_our_distances_are_theirs_on_the_same_bins() -> None:
    # Equal bins: Evidently's JS is NannyML's times sqrt(ln 2), and ours without smoothing is Evidently's.
    pair = CASES["letters"].reference, CASES["letters"].current
    p, q = compat.evidently_shares(*pair, numeric=False, fill=False)
    golden = GOLDEN["cases"]["letters"]
    assert distances.js(p, q) == close(golden["evidently"]["jensenshannon"])
    assert distances.js(p, q) == close(golden["nannyml"]["jensen_shannon"] * np.log(2.0) ** 0.5)
    assert distances.hellinger(p, q) == close(golden["nannyml"]["hellinger"])
    assert distances.psi(p, q) == close(golden["evidently"]["psi"])
    assert distances.linf(p, q) == close(golden["nannyml"]["l_infinity"])


def test_beta_binomial() -> None:
    for k, n, k_ref, m, p_value in GOLDEN["scipy"]["beta_binomial"]:
        assert significance.binomial_two_sample(k, n, k_ref, m) == pytest.approx(p_value, rel=1e-5)


@pytest.mark.parametrize("law", ["pearson", "g", "power"])
def test_homogeneity(law: Any) -> None:
    golden = GOLDEN["scipy"]["homogeneity"]
    reference, current = np.array(golden["table"], np.int64)
    tested = significance.homogeneity(reference, current, ordered=True, law=law)
    assert tested.degrees == 3
    assert [tested.statistic, tested.p_value] == close(golden[law])


def test_chi_square_and_what_is_seen_of_it() -> None:
    for x, degrees, noncentrality, above in GOLDEN["scipy"]["noncentral"]:
        assert significance.noncentral_above(x, degrees, noncentrality) == pytest.approx(above, rel=1e-9)
    for alpha, degrees, value in GOLDEN["scipy"]["quantile"]:
        assert significance.chi_square_quantile(alpha, degrees) == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize("q", [0.03, 0.05, 0.1, 0.25])
def test_benjamini_hochberg(q: float) -> None:
    p_values, adjusted = GOLDEN["scipy"]["p_values"], GOLDEN["scipy"]["adjusted"]
    assert families.benjamini_hochberg(p_values, q) == [p <= q for p in adjusted]
    assert families.simes(p_values) == close(min(adjusted))


def test_adwin_finds_what_river_finds() -> None:
    names = {"max_buckets": "buckets", "min_window_length": "least"}
    for (settings, stream), changes in zip(streams.error_streams(), GOLDEN["river_adwin"], strict=True):
        detector = Adwin(**{names.get(key, key): value for key, value in settings.items()})  # type: ignore[arg-type]
        assert [at for at, value in enumerate(stream) if detector.update(value)] == changes


def test_reconstruction_errors_are_those_of_nannyml() -> None:
    golden = GOLDEN["nannyml_reconstruction"]
    before, now = streams.table(1, 2_000, 0.9), streams.table(2, 1_000, -0.2)
    features = [FeaturePlan(f"n{at}", "numeric", 0, at) for at in range(3)]
    features += [
        FeaturePlan(f"c{at}", "categorical", 1 + at, -1, values=tuple(sorted({one for one in words if one})))
        for at, words in enumerate(before.categories)
    ]
    made = components(features, tensors(before), np.arange(2_000))
    errors = RowErrors(made, features)
    found = np.concatenate([errors.errors(tensors(before), 2_000, 0), errors.errors(tensors(now), 1_000, 0)])
    chunks = found.reshape(-1, 500)
    # Errors of rows are rounded.
    assert chunks.mean(axis=1) == pytest.approx(golden["value"], abs=10.0**-DIGITS)
    assert chunks.std(axis=1, ddof=1) / 500**0.5 == pytest.approx(golden["standard_error"], abs=10.0**-DIGITS)


def tensors(table: streams.Table) -> list[np.ndarray]:
    """As a gateway gets them: empty text is missing."""
    return [table.numbers, *(texts([one or "" for one in words]) for words in table.categories)]
