"""Which variant a request gets, whether that is evidence, and that it never fails."""

import dataclasses
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.compiled import NO_SHADOW, compile_policy
from router.decision import REFUSED, Decision
from router.hashing import HASHES, placer, shadow_slot
from router.slots import fresh, rebalance
from router.table import ModelRoute, RoutingTable
from router.view import MIXED, RequestView
from tests.router.documents import read, ready

PLACE = placer("sha1-60", "s")


def view(user: str = "", fields: dict[str, Any] | None = None, query: bytes = b"", **headers: str) -> RequestView:
    found = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
    if user:
        found[b"x-user-id"] = user.encode()
    return RequestView(found, b"request-1", query, (fields or {}).get)


def user_at(low: int, high: int) -> str:
    """A unit whose slot lies in [low, high)."""
    return next(f"u{at}" for at in range(100_000) if low <= PLACE(f"u{at}".encode())[0] < high)


CANARY, STABLE = user_at(9000, 10_000), user_at(0, 9000)
QA = {"name": "qa", "match": [{"headers": {"X-QA": {"exact": "1"}}}], "route": {"variant": "canary"}}
EU = {
    "name": "eu",
    "match": [{"input": {"country": {"in": ["DE", "FR"]}}}],
    "route": {"split": {"stable": "50%", "canary": "50%"}},
}


@pytest.mark.parametrize(("user", "name", "variant"), [(CANARY, "canary", 1), (STABLE, "stable", 0)])
def test_a_unit_gets_the_owner_of_its_slot(user: str, name: str, variant: int) -> None:
    slot, unit = PLACE(user.encode())
    expected = Decision(variant, name, 0, "", slot, unit, True, True, False, NO_SHADOW)
    assert ready().decide(view(user)) == expected


def test_the_salt_of_a_policy_without_one_is_its_name() -> None:
    placed = placer("sha1-60", "m")(b"u1")
    decision = ready(unit={"from": [{"header": "x-user-id"}]}).decide(view("u1"))
    assert (decision.slot, decision.unit_hash) == placed


@pytest.mark.parametrize(("missing", "variant", "name"), [("stable", 0, "stable"), ("reject", REFUSED, "")])
@pytest.mark.parametrize("user", ["", "x" * 1025])
def test_without_a_unit(missing: str, variant: int, name: str, user: str) -> None:
    decision = ready(unit={"from": [{"header": "x-user-id"}], "missing": missing}).decide(view(user))
    assert (decision.variant, decision.name) == (variant, name)
    assert not decision.has_unit
    assert not decision.counted


def test_without_a_unit_at_random_is_by_the_request_and_no_evidence() -> None:
    policy = ready(unit={"from": [{"header": "x-user-id"}], "missing": "random", "salt": "s"}, split={"canary": 10_000})
    decision = policy.decide(view())
    assert (decision.name, decision.counted, decision.has_unit) == ("canary", False, False)
    assert decision.slot == PLACE(b"request-1")[0]


def test_of_no_source_each_request_is_a_unit() -> None:
    decision = ready(unit={"salt": "s"}).decide(view())
    assert (decision.slot, decision.has_unit, decision.counted) == (PLACE(b"request-1")[0], True, True)


@pytest.mark.parametrize("name", sorted(HASHES))
def test_every_hash_decides(name: str) -> None:
    policy = ready(unit={"from": [{"header": "x-user-id"}], "hash": name, "salt": "s"})
    slot = placer(name, "s")(b"u1")[0]
    assert policy.decide(view("u1")).variant == (slot >= 9000)


def test_the_first_source_that_is_present_wins() -> None:
    sources = [{"header": "X-User-Id"}, {"cookie": "uid"}, {"input": "user"}]
    policy = ready(unit={"from": sources, "salt": "s"})
    fields = {"user": 7}
    assert policy.decide(view("a", fields, cookie="uid=b")).slot == PLACE(b"a")[0]
    assert policy.decide(view("", fields, cookie="x=1; uid=b; uid=c")).slot == PLACE(b"b")[0]
    assert policy.decide(view("", fields)).slot == PLACE(b"7")[0]
    assert policy.header_names == {b"x-user-id", b"cookie"}
    assert policy.needs_body


@pytest.mark.parametrize(
    ("value", "unit"),
    [(7, b"7"), (7.0, b"7"), ("7", b"7"), (True, b"true"), (1.5, b"1.5"), (-3, b"-3"), ("\u00e9", b"\xc3\xa9")],
)
def test_a_value_is_the_same_unit_however_it_came(value: Any, unit: bytes) -> None:
    policy = ready(unit={"from": [{"input": "user"}], "salt": "s"})
    assert policy.decide(view(fields={"user": value})).slot == PLACE(unit)[0]


