"""Families: levels, states, and names."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.monitor import families
from gateway.monitor.families import FamilyState, FamilyVerdict, Key, Persistence, window_alpha

LOW, HIGH = 1e-9, 0.9


@pytest.mark.parametrize(("needed", "of", "alpha"), [(1, 1, 0.0014), (2, 2, 0.0373), (2, 3, 0.0217), (3, 5, 0.0532)])
def test_published_levels(needed: int, of: int, alpha: float) -> None:
    # Hourly windows, one alarm in 30 days.
    assert window_alpha(1.0, 1 / 24, 30.0, needed, of) == pytest.approx(alpha, rel=0.01)


@given(st.floats(1e-12, 1.0), st.floats(1e-4, 10.0), st.floats(1.0, 1e6))
def test_the_level_solves_its_equation(share: float, window: float, distance: float) -> None:
    alpha = window_alpha(share, window, distance)
    target = share * window / distance
    assert families.binomial_at_least(2, 3, alpha) == pytest.approx(min(1.0, target), rel=1e-9)


def test_ends_of_levels() -> None:
    assert window_alpha(0.4, 80.0, 30.0) == 1.0
    assert window_alpha(0.0, 1.0, 30.0) < 1e-200
    assert sum(families.SHARES.values()) == pytest.approx(1.0)
    for wrong in [(-0.1, 1.0, 1.0), (0.1, 0.0, 1.0), (0.1, 1.0, 0.0)]:
        with pytest.raises(ValueError, match="expected"):
            window_alpha(*wrong)


def test_simes_and_benjamini_hochberg_of_nothing() -> None:
    assert families.simes([]) == 1.0
    assert families.benjamini_hochberg([]) == []


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=40), st.floats(0.001, 0.3))
def test_simes_is_low_where_something_is_selected(p_values: list[float], q: float) -> None:
    count = len(p_values)
    selected = families.benjamini_hochberg(p_values, q)
    least = min(families.simes(p_values) - q, 0.0)
    assert any(selected) == (least < 0.0) or abs(families.simes(p_values) - q) < 1e-12
    assert families.simes(p_values) <= min(1.0, count * min(p_values)) + 1e-12


def test_simes_of_independent_p_values_is_even() -> None:
    drawn = np.random.default_rng(1).random((4_000, 30))
    below = sum(families.simes(list(row)) <= 0.05 for row in drawn)
    assert below == pytest.approx(200, abs=42)


# ---- states ----


def states(hits: str, **rules: Any) -> str:
    """First letters of the states after windows: x = hit."""
    persistence = Persistence(**rules)
    return "".join(persistence.close(hit == "x")[0] for hit in hits)


@pytest.mark.parametrize(
    ("hits", "expected"),
    [
        ("...", "ooo"),
        ("x..x..", "poopoo"),
        ("xx", "pf"),
        ("x.x", "pof"),
        ("x..xx", "poopf"),
        ("xx.x", "pfff"),
        ("xx..", "pffr"),
        ("xx...", "pffro"),
        ("xx..x", "pffrp"),
        ("xx..xx", "pffrpf"),
        ("xx.x.x..", "pffffffr"),
    ],
)
def test_two_of_three_and_two_clean(hits: str, expected: str) -> None:
    assert states(hits) == expected


def test_other_rules() -> None:
    assert states("xxx", needed=3, of=5) == "ppf"
    assert states("x", needed=1, of=1) == "f"
    assert states("xx.", clean=1) == "pfr"


def close(state: FamilyState, alpha: float = 0.02, **keys: tuple[float, float]) -> FamilyVerdict:
    """A window of keys (p-value, effect), floor 0.1."""
    return state.close([Key(name, *both, floor=0.1) for name, both in keys.items()], alpha)


def test_an_alarm_names_what_changed_and_matters() -> None:
    state = FamilyState()
    window: dict[str, tuple[float, float]] = {
        "age": (LOW, 0.3),
        "income": (LOW * 2, 0.5),
        "tiny": (LOW, 0.01),
        "noisy": (HIGH, 0.4),
    }
    first, second = close(state, **window), close(state, **window)
    assert (first.state, first.fired, first.named) == ("pending", False, ())
    assert (second.state, second.fired, second.named) == ("firing", True, ("income", "age"))
    assert second.selected == ("age", "tiny", "income")
    third = close(state, **window)
    assert (third.state, third.fired, third.named) == ("firing", False, ("income", "age"))


def test_what_is_significant_but_under_the_floor_stays_silent() -> None:
    state = FamilyState()
    for _ in range(5):
        verdict = close(state, age=(LOW, 0.09))
        assert (verdict.state, verdict.named) == ("ok", ())
        assert verdict.p_value == LOW


def test_two_hits_by_two_different_trifles_name_nobody() -> None:
    state = FamilyState()
    assert close(state, a=(LOW, 0.2), b=(HIGH, 0.0)).state == "pending"
    assert close(state, a=(HIGH, 0.0), b=(LOW, 0.2)).state == "pending"
    # Without floors, it is the family that alarms, and its latest key is named.
    bare = FamilyState()
    bare.close([Key("a", LOW, 0.0), Key("b", HIGH, 0.0)], 0.02)
    verdict = bare.close([Key("a", HIGH, 0.0), Key("b", LOW, 0.0)], 0.02)
    assert (verdict.state, verdict.named) == ("firing", ("b",))


def test_a_key_that_lasts_keeps_chance_from_being_named() -> None:
    state = FamilyState()
    state.close([Key("a", LOW, 0.0), Key("b", LOW, 0.0), Key("c", HIGH, 0.0)], 0.02)
    assert state.close([Key("a", LOW, 0.0), Key("b", HIGH, 0.0), Key("c", LOW, 0.0)], 0.02).named == ("a",)


def test_what_was_found_in_two_of_three_is_named_in_a_clean_window_too() -> None:
    state = FamilyState()
    named = [close(state, age=one).named for one in [(LOW, 0.2)] * 2 + [(HIGH, 0.0)] * 2]
    assert named == [(), ("age",), ("age",), ()]


def test_an_alarm_resolves_after_two_clean_windows_and_may_come_back() -> None:
    state = FamilyState()
    found = [close(state, age=one).state for one in [(LOW, 0.2)] * 2 + [(HIGH, 0.0)] * 3 + [(LOW, 0.2)] * 2]
    assert found == ["pending", "firing", "firing", "resolved", "ok", "pending", "firing"]


def test_a_change_that_falls_under_its_floor_is_clean() -> None:
    state = FamilyState()
    found = [close(state, age=(LOW, effect)).state for effect in (0.2, 0.2, 0.05, 0.05, 0.05)]
    assert found == ["pending", "firing", "firing", "resolved", "ok"]


def test_a_window_with_too_few_rows_changes_nothing() -> None:
    state = FamilyState()
    close(state, age=(LOW, 0.2))
    before = state.plain()
    assert state.close([], 0.02).state == "insufficient"
    assert state.plain() == before
    assert close(state, age=(LOW, 0.2)).fired
    assert state.skip().state == "firing"
    assert close(state, age=(HIGH, 0.0)).state == "firing"


def test_where_alpha_is_large_a_hit_has_a_name() -> None:
    state = FamilyState()
    keys = [Key("a", 0.15, 0.0), Key("b", 0.9, 0.0)]
    state.close(keys, 0.4)
    assert state.close(keys, 0.4).named == ("a",)


windows = st.lists(
    st.lists(st.tuples(st.sampled_from([0.0, 1e-6, 0.01, 0.5]), st.sampled_from([0.0, 0.05, 0.2])), max_size=3),
    max_size=12,
)


def keys_of(window: Sequence[tuple[float, float]]) -> list[Key]:
    return [Key(f"k{at}", p, effect, 0.1) for at, (p, effect) in enumerate(window)]


@given(windows, st.integers(0, 12))
def test_a_state_survives_being_written_down(told: list[list[tuple[float, float]]], cut: int) -> None:
    whole, before = FamilyState(), FamilyState()
    for window in told[:cut]:
        whole.close(keys_of(window), 0.02)
        before.close(keys_of(window), 0.02)
    after = FamilyState.from_plain(json.loads(json.dumps(before.plain())))
    for window in told[cut:]:
        assert after.close(keys_of(window), 0.02) == whole.close(keys_of(window), 0.02)
    assert repr(after) == repr(whole)


@given(windows)
def test_nothing_fires_without_a_name_or_without_two_hits(told: list[list[tuple[float, float]]]) -> None:
    state, hits, firing = FamilyState(), [], False
    for window in told:
        verdict = state.close(keys_of(window), 0.02)
        if window:
            hits.append(verdict.p_value <= 0.02)
        if verdict.fired:
            assert not firing
            assert verdict.named
            assert sum(hits[-3:]) >= 2
        firing = verdict.state == "firing"
