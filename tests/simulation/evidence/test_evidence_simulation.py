"""What docs/evidence.md promises, through the real code: small here, in full with `make sim`."""

import pytest

from tests.simulation.evidence import delays, false_alarms
from tests.simulation.evidence.experiments import EXPERIMENTS
from tests.simulation.evidence.results import Delay, Rate


def broken(name: str, scale: float) -> list[str]:
    return [" | ".join(row.cells()) for row in EXPERIMENTS[name](scale) if not row.kept]


# Each of these takes well under a second at this scale; the others only in full.
SMALL = [
    "T1 0.5% 1%",
    "T1 margin 1.0%",
    "T1 others 0.2% 5%",
    "T2",
    "T2 hostile",
    "T4 5 1",
    "T4 50 8",
    "C2 at the margin",
    "C2 at the margin, sticky",
    "B3",
    "T5 x5",
    "C1 10% 5000",
    "T6 1%",
    "T6 means",
    "T7 healthy",
    "C2 no errors",
]


@pytest.mark.parametrize("name", SMALL)
def test_promises_in_small(name: str) -> None:
    assert broken(name, 0.015) == []


@pytest.mark.sim
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_promises_in_full(name: str) -> None:
    assert broken(name, 1.0) == []


def test_a_shared_incident_on_a_ramp_deceives_every_pooled_rule_and_not_ours() -> None:
    rows = {row.rule: row for row in false_alarms.shared_incident(25, 23) if row.setting.endswith("errors")}
    assert rows["event share"].hits <= 1
    for rule in ("z peeked at", "pooled sequence", "Argo-like", "Flagger-like"):
        assert rows[rule].hits >= 24, rule


def test_erring_units_deceive_who_counts_them_again() -> None:
    rollout, window, requests = false_alarms.clustered(160, 200, 8)
    assert rollout.kept
    assert window.limits[0] > 0.0
    assert requests.limits[0] > 0.1


def test_a_late_fault_is_found_by_a_late_start() -> None:
    delay, late = delays.late_fault(20, True)
    assert late.hits == 0
    assert delay.p90 < 4_000
    _, late = delays.late_fault(20, False)
    assert late.hits == 20


def test_the_limits_of_a_rate_are_the_binomials() -> None:
    """0 of 458: the upper 99 % limit is 1 - 0.01^(1/458) = 1.0 %."""
    low, high = Rate("", "", "", 0, 458, 0.01).limits
    assert low == 0.0
    assert high == pytest.approx(1 - 0.01 ** (1 / 458))
    assert Rate("", "", "", 40, 4_000, 0.01).kept
    assert not Rate("", "", "", 60, 4_000, 0.01).kept
    assert Rate("", "", "", 20, 20).limits[1] == 1.0
    assert not Delay("", "", 100, 0, 151, 1, 1, 100, 0).kept
    assert not Delay("", "", 100, 0, 66, 1, 1, 100, 0).kept
    assert Delay("", "", 100, 0, 149, 1, 1, 100, 0).kept
