"""The last requests that failed on a canary."""

import pytest

from gateway.exchange import Exchange
from gateway.failing import MOST, Failing, trace_id

TRACE = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def failed(number: int, trace: bytes = b"") -> Exchange:
    exchange = Exchange()
    exchange.request_id, exchange.trace = b"r%d" % number, trace
    return exchange


def test_the_last_ones_are_told_once_each_by_policy_and_rollout() -> None:
    failing = Failing()
    assert not failing.news
    for number in range(MOST + 5):
        failing.note("credit", "one", failed(number))
    failing.note("loan", "two", failed(1, TRACE))
    assert failing.news
    told = {(policy, rollout): requests for policy, rollout, requests in failing.told()}
    assert not failing.news
    assert told["credit", "one"] == tuple((f"r{number}", "") for number in range(5, MOST + 5))
    assert told["loan", "two"] == (("r1", "4bf92f3577b34da6a3ce929d0e0e4736"),)


def test_a_rollout_that_has_gone_is_forgotten() -> None:
    failing = Failing()
    failing.note("credit", "one", failed(1))
    failing.note("credit", "two", failed(2))
    failing.keep({("credit", "two")})
    assert failing.told() == (("credit", "two", (("r2", ""),)),)


@pytest.mark.parametrize("odd", [b"", b"00-abc-def-01", b"4bf92f3577b34da6a3ce929d0e0e4736", b"-" * 40])
def test_what_is_no_traceparent_has_no_trace_id(odd: bytes) -> None:
    assert trace_id(odd) == ""


def test_the_first_of_each_rollout_is_told_at_once() -> None:
    failing, told = Failing(), list[str]()
    failing.on_first = lambda: told.append("now")
    for rollout in ("a", "a", "b", "a"):
        failing.note("m", rollout, Exchange())
    assert told == ["now", "now"]
    failing.keep({("m", "b")})
    failing.note("m", "b", Exchange())
    failing.note("m", "a", Exchange())
    assert told == ["now"] * 3