@pytest.mark.parametrize("value", [None, MIXED, "", float("nan"), float("inf"), "x" * 1025, 2**2000, -(2**2000)])
def test_what_is_no_unit(value: Any) -> None:
    seen = view(fields={"user": value})
    decision = ready(unit={"from": [{"input": "user"}], "salt": "s"}).decide(seen)
    assert (decision.has_unit, decision.name, decision.counted) == (False, "stable", False)
    assert seen.mixed is (value is MIXED)


def test_a_rule_that_names_a_variant_is_no_evidence() -> None:
    policy = ready(rules=[QA, EU])
    decision = policy.decide(view(STABLE, x_qa="1"))
    assert (decision.name, decision.rule, decision.stratum, decision.counted) == ("canary", "qa", 1, False)
    assert policy.decide(view("", x_qa="1")).name == "canary"


def test_a_rule_with_a_split_is_a_stratum_of_its_own() -> None:
    policy = ready(rules=[QA, EU])
    user = user_at(5000, 9000)
    decision = policy.decide(view(user, {"country": "DE"}))
    assert (decision.name, decision.rule, decision.stratum, decision.counted) == ("canary", "eu", 2, True)
    assert policy.decide(view(user, {"country": "US"})).name == "stable"
    assert policy.decide(view("", {"country": "DE"})).name == "stable"


def test_a_split_that_is_not_analysed_is_no_evidence() -> None:
    decision = ready(rules=[EU | {"analysed": False}]).decide(view(CANARY, {"country": "DE"}))
    assert (decision.rule, decision.counted) == ("eu", False)


def test_the_first_rule_that_matches_wins() -> None:
    both = view(STABLE, {"country": "DE"}, x_qa="1")
    assert ready(rules=[QA, EU]).decide(both).rule == "qa"
    assert ready(rules=[EU, QA]).decide(both).rule == "eu"


ROLLOUT = {"to": "canary", "steps": [{"setWeight": "1%"}, {"setWeight": "50%"}, {"setWeight": "100%"}]}


def test_the_weight_of_the_canary_is_its_share_of_what_both_could_get() -> None:
    rules = [QA, EU, EU | {"name": "eu2", "analysed": False}]
    document = read(split={"stable": 10_000}, rollout=ROLLOUT, rules=rules)
    table = rebalance(fresh([10_000, 0]), [9_900, 100])
    policy = compile_policy(document, table)
    assert [stratum.canary_weight for stratum in policy.strata] == [0.01, 0.0, 0.5, 0.0]
    assert [stratum.rule for stratum in policy.strata] == ["", "qa", "eu", "eu2"]
    assert [stratum.randomised for stratum in policy.strata] == [True, False, True, False]
    assert (policy.stable, policy.canary) == (0, 1)


def test_a_variant_that_is_taken_out_gets_nothing_anywhere() -> None:
    document = read(split={"stable": 10_000}, rollout=ROLLOUT, rules=[QA, EU])
    table = rebalance(fresh([10_000, 0]), [5_000, 5_000])
    policy = compile_policy(document, table, killed=frozenset({"canary"}), shadow_slots=10_000)
    for user in (CANARY, STABLE, ""):
        for seen in (view(user), view(user, x_qa="1"), view(user, {"country": "FR"})):
            decision = policy.decide(seen)
            assert (decision.name, decision.counted, decision.override) == ("stable", False, True)
            assert decision.shadow == NO_SHADOW
            assert decision.rule != "qa"
    assert [stratum.canary_weight for stratum in policy.strata] == [0, 0, 0]


def test_kill_in_the_document_does_the_same() -> None:
    killed = ready(kill={"canary": True}).decide(view(CANARY))
    assert (killed.name, killed.counted, killed.override) == ("stable", False, True)
    assert ready(kill={"canary": False}).decide(view(CANARY)).name == "canary"


def test_others_stay_evidence_when_a_third_variant_is_taken_out() -> None:
    variants = [{"name": name, "model": f"m:{at}"} for at, name in enumerate("abc", 1)]
    policy = ready(variants=variants, split={"a": "80%", "b": "10%", "c": "10%"}, killed=frozenset("c"))
    decisions = [policy.decide(view(user_at(low, low + 1000))) for low in (0, 8000, 9000)]
    assert [(one.name, one.counted, one.override) for one in decisions] == [
        ("a", True, False),
        ("b", True, False),
        ("a", False, True),
    ]
    assert policy.strata[0].shares == (9000, 1000, 0)


def test_stable_is_never_taken_out() -> None:
    assert ready(killed=frozenset({"stable", "canary", "nobody"})).decide(view(CANARY)).name == "stable"


SHADOW = {"variant": "canary", "percent": 25}


def test_a_shadow_is_decided_by_the_unit_and_never_by_itself() -> None:
    policy = ready(shadow=SHADOW)
    seen = [policy.decide(view(f"u{at}")) for at in range(2000)]
    for decision in seen:
        wanted = decision.name == "stable" and shadow_slot(decision.unit_hash) < 2500
        assert decision.shadow == (1 if wanted else NO_SHADOW)
    shadowed = sum(decision.shadow == 1 for decision in seen) / sum(decision.name == "stable" for decision in seen)
    assert abs(shadowed - 0.25) < 0.05


