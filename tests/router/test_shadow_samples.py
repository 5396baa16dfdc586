"""What a policy may ask for of its shadow's samples."""

from typing import Any

import pytest

from router.document import PolicyError
from router.policy import Samples, parse
from tests.router.documents import policy


def asking(samples: Any) -> dict[str, Any]:
    return policy(shadow={"variant": "canary", "percent": 1, "samples": samples})


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ({}, r"\.ttl: is missing"),
        ({"max": 5}, r"\.ttl: is missing"),
        ({"ttl": "31d"}, r"\.ttl: expected at most 30d, got 31d"),
        ({"ttl": "0s"}, r"\.ttl: expected a time above 0 and up to 366d, got 0s"),
        ({"ttl": 60}, r"\.ttl: expected a time such as 30s, 5m, 24h or 7d, got 60"),
        ({"ttl": "1h", "max": 0}, r"\.max: expected a whole number >= 1"),
        ({"ttl": "1h", "max": 1001}, r"\.max: expected a whole number <= 1000"),
        (True, ": expected a mapping, got true"),
    ],
)
def test_what_is_wrong_is_said(samples: Any, message: str) -> None:
    with pytest.raises(PolicyError, match=f"spec.shadow.samples{message}"):
        parse(asking(samples))


def test_nobody_asks_by_saying_nothing_and_a_hundred_are_kept_where_no_number_stands() -> None:
    shadow = parse(policy(shadow={"variant": "canary", "percent": 1})).spec.shadow
    assert shadow is not None
    assert shadow.samples is None
    shadow = parse(asking({"ttl": "30d"})).spec.shadow
    assert shadow is not None
    assert shadow.samples == Samples(ttl_ms=30 * 86_400_000, max=100)
