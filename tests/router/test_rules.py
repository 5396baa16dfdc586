"""Conditions of rules, one by one, and patterns whose time is bounded."""

import re
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router import patterns
from router.policy import Rule
from router.rules import matcher
from router.view import MIXED, RequestView, parse_cookies, parse_query
from tests.router.documents import read


def rule(*matches: dict[str, Any]) -> Rule:
    return read(rules=[{"name": "r", "match": list(matches), "route": {"variant": "canary"}}]).spec.rules[0]


def holds(test: dict[str, Any], value: str | None) -> bool:
    headers = {} if value is None else {b"x-a": value.encode()}
    found = matcher(rule({"headers": {"X-A": test}}))(RequestView(headers, b"r"))
    # The same test means the same on a cookie and on a query.
    cookie = {} if value is None else {b"cookie": b"x=1;a=" + value.encode()}
    assert matcher(rule({"cookies": {"a": test}}))(RequestView(cookie, b"r")) is found
    query = b"x=1" if value is None else b"x=1&a=" + b"".join(b"%%%02X" % byte for byte in value.encode())
    assert matcher(rule({"query": {"a": test}}))(RequestView({}, b"r", query)) is found
    return found


@pytest.mark.parametrize(
    ("test", "yes", "no"),
    [
        ({"exact": "1"}, ["1"], ["11", "01", "", None]),
        ({"exact": ""}, [""], ["1", None]),
        ({"exact": "\u00e9"}, ["\u00e9"], ["e"]),
        ({"prefix": "beta-"}, ["beta-", "beta-7"], ["beta", "xbeta-", "", None]),
        ({"in": ["a", "b"]}, ["a", "b"], ["ab", "c", "", None]),
        ({"present": True}, ["", "x"], [None]),
        ({"present": False}, [None], ["", "x"]),
        ({"not": {"exact": "1"}}, ["2", "", None], ["1"]),
        ({"not": {"present": True}}, [None], ["1"]),
        ({"not": {"in": ["a", "b"]}}, ["c", None], ["a"]),
        ({"regex": "(de|fr)-[0-9]+"}, ["de-1", "fr-22"], ["de-", "xde-1", "de-1x", "", None]),
        ({"regex": ".*"}, ["", "x" * 256], ["x" * 257, None]),
        ({"not": {"regex": "a+"}}, ["b", "a" * 257, None], ["a"]),
    ],
    ids=str,
)
def test_texts(test: dict[str, Any], yes: list[str | None], no: list[str | None]) -> None:
    assert [holds(test, value) for value in yes] == [True] * len(yes)
    assert [holds(test, value) for value in no] == [False] * len(no)


@pytest.mark.parametrize(
    ("test", "yes", "no"),
    [
        ({"exact": "DE"}, ["DE"], ["de", 1, True, None, MIXED]),
        ({"exact": 1}, [1, 1.0], [True, "1", 2, 1.5, None, MIXED]),
        ({"exact": True}, [True], [1, "true", False, None, MIXED]),
        ({"exact": False}, [False], [0, None, MIXED]),
        ({"in": ["DE", 1, False]}, ["DE", 1, 1.0, False], ["1", True, 0, None, MIXED]),
        ({"gt": 18}, [18.5, 19, float("inf")], [18, 17, "19", True, None, float("nan"), MIXED]),
        ({"gte": 18}, [18, 19], [17.9, None, float("nan"), MIXED]),
        ({"lt": 18}, [17, -1e300, float("-inf")], [18, None, float("nan"), MIXED]),
        ({"lte": 18}, [18, 17], [18.1, float("nan"), MIXED]),
        ({"gte": 18, "lt": 25}, [18, 24.9], [17, 25, float("inf"), "20", MIXED]),
        ({"present": True}, [0, "", False], [None, MIXED]),
        ({"present": False}, [None], [0, "", MIXED]),
        ({"not": {"exact": "DE"}}, ["FR", 1, None], ["DE", MIXED]),
        ({"not": {"gt": 5}}, [5, "x", None, float("nan")], [6, MIXED]),
    ],
    ids=str,
)
def test_inputs(test: dict[str, Any], yes: list[Any], no: list[Any]) -> None:
    matches = matcher(rule({"input": {"a": test}}))

    def found(value: Any) -> bool:
        return matches(RequestView({}, b"r", b"", {"a": value}.get))

    assert [found(value) for value in yes] == [True] * len(yes)
    assert [found(value) for value in no] == [False] * len(no)


def test_a_pattern_means_the_whole_value_and_not_a_line_of_it() -> None:
    matches = matcher(rule({"headers": {"a": {"regex": "x"}}}))
    assert matches(RequestView({b"a": b"x"}, b"r"))
    assert not matches(RequestView({b"a": b"x\n"}, b"r"))


