"""What a decision of a policy costs: `python -m loadtests.decide`. Prints medians; nothing is sent anywhere.

The policy is the plain case of docs/policies.md: a sticky header, 90/10, and five header rules that do not match.
"""

import statistics
import time
from collections.abc import Callable

from gateway import native
from gateway.unitkeys import keyed
from router.compiled import CompiledPolicy, compile_policy
from router.policy import parse
from router.slots import fresh
from router.view import RequestView

ROUNDS, CALLS = 15, 20_000


def document(hash_name: str, rules: int) -> dict[str, object]:
    """A policy with that many header rules."""
    return {
        "apiVersion": "tidegate/v1",
        "kind": "TrafficPolicy",
        "metadata": {"name": "m"},
        "spec": {
            "variants": [{"name": "stable", "model": "m:1"}, {"name": "canary", "model": "m:2"}],
            "unit": {"from": [{"header": "x-user-id"}], "hash": hash_name, "salt": "m-2026q3"},
            "rules": [
                {
                    "name": f"r{at}",
                    "match": [{"headers": {f"x-rule-{at}": {"exact": "1"}}}],
                    "route": {"variant": "canary"},
                }
                for at in range(rules)
            ],
            "split": {"stable": "90%", "canary": "10%"},
        },
    }


def prepared(hash_name: str, rules: int) -> CompiledPolicy:
    """The compiled policy."""
    policy = parse(document(hash_name, rules))
    return compile_policy(policy, fresh(policy.counts()))


def median_us(call: Callable[[dict[bytes, bytes]], object]) -> float:
    """Median over the rounds of the time per call; each call has another unit."""
    seen = [{b"x-user-id": b"user-%d" % unit} for unit in range(CALLS)]
    rounds = []
    for _ in range(ROUNDS):
        started_ns = time.perf_counter_ns()
        for headers in seen:
            call(headers)
        rounds.append((time.perf_counter_ns() - started_ns) / CALLS / 1000)
    return statistics.median(rounds)


def main() -> None:
    """Print the table."""
    print(f"hot path {native.in_words()}")
    print(f"us per decision with its view, median of {ROUNDS} rounds of {CALLS:,} distinct units")
    for hash_name, rules in (
        *(("sha1-60", rules) for rules in (0, 5, 20)),
        *((name, 5) for name in ("growthbook-v2", "launchdarkly", "optimizely", "unleash", "flagd-v2")),
    ):
        policy = prepared(hash_name, rules)
        us = median_us(lambda headers, decide=policy.decide: decide(RequestView(headers, b"r1")))  # type: ignore[misc]
        print(f"{hash_name:14} {rules:2} header rules  {us:5.2f}")
    policy, key = prepared("sha1-60", 5), keyed(bytes(32), "m")
    us = median_us(lambda headers: key(policy.decide(RequestView(headers, b"r1")).unit_hash))
    print(f"sha1-60         5 header rules  {us:5.2f} with the unit keyed, as it leaves the worker")


if __name__ == "__main__":
    main()
