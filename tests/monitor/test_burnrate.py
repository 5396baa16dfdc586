"""Burn rates: the published table, slots that pass, and the canary against the champion."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.monitor import burnrate
from gateway.monitor.burnrate import DAY, HOUR, MINUTE, RULES, EventRing

OBJECTIVE = 0.995


def test_the_published_table() -> None:
    for rule in RULES:
        assert rule.long_s == 12 * rule.short_s
        assert rule.factor * rule.long_s / (30 * DAY) == pytest.approx(rule.budget)
    assert [(rule.factor, rule.severity) for rule in RULES] == [
        (14.4, "critical"), (6.0, "critical"), (3.0, "warning"), (1.0, "warning")
    ]  # fmt: skip


def events(rate: float, per_minute: int = 100) -> dict[int, tuple[int, int]]:
    """The same share of bad events for ever."""
    totals = {window: window // MINUTE * per_minute for window in burnrate.WINDOWS_S}
    return {window: (round(total * rate), total) for window, total in totals.items()}


@pytest.mark.parametrize(
    ("burn", "factors"),
    [(0.9, []), (1.1, [1.0]), (3.1, [3.0, 1.0]), (7.0, [6.0, 3.0, 1.0]), (15.0, [14.4, 6.0, 3.0, 1.0])],
)
def test_which_rules_alarm(burn: float, factors: list[float]) -> None:
    assert [one.rule.factor for one in burnrate.burning(events(burn * 0.005), OBJECTIVE)] == factors


def test_both_windows_have_to_burn() -> None:
    now = events(0.1)
    now[5 * MINUTE] = (0, 500)
    assert 14.4 not in [one.rule.factor for one in burnrate.burning(now, OBJECTIVE)]
    found = burnrate.burning(events(0.1), OBJECTIVE)[0]
    assert (found.long_rate, found.short_rate) == (pytest.approx(20.0), pytest.approx(20.0))


def test_few_events_do_not_alarm() -> None:
    slow = {window: (min(9, total), total) for window, (_, total) in events(1.0, 1).items()}
    assert burnrate.burning(slow, OBJECTIVE) == []
    assert len(burnrate.burning(slow, OBJECTIVE, least_bad=9)) == 1
    assert burnrate.burning(dict.fromkeys(burnrate.WINDOWS_S, (0, 0)), OBJECTIVE) == []


@pytest.mark.parametrize("wrong", [(1, 2, 1.0), (1, 2, -0.1), (3, 2, 0.9), (-1, 2, 0.9)])
def test_burn_rates_that_are_none(wrong: tuple[int, int, float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        burnrate.burn_rate(*wrong)


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 9)), max_size=40), st.integers(0, 2_000))
def test_a_ring_holds_what_fell_into_its_windows(told: list[tuple[int, int]], later: int) -> None:
    ring, now, all_events = EventRing(10, 600), 0, []
    for step, bad in told:
        now += step
        ring.add(now, bad, bad + 1)
        all_events.append((now // 10, bad))
    now += later
    for window in (10, 60, 600):
        inside = [bad for slot, bad in all_events if slot > now // 10 - window // 10]
        assert ring.within(now, window) == (sum(inside), sum(inside) + len(inside))
    again = EventRing(10, 600)
    again.restore(json.loads(json.dumps(ring.plain())))
    assert again.plain() == ring.plain()
    assert again.within(now, 600) == ring.within(now, 600)


def test_late_events_count_and_too_late_ones_do_not() -> None:
    ring = EventRing(10, 600)
    ring.add(1_000, 1, 1)
    ring.add(500, 1, 1)
    ring.add(390, 1, 1)
    assert ring.within(1_000, 600) == (2, 2)
    assert ring.windows(1_000, (10, 600)) == {10: (1, 1), 600: (2, 2)}
    assert set(EventRing().windows(0.0)) == set(burnrate.WINDOWS_S)
    assert HOUR in burnrate.WINDOWS_S


@pytest.mark.parametrize(
    ("objective", "factors"), [(0.995, []), (0.9, [14.4]), (0.8, [14.4, 6.0]), (0.5, [14.4, 6.0, 3.0])]
)
def test_rules_that_no_answer_can_set_off(objective: float, factors: list[float]) -> None:
    assert [rule.factor for rule in burnrate.out_of_reach(objective)] == factors
    burns = burnrate.burning(events(1.0), objective)
    assert {burn.rule.factor for burn in burns} == {rule.factor for rule in RULES} - set(factors)
