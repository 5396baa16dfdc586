"""What a new document changes: who moves, which rules, and whether evidence begins anew."""

from typing import Any

import pytest
from msgspec import structs

from router import slots
from router.diff import compare, new_rollout_reasons, next_rule_slots, next_slots, unreachable
from router.policy import TrafficPolicy
from router.slots import fresh, rebalance, to_text
from tests.router.documents import read

STEPS = [{"setWeight": "1%"}, {"setWeight": "100%"}]


def rolling(**parts: Any) -> TrafficPolicy:
    analysis = {name: parts.pop(name) for name in ("alpha", "guardrails", "signals", "minDetect") if name in parts}
    rollout = {"to": "canary", "steps": parts.pop("steps", STEPS), "analysis": analysis}
    return read(split={"stable": 10_000}, rollout=rollout, **parts)


def variants(stable: str, canary: str) -> list[dict[str, str]]:
    return [{"name": "stable", "model": stable}, {"name": "canary", "model": canary}]


HEX = "ab" * 32


@pytest.mark.parametrize(
    ("change", "reasons"),
    [
        ({}, []),
        ({"steps": [{"setWeight": "5%"}, {"setWeight": "50%"}]}, []),
        ({"minDetect": 2}, []),
        ({"signals": [{"metric": "compute_time"}]}, []),
        ({"guardrails": [{"metric": "error_rate", "margin": {"ratio": 1.25, "absolute": 0.005}}]}, []),
        ({"unit": {"from": [{"header": "x-user-id"}], "salt": "t"}}, ["another salt"]),
        ({"unit": {"from": [{"header": "x-user-id"}], "salt": "s", "hash": "unleash"}}, ["another hash"]),
        ({"unit": {"from": [{"cookie": "uid"}], "salt": "s"}}, ["another unit"]),
        ({"variants": variants("m:1", "m:3")}, ["another canary model"]),
        ({"variants": variants("m:3", "m:2")}, ["another stable model"]),
        ({"alpha": 0.05}, ["alpha 0.01 -> 0.05"]),
        (
            {"guardrails": [{"metric": "error_rate", "margin": {"ratio": 1.5}}]},
            ["guardrail error_rate has another margin or quantile"],
        ),
        (
            {"guardrails": [{"metric": "latency", "quantile": 0.9}]},
            ["guardrail latency-p90 is new", "guardrail error_rate is gone"],
        ),
    ],
)
def test_which_edits_begin_a_new_rollout(change: dict[str, Any], reasons: list[str]) -> None:
    old, new = rolling(), rolling(**change)
    assert new_rollout_reasons(old, new, {}) == reasons
    table = rebalance(fresh([10_000, 0]), [9_000, 1_000])
    # A rollout that goes on keeps what its steps have reached; a new one begins with everybody on stable.
    after = to_text(next_slots(old, table, new), new.names)
    assert after == ("stable*10000" if reasons else "stable*9000 canary*1000")
    assert compare(old, table, new).moved_slots == (1000 if reasons else 0)


def test_what_a_reference_resolves_to_is_what_matters() -> None:
    old, new = rolling(variants=variants("m:1", "m@next")), rolling(variants=variants("m:1", f"m@sha256:{HEX}"))
    assert new_rollout_reasons(old, new, {"m@next": f"sha256:{HEX}"}) == []
    assert new_rollout_reasons(old, new, {"m@next": "sha256:other"}) == ["another canary model"]
    assert new_rollout_reasons(old, new, {}) == ["another canary model"]


def test_a_rollout_where_none_was() -> None:
    assert new_rollout_reasons(read(), rolling(), {}) == ["there was none"]
    assert new_rollout_reasons(rolling(), read(), {}) == []


def test_variants_that_come_and_go() -> None:
    old = read(split={"stable": 7_000, "canary": 3_000})
    new = read(
        variants=[{"name": "next", "model": "m:3"}, {"name": "stable", "model": "m:1"}], split={"stable": 10_000}
    )
    found = compare(old, fresh([7_000, 3_000]), new)
    assert [(share.variant, share.before, share.after) for share in found.shares] == [
        ("next", 0, 0),
        ("stable", 7_000, 10_000),
        ("canary", 3_000, 0),
    ]
    assert (found.moved_slots, found.moved_share, found.slots) == (3_000, 0.3, "stable*10000")
    assert found.models == ("variant next is new: m:3", "variant canary is gone")
    assert found.other == ()