def test_all_within_a_match_and_any_of_the_matches() -> None:
    matches = matcher(
        rule(
            {"headers": {"a": {"exact": "1"}, "b": {"exact": "2"}}, "query": {"q": {"present": True}}},
            {"headers": {"c": {"exact": "3"}}},
        )
    )
    assert matches(RequestView({b"a": b"1", b"b": b"2"}, b"r", b"q="))
    assert matches(RequestView({b"c": b"3"}, b"r"))
    assert not matches(RequestView({b"a": b"1", b"b": b"2"}, b"r"))
    assert not matches(RequestView({b"a": b"1"}, b"r", b"q="))
    assert not matches(RequestView({}, b"r"))


def test_the_body_is_asked_only_when_the_rest_holds() -> None:
    asked = []

    def fields(name: str) -> str:
        asked.append(name)
        return "DE"

    matches = matcher(rule({"input": {"country": {"exact": "DE"}}, "headers": {"a": {"exact": "1"}}}))
    assert not matches(RequestView({}, b"r", b"", fields))
    assert asked == []
    assert matches(RequestView({b"a": b"1"}, b"r", b"", fields))
    assert asked == ["country"]


def test_cookies_and_queries_as_clients_write_them() -> None:
    assert parse_cookies(b"a=1; b=x=y ;c; a=2;=3") == {b"a": b"1", b"b": b"x=y", b"": b"3"}
    assert parse_query(b"a=1&b=x+y%20z&c&a=2&%61b=%zz") == {b"a": b"1", b"b": b"x y z", b"c": b"", b"ab": b"%zz"}
    assert len(parse_cookies(b";".join(b"%d=1" % at for at in range(1000)))) == 256
    assert len(parse_query(b"&".join(b"%d=1" % at for at in range(1000)))) == 256


@given(st.binary(max_size=300))
def test_no_header_or_query_makes_them_fail(data: bytes) -> None:
    assert isinstance(parse_cookies(data), dict)
    assert isinstance(parse_query(data), dict)


@pytest.mark.parametrize(
    "pattern",
    [
        "a",
        ".*word.*",
        "(de|fr|it)",
        "(?:a|b)c?",
        "[a-z0-9_.-]{1,64}",
        "[^]x]+",
        r"[\d\-]+\.\w{2}",
        r"\d{4}-\d{2}",
        "a{3}",
        "a{3,}",
        "(ab|c(d|e))?f",
        "]",
    ],
)
def test_patterns_of_the_subset(pattern: str) -> None:
    assert patterns.compiled(pattern).pattern == pattern.encode()


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("", "1 to 128 characters, got 0"),
        ("a" * 129, "1 to 128 characters, got 129"),
        ("\u00e9", "ASCII"),
        ("(a+)+", "a repeated group"),
        ("(a|a)*", "a repeated group"),
        ("(a){2}", "a repeated group"),
        ("a*a*a*b", "ways"),
        (".*.*.*", "ways"),
        ("a?" * 30, "ways"),
        ("(a|a)" * 20, "ways"),
        ("(a?|b)(a?|b)(a?|b)(a?|b)(a?|b)(a?|b)(a?|b)(a?|b)(a?|b)(a?|b)(a?|b)", "ways"),
        ("a**", "a quantifier of a quantifier"),
        ("a*?", "a quantifier of a quantifier"),
        ("a++", "a quantifier of a quantifier"),
        ("a{2}{3}", "a quantifier of a quantifier"),
        ("(?i)a", "'(?'"),
        ("(?=a)", "'(?'"),
        ("(?P<x>a)", "'(?'"),
        (r"(a)\1", "an escape or class"),
        (r"\bword", "an escape or class"),
        (r"\x41", "an escape or class"),
        ("^a", "'^' here"),
        ("a$", "'$' here"),
        ("*a", "'*' here"),
        ("a{5,2}", "m above n"),
        ("{", "'{' here"),
        ("a{9999}", "'{' here"),
        ("(a", "not closed"),
        ("a)", "closes nothing"),
        ("[a", "an escape or class"),
        ("[a--b]", "an escape or class"),
        ("[a[b]", "an escape or class"),
        ("[z-a]", "not a regular expression"),
        ("(" * 9 + ")" * 9, "too deep"),
        ("\\", "an escape or class"),
    ],
)
def test_patterns_outside_it(pattern: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        patterns.compiled(pattern)


@given(st.text(alphabet="ab()|?*+{}12,[]^\\.-:", min_size=1, max_size=40), st.text(alphabet="ab", max_size=256))
def test_whatever_is_allowed_is_what_python_means_and_fast(pattern: str, value: str) -> None:
    try:
        found = patterns.compiled(pattern)
    except ValueError:
        return
    started_ns = time.thread_time_ns()
    found.fullmatch(value.encode())
    # Exponential patterns take minutes on such values.
    assert time.thread_time_ns() - started_ns < 500_000_000


@pytest.mark.parametrize("pattern", ["a*a*b", ".*.*b", "(a|a)(a|a)(a|a)(a|a)a*b", "a{0,15}a{0,15}a*b", "a?" * 16 + "b"])
def test_the_worst_of_what_is_allowed_ends_soon(pattern: str) -> None:
    found = patterns.compiled(pattern)
    started_ns = time.thread_time_ns()
    assert found.fullmatch(b"a" * patterns.VALUE_BYTES) is None
    assert time.thread_time_ns() - started_ns < 500_000_000
