"""What reports make of a rollout of sticky units: customers who come again, most of them without a failure."""

from gateway.control.intake import Delta
from gateway.control.judge import Judge
from gateway.tally import FIELDS, NOTE_BAD, NOTE_SEEN, OK, ROUTED
from router.rollout_document import Analysis

WEIGHTS = {"7": {"": 0.1}}
STABLE, CANARY = 0, 1


def judge() -> Judge:
    return Judge("one", Analysis(), sticky=True, variants=("stable", "canary"), stable="stable", canary="canary")


def seen(canary_units: int, failed: int = 0) -> Delta:
    """Each canary unit, and nine times as many of stable, once; the first ones of the canary fail."""
    delta = Delta()
    for variant, name, units in ((CANARY, "canary", canary_units), (STABLE, "stable", 9 * canary_units)):
        counts = [0] * len(FIELDS)
        counts[ROUTED] = counts[OK] = units
        delta.counts[7, "", name] = tuple(counts)
        for unit in range(units):
            flags = NOTE_SEEN | (NOTE_BAD if variant == CANARY and unit < failed else 0)
            delta.notes.append((flags, 7, 0, variant, variant * 100_000 + unit))
    return delta


def test_without_a_single_error_enough_units_show_that_the_canary_may_have_everybody() -> None:
    few, enough = judge(), judge()
    few.take(seen(800), WEIGHTS, [""])
    enough.take(seen(900), WEIGHTS, [""])
    assert not few.verdicts(0.1)["error_rate"].passes
    assert enough.verdicts(0.1)["error_rate"].passes


def test_units_that_err_keep_it_from_all_users_and_roll_it_back() -> None:
    found = judge()
    found.take(seen(900, failed=30), WEIGHTS, [""])
    verdict = found.verdicts(0.1)["error_rate"]
    assert verdict.tripped
    assert not verdict.passes
