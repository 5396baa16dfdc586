"""Sample ratio mismatch against the numbers of others, and by itself."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.evidence import special, srm
from router.evidence.srm import SampleRatio


def test_marginal_likelihoods_as_ssrm() -> None:
    """Source: optimizely/ssrm, ssrm_test/test_ssrm_test.py (Apache-2.0)."""
    null, prior = (0.4, 0.4, 0.2), (1.0, 1.0, 1.0)
    log_1 = log_0 = 0.0
    posterior = list(prior)
    for batch in ([20, 17, 9], [18, 21, 8], [4, 6, 4], [18, 19, 11]):
        log_1 += srm.log_dirichlet_multinomial(batch, posterior)
        log_0 += srm.log_multinomial(batch, null)
        posterior = [concentration + units for concentration, units in zip(posterior, batch, strict=True)]
    assert log_1 == pytest.approx(-19.96484521090386, rel=1e-12)
    assert log_0 == pytest.approx(-15.781031228536165, rel=1e-12)


@pytest.mark.parametrize(("counts", "p"), [([502, 498], 0.8993431885613663), ([600, 400], 2.5396285894708634e-10)])
def test_chi_square_as_the_srm_checker(counts: list[int], p: float) -> None:
    """Source: lukasvermeer/srm, docs/faq.md (MIT licence)."""
    assert srm.chi_square_p([0.5, 0.5], counts) == pytest.approx(p, rel=1e-9)


def test_chi_square_of_two_degrees_is_an_exponential() -> None:
    for statistic in (0.1, 1.0, 3.0, 20.0, 200.0):
        assert special.chi_square_above(statistic, 2) == pytest.approx(math.exp(-statistic / 2), rel=1e-12)
    assert special.chi_square_above(0.0, 3) == 1.0


BATCHES = st.lists(st.tuples(st.sampled_from([0.1, 0.25, 0.5]), st.integers(0, 500), st.integers(0, 500)), max_size=20)


@given(BATCHES, st.integers(0, 20))
def test_batches_add_up_and_a_restart_goes_on_to_the_bit(batches: list[tuple[float, int, int]], cut: int) -> None:
    through, first, joined = SampleRatio(), SampleRatio(), SampleRatio()
    for w, canary, stable in batches:
        through.add([w, 1 - w], [canary, stable])
    for w, canary, stable in batches[:cut]:
        first.add([w, 1 - w], [canary, stable])
    again = SampleRatio.from_state(json.loads(json.dumps(first.state())))
    for w, canary, stable in batches[cut:]:
        again.add([w, 1 - w], [canary, stable])
    assert again.state() == through.state()
    for weight in (0.5, 0.1, 0.25):
        counts = [(canary, stable) for w, canary, stable in batches if w == weight]
        joined.add([weight, 1 - weight], [sum(c) for c in zip(*counts, strict=True)] or [0, 0])
    assert joined.log_e == pytest.approx(through.log_e, rel=1e-9, abs=1e-7)


def test_a_mismatch_holds_and_stays() -> None:
    test = SampleRatio()
    test.add([1_000, 9_000], [1_000, 9_000])
    assert not test.mismatch
    test.add([5_000, 5_000], [5_500, 4_500])
    assert test.mismatch
    test.add([5_000, 5_000], [4_500, 5_500])
    assert test.mismatch
    assert test.log_e < test.peak_log_e


def test_what_was_not_randomised_says_nothing() -> None:
    test = SampleRatio()
    assert test.add([0, 10_000], [0, 5_000]) == 0.0
    assert test.add([1_000, 9_000], [0, 0]) == 0.0
    assert srm.chi_square_p([0, 1], [0, 5]) == 1.0
    assert test.state()["splits"] == []
    assert math.isfinite(test.add([1, 9_999], [0, 10**12]))


@pytest.mark.parametrize(
    "make",
    [
        lambda: SampleRatio(0.0),
        lambda: SampleRatio().add([0.5], [1, 2]),
        lambda: SampleRatio().add([], []),
        lambda: SampleRatio().add([0.0, 0.0], [0, 0]),
        lambda: SampleRatio().add([-0.5, 1.5], [1, 2]),
        lambda: SampleRatio().add([0.5, 0.5], [-1, 2]),
        lambda: SampleRatio().add([0.0, 1.0], [1, 2]),
        lambda: SampleRatio.from_state({}),
        lambda: SampleRatio.from_state({**SampleRatio().state(), "splits": None}),
        lambda: SampleRatio.from_state({**SampleRatio().state(), "splits": [3]}),
        lambda: SampleRatio.from_state({**SampleRatio().state(), "splits": [{"weights": [1.0], "counts": [-1]}]}),
        lambda: SampleRatio.from_state({**SampleRatio().state(), "splits": [{"weights": [0.5, 0.5], "counts": [1]}]}),
        lambda: [*map(SampleRatio().add, ([i, 2_000] for i in range(1, 1_002)), [[1, 1]] * 1_001)],
    ],
)
def test_what_makes_no_sense_is_refused(make: Any) -> None:
    with pytest.raises(ValueError, match="expected"):
        make()