def test_the_share_of_a_shadow_in_force_is_an_argument() -> None:
    assert ready(shadow=SHADOW, shadow_slots=0).decide(view(STABLE)).shadow == NO_SHADOW
    assert ready(shadow=SHADOW, shadow_slots=10_000).decide(view(STABLE)).shadow == 1
    document = read(split={"stable": 10_000}, rollout=ROLLOUT)
    table = fresh([10_000, 0])
    assert compile_policy(document, table).decide(view(STABLE)).shadow == NO_SHADOW
    assert compile_policy(document, table, shadow_slots=10_000).decide(view(STABLE)).shadow == 1
    refusing = {"from": [{"header": "x-user-id"}], "missing": "reject"}
    assert ready(unit=refusing, shadow=SHADOW, shadow_slots=10_000).decide(view()).shadow == NO_SHADOW


def test_only_what_a_policy_reads_is_asked_for() -> None:
    def fail(name: str) -> None:
        raise AssertionError(name)

    policy = ready(rules=[QA])
    assert (policy.header_names, policy.needs_body, policy.reads_query) == ({b"x-user-id", b"x-qa"}, False, False)
    assert policy.decide(RequestView({b"x-user-id": b"u"}, b"r", b"", fail)).has_unit
    with_query = {"name": "q", "match": [{"query": {"v": {"present": True}}}], "route": {"variant": "canary"}}
    assert ready(rules=[with_query]).reads_query


@pytest.mark.parametrize("table", [b"", bytes(9_999), bytes(10_001), bytes([2]) * 10_000])
def test_a_table_that_does_not_fit_is_refused(table: bytes) -> None:
    with pytest.raises(ValueError, match="the table: expected"):
        compile_policy(read(), table)
    with pytest.raises(ValueError, match="the table of rule 'eu': expected"):
        compile_policy(read(rules=[EU]), fresh([9000, 1000]), rule_slots={"eu": table})


@given(st.integers(0, 10_000), st.dictionaries(st.sampled_from([b"x-user-id", b"x-qa", b"cookie"]), st.binary()))
def test_any_request_gets_a_decision(canary: int, headers: dict[bytes, bytes]) -> None:
    document = read(split={"stable": 10_000 - canary, "canary": canary}, rules=[QA, EU], shadow=None)
    policy = compile_policy(document, fresh(document.counts()))
    decision = policy.decide(RequestView(headers, b"r", fields=lambda name: MIXED))
    assert 0 <= decision.variant < 2
    assert policy.names[decision.variant] == decision.name
    assert 0 <= decision.slot < 10_000
    assert decision == policy.decide(RequestView(headers, b"r", fields=lambda name: MIXED))


def test_equal_documents_and_tables_have_equal_digests() -> None:
    table = fresh([9000, 1000])
    digests = {compile_policy(read(), table, revision=at).digest for at in range(3)}
    digests.add(compile_policy(read(split={"canary": "10%", "stable": "90.00 %"}), bytes(table)).digest)
    digests.add(compile_policy(read(), table, killed=frozenset({"canary"})).digest)
    assert len(digests) == 1
    others = {
        compile_policy(read(), fresh([8999, 1001])).digest,
        compile_policy(read(), table, shadow_slots=1).digest,
        compile_policy(read(unit={"salt": "t"}), table).digest,
        compile_policy(read(rules=[EU]), table).digest,
        compile_policy(read(rules=[EU]), table, rule_slots={"eu": fresh([4999, 5001])}).digest,
    }
    assert len(others - digests) == 5


def test_another_process_has_the_same_digest_and_decisions() -> None:
    code = (
        "from tests.router.documents import ready\nfrom tests.router.test_compiled import EU, QA, view\n"
        "policy = ready(rules=[EU, QA])\n"
        "print(policy.digest, [policy.decide(view(f'u{at}')).variant for at in range(100)])"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout
        for seed in ("1", "2")
    }
    policy = ready(rules=[EU, QA])
    variants = [policy.decide(view(f"u{at}")).variant for at in range(100)]
    assert outputs == {f"{policy.digest} {variants}\n"}


def test_a_table_gives_the_policy_only_where_no_version_is_named() -> None:
    policy = ready()
    table = RoutingTable({"m": ModelRoute(1, (1, 2), {}), "other": ModelRoute(1, (1,), {})}, 3, {"m": policy})
    assert table.policy_of("m", "") is policy
    assert table.policy_of("m", "1") is None
    assert table.policy_of("other", "") is None
    assert table.decide("m", "").version == 1


def test_a_stratum_does_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        ready().strata[0].index = 1  # type: ignore[misc]