def test_units_follow_their_model_when_its_variant_is_renamed() -> None:
    old, new = rolling(), read(variants=variants("m:2", "m:3"), split={"stable": 10_000})
    promoted = compare(old, fresh([0, 10_000]), new)
    assert promoted.moved_slots == 0
    assert promoted.models == ("variant stable: m:1 -> m:2", "variant canary: m:2 -> m:3")
    assert compare(old, fresh([10_000, 0]), new).moved_slots == 10_000
    # By what references resolve to, where that is known.
    other = read(variants=variants("m@next", "m:3"), split={"stable": 10_000})
    assert compare(old, fresh([0, 10_000]), other).moved_slots == 10_000
    assert compare(old, fresh([0, 10_000]), other, digests={"m@next": "d", "m:2": "d"}).moved_slots == 0


def test_another_model_under_the_same_name_keeps_the_slots() -> None:
    found = compare(read(), fresh([9_000, 1_000]), read(variants=variants("m:1", "m:3")))
    assert (found.moved_slots, found.models) == (0, ("variant canary: m:2 -> m:3",))


def test_another_salt_moves_units_by_chance() -> None:
    old, new = read(), read(unit={"from": [{"header": "x-user-id"}], "salt": "t"})
    found = compare(old, fresh([9_000, 1_000]), new)
    assert (found.moved_slots, found.rerandomised) == (0, "another salt")
    assert found.moved_share == pytest.approx(0.18)
    assert "all units are shared out anew (another salt): 18.00% change variant" in found.lines()


def test_a_policy_without_its_table_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a policy and its table, or neither"):
        compare(read(), None, read())


def rules(*matches: list[dict[str, Any]]) -> TrafficPolicy:
    return read(
        rules=[{"name": f"r{at}", "match": match, "route": {"variant": "canary"}} for at, match in enumerate(matches)]
    )


def test_tables_of_rules_move_the_fewest_units_too() -> None:
    def split(canary: int) -> dict[str, Any]:
        return {"name": "r", "match": [A], "route": {"split": {"stable": 10_000 - canary, "canary": canary}}}

    pinned = {"name": "p", "match": [C], "route": {"variant": "canary"}}
    one, two, three = (read(rules=[pinned, split(canary)]) for canary in (1000, 2000, 1500))
    first = next_rule_slots(None, {}, one)
    assert {name: to_text(table, one.names) for name, table in first.items()} == {"r": "stable*9000 canary*1000"}
    second = next_rule_slots(one, first, two)
    third = next_rule_slots(two, second, three)
    assert to_text(third["r"], three.names) == "stable*8000 canary*1500 stable*500"
    assert next_rule_slots(two, {}, three)["r"] == fresh([8500, 1500])


A: dict[str, Any] = {"headers": {"x-a": {"exact": "1"}}}
AB: dict[str, Any] = {"headers": {"X-A": {"exact": "1"}, "x-b": {"present": True}}}
C: dict[str, Any] = {"cookies": {"x-a": {"exact": "1"}}}


@pytest.mark.parametrize(
    ("matches", "dead"),
    [
        ([[A], [A]], ["r1"]),
        ([[A], [AB]], ["r1"]),
        ([[AB], [A]], []),
        ([[A], [C]], []),
        ([[A], [AB, C]], []),
        ([[A], [C], [AB, C]], ["r2"]),
        ([[A, C], [C]], ["r1"]),
    ],
)
def test_rules_that_can_never_decide(matches: list[list[dict[str, Any]]], dead: list[str]) -> None:
    assert [sentence.split()[1] for sentence in unreachable(rules(*matches).spec.rules)] == dead


def test_rules_in_another_order() -> None:
    old, new = rules([A], [C]), rules([A], [C])
    swapped = read(rules=[{"name": "r1", "match": [C], "route": {"variant": "canary"}}, *[
        {"name": "r0", "match": [A], "route": {"variant": "canary"}}
    ]])  # fmt: skip
    table = fresh(old.counts())
    assert compare(old, table, new).rules == ()
    assert compare(old, table, swapped).rules == ("rules stand in another order",)
    assert slots.digest(table, old.names) == slots.digest(next_slots(old, table, swapped), swapped.names)


def test_only_a_first_policy_had_none_before() -> None:
    assert "the model had no policy before" in compare(None, None, rolling()).lines()
    goes_on = structs.replace(compare(rolling(), fresh([9_000, 1_000]), rolling(minDetect=2)), shares=())
    assert goes_on.lines() == ["units that move: 0 %", "spec.rollout differs"]
